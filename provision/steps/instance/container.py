"""One Ollama container, pinned to its cards, and the finder of containers that carry our mark.

Sources: several cards need quotes that are part of the word, docs/facts.md#the-gpus-option; Docker lets two containers
share a card without a word, and leaves one `exited` whose address is not there yet, docs/facts.md#docker-accepts;
Ollama ends its streams at once when it is stopped, docs/facts.md#ollama-stop.
"""

import hashlib
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from provision.command import Command, Script, sh
from provision.steps.base import Check, Fact, Owned, RefusalError, State, Step, UnreadableError, differing
from provision.steps.docker import card_look, inspect
from provision.steps.docker.image import Image
from provision.steps.docker.inspect import Engine
from provision.steps.facts import HostFacts, dumps, live_facts
from provision.steps.instance import scripts
from provision.steps.instance.container_options import WORDS, environment, options
from provision.steps.instance.create_arguments import NANO, PORT, create_words, csv_field
from provision.steps.system.preflight import complaint
from provision.steps.wording import Vocabulary

START_TIMEOUT = 300.0
# Of runc, such as where /tmp is full (`write /tmp/runc-process1: no space left on device`). That the container has no
# nvidia-smi (`executable file not found`) comes so too, and is an answer.
NOT_RUN = "OCI runtime exec failed"
# Said where the root of a container that goes on is gone from the host: a start of Docker that failed beside it takes
# that away (seen with Docker 26.1.5 and runc 1.1.15), and no restart of Docker brings it back.
ROOT_GONE = "/proc/self/exe: no such file or directory"
# Whose cards any daemon-reload takes (docs/facts.md#lost-cards): made while Docker had systemd make cgroups, it lived
# on when that was changed. Where Docker still has, another container would be no better.
LEFT = "systemd's, from before"
OWN = "as Docker makes it"
KILLED = "(exit code 137)"  # of nvidia-smi: where memory is short, a look into a container dies first
# The log is read from its present start only: it outlives the restart that mended what it tells of.
CHECK = """
since=$(docker inspect --type container --format '{{.State.StartedAt}}' "$1")
docker logs --since "$since" "$1" 2>&1 | grep -c library=cpu
"""


