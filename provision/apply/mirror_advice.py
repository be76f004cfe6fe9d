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
_LOGIN = re.compile(r"\b(error:|HTTP) *401\b|\b401 +Unauthorized", re.IGNORECASE)
_GONE = re.compile(r"\b(error:|HTTP) *40[34]\b|\b40[34] +[A-Z]", re.IGNORECASE)


def advice(host: Host, evidence: str) -> str:
    """Return what is wrong with a mirror of a host, and the cure; empty where the evidence names no mirror.

    Args:
        host: the host of the failed command.
        evidence: standard error of the command.
    """
    mirrors = shared_settings.mirrors(host)
    for key, address in mirrors.addresses() if mirrors else ():
        if urlsplit(address).netloc not in evidence:
            continue
        asked = f"{host.name} asked the mirror {address} ({key})"
        if PAGE.search(evidence):
            return (
                f"{asked}, and a web page came in place of the file: open the address with a browser, or name another"
            )
        if _LOGIN.search(evidence):
            return f"{asked}, which demands another login (401): write USER:PASSWORD@ into {key}, by !env NAME"
        if _GONE.search(evidence):
            return f"{asked}, which does not have the file: see that the mirror is whole, or name another"
    return ""
