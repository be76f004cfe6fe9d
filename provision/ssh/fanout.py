"""The same few commands on many hosts at once, without a roll: the answer or the error of each host."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from provision.errors import BugError, HostError
from provision.inventory import Host, Mask
from provision.ssh.transport import Transport

T = TypeVar("T")


def each(
    hosts: Sequence[Host], work: Callable[[Host, Transport], T], connect: Callable[[Host], Transport], forks: int
) -> list[tuple[Host, T | HostError]]:
    """Call `work` for every host. A failed host does not stop the rest.

    Args:
        hosts: the hosts.
        work: asks one host; may raise HostError. The connection is closed afterwards.
        connect: makes the transport to a host.
        forks: hosts at the same time.

    Returns:
        every host with the result of `work` or the error, in the order of the hosts.
    """

    def ask(host: Host) -> tuple[Host, T | HostError]:
        session = connect(host)
        try:
            return host, work(host, session)
        except HostError as error:
            return host, error.masked(Mask(host.secrets()))
        except Exception as error:  # noqa: BLE001 - a bug on one host must not hide the answers of other hosts
            return host, BugError(error).masked(Mask(host.secrets()))
        finally:
            session.close()

    with ThreadPoolExecutor(max(1, min(forks, len(hosts))), thread_name_prefix="host") as pool:
        return list(pool.map(ask, hosts))
