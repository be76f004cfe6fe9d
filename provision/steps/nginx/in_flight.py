"""The requests that run between a balancer and its instances at this moment.

nginx keeps idle connections to instances and does not tell which connections work (docs/facts.md#nginx-upstream). The
kernel tells when each side sent last. On a working connection nginx has sent a request after the last byte of the
instance, or the instance has sent a part of an answer within the last seconds. So an answer counts for `STILL` seconds
after its end, and an instance that pauses for longer in the middle of an answer is not counted. The kernel's words are
those of `ss -i` (ss(8)).
"""

from collections.abc import Mapping
from functools import cache

from provision.command import Answer, Run, Script, look
from provision.steps.nginx import upstream
from provision.steps.nginx_paths import CONFIG

TITLE = "requests under way"
STILL = 2  # seconds
MOST = 4000  # instances

# $1 upstream.conf, $2 milliseconds, $3 instances. A zero value has no word in the output of ss.
SCRIPT = Script(
    "nginx/in-flight",
    r"""
upstream=$1 still=$2 most=$3
servers=$(sed -n 's/^[ \t]*server \([0-9.]*:[0-9]*\)[ ;].*/\1/p' "$upstream" 2>/dev/null | sort -u | head -n "$most")
[ -n "$servers" ] || { echo end; exit 0; }
{ printf '%s\n' "$servers"; echo; timeout 10 ss -HtniO state established 2>/dev/null; } |
  awk -v still="$still" '
function time(name,   at, rest) {
  at = index($0, " " name ":")
  if (!at) return 0
  rest = substr($0, at + length(name) + 2, 12)
  return rest + 0
}
$0 == "" { listed = 1; next }
!listed { count[$1] = 0; next }
{
  peer = $4
  if (!(peer in count)) next
  sent = time("lastsnd"); got = time("lastrcv")
  if (!index($0, " bytes_sent:")) next
  if (sent < got || got < still) count[peer]++
}
END { for (peer in count) print peer, count[peer] }'
echo end
""",
)


@cache
def command(folder: str = CONFIG) -> Run:
    """Return the read-only command whose answer `read` understands.

    Args:
        folder: folder of the configuration on the host.
    """
    words = (f"{folder}/{upstream.FILE}", str(STILL * 1000), str(MOST))
    return look(SCRIPT, *words, title=TITLE)


def read(answer: Answer) -> Mapping[str, int] | None:
    """Return `ADDRESS:PORT` of an instance -> requests under way; None where the answer is not whole.

    Args:
        answer: to `command`.
    """
    lines = answer.text.splitlines()
    if answer.exit or not lines or lines[-1] != "end":
        return None
    pairs = (line.split() for line in lines[:-1])
    return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2 and pair[1].isdecimal() and len(pair[1]) < 9}
