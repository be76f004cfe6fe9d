"""Repositories, mirrors and registries, asked from the host through the declared proxy, all at once.

The logins are those of the inventory, also before a deploy has written them to the host. The login of a registry is
tried as `docker login` does: after the answer 401, at the place that the answer names.
Sources: curl(1), EXIT CODES and `--write-out`; a registry answers /v2/ with 200, or with 401 where a login or a token
is wanted (https://distribution.github.io/distribution/spec/api/ and spec/auth/token/).
"""

import base64
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from provision.command import Answer, Script, look
from provision.doctor import declared_logins, sizes
from provision.doctor.check import Check, Look, Subject
from provision.doctor.finding import Finding, bad, good, risk
from provision.inventory import Host, Inventory
from provision.inventory.mirrors import MirrorUrl, Outside
from provision.plan import mirrored
from provision.steps.base import State, UnreadableError
from provision.steps.docker import image_room

CONNECT, WHOLE = 5, 12  # seconds of a probe: to connect, and in all
NO_CURL = 77
TOO_LARGE = 63
LARGEST = 1_000_000  # bytes; curl stops at a longer file of a server that ignores the range
ACCEPT = "application/vnd.docker.distribution.manifest.v2+json, */*"
"""A registry may know a manifest by its own kind alone; every other server answers with the file."""

