"""The files of the gateway, and the rules for hostile requests. The scripts run in `tests/lab/test_gateway.py`."""

import hashlib
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from provision.inventory.client_file import ClientFile, Limits
from provision.roles.balancer_gateway import CLIENTS, DATA, MODES, SCRIPTS, Client, Gateway, Key, Served, of_file
from provision.steps.nginx.router import NETWORKS
from provision.steps.ollama import gateway_paths
from provision.steps.ollama.engine import OLLAMA
from tests.gateway import hostile, rules
from tests.gateway.stub_instance import Arrived

TEMPLATES = Path(__file__).parents[2] / "templates/balancer"
GATEWAY = Gateway(
    models={"a:1b": Served({"": "ollama"}), "b:1b": Served({"": "ollama", "line": "ollama_2"}, {"size": 3})},
    clients=(
        Client("alice", concurrency=4, rate=60),
        Client("bob", models=("a:1b",), concurrency=4),
        Client("carol", pool="line", rate=7, tokens_per_day=9),
    ),
    keys=(Key("a" * 64, "alice", expires=5), Key("b" * 64, "bob", revoked=True)),
    networks={"10.0.0.0/8": "carol"},
)


def text(gateway: Gateway, name: str) -> str:
    return gateway.files[name].decode()


def test_the_data_has_sets_in_place_of_arrays() -> None:
    """The module freezes preloaded data and takes the prototypes away, so that an array has no methods."""

    def arrays(value: object) -> bool:
        if isinstance(value, dict):
            return any(map(arrays, value.values()))
        return isinstance(value, list)

    data = json.loads(text(GATEWAY, DATA))
    assert not arrays(data)
    assert data["models"]["b:1b"] == {
        "pools": {"": "gateway_ollama", "line": "gateway_ollama_2", "_provision_pools": "gateway_ollama"},
        "details": {"size": 3},
    }
    known = json.loads(text(GATEWAY, CLIENTS))
    assert not arrays(known)
    assert known["clients"]["bob"] == {"models": {"a:1b": True}, "pool": "", "tokens_per_day": 0}
    assert known["keys"]["a" * 64] == {"client": "alice", "expires": 5, "revoked": False}
    assert data["auth"] == "keys"
    assert json.loads(text(replace(GATEWAY, clients=None), DATA))["auth"] == "none"


def test_hashes_of_keys_are_for_root_alone() -> None:
    assert MODES == {DATA: 0o600, CLIENTS: 0o600}
    public = [name for name, content in GATEWAY.files.items() if b"a" * 64 in content and name not in MODES]
    assert public == []


def test_every_path_of_the_data_has_a_location_and_every_location_a_path() -> None:
    natives = {path.path for path in gateway_paths.NATIVE}
    for gateway in (GATEWAY, replace(GATEWAY, api="openai")):
        data = json.loads(text(gateway, DATA))
        exact = re.findall(r"^location = (\S+) \{$", text(gateway, "gateway_server.conf"), re.MULTILINE)
        assert sorted(exact) == sorted(data["paths"])
        assert data["paths"]["/api/chat"]["open"] == (gateway.api == "native")
        assert all(entry["open"] for path, entry in data["paths"].items() if path not in natives)


def test_every_open_location_is_judged() -> None:
    blocks = re.findall(
        r"^location (?:= )?(/\S*) \{\n(.*?)^\}", text(GATEWAY, "gateway_server.conf"), re.MULTILINE | re.DOTALL
    )
    assert len(blocks) == len(GATEWAY.data["paths"]) + 3, (
        "a location for each path, for a single model, for the name of a model, and for the rest"
    )
    for path, block in blocks:
        judged = 'if ($gateway_verdict != "pass") { return 500' in block
        assert judged or (path == "/" and "return 403" in block)


def test_clients_with_the_same_limit_share_a_class() -> None:
    http = text(GATEWAY, "gateway_http.conf")
    assert (
        'map $gateway_client $gateway_connections_4 {\n    default "";\n    \\\\alice alice;\n    \\\\bob bob;\n}'
        in http
    )
    assert "rate=60r/m" in http
    assert "10.0.0.0/8 carol;" in text(GATEWAY, NETWORKS).splitlines()
    server = text(GATEWAY, "gateway_server.conf")
    assert "limit_conn gateway_connections_4 4;" in server
    assert "limit_req zone=gateway_rate_60 burst=10 nodelay;" in server
    assert "limit_req zone=gateway_rate_7 burst=2 nodelay;" in server


def test_clients_and_keys_come_from_the_operators_file() -> None:
    known, key = ClientFile().added("alice", Limits(models=("a:1b",), concurrency=4, pool="line"), 100)
    known, other = known.rotated("alice", 200, overlap=50)
    clients, keys = of_file(known.revoked("alice", 300))
    assert clients == (Client("alice", models=("a:1b",), concurrency=4, pool="line"),)
    hashes = [hashlib.sha256(text.encode()).hexdigest() for text in (key, other)]
    assert keys == (Key(hashes[0], "alice", 250, revoked=True), Key(hashes[1], "alice", None, revoked=True))


