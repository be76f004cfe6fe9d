"""Running the machine's own programs: words in, text out, and an error that a person can act on."""

import shlex
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from provision.errors import ProvisionError
from provision.lab.emulation import machine_factor

# Joins the cgroups named before `--`, then becomes the program after `--`: a process must enter its cgroups
# itself, or its first children would be outside of them.
_JOIN = 'while [ "$1" != -- ]; do echo $$ > "$1/cgroup.procs" || exit 97; shift; done; shift; exec "$@"'


class LabError(ProvisionError):
    """The lab could not be made, changed or taken down."""


def run(
    words: Sequence[str | Path],
    *,
    stdin: str | None = None,
    check: bool = True,
    timeout: float = 300,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run a program of the machine and return its result.

    Args:
        words: the command, one word each, without a shell.
        stdin: its standard input; empty by default.
        check: whether an exit code other than 0 is an error.
        timeout: seconds until the program is killed, on a machine that is not emulated.
        env: the whole environment, or None for ours.
        cwd: directory to run in.

    Raises:
        LabError: the program is missing, ran too long, or failed (with the end of its output).
    """
    argv, seconds = [str(word) for word in words], timeout * machine_factor()
    try:
        result = subprocess.run(
            argv,
            input=stdin or "",
            capture_output=True,
            text=True,
            timeout=seconds,
            env=env,
            cwd=cwd,
            check=False,
        )
    except FileNotFoundError as error:
        raise LabError(f"{argv[0]} is not installed", "run `provision lab prepare --install`") from error
    except subprocess.TimeoutExpired as error:
        raise LabError(f"`{shlex.join(argv)}` did not end within {seconds:g} seconds") from error
    if check and result.returncode:
        text = (result.stderr.strip() or result.stdout.strip())[-2000:]
        raise LabError(f"`{shlex.join(argv)}` failed with exit code {result.returncode}: {text}")
    return result


def output(words: Sequence[str | Path], **options: float) -> str:
    """Run a program and return its standard output, stripped."""
    return run(words, **options).stdout.strip()  # type: ignore[arg-type]


def joining(cgroups: Sequence[Path], words: Sequence[str | Path]) -> list[str]:
    """The words that enter cgroups and then become the command."""
    return ["sh", "-c", _JOIN, "join", *map(str, cgroups), "--", *map(str, words)]


def start(
    words: Sequence[str | Path],
    *,
    cgroups: Sequence[Path],
    log: Path,
    env: Mapping[str, str] | None = None,
) -> None:
    """Start a program that outlives us: in its own session and cgroups, without a parent, output to `log`.

    Args:
        words: the command.
        cgroups: directories of the cgroups to join, by which `down` finds the program.
        log: file for the program's output.
        env: the whole environment, or None for ours.
    """
    argv = ["setsid", "--fork", *joining(cgroups, words)]
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as sink:
        subprocess.run(argv, stdin=subprocess.DEVNULL, stdout=sink, stderr=sink, env=env, check=True, cwd="/")
