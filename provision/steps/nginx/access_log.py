"""Who used what, by the balancer's access log. The balancer adds up the lines: gigabytes of logs give a few rows.

Sources: nginx's `escape=json` puts a backslash before every quote of a value, so `,"name":"` is never inside of a
value; $time_iso8601 has an offset of hours and minutes; mawk(1) has no mktime in every version, and prints large
numbers in full by `%.0f` alone.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from provision.command import Answer, Run, Script, look
from provision.errors import FactError
from provision.steps.nginx_paths import LOGS

MOST = 5000
"""Rows of a balancer. Requests of further clients or models count as one row with `?`."""
LIMIT = 600.0  # seconds; a gigabyte takes 15 seconds of a processor
_LONGEST = 210  # characters of a name

# $1 folder of the logs, $2 seconds since 1970, $3 number of rows. Prints `begins SECONDS`, `row [...]`, the number of
# lines that are no requests, and the number of files that cannot be unpacked. A rotated file without a line since then
# is not read. The limit of memory is for awk, which keeps a whole line: nginx itself writes no long line.
USAGE = Script(
    "nginx/usage",
    r"""
folder=$1 since=$2 most=$3
[ -d "$folder" ] || { echo end; exit 0; }
cd -- "$folder" || exit
before=$(stat -c %i access.log 2>/dev/null)
content() { case $1 in *.gz) nice -n 19 gzip -dc -- "$1" ;; *) cat -- "$1" ;; esac; }
lines() {
  oldest= age=
  for file in access.log*; do
    [ -f "$file" ] && [ -s "$file" ] && time=$(stat -c %Y -- "$file") || continue
    if [ -z "$age" ] || [ "$time" -lt "$age" ]; then age=$time oldest=$file; fi
  done
  [ -z "$oldest" ] || printf '!first %s\n' "$(content "$oldest" 2>/dev/null | head -c 65536 | head -n 1)"
  for file in access.log*; do
    [ -f "$file" ] && [ -s "$file" ] && [ "$(stat -c %Y -- "$file")" -ge "$since" ] || continue
    content "$file" || printf '\n!damaged\n'
  done
}
lines | { ulimit -v 1048576; exec nice -n 19 awk -v since="$since" -v most="$most" '
function value(name, longest,   at, rest, end) {
  at = index($0, ",\"" name "\":\"")
  if (!at) return ""
  rest = substr($0, at + length(name) + 5, longest + 1)
  end = index(rest, "\"")
  rest = end ? substr(rest, 1, end - 1) : "?"
  return index(rest, "\\") ? "?" : rest
}
function whole(text) { return text ~ /^[0-9]+$/ ? text + 0 : 0 }
function days(year, month, day) {
  if (month < 3) { year--; month += 12 }
  day += int((153 * (month - 3) + 2) / 5) - 719469
  return 365 * year + int(year / 4) - int(year / 100) + int(year / 400) + day
}
function moment(text,   offset) {
  if (text !~ /^[0-9][0-9][0-9][0-9]-[0-9][0-9]-[0-9][0-9]T[0-9][0-9]:[0-9][0-9]:[0-9][0-9][+-][0-9][0-9]:[0-9][0-9]$/)
    return -1
  if (substr(text, 1, 10) != day) {
    day = substr(text, 1, 10)
    midnight = 86400 * days(substr(text, 1, 4) + 0, substr(text, 6, 2) + 0, substr(text, 9, 2) + 0)
  }
  offset = substr(text, 21, 2) * 3600 + substr(text, 24, 2) * 60
  if (substr(text, 20, 1) == "-") offset = -offset
  return midnight + substr(text, 12, 2) * 3600 + substr(text, 15, 2) * 60 + substr(text, 18, 2) - offset
}
BEGIN { begins = -1 }
$0 == "" { next }
$0 == "!damaged" { damaged++; next }
{
  isfirst = substr($0, 1, 7) == "!first "
  if (isfirst) $0 = substr($0, 8)
  text = substr($0, 1, 33)
  if (text != before) {
    before = text
    at = substr(text, 1, 7) == "{\"ts\":\"" && substr(text, 33) == "\"" ? moment(substr(text, 8, 25)) : -1
  }
  if (at >= 0 && (begins < 0 || at < begins)) begins = at
  if (isfirst || (at >= 0 && at < since)) next
  place = index($0, ",\"status\":")
  status = substr($0, place + 10, 3)
  if (at < 0 || !place || status !~ /^[0-9][0-9][0-9]$/) { unread++; next }
  kind = ""; reason = ""
  if (status >= 400 && status != 499) {
    reached = value("up_status", 200)
    kind = substr(reached, length(reached) - 2) == status ? "failed" : "refused"
    if (kind == "refused") reason = value("refused", 40)
  }
  group = "\"" value("name", 63) "\",\"" value("key", 8) "\",\"" value("model", 200) "\",\"" kind "\"," \
    (kind == "refused" ? status + 0 : 0) ",\"" reason "\""
  if (!(group in requests) && ++groups > most) {
    group = "\"?\",\"?\",\"?\",\"" kind "\"," (kind == "refused" ? status + 0 : 0) ",\"\""
  }
  requests[group]++
  text = value("tokens_in", 12)
  if (text == "" && kind != "refused") uncounted[group]++
  in_[group] += whole(text)
  out[group] += whole(value("tokens_out", 12))
  if (value("estimated", 5) == "true") estimated[group]++
  place = index($0, ",\"rt\":")
  text = place ? substr($0, place + 6, 16) : ""
  if (text ~ /^[0-9]+\.[0-9]/) seconds[group] += text
}
END {
  if (begins >= 0) printf "begins %.0f\n", begins
  for (group in requests)
    printf "row [%s,%.0f,%.0f,%.0f,%.3f,%.0f,%.0f]\n", group, requests[group], in_[group], out[group], seconds[group], \
      estimated[group], uncounted[group]
  printf "unread %.0f\ndamaged %.0f\n", unread, damaged
}'; } || exit
[ "$(stat -c %i access.log 2>/dev/null)" = "$before" ] || echo rotated
echo end
""",
)


@dataclass(frozen=True)
class Row:
    """Requests with the same client, key, model and outcome.

    Args:
        client: name of the client; empty for nobody.
        key: id of the key; empty without a key.
        model: name of the model; empty without a model.
        kind: empty; `refused` by the balancer; or `failed`, for an error of an instance.
        status: status of refusals; else 0.
        reason: reason of refusals in the words of the log; may be empty.
        requests: number of requests.
        tokens_in: tokens of the questions.
        tokens_out: tokens of the answers.
        seconds: duration of all requests together.
        estimated: number of requests whose tokens are estimated.
        uncounted: number of requests whose tokens nobody counted.
    """

    client: str
    key: str
    model: str
    kind: str
    status: int
    reason: str
    requests: int
    tokens_in: int
    tokens_out: int
    seconds: float
    estimated: int
    uncounted: int


@dataclass(frozen=True)
class AccessLog:
    """The requests of a balancer.

    Args:
        begins: when the logs begin, in seconds since 1970; None without a log.
        rows: the requests.
        unread: number of lines that are no requests.
        damaged: number of rotated files that cannot be unpacked.
    """

    begins: int | None
    rows: Sequence[Row]
    unread: int
    damaged: int


def command(since: int, folder: str = LOGS, most: int = MOST) -> Run:
    """Return the read-only command that adds up the access logs of a balancer.

    Args:
        since: earlier requests are left out, in seconds since 1970.
        folder: folder of the logs on the host.
        most: greatest number of rows.
    """
    return look(USAGE, folder, str(since), str(most), title="usage by the access log", timeout=LIMIT)


def read(answer: Answer) -> AccessLog:
    """Return the requests of a balancer.

    Args:
        answer: to `command`.

    Raises:
        FactError: the answer is not whole, or the log was rotated meanwhile.
    """
    lines = answer.text.splitlines()
    if "rotated" in lines:
        raise FactError("the access log was rotated while the balancer read the log", "type the command again")
    if answer.exit or not lines or lines[-1] != "end":
        hint = "try `awk --version` and `ls -l /var/log` on the host by hand" if not answer.complaint else ""
        raise FactError("the access log cannot be read", hint, exit_status=answer.exit, stderr=answer.complaint)
    numbers, rows = {"unread": 0, "damaged": 0}, []
    try:
        for line in lines:
            word, _, rest = line.partition(" ")
            if word == "row":
                rows.append(_row(json.loads(rest)))
            elif word in ("begins", "unread", "damaged"):
                numbers[word] = int(rest)
    except (ValueError, RecursionError) as error:
        raise FactError(f"the sums of the access log are unreadable: {error}"[:400]) from None
    return AccessLog(numbers.get("begins"), rows, numbers["unread"], numbers["damaged"])


def _row(values: Any) -> Row:
    """Return a row of the answer.

    Raises:
        ValueError: the values are no row.
    """
    texts, counts = (0, 1, 2, 3, 5), (4, 6, 7, 8, 9, 10, 11)
    if not isinstance(values, list) or len(values) != len(texts) + len(counts):
        raise ValueError("a row has another number of values")
    if not all(isinstance(values[place], str) and len(values[place]) <= _LONGEST for place in texts):
        raise ValueError("a name of a row is no text")
    if not all(_is_count(values[place]) for place in counts):
        raise ValueError("a number of a row is no number")
    return Row(*values)


def _is_count(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 10**18
