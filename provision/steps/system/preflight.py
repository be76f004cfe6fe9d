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
        gpus: instance -> its cards: indices or UUIDs.
        image: the image of the instances.
        unusable: why an image cannot use a card with the card's driver; empty where it can.
    """

    guards_host: ClassVar[bool] = True

    gpus: Mapping[str, tuple[int | str, ...]]
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
        owners: dict[str, tuple[str, int | str]] = {}
        for instance, name in self._named():
            card = facts.card(name)
            if card is not None:
                self._refuse_card(instance, name, card)
                _refuse_twice(owners.setdefault(card.uuid, (instance, name)), instance, name, card)
            elif isinstance(name, int) and not facts.remembered and facts.published != ():
                self._refuse_order(instance, name, facts)
        return {}

    def refused(self, facts: HostFacts) -> Mapping[str, str]:
        """The instances with a card that is missing, broken, or never existed."""
        if not facts.cards:
            return {}  # the whole host is refused instead
        refusals: dict[str, str] = {}
        for instance, name in self._named():
            if reason := complaint(name, facts):
                refusals.setdefault(instance, f"{instance} cannot run: {reason}")
        return refusals

    def _named(self) -> Iterator[tuple[str, int | str]]:
        return ((instance, name) for instance, names in self.gpus.items() for name in names)

    def commands(self, have: State, want: State) -> Sequence[Command]:
        """None: a guard changes nothing."""
        return []

    def check(self, live: Any) -> Iterator[Check]:
        """nvidia-smi lists every card that an instance names. A further complaint of nvidia-smi stops no healthy
        card."""
        facts = live_facts(live)
        yield Check("nvidia-smi answers", "yes" if facts.cards else facts.driver_error, "yes")
        cards = ((f"{_label(name)} of {instance}", facts.card(name)) for instance, name in self._named())
        missing = [what for what, card in cards if card is None or card.broken]
        yield Check("missing or broken cards", missing, [])
        if note := self.note(facts):
            yield Check(f"{WARNING}{note}", True, True)
        if upgrades := driver_upgrades.check(live):
            yield upgrades

    def note(self, facts: HostFacts, have: State = None) -> str:
        """The cards of instances whose MIG mode is half switched, or whose driver is not kept loaded. Both are states
        of the host, so nothing changes them here."""
        cards = {name: card for _, name in self._named() if (card := facts.card(name))}
        half = [f"{_label(name)}: {half_switched(card)}" for name, card in cards.items() if card.half_switched]
        off = [_label(name) for name, card in cards.items() if card.persistent is False]
        slow = [f"persistence mode is off on {', '.join(off)}: {PERSISTENCE}"] if off else []
        return "; ".join([*half, *slow])

    def _refuse_order(self, instance: str, index: int, facts: HostFacts) -> None:
        """Refuse a card that was lost before there was a record: nvidia-smi has renumbered the cards behind it by
        now."""
        raise RefusalError(
            f"{instance} cannot run: {complaint(index, facts)}. This host may have instances, and it has no record of "
            f"the card that each index means: the cards behind a lost card have other indices by now. Repair or "
            f"replace the card and deploy again, or write {nvidia_smi.RECORD} with a line `INDEX UUID` for each card, "
            f"by DeviceIDs of docker inspect"
        )

    def _refuse_card(self, instance: str, name: int | str, card: Card) -> None:
        if card.mig:
            raise RefusalError(f"{instance} names {_label(name)} ({card.name}), which {in_mig_mode(card)}")
        if reason := self.unusable(self.image, card):
            raise RefusalError(reason)


def _refuse_twice(first: tuple[str, int | str], instance: str, name: int | str, card: Card) -> None:
    """Refuse a card that the inventory names twice, once by its index and once by its UUID."""
    if first != (instance, name):
        owner, other = first
        raise RefusalError(
            f"{instance} names {_label(name)} and {owner} names {_label(other)}, which are the same card ({card.uuid}):"
            " give each card to one instance, and name it once"
        )


def in_mig_mode(card: Card) -> str:
    """Return the end of a sentence about a card in MIG mode that an instance names as a whole.

    Args:
        card: the card.
    """
    if card.half_switched:
        return f"is in MIG mode and cannot be used as a whole yet: {half_switched(card)}"
    devices = ", ".join(f"{device.uuid} ({device.profile})" for device in card.devices)
    instead = f"name a MIG device instead: {devices}" if devices else "the card has no MIG device yet"
    off = f"switch MIG off (nvidia-smi -i {card.index} -mig 0)"
    return f"is in MIG mode and cannot be used as a whole: {instead}; or {off}"


def half_switched(card: Card) -> str:
    """Return what a card with half switched MIG mode will be, and what to type on the host.

    Args:
        card: the card, or a MIG device of the card as a card.
    """
    is_on = card.mig or card.uuid.startswith("MIG-")
    later, loses, back = ("off", "MIG devices", 1) if is_on else ("on", "use as a whole", 0)
    return (
        f"MIG mode will be {later} after a reset of the card or a boot, which ends the card's {loses}. While no program"
        f" uses the card, type on the host: {reset(card)} (or reboot); or take the switch back: nvidia-smi -i"
        f" {card.index} -mig {back}"
    )


def reset(card: Card) -> str:
    """Return the command that resets a card, which also ends a half switched MIG mode.

    Args:
        card: the card.
    """
    return f"nvidia-smi --gpu-reset -i {card.index}"


def complaint(name: int | str, facts: HostFacts) -> str:
    """Why a card of the inventory cannot be used; empty where it can.

    Args:
        name: the index or the UUID in the inventory.
        facts: the host facts.
    """
    uuid, card = facts.record.get(name) if isinstance(name, int) else None, facts.card(name)
    what = f"GPU {name} ({uuid})" if isinstance(name, int) else name
    if card is not None:
        return f"{what} is broken: {card.broken}" if card.broken else ""
    evidence = f"; {facts.driver_error}" if facts.driver_error else ""
    if uuid is not None or name in facts.record.values():
        return f"{what} is missing: nvidia-smi does not list it{evidence}"
    if isinstance(name, int):
        return f"there is no GPU {name}: this host has {_list(facts)}{evidence}"
    is_part = name.startswith("MIG-")
    waiting = {index: card for index, card in facts.by_index.items() if card.half_switched and not card.mig}
    waits = [f"; GPU {index}: {half_switched(card)}" for index, card in waiting.items()]
    return f"{name} is not on this host, which has {_uuids(facts, mig=is_part)}{''.join(waits * is_part)}{evidence}"


def _label(name: int | str) -> str:
    return f"GPU {name}" if isinstance(name, int) else name


def _list(facts: HostFacts) -> str:
    return ", ".join(f"GPU {index} ({card.name})" for index, card in facts.by_index.items()) or "none"


def _uuids(facts: HostFacts, *, mig: bool) -> str:
    """Return the UUIDs of a host's MIG devices or cards, for an operator to copy."""
    if mig:
        pairs = [(device, index) for index, card in facts.by_index.items() for device in card.devices]
        devices = [f"{device.uuid} ({device.profile} of GPU {index})" for device, index in pairs]
        return ", ".join(devices) or "no MIG device"
    return ", ".join(f"{card.uuid} (GPU {index}, {card.name})" for index, card in facts.by_index.items()) or "no card"


def uuids(names: Sequence[int | str], facts: HostFacts) -> list[str]:
    """Return the UUIDs of some cards.

    Args:
        names: indices of the inventory, or UUIDs.
        facts: the host facts.

    Raises:
        RefusalError: a card is missing, or is cut into MIG devices.
    """
    return [_uuid(name, facts) for name in names]


def _uuid(name: int | str, facts: HostFacts) -> str:
    card = facts.card(name)
    if card is None or card.broken:
        raise RefusalError(complaint(name, facts))
    if card.mig:
        raise RefusalError(f"card {name} ({card.name}) {in_mig_mode(card)}")
    return card.uuid
