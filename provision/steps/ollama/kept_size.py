"""The sizes of loaded models, kept on the host by the step that loads or tests an instance: `provision fit --measured`.

A record, and no wanted state: a plan neither reads nor compares the file. Source: `size`, `size_vram` and
`context_length` of `/api/ps`, docs/facts.md#ollama-api.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from provision.command import READ_TIMEOUT, Answer, Run, Script, look
from provision.steps.instance_paths import MEASURED
from provision.steps.ollama import server_state
from provision.steps.ollama.measured_size import MOST, Size

MOST_MODELS = 32
"""Lines of a file: the newest size of each model, the newest first."""
MOST_BYTES = 16_000  # of a file
MOST_INSTANCES = 64

# A failure to keep sizes is no failure of the load. Without the folder of provision there is no host of a run. A size
# that is kept already stays for a model that is not loaded now. The file takes the place of its predecessor as a whole,
# or not at all: a full disk costs no size that is kept already.
KEEP = rf"""
keep_sizes() {{ # container, answer of /api/ps
  folder={MEASURED}
  [ "$2" ] && [ -d "${{folder%/*}}" ] || return 0
  ( umask 077; mkdir -p "$folder"; now=$(date +%s)
    {{ printf '%s' "$2" | tr ',{{' '\n\n' |
        sed -n 's/^.*"\(name\|size\|size_vram\|context_length\)" *: *"\{{0,1\}}\([^]", }}]\{{1,300\}}\).*/\1 \2/p' |
        awk -v now="$now" '
          function tell() {{ if (name != "") print now, size + 0 ? size : 0, on_cards + 0 ? on_cards : 0,
            context + 0 ? context : 0, name; size = on_cards = context = 0 }}
          $1 == "name" {{ tell(); name = $2 }} $1 == "size" {{ size = $2 }} $1 == "size_vram" {{ on_cards = $2 }}
          $1 == "context_length" {{ context = $2 }}
          END {{ tell() }}'
      cat -- "$folder/$1" || :
    }} | awk 'NF == 5 && !seen[$5]++' | head -n {MOST_MODELS} | head -c {MOST_BYTES} >"$folder/.$1" &&
      mv -- "$folder/.$1" "$folder/$1" || rm -f -- "$folder/.$1" ) 2>/dev/null || :
}}
"""

READ = Script(
    "ollama/kept-sizes",
    rf"""
for file in {MEASURED}/*; do
  [ -f "$file" ] || continue
  printf '# %s\n' "${{file##*/}}"; head -c {MOST_BYTES} -- "$file"; echo
done | head -c {MOST_BYTES * MOST_INSTANCES}
""",
)

_NAME = re.compile(r"# ([A-Za-z0-9][A-Za-z0-9_.-]{0,127})")
_LINE = re.compile(r"(\d{1,11}) (\d{1,16}) (\d{1,16}) (\d{1,10}) (\S{1,300})")


@dataclass(frozen=True)
class Kept:
    """A size that a host has kept.

    Args:
        size: the size of the loaded model, as the server said.
        at: time of the measurement, in seconds since 1970 by the clock of the host.
    """

    size: Size
    at: int


def command() -> Run:
    """Return the read-only command for the kept sizes of a host."""
    return look(READ, title="look at the kept sizes of models", timeout=READ_TIMEOUT)


def kept(answer: Answer) -> tuple[Kept, ...]:
    """Return the kept sizes of a host. A line that makes no sense, or an impossible number, is left out.

    Args:
        answer: to `command`.
    """
    return tuple(_kept(answer.text)) if answer.exit == 0 else ()


def _kept(text: str) -> Iterator[Kept]:
    instance, seen = "", set[tuple[str, str]]()
    for line in text.splitlines():
        if named := _NAME.fullmatch(line):
            instance = named[1]
        elif instance and (found := _LINE.fullmatch(line)):
            at, size, on_cards, context = map(int, found.groups()[:4])
            key = (instance, model := server_state.canonical(found[5]))
            if 0 < size < MOST and on_cards <= size and context < MOST and key not in seen:
                seen.add(key)
                yield Kept(Size(instance, model, size, on_cards, context), at)
