"""Ask every selected host a question, in a command that is no run."""

from collections.abc import Callable, Sequence
from typing import TypeVar

from provision.actions import exit_code
from provision.actions.request import Request
from provision.actions.results import Answers
from provision.errors import HostError
from provision.inventory import Host
from provision.plan import role_interface
from provision.runs.setup import Setup
from provision.ssh.fanout import each
from provision.ssh.transport import Transport

T = TypeVar("T")


def setup_of(request: Request) -> Setup:
    """Return the setup of a request: the request's own, or the setup of the command line."""
    return request.setup or Setup()


def on_each(
    request: Request, hosts: Sequence[Host], work: Callable[[Host, Transport], T]
) -> list[tuple[Host, T | HostError]]:
    """Call `work` for every host; see `fanout.each`.

    Args:
        request: says how hosts are reached, and how many at a time.
        hosts: the hosts.
        work: asks one host; may raise HostError.
    """
    setup = setup_of(request)
    return each(hosts, work, lambda host: setup.transport(host.connection, request.become_password), request.forks)


def ask(request: Request, work: Callable[[Host, Transport], T], *, served: bool = True) -> Answers[T]:
    """Ask every host that a request selects.

    Args:
        request: selects the hosts.
        work: asks one host; may raise HostError.
        served: see `role_interface.load`.
    """
    inventory = role_interface.load(request.inventory, request.overrides, served=served)
    answers = on_each(request, inventory.select(request.limit), work)
    errors = [answer for _, answer in answers if isinstance(answer, HostError)]
    return Answers(inventory, answers, exit_code.of_errors(errors))
