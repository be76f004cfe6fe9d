"""The endpoint and the model: taken from the inventory, and asked before any load."""

import difflib
import http.client
import json
import socket
import ssl
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from email.message import Message
from typing import Any
from urllib.parse import quote, urlsplit

from provision.errors import HostError, ProvisionError, UnreachableError, UsageError
from provision.inventory import Host, Instance, Inventory, Secret, shared_settings
from provision.inventory.model import Carried
from provision.inventory.topology import is_balancing, sources
from provision.loadtest.measure import Tally
from provision.loadtest.trust import MACHINE, Trust
from provision.steps import engines
from provision.steps.nginx import traffic_shares
from provision.steps.nginx.replica_sets import replica_sets
from provision.terminal_text import line

TIMEOUT = 10.0  # seconds without a byte
SIMULATED = "X-Simulated"  # header of the lab's model server
LARGEST = 4 * 1024 * 1024  # bytes of an answer


@dataclass(frozen=True)
class Member:
    """An instance behind the endpoint, as the inventory declares it.

    Args:
        name: HOST/INSTANCE.
        cards: its cards, as the inventory names them.
        parallel: answers at once; 0 where the instance takes the number from the estimate.
        weight: its weight in the upstream.
        models: the models and the public names that it serves.
        carried: its public names, each with version and share.
    """

    name: str
    cards: Sequence[int | str]
    parallel: int
    weight: int
    models: Sequence[str]
    carried: Sequence[Carried] = ()


@dataclass(frozen=True)
class Probe:
    """The answers of an endpoint before the load.

    Args:
        notes: sentences for the operator.
        version: version of the model server, by the first URL.
        simulated: whether the model server says that it is the lab's simulation.
    """

    notes: Sequence[str]
    version: str
    simulated: bool


@dataclass(frozen=True)
class Endpoint:
    """The endpoint under test.

    Args:
        urls: base URL of every balancer.
        weights: HOST/INSTANCE of every instance behind the balancers -> its weight; empty without an inventory.
        labels: address and port of every instance -> HOST/INSTANCE.
        models: the models that every instance serves.
        members: every instance behind the balancers; empty without an inventory.
        behind: URL of a balancer -> HOST/INSTANCE of the instances behind that balancer; empty without an inventory.
        trust: how to trust balancers with TLS.
    """

    urls: tuple[str, ...]
    weights: Mapping[str, float] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    models: tuple[str, ...] = ()
    members: tuple[Member, ...] = ()
    behind: Mapping[str, frozenset[str]] = field(default_factory=dict)
    trust: Trust = MACHINE

    def tally(self) -> Tally:
        """An empty tally that knows the endpoint's instances."""
        return Tally(self.labels, frozenset(self.weights))


def of_inventory(inventory: Inventory, hosts: Sequence[Host]) -> Endpoint:
    """The endpoint of an inventory.

    Args:
        inventory: all hosts.
        hosts: the hosts within `--limit`.

    Raises:
        UsageError: no host is a balancer, or no balancer can be reached from here.
    """
    balancers = [host for host in hosts if is_balancing(host, inventory)]
    if not balancers:
        names = ", ".join(host.name for host in inventory.hosts if is_balancing(host, inventory))
        raise UsageError("none of these hosts is a balancer", f"the balancers are {names}" if names else "")
    members = [
        (host, instance) for each in balancers for host in sources(each, inventory) for instance in host.instances
    ]
    if not members:
        raise UsageError("no instance is behind these balancers", "see ollama.instances")
    first, *rest = [instance.names for _, instance in members]
    return Endpoint(
        urls=tuple(_url(host) for host in balancers),
        trust=_trust(balancers),
        weights={_name(host, instance): float(instance.weight) for host, instance in members},
        labels={
            f"{address}:{instance.port}": _name(host, instance)
            for host, instance in members
            for address in _addresses(host)
        },
        models=tuple(model for model in first if all(_is_served(model, served) for served in rest)),
        members=tuple(
            Member(
                name=_name(host, own),
                cards=own.gpus,
                parallel=0 if own.parallel_auto else own.parallel,
                weight=own.weight,
                models=own.names,
                carried=own.carried,
            )
            for host, own in members
        ),
        behind={
            _url(host): frozenset(_name(each, own) for each in sources(host, inventory) for own in each.instances)
            for host in balancers
        },
    )


def _name(host: Host, instance: Instance) -> str:
    return f"{host.name}/{instance.name}"


def _addresses(host: Host) -> set[str]:
    """The addresses at which a host's instances may be, by all that is known here."""
    addresses = {host.serving.listen_address, host.connection.address} - {""}
    with suppress(OSError):
        addresses |= {str(entry[4][0]) for entry in socket.getaddrinfo(host.connection.address, None, socket.AF_INET)}
    return addresses


