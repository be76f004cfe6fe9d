"""The bytes of large files on a host, hashed by a job of low priority, and the record of files with wrong bytes.

A hash of many gigabytes is too long for the read of a plan. So the hash writes each file with wrong bytes into `RECORD`
on the host, and the ordinary read gives the entries that still hold: an entry holds as long as nobody has written to
the file or replaced the file since. A plan and a deploy of any operator then see the damage without a flag.
Sources: stat(1) of coreutils, `%.9Y` and `%.9Z`; `pos` in /proc/PID/fdinfo, proc(5); ionice(1): the idle class counts
with the BFQ scheduler alone, mq-deadline takes the class for its lowest priority, and `none` has no priorities.
"""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from provision.command import Run, Script, sh
from provision.steps.base import Content

RECORD_NAME = "damaged"
RECORD = f"/var/lib/provision/{RECORD_NAME}"
UNREADABLE = "unreadable"
"""Stands for the sha256 of a file with a read error."""
SLOWEST = 5_000_000  # bytes a second, at the lowest priority on a host whose processors are busy: slower is given up
USUAL = 500_000_000  # bytes a second, of a SATA SSD, or of sha256 without the processor's own instructions
LEAST = 600.0  # seconds for any hash
MOST = 24 * 3600.0

# A file's number in its folder, its size, and the times of the last change of its bytes and of its inode: the same as
# long as nobody has written to the file. Without the number of the device, which may change at a boot.
IDENTITY = r"""
identity() { stat -c '%i:%s:%.9Y:%.9Z' -- "$1" 2>/dev/null; }
"""

# Prints `SHA256 PATH` of every file whose record holds. Costs no process on a host without a record.
STILL_DAMAGED = (
    IDENTITY
    + rf"""
damaged() {{
  [ -s {RECORD} ] || return 0
  while read -r id is path; do
    [ "$(identity "$path")" != "$id" ] || printf '%s %s\n' "$is" "$path"
  done <{RECORD}
}}
"""
)

# $1 record; then two words for each file: path and wanted sha256. Prints a line for each file: `is NUMBER SHA256`,
# `is NUMBER unreadable: REASON`, `gone NUMBER` or `changed NUMBER`, with the number of the file from 1; between them
# `at BYTES of BYTES SECONDS`. A file that several paths name, by hard links or linked folders, is hashed once.
HASH = Script(
    "content/hash",
    IDENTITY
    + r"""
record=$1; shift
umask 077
work=$(mktemp -d)
pid=
trap '[ -z "$pid" ] || kill "$pid" 2>/dev/null || :; rm -rf -- "$work"' EXIT
trap 'exit 143' TERM INT HUP
low='nice -n 19'
! command -v ionice >/dev/null || low="$low ionice -c 3"
seconds() { read -r now rest </proc/uptime; now=${now%%.*}; }
size() { stat -c %s -- "$1" 2>/dev/null || echo 0; }
keep() ( # path, entry: replaces the entry of the path in the record; an empty entry removes it
  [ -f "$record" ] || [ "$2" ] || exit 0
  mkdir -p -- "${record%/*}"
  { [ ! -f "$record" ] || while read -r id is path; do
      [ "$path" = "$1" ] || printf '%s %s %s\n' "$id" "$is" "$path"
    done <"$record"
    [ -z "$2" ] || printf '%s %s\n' "$2" "$1"; } >"$record.new"
  if [ -s "$record.new" ]; then mv -f -- "$record.new" "$record"; else rm -f -- "$record.new" "$record"; fi
)
told() { seconds; echo "at $1 of $total $((now - begun))"; } # bytes
hash() { # path, size: sets `is`
  { exec $low sha256sum; } <"$1" >"$work/sum" 2>"$work/why" &
  pid=$! waited=0
  while [ "$2" -gt 100000000 ] && kill -0 "$pid" 2>/dev/null; do
    sleep 0.5; waited=$((waited + 1))
    at=$(sed -n 's/^pos:[[:space:]]*//p' "/proc/$pid/fdinfo/0" 2>/dev/null) || at=
    [ $((waited % 10)) -ne 0 ] || told $((hashed + ${at:-0}))
  done
  if wait "$pid"; then is=$(cut -c1-64 "$work/sum"); else is=unreadable; fi
  pid=
}
: >"$work/seen"
total=0
i=0
for word do
  i=$((i + 1)); [ $((i % 2)) -eq 1 ] || continue
  total=$((total + $(size "$word")))
done
seconds; begun=$now hashed=0 number=0
told 0
while [ $# -ge 2 ]; do
  path=$1 wanted=$2; shift 2
  number=$((number + 1))
  if [ ! -f "$path" ] || [ -L "$path" ] || ! before=$(identity "$path"); then echo "gone $number"; continue; fi
  bytes=$(size "$path") file=$(stat -c %d:%i -- "$path")
  is=$(sed -n "s/^$file //p" "$work/seen" | tail -n 1)
  if [ -z "$is" ]; then
    hash "$path" "$bytes"
    if [ "$(identity "$path")" != "$before" ]; then echo "changed $number"; continue; fi
    echo "$file $is" >>"$work/seen"
  fi
  hashed=$((hashed + bytes))
  if [ "$is" = "$wanted" ]; then keep "$path" ''; else keep "$path" "$before $is"; fi
  [ "$is" != unreadable ] || is="$is: $(head -c 300 "$work/why" | tr '\n' ' ')"
  echo "is $number $is"
done
told "$hashed"
""",
)


