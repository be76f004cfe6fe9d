"""The share of pronouns in the prose of the tree: `python -m tests.prose`, and `--added` for a change alone.

A sentence built of "it", "one" and "that" makes its reader look for the noun. So `make lint` counts pronouns:

    python -m tests.prose               every room and its bound; fails if a room is above its bound
    python -m tests.prose --added       lines added since BASE: fails from 5 % on, and for a sentence with 24 % or more
    python -m tests.prose --added BASE  BASE is a commit; by default the merge base with origin/main, else HEAD~1
    python -m tests.prose --worst 20 provision/runs    the heaviest sentences of some files, to work on

**Prose** is every docstring and comment of `provision/`, `roles/`, `templates/` and `tests/`, and the pages: README,
CONTRIBUTING, CHANGELOG and `docs/`. A **word** is a run of letters, with the apostrophes and hyphens inside.
Not counted: numbers, paths and names of code (a run with a digit, `_`, `/`, `.`, `=` or `@` inside), text in
backticks, code blocks, doctests and their output, addresses of links, and marks for linters.

A change is judged from 60 added words on. A sentence is judged from nine words on, if a line of the sentence is added.
Uncommitted and untracked lines are added lines too. Without an earlier commit (a tarball without `.git`, a shallow
clone of one commit) the added lines are unknown: then the whole tree is judged by its bounds, and the output says so.

Runs on the standard library alone.
"""

import argparse
import ast
import io
import re
import subprocess
import sys
import tokenize
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
PRONOUNS = frozenset(
    "it one what who that those these which whose them they this other others such".split()  # noqa: SIM905 - one line
)
CODE = ("provision", "roles", "templates", "tests")
PAGES = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "docs")
SHARE, SENTENCE = 5.0, 24.0  # percent: an added text, and an added sentence, stay below
WORDS, SENTENCE_WORDS = 60, 9  # a shorter text or sentence is not judged
# The percent that a room may have. A room without an entry may have SHARE. Entries only shrink.
BOUNDS: dict[str, float] = {}

_RUN = re.compile(r"[^\s\"()\[\]{}<>,;:!?*]+")
_WORD = re.compile(r"[A-Za-z]+(?:['-][A-Za-z]+)*")
# A sentence ends with a full stop, at an empty line, and before a list item, a heading or `name: ` at a line's start.
_SENTENCE = re.compile(
    r"(?:(?!\n[ \t]*\n|[.!?][\")]?\s|\n[ \t]*(?:[-*+] |\d+\. |#|\*{0,2}\w+(?: \([^)\n]*\))?:\s)).)+[.!?]?", re.DOTALL
)
_FENCE = re.compile(r"^[ \t]*(```|~~~).*?^[ \t]*\1[^\n]*$", re.DOTALL | re.MULTILINE)
_INDENTED = re.compile(r"(?:\A|(?<=\n\n))(?:(?: {4}|\t)[^\n]*(?:\n|\Z))+")
_BACKTICKS = re.compile(r"(`+)(?!`)(?:(?!\n[ \t]*\n).)+?(?<!`)\1(?!`)", re.DOTALL)
_ADDRESS = re.compile(r"(?<=\])\([^)\s]*\)|https?://[^\s)>]+|<!--.*?-->", re.DOTALL)
_DOCTEST = re.compile(r"^[ \t]*>>> .*\n?(?:^[ \t]*\S.*\n?)*", re.MULTILINE)
_JINJA = re.compile(r"\{#(.*?)#\}", re.DOTALL)
_LINTER = re.compile(r"#\s*(?:noqa\b(?:: ?[A-Z]+\d+(?:, ?[A-Z]+\d+)*)?|type: ignore(?:\[[^\]]*\])?|!.*)(?:\s*-\s)?")


@dataclass(frozen=True)
class Count:
    """The number of words of a text, and of the pronouns among the words."""

    words: int = 0
    pronouns: int = 0

    @classmethod
    def of(cls, words: Iterable[str]) -> "Count":
        lower = [word.lower() for word in words]
        return cls(len(lower), sum(word.split("'")[0] in PRONOUNS for word in lower))

    def __add__(self, other: "Count") -> "Count":
        return Count(self.words + other.words, self.pronouns + other.pronouns)

    @property
    def share(self) -> float:
        """Percent of pronouns."""
        return 100 * self.pronouns / self.words if self.words else 0.0

    def __str__(self) -> str:
        return f"{self.share:5.1f} %  {self.pronouns:5} of {self.words:5}"


