"""How the speed of an instance is measured: a short answer while no other request is under way.

The speed is the server's own account, `eval_count` and `eval_duration` (docs/facts.md#ollama-api): a wait in a queue, a
load and the way to the client do not count. Requests are seen by the connections in the network namespace of the
container. A connection of a balancer stays open between two requests, so an open connection is no request. A server
that received something after it last sent something owes an answer; a server that sent something within the last second
may be in a stream. Source: `lastsnd` and `lastrcv` of ss(8), milliseconds, left out where 0.
"""

from collections.abc import Mapping
from typing import Any

PROMPT = "Count from one to twenty in words."
TOKENS = 16
LEAST_TOKENS = 8
"""A shorter answer says nothing of the speed."""
TRIES = 3  # a short request of another proof may be under way

# Sets `quiet`: `yes`, or the reason why a measured speed says nothing. `still_quiet` asks about the time since
# `await_quiet`.
IN_FLIGHT = rf"""
uptime_ms() {{ read -r up rest </proc/uptime; up=${{up%.*}}${{up#*.}}; echo "${{up#0}}0"; }}
in_flight() {{ # container, milliseconds
  pid=$(docker inspect --type container --format '{{{{.State.Pid}}}}' "$1" 2>/dev/null) || pid=
  case $pid in '' | 0 | *[!0-9]*) echo unknown; return ;; esac
  open=$(nsenter -t "$pid" -n ss -Htni state established 'sport = :11434' 2>/dev/null) || {{ echo unknown; return; }}
  printf '%s\n' "$open" | awk -v within="$2" '
    !/ rto:/ {{ client = substr($4, 1, 80) }}
    / rto:/ {{
      sent = received = 0
      for (n = 1; n <= NF; n++) {{
        if ($n ~ /^lastsnd:/) sent = substr($n, 9) + 0
        if ($n ~ /^lastrcv:/) received = substr($n, 9) + 0
      }}
      if (sent < within || received + 100 < sent) busy = "yes " client ", sent " sent ", received " received " ms ago"
    }}
    END {{ print busy ? busy : "no" }}'
}}
judged() {{ # the answer of in_flight
  case $1 in
    no) quiet=yes ;;
    yes*) quiet="other requests were under way (client ${{1#yes }})" ;;
    *) quiet='nobody knows whether other requests were under way (ss in its network namespace said nothing)' ;;
  esac
}}
await_quiet() {{ # container
  tries={TRIES}
  judged "$(in_flight "$1" 1000)"
  while [ "$quiet" != yes ] && [ "$tries" -gt 1 ]; do
    tries=$((tries - 1)); sleep 1
    judged "$(in_flight "$1" 1000)"
  done
  asked_at=$(uptime_ms)
}}
still_quiet() {{ # container
  [ "$quiet" = yes ] || return 0
  judged "$(in_flight "$1" $(($(uptime_ms) - asked_at + 1000)))"
}}
"""


def rate_of(last: Mapping[str, Any]) -> float:
    """Return the tokens per second by a server's own account; 0.0 for an answer that says too little.

    Args:
        last: the last frame of an answer; `eval_duration` is in nanoseconds.
    """
    count, duration = last.get("eval_count"), last.get("eval_duration")
    if not isinstance(count, int) or not isinstance(duration, int) or count < LEAST_TOKENS or duration <= 0:
        return 0.0
    return count / (duration / 1e9)