def command(contents: Sequence[Content], record: str = RECORD) -> Run:
    """Return the job that hashes files, each once. Equal files in the same order are the same job.

    Args:
        contents: the files; a path may occur once.
        record: path of the record on the host.
    """
    words = [word for content in contents for word in (content.path, content.sha256)]
    total = sum(content.size for content in contents)
    limit = min(MOST, LEAST + total // SLOWEST)
    return sh(HASH, record, *words, title="hash files", timeout=limit, job=True, progress=progress)


_AT = re.compile(r"at (\d{1,18}) of (\d{1,18}) (\d{1,9})")


def progress(line: str) -> str | None:
    """Return the text to show for one line of the job: how far the hash is, and about how long the rest takes.

    Args:
        line: of the job's output.
    """
    at = _AT.fullmatch(line)
    if at is None:
        return None
    done, total, seconds = map(int, at.groups())
    rate = done / seconds if done and seconds else USUAL
    left = f"about {minutes((total - done) / rate)} left"
    return f"hashed {gigabytes(done)} of {gigabytes(total)}, {left}" if done < total else None


def announced(contents: Collection[Content]) -> str:
    """Return the text to show before the first file: how much is hashed, and about how long a hash takes.

    Args:
        contents: the files.
    """
    total = sum(content.size for content in contents)
    files = f"{len(contents)} file{'s' if len(contents) != 1 else ''}"
    return f"waiting for the hashes of {files}, {gigabytes(total)}: about {minutes(total / USUAL)} at 500 MB/s"


def gigabytes(size: int) -> str:
    """Return bytes for people, in powers of 1000."""
    return f"{size / 10**9:.1f} GB" if size >= 10**8 else f"{size / 10**6:.1f} MB"


def minutes(seconds: float) -> str:
    """Return a duration for people, rounded up."""
    return f"{int(seconds) + 1} s" if seconds < 100 else f"{int(seconds / 60) + 1} min"


@dataclass
class Hashes:
    """What a job says of files, line by line.

    Args:
        contents: the files of the job, in its order.
        found: path -> sha256, or `unreadable` and the reason, of the files said so far.
        problems: path -> why a file has no hash.
    """

    contents: Sequence[Content]
    found: dict[str, str] = field(default_factory=dict)
    problems: dict[str, str] = field(default_factory=dict)

    def take(self, line: str) -> None:
        """Take one line of the job's output. A line of another form says nothing.

        Args:
            line: of the job's output.
        """
        said = re.fullmatch(r"(is|gone|changed) (\d{1,6})(?: ([0-9a-f]{64}|unreadable.*))?", line)
        if said is None or not 1 <= int(said[2]) <= len(self.contents):
            return
        path = self.contents[int(said[2]) - 1].path
        if said[1] == "is" and said[3]:
            self.found[path] = said[3].strip()
        else:
            self.problems[path] = {"gone": "the file is gone"}.get(said[1], "the file changed while it was hashed")


def parse_record(lines: Sequence[str]) -> Mapping[str, str]:
    """Return path -> sha256 of the files with wrong bytes.

    Args:
        lines: output of the shell function `damaged`.
    """
    pairs = (line.partition(" ") for line in lines)
    return {path: is_now for is_now, _, path in pairs if path}
