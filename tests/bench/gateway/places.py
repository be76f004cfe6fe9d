"""Addresses, models and clients of the bench. All is on loopback."""

from dataclasses import dataclass

from tests.bench.gateway.client import Place

MODELS = ("deepseek-r1:32b", "qwen2.5-coder:32b")
HOSTS = ("127.24.0.11", "127.24.0.12")
INSTANCES = {model: [Place(host, 3001 + number) for host in HOSTS] for number, model in enumerate(MODELS)}
"""Model -> its instances: each host has an instance of each model."""
ALL_INSTANCES = [place for places in INSTANCES.values() for place in places]

LOAD, FEW, FLOOD = "load", "few", "flood"
CONCURRENCY = {LOAD: 0, FEW: 8, FLOOD: 4}
"""Client -> greatest number of requests at once; 0 for no limit."""

DIRECT, PLAIN, OURS, UNCOUNTED, LITELLM = "direct", "plain nginx", "ours", "ours, answers not counted", "LiteLLM"
PROXIES = (PLAIN, OURS, LITELLM)


@dataclass(frozen=True)
class Front:
    """A way to the instances.

    Args:
        name: name of the way.
        place: the server; None straight to the instances.
        pid: first process of the proxy; 0 straight to the instances.
        keys: client -> key.
    """

    name: str
    place: Place | None
    pid: int
    keys: dict[str, str]

    def at(self, model: str, number: int) -> Place:
        """Return the server of a request.

        Args:
            model: name of the model.
            number: number of the request: without a proxy, clients take turns.
        """
        return self.place or INSTANCES[model][number % len(HOSTS)]