def _url(host: Host) -> str:
    """The URL for clients of a balancer: the address by which we reach its host, unless it listens elsewhere."""
    settings = shared_settings.balancer(host)
    listens = settings.listen
    everywhere = {"0.0.0.0", "::"} & set(listens)  # noqa: S104 - compared, not bound
    address = host.connection.address if everywhere else listens[0]
    if address == "127.0.0.1" and host.connection.address not in ("127.0.0.1", "localhost"):
        hint = "run it there, or set balancer.listen to an address that clients reach"
        raise UsageError(f"the balancer of {host.name} listens on 127.0.0.1 only", hint)
    scheme = "https" if shared_settings.certificate(host) else "http"
    return f"{scheme}://{f'[{address}]' if ':' in address else address}:{settings.port}"


def _trust(balancers: Sequence[Host]) -> Trust:
    """How to trust the balancers: the authorities of all, and a name where a certificate lacks the address."""
    known = [(_url(host), found) for host in balancers if (found := shared_settings.certificate(host))]
    texts = dict.fromkeys(found.trust.decode(errors="replace") for _, found in known)
    hosts = {url: urlsplit(url).hostname or "" for url, _ in known}
    named = tuple((url, found.name) for url, found in known if not found.covers(hosts[url]))
    # Without given authorities one balancer is trusted by those of this machine: so are all then.
    asks = any(found.clients for _, found in known)
    return Trust("" if "" in texts else "".join(texts), named, asks=asks)


def of_url(url: str) -> Endpoint:
    """The endpoint of a URL, without an inventory.

    Raises:
        UsageError: the text is no URL of an endpoint.
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
    """The model to ask for: the given model, else the first model that every instance serves.

    Raises:
        UsageError: there is no such model.
    """
    if model or endpoint.models:
        return model or endpoint.models[0]
    served = ", ".join(dict.fromkeys(model for member in endpoint.members for model in member.models))
    hint = f"give --model: the instances serve {line(served, 500)}" if served else "give --model"
    raise UsageError("no model is given, and no model is served by every instance", hint)


def of_model(endpoint: Endpoint, model: str) -> Endpoint:
    """The endpoint for the requests of a model: only balancers and instances with the model, and the path of the model
    at a balancer whose root leads elsewhere.

    Args:
        endpoint: the balancers, and the instances behind them.
        model: the model to ask for. Of a model outside of the inventory the endpoint stays as given; see `probe`.

    Raises:
        UsageError: the balancer has no instance with the model.
    """
    names = {member.name for member in endpoint.members if _is_served(model, member.models)}
    if not names:
        return endpoint
    path = f"/models/{quote(_full(model), safe='/:')}"
    urls = [url for url in endpoint.urls if not names.isdisjoint(endpoint.behind[url])]
    if not urls:
        raise UsageError(f"{endpoint.urls[0]} has no instance with {line(model, 200)}", "give another --model")
    divided = _divided(endpoint, model)
    return replace(
        endpoint,
        urls=tuple(
            url if endpoint.behind[url] <= names and _has_root(endpoint, url, model) else f"{url}{path}" for url in urls
        ),
        weights={name: divided.get(name, weight) for name, weight in endpoint.weights.items() if name in names},
        members=tuple(member for member in endpoint.members if member.name in names),
    )


def _has_root(endpoint: Endpoint, url: str, model: str) -> bool:
    """Whether the root of a balancer leads to the instances of a model: the root belongs to the first replica set."""
    behind = [member for member in endpoint.members if member.name in endpoint.behind[url]]
    traffic: dict[str, dict[str, int]] = {}
    for each in (each for member in behind for each in member.carried):
        traffic.setdefault(_full(each.name), {})[_full(each.version)] = each.share
    first = replica_sets({member.name: [_full(name) for name in member.models] for member in behind}, traffic)[0]
    return _full(model) in first.models


def _divided(endpoint: Endpoint, model: str) -> Mapping[str, float]:
    """HOST/INSTANCE of the instances that carry a public name -> its weight by the shares of the versions."""
    found = [
        (member, each) for member in endpoint.members for each in member.carried if _is_served(model, (each.name,))
    ]
    shares = {_full(each.version): each.share for _, each in found}
    weights = traffic_shares.weights([(_full(each.version), member.weight) for member, each in found], shares)
    return {member.name: float(weight) for (member, _), weight in zip(found, weights, strict=True)}


def _is_served(model: str, models: Sequence[str]) -> bool:
    """Whether a model is among others, in any spelling."""
    return _full(model) in {_full(name) for name in models}


def probe(endpoint: Endpoint, model: str, key: Secret | None) -> Probe:
    """Ask every balancer whether it is an Ollama endpoint and has the model.

    Args:
        endpoint: the endpoint to ask.
        model: the model that must be there.
        key: sent as a bearer token, or None.

    Raises:
        UsageError: a balancer is no Ollama endpoint, wants a key, or lacks the model.
        ProvisionError: a balancer does not answer.
    """
    notes, versions, simulated = [], [], False
    for url in endpoint.urls:
        document, headers = _asked(endpoint, url, "/api/version", key)
        if not isinstance(document.get("version"), str):
            raise UsageError(f"{url} is no Ollama endpoint: /api/version has no version", "is the port right?")
        versions.append(document["version"])
        simulated = simulated or SIMULATED in headers
        names = _names(_ask(endpoint, url, "/api/tags", key))
        if not _is_served(model, names):
            near = difflib.get_close_matches(model, names, n=1)
            hint = f"did you mean {near[0]}?" if near else f"it has {', '.join(sorted(names)[:10]) or 'none'}"
            raise UsageError(f"{url} has no model {model}", line(hint, 500))
        if not _is_loaded(endpoint, url, model, key):
            notes.append(f"{model} is not loaded on the instance that {url} asked: the first answers wait for the load")
    if simulated:
        notes.insert(0, "the model server is simulated by the provision lab: its speed says nothing of any card")
    return Probe(notes, versions[0], simulated)


def _is_loaded(endpoint: Endpoint, url: str, model: str, key: Secret | None) -> bool:
    """Whether the asked instance has the model in memory. A forbidden question is no reason against a test."""
    try:
        running = _names(_ask(endpoint, url, "/api/ps", key))
    except ProvisionError:
        return True
    return _is_served(model, running)


def _names(answer: dict[str, Any]) -> list[str]:
    models = answer.get("models")
    names = [model.get("name") for model in models if isinstance(model, dict)] if isinstance(models, list) else []
    return [name for name in names if isinstance(name, str)]


def _full(name: str) -> str:
    """A model's name as balancers have the name: without defaults, with its tag, and in lower case."""
    return engines.canonical(name).lower()


