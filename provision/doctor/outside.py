"""Repositories, mirrors and registries, asked from the host through the declared proxy, all at once.

Sources: curl(1), EXIT CODES and `--write-out`; a registry answers /v2/ with 200, or with 401 where a token is wanted
(https://distribution.github.io/distribution/spec/api/).
"""

import base64
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any
from urllib.parse import urlsplit

from provision.command import Answer, Script, look
from provision.doctor import sizes
from provision.doctor.check import Check, Look, Subject, alone
from provision.doctor.finding import Finding, bad, good, risk
from provision.inventory import Host, Inventory, shared_settings
from provision.inventory.mirrors import Outside
from provision.plan import mirrored
from provision.steps.base import State, UnreadableError
from provision.steps.docker import image_room
from provision.steps.system.mirror_login import NETRC

CONNECT, WHOLE = 5, 12  # seconds of a probe: to connect, and in all
NO_CURL = 77
TOO_LARGE = 63
LARGEST = 1_000_000  # bytes; curl stops at a longer file of a server that ignores the range
ACCEPT = "application/vnd.docker.distribution.manifest.v2+json, */*"
"""A registry may know a manifest by its own kind alone; every other server answers with the file."""

# $@ addresses. Each is asked by a process of its own, for its first bytes. The answers come in the order of arrival.
PROBE = Script(
    "doctor/probe",
    NETRC
    + rf"""
command -v curl >/dev/null || exit {NO_CURL}
name() {{ (. /etc/os-release 2>/dev/null; eval "echo \"\${{$1:-}}\"") | tr -cd 'a-z0-9.-'; }}
architecture=$(dpkg --print-architecture 2>/dev/null | tr -cd 'a-z0-9')
facts="s|{{distribution}}|$(name ID)|; s|{{codename}}|$(name VERSION_CODENAME)|; s|{{architecture}}|$architecture|"
work=$(mktemp -d) || exit 1; trap 'rm -rf -- "$work"' EXIT
probe() {{ # number address
  address=$(printf '%s\n' "$2" | sed "$facts")
  said=$(curl -sS -L $netrc --proto '=http,https' --connect-timeout {CONNECT} -m {WHOLE} -r 0-1023 \
    --max-filesize {LARGEST} -o "$work/$1" \
    -H 'Accept: {ACCEPT}' -w '%{{http_code}} %{{http_connect}} %{{content_type}}' -- "$address" 2>"$work/$1.why")
  echo "probe $1 $? $(head -c 400 "$work/$1" 2>/dev/null | base64 -w 0)- $(tail -n 1 "$work/$1.why" |
    head -c 300 | base64 -w 0)- $(printf %s "$address" | base64 -w 0)- $said"
}}
number=0
for address do
  probe "$number" "$address" &
  number=$((number + 1))
done
wait
echo end
""",
)
_LINE = re.compile(
    r"probe (\d{1,4}) (\d{1,3}) ([A-Za-z0-9+/=]*)- ([A-Za-z0-9+/=]*)- ([A-Za-z0-9+/=]*)- ?(\d{3})? ?(\d{3})? ?(.*)"
)
_HTML = re.compile(rb"\s*(<!doctype html|<html|<head|<\?xml[^>]*>\s*<!doctype html)", re.IGNORECASE)
TLS = (35, 51, 53, 54, 58, 59, 60, 64, 66, 77, 80, 82, 83, 90, 91)
REGISTRY, MANIFEST = "images", "models"
"""Purposes of addresses whose answer is a registry's, and the manifest of a model."""
HUB = "Docker Hub"


def _look(host: Host, inventory: Inventory) -> Look | None:
    asked = tuple({each.probe: each for each in mirrored.outside(host, inventory)}.values())
    if not asked:
        return None
    run = look(PROBE, *(each.probe for each in asked), title="ask repositories and registries", timeout=60)
    return alone(sizes.beside(run, sizes.proxy_variables(host, inventory)), partial(parse, asked))


def parse(asked: Sequence[Outside], answer: Answer) -> dict[str, Any]:
    """Return the state: `curl`, and an entry of each address with the answer.

    Args:
        asked: the addresses, in the order of the words of `PROBE`.
        answer: of the host.

    Raises:
        UnreadableError: the answer ends early.
    """
    if answer.exit == NO_CURL:
        return {"curl": False, "answers": []}
    lines = answer.text.splitlines()
    if "end" not in lines:
        raise UnreadableError(answer.complaint or f"exited {answer.exit}")
    found = {int(match[1]): match for line in lines if (match := _LINE.fullmatch(line))}
    entries = [
        {**vars(each), **_answer(found[number], each.purpose)} for number, each in enumerate(asked) if number in found
    ]
    return {"curl": True, "answers": entries}


