"""The last minutes of a balancer by its access log: requests, tokens and times to the first token of each instance.

The balancer reads the end of the log, at most `TAIL` bytes, and adds the lines up. A histogram stands for the times, so
that the times of several balancers can be put together; a bucket is 10 % wider than the bucket before.

Sources: nginx's `escape=json` puts a backslash before every quote of a value, so `,"name":"` is never inside of a
value. `$upstream_header_time` is the time to the first byte of an answer, and an instance sends the header of a stream
with the first token (docs/facts.md#nginx-streams). After several tries a variable is a list, and the last entry is of
the answering instance. Where no instance was there, the place is the name of the upstream (nginx's documentation of
ngx_http_upstream_module).
"""

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from provision.command import Answer, Run, Script, look
from provision.errors import FactError
from provision.steps.nginx_paths import LOGS

TITLE = "last minutes of the access log"
TAIL = 16 << 20
"""Bytes of the end of the log to read: about 30 000 requests."""
MOST = 2000  # instances of a balancer
BUCKETS = 400
GROWTH = 1.1
LEAST = 0.001  # seconds; the upper end of the first bucket
LIMIT = 60.0

# $1 folder of the logs, $2 seconds back, $3 bytes, $4 instances. A log that was rotated within the time is read too.
# The present is the balancer's own, as the times of its log are.
RECENT = Script(
    "nginx/recent",
    r"""
folder=$1 seconds=$2 tail=$3 most=$4
[ -d "$folder" ] || { echo end; exit 0; }
cd -- "$folder" || exit
now=$(date +%s)
since=$((now - seconds))
lines() {
  for file in access.log.1 access.log; do
    [ -f "$file" ] && [ -s "$file" ] && [ "$(stat -c %Y -- "$file")" -ge "$since" ] || continue
    [ "$(stat -c %s -- "$file")" -le "$tail" ] || echo '!cut'
    tail -c "$tail" -- "$file"
    echo
  done
}
lines | { ulimit -v 1048576; exec nice -n 19 awk -v since="$since" -v now="$now" -v most="$most" '
function value(name, longest,   at, rest, end) {
  at = index($0, ",\"" name "\":\"")
  if (!at) return ""
  rest = substr($0, at + length(name) + 5, longest + 1)
  end = index(rest, "\"")
  rest = end ? substr(rest, 1, end - 1) : "?"
  return index(rest, "\\") ? "?" : rest
}
function last(text) { sub(/^.*[, ]/, "", text); return text }
function whole(text) { return text ~ /^[0-9]+$/ ? text + 0 : 0 }
function days(year, month, day) {
  if (month < 3) { year--; month += 12 }
  day += int((153 * (month - 3) + 2) / 5) - 719469
  return 365 * year + int(year / 4) - int(year / 100) + int(year / 400) + day
}
function moment(text,   offset, date) {
  if (text !~ /^[0-9][0-9][0-9][0-9]-[0-9][0-9]-[0-9][0-9]T[0-9][0-9]:[0-9][0-9]:[0-9][0-9][+-][0-9][0-9]:[0-9][0-9]$/)
    return -1
  date = substr(text, 1, 10)
  if (date != day) {
    day = date
    midnight = 86400 * days(substr(text, 1, 4) + 0, substr(text, 6, 2) + 0, substr(text, 9, 2) + 0)
  }
  offset = substr(text, 21, 2) * 3600 + substr(text, 24, 2) * 60
  if (substr(text, 20, 1) == "-") offset = -offset
  return midnight + substr(text, 12, 2) * 3600 + substr(text, 15, 2) * 60 + substr(text, 18, 2) - offset
}
$0 == "" { next }
$0 == "!cut" { cut = 1; next }
{
  at = substr($0, 1, 7) == "{\"ts\":\"" && substr($0, 33, 1) == "\"" ? moment(substr($0, 8, 25)) : -1
  if (at < 0) { unread++; next }
  if (cut && !first) first = at
  if (at < since || at > now + 300) next
  place = index($0, ",\"status\":")
  status = substr($0, place + 10, 3)
  if (!place || status !~ /^[0-9][0-9][0-9]$/) { unread++; next }
  reached = value("up_status", 200)
  name = last(value("up", 400))
  if (name !~ /:[0-9]+$/) { refused++; if (status >= 500) unserved++; next }
  if (status != 499 && (reached == "" || reached == "-" || (status >= 400 && last(reached) != status))) {
    refused++; if (status >= 500) unserved++
    next
  }
  if (!(name in requests) && ++names > most) name = "?"
  requests[name]++
  if (status >= 500) failed[name]++
  text = value("tokens_out", 12)
  if (text != "") { counted[name]++; out[name] += whole(text) }
  urt = last(value("urt", 200)); uht = last(value("uht", 200))
  if (urt ~ /^[0-9]+\.[0-9]+$/) seconds_[name] += urt
  if (status < 400 && uht ~ /^[0-9]+\.[0-9]+$/) {
    bucket = uht <= 0.001 ? 0 : int(log(uht / 0.001) / log(1.1)) + 1
    times[name "\" " (bucket > 399 ? 399 : bucket)]++
  }
}
END {
  for (name in requests)
    printf "instance [\"%s\",%.0f,%.0f,%.0f,%.0f,%.3f]\n", name, requests[name], failed[name], counted[name], \
      out[name], seconds_[name]
  for (key in times) {
    place = index(key, "\" ")
    printf "time [\"%s,%s,%.0f]\n", substr(key, 1, place), substr(key, place + 2), times[key]
  }
  printf "refused %.0f\nunserved %.0f\nunread %.0f\n", refused, unserved, unread
  covered = now - since
  if (cut && first - since > 0) covered = now - first
  printf "covered %.0f\n", covered
}'; } || exit
echo end
""",
)


