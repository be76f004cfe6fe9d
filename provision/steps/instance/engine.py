"""An engine: the model server in the container of an instance. A second engine is a second value.

Everything peculiar to an engine stands in the folder of its steps. Steps, roles and the rollout know an engine by the
fields below; `provision.steps.engines` lists all engines.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from provision.command import Answer, Run
from provision.steps.base import Check, Fact
from provision.steps.docker.probe import Probe
from provision.steps.instance.served import Served, nothing_known
from provision.steps.nvidia_smi import Card
from provision.steps.speed import Speed


class Readiness(Protocol):
    """Makes the test that an instance passes before requests arrive."""

    def __call__(self, instance: str, models: Sequence[str], *, any_model: bool = False) -> Run:
        """Return the command that tests an instance on its host. After a passed test the command prints `at
        ADDRESS:PORT`.

        Args:
            instance: name of the container.
            models: the declared models; the first is tested. Empty for a test without a model.
            any_model: whether an instance with only another model, or with none, passes too.
        """


class StreamProof(Protocol):
    """Proves that a streamed answer comes through a balancer."""

    def __call__(
        self,
        live: Any,
        url: str,
        model: str,
        serving: Mapping[str, str],
        config: str = "",
        versions: Sequence[str] = (),
    ) -> Iterator[Check]:
        """Yield the proofs, which load no model.

        Args:
            live: testinfra's host.
            url: of the balancer, perhaps with the path of a model.
            model: a model that every instance with requests serves.
            serving: label -> `ADDRESS:PORT`, of the instances with requests.
            config: file on the host with options of curl for requests to the balancer; empty for none.
            versions: the models that carry the name `model`; empty where the name is a model's own.
        """


@dataclass(frozen=True, kw_only=True)
class Variables:
    """The environment of a server.

    Args:
        prefixes: the prefixes of the variables that the server reads.
        of_image: variables that every image of the engine sets, for an image that was removed.
        complaint: returns why an operator may not set a variable; empty if allowed.
    """

    prefixes: tuple[str, ...]
    of_image: Mapping[str, str] = field(default_factory=dict)
    complaint: Callable[[str], str]


@dataclass(frozen=True, kw_only=True)
class Loading:
    """How a script of the host loads models at boot.

    Args:
        functions: shell functions that `models` uses.
        models: lines of a shell function, which returns 1 after a failure. `$name` is the instance, `$at` its address
            and port, and the arguments are its models. Empty for a server that loads its models before it answers.
    """

    functions: str = ""
    models: str = ""


@dataclass(frozen=True, kw_only=True)
class CardsLog:
    """The lines of a server's log that name its cards when the server starts.

    Args:
        line: words of such a line.
        key: the key in the line, followed by `=` and a value without blanks.
        wanted: the value of a server that uses its cards; upper case does not count.
    """

    line: str
    key: str
    wanted: str


class Native(Protocol):
    """Makes the fact about a server of the engine that a host runs outside Docker."""

    def __call__(self, storages: tuple[str, ...]) -> Fact:
        """Return the fact. Its state has `unit`, whether the unit is `active` and `enabled`, the `folder` of its
        models, the bytes of each of its `models`, and the models that are `there` in the folders of instances.

        Args:
            storages: the folders of instances with their models.
        """


def no_speed(answer: Answer) -> Speed | None:
    """Return no speed, for an engine whose test measures none.

    Args:
        answer: to the test.
    """
    return None


def plain_error(message: str) -> str:
    """Return an error as JSON text.

    Args:
        message: the text.
    """
    return json.dumps({"error": message}, separators=(",", ":"))


def as_given(model: str) -> tuple[str, ...]:
    """Return the only form of a name, for an engine without default tags.

    Args:
        model: a canonical name.
    """
    return (model,)


@dataclass(frozen=True, kw_only=True, eq=False)
class Engine:
    """A model server.

    Args:
        name: name of the role, of the section of settings, and of the servers in nginx.
        title: the name for people.
        probe: port, folder and paths of the server, and the questions of the read of Docker.
        variables: the environment of the server.
        start_timeout: seconds until a server answers after a start by a deploy.
        boot_timeout: seconds until a server answers after a start at boot.
        cards_log: the lines of the log that name the cards of a server; None if a server without a card does not start.
        loading: loads the models at boot.
        client_paths: paths for clients of a balancer, beside the paths below /v1/.
        open_paths: client paths that answer a GET with status 200, for verify.
        refused: `METHOD PATH` of requests that a balancer must refuse, for verify.
        lists: path that lists models -> the JSON text of a list, from names, for a balancer whose instances have
            different models.
        own_paths: the begin of the paths whose errors have the engine's own form; empty without such paths.
        own_error: returns the JSON text of an error in the engine's own form.
        canonical: returns the one form of a model's name.
        spellings: returns the forms of a canonical name that clients write, the canonical form first.
        unusable: returns why an image cannot use a card with the card's driver; empty if it can.
        readiness: makes the test of an instance.
        stream: proves that a streamed answer comes through a balancer.
        native: makes the fact about a server outside Docker; None for an engine without such servers.
        speed: reads the speed of an instance from the answer to its passed test; None where it was not measured.
        served: reads the models in memory from the answer to a look at Docker: container -> models. Raises
            `BlockedError` and `UnreadableError` as `inspect.read`.
    """

    name: str
    title: str
    probe: Probe
    variables: Variables
    start_timeout: int
    boot_timeout: int
    cards_log: CardsLog | None = None
    loading: Loading = Loading()
    client_paths: tuple[str, ...]
    open_paths: tuple[str, ...]
    refused: tuple[str, ...]
    lists: Mapping[str, Callable[[Sequence[str]], str]] = field(default_factory=dict)
    own_paths: str = ""
    own_error: Callable[[str], str] = plain_error
    canonical: Callable[[str], str]
    spellings: Callable[[str], tuple[str, ...]] = as_given
    unusable: Callable[[str, Card], str]
    readiness: Readiness
    stream: StreamProof
    native: Native | None = None
    speed: Callable[[Answer], Speed | None] = no_speed
    served: Callable[[Answer], Mapping[str, Served]] = nothing_known

    @property
    def health(self) -> str:
        """The path that a server answers as soon as it serves."""
        return self.probe.health


def proved_at(answer: Answer) -> str:
    """Return `ADDRESS:PORT` of an instance that passed its test; empty if Docker does not know the address.

    Args:
        answer: to the test.
    """
    places = re.findall(r"^at (\S+)$", answer.text, re.MULTILINE)
    return places[-1] if places else ""