@dataclass(frozen=True, kw_only=True)
class Container(Step):
    """An Ollama container that runs with exactly these cards, this address and these settings.

    Args:
        name: name of the container and of the instance.
        image: reference of the image; it is there already.
        gpus: indices of its cards, as the operator wrote them; resolved to UUIDs each time.
        port: port on the host.
        address: address on the host, or a pure function of the host facts that gives it.
        environment: variables of the server.
        secrets: variables that nobody may see -> `fingerprint` of the value; the values are in `env_file(name)`.
        mounts: values of `--mount`, from `volume` and `bind`.
        restart: Docker's restart policy.
        memory: limit in bytes; 0 for none.
        cpus: limit in CPUs; 0 for none.
        pids: limit of processes and threads; 0 for none.
        log_max_size: size at which Docker rotates the log.
        log_max_file: how many log files are kept.
        after: ids of steps that change it behind our back.
    """

    volatile: ClassVar[frozenset[str]] = frozenset({"running", "answers", "sees"})
    serves: ClassVar[bool] = True
    words: ClassVar[Vocabulary] = WORDS

    name: str
    image: str
    gpus: tuple[int, ...]
    port: int
    address: str | Callable[[HostFacts], str]
    environment: Mapping[str, str] = field(default_factory=dict)
    secrets: Mapping[str, str] = field(default_factory=dict)
    mounts: tuple[str, ...] = ()
    restart: str = "unless-stopped"
    memory: int = 0
    cpus: float = 0.0
    pids: int = 0
    log_max_size: str = "50m"
    log_max_file: int = 3
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
        """Reads what Docker has."""
        return inspect.fact(lambda found: self._state(found, {*self.environment, *self.secrets}))

    def want(self, facts: HostFacts, have: State) -> State:
        """The container on this host's cards. Refuses cards that are not there, and a foreign container of the name."""
        if have is not None and have.get("foreign"):
            raise RefusalError(
                f"a container named {self.name} is there that is not ours (image {have['image']}, {have['status']});"
                " rename or remove it, or give the instance another name"
            )
        address = self.address(facts) if callable(self.address) else self.address
        wanted: dict[str, Any] = {
            "image": self.image,
            "current": True,
            "running": True,
            "gpus": sorted(uuids(self.gpus, facts)),
            "publish": [f"{address}:{self.port}"],
            "environment": {**self.environment, **self.secrets},
            "mounts": sorted(self.mounts),
            "restart": self.restart,
            "memory": self.memory,
            "cpus": round(self.cpus * NANO),
            "pids": self.pids,
            "log": {"driver": "json-file", "max-file": str(self.log_max_file), "max-size": self.log_max_size},
            "privileged": False,
            "devices": [],
            "options": [],
            "network": "bridge",
            "cgroup": OWN,
        }
        run = run_hash(self.name, wanted)
        seen = {"sees": wanted["gpus"], "answers": "yes"}
        return {**wanted, **seen, "run": run}

    def commands(self, have: State, want: State) -> Sequence[Command]:
        """Starts what merely stopped, restarts what is ill; else makes the new container before the old one goes."""
        if want is None:
            return [sh(scripts.REMOVE, self.name, title=f"remove container {self.name}")] if have else []
        kept = _is_kept(have, want)
        if kept and have and have["running"] and want["running"]:
            return [self._start(want, scripts.RESTART, "restart")]
        made = [] if kept else [self._recreate(want)]
        return [*made, self._start(want)] if want["running"] else [*made, self._stop()]

    def repaired(self, have: State) -> State:
        """Running, answering, and seeing its cards again: Docker's restart or a daemon-reload may have ended that."""
        if have is None or have.get("foreign"):
            return have
        return {**have, "running": True, "answers": "yes", "sees": have["gpus"]}

    def disrupts(self, have: State, want: State) -> frozenset[str]:
        """Itself, if it runs."""
        return frozenset({self.name} if have is not None and have.get("running") else ())

    def restore(self, facts: HostFacts, have: State, past: Mapping[str, Any]) -> State:
        """The image and settings of then, running and well, whatever it was then. Refuses cards that are not there.

        Options that provision never gives stay away: of most only the name is known.
        """
        if past.get("foreign"):
            raise RefusalError(f"{self.name} was not ours")
        missing = sorted(set(past["gpus"]) - {card.uuid for card in facts.cards})
        if missing:
            raise RefusalError(f"{self.name} was on {', '.join(missing)}, which this host has no more")
        well = {"current": True, "running": True, "sees": past["gpus"], "answers": "yes", "cgroup": OWN}
        return {**past, **well, "options": []}

    def restored_fact(self, past: State) -> Fact:
        """Reads what Docker has. All variables of then are declared: those that the image sets too, which an earlier
        version recorded and which the container is given."""
        declared = (past or {}).get("environment") or ()
        return inspect.fact(lambda found: self._state(found, declared))

    def needs(self, past: Mapping[str, Any]) -> Sequence[Step]:
        """The image of then: it is there, but for one of long ago, which is pulled."""
        return (Image(reference=str(past.get("image", ""))),)

    def is_serving(self, facts: HostFacts, have: State) -> bool:
        """It is ours, runs, answers at the declared address, and sees its own cards, none of which is broken."""
        if have is None or have.get("foreign") or not have["running"] or have["answers"] != "yes":
            return False
        address = self.address(facts) if callable(self.address) else self.address
        well = {card.uuid for card in facts.cards if not card.broken}
        in_place = have["publish"] == [f"{address}:{self.port}"]
        return in_place and have["sees"] == have["gpus"] and well.issuperset(have["gpus"])

    def impact(self, have: State, want: State) -> str:
        """Who is taken out of the upstream for it."""
        running = have is not None and have.get("running")
        ends = " (its streams finish first)" if running else ""
        if want is None:
            return f"removes {self.name}{ends}"
        if have is None:
            return f"creates {self.name}"
        if not _is_kept(have, want):
            return f"recreates {self.name}{_loss(have, want)}{ends}"
        if running and want["running"]:
            return f"restarts {self.name}, which does not answer{ends}"
        return f"{'starts' if want['running'] else 'stops'} {self.name}{ends}"

    def check(self, live: Any) -> Iterator[Check]:
        """It answers where it should and nowhere else, sees exactly its cards, uses them, and is limited."""
        found = inspect.read_live(live)
        item = found.containers.get(self.name, {})
        yield Check("running", item.get("status", "absent"), "running")
        if item.get("status") != "running":
            return
        address = _published(item)[0] if _published(item) else "nowhere"
        logged = live.run("sh -c %s sh %s", CHECK, self.name).stdout
        yield Check("cards it sees", _listed(item["sees"]) or item["sees"][:200], self._cards(live_facts(live)))
        yield Check("answers /api/version", item["answers"], "yes")
        yield Check("port", address.rpartition(":")[2], str(self.port))
        yield Check("listens elsewhere", _elsewhere(found, item, self.port), [])
        yield Check("log lines that say it found no card", logged.strip(), "0")
        yield Check("keeps its cards over a daemon-reload, as others do", item["scope"] in ("", "systemd"), True)
        limits = (item["memory"] or 0, item["cpus"] or 0, max(item["pids"] or 0, 0))
        yield Check("limits of memory, cpus, pids", limits, (self.memory, round(self.cpus * NANO), self.pids))

    def _state(self, found: Engine, declared: Collection[str]) -> State:
        """What is known of it. No answer from inside is no proof that the cards are lost: a busy host takes long,
        a full one runs nothing, a limit may be too small for the look. One that is to be removed may be as ill as it
        likes; one whose limit is to be another is made anew whatever it sees."""
        item = found.containers.get(self.name, {})
        sees = item.get("sees", "")
        if self.image and sees.endswith(inspect.NO_ANSWER):
            raise UnreadableError(f"nvidia-smi inside {self.name} gave no answer in {card_look.LIMIT} s")
        if self.image and sees.endswith(KILLED) and (item["memory"] or 0) == self.memory:
            short = f"its limit of {self.memory} bytes is too small" if self.memory else "the host has no memory left"
            raise UnreadableError(f"nvidia-smi inside {self.name} was killed; see whether {short}")
        if self.image and NOT_RUN in sees and "not found" not in sees and ROOT_GONE not in sees:
            raise UnreadableError(f"nothing can be run inside {self.name}: {sees[:300]}")
        return state(found, self.name, declared)

    def _cards(self, facts: HostFacts) -> list[str]:
        """The UUIDs of its cards."""
        found = facts.by_index
        return sorted(found[index].uuid if index in found else f"no card {index}" for index in self.gpus)

    def _recreate(self, want: Mapping[str, Any]) -> Command:
        words = create_words(self.name, want)
        return sh(scripts.RECREATE, self.name, *words, title=f"create container {self.name}", timeout=START_TIMEOUT)

    def _start(self, want: Mapping[str, Any], script: Script = scripts.START, verb: str = "start") -> Command:
        arguments = (self.name, want["publish"][0], *want["gpus"])
        return sh(script, *arguments, title=f"{verb} container {self.name}", timeout=START_TIMEOUT)

    def _stop(self) -> Command:
        return sh(scripts.STOP, self.name, title=f"stop container {self.name}")


