"""A planned switch of the common address, without a lost stream: the commands on both balancers.

A stream cannot move between two kernels. So new connections go ahead of the address: rules on the holder note each new
connection in a set, and send its packets unchanged to the next balancer, as a director with direct routing does. The
next balancer answers the client itself. A reload of nginx on the holder closes idle connections, and closes connections
in use behind their answer, so clients open new ones. Streams of the holder go on there until they end, in worker
processes that began before the reload. The address moves when these have ended.

The set decides, and not the connection tracking: an old packet that the tracking calls invalid would reach the next
balancer, whose reset would end a stream of the holder.
"""

from collections.abc import Sequence

from provision.command import READ_TIMEOUT, Answer, Run, Script, look, sh
from provision.steps.keepalived.layout import CHECK, RUN, STANDBY, UNIT
from provision.steps.nginx_paths import PID
from provision.steps.nginx_paths import UNIT as NGINX

TABLE = "provision_handover"
UNDO_UNIT = "provision-handover.service"
POLL = 5  # seconds that one count of requests may wait on the holder
TAKES = 5  # seconds within which the next balancer has to have the address
SILENCE = 60  # seconds without a word of the run, after which the holder takes new connections back
NOTED = 262_144  # connections in the set; a connection beyond is served by the holder

_WORD = f"{RUN}/handover"  # the time of the last word of the run, in seconds since the boot
_TELL = f"cut -d. -f1 /proc/uptime >{_WORD}.new\nmv {_WORD}.new {_WORD}\n"
# The run may have been silent for so long that the holder took new connections back: these would be cut.
_STILL = (
    f"nft list chain ip {TABLE} begun 2>/dev/null | grep -q update"
    " || { echo 'the holder has taken new connections back' >&2; exit 1; }\n"
)
# $1 seconds for the streams of the next balancer, $2 watch or now.
_UNDO = f"""
while [ "$2" = watch ]; do
  word=$(cat {_WORD}) || word=0
  [ $(($(cut -d. -f1 /proc/uptime) - word)) -lt {SILENCE} ] || break
  sleep 2
done
nft flush chain ip {TABLE} begun
echo 0 >{STANDBY}
sleep "$1"
nft delete table ip {TABLE}
"""
_STOP = f"systemctl stop {UNDO_UNIT} 2>/dev/null || :\nsystemctl reset-failed {UNDO_UNIT} 2>/dev/null || :\n"
_START = f"systemd-run --quiet --collect --unit={UNDO_UNIT} /bin/sh -c '{_UNDO}' handover"
# $1 address, $2 ports, $3 address of the next balancer, $4 interface, $5 seconds for streams. Prints the processes of
# nginx that began before the reload; nothing where nginx does not reload.
_BEGIN = Script(
    "keepalived/begin-handover",
    f"""
{_STOP}{_TELL}{_START} "$5" watch
nft -f - <<END
table ip {TABLE}
delete table ip {TABLE}
table ip {TABLE} {{
  set moved {{
    type ipv4_addr . inet_service . inet_service
    size {NOTED}
    flags dynamic, timeout
    timeout $5s
  }}
  chain begun {{
    ct state {{ new, untracked }} update @moved {{ ip saddr . tcp sport . tcp dport }}
  }}
  chain on {{
    update @moved {{ ip saddr . tcp sport . tcp dport }} dup to $3 device "$4" drop
  }}
  chain prerouting {{
    type filter hook prerouting priority mangle; policy accept;
    iifname "$4" ip daddr $1 tcp dport {{ $2 }} tcp flags & (fin | syn | rst | ack) == syn jump begun
    ip daddr $1 ip saddr . tcp sport . tcp dport @moved jump on
  }}
}}
END
master=$(cat {PID} 2>/dev/null) || exit 0
workers=$(cat "/proc/$master/task/$master/children" 2>/dev/null) || exit 0
systemctl reload {NGINX} >/dev/null 2>&1 || exit 0
echo "$workers"
""",
)
# $1 seconds for the streams that the next balancer has.
_TAKE_BACK = Script(
    "keepalived/take-back-connections",
    f"""
nft flush chain ip {TABLE} begun 2>/dev/null || exit 0
echo 0 >{STANDBY}
{_STOP}{_START} "$1" now
""",
)
_END = Script("keepalived/end-handover", f"{_STOP}nft delete table ip {TABLE} 2>/dev/null\necho 0 >{STANDBY}\n")
# $1 port of the status, $2 seconds, $3 processes of nginx that began before the handover, or empty. Prints the requests
# in progress without the script's own; 0 once these processes have ended. An empty $3 leaves the count of nginx alone.
_ACTIVE = Script(
    "keepalived/count-requests",
    f"""
{_STILL}{_TELL}
end=$(($(cut -d. -f1 /proc/uptime) + $2))
while :; do
  count=$(curl --noproxy '*' -sf -m 5 "http://127.0.0.1:$1/stub_status" | awk '/^Reading/{{print $2 + $4 - 1}}')
  case $count in '' | *[!0-9]*) echo "nginx does not count its requests" >&2; exit 1 ;; esac
  if [ -n "$3" ]; then
    old=
    for process in $3; do [ "$(cat /proc/$process/comm 2>/dev/null)" != nginx ] || old=yes; done
    if [ -z "$old" ]; then count=0; elif [ "$count" = 0 ]; then count=1; fi
  fi
  if [ "$count" = 0 ] || [ "$(cut -d. -f1 /proc/uptime)" -ge "$end" ]; then echo "$count"; exit; fi
  sleep 0.2
done
""",
)
_GIVE = Script("keepalived/give-address", f"{_STILL}{_TELL}echo 1 >{STANDBY}\n")
# $1 address, $2 yes or no, $3 tries, five in a second.
_HAS = Script(
    "keepalived/wait-for-address",
    """
for _ in $(seq "$3"); do
  case " $(ip -4 -o addr show | awk '{print $4}' | tr '\\n' ' ')" in *" $1/"*) now=yes ;; *) now=no ;; esac
  [ "$now" != "$2" ] || exit 0
  sleep 0.2
done
exit 1
""",
)
_WELL = Script(
    "keepalived/is-well",
    f"""
systemctl is-active --quiet {UNIT} || {{ echo "keepalived does not run: systemctl status {UNIT}" >&2; exit 1; }}
{CHECK} || {{ echo "nginx does not answer its generation" >&2; exit 1; }}
[ "$(cat {STANDBY} 2>/dev/null)" = 0 ] || {{ echo "this balancer has given the address away ({STANDBY})" >&2; exit 1; }}
""",
)