@dataclass(frozen=True)
class Sentence:
    """One sentence of a file.

    Attributes:
        path: the file, from the root.
        text: the sentence in one line.
        words: the words, each with the number of its line.
    """

    path: str
    text: str
    words: tuple[tuple[int, str], ...]

    @property
    def share(self) -> float:
        return Count.of(word for _, word in self.words).share

    def __str__(self) -> str:
        return f"{self.path}:{self.words[0][0]}: {self.share:.0f} % of the words are pronouns: {self.text}"


def files(root: Path = ROOT) -> Iterator[Path]:
    """Yield every file with prose, in order."""
    for folder in CODE:
        yield from (p for p in sorted((root / folder).rglob("*")) if p.suffix in (".py", ".j2") and p.is_file())
    for page in PAGES:
        path = root / page
        yield from sorted(path.rglob("*.md")) if path.is_dir() else [path] * path.exists()


def room(path: str) -> str:
    """Return the room of a file: the folder of its package, and "pages" for a page."""
    folders = path.split("/")[:-1]
    if path.endswith(".md"):
        return "pages"
    depth = 3 if folders[:2] == ["provision", "steps"] else 1 if folders[0] == "templates" else 2
    return "/".join(folders[:depth])


def sentences(path: str, source: str) -> Iterator[Sentence]:
    """Yield the sentences of a file.

    Args:
        path: the file, from the root. The suffix decides how the file is read.
        source: the text of the file.
    """
    texts = _python(source) if path.endswith(".py") else _template(source) if path.endswith(".j2") else [(1, source)]
    for first, text in texts:
        clean = _without_code(text, is_page=path.endswith(".md"))
        for match in _SENTENCE.finditer(clean):
            start = first + clean[: match.start()].count("\n")
            lines = enumerate(match[0].split("\n"), start)
            words = tuple((number, word) for number, line in lines for word in _words(line))
            if words:
                yield Sentence(path, " ".join(text[slice(*match.span())].split()), words)


def _words(line: str) -> Iterator[str]:
    texts = (run[0].strip(".'-") for run in _RUN.finditer(line))
    return (text for text in texts if _WORD.fullmatch(text))


