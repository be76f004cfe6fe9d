"""The operator's screen of a failed run: one screen with the place, the fault, and the next command."""

import re

from tests.fleet import Done

LINES, COLUMNS = 45, 1000


def one_clear_screen(
    done: Done,
    host: str,
    codes: tuple[int, ...],
    result: str,
    step: str = "",
    again: str = "",
    about: str = "",
    errors: int = 1,
) -> None:
    """The exit code is right; host and step are named, with evidence and the next command; no traceback, no flood.

    Args:
        done: the result of the run.
        host: the failing host.
        codes: the right exit codes.
        result: the host's result in the recap.
        step: a pattern of the whole failing step; empty where no step fails.
        again: a pattern of the command that goes on; empty for a deploy of the host.
        about: a pattern of the text between the host and its result.
        errors: how many hosts failed; an error of several hosts is told once.
    """
    assert done.code in codes, done
    text = done.out + done.err
    assert "Traceback" not in text, done
    assert "bug of provision" not in text, done
    assert len(done.out.splitlines()) <= LINES, done
    assert max(map(len, done.out.splitlines())) <= COLUMNS, done
    assert 1 <= len(re.findall(r"^ *error: ", done.out, re.MULTILINE)) <= errors, done
    steps = re.findall(rf"^(?:\S+, )*{host}(?:, \S+)*(?:  (\S+))?$", done.out, re.MULTILINE)
    assert any(re.fullmatch(step, found) for found in steps), (step, done)
    assert "  -> " in done.out, done
    again = again or rf"deploy -i \S+ -l {host}\b"
    assert re.search(rf"^(again|once mended): provision {again}", done.out, re.MULTILINE), done
    assert re.search(rf"^{host} +{about}{result.upper()}", done.out, re.MULTILINE), done


def first_error(done: Done) -> str:
    """The sentence after `error:`, and the last words of its evidence."""
    found = re.search(r"^ *error: (.*)", done.out + done.err, re.MULTILINE)
    words = [said for said in re.findall(r"^ *\| (.*)", done.out, re.MULTILINE) if said.strip()]
    return ": ".join(part.strip() for part in [*(found.groups() if found else ()), *words[-1:]])
