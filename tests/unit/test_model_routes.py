"""The routes by model: a name leads to its own instances or to nothing, whatever the path and the name look like."""

import json
import re
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from provision.inventory import ModelName
from provision.steps.nginx.model_routes import LONGEST, UNKNOWN, text
from provision.steps.nginx.replica_sets import ReplicaSet, replica_sets
from provision.steps.nginx.upstream import block_name
from provision.steps.ollama import model_lists
from provision.steps.ollama.engine import OLLAMA
from tests.unit.nginx_config import Directive, find, parse
from tests.unit.nginx_locations import Reply, normal, reply

LANGUAGE, OTHER, EMBEDDING = "deepseek-r1:32b", "qwen2.5-coder:32b", "bge-m3:latest"
SERVED = {"a/1": (LANGUAGE, EMBEDDING), "a/2": (OTHER, EMBEDDING), "b/1": (LANGUAGE,)}
SETS = replica_sets(SERVED)
GROUPS = {LANGUAGE: "ollama", EMBEDDING: "ollama_2", OTHER: "ollama_3"}
OPEN = {*OLLAMA.client_paths, *OLLAMA.lists}
CONFIGURATION = st.from_regex(r"[a-z0-9_.:/-]{1,12}", fullmatch=True)


def routes(*sets: ReplicaSet) -> tuple[Directive, ...]:
    """Return the locations of the replica sets, and the closed root of the site."""
    return (*parse(text(sets, OLLAMA).decode()), *parse("location / { return 403 closed; }"))


ROUTES = routes(*SETS)


def asked(path: str, directives: tuple[Directive, ...] = ROUTES) -> Reply:
    return reply(directives, path.encode())


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages", "/api/chat", "/api/show", "/"])
@pytest.mark.parametrize("model", GROUPS)
def test_the_path_of_a_model_leads_to_its_instances(model: str, path: str) -> None:
    assert asked(f"/models/{model}{path}") == Reply(0, GROUPS[model], path.encode())
    assert asked(f"/models/{quote(model, safe='')}{path}") == Reply(0, GROUPS[model], path.encode())


def test_the_tag_latest_may_be_left_out_and_no_other() -> None:
    assert asked("/models/bge-m3/api/embed").group == "ollama_2"
    assert asked("/models/deepseek-r1/api/chat").status == 404


def test_names_are_in_lower_case() -> None:
    """nginx compares paths letter by letter; the answer names the models as they have to be written."""
    found = asked("/models/DeepSeek-R1:32B/v1/chat/completions")
    assert found.status == 404
    assert LANGUAGE in found.body


SERVED_HERE = f"no such model here, at /models/NAME; served: {', '.join(GROUPS)}"


@pytest.mark.parametrize("path", ["v1/chat/completions", "v1/messages", "v1/models", "nothing", ""])
def test_an_unknown_model_is_an_error_that_clients_of_openai_and_of_anthropic_read(path: str) -> None:
    found = asked(f"/models/nope/{path}")
    document = json.loads(found.body)
    assert (found.status, document["type"], document["error"]["type"]) == (404, "error", "not_found_error")
    assert (document["error"]["code"], document["error"]["param"]) == ("model_not_found", None)
    assert document["error"]["message"] == SERVED_HERE


@pytest.mark.parametrize("path", ["api/chat", "api/tags", "api/pull"])
def test_an_unknown_model_is_an_error_in_the_form_of_the_native_api(path: str) -> None:
    assert json.loads(asked(f"/models/nope/{path}").body) == {"error": SERVED_HERE}


def test_a_name_that_no_model_has_is_unknown() -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(ModelName).validate_python(UNKNOWN)
    assert asked(f"/models/{UNKNOWN}/v1/chat/completions").status == 404


@pytest.mark.parametrize("refused", OLLAMA.refused)
def test_closed_paths_are_closed_below_a_model_too(refused: str) -> None:
    path = refused.partition(" ")[2]
    found = asked(f"/models/{LANGUAGE}{path}")
    assert (found.status, json.loads(found.body)) == (403, {"error": "this path is not open here"})


# ---- lists -------------------------------------------------------------------------------------------------------


def test_the_lists_of_the_root_name_all_models_of_the_fleet() -> None:
    tags, running = (json.loads(asked(path).body)["models"] for path in ("/api/tags", "/api/ps"))
    assert [model["name"] for model in tags] == [model["name"] for model in running] == list(GROUPS)
    listed = json.loads(asked("/v1/models").body)
    assert (listed["object"], [model["id"] for model in listed["data"]]) == ("list", list(GROUPS))


def test_the_ollama_program_can_show_the_lists() -> None:
    """It cuts twelve characters of a digest, and takes a model without a byte on cards for one on the CPU."""
    for path in ("/api/tags", "/api/ps"):
        for model in json.loads(asked(path).body)["models"]:
            assert len(model["digest"][:12]) == 12
            assert path == "/api/tags" or (model["size"], model["size_vram"]) == (0, 1)


def test_a_question_that_names_a_model_in_its_path_goes_to_the_model() -> None:
    assert asked("/v1/models/bge-m3") == Reply(0, "ollama_2", b"/v1/models/bge-m3:latest")
    assert asked(f"/v1/models/{OTHER}").group == "ollama_3"


def test_the_lists_of_a_model_name_what_all_of_its_instances_serve() -> None:
    assert [model["id"] for model in json.loads(asked(f"/models/{LANGUAGE}/v1/models").body)["data"]] == [LANGUAGE]
    assert asked(f"/models/{OTHER}/v1/models").group == "ollama_3", "its only instance answers for itself"


