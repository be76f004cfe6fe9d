"""The sources of packages that the host has already, asked by apt itself: with the proxies, logins and limits of apt.

The repositories of the inventory are left out here: `outside` asks these. Source: apt-get(8) for `--print-uris`, which
neither locks nor downloads; apt-helper(8) in apt's own folder downloads a single file and leaves apt's lists alone.
"""

import base64
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from provision.command import Answer, Script, look
from provision.doctor import sizes
from provision.doctor.check import Check, Look, Subject, alone
from provision.doctor.finding import Finding, bad, good, risk
from provision.inventory import Host, Inventory
from provision.plan import mirrored
from provision.steps import apt_lines
from provision.steps.base import State, UnreadableError

CONNECT, WHOLE = 5, 12  # seconds of a request: to connect, and in all
MOST = 20  # sources that are asked
BLOCKS = 20_000  # of 512 bytes: the largest file, which has the hashes of a whole repository

# Asks for every file `InRelease` of apt's sources at once; an old repository has `Release` alone. An address with `@`
# may have a password, so it is left out: a word of a command is seen by every user of the host.
PROBE = Script(
    "doctor/apt-sources",
    rf"""
umask 077
work=$(mktemp -d) || exit 1; trap 'rm -rf -- "$work"' EXIT
fetch() {{ # address file
  rm -f -- "$2"
  (ulimit -f {BLOCKS}; timeout {WHOLE} /usr/lib/apt/apt-helper -q -o Acquire::Retries=0 -o APT::Sandbox::User=root \
    -o Acquire::http::Timeout={CONNECT} -o Acquire::https::Timeout={CONNECT} download-file "$1" "$2") \
    >/dev/null 2>"$2.why"
}}
ask() {{ # number address
  fetch "$2" "$work/$1"; rc=$?
  if [ $rc != 0 ] && grep -q '  404 ' "$work/$1.why"; then fetch "${{2%InRelease}}Release" "$work/$1"; rc=$?; fi
  echo "source $1 $rc $(head -c 100 "$work/$1" 2>/dev/null | base64 -w 0)- $(grep -m 1 '^E: ' "$work/$1.why" |
    head -c 400 | base64 -w 0)- $(printf %s "$2" | base64 -w 0)-"
}}
timeout 20 apt-get --print-uris update >"$work/addresses" 2>"$work/why"
echo "list $? $(grep -m 1 '^E: ' "$work/why" | head -c 400 | base64 -w 0)-"
sed -n "s/^'\(https\{{0,1\}}:\/\/[!-?A-~]\{{1,400\}}\/InRelease\)' .*/\1/p" "$work/addresses" | sort -u |
  head -n {MOST} >"$work/asked"
number=0
while IFS= read -r address; do
  ask "$number" "$address" &
  number=$((number + 1))
done <"$work/asked"
wait
echo end
""",
)
RUN = look(PROBE, title="ask the sources of apt", timeout=75)
_TEXT = r"([A-Za-z0-9+/=]*)-"
_LIST = re.compile(rf"list (\d{{1,3}}) {_TEXT}")
_SOURCE = re.compile(rf"source (\d{{1,2}}) (\d{{1,3}}) {_TEXT} {_TEXT} {_TEXT}")
_SIGNED = (b"-----BEGIN PGP SIGNED MESSAGE", b"Origin:", b"Label:", b"Suite:", b"Archive:", b"Codename:", b"Version:")
"""The begin of an InRelease, or of a Release."""
_LOGIN = re.compile(r"//[^/@\s]*@")


def _look(host: Host, inventory: Inventory) -> Look | None:
    return alone(sizes.beside(RUN, sizes.proxy_variables(host, inventory)), parse)


def parse(answer: Answer) -> dict[str, Any]:
    """Return the state: `error` of apt about its sources, and an entry of each address.

    Args:
        answer: of the host.

    Raises:
        UnreadableError: the answer ends early.
    """
    lines = answer.text.splitlines()
    listed = next((match for line in lines if (match := _LIST.fullmatch(line))), None)
    if "end" not in lines or listed is None:
        raise UnreadableError(answer.complaint or f"exited {answer.exit}")
    found = sorted((int(match[1]), match) for line in lines if (match := _SOURCE.fullmatch(line)))
    entries = [
        {
            "address": _decoded(match[5]),
            "exit": int(match[2]),
            "signed": base64.b64decode(match[3] + "==").startswith(_SIGNED),
            "why": _decoded(match[4]),
        }
        for _, match in found
    ]
    return {"exit": int(listed[1]), "error": _decoded(listed[2]), "sources": entries}


def _decoded(text: str) -> str:
    """Return a text of the host, without the logins of addresses."""
    said = base64.b64decode(text + "==").decode(errors="replace").strip().removeprefix("E: ")
    return _LOGIN.sub("//[secret]@", said)


def judge(state: State, subject: Subject) -> Iterator[Finding]:
    """Yield a finding for each source without a good answer, and the sources with a good answer.

    Args:
        state: by `parse`.
        subject: the host.
    """
    state = state or {}
    if state["exit"]:
        yield bad("apt cannot read its own sources", "apt-get update", apt_lines.shown(state["error"]))
        return
    ours = tuple(f"{each.address.rstrip('/')}/" for each in mirrored.outside(subject.host, subject.inventory))
    sources = [entry for entry in state["sources"] if not entry["address"].startswith(ours)]
    for entry in sources:
        if says := _trouble(entry):
            make = bad if _is_base(entry["address"], subject.facts.codename) else risk
            evidence = apt_lines.shown(entry["why"] or entry["address"])
            yield make(f"apt's own source {_name(entry)}: {says}", _cure(entry), evidence)
    if reached := _reached(sources):
        yield good(f"apt's own sources answer: {', '.join(reached)}")
    if not sources:
        yield risk("apt has no source by http:// or https:// that the check may ask", "apt-get indextargets")


def _trouble(entry: Mapping[str, Any]) -> str:
    """Return what is wrong with an answer; empty for a good answer."""
    if entry["exit"] == 124:
        return f"no answer within {WHOLE} s"
    if entry["exit"]:
        return "apt cannot fetch its list"
    return "" if entry["signed"] else "another file came in place of the list: a portal or a filter answers"


def _is_base(address: str, codename: str) -> bool:
    """Whether an address is that of the release itself, without which no package can be installed."""
    return bool(codename) and address.endswith(f"/dists/{codename}/InRelease")


def _name(entry: Mapping[str, Any]) -> str:
    return apt_lines.shown(str(entry["address"]).removesuffix("/InRelease"))


def _host(entry: Mapping[str, Any]) -> str:
    address = str(entry["address"])
    try:
        return urlsplit(address).hostname or ""
    except ValueError:
        return address.partition("//")[2].partition("/")[0]


def _cure(entry: Mapping[str, Any]) -> str:
    """Return the command that shows the source lines with the address, and asks again. The files with the logins of
    apt (auth.conf) have the address too, so the command leaves them out."""
    return f"grep -rnF -e {shlex.quote(_host(entry))} /etc/apt/sources.list*; apt-get update"


def _reached(sources: Sequence[Mapping[str, Any]]) -> list[str]:
    return list(dict.fromkeys(_host(entry) for entry in sources if not _trouble(entry)))


CHECKS = (Check("apt", _look, judge),)