def _is_kept(have: State, want: Mapping[str, Any]) -> bool:
    """Whether the container itself is right, and only has to be started, stopped or restarted.

    One that runs and does not see its cards is not: its root may be gone (ROOT_GONE), and NVIDIA's own cure is to make
    such a container anew (docs/facts.md#lost-cards).
    """
    if have is None:
        return False
    differs = {key for key, _ in differing(have, want)}
    lost = have["running"] and want["running"] and "sees" in differs
    return not lost and differs <= {"running", "sees", "answers"}


def _loss(have: Mapping[str, Any], want: Mapping[str, Any]) -> str:
    """What a container that runs has lost, or may lose, if that is why it is made anew."""
    if [key for key, _ in differing(have, want)] == ["cgroup"]:
        return ", whose cards a daemon-reload would take"
    if not have["running"] or have["gpus"] != want["gpus"] or have["sees"] == want["sees"]:
        return ""
    gone = any(ROOT_GONE in line for line in have["sees"])
    return ", in which nothing can be run any more" if gone else ", which has lost its cards"


def uuids(indices: Sequence[int], facts: HostFacts) -> list[str]:
    """The UUIDs of these cards.

    Raises:
        RefusalError: there is no such card, or it is cut into MIG devices.
    """
    return [_uuid(index, facts) for index in indices]


def _uuid(index: int, facts: HostFacts) -> str:
    card = facts.card(index)
    if card is None or card.broken:
        raise RefusalError(complaint(index, facts))
    if card.mig:
        raise RefusalError(f"card {index} ({card.name}) is in MIG mode and cannot be used whole; switch MIG off")
    return card.uuid


def run_hash(name: str, wanted: Mapping[str, Any]) -> str:
    """A hash of the whole run line: sees what `docker inspect` is not asked for."""
    words = create_words(name, {**wanted, "run": ""})
    return hashlib.sha256(dumps([words, wanted["environment"]]).encode()).hexdigest()[:16]