def _ask(endpoint: Endpoint, url: str, path: str, key: Secret | None) -> dict[str, Any]:
    """Get a JSON object from the endpoint."""
    return _asked(endpoint, url, path, key)[0]


def _asked(endpoint: Endpoint, url: str, path: str, key: Secret | None) -> tuple[dict[str, Any], Message]:
    """Get a JSON object and the headers of the answer from the endpoint."""
    request = urllib.request.Request(url + path, headers={"Accept": "application/json"})  # noqa: S310 - http(s) only
    if key:
        request.add_unredirected_header("Authorization", f"Bearer {key.reveal()}")
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), endpoint.trust.handler(url), _Stay())
    try:
        with opener.open(request, timeout=TIMEOUT) as answer:
            document, headers = json.loads(answer.read(LARGEST)), answer.headers
    except urllib.error.HTTPError as error:
        error.close()
        raise _refused(url + path, error.code, with_key=key is not None) from None
    except (urllib.error.URLError, OSError, http.client.HTTPException) as error:
        raise _silent(url, error) from error
    except (ValueError, RecursionError):
        document, headers = None, Message()
    if not isinstance(document, dict):
        raise UsageError(f"{url} is no Ollama endpoint: {path} does not answer with JSON", "is the port right?")
    return document, headers


class _Stay(urllib.request.HTTPRedirectHandler):
    """Stays at the endpoint under test: a redirect would lead to another endpoint."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        """Follow no redirect."""


def _refused(url: str, status: int, *, with_key: bool) -> ProvisionError:
    if status in (401, 403):
        complaint = "refuses this key" if with_key else "wants a key"
        hint = "give it by --api-key env:NAME or --api-key file:PATH"
        if status == 403:
            complaint += ", or takes no requests from this machine"
            hint += "; balancer.allow names the machines"
        return UsageError(f"{url} {complaint} (HTTP {status})", hint)
    if status >= 500:
        return HostError(f"{url} answers HTTP {status}", "see `provision verify`")
    return UsageError(f"this is no Ollama endpoint: {url} answers HTTP {status}", "is the port right?")


def _silent(url: str, error: Exception) -> ProvisionError:
    reason = getattr(error, "reason", error)
    if isinstance(reason, http.client.HTTPException):
        return UsageError(f"{url} is no Ollama endpoint: the server does not speak HTTP", "is the port right?")
    if isinstance(reason, ssl.SSLError):
        hint = "http or https? The authority of a certificate of your own: balancer.tls.trust, or --ca FILE"
        return UsageError(f"{url} does not speak TLS as it should: {line(reason, 200)}", hint)
    complaint = "no answer in time" if isinstance(reason, TimeoutError) else line(reason, 200)
    return UnreachableError(f"{url} cannot be reached: {complaint}", "see `provision verify`")