def _python(source: str) -> Iterator[tuple[int, str]]:
    """Yield docstrings and comments, each with the number of its first line."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            yield node.value.lineno, node.value.value
    block: list[str] = []
    first = column = 0
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            line, place = token.start
            place = -line if token.line[:place].strip() else place  # after code: a text of its own
            text = _LINTER.sub("", token.string).lstrip("#").strip()
            if (line, place) != (first + len(block), column):
                yield first, "\n".join(block)
                block, first, column = [], line, place
            block.append(text)
    yield first, "\n".join(block)


def _template(source: str) -> Iterator[tuple[int, str]]:
    """Yield the comments of a template: of Jinja, and lines that begin with `#`."""
    for match in _JINJA.finditer(source):
        yield 1 + source[: match.start(1)].count("\n"), match[1].strip("-")
    rest = re.sub(r"\{\{.*?\}\}|\{%.*?%\}", _blank, _JINJA.sub(_blank, source), flags=re.DOTALL)
    for match in re.finditer(r"(?:^[ \t]*#.*\n?)+", rest, re.MULTILINE):
        yield 1 + rest[: match.start()].count("\n"), re.sub(r"^[ \t]*#+[ \t]?", "", match[0], flags=re.MULTILINE)


def _without_code(text: str, *, is_page: bool) -> str:
    """Return a text of the same length, with spaces in place of code."""
    for pattern in (_FENCE, _INDENTED) if is_page else (_DOCTEST,):
        text = pattern.sub(_blank, text)
    text = _ADDRESS.sub(_blank, _BACKTICKS.sub(_blank, text))
    return text.replace("|", ".") if is_page else text  # a cell of a table is a sentence


def _blank(match: re.Match[str]) -> str:
    return re.sub(r"[^\n]", " ", match[0])


def count_rooms(found: Iterable[Sentence]) -> dict[str, Count]:
    """Return the count of every room, by name."""
    counts: dict[str, Count] = defaultdict(Count)
    for sentence in found:
        counts[room(sentence.path)] += Count.of(word for _, word in sentence.words)
    return dict(sorted(counts.items()))


def judge_rooms(counts: Mapping[str, Count], bounds: Mapping[str, float]) -> list[str]:
    """Return a line for each room above its bound."""
    return [
        f"{name}: {count.share:.2f} % of the words are pronouns, the bound is {bounds.get(name, SHARE)} %"
        for name, count in counts.items()
        if count.share > bounds.get(name, SHARE)
    ]


def judge_added(found: Iterable[Sentence], added: Mapping[str, set[int]]) -> list[str]:
    """Return a line for each fault of the prose that a change adds.

    Args:
        found: the sentences of the tree.
        added: the numbers of the added lines, by file.
    """
    touched = [s for s in found if any(number in added.get(s.path, ()) for number, _ in s.words)]
    touched.sort(key=lambda s: s.share, reverse=True)
    heavy = [s for s in touched if len(s.words) >= SENTENCE_WORDS and s.share >= SENTENCE]
    count = Count.of(word for s in touched for number, word in s.words if number in added[s.path])
    if count.words < WORDS or count.share < SHARE:
        return [str(s) for s in heavy]
    total = f"{count.share:.1f} % of the {count.words} added words are pronouns; less than {SHARE} % may be"
    return [str(s) for s in (heavy if len(heavy) > 10 else touched[:10])] + [total]


def added_lines(root: Path, base: str | None) -> dict[str, set[int]] | None:
    """Return the numbers of the lines added since a commit, by file; None if there is no earlier commit.

    Args:
        root: the folder of the checkout.
        base: the commit. None means the merge base with origin/main; HEAD~1 where the base is HEAD or not known.

    Raises:
        ValueError: the checkout does not have the named commit.
    """
    if not base and _git(root, "rev-parse", "--show-prefix"):
        return None  # a tarball unpacked inside another checkout
    start = _commit(root, base) if base else _git(root, "merge-base", "HEAD", "origin/main")
    if base and not start:
        raise ValueError(f"no commit {base} in this checkout: fetch the commit, or name another")
    if not base and start in ("", _commit(root, "HEAD")):
        start = _commit(root, "HEAD~1")
    if not start:
        return None
    added: dict[str, set[int]] = defaultdict(set)
    options = ("--unified=0", "--no-color", "--no-ext-diff", "--find-renames", "--no-prefix")
    path = ""
    for line in _git(root, "diff", *options, start, "--").splitlines():
        if line.startswith("+++ "):
            path = line[4:].rstrip("\t")
        elif match := re.match(r"@@ -\S+ \+(\d+)(?:,(\d+))? @@", line):
            added[path].update(range(int(match[1]), int(match[1]) + int(match[2] or 1)))
    for name in _git(root, "ls-files", "--others", "--exclude-standard").splitlines():
        added[name].update(range(1, (root / name).read_bytes().count(b"\n") + 2))
    return added


def _commit(root: Path, name: str) -> str:
    return _git(root, "rev-parse", "--verify", "--quiet", f"{name}^{{commit}}")


def _git(root: Path, *words: str) -> str:
    """Return the output of git, "" if git fails. The checkout may belong to somebody else: `sudo make test`."""
    argv = ["git", "-c", "safe.directory=*", "-c", "core.quotePath=off", "-C", str(root), *words]
    try:
        return subprocess.run(argv, capture_output=True, encoding="utf-8", errors="replace", check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def _arguments(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.prose", description="The share of pronouns in the prose.")
    parser.add_argument("--added", nargs="?", const="", metavar="BASE", help="judge the lines added since BASE")
    parser.add_argument("--worst", type=int, default=0, metavar="N", help="print the N heaviest sentences")
    parser.add_argument("path", nargs="*", default=[""], help="only files whose path from the root begins so")
    return parser.parse_args(argv)


def run(argv: list[str], root: Path = ROOT, bounds: Mapping[str, float] = BOUNDS) -> int:
    """Print the counts or the faults. Return the exit code: 0 if the prose passes, 1 if not, 2 for an unknown base."""
    options = _arguments(argv)
    named = {str(path.relative_to(root)): path for path in files(root)}
    found = [
        sentence
        for name, path in named.items()
        if name.startswith(tuple(options.path))
        for sentence in sentences(name, path.read_text(encoding="utf-8"))
    ]
    if options.worst:
        heavy = [s for s in found if len(s.words) >= SENTENCE_WORDS]
        print(*sorted(heavy, key=lambda s: s.share, reverse=True)[: options.worst], sep="\n")
        return 0
    added = None
    if options.added is not None:
        try:
            added = added_lines(root, options.added or None)
        except ValueError as error:
            print(f"error: {error}", file=sys.stderr)
            return 2
        if added is None:
            print("no earlier commit here: the added lines are unknown, so the whole tree is judged by its bounds")
    if added is None:
        counts = count_rooms(found)
        for name, count in counts.items():
            print(f"{name:<24} {count}  (bound {bounds.get(name, SHARE)} %)")
        print(f"{'in all':<24} {sum(counts.values(), Count())}")
    wrong = judge_rooms(counts, bounds) if added is None else judge_added(found, added)
    if wrong:
        print(*wrong, 'Name the subject in place of the pronoun: CONTRIBUTING.md, "How we write".', sep="\n")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
