"""What an engine is: the model server that runs in the container of an instance. Another engine is another value.

All that is peculiar to one engine stands in the folder of its steps. Steps, roles and the rollout know an engine by the
fields below; `provision.steps.engines` lists all engines.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from provision.command import Answer, Run
from provision.steps.base import Check
from provision.steps.docker.probe import Probe
from provision.steps.nvidia_smi import Card


class Readiness(Protocol):
    """Makes the test that an instance has to pass before it gets requests."""

    def __call__(self, instance: str, models: Sequence[str], *, any_model: bool = False) -> Run:
        """The command that tests an instance on its host. Where the instance passes, it prints `at ADDRESS:PORT`.

        Args:
            instance: name of the container.
            models: those that it is to have; the first is tested. Without any, none is.
            any_model: whether an instance passes too that has only another model, or none.
        """


class StreamProof(Protocol):
    """Proves that a streamed answer comes through a balancer."""

    def __call__(self, live: Any, url: str, model: str, serving: Mapping[str, str]) -> Iterator[Check]:
        """The proofs, which load no model.

        Args:
            live: testinfra's host.
            url: of the balancer, without a path.
            model: one that every instance serves.
            serving: label -> `ADDRESS:PORT`, of the instances that get requests.
        """


@dataclass(frozen=True, kw_only=True)
class Variables:
    """The environment of a server.

    Args:
        prefixes: how the names of the variables begin that the server reads.
        of_image: what every image of the engine sets: the configuration of an image that was removed is not known.
        complaint: why an operator may not set a variable; empty where he may.
    """

    prefixes: tuple[str, ...]
    of_image: Mapping[str, str] = field(default_factory=dict)
    complaint: Callable[[str], str]


@dataclass(frozen=True, kw_only=True)
class Loading:
    """How a script of the host loads models at boot.

    Args:
        functions: shell functions that `models` uses.
        models: lines of a shell function, which returns 1 where it fails. `$name` is the instance, `$at` its address
            and port, and the arguments are its models. Empty where a server loads its models before it answers.
    """

    functions: str = ""
    models: str = ""


@dataclass(frozen=True, kw_only=True, eq=False)
class Engine:
    """A model server.

    Args:
        name: name of its role, of its section of settings, and of its servers in nginx.
        title: its name for people.
        probe: the port, folder and paths of its server, and what the look at Docker asks.
        variables: the environment of its server.
        start_timeout: seconds in which a server answers that a deploy starts.
        boot_timeout: seconds in which a server answers that the host starts at boot.
        no_card: what its log says of a server that found no card; empty where such a server does not start.
        loading: how its models are loaded at boot.
        client_paths: paths, beside those below /v1/, that a balancer lets clients ask for.
        open_paths: those of them that are answered with status 200 to a GET, for verify.
        refused: `METHOD PATH` of requests that a balancer must refuse, for verify.
        canonical: the one form of a model's name, of any that an operator may write.
        unusable: why an image cannot use a card with the card's driver; empty where it can.
        readiness: makes the test of an instance.
        stream: proves that a streamed answer comes through a balancer.
    """

    name: str
    title: str
    probe: Probe
    variables: Variables
    start_timeout: int
    boot_timeout: int
    no_card: str = ""
    loading: Loading = Loading()
    client_paths: tuple[str, ...]
    open_paths: tuple[str, ...]
    refused: tuple[str, ...]
    canonical: Callable[[str], str]
    unusable: Callable[[str, Card], str]
    readiness: Readiness
    stream: StreamProof

    @property
    def health(self) -> str:
        """The path that a server answers as soon as it serves."""
        return self.probe.health


def proved_at(answer: Answer) -> str:
    """`ADDRESS:PORT` where an instance passed its test; empty where its Docker does not say.

    Args:
        answer: to the test.
    """
    found = re.findall(r"^at (\S+)$", answer.text, re.MULTILINE)
    return found[-1] if found else ""
