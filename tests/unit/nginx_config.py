"""Parser of nginx's configuration, so that tests compare directives and not the layout.

Grammar: src/core/ngx_conf_file.c, ngx_conf_read_token.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Directive:
    """A directive: the words, and the directives of the block."""

    words: tuple[str, ...]
    block: tuple["Directive", ...] | None = field(default=None)


def parse(text: str) -> tuple[Directive, ...]:
    """Return the directives of a file.

    Raises:
        ValueError: nginx would refuse the file.
    """
    tokens = _tokens(text)
    found = tuple(_block(tokens, top=True))
    if next(tokens, None) is not None:
        raise ValueError("unexpected }")
    return found


def find(directives: tuple[Directive, ...], name: str) -> list[Directive]:
    """Return every directive of a name, at any depth."""
    inner = [found for one in directives for found in find(one.block or (), name)]
    return [one for one in directives if one.words[0] == name] + inner


def _block(tokens: Iterator[str], *, top: bool) -> Iterator[Directive]:
    words: list[str] = []
    for token in tokens:
        match token:
            case ";":
                yield Directive(tuple(words))
                words = []
            case "{":
                yield Directive(tuple(words), tuple(_block(tokens, top=False)))
                words = []
            case "}":
                if words or top:
                    raise ValueError("unexpected }")
                return
            case _:
                words.append(token[1:])
    if words or not top:
        raise ValueError("unexpected end of file")


def _tokens(text: str) -> Iterator[str]:
    """Yield `;`, `{`, `}`, and words with a `=` in front. As in nginx, `#` begins a comment only between words."""
    at = 0
    while at < len(text):
        char = text[at]
        if char.isspace():
            at += 1
        elif char == "#":
            at = (text + "\n").index("\n", at)
        elif char in ";{}":
            yield char
            at += 1
        else:
            word, at = _quoted(text, at) if char in "\"'" else _bare(text, at)
            yield "=" + word


def _quoted(text: str, at: int) -> tuple[str, int]:
    quote, word, at = text[at], "", at + 1
    while text[at] != quote:
        at += text[at] == "\\"
        word, at = word + text[at], at + 1
    if at + 1 < len(text) and text[at + 1] not in " \t\r\n;{)":
        raise ValueError("unexpected character after a quote")
    return word, at + 1


def _bare(text: str, at: int) -> tuple[str, int]:
    word = ""
    while text[at] not in " \t\r\n;{":
        if text[at] == "$" and text[at + 1] == "{":
            raise ValueError("a variable in braces")
        at += text[at] == "\\"
        word, at = word + text[at], at + 1
    return word, at
