"""Many commands as one shell script, and the answers from its output. Pure.

On both streams the output of every command stands between two marks with a random word made for this one script, so
that banners, noise of a login shell and hostile output cannot pass for an answer.
"""

import base64
import re
import secrets
import shlex
from collections.abc import Sequence

from provision.command import Answer, Put, Run

PUT_TIMEOUT = 60.0  # seconds until the controller gives up on the writing of a file
KILL_AFTER = 5  # seconds between a timeout's TERM and its KILL

# The whole body is a function, so that nothing runs if the connection breaks off in the middle.
PRELUDE = r"""
LC_ALL=C; PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin; export LC_ALL PATH
umask 077
begin() { printf '\n%s begin %s\n' "$mark" "$1"; printf '\n%s begin %s\n' "$mark" "$1" >&2; }
end() { printf '\n%s end %s %s\n' "$mark" "$1" "$2"; printf '\n%s end %s %s\n' "$mark" "$1" "$2" >&2; }
put() {
  new=$(mktemp "${1%/*}/.provision.XXXXXXXXXX") || return
  if install -T -m "$2" ${3:+-o "${3%%:*}" -g "${3#*:}"} -- /dev/stdin "$new" && sync -- "$new" && mv -fT -- "$new" "$1"
  then return 0; fi
  rm -f -- "$new"
  return 1
}
"""


def make_mark() -> str:
    """Make a word that no output can contain by accident or guess."""
    return f"provision-{secrets.token_hex(16)}"


def assemble(commands: Sequence[Run | Put], mark: str, *, stop: bool) -> bytes:
    """Assemble the script that runs commands in sequence.

    Without `stop`, a slow command runs beside the commands that follow. The output of the slow command waits in a pipe
    until the other commands are done, and its standard error follows its output. Neighbouring commands with the same
    time limit share a shell, see `_TOGETHER`.

    Args:
        commands: the commands.
        mark: from `make_mark`.
        stop: whether a failed command ends the script. Later commands have no answer then.

    Returns:
        the script, for the standard input of `sh -s`.
    """
    parts = [PRELUDE.strip("\n"), f"mark={mark}", "main() {"]
    beside = 0
    for group in _grouped(commands, stop=stop):
        [(number, command), *rest] = group
        if isinstance(command, Run) and command.slow and not stop:
            parts += [_BESIDE.format(number=number, line=_line(command)), "{"]
            beside += 1
        elif rest:
            parts.append(_together(group, mark))
        else:
            parts += [f"begin {number}", f"{_line(command)}; rc=$?", f"end {number} $rc"]
        if stop:
            parts.append(f"case $rc in {_good(command)}) ;; (*) return ;; esac")
    parts += ["cat", "}"] * beside
    parts += ["}", "main </dev/null", ""]
    return "\n".join(parts).encode()


def longest(commands: Sequence[Run | Put], factor: int = 1) -> float:
    """Return the seconds that the script may take on a host where every command hangs.

    Args:
        commands: as for `assemble`.
        factor: by how much the writing of a file may take longer than usual.
    """
    return sum(command.timeout if isinstance(command, Run) else PUT_TIMEOUT * factor for command in commands)


def _grouped(commands: Sequence[Run | Put], *, stop: bool) -> list[list[tuple[int, Run | Put]]]:
    """Return the numbered commands in groups: neighbours with the same limit that may share a shell; the rest alone."""
    groups: list[list[tuple[int, Run | Put]]] = []
    before = None
    for number, command in enumerate(commands):
        limit = command.timeout if isinstance(command, Run) and not (stop or command.slow) else None
        if limit is None or limit != before:
            groups.append([])
        groups[-1].append((number, command))
        before = limit
    return groups


# A shell and a `timeout` for each command would be half the price of a short read. So one shell runs several commands,
# each in a subshell, and prints the number of each command that has ended. When the shell ends early, another shell
# goes on. The time limit of a shell is the limit of a single command. If no command has ended, the first command hangs,
# and the loop closes the answer of that command. Otherwise the earlier commands may have used up the time: the next
# shell runs the interrupted command again, with the whole limit.
_TOGETHER = """from={first}
while [ "$from" -le {last} ]; do
{{ ended=$(timeout -k {kill} {limit:g} sh -s -- "$from" 3>&1 >&4 4>&- <<'{mark}'
mark={mark}
{marks}
{body}
{mark}
); rc=$?; }} 4>&1
case $ended in
'') end "$from" "$rc"; from=$((from + 1)) ;;
*) from=$((${{ended##*[!0-9]}} + 1)) ;;
esac
done"""
_MARKS = "\n".join(line for line in PRELUDE.splitlines() if line.startswith(("begin()", "end()")))