# $@ addresses. Each is asked by a process of its own, for its first bytes. The answers come in the order of arrival.
# Before the script stand `netrc` and `logins`, see `declared_logins`.
PROBE = Script(
    "doctor/probe",
    rf"""
command -v curl >/dev/null || exit {NO_CURL}
name() {{ (. /etc/os-release 2>/dev/null; eval "echo \"\${{$1:-}}\"") | tr -cd 'a-z0-9.-'; }}
architecture=$(dpkg --print-architecture 2>/dev/null | tr -cd 'a-z0-9')
facts="s|{{distribution}}|$(name ID)|; s|{{codename}}|$(name VERSION_CODENAME)|; s|{{architecture}}|$architecture|"
umask 077
work=$(mktemp -d) || exit 1; trap 'rm -rf -- "$work"' EXIT
trap 'exit 143' TERM INT HUP
file=
if [ "${{netrc-}}" ]; then printf '%s' "$netrc" >"$work/netrc"; file="--netrc-optional --netrc-file $work/netrc"; fi
limits='-g --connect-timeout {CONNECT} -m {WHOLE} --max-filesize {LARGEST}'
probe() {{ # number address
  address=$(printf '%s\n' "$2" | sed "$facts")
  said=$(curl -sS -L $file --proto '=http,https' $limits -r 0-1023 -o "$work/$1" \
    -H 'Accept: {ACCEPT}' -w '%{{http_code}} %{{http_connect}} %{{content_type}}' -- "$address" 2>"$work/$1.why")
  echo "probe $1 $? $(head -c 400 "$work/$1" 2>/dev/null | base64 -w 0)- $(tail -n 1 "$work/$1.why" |
    head -c 300 | base64 -w 0)- $(printf %s "$address" | base64 -w 0)- $said"
  basic=$(printf '%s\n' "${{logins-}}" | sed -n "s/^$1 //p")
  case $basic:$said in ?*:401*) login "$1" "$address" ;; esac
}}
part() {{ sed -n "s/^[Ww][Ww][Ww]-[Aa]uthenticate: *Bearer .*$1=\"\([^\"]*\)\".*/\1/p" "$work/head$2" | head -n 1; }}
login() {{ # number address
  printf 'Authorization: Basic %s\n' "$basic" >"$work/login$1"
  curl -s --proto =https $limits -D "$work/head$1" -o /dev/null -- "$2"
  set -- "$1" "$2" "$(part realm "$1")" "$(part service "$1")"
  case $3 in
    https://*) set -- "$1" "$3" -G --data-urlencode "service=$4" ;;
    '') set -- "$1" "$2" ;;
    *) return ;;
  esac
  number=$1 to=$2; shift 2
  echo "login $number $(curl -s --proto =https $limits -o /dev/null -w '%{{http_code}}' -H "@$work/login$number" \
    "$@" -- "$to")"
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
_LOGIN = re.compile(r"login (\d{1,4}) (\d{3})")
_LINE = re.compile(
    r"probe (\d{1,4}) (\d{1,3}) ([A-Za-z0-9+/=]*)- ([A-Za-z0-9+/=]*)- ([A-Za-z0-9+/=]*)- ?(\d{3})? ?(\d{3})? ?(.*)"
)
_HTML = re.compile(rb"\s*(<!doctype html|<html|<head|<\?xml[^>]*>\s*<!doctype html)", re.IGNORECASE)
TLS = (35, 51, 53, 54, 58, 59, 60, 64, 66, 77, 80, 82, 83, 90, 91)
REGISTRY, MANIFEST = "images", "models"
"""Purposes of addresses whose answer is a registry's, and the manifest of a model."""
HUB = "Docker Hub"
TRIED = "/run/provision-login"
"""A folder for a login by hand, so that the host's own logins stay."""


def _look(host: Host, inventory: Inventory) -> Look | None:
    asked = tuple({each.probe: each for each in mirrored.outside(host, inventory)}.values())
    if not asked:
        return None
    run = look(PROBE, *(each.probe for each in asked), title="ask repositories and registries", timeout=60)
    run = declared_logins.before(run, host, asked)
    models = [thing for thing in sizes.of_host(host, inventory) if thing.is_model]
    reads = [sizes.beside(run, sizes.proxy_variables(host, inventory))]
    reads += [read for thing in models for read in (thing.asked, thing.filling.place)]
    return Look(tuple(reads), lambda answers: {**parse(asked, answers[0]), **_there(models, answers[1:])})


def _there(models: Sequence[sizes.Thing], answers: Sequence[Answer]) -> dict[str, Any]:
    """Return whether the host has the bytes of every model of the inventory, in each place."""
    pairs = zip(models, answers[::2], answers[1::2], strict=True)
    whole = [thing.filling.room(size, place).need == 0 for thing, size, place in pairs]
    return {"has_models": True} if whole and all(whole) else {}


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
    logins = {int(match[1]): {"login": match[2]} for line in lines if (match := _LOGIN.fullmatch(line))}
    entries = [
        {**vars(each), **_answer(found[number], each.purpose), **logins.get(number, {})}
        for number, each in enumerate(asked)
        if number in found
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
    host = subject.host
    mirrors = declared_logins.of_mirrors(host)
    troubles = [(entry, trouble) for entry in state["answers"] if (trouble := _trouble(entry))]
    served = {group for entry in state["answers"] if (group := _group(entry)) and not _trouble(entry)}
    for entry, (says, cure) in troubles:
        is_model = entry["purpose"] == MANIFEST
        idle = is_model and state.get("has_models", False)
        make = risk if _group(entry) in served or idle or (is_model and entry["code"] == "401") else bad
        if entry["code"] == "401":
            says, cure = _refused(says, cure, entry, mirrors.get(entry["key"]))
        says += ", and the host has all its models" if idle else ""
        evidence = f"{entry['why']}\n{entry['probe']}".strip()
        yield make(f"{entry['key']}: {says}", cure, f"{evidence}\nor name another address in {entry['key']}")
    yield from (found for entry in state["answers"] for found in _login(entry, host))
    reached = [entry["key"] for entry in state["answers"] if not _trouble(entry)]
    if reached and len(troubles) < len(state["answers"]):
        yield good(f"reached: {', '.join(dict.fromkeys(reached))}")


def _refused(says: str, cure: str, entry: Mapping[str, Any], url: MirrorUrl | None) -> tuple[str, str]:
    """Return what is wrong with a login, and the cure, which asks for the password."""
    if url is None or url.login is None:
        return f"{says}, and the inventory has no login for this address", cure
    asked = shlex.join(["curl", "-fsS", "-u", url.login[0], "-o", "/dev/null", entry["probe"]])
    return f"{_host(entry['probe'])} refuses the login of the inventory (401)", asked


def _login(entry: Mapping[str, Any], host: Host) -> Iterator[Finding]:
    """Yield a finding about the tried login of a registry."""
    user = declared_logins.of_registry(host, entry["address"], entry["key"]) if "login" in entry else None
    if user is None:
        return
    code = entry["login"]
    cure = f"{shlex.join(['docker', '--config', TRIED, 'login', '-u', user.user, user.registry])}; rm -rf {TRIED}"
    hint = f"correct {user.key}; the command asks for the password"
    if code == "200":
        yield good(f"{user.registry} takes the login of {user.key}")
    elif code in ("401", "403"):
        yield bad(f"{user.registry} refuses the login of {user.key} ({code})", cure, hint)
    else:
        says = "nothing answered" if code == "000" else f"HTTP {code}"
        yield risk(f"the login of {user.key} could not be tried: {says}", cure, hint)


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
