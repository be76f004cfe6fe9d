"""A model from a mirror is served under its own name: settings, steps, and scripts with a simulated server."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provision.errors import InventoryError
from provision.inventory import Inventory
from provision.plan import mirrored, role_interface
from provision.steps.base import BlockedError, PutBack, RefusalError, converged
from provision.steps.facts import HostFacts
from provision.steps.ollama import server_state
from provision.steps.ollama.alias import Alias, LeavingAliases, MarkedAlias, OwnedAliases
from provision.steps.ollama.model import Model, OwnedModels
from provision.steps.ollama.server_state import Server, Servers, canonical
from provision.steps.ollama.source_name import source_name
from tests.unit.test_hostile import FACTS
from tests.unit.test_lab_ollama import MODEL, ask, server
from tests.unit.test_models_simulated import host, pull, registry, run

__all__ = ["host", "registry", "server"]
MIRROR = "models.test:5000/library/deepseek-r1:1.5b"
FLEET = """
all:
  vars:
    nginx: {accept_known_vulnerabilities: true}
    mirrors: {MIRRORS}
    models: {MODELS}
    ollama: {models: [NAMES]}
  children: {gpu: {hosts: {gpu-01: {ollama: {instances: [{gpus: [0]}]}}}}}
"""


@pytest.fixture
def load(tmp_path: Path):
    """A function that reads the inventory of these tests."""

    def read(mirrors: str, names: str = MODEL, models: str = "{}") -> Inventory:
        path = tmp_path / "inventory.yaml"
        text = FLEET.replace("{MIRRORS}", mirrors).replace("{MODELS}", models).replace("NAMES", names)
        path.write_text(text)
        return role_interface.load(str(path))

    return read


def of_models(inventory: Inventory) -> dict:
    entries = role_interface.steps(inventory.hosts[0], inventory)
    return {entry.step.id: entry.step for entry in entries if entry.role == "models"}


# -- settings


@pytest.mark.parametrize("mirrors", [f'{{models: {{"{MODEL}": "{MIRROR}"}}}}', "{model_registry: 'models.test:5000'}"])
def test_a_model_is_pulled_by_the_mirrors_name_and_served_by_its_own(load, mirrors):
    found = of_models(load(mirrors))
    assert list(found) == [f"model:ollama1/{MIRROR}", f"alias:ollama1/{MODEL}", "resident:ollama1"]
    assert found["resident:ollama1"].models == (MODEL,)
    assert {f"model:ollama1/{MIRROR}", f"alias:ollama1/{MODEL}"} <= set(found["resident:ollama1"].after)
    assert found[f"alias:ollama1/{MODEL}"].source == MIRROR


def test_an_entry_of_a_model_wins_over_the_registry_and_names_with_a_registry_stay(load):
    mirrors = f"{{model_registry: 'other.test', models: {{'{MODEL}': 'modelscope.cn/org/R1-GGUF:Q4_K_M'}}}}"
    found = of_models(load(mirrors, f"'{MODEL}', 'hf.co/org/x:1', 'me/y'"))
    assert [step_id for step_id in found if step_id.startswith("model:")] == [
        "model:ollama1/modelscope.cn/org/R1-GGUF:Q4_K_M",
        "model:ollama1/hf.co/org/x:1",
        "model:ollama1/other.test/me/y:latest",
    ]
    assert [step_id for step_id in found if step_id.startswith("alias:")] == [
        f"alias:ollama1/{MODEL}",
        "alias:ollama1/me/y",
    ]


def test_two_names_of_one_source_pull_once(load):
    mirrors = f"{{models: {{a: '{MIRROR}', b: '{MIRROR}'}}}}"
    assert list(of_models(load(mirrors, f"a, b, '{MIRROR}'"))) == [
        f"model:ollama1/{MIRROR}",
        "alias:ollama1/a",
        "alias:ollama1/b",
        "resident:ollama1",
    ]


@pytest.mark.parametrize("name", [MODEL, MIRROR])
def test_a_declared_digest_holds_for_the_model_and_for_its_alias(load, name):
    found = of_models(load("{model_registry: 'models.test:5000'}", models=f"{{digests: {{'{name}': {'a' * 64}}}}}"))
    assert {step.digest for step_id, step in found.items() if step_id.startswith(("model:", "alias:"))} == {"a" * 64}


@pytest.mark.parametrize(
    ("mirrors", "path", "words"),
    [
        ("{model_registry: 'http://m.test'}", "all.vars.mirrors.model_registry", "must be a registry such as"),
        ("{model_registry: 'm.test:0'}", "all.vars.mirrors.model_registry", "must be a registry such as"),
        ("{model_registry: 'm.test/x'}", "all.vars.mirrors.model_registry", "must be a registry such as"),
        ("{models: {a: a}}", "all.vars.mirrors.models.a", "is its own mirror"),
        ("{models: {a: b, b: c}}", "all.vars.mirrors.models.a", "has an entry of its own"),
        ("{models: {a: 'x y'}}", "all.vars.mirrors.models.a", "must be a model such as"),
    ],
)
def test_a_wrong_name_is_refused_with_its_key(load, mirrors, path, words):
    with pytest.raises(InventoryError) as refused:
        load(mirrors)
    assert [problem.path for problem in refused.value.problems] == [path]
    assert words in str(refused.value.problems[0])


def test_the_registry_of_a_mirror_is_in_the_list_of_addresses(load):
    inventory = load("{model_registry: 'models.test:5000'}", models="{insecure: true}")
    found = [outside for outside in mirrored.outside(inventory.hosts[0], inventory) if outside.purpose == "models"]
    assert [(outside.address, outside.key) for outside in found] == [
        ("http://models.test:5000", "mirrors.model_registry")
    ]
    assert found[0].probe == "http://models.test:5000/v2/library/deepseek-r1/manifests/1.5b"


names = st.from_regex(
    r"([a-z0-9.]{1,9}(:[0-9]{1,4})?/)?([a-z]{1,5}/)?[a-z0-9.-]{1,9}(:[a-z0-9.]{1,5})?", fullmatch=True
)


@given(names)
def test_without_a_mirror_a_name_is_itself(name):
    assert source_name(name, {}, "") == name


@given(names)
def test_a_mirror_keeps_space_name_and_tag(name):
    source = source_name(name, {}, "m.test:5000")
    own, *rest = server_state.parts(name)
    is_library = own == server_state.DEFAULT_REGISTRY
    assert server_state.parts(source) == ("m.test:5000" if is_library else own, *rest)
    assert source_name(source, {}, "m.test:5000") == source


@pytest.mark.parametrize(("kind", "finder"), [("model", OwnedModels()), ("alias", OwnedAliases())])
@pytest.mark.parametrize("declared", ["model:o1/gemma3:latest", "alias:o1/gemma3:latest", "model:o1/library/gemma3"])
def test_another_spelling_of_a_declared_name_deletes_nothing(kind, finder, declared):
    ids = [f"{kind}:o1/gemma3", f"{kind}:o1/gemma3:4b", f"{kind}:o2/gemma3"]
    assert finder.kept({step_id: {} for step_id in ids}, {"container:o1", "container:o2", declared}) == ids[:1]


# -- state


def alias(**more) -> Alias:
    return Alias(instance="ollama1", name=MODEL, source=MIRROR, **more)


def servers(tags: dict[str, str], **more) -> Servers:
    entries = {canonical(name): {"name": name, "digest": f"sha256:{digest}"} for name, digest in tags.items()}
    return Servers({"ollama1": Server(status="running", folder="/f", tags=entries, loaded={}, **more)})


@pytest.mark.parametrize(
    ("tags", "as_wanted"),
    [
        ({MODEL: "1", MIRROR: "1"}, True),
        ({MODEL: "2", MIRROR: "1"}, False),
        ({MODEL: "1"}, False),
        ({MIRROR: "1"}, False),
        ({}, False),
    ],
    ids=["same", "moved", "model gone", "missing", "nothing"],
)
def test_an_alias_has_the_bytes_of_its_model(tags, as_wanted):
    have = alias()._state(servers(tags))
    assert converged(have, alias().want(FACTS, have)) is as_wanted
    assert (have is None) is (MODEL not in tags)


def test_an_alias_with_another_digest_than_declared_differs():
    have = alias(digest="a" * 64)._state(servers({MODEL: "1", MIRROR: "1"}))
    assert not converged(have, alias(digest="a" * 64).want(FACTS, have))


def test_an_alias_is_unknown_without_its_server():
    with pytest.raises(BlockedError, match="container:ollama1"):
        alias()._state(Servers({"ollama1": Server(status="exited")}))
    with pytest.raises(BlockedError, match="container:ollama1"):
        alias(storage="/data")._state(Servers())
    assert alias()._state(Servers()) is None


@pytest.mark.parametrize(
    ("tags", "failed"),
    [
        ({MODEL: "1", MIRROR: "1"}, []),
        ({MIRROR: "1"}, ["name present"]),
        ({MODEL: "2", MIRROR: "1"}, [f"same bytes as {MIRROR}"]),
        ({MODEL: "2"}, [f"same bytes as {MIRROR}"]),
    ],
)
def test_verify_proves_the_name_and_its_bytes(tags, failed):
    proofs = alias().proofs(servers(tags))
    assert [check.name for check in proofs if not check.passed] == failed
    [unknown] = alias().proofs(Servers({"ollama1": Server(status="exited")}))
    assert not unknown.passed


@pytest.mark.parametrize(
    ("loaded", "of_alias", "shown"),
    [
        ({MIRROR}, "1", {MIRROR, MODEL}),
        ({MODEL}, "1", {MIRROR, MODEL}),
        ({MIRROR, MODEL}, "1", {MIRROR, MODEL}),
        ({MIRROR}, "2", {MIRROR}),
        ({"other:latest"}, "1", {"other:latest"}),
        (set(), "1", set()),
    ],
)
def test_a_loaded_model_counts_under_every_name_with_its_bytes(loaded, of_alias, shown):
    known = {MODEL: {"digest": of_alias}, MIRROR: {"digest": "1"}}
    found = server_state.as_served({name: {} for name in loaded}, known)
    assert set(found) == shown
    assert server_state.as_served(None, known) is None


def test_a_loaded_model_keeps_its_bytes_when_its_name_moves_and_its_memory_counts_once():
    """The public name was loaded first, and means another version by now."""
    known = {"old:1": {"digest": "1"}, "new:1": {"digest": "2"}, "public:1": {"digest": "2"}}
    found = server_state.as_served({"public:1": {"digest": "1", "size_vram": 7}}, known)
    assert set(found) == {"old:1"}
    found = server_state.as_served({"new:1": {"digest": "2", "size_vram": 7}}, known)
    assert set(found) == {"new:1", "public:1"}
    assert server_state.claim(found) == 7


# -- orphans and rollback


def test_an_alias_that_is_no_longer_declared_goes_and_a_declared_name_stays():
    found = {"alias:ollama1/a": {}, "alias:ollama1/b": {}, "alias:ollama2/a": {}}
    declared = {"container:ollama1", "alias:ollama1/b"}
    gone = [
        (finder.last, [step_id for step_id in found if step_id not in {*declared, *finder.kept(found, declared)}])
        for finder in (LeavingAliases(), OwnedAliases())
    ]
    assert gone == [(False, ["alias:ollama2/a"]), (True, ["alias:ollama1/a"])]
    assert set(OwnedAliases().kept(found, {"container:ollama1", "model:ollama1/a"})) >= {"alias:ollama1/a"}
    assert set(OwnedModels().kept({"model:ollama1/a": {}}, {"container:ollama1", "alias:ollama1/a"})) == {
        "model:ollama1/a"
    }
    assert LeavingAliases().step("alias:ollama2/a").disrupts({}, None) == {"ollama2"}
    assert OwnedAliases().step("alias:ollama1/a").disrupts({}, None) == frozenset()


def test_marks_tell_models_and_aliases_apart():
    marked = MarkedAlias(instance="ollama1", name=MODEL)
    there = servers({}, aliases={MODEL: MIRROR})
    assert marked._marked(there) == {"ours": True}
    assert marked._marked(servers({})) is None


def test_a_rollback_leaves_names_and_brings_them_with_their_instance():
    assert "the next deploy deletes" in alias().irrevocable(None, {"same": True})
    assert "was deleted" in alias().irrevocable({"same": True}, None)
    assert alias().follows(PutBack(recreated=frozenset({"container:ollama1"}))) == alias()
    assert alias().follows(PutBack()) is None


# -- scripts


def tags(host) -> dict[str, str]:
    return {entry["name"]: entry["digest"] for entry in json.loads(ask(host, "GET", "/api/tags")[-1])["models"]}


def blobs(folder: Path) -> int:
    return len(list(folder.glob("**/models/blobs/sha256-*")))


@pytest.fixture
def mirror(registry) -> str:
    """The model is on the server under the name of a mirror."""
    name = registry.name(f"library/{MODEL}")
    assert pull(name, insecure=True).returncode == 0
    return name


def test_the_model_is_served_under_its_name_and_a_removed_alias_leaves_the_bytes(host, mirror, tmp_path):
    step = Alias(instance="ollama1", name=MODEL, source=mirror)
    (copy,) = step.commands(None, {"same": True})
    done = run(copy)
    assert done.returncode == 0, done.stderr
    found = tags(host)
    assert found[MODEL] == found[mirror]
    assert ask(host, "POST", "/api/generate", {"model": MODEL, "prompt": "x", "stream": False})[0] == 200
    mark = tmp_path / server_state.MARKS / f"{server_state.mark(MODEL)}.alias"
    assert mark.read_text() == f"{MODEL} {mirror}\n"
    assert mark.stat().st_mode & 0o077 == 0
    before = blobs(tmp_path)
    (delete,) = MarkedAlias(instance="ollama1", name=MODEL).commands({"ours": True}, None)
    assert run(delete).returncode == 0
    assert list(tags(host)) == [mirror]
    assert len(json.loads(ask(host, "GET", "/api/ps")[-1])["models"]) == 1, "the model stays loaded"
    assert blobs(tmp_path) == before > 0
    assert not mark.exists()
    assert [path.read_text().strip() for path in mark.parent.glob("*")] == [mirror]


def test_the_models_own_removal_leaves_an_alias_whole(host, mirror):
    (copy,) = Alias(instance="ollama1", name=MODEL, source=mirror).commands(None, {"same": True})
    assert run(copy).returncode == 0
    (delete,) = Model(instance="ollama1", name=mirror).commands({"whole": True}, None)
    assert run(delete).returncode == 0
    assert list(tags(host)) == [MODEL]
    assert ask(host, "POST", "/api/generate", {"model": MODEL, "prompt": "x", "stream": False})[0] == 200


def test_a_name_for_a_missing_model_fails_with_both_names(host, tmp_path):
    (copy,) = alias().commands(None, {"same": True})
    done = run(copy)
    assert done.returncode == 1
    assert f"could not give {MIRROR} the name {MODEL} (it answered 404)" in done.stderr
    assert not (tmp_path / server_state.MARKS).exists()


# -- a public name with a foreign model


def with_a_model_of_that_name(**more) -> Servers:
    tags = {"chat:latest": {"digest": "1"}, "b:latest": {"digest": "2"}}
    return Servers({"ollama1": Server(status="running", **{"tags": tags, "loaded": {}, **more})})


def test_a_public_name_takes_no_place_of_a_model_made_by_hand():
    step = Alias(instance="ollama1", name="chat", source="b", compared="b")
    have = step._state(with_a_model_of_that_name())
    with pytest.raises(RefusalError, match="`docker exec ollama1 ollama cp chat OTHER`"):
        step.want(HostFacts(), have)


COPIED = {"chat:latest": {"digest": "1"}, "own:latest": {"digest": "1"}, "b:latest": {"digest": "2"}}


@pytest.mark.parametrize(
    "ours", [{"marked": ("chat",)}, {"aliases": {"chat": "a"}, "public": frozenset({"chat:latest"})}, {"tags": COPIED}]
)
def test_a_public_name_takes_the_place_of_a_name_of_ours_and_of_a_second_name(ours):
    step = Alias(instance="ollama1", name="chat", source="b", compared="b")
    have = step._state(with_a_model_of_that_name(**ours))
    assert not converged(have, step.want(HostFacts(), have))
