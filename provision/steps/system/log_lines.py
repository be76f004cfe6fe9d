"""The last lines of logs of a host, and lines as they come: of containers and of files.

Sources: the options of `docker logs` are of its own help; a follower of a rotated file is `tail -F`, tail(1). A line is
cut below PIPE_BUF, so that the lines of several followers in one pipe stay whole (pipe(7)).
"""

import datetime as dt
import re
from collections.abc import Sequence
from dataclasses import dataclass

from provision.command import Run, Script, look

LONGEST = 3000  # bytes of a line
MOST = 10_000  # lines of a source
BAD_PATTERN = 3
LIMIT = 60.0

# $1 `follow` or `once`, $2 lines of each source, $3 seconds since 1970 or nothing, $4 pattern of grep or nothing; then
# the sources, each as `container NAME` or `file PATH`. A follower lives as long as its standard input, which sshd
# closes at the end of the connection. `kill 0` ends the whole group of the exec. A quiet follower prints an empty line
# now and then, because only a write tells sshd that the other side is gone. `docker logs` ends with its container, so
# a follower begins again.
_SCRIPT = r"""
PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C; export PATH LC_ALL
mode=$1 lines=$2 since=$3 pattern=$4; shift 4
if [ -n "$pattern" ]; then
  grep -aE -e "$pattern" </dev/null >/dev/null 2>&1 || [ $? -eq 1 ] || exit BAD
fi
matching() { if [ -n "$pattern" ]; then grep --line-buffered -aE -e "$pattern"; else cat; fi; }
numbered() { stdbuf -oL cut -b 1-LONGEST | sed -u "s/^/$1 /"; }
of_container() {
  docker container inspect -- "$1" >/dev/null 2>&1 || return 0
  set -- --timestamps ${since:+--since "$since"} ${follow:+--follow} ${tail:+--tail "$tail"} "$1"
  docker logs "$@" 2>&1
}
of_file() { tail ${follow:+-F} -n "${tail:-+1}" -- "$1" 2>/dev/null; }
once() {
  follow= tail=
  [ -n "$since$pattern" ] || tail=$lines
  "of_$1" "$2" | tail -c 8388608 | matching | tail -n "$lines" | numbered "$3"
}
again() {
  follow=yes tail=$lines
  while :; do
    "of_$1" "$2" | matching | numbered "$3"
    now=$(date +%s)
    sleep 2
    since=$now tail=0
    [ "$1" = file ] || tail=
  done
}
number=0
if [ "$mode" = once ]; then
  while [ $# -gt 1 ]; do number=$((number + 1)); once "$1" "$2" "$number"; shift 2; done
  echo end
  exit
fi
exec 3<&0
while [ $# -gt 1 ]; do number=$((number + 1)); again "$1" "$2" "$number" </dev/null 3<&- & shift 2; done
while sleep 20; do echo; done 3<&- &
cat <&3 >/dev/null
trap '' TERM
kill 0
exit
"""
SCRIPT = Script("logs/lines", _SCRIPT.replace("BAD", str(BAD_PATTERN)).replace("LONGEST", str(LONGEST)))
_LINE = re.compile(r"([0-9]{1,4}) (.*)", re.DOTALL)
_STAMP = re.compile(
    r"([0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2})(\.[0-9]{1,9})?(Z|[+-][0-9]{2}:[0-9]{2}) ?"
)
_SLASHED = re.compile(r"([0-9]{4})/([0-9]{2})/([0-9]{2}) ([0-9]{2}:[0-9]{2}:[0-9]{2}) ")


@dataclass(frozen=True)
class Source:
    """A log of a host.

    Args:
        name: the name for operators.
        kind: `container` or `file`.
        place: name of the container, or path of the file.
    """

    name: str
    kind: str
    place: str


@dataclass(frozen=True)
class Line:
    """A line of a log.

    Args:
        source: name of the log.
        text: the line, without Docker's own time.
        at: seconds since 1970; None for a line without a time.
    """

    source: str
    text: str
    at: float | None = None


def command(sources: Sequence[Source], lines: int, since: int | None = None, pattern: str = "") -> Run:
    """Return the read-only command for the last lines.

    Args:
        sources: the logs.
        lines: lines of each log; at most `MOST`.
        since: earlier lines of containers are left out, in seconds since 1970; None for all.
        pattern: extended regular expression of grep; empty for all lines.
    """
    words = ("once", str(lines), "" if since is None else str(since), pattern)
    return look(SCRIPT, *words, *_words(sources), title="read logs", timeout=LIMIT)


def follower(sources: Sequence[Source], lines: int, since: int | None = None, pattern: str = "") -> Run:
    """Return the read-only command for the last lines and for all lines that come, for `Transport.follow`.

    Args:
        sources: the logs.
        lines: lines of each log from before; at most `MOST`.
        since: see `command`.
        pattern: see `command`.
    """
    words = ("follow", str(lines), "" if since is None else str(since), pattern)
    return look(SCRIPT, *words, *_words(sources), title="follow logs")


def _words(sources: Sequence[Source]) -> list[str]:
    return [word for source in sources for word in (source.kind, source.place)]


def parse(line: str, sources: Sequence[Source]) -> Line | None:
    """Return a line of the output; None for any other line.

    Args:
        line: without its end.
        sources: the logs of the command.
    """
    match = _LINE.fullmatch(line)
    if match is None or not 0 < int(match[1]) <= len(sources):
        return None
    source, text = sources[int(match[1]) - 1], match[2]
    if source.kind == "container" and (stamp := _STAMP.match(text)):
        return Line(source.name, text[stamp.end() :], _seconds(stamp))
    return Line(source.name, text, _time_in(text))


def _time_in(text: str) -> float | None:
    """Return the time of a line of a file: in ISO 8601 near its begin, or as nginx writes errors, in UTC."""
    if stamp := _STAMP.search(text[:60]):
        return _seconds(stamp)
    if slashed := _SLASHED.match(text):
        year, month, day, clock = slashed.groups()
        return _moment(f"{year}-{month}-{day}T{clock}+00:00")
    return None


def _seconds(stamp: re.Match[str]) -> float | None:
    whole = _moment(stamp[1] + stamp[3].replace("Z", "+00:00"))
    return None if whole is None else whole + float(stamp[2] or 0)


def _moment(text: str) -> float | None:
    try:
        return dt.datetime.fromisoformat(text).timestamp()
    except (ValueError, OverflowError):
        return None