def _answer(match: re.Match[str], purpose: str) -> dict[str, Any]:
    begin, why, address = (base64.b64decode(text.rstrip("=") + "==") for text in match.groups()[2:5])
    code, connect, kind = (text or "" for text in match.groups()[5:])
    return {
        "probe": address.decode(errors="replace"),
        "exit": int(match[2]),
        "code": connect if code in ("", "000") else code,
        "page": bool(_HTML.match(begin)) or (purpose != REGISTRY and kind.startswith("text/html")),
        "why": why.decode(errors="replace").strip(),
    }


def judge(state: State, subject: Subject) -> Iterator[Finding]:
    """Yield a finding for each address without a good answer, and the settings with a good answer.

    Args:
        state: by `parse`.
        subject: the host.
    """
    state = state or {}
    if not state["curl"]:
        yield risk("curl is not installed, so nothing outside can be asked", "apt-get install curl ca-certificates")
        return
    logins = _logins(subject.host)
    troubles = [(entry, trouble) for entry in state["answers"] if (trouble := _trouble(entry))]
    served = {group for entry in state["answers"] if (group := _group(entry)) and not _trouble(entry)}
    for entry, (says, cure) in troubles:
        waits = entry["code"] == "401" and (entry["purpose"] == MANIFEST or entry["key"] in logins)
        make = risk if _group(entry) in served or waits else bad
        if entry["code"] == "401":
            says += _about_login(entry["key"] in logins)
        evidence = f"{entry['why']}\n{entry['probe']}".strip()
        yield make(f"{entry['key']}: {says}", cure, f"{evidence}\nor name another address in {entry['key']}")
    reached = [entry["key"] for entry in state["answers"] if not _trouble(entry)]
    if reached and len(troubles) < len(state["answers"]):
        yield good(f"reached: {', '.join(dict.fromkeys(reached))}")


def _logins(host: Host) -> frozenset[str]:
    """Return the settings of a host that have the login of a repository."""
    section = shared_settings.mirrors(host)
    urls = {f"mirrors.{name}": section.url(name) for name in ("docker", "nvidia_toolkit")} if section else {}
    return frozenset(key for key, url in urls.items() if url and url.login)


def _about_login(declared: bool) -> str:
    if declared:
        return ": a deploy writes the login of the inventory to the host; after a deploy, that login is wrong"
    return ", and the inventory has no login for this address"


def _group(entry: Mapping[str, Any]) -> str:
    """Return the group whose members stand in for each other: Docker Hub and its mirrors; empty for the rest."""
    is_hub = entry["address"] == image_room.HUB or entry["key"].endswith("]")
    return HUB if entry["purpose"] == REGISTRY and is_hub else ""


def _trouble(entry: Mapping[str, Any]) -> tuple[str, str] | None:
    """Return what is wrong with an answer, and the cure; None for a good answer."""
    asked = f"curl -v -o /dev/null {shlex.quote(entry['probe'])}"
    if entry["code"] == "407":
        return "the proxy demands another login (407): correct user and password in the section proxy", asked
    if entry["exit"] not in (0, TOO_LARGE):
        return _unanswered(entry["exit"], _host(entry["probe"]), asked)
    says = _wrong_answer(entry)
    return (says, asked) if says else None


def _unanswered(code: int, name: str, asked: str) -> tuple[str, str]:
    """Return the meaning of an exit code of curl, and the cure."""
    if code == 6:
        return f"the name {name} does not resolve (DNS)", f"getent hosts {shlex.quote(name)}; cat /etc/resolv.conf"
    if code in TLS:
        return f"TLS with {name} fails", "apt-get install --reinstall ca-certificates && update-ca-certificates"
    meanings = {
        5: "the name of the proxy does not resolve (DNS)",
        7: f"{name} or the proxy refuses the connection",
        28: f"{name} does not answer within {WHOLE} s",
        97: "the proxy refuses the connection",
    }
    return meanings.get(code, f"the request to {name} fails (curl exit code {code})"), asked


def _wrong_answer(entry: Mapping[str, Any]) -> str:
    """Return what is wrong with the answer of a server; empty for a good answer."""
    code, name, is_registry = entry["code"], _host(entry["probe"]), entry["purpose"] == REGISTRY
    if code == "404" and entry["purpose"] == MANIFEST:
        return "the registry does not have the model"
    if code == "401" and not is_registry:
        return f"{name} wants a login (401)"
    if code == "401":
        return ""
    if code not in ("200", "206"):
        return f"{name} answers HTTP {code}"
    return "a web page came in place of the file: a portal or a filter answers" if entry["page"] else ""


def _host(url: str) -> str:
    try:
        return urlsplit(url).hostname or url
    except ValueError:
        return url


CHECKS = (Check("outside", _look, judge),)
