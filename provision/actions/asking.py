"""Ask every selected host a question, in a command that is no run."""

from collections.abc import Callable
from typing import TypeVar

from provision.actions import exit_code
from provision.actions.request import Request
from provision.actions.results import Answers
from provision.errors import HostError
from provision.inventory import Host
from provision.plan import role_interface
from provision.ssh.fanout import each
from provision.ssh.session import Session

T = TypeVar("T")


def ask(request: Request, work: Callable[[Host, Session], T]) -> Answers[T]:
    """Ask every host that a request selects.

    Args:
        request: selects the hosts.
        work: asks one host; may raise HostError.
    """
    inventory = role_interface.load(request.inventory, request.overrides)
    answers = each(inventory.select(request.limit), work, request.become_password, request.forks)
    errors = [answer for _, answer in answers if isinstance(answer, HostError)]
    return Answers(inventory, answers, exit_code.of_errors(errors))