@pytest.mark.parametrize("path", OLLAMA.lists)
def test_with_one_set_of_models_an_instance_answers_the_lists(path: str) -> None:
    directives = routes(ReplicaSet((LANGUAGE, EMBEDDING), ("a/1", "a/2")))
    assert asked(path, directives) == Reply(0, "ollama", path.encode())
    assert asked(f"/models/{EMBEDDING}{path}", directives) == Reply(0, "ollama", path.encode())
    assert asked("/v1/models/bge-m3", directives).status == 403


def test_a_long_list_is_cut_into_parts_that_nginx_takes() -> None:
    many = replica_sets({f"h/{n}": (f"{'m' * 70}{n}:latest",) for n in range(200)})
    directives = routes(*many)
    assert len(json.loads(asked("/v1/models", directives).body)["data"]) == 200
    assert len(json.loads(asked("/api/tags", directives).body)["models"]) == 200
    words = [word for location in find(directives, "location") for word in _words(location)]
    assert max(len(word.encode()) for word in words) <= LONGEST
    assert " more, see /v1/models" in asked("/models/nope/v1/models", directives).body


def _words(directive: Directive) -> list[str]:
    return [*directive.words, *(word for one in directive.block or () for word in _words(one))]


def test_without_models_in_the_inventory_no_path_of_a_model_is_open() -> None:
    directives = routes(ReplicaSet((), ("a/1",)))
    assert "no model is declared here" in asked("/models/x/v1/models", directives).body
    assert asked("/api/tags", directives) == Reply(0, "ollama", b"/api/tags")


# ---- hostile names and paths --------------------------------------------------------------------------------------

ONE = st.from_regex(r"(?:[a-zA-Z0-9_.:/-]|v1|api/|latest|chat){1,10}", fullmatch=True)


def valid(name: str) -> bool:
    try:
        TypeAdapter(ModelName).validate_python(name)
    except ValidationError:
        return False
    return True


NAMES = st.lists(ONE.filter(valid), min_size=1, max_size=5)


@given(NAMES)
@example(["a", "a/v1", "a/api", "a/v1/v1", "a/api/chat", "A/V1:latest", "v1", "api/chat", "models/a"])
@example(["a.b", "a-b", "a_b", "ab", "a.b:b"])
def test_every_accepted_name_has_a_path_of_its_own_and_no_path_is_there_twice(names: list[str]) -> None:
    """nginx refuses a configuration with two equal locations."""
    served = {f"h/{n}": (OLLAMA.canonical(name).lower(),) for n, name in enumerate(names)}
    sets = replica_sets(served)
    directives = routes(*sets)
    matches = [directive.words for directive in directives if directive.words[0] == "location"]
    assert len(set(matches)) == len(matches)
    for place, replicas in enumerate(sets):
        for model in replicas.models:
            for path in ("/v1/chat/completions", "/api/chat", "/"):
                found = asked(f"/models/{model}{path}", directives)
                assert found == Reply(0, block_name("ollama", place), path.encode())


HOSTILE = (
    "..",
    ".",
    "%2e%2e",
    "%2F",
    "%00",
    "%0d%0aX:1",
    "~",
    "(a+)+$",
    "[",
    "\\",
    "$uri",
    "'",
    '"',
    ";",
    "}",
    "é",
    "-",
)
SEGMENT = st.sampled_from((*GROUPS, "bge-m3", "models", "v1", "api", "chat", "pull", "V1", "MODELS", *HOSTILE))
PATHS = st.lists(SEGMENT | st.text(max_size=6), max_size=6).map(lambda parts: "/models/" + "/".join(parts))


@given(PATHS)
def test_no_path_reaches_a_closed_path_or_the_instances_of_another_model(path: str) -> None:
    """The real nginx agrees with the locations of this test: see the lab's test of two models."""
    found = reply(ROUTES, path.encode("utf-8", "replace"))
    if found.status:
        return
    normalised = normal(path.encode("utf-8", "replace"))
    assert normalised is not None
    if not normalised.startswith(b"/models/"):
        assert found.path.startswith(b"/v1/models/"), "a question about a model at the root"
        return
    names = {f"/models/{name}".encode(): group for model, group in GROUPS.items() for name in OLLAMA.spellings(model)}
    [(prefix, group)] = [(at, group) for at, group in names.items() if normalised.startswith(at + b"/")]
    assert (found.group, found.path) == (group, normalised.removeprefix(prefix))
    assert found.path.decode(errors="replace") in OPEN or found.path.startswith(b"/v1/")


@given(st.lists(st.text(max_size=12) | CONFIGURATION, max_size=5))
def test_no_text_of_a_host_breaks_out_of_the_configuration(names: list[str]) -> None:
    """The models of a host that a run did not visit come from a file on the balancer."""
    directives = routes(*(ReplicaSet((name,), ("a/1",)) for name in names))
    assert {one.words[0] for one in directives} == {"location"}
    assert {one.words[0] for location in directives for one in location.block or ()} <= {
        *("proxy_pass", "return", "set", "location")
    }


@given(st.lists(CONFIGURATION, unique=True, max_size=30))
def test_lists_are_json_with_every_name(names: list[str]) -> None:
    for make, key in ((model_lists.tags, "models"), (model_lists.running, "models"), (model_lists.openai, "data")):
        document: dict[str, Any] = json.loads(make(names))
        assert [entry.get("id", entry.get("name")) for entry in document[key]] == names
        assert not re.search(r"[$'\\]", make(names))
