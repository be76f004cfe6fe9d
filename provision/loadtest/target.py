"""Which endpoint, which model: taken from the inventory, and asked before any load."""

import difflib
import http.client
import json
import socket
import ssl
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from provision.errors import HostError, ProvisionError, UnreachableError, UsageError
from provision.inventory import Host, Instance, Inventory, Secret, shared_settings
from provision.inventory.topology import is_balancing, sources
from provision.loadtest.measure import Tally
from provision.terminal_text import line

TIMEOUT = 10.0  # seconds without a word
LARGEST = 4 * 1024 * 1024  # bytes of an answer


@dataclass(frozen=True)
class Endpoint:
    """What is tested.

    Args:
        urls: base URL of every balancer.
        weights: HOST/INSTANCE of every instance behind them -> its weight; empty where no inventory says.
        labels: address and port of every instance -> HOST/INSTANCE.
        models: the models that every instance serves.
    """

    urls: tuple[str, ...]
    weights: Mapping[str, float] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    models: tuple[str, ...] = ()

    def tally(self) -> Tally:
        """An empty tally that knows these instances."""
        return Tally(self.labels, frozenset(self.weights))


def of_inventory(inventory: Inventory, hosts: Sequence[Host]) -> Endpoint:
    """The endpoint that an inventory describes.

    Args:
        inventory: all hosts.
        hosts: those that `--limit` left.

    Raises:
        UsageError: none of the hosts is a balancer, or none can be reached from here.
    """
    balancers = [host for host in hosts if is_balancing(host, inventory)]
    if not balancers:
        names = ", ".join(host.name for host in inventory.hosts if is_balancing(host, inventory))
        raise UsageError("none of these hosts is a balancer", f"the balancers are {names}" if names else "")
    members = [(host, one) for each in balancers for host in sources(each, inventory) for one in host.instances]
    if not members:
        raise UsageError("no instance is behind these balancers", "see ollama.instances")
    first, *others = [instance.models for _, instance in members]
    return Endpoint(
        urls=tuple(_url(host) for host in balancers),
        weights={_name(host, one): float(one.weight) for host, one in members},
        labels={f"{address}:{one.port}": _name(host, one) for host, one in members for address in _addresses(host)},
        models=tuple(model for model in first if all(model in other for other in others)),
    )


def _name(host: Host, instance: Instance) -> str:
    return f"{host.name}/{instance.name}"


def _addresses(host: Host) -> set[str]:
    """Where its instances may be, by all that is known here."""
    found = {host.serving.listen_address, host.connection.address} - {""}
    with suppress(OSError):
        found |= {str(one[4][0]) for one in socket.getaddrinfo(host.connection.address, None, socket.AF_INET)}
    return found


def _url(host: Host) -> str:
    """Where clients reach a balancer: the address by which we reach its host, unless it listens elsewhere."""
    settings = shared_settings.balancer(host)
    listens = settings.listen
    everywhere = {"0.0.0.0", "::"} & set(listens)  # noqa: S104 - compared, not bound
    address = host.connection.address if everywhere else listens[0]
    if address == "127.0.0.1" and host.connection.address not in ("127.0.0.1", "localhost"):
        hint = "run it there, or set balancer.listen to an address that clients reach"
        raise UsageError(f"the balancer of {host.name} listens on 127.0.0.1 only", hint)
    return f"http://{f'[{address}]' if ':' in address else address}:{settings.port}"


def of_url(url: str) -> Endpoint:
    """An endpoint that no inventory describes.

    Raises:
        UsageError: not such a URL.
    """
    parts = urlsplit(url)
    try:
        fine = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        fine = False
    if not fine or parts.username or parts.password or parts.query or parts.fragment or not url.isprintable():
        raise UsageError("the target must be a URL such as http://10.0.0.5:3008, without a user or a password")
    return Endpoint((url.rstrip("/"),))


def chosen_model(endpoint: Endpoint, model: str) -> str:
    """The model to ask for: the one said, else the first that every instance serves.

    Raises:
        UsageError: neither is there.
    """
    if model or endpoint.models:
        return model or endpoint.models[0]
    raise UsageError("no model is named, and the inventory has none that every instance serves", "say --model")


