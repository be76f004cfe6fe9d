"""What `provision status` asks a host, in one exec, and the parsed answers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from provision.errors import HostError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from provision.command import Answer, Run
    from provision.inventory import Host, Inventory
    from provision.runs.history import Entry
    from provision.runs.lock import Holder
    from provision.runs.setup import Setup
    from provision.steps.card_load import Load
    from provision.steps.instance.served import Served
    from provision.steps.nginx.balancer_state import BalancerState
    from provision.steps.nginx.recent_log import RecentLog

Answers = dict[str, "Answer"]


@dataclass(frozen=True)
class ContainerState:
    """The container of an instance.

    Args:
        status: in Docker's words, such as `running` or `exited`.
        answers: `yes`, or the error of the request; empty for a container that does not run.
        cards: UUIDs of the cards given to the container.
        sees: UUIDs of the cards that nvidia-smi lists inside; None where nobody looked.
        said: the words of nvidia-smi inside, where they list no card.
        served: the models in memory; None for an engine that does not tell.
    """

    status: str
    answers: str = ""
    cards: tuple[str, ...] = ()
    sees: tuple[str, ...] | None = None
    said: str = ""
    served: Served | None = None


@dataclass(frozen=True)
class Instances:
    """The instances and the cards of a gpu host.

    Args:
        containers: name -> container.
        load: the cards.
        error: why the containers are unknown; empty where Docker answered.
    """

    containers: Mapping[str, ContainerState]
    load: Load
    error: str = ""


@dataclass(frozen=True)
class Balancer:
    """A balancer.

    Args:
        state: its configuration and its server; None where unreadable.
        error: why the state is unknown; else empty.
        log: the last minutes; None where unreadable.
        log_error: why the log is unreadable; else empty.
        in_flight: `ADDRESS:PORT` of an instance -> requests under way; None where unknown.
        vip: the common address; empty for none.
        holds: whether the balancer has the common address; None where unknown, and without such an address.
    """

    state: BalancerState | None
    error: str = ""
    log: RecentLog | None = None
    log_error: str = ""
    in_flight: Mapping[str, int] | None = None
    vip: str = ""
    holds: bool | None = None


@dataclass(frozen=True)
class Reading:
    """The answers of one host.

    Args:
        instances: of a gpu host; else None.
        balancer: of a balancer; else None.
        run: the last run that changed the host; None for no run.
        holder: the holder of the lock of the host, while the lease lasts; None for nobody.
    """

    instances: Instances | None = None
    balancer: Balancer | None = None
    run: Entry | None = None
    holder: Holder | None = None


@dataclass(frozen=True)
class Questions:
    """The questions to one host.

    Args:
        commands: the read-only commands, by name.
        parse: makes the reading from the answers, by name.
    """

    commands: Mapping[str, Run]
    parse: Callable[[Answers], Reading] = field(compare=False)


def questions(host: Host, inventory: Inventory, setup: Setup, seconds: int) -> Questions:
    """Return the questions to a host.

    Args:
        host: one host of the inventory.
        inventory: all hosts.
        setup: has the folders of runs, and the steps.
        seconds: how many of the last seconds of requests to add up.
    """
    from provision.inventory import duration_seconds, shared_settings, topology
    from provision.runs import history
    from provision.steps import card_load
    from provision.steps.docker import glance

    commands: dict[str, Run] = {}
    if host.gpu:
        limit = duration_seconds(shared_settings.toolkit(host).smi_timeout)
        commands |= {"docker": glance.command(), "load": card_load.command(limit)}
    balancing = _Balancing(host, inventory, setup, seconds) if topology.is_balancing(host, inventory) else None
    commands |= balancing.commands if balancing else {}
    commands |= {"run": history.listed(1, setup.paths), "lock": setup.host_lock.status()}

    def parse(answers: Answers) -> Reading:
        return Reading(
            instances=_instances(host, answers) if host.gpu else None,
            balancer=balancing.parse(answers) if balancing else None,
            run=_last_run(host, answers["run"]),
            holder=_holder(setup, answers["lock"]),
        )

    return Questions(commands, parse)


def _instances(host: Host, answers: Answers) -> Instances:
    """Return the instances of a gpu host. A Docker without an answer is told, and hides no card."""
    from provision.steps import card_load, engines
    from provision.steps.base import BlockedError, UnreadableError
    from provision.steps.docker import inspect
    from provision.steps.instance.container_state import cards_of, listed

    load = card_load.read(answers["load"])
    try:
        docker = inspect.read(answers["docker"])
        served = engines.of(host.serving).served(answers["docker"])
        items = {
            name: item for name, item in docker.containers.items() if (item["labels"] or {}).get("provision.instance")
        }
        containers = {
            name: ContainerState(
                status=str(item["status"])[:40],
                answers=item["answers"][:300],
                cards=tuple(map(str, cards_of(item)))[:64],
                sees=tuple(listed(item["sees"])) if item["sees"] else None,
                said=item["sees"][:200],
                served=served.get(name),
            )
            for name, item in items.items()
        }
    except BlockedError as error:
        return Instances({}, load, error.evidence or str(error))
    except (UnreadableError, KeyError, TypeError, AttributeError) as error:
        return Instances({}, load, str(error)[:300] or "the answer of Docker is garbled")
    return Instances(containers, load)


class _Balancing:
    """The questions to a balancer.

    Args:
        host: the balancer.
        inventory: all hosts.
        setup: has the steps.
        seconds: how many of the last seconds of requests to add up.
    """

    def __init__(self, host: Host, inventory: Inventory, setup: Setup, seconds: int) -> None:
        from provision.inventory import shared_settings
        from provision.steps.keepalived import holder
        from provision.steps.nginx import in_flight, recent_log

        self._entry = next((entry for entry in setup.catalog.steps(host, inventory) if entry.step.routes), None)
        self._fact = self._entry.step.fact() if self._entry else None
        vip = shared_settings.vip(host)
        self._vip = str(vip.address) if vip else ""
        self.commands: dict[str, Run] = {"log": recent_log.command(seconds), "flight": in_flight.command()}
        if self._fact:
            self.commands["balancer"] = self._fact.command
        if self._vip:
            self.commands["address"] = holder.command()

    def parse(self, answers: Answers) -> Balancer:
        """Return the balancer. An unreadable part is told, and hides no other part."""
        from provision.steps.keepalived import holder
        from provision.steps.nginx import in_flight, recent_log

        state, error = self._state(answers)
        log, log_error = None, ""
        try:
            log = recent_log.read(answers["log"])
        except HostError as unreadable:
            log_error = unreadable.message
        return Balancer(
            state=state,
            error=error,
            log=log,
            log_error=log_error,
            in_flight=in_flight.read(answers["flight"]),
            vip=self._vip,
            holds=holder.holds(answers["address"], self._vip) if self._vip else None,
        )

    def _state(self, answers: Answers) -> tuple[BalancerState | None, str]:
        from provision.plan import planner
        from provision.steps.base import BlockedError
        from provision.steps.nginx import balancer_state

        if self._fact is None or self._entry is None:
            return None, "the inventory declares no balancer here"
        try:
            have = planner.parse(self._fact, {self._fact.command: answers["balancer"]}, self._entry.step.id)
            return balancer_state.of(have), ""
        except BlockedError as error:
            return None, error.evidence or str(error)
        except HostError as error:
            return None, error.message


def _last_run(host: Host, answer: Answer) -> Entry | None:
    import dataclasses

    from provision.inventory import Mask
    from provision.runs import history

    try:
        entries = history.entries(answer)
    except HostError:
        return None
    hide = Mask(host.secrets())
    return (
        dataclasses.replace(entries[0], why=hide(entries[0].why), command=hide(entries[0].command)) if entries else None
    )


def _holder(setup: Setup, answer: Answer) -> Holder | None:
    try:
        holder = setup.host_lock.holder_of(answer)
    except HostError:
        return None
    return None if holder is None or holder.is_over else holder