@dataclass(frozen=True)
class Recent:
    """The requests of an instance in the last minutes, as one or several balancers saw them.

    Args:
        requests: number of requests that reached the instance.
        failed: number of requests that the instance answered with a status from 500 on.
        counted: number of requests with known tokens.
        tokens: tokens of the answers.
        seconds: time that the instance took for the requests together.
        times: number of a bucket -> number of first tokens; see `quantile`.
    """

    requests: int = 0
    failed: int = 0
    counted: int = 0
    tokens: int = 0
    seconds: float = 0.0
    times: Mapping[int, int] = field(default_factory=dict)

    def quantile(self, share: float) -> float | None:
        """Return the time to the first token that a share of the requests kept, in seconds; at most 10 % too long.

        Args:
            share: such as 0.95.
        """
        total = sum(self.times.values())
        left = math.ceil(share * total)
        for bucket, number in sorted(self.times.items()):
            left -= number
            if left <= 0:
                return LEAST * GROWTH**bucket
        return None


@dataclass(frozen=True)
class RecentLog:
    """The last minutes of a balancer.

    Args:
        instances: `ADDRESS:PORT` of the answering instance -> requests. `?` stands for further instances.
        refused: requests that the balancer answered itself.
        unserved: those of them with a status from 500 on: no instance was there.
        unread: lines that are no requests.
        covered: seconds that the read part of the log goes back.
    """

    instances: Mapping[str, Recent] = field(default_factory=dict)
    refused: int = 0
    unserved: int = 0
    unread: int = 0
    covered: int = 0


def together(parts: Iterable[Recent]) -> Recent:
    """Add up the requests of an instance, as several balancers saw them.

    Args:
        parts: of each balancer.
    """
    every = list(parts)
    times: Counter[int] = Counter()
    for part in every:
        times.update(part.times)
    return Recent(
        requests=sum(part.requests for part in every),
        failed=sum(part.failed for part in every),
        counted=sum(part.counted for part in every),
        tokens=sum(part.tokens for part in every),
        seconds=sum(part.seconds for part in every),
        times=dict(times),
    )


def command(seconds: int, folder: str = LOGS) -> Run:
    """Return the read-only command that adds up the last minutes.

    Args:
        seconds: how far back.
        folder: folder of the logs on the host.
    """
    return look(RECENT, folder, str(seconds), str(TAIL), str(MOST), title=TITLE, timeout=LIMIT)


def read(answer: Answer) -> RecentLog:
    """Return the last minutes of a balancer.

    Args:
        answer: to `command`.

    Raises:
        FactError: the answer is not whole.
    """
    lines = answer.text.splitlines()
    if answer.exit or not lines or lines[-1] != "end":
        raise FactError("the access log cannot be read", exit_status=answer.exit, stderr=answer.complaint)
    numbers = dict.fromkeys(("refused", "unserved", "unread", "covered"), 0)
    rows: dict[str, list[float]] = {}
    times: dict[str, dict[int, int]] = {}
    try:
        for line in lines[:-1]:
            word, _, rest = line.partition(" ")
            if word in numbers:
                numbers[word] = int(_count(float(rest)))
            elif word == "instance":
                name, *row = json.loads(rest)
                rows[_name(name)] = [_count(value) for value in row]
            elif word == "time":
                name, bucket, number = json.loads(rest)
                times.setdefault(_name(name), {})[int(_count(bucket)) % BUCKETS] = int(_count(number))
        instances = {name: _recent(row, times.get(name, {})) for name, row in rows.items()}
    except (ValueError, TypeError, IndexError, RecursionError) as error:
        raise FactError(f"the sums of the access log are unreadable: {error}"[:400]) from None
    return RecentLog(instances, **numbers)


def _recent(row: list[float], times: Mapping[int, int]) -> Recent:
    requests, failed, counted, tokens, seconds = row
    return Recent(int(requests), int(failed), int(counted), int(tokens), seconds, times)


def _name(value: Any) -> str:
    if not isinstance(value, str) or len(value) > 410:
        raise ValueError("a name is no text")
    return value


def _count(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 10**18:
        raise ValueError("a number is no number")
    return value
