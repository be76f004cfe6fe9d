"""A planned switch of the common address, without a lost stream: the commands on both balancers.

A stream cannot move between two kernels. So new connections go ahead of the address: rules on the holder send each
packet of a new connection unchanged to the next balancer, as a director with direct routing does, and the next
balancer answers the client itself. Connections that the holder has already go on there, and the address moves when
they have ended. The rules know a new connection by the connection tracking of the holder. The tracking keeps no note of
a packet that the rules drop, so all packets of a new connection are new there, or invalid.
"""

from provision.command import READ_TIMEOUT, Answer, Run, Script, look, sh
from provision.steps.keepalived.layout import CHECK, STANDBY, UNIT

TABLE = "provision_handover"
UNDO_UNIT = "provision-handover"
POLL = 5  # seconds that one count of requests may wait on the holder
TAKES = 5  # seconds within which the next balancer has to have the address
MARGIN = 60  # seconds after the longest wait, when the holder undoes a handover that nobody ends

_UNDO = f"nft delete table ip {TABLE} 2>/dev/null; echo 0 >{STANDBY}"
# $1 address, $2 ports, $3 address of the next balancer, $4 interface, $5 seconds.
_BEGIN = Script(
    "keepalived/begin-handover",
    f"""
systemctl stop {UNDO_UNIT}.timer 2>/dev/null || :
systemctl reset-failed {UNDO_UNIT}.timer {UNDO_UNIT}.service 2>/dev/null || :
systemd-run --quiet --collect --unit={UNDO_UNIT} --on-active="$5" /bin/sh -c '{_UNDO}'
nft -f - <<END
table ip {TABLE}
delete table ip {TABLE}
table ip {TABLE} {{
  chain prerouting {{
    type filter hook prerouting priority mangle; policy accept;
    ip daddr $1 tcp dport {{ $2 }} ct state {{ new, invalid, untracked }} dup to $3 device "$4" drop
  }}
}}
END
""",
)
_END = Script("keepalived/end-handover", f"systemctl stop {UNDO_UNIT}.timer 2>/dev/null || :\n{_UNDO}\n")
# $1 port of the status, $2 seconds. Prints the requests in progress without the script's own.
_ACTIVE = Script(
    "keepalived/count-requests",
    """
end=$(($(cut -d. -f1 /proc/uptime) + $2))
while :; do
  count=$(curl --noproxy '*' -sf -m 5 "http://127.0.0.1:$1/stub_status" | awk '/^Reading/{print $2 + $4 - 1}')
  case $count in '' | *[!0-9]*) echo "nginx does not count its requests" >&2; exit 1 ;; esac
  if [ "$count" = 0 ] || [ "$(cut -d. -f1 /proc/uptime)" -ge "$end" ]; then echo "$count"; exit; fi
  sleep 0.2
done
""",
)
_GIVE = Script("keepalived/give-address", f"echo 1 >{STANDBY}\n")
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
    """Return the command by which the holder sends new connections to the next balancer.

    Args:
        address: the common address.
        ports: its ports.
        to: IPv4 address of the next balancer.
        interface: the interface with the network of both.
        seconds: after how long the holder undoes a handover that nobody has ended.
    """
    words = (address, ", ".join(map(str, ports)), to, interface, str(seconds))
    return sh(_BEGIN, *words, title=f"send new connections to {to}")


def active(status_port: int, seconds: int) -> Run:
    """Return the command that waits until nginx has no request in progress; see `count`.

    Args:
        status_port: nginx's port for its counters.
        seconds: the longest wait.
    """
    timeout = seconds + READ_TIMEOUT
    return look(_ACTIVE, str(status_port), str(seconds), title="count requests", timeout=timeout)


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


def end() -> Run:
    """Return the command that ends a handover, whatever came of it."""
    return sh(_END, title="end the handover")
