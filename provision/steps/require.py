"""Guards: what a host must be before anything of it is changed. They change nothing themselves.

Sources: supported releases, DESIGN; snap, FACTS 1.1; the driver an Ollama needs, FACTS 2.5; MIG, FACTS 2.5.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from provision.command import Command, Run
from provision.steps.base import Answer, Check, Fact, RefusalError, State, Step, UnreadableError, asked_once
from provision.steps.facts import Card, HostFacts

RELEASES = {"debian": ("12", "13"), "ubuntu": ("22.04", "24.04")}
ARCHITECTURES = ("amd64", "arm64")
NAMES = "Debian 12 and 13, Ubuntu 22.04 and 24.04, on amd64 and arm64"

SNAP = 'if [ -e /snap/bin/docker ] || [ -d /var/snap/docker ]; then echo "snap"; else echo "none"; fi'
LOOK = Run(("sh", "-c", SNAP), title="look for Docker's snap")


@dataclass(frozen=True, kw_only=True)
class SupportedHost(Step):
    """A guard: a distribution that this is made for, with systemd.

    Args:
        docker: whether Docker will be installed here: then its snap is in the way.
    """

    guards_host: ClassVar[bool] = True

    docker: bool = True

    @property
    def id(self) -> str:
        """`require:host`."""
        return "require:host"

    def fact(self) -> Fact:
        """Whether Docker is there as a snap; the rest is among the host facts."""
        return Fact(LOOK, _snap)

    def want(self, facts: HostFacts, have: State) -> State:
        """Nothing; refuses other hosts."""
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
    """A guard: every card that an instance names is there, whole, and under a driver that its Ollama can use.

    Args:
        gpus: instance -> indices of its cards.
        image: the Ollama image.
    """

    guards_host: ClassVar[bool] = True

    gpus: Mapping[str, tuple[int, ...]]
    image: str

    @property
    def id(self) -> str:
        """`require:cards`."""
        return "require:cards"

    def fact(self) -> Fact:
        """Nothing of its own, so what another guard asks anyway: the cards are among the host facts."""
        return Fact(LOOK, lambda answer: {})

    def want(self, facts: HostFacts, have: State) -> State:
        """Nothing; refuses a driver or cards that will not do."""
        if facts.driver_error:
            raise RefusalError(
                f"{facts.driver_error}. The NVIDIA driver is a prerequisite: provision does not install it"
            )
        for instance, indices in self.gpus.items():
            for index in indices:
                card = facts.card(index)
                if card is None:
                    raise RefusalError(f"{instance} names GPU {index}, and this host has {_list(facts.cards)}")
                self._refuse_card(instance, card)
        return {}

    def commands(self, have: State, want: State) -> Sequence[Command]:
        """None: a guard changes nothing."""
        return []

    def check(self, live: Any) -> Iterator[Check]:
        """nvidia-smi answers and lists every card that is named."""
        status, cards = cards_live(live)
        named = sorted({index for indices in self.gpus.values() for index in indices})
        found = {int(index) for index in cards if index.isdigit()}
        yield Check("nvidia-smi answers", status, 0)
        yield Check("cards", [index for index in named if index in found], named)

    def _refuse_card(self, instance: str, card: Card) -> None:
        if card.mig:
            raise RefusalError(
                f"{instance} names GPU {card.index} ({card.name}), which is in MIG mode and cannot be used as a whole: "
                f"switch MIG off (nvidia-smi -i {card.index} -mig 0)"
            )
        needed = driver_needed(self.image, card.compute_cap)
        if int(card.driver.split(".")[0] or 0) < needed:
            raise RefusalError(
                f"the driver is {card.driver}, and {self.image} on GPU {card.index} ({card.name}) needs {needed} or "
                f"newer: it would silently run on the CPU. Upgrade the driver, or use ollama/ollama:0.24.0"
            )


def cards_live(live: Any) -> tuple[int, dict[str, str]]:
    """The exit code of nvidia-smi and every card's index and UUID, asked once for all steps of a verification.

    Args:
        live: testinfra's host.
    """
    said = asked_once(live, "timeout 60 nvidia-smi --query-gpu=index,uuid --format=csv,noheader")
    rows = [line.split(", ") for line in said.stdout.splitlines()]
    return said.rc, {row[0]: row[1] for row in rows if len(row) == 2}


def _list(cards: Sequence[Card]) -> str:
    return ", ".join(f"GPU {card.index} ({card.name})" for card in cards) or "none"


def driver_needed(image: str, compute_cap: float) -> int:
    """The oldest driver branch with which this Ollama uses this card. An image without a version is a new one.

    Args:
        image: reference of the image.
        compute_cap: of the card; 0.0 where it is not known.
    """
    match = re.search(r":(\d+)\.(\d+)[^:/@]*(@|$)", image)
    if match and (int(match[1]), int(match[2])) < (0, 30):
        return 0
    return 570 if 0 < compute_cap < 7.0 else 550