def state(found: Engine, name: str, declared: Collection[str] = ()) -> State:
    """What is known of a container; None if there is none of that name.

    Args:
        found: what Docker has.
        name: of the container.
        declared: the variables that it is given.
    """
    item = found.containers.get(name)
    if item is None:
        return None
    labels = item["labels"] or {}
    if labels.get(inspect.MANAGED) != "1":
        return {"foreign": True, "image": item["image"], "status": item["status"]}
    current = found.pulled_id(item["image"]) or found.image_id(item["image"])
    return {
        "image": item["image"],
        "current": current in ("", item["image_id"]),
        "running": item["status"] == "running",
        "gpus": sorted(cards_of(item)),
        "sees": _listed(item["sees"]) or [item["sees"][:200]],
        "answers": item["answers"][:200],
        "publish": _published(item),
        "environment": environment(item, declared),
        "mounts": sorted(_mount(mount) for mount in item["mounts"] or ()),
        "restart": _restart(item["restart"] or {}),
        "memory": item["memory"] or 0,
        "cpus": item["cpus"] or 0,
        "pids": max(item["pids"] or 0, 0),
        "log": _log(item["log"] or {}),
        "privileged": bool(item["privileged"]),
        "devices": [device["PathOnHost"] for device in item["devices"] or ()],
        "options": options(item),
        "network": _network(item),
        "cgroup": LEFT if item["scope"] == "cgroupfs" else OWN,
        "run": labels.get("provision.run", ""),
    }


def cards_of(item: Mapping[str, Any]) -> list[str]:
    """The cards of a container as Docker was told: UUIDs or indices, `all`, or `first N`."""
    cards: list[str] = []
    for request in item["requests"] or ():
        cards += request.get("DeviceIDs") or []
        count = request.get("Count") or 0
        cards += ["all"] if count < 0 else [f"first {count}"] if count else []
    return cards


def _published(item: Mapping[str, Any]) -> list[str]:
    bindings = (item["ports"] or {}).get(f"{PORT}/tcp") or ()
    found = [f"{binding['HostIp'] or '0.0.0.0'}:{binding['HostPort']}" for binding in bindings]  # noqa: S104
    others = [f"{port} too" for port in item["ports"] or {} if port != f"{PORT}/tcp"]
    return sorted(found) + sorted(others)


def _mount(mount: Mapping[str, Any]) -> str:
    source = mount.get("Name") if mount["Type"] == "volume" else mount["Source"]
    options = "" if mount.get("RW", True) else ",readonly"
    return f"type={mount['Type']},{csv_field(f'source={source}')},target={mount['Destination']}{options}"


def _network(item: Mapping[str, Any]) -> str:
    """The networks it is really on: one that was taken off the bridge by hand still has that in its settings."""
    return ",".join(name for name in item["networks"] if name) or "none"


def _restart(policy: Mapping[str, Any]) -> str:
    name = policy.get("Name") or "no"
    count = policy.get("MaximumRetryCount") or 0
    return f"{name}:{count}" if count else name


def _log(config: Mapping[str, Any]) -> dict[str, str]:
    return {"driver": config.get("Type", ""), **(config.get("Config") or {})}


def _listed(text: str) -> list[str]:
    """The UUIDs in the output of `nvidia-smi -L`."""
    return sorted(re.findall(r"\(UUID: ([^)\s]+)\)", text))


def _elsewhere(found: Engine, item: Mapping[str, Any], port: int) -> list[str]:
    """Where its port is open beside the one address that it was given; that is never every address."""
    published = {at.rpartition(":")[0] for at in _published(item)}
    listening = {one.address for one in found.listening if one.port == port}
    return sorted(published & {"0.0.0.0", "::"} | listening - published)  # noqa: S104 - compared, not bound


@dataclass(frozen=True, kw_only=True)
class OwnedContainers(Owned):
    """Finds the containers that carry our mark."""

    def fact(self) -> Fact:
        """Reads what Docker has."""
        return inspect.fact(self._pick)

    def step(self, step_id: str) -> Step:
        """A container of that name, to be removed."""
        return Container(name=step_id.partition(":")[2], image="", gpus=(), port=0, address="")

    @staticmethod
    def _pick(found: Engine) -> State:
        states = {f"container:{name}": state(found, name) for name in found.containers}
        return {key: value for key, value in states.items() if value is not None and not value.get("foreign")}
