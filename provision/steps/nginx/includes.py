"""The operator's own files of nginx's configuration, beside the files of provision.

nginx reads such a file in the http block or in the server for clients, as files of a generation: `nginx -t` checks the
file, and an edit by hand is drift. A few directives would contradict other settings, and are refused before a host is
asked. Grammar: ngx_conf_read_token and ngx_conf_include in src/core/ngx_conf_file.c.
"""

import re
from collections.abc import Iterator

MODE = 0o600
"""Permission bits: an operator's file may hold a key, so no plan and no journal has the text."""
_ONLY = "verify proves that nginx listens on balancer.listen and nowhere else"
CONTRADICTIONS = {
    "listen": f"may not listen: {_ONLY}",
    "include": "may not include another file: give each file in balancer.include, or drift in the file stays unseen",
    "server {": f"may not have a server of its own: {_ONLY}",
}
_QUOTED = r"""\"(?:\\.|[^"\\])*\"?|'(?:\\.|[^'\\])*'?"""
_BARE = r"(?:\\.|\$\{|[^\s;{\\]|\\\Z)+"
_TOKEN = re.compile(rf"\s+|#[^\n]*|{_QUOTED}|[;{{}}]|{_BARE}", re.DOTALL)
_ENDS = frozenset(";{}")


def file_name(place: str, name: str) -> str:
    """Return the name of an operator's file in a generation.

    Args:
        place: `http` or `server`.
        name: the name in the inventory.
    """
    return f"include-{place}-{name}"


def content(text: str) -> bytes:
    """Return the bytes of an operator's file: the lines keep their numbers, which nginx names in an error.

    Args:
        text: the text from the inventory.
    """
    return f"{text.rstrip()}\n".encode()


def contradictions(text: str) -> Iterator[str]:
    """Yield a sentence, with the number of the line, for each directive that contradicts other settings.

    Args:
        text: the text of a file. Text that nginx would refuse is left to nginx.
    """
    for line, name in directives(text):
        if name in CONTRADICTIONS:
            yield f"line {line} {CONTRADICTIONS[name]}"


def directives(text: str) -> Iterator[tuple[int, str]]:
    """Yield the line and the name of each directive, at any depth; with ` {` where a block follows the bare name.

    Args:
        text: the text of a file of nginx's configuration.
    """
    words: list[tuple[int, str]] = []
    line = 1
    for part in _TOKEN.findall(text):
        if part in _ENDS:
            if words:
                block = f" {part}" if part == "{" and len(words) == 1 else ""
                yield words[0][0], words[0][1] + block
            words = []
        elif not part.isspace() and not part.startswith("#"):
            words.append((line, _plain(part)))
        line += part.count("\n")


def _plain(part: str) -> str:
    """Return the text of a word, without quotes and backslashes, as nginx compares names."""
    word = part[1:].removesuffix(part[0]) if part[0] in "\"'" else part
    return re.sub(r"\\(.)", r"\1", word, flags=re.DOTALL)
