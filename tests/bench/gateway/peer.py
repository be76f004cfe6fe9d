"""LiteLLM's proxy as the peer: pinned, in a virtual environment of its own, with static keys and no database."""

import json
import os
import secrets
import shutil
import signal
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests.bench.gateway.client import Place
from tests.bench.gateway.places import CONCURRENCY, INSTANCES, LITELLM, Front
from tests.bench.gateway.processes import demand_free, started, stopped, wait_for
from tests.bench.measure import BenchError

PINNED = {"litellm": ("litellm[proxy]==1.106.12",)}
"""A version whose requirements the package index had on 2026-12-01; those of 1.109.3 and 1.110.2 were missing."""
PLACE = Place("127.24.0.99", 4000)
WORKERS = 2
RETRIES = 2
STARTS = 300.0  # seconds; an idle machine needs a tenth
PATIENCE = 600  # seconds; by default a worker process that loads its modules for five seconds is killed and begins anew
KEYS = {name: f"sk-bench-{name}-0123456789abcdef" for name in CONCURRENCY}
_AUTH = Path(__file__).with_name("peer_keys.py")
_QUIET = {
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "LITELLM_LOG": "ERROR",
    "LITELLM_TELEMETRY": "False",
    "DISABLE_ADMIN_UI": "True",
    "NO_DOCS": "True",
}
"""No look-ups in the network, and a short log."""


def configuration() -> dict[str, object]:
    """Return LiteLLM's configuration: each instance is a deployment of its model, and `peer_keys.py` has the keys."""
    deployments = [
        {
            "model_name": model,
            "litellm_params": {
                "model": f"openai/{model}",
                "api_base": f"http://{place.address}:{place.port}/v1",
                "api_key": "none",
            },
        }
        for model, places in INSTANCES.items()
        for place in places
    ]
    return {
        "model_list": deployments,
        "router_settings": {"routing_strategy": "least-busy", "num_retries": RETRIES},
        "litellm_settings": {"telemetry": False, "request_timeout": 600},
        "general_settings": {"custom_auth": f"{_AUTH.stem}.user_api_key_auth"},
    }


class Peer:
    """A running LiteLLM, which `restart` ends and starts again.

    Args:
        programs: folder of the peer's programs.
        folder: folder of the configuration and of the output.
    """

    def __init__(self, programs: Path, folder: Path) -> None:
        self._stack = ExitStack()
        self._folder = folder
        self._words = [
            *(str(programs / "litellm"), "--config", str(folder / "config.yaml")),
            *("--host", PLACE.address, "--port", str(PLACE.port), "--num_workers", str(WORKERS)),
            *("--timeout_worker_healthcheck", str(PATIENCE)),
        ]
        master = f"sk-{secrets.token_hex(32)}"
        self._env = {**os.environ, **_QUIET, "LITELLM_MASTER_KEY": master, "PATH": f"{programs}:{os.environ['PATH']}"}

    def start(self) -> None:
        """Start the proxy and wait until the proxy answers: the port is open long before."""
        demand_free(PLACE)
        self._process = self._stack.enter_context(
            started(self._words, self._folder, self._folder, signal.SIGTERM, self._env)
        )
        wait_for(PLACE, self._process, STARTS)
        _refuses_strangers()

    @property
    def front(self) -> Front:
        """The proxy as a way to the instances."""
        return Front(LITELLM, PLACE, self._process.pid, KEYS)

    def end(self) -> None:
        """End the proxy as an operator does, by SIGTERM."""
        stopped(self._process, signal.SIGTERM)

    def close(self) -> None:
        """End what runs."""
        self._stack.close()


@contextmanager
def proxying(programs: Path, folder: Path) -> Iterator[Peer]:
    """Run LiteLLM.

    Args:
        programs: folder of the peer's programs.
        folder: a new folder.
    """
    folder.mkdir(parents=True)
    shutil.copy(_AUTH, folder)
    (folder / "keys.json").write_text(json.dumps({KEYS[name]: most for name, most in CONCURRENCY.items()}))
    (folder / "config.yaml").write_text(json.dumps(configuration(), indent=1))
    peer = Peer(programs, folder)
    try:
        peer.start()
        yield peer
    finally:
        peer.close()


def _refuses_strangers() -> None:
    """Prove that LiteLLM checks keys: a proxy without checks would be a faster proxy."""
    asked = urllib.request.Request(
        f"http://{PLACE.address}:{PLACE.port}/v1/models", headers={"Authorization": "Bearer x"}
    )
    try:
        urllib.request.urlopen(asked, timeout=STARTS).close()  # noqa: S310 - loopback
    except urllib.error.HTTPError as error:
        if error.code in (400, 401, 403, 500):
            return
        raise BenchError(f"LiteLLM answers {error.code} to a stranger") from error
    raise BenchError("LiteLLM admits a stranger")
