"""The container of one instance, pinned to its cards, and the finder of containers with our mark.

Sources: several cards need quotes inside the word, docs/facts.md#the-gpus-option; Docker lets two containers share a
card without a word, and leaves a container `exited` if its address is missing, docs/facts.md#docker-accepts; Ollama
ends its streams at once when stopped, docs/facts.md#ollama-stop.
"""

import contextlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from provision.command import Command, Script, sh
from provision.steps.base import Check, Fact, Owned, RefusalError, State, Step, UnreadableError, differing
from provision.steps.docker import card_look, inspect
from provision.steps.docker.image import Image
from provision.steps.docker.inspect import Docker
from provision.steps.docker.network import Network, instance_of
from provision.steps.facts import HostFacts, live_facts
from provision.steps.instance import cards_log, scripts
from provision.steps.instance.automatic import Automatic
from provision.steps.instance.container_options import WORDS
from provision.steps.instance.container_state import OWN, listed, past_network, published, state
from provision.steps.instance.create_arguments import BRIDGE, NANO, create_words, run_hash
from provision.steps.instance.engine import Engine
from provision.steps.instance.previous import Previous, previous_name
from provision.steps.system.preflight import uuids
from provision.steps.wording import Vocabulary

CREATE_TIMEOUT = 300.0
AROUND = 180  # seconds for Docker, added to the start timeout of the server
# An error of runc, for example with a full /tmp (`write /tmp/runc-process1: no space left on device`). The error of a
# container without nvidia-smi has the same words and ends in `executable file not found`: that error is an answer.
NOT_RUN = "OCI runtime exec failed"
# An error if the root of a running container is gone from the host: a failed start of Docker beside the container
# removes the root (seen with Docker 26.1.5 and runc 1.1.15), and no restart of Docker brings the root back.
ROOT_GONE = "/proc/self/exe: no such file or directory"
KILLED = "(exit code 137)"  # of nvidia-smi: where memory is short, the kernel kills the look before the server