def _together(group: Sequence[tuple[int, Run | Put]], mark: str) -> str:
    runs = [(number, command) for number, command in group if isinstance(command, Run)]
    body = "\n".join(
        f"if [ $1 -le {number} ]; then begin {number}\n({_inner(run)}\n) 3>&- </dev/null\n"
        f"end {number} $?; echo {number} >&3; fi"
        for number, run in runs
    )
    (first, run), (last, _) = runs[0], runs[-1]
    return _TOGETHER.format(
        first=first, last=last, kill=KILL_AFTER, limit=run.timeout, mark=mark, marks=_MARKS, body=body
    )


def _inner(run: Run) -> str:
    """Return the body of a subshell: a script becomes part of the shell's own text and starts no other shell."""
    if run.words[:2] == ("sh", "-s") and run.stdin.isascii() and b"\0" not in run.stdin:
        arguments = run.words[2:][run.words[2:3] == ("--",) :]
        return f"set -- {shlex.join(arguments)}\n{run.stdin.decode()}"
    program = shlex.join(run.words)
    return f"{_feed(run.stdin)} | {program}" if run.stdin else f"exec {program}"


# Ends in a pipe to the commands that run beside the slow read.
_BESIDE = """{{
begin {number} 2>/dev/null
{{ said=$({{ {line}; }} 2>&1 >&3 3>&-); rc=$?; }} 3>&1
end {number} $rc 2>/dev/null
begin {number}-error 2>/dev/null
printf '%s\\n' "$said"
end {number}-error 0 2>/dev/null
}} |"""


def _good(command: Run | Put) -> str:
    codes = command.ok if isinstance(command, Run) else (0,)
    return "|".join(str(code) for code in codes) or "*"


def _line(command: Run | Put) -> str:
    if isinstance(command, Put):
        words = shlex.join((command.path, f"{command.mode:04o}", command.owner))
        return f"{_feed(command.content)} | put {words}"
    program = f"timeout -k {KILL_AFTER} {command.timeout:g} {shlex.join(command.words)}"
    # Beside a slow read, standard input would be the pipe with the slow output.
    return f"{_feed(command.stdin)} | {program}" if command.stdin else f"{program} </dev/null"


def _feed(content: bytes) -> str:
    """Return a command for printing bytes. A builtin, so neither argument size nor the process list matters."""
    if content and content.isascii() and b"\0" not in content:
        return f"printf %s {shlex.quote(content.decode())}"
    return f"printf %s {shlex.quote(base64.b64encode(content).decode())} | base64 -d"


def parse(stdout: bytes, stderr: bytes, mark: str, count: int) -> list[Answer]:
    """Parse the answers of the commands that ran to their end, in order.

    Args:
        stdout: everything on standard output.
        stderr: everything on standard error.
        mark: the script's mark.
        count: the number of commands in the script.

    Returns:
        the answers; fewer than `count` if the script stopped or was cut off.
    """
    answers = []
    for number in range(count):
        out, code = _between(stdout, mark, number)
        if code is None:
            break
        err, ended = _between(stderr, mark, number)
        if ended is None:
            err, _ = _between(stdout, mark, f"{number}-error")
        answers.append(Answer(code, out, err))
    return answers


def _between(stream: bytes, mark: str, number: int | str) -> tuple[bytes, int | None]:
    opening = f"\n{mark} begin {number}\n".encode()
    closing = f"\n{mark} end {number} ".encode()
    _, begun, rest = stream.partition(opening)
    body, ended, tail = rest.partition(closing)
    if not (begun and ended):
        return rest, None
    body = body.rpartition(opening)[2]  # a command that ran twice, see `_TOGETHER`
    code = tail.split(b"\n", 1)[0]
    return body, int(code) if re.fullmatch(rb"[0-9]{1,3}", code) else None
