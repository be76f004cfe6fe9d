"""Ansible's ranges in host names: `gpu-[01:20]`, `rack[a:c]`, `node[0:10:2]`."""

import itertools
import re
import string

MAX_NAMES = 5_000

_RANGE = re.compile(r"\[([0-9]{1,9}|[A-Za-z]):([0-9]{1,9}|[A-Za-z])(?::([0-9]{1,9}))?\]")


def expand(name: str) -> list[str]:
    """Return the names of a name with ranges, in order; the name itself if there is no range.

    Args:
        name: such as `gpu-[01:20]`; both ends are included, leading zeros are kept.

    Raises:
        ValueError: a bracket is no range, a range goes backwards, or there would be more than 5000 names.
    """
    pieces = _RANGE.split(name)
    constant, ranges = pieces[::4], list(zip(pieces[1::4], pieces[2::4], pieces[3::4], strict=True))
    if any("[" in text or "]" in text for text in constant):
        raise ValueError("has a bracket that is no range such as [01:20] or [a:c]")
    choices = [_choices(*bounds) for bounds in ranges]
    _bound(choices)
    return [_joined(constant, chosen) for chosen in itertools.product(*choices)]


def _joined(constant: list[str], chosen: tuple[str, ...]) -> str:
    return "".join(itertools.chain(*itertools.zip_longest(constant, chosen, fillvalue="")))


def _choices(first: str, last: str, step: str | None) -> list[str]:
    stride = int(step) if step else 1
    if stride < 1:
        raise ValueError("has a range with step 0")
    if first.isdigit() and last.isdigit():
        return _numbers(first, last, stride)
    letters = string.ascii_letters
    if first not in letters or last not in letters or first.islower() != last.islower():
        raise ValueError(f"has a range from {first} to {last}, which is none")
    return _nonempty(list(letters[letters.index(first) : letters.index(last) + 1 : stride]), first, last)


def _numbers(first: str, last: str, stride: int) -> list[str]:
    padded = len(first) > 1 and first.startswith("0")
    if padded and len(first) != len(last):
        raise ValueError(f"has a range from {first} to {last}: write both with the same number of digits")
    numbers = range(int(first), int(last) + 1, stride)
    if len(numbers) > MAX_NAMES:
        raise ValueError(f"has a range of more than {MAX_NAMES} names")
    width = len(first) if padded else 0
    return _nonempty([str(number).zfill(width) for number in numbers], first, last)


def _nonempty(names: list[str], first: str, last: str) -> list[str]:
    if not names:
        raise ValueError(f"has a range from {first} to {last}, which goes backwards")
    return names


def _bound(choices: list[list[str]]) -> None:
    count = 1
    for names in choices:
        count *= len(names)
        if count > MAX_NAMES:
            raise ValueError(f"stands for more than {MAX_NAMES} names")
