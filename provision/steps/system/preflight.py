"""Guards: demands on a host before any change. A guard changes nothing itself.

Supported releases are a decision of ours (README, Requirements). Sources of the rest: snap,
docs/facts.md#docker-packages; docs/facts.md#mig.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from provision.command import Command, Run
from provision.steps import nvidia_smi
from provision.steps.base import WARNING, Answer, Check, Fact, RefusalError, State, Step, UnreadableError
from provision.steps.facts import HostFacts, live_facts
from provision.steps.nvidia_smi import Card
from provision.steps.system import driver_upgrades

RELEASES = {"debian": ("12", "13"), "ubuntu": ("22.04", "24.04")}
ARCHITECTURES = ("amd64", "arm64")
NAMES = "Debian 12 and 13, Ubuntu 22.04 and 24.04, on amd64 and arm64"

SNAP = 'if [ -e /snap/bin/docker ] || [ -d /var/snap/docker ]; then echo "snap"; else echo "none"; fi'
CARDS = "require:cards"  # id of the guard that names the instances without a usable card
PERSISTENCE = (
    "while no program uses a card, each call of nvidia-smi loads the driver anew, which takes seconds; type on the"
    " host: systemctl enable --now nvidia-persistenced (or nvidia-smi -pm 1, until the next boot)"
)
LOOK = Run(("sh", "-c", SNAP), title="look for Docker's snap")


@dataclass(frozen=True, kw_only=True)
class SupportedHost(Step):
    """A guard: a supported distribution, with systemd.

    Args:
        docker: whether Docker will be installed here: then Docker's snap is in the way.
    """

    guards_host: ClassVar[bool] = True

    docker: bool = True

    @property
    def id(self) -> str:
        """`require:host`."""
        return "require:host"

    def fact(self) -> Fact:
        """Reads whether Docker is there as a snap; the rest is among the host facts."""
        return Fact(LOOK, _snap)

    def want(self, facts: HostFacts, have: State) -> State:
        """Nothing; refuses unsupported hosts."""
        if facts.version not in RELEASES.get(facts.distribution, ()):
            is_now = f"{facts.distribution or 'unknown'} {facts.version}".strip()
            raise RefusalError(f"this host is {is_now}; supported are {NAMES}")
        if facts.architecture not in ARCHITECTURES:
            raise RefusalError(f"this host's architecture is {facts.architecture}; supported are {NAMES}")
        if not facts.systemd:
            raise RefusalError("systemd is not running on this host: services could not be started at boot")
        if self.docker and (have or {}).get("snap"):
            raise RefusalError(
                "Docker is installed as a snap, in which --gpus does not work: remove it (snap remove docker)"
            )
        return {}

    def commands(self, have: State, want: State) -> Sequence[Command]:
        """None: a guard changes nothing."""
        return []

    def check(self, live: Any) -> Iterator[Check]:
        """Systemd is in charge."""
        yield Check("systemd is running", live.run("test -d /run/systemd/system").rc == 0, True)


def _snap(answer: Answer) -> State:
    if answer.exit or answer.text.strip() not in ("snap", "none"):
        raise UnreadableError(answer.complaint or f"exited {answer.exit}")
    return {"snap": answer.text.strip() == "snap"}


@dataclass(frozen=True, kw_only=True)
class UsableCards(Step):
    """A guard: the driver answers, and every card that an instance names is present, healthy, and usable by its image.

    A host without any card is refused. A missing or broken card concerns its instance alone.

    Args:
        gpus: instance -> indices of its cards.
        image: the image of the instances.
        unusable: why an image cannot use a card with the card's driver; empty where it can.
    """

    guards_host: ClassVar[bool] = True

    gpus: Mapping[str, tuple[int, ...]]
    image: str
    unusable: Callable[[str, Card], str] = field(repr=False)

    @property
    def id(self) -> str:
        """`require:cards`."""
        return CARDS

    def fact(self) -> Fact:
        """No read of its own, so the other guard's command, which is sent anyway: the cards are among the host
        facts."""
        return Fact(LOOK, lambda answer: {})

    def want(self, facts: HostFacts, have: State) -> State:
        """Nothing; refuses an unfit driver or unfit cards."""
        if not facts.cards:
            reason = facts.driver_error or "nvidia-smi lists no card"
            raise RefusalError(
                f"{reason.rstrip('.')}. The NVIDIA driver is a prerequisite: provision does not install it"
            )
        for instance, index in self._named():
            card = facts.card(index)
            if card is not None:
                self._refuse_card(instance, card)
            elif not facts.remembered and facts.published != ():
                self._refuse_order(instance, index, facts)
        return {}

    def refused(self, facts: HostFacts) -> Mapping[str, str]:
        """The instances with a card that is missing, broken, or never existed."""
        if not facts.cards:
            return {}  # the whole host is refused instead
        refusals: dict[str, str] = {}
        for instance, index in self._named():
            if reason := complaint(index, facts):
                refusals.setdefault(instance, f"{instance} cannot run: {reason}")
        return refusals

    def _named(self) -> Iterator[tuple[str, int]]:
        return ((instance, index) for instance, indices in self.gpus.items() for index in indices)

    def commands(self, have: State, want: State) -> Sequence[Command]:
        """None: a guard changes nothing."""
        return []

    def check(self, live: Any) -> Iterator[Check]:
        """nvidia-smi lists every card that an instance names. A further complaint of nvidia-smi stops no healthy
        card."""
        facts = live_facts(live)
        good = {index for index, card in facts.by_index.items() if not card.broken}
        yield Check("nvidia-smi answers", "yes" if facts.cards else facts.driver_error, "yes")
        missing = [f"GPU {index} of {instance}" for instance, index in self._named() if index not in good]
        yield Check("missing or broken cards", missing, [])
        if note := self.note(facts):
            yield Check(f"{WARNING}{note}", True, True)
        if upgrades := driver_upgrades.check(live):
            yield upgrades

    def note(self, facts: HostFacts, have: State = None) -> str:
        """The cards of instances whose driver is not kept loaded. A setting of the host, so nothing changes it here."""
        named = {index for _, index in self._named()}
        off = [f"GPU {index}" for index, card in facts.by_index.items() if index in named and card.persistent is False]
        return f"persistence mode is off on {', '.join(off)}: {PERSISTENCE}" if off else ""

    def _refuse_order(self, instance: str, index: int, facts: HostFacts) -> None:
        """Refuse a card that was lost before there was a record: nvidia-smi has renumbered the cards behind it by
        now."""
        raise RefusalError(
            f"{instance} cannot run: {complaint(index, facts)}. This host may have instances, and it has no record of "
            f"the card that each index means: the cards behind a lost card have other indices by now. Repair or "
            f"replace the card and deploy again, or write {nvidia_smi.RECORD} with a line `INDEX UUID` for each card, "
            f"by DeviceIDs of docker inspect"
        )

    def _refuse_card(self, instance: str, card: Card) -> None:
        if card.mig:
            raise RefusalError(
                f"{instance} names GPU {card.index} ({card.name}), which is in MIG mode and cannot be used as a whole: "
                f"switch MIG off (nvidia-smi -i {card.index} -mig 0)"
            )
        if reason := self.unusable(self.image, card):
            raise RefusalError(reason)


def complaint(index: int, facts: HostFacts) -> str:
    """Why the card of an index of the inventory cannot be used; empty where it can.

    Args:
        index: the index in the inventory.
        facts: the host facts.
    """
    uuid, card = facts.record.get(index), facts.card(index)
    if card is not None:
        return f"GPU {index} ({uuid}) is broken: {card.broken}" if card.broken else ""
    evidence = f"; {facts.driver_error}" if facts.driver_error else ""
    if uuid is not None:
        return f"GPU {index} ({uuid}) is missing: nvidia-smi does not list it{evidence}"
    return f"there is no GPU {index}: this host has {_list(facts)}{evidence}"


def _list(facts: HostFacts) -> str:
    return ", ".join(f"GPU {index} ({card.name})" for index, card in facts.by_index.items()) or "none"
