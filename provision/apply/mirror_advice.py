"""What a mirror has to do with a failed command, in an operator's words. Pure.

The texts are those of curl, apt, Docker and our own scripts, which name the address (docs/facts.md#proxies).
"""

import re
from urllib.parse import urlsplit

from provision.inventory import Host, shared_settings

PAGE = re.compile(
    r"invalid character '<'|it is no OpenPGP key|does the network require authentication|<html|<!doctype",
    re.IGNORECASE,
)
_TAKES_LOGIN = ("mirrors.docker", "mirrors.nvidia_toolkit")
_LOGIN = re.compile(r"\b(error:|HTTP) *401\b|\b401 +Unauthorized", re.IGNORECASE)
_GONE = re.compile(r"\b(error:|HTTP) *40[34]\b|\b40[34] +[A-Z]", re.IGNORECASE)


def advice(host: Host, evidence: str) -> str:
    """Return what is wrong with a mirror of a host, and the cure; empty where the evidence names no mirror.

    Args:
        host: the host of the failed command.
        evidence: standard error of the command.
    """
    mirrors = shared_settings.mirrors(host)
    named = mirrors.addresses() if mirrors else ()
    # one server often has several mirrors: a whole address tells more than its host
    for key, address in sorted(named, key=lambda pair: -len(pair[1]) if pair[1] in evidence else 0):
        if urlsplit(address).netloc not in evidence:
            continue
        asked = f"{host.name} asked the mirror {address} ({key})"
        if PAGE.search(evidence):
            return (
                f"{asked}, and a web page came in place of the file: open the address with a browser, or name another"
            )
        if _LOGIN.search(evidence):
            if key not in _TAKES_LOGIN:
                return f"{asked}, which demands a login (401), and {key} takes none: name a mirror without a login"
            return f"{asked}, which demands another login (401): write USER:PASSWORD@ into {key}, by !env NAME"
        if _GONE.search(evidence):
            return f"{asked}, which does not have the file: see that the mirror is whole, or name another"
    return ""