@dataclass(frozen=True, kw_only=True)
class Container(Step):
    """A container with a running model server, on exactly these cards, with this address and these settings.

    Args:
        name: name of the container and of the instance.
        engine: the model server inside.
        image: reference of the image, already on the host.
        gpus: the cards, as the operator wrote them: indices or UUIDs; resolved to UUIDs each time.
        port: port on the host.
        address: address on the host, or a pure function from the host facts to the address.
        environment: variables of the server.
        secrets: secret variables -> `fingerprint` of the value; the values are in `env_file(name)`.
        mounts: values of `--mount`, from `volume` and `bind`.
        restart: Docker's restart policy.
        memory: limit in bytes; 0 for none.
        cpus: limit in CPUs; 0 for none.
        pids: limit of processes and threads; 0 for none.
        network: Docker's network; `bridge` for the bridge of all containers.
        log_max_size: size at which Docker rotates the log.
        log_max_file: log files to keep.
        automatic: the variables that take the proposal of the estimate; `environment` has numbers in their place.
        after: ids of steps that change the container as a side effect.
    """

    volatile: ClassVar[frozenset[str]] = frozenset({"running", "answers", "sees"})
    serves: ClassVar[bool] = True
    words: ClassVar[Vocabulary] = WORDS

    name: str
    engine: Engine = field(repr=False)
    image: str
    gpus: tuple[int | str, ...]
    port: int
    address: str | Callable[[HostFacts], str]
    environment: Mapping[str, str] = field(default_factory=dict)
    secrets: Mapping[str, str] = field(default_factory=dict)
    mounts: tuple[str, ...] = ()
    restart: str = "unless-stopped"
    memory: int = 0
    cpus: float = 0.0
    pids: int = 0
    network: str = BRIDGE
    log_max_size: str = "50m"
    log_max_file: int = 3
    automatic: Automatic | None = None
    after: tuple[str, ...] = ()

    @property
    def id(self) -> str:
        """`container:NAME`."""
        return f"container:{self.name}"

    @property
    def part_of(self) -> str:
        """Itself."""
        return self.name

    def fact(self) -> Fact:
        """Reads the state of Docker."""
        return inspect.fact(lambda docker: self._state(docker, {*self.environment, *self.secrets}))

    def want(self, facts: HostFacts, have: State) -> State:
        """The container on this host's cards. Refuses missing cards, and a foreign container with the same name."""
        if have is not None and have.get("foreign"):
            raise RefusalError(
                f"a container named {self.name} is there that is not ours (image {have['image']}, {have['status']});"
                " rename or remove it, or give the instance another name"
            )
        if ((have or {}).get("previous") or {}).get("foreign"):
            raise RefusalError(
                f"a container named {previous_name(self.name)} is there that is not ours, and a replacement would keep"
                f" {self.name} under this name; rename or remove the container"
            )
        kept = self.automatic and self.automatic.kept(facts, (have or {}).get("environment") or {})
        if kept and _is_right(have, wanted := self._wanted(facts, kept)):
            return wanted
        return self._wanted(facts, self.automatic.chosen(facts) if self.automatic else {})

    def requests_at_once(self, facts: HostFacts, have: State) -> int:
        """The automatic number."""
        return self.automatic.requests(self.want(facts, have) or {}) if self.automatic else 0

    def note(self, facts: HostFacts, have: State = None) -> str:
        """The automatic numbers, with the reason."""
        if self.automatic is None:
            return ""
        with contextlib.suppress(RefusalError):
            return self.automatic.why(facts, (self.want(facts, have) or {})["environment"])
        return ""

    def commands(self, have: State, want: State) -> Sequence[Command]:
        """Starts a stopped container, restarts an ill container, and starts the previous container if that is the
        wanted one; otherwise makes the new container before the old is stopped and kept."""
        if want is None:
            return [sh(scripts.REMOVE, self.name, title=f"remove container {self.name}")] if have else []
        right = _is_right(have, want)
        if right and have and have["running"] and want["running"]:
            return [self._start(want, scripts.restart, "restart")]
        made = [] if right else [self._bring_back(want) if _returns(have, want) else self._recreate(want)]
        return [*made, self._start(want)] if want["running"] else [*made, self._stop()]

    def release(self, have: State, want: State) -> Step | None:
        """The removal of the previous container, if there is one after this change."""
        if have is None or want is None or have.get("foreign") or _returns(have, want):
            return None
        return Previous(name=self.name) if "previous" in have or not _is_right(have, want) else None

    def way_back(self, have: State) -> str:
        """The previous container."""
        return previous_name(self.name) if have and ("previous" in have or have.get("aside")) else ""

    def repaired(self, have: State) -> State:
        """Running, answering, with its cards in sight: Docker's restart or a daemon-reload may have broken any of
        these."""
        if have is None or have.get("foreign") or have.get("aside"):
            return have
        return {**have, "running": True, "answers": "yes", "sees": have["gpus"]}

    def disrupts(self, have: State, want: State) -> frozenset[str]:
        """Itself, if running."""
        return frozenset({self.name} if have is not None and have.get("running") else ())

    def restore(self, facts: HostFacts, have: State, past: Mapping[str, Any]) -> State:
        """The past image and settings, running and well, whatever the past health. Refuses missing cards.

        Options that provision never gives are not restored: the journal has only the names of most such options. A
        container that was kept aside had lost its restart policy, so the policy is the declared one. Where a tag has
        moved, only the previous container still has the image of before.
        """
        if past.get("foreign"):
            raise RefusalError(f"{self.name} was not ours")
        if past.get("aside"):
            past = {**past, "restart": self.restart}
        past = {key: value for key, value in past.items() if key not in ("aside", "previous")}
        past |= {"network": past_network(past)}
        missing = sorted(set(past["gpus"]) - facts.present)
        if missing:
            raise RefusalError(f"{self.name} was on {', '.join(missing)}, which this host has no more")
        well = {"current": True, "running": True, "sees": past["gpus"], "answers": "yes", "cgroup": OWN}
        back = {**past, **well, "options": []}
        older = {**back, "current": False}
        moved = past.get("current") is False and (_is_right(have, older) or _returns(have, older))
        return older if moved else back

    def restored_fact(self, past: State) -> Fact:
        """Reads the state of Docker. All variables of the past count as declared: an earlier version also recorded
        variables that the image sets, and the container is given these variables."""
        declared = (past or {}).get("environment") or ()
        return inspect.fact(lambda docker: self._state(docker, declared))

    def needs(self, past: Mapping[str, Any]) -> Sequence[Step]:
        """The past image, still on the host or else pulled, and the network of the instance."""
        own = past_network(past)
        networks = (Network(name=own),) if instance_of(own) else ()
        return (Image(reference=str(past.get("image", ""))), *networks)

    def is_serving(self, facts: HostFacts, have: State) -> bool:
        """Ours, running, answering at the declared address, with exactly its own cards in sight, all of them
        healthy."""
        if have is None or have.get("foreign") or not have["running"] or have["answers"] != "yes":
            return False
        address = self.address(facts) if callable(self.address) else self.address
        in_place = have["publish"] == [f"{address}:{self.port}"]
        return in_place and have["sees"] == have["gpus"] and facts.healthy.issuperset(have["gpus"])

    def impact(self, have: State, want: State) -> str:
        """The instance that goes out of the upstream for the change."""
        running = have is not None and have.get("running")
        ends = " (its streams finish first)" if running else ""
        if want is None:
            return f"removes {self.name}{ends}"
        if have is None:
            return f"creates {self.name}"
        if _returns(have, want):
            return f"starts the previous container of {self.name} again{ends}"
        if not _is_right(have, want):
            kept = f", and keeps the {'previous' if self.way_back(have) else 'old'} container until the test is passed"
            made = "creates" if have.get("aside") else "recreates"
            return f"{made} {self.name}{_loss(have, want)}{ends}{kept}"
        if running and want["running"]:
            return f"restarts {self.name}, which does not answer{ends}"
        return f"{'starts' if want['running'] else 'stops'} {self.name}{ends}"

    def why(self, have: Mapping[str, Any], want: Mapping[str, Any]) -> str:
        """The usual words; for a container kept aside, the replacement that did not end."""
        return "only its previous container is there, stopped" if have.get("aside") else super().why(have, want)

    def check(self, live: Any) -> Iterator[Check]:
        """The server answers at its address and nowhere else, sees exactly its cards, uses its cards, and is
        limited."""
        docker = inspect.read_live(live)
        item = docker.containers.get(self.name, {})
        yield Check("running", item.get("status", "absent"), "running")
        if item.get("status") != "running":
            return
        places = published(item, self.engine.probe)
        address = places[0] if places else "nowhere"
        yield Check("cards it sees", listed(item["sees"]) or item["sees"][:200], self._cards(live_facts(live)))
        yield Check(f"answers {self.engine.health}", item["answers"], "yes")
        yield Check("port", address.rpartition(":")[2], str(self.port))
        yield Check("listens elsewhere", _elsewhere(docker, places, self.port), [])
        if self.engine.cards_log:
            yield cards_log.check(live, self.name, self.engine.cards_log)
        lost = item["loses"] if item["scope"] == "cgroupfs" else ""
        yield Check("keeps its cards over a daemon-reload, as others do", lost or True, True)
        limits = (item["memory"] or 0, item["cpus"] or 0, max(item["pids"] or 0, 0))
        yield Check("limits of memory, cpus, pids", limits, (self.memory, round(self.cpus * NANO), self.pids))

    def _wanted(self, facts: HostFacts, automatic: Mapping[str, str]) -> dict[str, Any]:
        """Return the wanted state with these automatic variables."""
        address = self.address(facts) if callable(self.address) else self.address
        environment = {**self.environment, **automatic, **self.secrets}
        wanted: dict[str, Any] = {
            "image": self.image,
            "current": True,
            "running": True,
            "gpus": sorted(uuids(self.gpus, facts)),
            "publish": [f"{address}:{self.port}"],
            "environment": environment,
            "mounts": sorted(self.mounts),
            "restart": self.restart,
            "memory": self.memory,
            "cpus": round(self.cpus * NANO),
            "pids": self.pids,
            "log": {"driver": "json-file", "max-file": str(self.log_max_file), "max-size": self.log_max_size},
            "privileged": False,
            "devices": [],
            "options": [],
            "network": self.network,
            "cgroup": OWN,
        }
        run = run_hash(self.name, wanted, self.engine.probe)
        seen = {"sees": wanted["gpus"], "answers": "yes"}
        return {**wanted, **seen, "run": run}

    def _state(self, docker: Docker, declared: Collection[str]) -> State:
        """Return the state.

        A look without an answer does not prove lost cards: a busy host is slow, a full disk lets nothing start, and the
        container's memory limit may be too small for the look. The look does not matter for a container that is to be
        removed (no image), and a killed look does not matter for a container whose memory limit changes.

        Raises:
            UnreadableError: the look gave no answer, and the container is to stay.
        """
        item = docker.containers.get(self.name, {})
        sees = item.get("sees", "")
        if self.image and sees.endswith(inspect.NO_ANSWER):
            raise UnreadableError(f"nvidia-smi inside {self.name} gave no answer in {card_look.LIMIT} s")
        if self.image and sees.endswith(KILLED) and (item["memory"] or 0) == self.memory:
            short = f"its limit of {self.memory} bytes is too small" if self.memory else "the host has no memory left"
            raise UnreadableError(f"nvidia-smi inside {self.name} was killed; see whether {short}")
        if self.image and NOT_RUN in sees and "not found" not in sees and ROOT_GONE not in sees:
            raise UnreadableError(f"nothing can be run inside {self.name}: {sees[:300]}")
        return self._with_previous(docker, declared)

    def _with_previous(self, docker: Docker, declared: Collection[str]) -> State:
        """Return the state with that of the previous container, or the previous container's own, marked `aside`, where
        the instance has no other."""
        own = state(docker, self.name, self.engine, declared)
        previous = state(docker, previous_name(self.name), self.engine, declared)
        if previous is None:
            return own
        if own is None:
            return None if previous.get("foreign") else {**previous, "running": False, "aside": True}
        return {**own, "previous": previous}

    def _cards(self, facts: HostFacts) -> list[str]:
        """Return the UUIDs of the cards."""
        cards = {name: facts.card(name) for name in self.gpus}
        return sorted(card.uuid if card else f"card {name} is not there" for name, card in cards.items())

    def _recreate(self, want: Mapping[str, Any]) -> Command:
        words = create_words(self.name, want, self.engine.probe)
        return sh(scripts.RECREATE, self.name, *words, title=f"create container {self.name}", timeout=CREATE_TIMEOUT)

    def _bring_back(self, want: Mapping[str, Any]) -> Command:
        title = f"bring the previous container of {self.name} back"
        return sh(scripts.BRING_BACK, self.name, want["restart"], title=title, timeout=CREATE_TIMEOUT)

    def _start(
        self, want: Mapping[str, Any], script: Callable[[str, int], Script] = scripts.start, verb: str = "start"
    ) -> Command:
        arguments = (self.name, want["publish"][0], *want["gpus"])
        seconds = self.engine.start_timeout
        text = script(self.engine.health, seconds)
        return sh(text, *arguments, title=f"{verb} container {self.name}", timeout=float(seconds + AROUND))

    def _stop(self) -> Command:
        return sh(scripts.STOP, self.name, title=f"stop container {self.name}")


