"""What a proxy has to do with a failed command, in an operator's words. Pure.

The texts are those of curl, apt, Go's net/http in Docker and Ollama, and our own scripts (docs/facts.md#proxies).
"""

import re

from provision.apply.mirror_advice import PAGE
from provision.inventory import Host, shared_settings
from provision.inventory.proxy import ProxyUrl

_LOGIN = re.compile(r"\b407\b|proxy authentication required", re.IGNORECASE)
_REFUSED = re.compile(
    r"CONNECT tunnel failed|\b(error:|code|HTTP|Err:.*) *(403|50[234])\b|\b(403|50[234])  [A-Z]|: Forbidden"
)


def advice(host: Host, evidence: str) -> str:
    """Return what is wrong with the proxy of a host, and the cure; empty where the evidence tells of no proxy.

    Args:
        host: the host of the failed command.
        evidence: standard error of the command.
    """
    proxy = shared_settings.proxy(host)
    for key, url in (("https", proxy.https), ("http", proxy.http)):
        if url and _is_silent(url, evidence):
            at = url.endpoint.rpartition(":")
            look = f"see that the proxy runs, and that {host.name} reaches it: nc -vz {at[0].strip('[]')} {at[2]}"
            return (
                f"{host.name} asked through the proxy {url.shown} (proxy.{key}), and the proxy does not answer: {look}"
            )
    if not (proxy.http or proxy.https):
        return ""
    through = f"{host.name} asked through the proxy {_shown(proxy.http, proxy.https)}"
    if _LOGIN.search(evidence):
        login = (
            "write http://USER:PASSWORD@HOST:PORT with the right password as proxy.http and proxy.https, by !env NAME"
        )
        return f"{through}, which demands another login (407): {login}"
    if PAGE.search(evidence):
        return f"{through}, and a web page came in place of the file: open the address through the proxy with a browser"
    if _REFUSED.search(evidence):
        return f"{through}, which may have refused the address: allow it there, or add its host to proxy.no_proxy"
    return ""


def _is_silent(url: ProxyUrl, evidence: str) -> bool:
    """Whether a program could not reach the proxy itself. Go says `proxyconnect`, curl and apt name the place."""
    name, _, port = url.endpoint.rpartition(":")
    place = rf"{re.escape(name.strip('[]'))}\]?(:| port ){port}\b"
    failed = rf"(could not|couldn't|unable to|failed to) connect( to)?:? {place}|resolve (proxy: |'?){re.escape(name)}"
    return (
        re.search(rf"proxyconnect tcp.*{place}|proxyconnect tcp.*{re.escape(name)}|{failed}", evidence, re.IGNORECASE)
        is not None
    )


def _shown(http: ProxyUrl | None, https: ProxyUrl | None) -> str:
    return " and ".join(dict.fromkeys(url.shown for url in (http, https) if url))
