"""The same few commands on many hosts at once, for what is no deploy: what each of them said, or why it did not."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from provision.errors import BugError, HostError
from provision.inventory import Host, Mask
from provision.ssh.session import Session

T = TypeVar("T")


def each(
    hosts: Sequence[Host], work: Callable[[Host, Session], T], become_password: str | None, forks: int
) -> list[tuple[Host, T | HostError]]:
    """Do this on every host; one that fails stops no other.

    Args:
        hosts: where.
        work: what; may raise HostError. The connection is closed after it.
        become_password: sudo's password (`-K`), or None for the inventory's.
        forks: hosts at the same time.

    Returns:
        every host with what `work` returned or the error, in the order of the hosts.
    """

    def one(host: Host) -> tuple[Host, T | HostError]:
        session = Session(host.connection, become_password)
        try:
            return host, work(host, session)
        except HostError as error:
            return host, error.masked(Mask(host.secrets()))
        except Exception as error:  # noqa: BLE001 - a bug on one host must not hide what the others said
            return host, BugError(error).masked(Mask(host.secrets()))
        finally:
            session.close()

    with ThreadPoolExecutor(max(1, min(forks, len(hosts))), thread_name_prefix="host") as pool:
        return list(pool.map(one, hosts))