def test_a_gateway_without_limits_has_no_zones_for_limits() -> None:
    gateway = replace(GATEWAY, clients=None)
    assert "limit_conn_zone" not in text(gateway, "gateway_http.conf")
    assert "limit_req " not in text(gateway, "gateway_server.conf")


def test_the_paths_for_clients_are_those_of_the_engine() -> None:
    assert gateway_paths.are_of(OLLAMA.client_paths)
    lists = {path for path in gateway_paths.LISTS if path.startswith("/api/")}
    assert lists | {"/v1/models"} == set(OLLAMA.lists)


def test_no_key_of_a_loaded_model_is_allowed() -> None:
    allowed = {key for path in gateway_paths.NATIVE for key in path.keys or ()}
    assert not allowed & {"keep_alive", "shift"}
    assert not set(gateway_paths.OPTIONS) & {"num_ctx", "num_batch", "num_gpu", "main_gpu", "use_mmap", "num_thread"}
    assert not set(gateway_paths.OPTIONS) & {"draft_num_predict"}
    assert {key.lower() for key in (*allowed, *gateway_paths.OPTIONS)} == allowed | set(gateway_paths.OPTIONS)


def test_every_module_that_a_script_imports_is_a_file_of_the_gateway() -> None:
    imported = {
        name for script in SCRIPTS for name in re.findall(r"from '(\S+\.js)'", (TEMPLATES / script).read_text())
    }
    assert imported | {"gateway.js"} == set(SCRIPTS)
    assert {path.name for path in TEMPLATES.glob("*.js")} == set(SCRIPTS)


def test_every_variable_of_a_script_exists() -> None:
    http = text(GATEWAY, "gateway_http.conf")
    scripts = "".join((TEMPLATES / script).read_text() for script in SCRIPTS)
    written = set(re.findall(r"r\.variables\.(gateway_\w+) = ", scripts))
    assert written <= set(re.findall(r"js_var \$(\w+);", http))
    functions = re.findall(r"js_set \$\w+ gateway\.(\w+);", http)
    exported = re.findall(r"\w+", scripts.partition("export default {")[2].partition("}")[0])
    assert set(functions) <= set(exported)


def arrived(path: str, body: str, **headers: str) -> Arrived:
    return Arrived("ollama", "POST", path, headers, body.encode())


MODELS = frozenset({"tiny:latest"})


@pytest.mark.parametrize(
    ("request_", "rule"),
    [
        (arrived("/api/chat", '{"model":"tiny","KEEP_\\u0041live":0}'), "keep_alive"),
        (arrived("/api/chat", '{"model":"tiny","\\u212aeep_alive":0}'), "keep_alive"),
        (arrived("/api/chat", '{"model":"tiny","\u017fhift":0}'), "shift"),
        (arrived("/api/chat", '{"model":"tiny","options":{"NUM_CTX":1}}'), "num_ctx"),
        (arrived("/api/chat", '{"model":"tiny","MODEL":"other"}'), "not on this instance"),
        (arrived("/api/chat", '{"model":1}'), "not on this instance"),
        (arrived("/v1/messages", '{"model":"tiny","Keep_Alive":0}'), "keep_alive"),
        (arrived("/api/chat", '{"model":"tiny"'), "no JSON"),
        (arrived("/api/chat", "[1]"), "no object"),
        (arrived("/api/pull", '{"model":"tiny"}'), "closed"),
        (arrived("/api/chat?a=b", '{"model":"tiny"}'), "closed"),
        (arrived("/api/chat/../pull", '{"model":"tiny"}'), "closed"),
        (arrived("/api/chat", '{"model":"tiny"}', x="a secret b"), "the key"),
        (arrived("/api/chat", '{"model":"tiny"}', authorization="x"), "authorization"),
    ],
)
def test_a_broken_rule_is_found(request_: Arrived, rule: str) -> None:
    assert any(rule in found for found in rules.broken_rules(request_, MODELS, ("secret",)))


def test_a_sound_request_breaks_no_rule() -> None:
    body = '{"model":"TINY","options":{"seed":1},"Stream":true,"messages":[{"keep_alive":0}]}'
    assert rules.broken_rules(arrived("/api/chat", body), MODELS, ("secret",)) == []
    assert rules.broken_rules(Arrived("ollama", "GET", "/", {}, b""), MODELS, ()) == []


def test_the_same_seed_makes_the_same_requests() -> None:
    first, again, other = (list(hostile.attacks(seed, 300, ("k",), ("tiny",), 1000)) for seed in (1, 1, 2))
    assert first == again
    assert first != other
    assert len({attack.request for attack in first}) == 300