def probe(endpoint: Endpoint, model: str, key: Secret | None) -> list[str]:
    """Ask every balancer whether it is an Ollama endpoint and has the model.

    Args:
        endpoint: what to ask.
        model: what must be there.
        key: sent as a bearer token, or None.

    Returns:
        what is worth knowing before the load starts, each a sentence.

    Raises:
        UsageError: it is no such endpoint, wants a key, or has no such model.
        ProvisionError: it does not answer.
    """
    notes = []
    for url in endpoint.urls:
        if not isinstance(_ask(url, "/api/version", key).get("version"), str):
            raise UsageError(f"{url} is no Ollama endpoint: /api/version says no version", "is the port right?")
        names = _names(_ask(url, "/api/tags", key))
        if _full(model) not in {_full(name) for name in names}:
            near = difflib.get_close_matches(model, names, n=1)
            hint = f"did you mean {near[0]}?" if near else f"it has {', '.join(sorted(names)[:10]) or 'none'}"
            raise UsageError(f"{url} has no model {model}", line(hint, 500))
        if not _is_loaded(url, model, key):
            notes.append(f"{model} is not loaded on the instance that {url} asked: the first answers wait for that")
    return notes


def _is_loaded(url: str, model: str, key: Secret | None) -> bool:
    """Whether one instance has it in memory; where that may not be asked, it is no reason not to test."""
    try:
        running = _names(_ask(url, "/api/ps", key))
    except ProvisionError:
        return True
    return _full(model) in {_full(name) for name in running}


def _names(answer: dict[str, Any]) -> list[str]:
    models = answer.get("models")
    found = [one.get("name") for one in models if isinstance(one, dict)] if isinstance(models, list) else []
    return [name for name in found if isinstance(name, str)]


def _full(name: str) -> str:
    """A model's name with its tag."""
    return name if ":" in name.rpartition("/")[2] else f"{name}:latest"


def _ask(url: str, path: str, key: Secret | None) -> dict[str, Any]:
    """Get a JSON object from the endpoint."""
    request = urllib.request.Request(url + path, headers={"Accept": "application/json"})  # noqa: S310 - http(s) only
    if key:
        request.add_unredirected_header("Authorization", f"Bearer {key.reveal()}")
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), _Stay())
    try:
        with opener.open(request, timeout=TIMEOUT) as answer:
            found = json.loads(answer.read(LARGEST))
    except urllib.error.HTTPError as error:
        error.close()
        raise _refused(url + path, error.code, with_key=key is not None) from None
    except (urllib.error.URLError, OSError, http.client.HTTPException) as error:
        raise _silent(url, error) from error
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise UsageError(f"{url} is no Ollama endpoint: {path} does not answer with JSON", "is the port right?")
    return found


class _Stay(urllib.request.HTTPRedirectHandler):
    """An endpoint that sends us elsewhere is not the one that is tested."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        """Follow nothing."""


def _refused(url: str, status: int, *, with_key: bool) -> ProvisionError:
    if status in (401, 403):
        said = "refuses this key" if with_key else "wants a key"
        return UsageError(f"{url} {said} (HTTP {status})", "give it by --api-key env:NAME or --api-key file:PATH")
    if status >= 500:
        return HostError(f"{url} answers HTTP {status}", "see `provision verify`")
    return UsageError(f"this is no Ollama endpoint: {url} answers HTTP {status}", "is the port right?")


def _silent(url: str, error: Exception) -> ProvisionError:
    reason = getattr(error, "reason", error)
    if isinstance(reason, http.client.HTTPException):
        return UsageError(f"{url} is no Ollama endpoint: it does not speak HTTP", "is the port right?")
    if isinstance(reason, ssl.SSLError):
        return UsageError(f"{url} does not speak TLS as it should: {line(reason, 200)}", "http or https?")
    said = "no answer in time" if isinstance(reason, TimeoutError) else line(reason, 200)
    return UnreachableError(f"{url} cannot be reached: {said}", "see `provision verify`")