def _is_right(have: State, want: Mapping[str, Any]) -> bool:
    """Whether the container itself is right, and only has to be started, stopped or restarted.

    A running container that does not see its cards is not right: its root may be gone (ROOT_GONE), and NVIDIA's own
    cure is to make a new container (docs/facts.md#lost-cards).
    """
    if have is None or have.get("aside"):
        return False
    differs = {key for key, _ in differing(have, want)}
    lost = have["running"] and want["running"] and "sees" in differs
    return not lost and differs <= {"running", "sees", "answers"}


def _returns(have: State, want: Mapping[str, Any]) -> bool:
    """Whether the previous container is the wanted container, and the present container is not.

    The restart policy was taken from the previous container; the hash of the run line covers the policy.
    """
    previous = (have if have and have.get("aside") else (have or {}).get("previous")) or {"foreign": True}
    if previous.get("foreign") or _is_right(have, want):
        return False
    return {key for key, _ in differing(previous, want)} <= {"running", "sees", "answers", "restart"}


def _loss(have: Mapping[str, Any], want: Mapping[str, Any]) -> str:
    """Return the words for the loss of a running container, if the loss is the reason for a new container."""
    if [key for key, _ in differing(have, want)] == ["cgroup"]:
        return ", whose cards a daemon-reload would take"
    if not have["running"] or have["gpus"] != want["gpus"] or have["sees"] == want["sees"]:
        return ""
    gone = any(ROOT_GONE in line for line in have["sees"])
    return ", in which nothing can be run any more" if gone else ", which has lost its cards"


