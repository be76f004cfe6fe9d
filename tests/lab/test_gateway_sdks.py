"""openai-python, Anthropic's SDK and ollama-python through the gateway: each answer, each refusal, and each retry.

nginx, its module and the clients are real. The instance is the lab's SIMULATED Ollama.
"""

import json
import re
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from provision.roles.balancer_gateway import Client, Gateway, Key, Served
from tests.contract.ollama import simulator
from tests.gateway import packaged_nginx
from tests.gateway.balancer import ALICE, BOB, CAP, GONE, OLD, hashed
from tests.gateway.running import RunningGateway, running
from tests.real.install import packages
from tests.real.install.workshop import Workshop, default_folder

pytestmark = [pytest.mark.lab, pytest.mark.matrix]
CLIENTS = Path(__file__).parents[1] / "real/clients"
EVE, QUINN = "sk-prov-eve-0123456789abcdef", "sk-prov-quinn-0123456789abcdef"
KEYS = {"alice": ALICE, "bob": BOB, "eve": EVE, "quinn": QUINN, "old": OLD, "gone": GONE, "nobody": "sk-prov-nobody"}
GATEWAY = Gateway(
    models={
        "gemma3:270m": Served({"": "ollama"}),
        "embed:latest": Served({"": "ollama"}),
        "busy:latest": Served({"": "empty"}),
    },
    clients=(
        Client("alice"),
        Client("bob", models=("embed:latest",)),
        Client("eve", rate=1),
        Client("quinn", tokens_per_day=1),
    ),
    keys=(
        *(Key(hashed(KEYS[name]), name) for name in ("alice", "bob", "eve", "quinn")),
        Key(hashed(OLD), "alice", expires=1),
        Key(hashed(GONE), "alice", revoked=True),
    ),
    cap=CAP,
    retry_after=1,
)
SDKS = ("gateway_openai", "gateway_anthropic", "gateway_ollama")
AGAIN = {"too fast", "no room"}
"""The refusals after which a retry may help."""


@dataclass(frozen=True)
class Results:
    """What a client reports of its cases, and the rows of the gateway's log.

    Args:
        cases: name of a case -> whether the case holds, and the evidence.
        retries: time limit that names a case -> the greatest number of a retry that was refused; 0 without a retry.
    """

    cases: Mapping[str, Mapping[str, Any]]
    retries: Mapping[str, int]


@pytest.fixture(scope="module")
def python() -> Path:
    """A Python with the clients, pinned by hash."""
    return packages.environment(Workshop(default_folder()), ["clients"]) / "python"


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    """A gateway in front of the simulator, and of a pool without an instance."""
    with simulator.running(tmp_path_factory.mktemp("simulator")) as instance:
        ports = {"ollama": [instance.port], "empty": [1]}
        with running(packaged_nginx.unpacked(), tmp_path_factory.mktemp("gateway"), GATEWAY, ports) as started:
            yield started


@pytest.fixture(scope="module", params=SDKS)
def results(request: pytest.FixtureRequest, python: Path, gateway: RunningGateway) -> Results:
    """The results of one client."""
    words = [python, CLIENTS / f"{request.param}.py", f"http://127.0.0.1:{gateway.port}", json.dumps(KEYS)]
    before = len(gateway.rows)
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    cases = {row["name"]: row for row in map(json.loads, done.stdout.splitlines())}
    gateway.row(gateway.ask("GET", "/v1/models").mark)  # nginx's only worker has logged all earlier requests by then
    retries: dict[str, int] = {}
    for row in gateway.rows[before:]:
        if row["patience"] and row["status"] >= 400:
            limit = f"{float(row['patience']):g}"
            retries[limit] = max(retries.get(limit, 0), int(row["retries"] or 0))
    return Results(cases, retries)


def test_every_case_of_a_client_holds(results: Results) -> None:
    assert [row["evidence"] for row in results.cases.values() if not row["holds"]] == []
    assert len(results.cases) >= 23


def test_a_client_tries_again_where_a_retry_may_help_and_nowhere_else(results: Results) -> None:
    """ollama-python never tries again, and sends no time limit."""
    seen = {}
    for name, row in results.cases.items():
        limit = re.search(r", limit (\d+):", row["evidence"])
        if limit and results.retries:
            seen[name] = results.retries[limit[1]]
    assert seen == {name: int(name.removesuffix(" stream") in AGAIN) for name in seen}
    assert len(seen) in (0, 20)
