"""The size of loaded models by the server's own account, beside the estimate.

Source: `size` and `size_vram` of `/api/ps`, docs/facts.md#ollama-api.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from provision.command import Answer, Run
from provision.errors import FactError
from provision.steps.base import BlockedError, UnreadableError
from provision.steps.ollama import server_state
from provision.terminal_text import ending

MOST = 1 << 50
"""No larger number of bytes or tokens is believed of a server."""


@dataclass(frozen=True)
class Size:
    """A loaded model.

    Args:
        instance: name of the instance.
        model: name of the model.
        size: bytes of the loaded model.
        on_cards: bytes of these that are on cards.
        context: tokens of context that the model was loaded with; 0 where unknown.
    """

    instance: str
    model: str
    size: int
    on_cards: int
    context: int


def command() -> Run:
    """Return the read-only command that asks every instance of a host."""
    return server_state.command()


@dataclass(frozen=True)
class Sizes:
    """The loaded models of a host.

    Args:
        loaded: by instance and name.
        silent: instance -> why its server did not answer.
        answered: names of the instances whose servers answered.
        pulled: instance and name for clients -> the name under which the model was pulled.
        settings: instance -> its server's own context and requests at once; 0 where the server has no such setting.
    """

    loaded: tuple[Size, ...] = ()
    silent: Mapping[str, str] = field(default_factory=dict)
    answered: frozenset[str] = frozenset()
    pulled: Mapping[tuple[str, str], str] = field(default_factory=dict)
    settings: Mapping[str, tuple[int, int]] = field(default_factory=dict)


def sizes(answer: Answer) -> Sizes:
    """Return the loaded models of a host, and the servers without an answer.

    Args:
        answer: to `command`.

    Raises:
        FactError: Docker does not answer.
    """
    try:
        servers = server_state.read(answer).by_name
    except (BlockedError, UnreadableError) as error:
        evidence = error.evidence if isinstance(error, BlockedError) else str(error)
        raise FactError(
            "the loaded models cannot be read: Docker does not answer",
            "look at Docker on the host (`systemctl status docker`)",
            exit_status=answer.exit,
            stderr=ending(evidence, 2000),
        ) from error
    loaded = tuple(dict.fromkeys(size for name in sorted(servers) for size in of_server(name, servers[name])))
    silent = {name: _silence(server) for name, server in servers.items() if server.loaded is None}
    pulled = {(name, alias): source for name, server in servers.items() for alias, source in _pulled(server).items()}
    settings = {name: (server.context, server.parallel) for name, server in servers.items()}
    return Sizes(loaded, silent, frozenset(servers.keys() - silent.keys()), pulled, settings)


def _pulled(server: server_state.Server) -> dict[str, str]:
    """Return name for clients -> name under which the model was pulled."""
    return {server_state.canonical(name): server_state.canonical(source) for name, source in server.aliases.items()}


def _silence(server: server_state.Server) -> str:
    """Return why a server did not answer."""
    return server.error if server.status == "running" else f"its container is {server.status}"


def of_server(instance: str, server: server_state.Server) -> Iterator[Size]:
    """Yield the loaded models of an instance, by the names under which they were pulled; a model with several names
    comes several times. An impossible number of the server counts as 0.

    Args:
        instance: name of the instance.
        server: its server.
    """
    pulled = _pulled(server)
    for model, entry in sorted((server.loaded or {}).items()):
        numbers = (entry.get("size"), entry.get("size_vram"), entry.get("context_length", 0))
        size, on_cards, context = (
            number if isinstance(number, int) and 0 <= number < MOST else 0 for number in numbers
        )
        source = pulled.get(model, model)
        source = pulled.get(source, source)  # a version of a public name may come from a mirror
        yield Size(instance, source, size, on_cards, context)