def _elsewhere(docker: Docker, places: Sequence[str], port: int) -> list[str]:
    """Return the addresses with the port open beside the given address; every address counts as elsewhere."""
    addresses = {at.rpartition(":")[0] for at in places}
    listening = {socket.address for socket in docker.listening if socket.port == port}
    return sorted(addresses & {"0.0.0.0", "::"} | listening - addresses)  # noqa: S104 - compared, not bound


@dataclass(frozen=True, kw_only=True)
class OwnedContainers(Owned):
    """Finds the containers of one engine with our mark.

    Args:
        engine: the engine.
    """

    engine: Engine = field(repr=False)

    def fact(self) -> Fact:
        """Reads the state of Docker."""
        return inspect.fact(self._pick)

    def step(self, step_id: str) -> Step:
        """A container to remove."""
        return Container(name=step_id.partition(":")[2], engine=self.engine, image="", gpus=(), port=0, address="")

    def _pick(self, docker: Docker) -> State:
        names = (name for name, item in docker.containers.items() if self.engine.probe.is_of(item["labels"]))
        names = (name for name in names if not name.endswith(scripts.PREVIOUS))
        states = {f"container:{name}": state(docker, name, self.engine) for name in names}
        return {key: value for key, value in states.items() if value is not None and not value.get("foreign")}
