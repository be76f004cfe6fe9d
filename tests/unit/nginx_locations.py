"""The answer of nginx to a request line, by the locations of a parsed configuration.

Rules: ngx_http_parse_complex_uri (a path is decoded once; `.`, `..` and doubled slashes go; above the root is 400), and
ngx_http_core_find_location (an exact location, else the longest prefix, with its patterns).
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from tests.unit.nginx_config import Directive, find

_ESCAPE = re.compile(rb"%([0-9A-Fa-f]{2})")


@dataclass(frozen=True)
class Reply:
    """What nginx does with a request.

    Args:
        status: the status of an answer of nginx's own; 0 for a request that goes on.
        group: the group of servers that gets the request.
        path: the path of that request, before nginx escapes it.
        body: the body of an answer of nginx's own.
    """

    status: int = 0
    group: str = ""
    path: bytes = b""
    body: str = ""


def normal(path: bytes) -> bytes | None:
    """Return the path as nginx compares it; None where nginx answers 400."""
    path = path.partition(b"?")[0].partition(b"#")[0]
    if not path.startswith(b"/") or re.search(rb"%(?![0-9A-Fa-f]{2})|%00|\0", path):
        return None
    decoded = _ESCAPE.sub(lambda match: bytes([int(match[1], 16)]), path)
    done: list[bytes] = []
    parts = decoded.split(b"/")[1:]
    for part in parts:
        if part == b"..":
            if not done:
                return None
            done.pop()
        elif part not in (b"", b"."):
            done.append(part)
    tail = b"/" if parts[-1] in (b"", b".", b"..") and done else b""
    return b"/" + b"/".join(done) + tail


def reply(directives: tuple[Directive, ...], path: bytes) -> Reply:
    """Return the reply to a request.

    Args:
        directives: of the server, with the included files.
        path: the request's target as the client sent it.
    """
    wanted = normal(path)
    if wanted is None:
        return Reply(400)
    if _is_redirected(directives, wanted):
        return Reply(301)
    found = _best(directives, wanted)
    prefix = found.words[-1].encode()
    while True:
        nested = [
            directive
            for directive in find(found.block or (), "location")
            if re.search(directive.words[2].encode(), wanted)
        ]
        if not nested:
            break
        found = nested[0]
    for target in find(found.block or (), "proxy_pass"):
        group, _, base = target.words[1].removeprefix("http://").partition("/")
        return Reply(0, group, b"/" + base.encode() + wanted.removeprefix(prefix))
    [answer] = find(tuple(directive for directive in found.block or () if directive.words[0] == "return"), "return")
    return Reply(int(answer.words[1]), "", b"", "".join(_body(found, answer.words[2])))


def _is_redirected(directives: tuple[Directive, ...], wanted: bytes) -> bool:
    """Whether only a slash is missing to a location that passes requests on (ngx_http_core_module, location)."""
    paths = [directive.words[-1].encode() for directive in directives if directive.words[0] == "location"]
    passing = [directive.words[-1].encode() for directive in directives if find(directive.block or (), "proxy_pass")]
    return wanted not in paths and wanted + b"/" in passing


def _best(directives: tuple[Directive, ...], wanted: bytes) -> Directive:
    locations = [
        directive
        for directive in directives
        if directive.words[0] == "location" and not directive.words[1].startswith("@")
    ]
    exact = [
        directive for directive in locations if directive.words[1] == "=" and directive.words[2].encode() == wanted
    ]
    longest = sorted(
        (
            directive
            for directive in locations
            if len(directive.words) == 2 and wanted.startswith(directive.words[1].encode())
        ),
        key=lambda directive: len(directive.words[1]),
    )
    return [*longest, *exact][-1]


def _body(location: Directive, text: str) -> Iterator[str]:
    parts = {
        directive.words[1]: directive.words[2] for directive in location.block or () if directive.words[0] == "set"
    }
    yield from (parts[name] for name in re.findall(r"\$part_[0-9]+", text)) if parts else (text,)