def well() -> Run:
    """Return the command that fails on a balancer that cannot take the address."""
    return look(_WELL, title="ask whether the balancer can take the address")


def begin(address: str, ports: tuple[int, ...], to: str, interface: str, seconds: int) -> Run:
    """Return the command by which the holder sends new connections to the next balancer; see `workers`.

    Without a word of the run for `SILENCE` seconds, the holder takes new connections back.

    Args:
        address: the common address.
        ports: its ports.
        to: IPv4 address of the next balancer.
        interface: the interface with the network of both.
        seconds: how long a connection may be silent, and how long the streams of the next balancer may go on after the
            holder has taken new connections back.
    """
    words = (address, ", ".join(map(str, ports)), to, interface, str(max(1, seconds)))
    return sh(_BEGIN, *words, title=f"send new connections to {to}")


def workers(answer: Answer) -> tuple[int, ...]:
    """Return the processes of nginx that finish the streams of the holder; none where nginx did not reload.

    Args:
        answer: to `begin`.
    """
    words = answer.text.split()
    return tuple(map(int, words)) if all(word.isdigit() for word in words) else ()


def active(status_port: int, seconds: int, processes: Sequence[int]) -> Run:
    """Return the command that waits until the streams of the holder have ended; see `count`.

    Args:
        status_port: nginx's port for its counters.
        seconds: the longest wait.
        processes: of `workers`. Without processes, the command waits until nginx has no request in progress.
    """
    words = (str(status_port), str(seconds), " ".join(map(str, processes)))
    return look(_ACTIVE, *words, title="count requests", timeout=seconds + READ_TIMEOUT)


def count(answer: Answer) -> int | None:
    """Return the requests in progress; None where nginx did not tell.

    Args:
        answer: to `active`.
    """
    text = answer.text.strip()
    return int(text) if answer.exit == 0 and text.isdigit() and len(text) < len("1000000") else None


def give() -> Run:
    """Return the command by which the holder gives the address away."""
    return sh(_GIVE, title="give the address away")


def wait_for(address: str, *, has: bool) -> Run:
    """Return the command that fails if a balancer does not get the address, or does not lose the address, in time.

    Args:
        address: the common address.
        has: whether the balancer has to get the address.
    """
    words = (address, "yes" if has else "no", str(TAKES * 5))
    return look(_HAS, *words, title=f"wait until {address} {'is here' if has else 'is gone'}")


def take_back(seconds: int) -> Run:
    """Return the command by which the holder serves new connections again; the next balancer finishes its streams.

    Args:
        seconds: how long these streams may go on; then they are cut.
    """
    return sh(_TAKE_BACK, str(max(1, seconds)), title="take new connections back")


def end() -> Run:
    """Return the command that ends a handover. The next balancer keeps its streams if it has the address by now."""
    return sh(_END, title="end the handover")
