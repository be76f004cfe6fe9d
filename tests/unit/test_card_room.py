"""Room on the cards before the first byte: who tells the dimensions, and the refusal of an instance with numbers."""

import dataclasses
import struct
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from provision.actions import exit_code
from provision.actions.fit import Wish, fit
from provision.apply import card_room, diagnostics
from provision.capacity import catalogue
from provision.capacity.cards import RESERVED
from provision.capacity.dimensions import MetadataError
from provision.capacity.estimate import Request
from provision.command import Answer, Script, look
from provision.errors import GuardError, RefusedError, UnfitError, UnreachableError
from provision.lab.model_registry import ModelRegistry
from provision.lab.simulated import ollama_store
from provision.plan import planner
from provision.plan.planner import Change, HostPlan
from provision.plan.role_interface import Entry
from provision.rollout.outcome import Outcome
from provision.steps.facts import HostFacts
from provision.steps.loading import Loading
from provision.steps.nvidia_smi import Card
from provision.steps.ollama import model_header
from provision.steps.ollama.model import Model

from .test_gguf import STRING, U32, WORDS, file, pair, text
from .test_host_run import Note
from .test_room import SILENT, run

LARGE = "deepseek-r1:70b"
ECHO = Script("test/nothing", ":")


def publish(served: ModelRegistry, name: str) -> str:
    """Put a (simulated) model of the library into a registry, and return the name for a pull from there."""
    published = ollama_store.published(name)
    assert published
    parts = [(layer["mediaType"].rpartition(".")[2], layer["digest"]) for layer in published[0]["layers"]]
    served.store.publish(f"library/{name}", [(kind, published[1][digest]) for kind, digest in parts], {})
    return served.name(f"library/{name}")


def header_of(name: str, folder: Path, *, insecure: bool = True) -> Answer:
    return run(model_header.read(name, [("ollama1", str(folder))], "", insecure=insecure))


# -- who tells the dimensions


@pytest.mark.parametrize("fault", ["", "models-plain"])
def test_the_registry_tells_the_dimensions_by_the_begin_of_the_weights(tmp_path: Path, fault: str) -> None:
    with ModelRegistry(tmp_path / "registry").serving() as served:
        name = publish(served, LARGE)
        if fault:
            served.fault(fault)
        answer = header_of(name, tmp_path / "none")
        found = model_header.dimensions(name, answer)
        asked = [ranged for method, path, ranged in served.requests() if "blobs" in path]
    assert (found.source, found.architecture, found.block_count, found.kv_heads[0]) == ("gguf", "llama", 80, 8)
    assert 41e9 < found.weights.on_cards < 42.6e9
    assert asked[0] == "bytes=0-65535"
    assert len(answer.stdout) < 120_000


def test_a_model_on_the_host_is_read_there_and_nobody_else_is_asked(tmp_path: Path) -> None:
    with ModelRegistry(tmp_path / "registry").serving() as served:
        name = publish(served, "deepseek-r1:1.5b")
        [manifest] = (tmp_path / "registry/manifests").rglob("1.5b")
        place = tmp_path / "store/models/manifests" / served.host / "library/deepseek-r1/1.5b"
        place.parent.mkdir(parents=True)
        place.write_bytes(manifest.read_bytes())
        (tmp_path / "store/models/blobs").symlink_to(tmp_path / "registry/blobs")
        found = model_header.dimensions(name, header_of(name, tmp_path / "store"))
        places = [("ollama1", str(tmp_path / "none")), ("ollama2", str(tmp_path / "store"))]
        beside = run(model_header.read(name, places, "", insecure=True))
        assert model_header.dimensions(name, beside) == found, "another instance of the host has the model"
        assert served.requests() == []
    assert (found.source, found.block_count) == ("host", 28)


@pytest.mark.parametrize(
    ("fault", "value", "words"),
    [
        ("models-manifest", "html", "names no weights"),
        ("models-manifest", "404", "HTTP 404"),
        ("models-blob", "html", "no GGUF file: it begins with '<html>"),
        ("models-blob", "500", "500"),
        ("models-lie", "", "no GGUF file"),
    ],
)
def test_a_registry_that_tells_nothing_is_named(tmp_path: Path, fault: str, value: str, words: str) -> None:
    with ModelRegistry(tmp_path / "registry").serving() as served:
        name = publish(served, "qwen3:8b")
        served.fault(fault, value=value)
        answer = header_of(name, tmp_path / "none")
    with pytest.raises(MetadataError, match=words):
        model_header.dimensions(name, answer)


def test_without_registry_and_host_the_table_tells() -> None:
    assert model_header.dimensions(LARGE, SILENT) == catalogue.dimensions(LARGE)
    with pytest.raises(MetadataError, match="Could not resolve host"):
        model_header.dimensions("qwen3:8b", SILENT)


GARBLED = ("", "source host", "source host\nmanifest {}\nheader AAAA", "source x\nmanifest [5]\nheader AA==")


@pytest.mark.parametrize("text", GARBLED)
def test_an_answer_that_makes_no_sense_is_no_dimensions(text: str) -> None:
    with pytest.raises(MetadataError):
        model_header.dimensions("qwen3:8b", Answer(0, text.encode()))


@pytest.mark.parametrize("model", ollama_store.CATALOGUE)
def test_every_simulated_model_of_the_lab_has_dimensions(model: str) -> None:
    published = ollama_store.published(model)
    assert published
    weights = next(layer for layer in published[0]["layers"] if layer["mediaType"].endswith(".model"))
    begin = published[1][weights["digest"]][: model_header.PREFIX]
    found = model_header.of_header(model, begin, {weights["mediaType"]: weights["size"]}, "gguf")
    known = ollama_store.CATALOGUE[model]
    assert found.block_count == known.layers
    assert found.mla == (known.family == "deepseek2")
    assert known.size * 0.6 < found.weights.on_cards <= known.size


def test_smaller_models_are_those_of_the_table() -> None:
    assert [each.name for each in model_header.smaller("deepseek-r1:14b")][:2] == ["deepseek-r1:8b", "deepseek-r1:7b"]
    assert model_header.smaller("qwen3:8b") == ()
    assert model_header.smaller("mirror.test:5001/library/deepseek-r1:14b") == model_header.smaller("deepseek-r1:14b")
    assert model_header.smaller("mirror.test:5001/team/deepseek-r1:14b") == ()


def test_a_begin_that_ends_before_the_vocabulary_is_no_dimensions() -> None:
    """Without the count of key and value heads behind the end, every head would count, and a model that fits would be
    refused."""
    counts = {"block_count": 32, "embedding_length": 4096, "attention.head_count": 32, "attention.head_count_kv": 8}
    pairs = [pair("general.architecture", STRING, text("llama"))]
    pairs += [pair(f"llama.{key}", U32, struct.pack("<I", count)) for key, count in counts.items()]
    sizes = {"application/vnd.ollama.image.model": 10**9}
    with pytest.raises(MetadataError, match="ends before the dimensions"):
        model_header.of_header("x", file(*pairs, WORDS)[: len(file(*pairs[:-1]))], sizes, "gguf")
    found = model_header.of_header("x", file(*pairs, WORDS)[:-5], sizes, "gguf")
    assert (found.kv_heads[0], found.vocabulary) == (8, 3)


@pytest.mark.parametrize("on_host", [False, True])
def test_the_models_own_num_ctx_is_read_beside_the_weights(tmp_path: Path, on_host: bool) -> None:
    published = ollama_store.published("deepseek-r1:1.5b")
    assert published
    parts = [(layer["mediaType"].rpartition(".")[2], published[1][layer["digest"]]) for layer in published[0]["layers"]]
    parts = [(kind, content) for kind, content in parts if kind != "params"]
    parts.append(("params", b'{"num_ctx": 32768, "stop": ["<|x|>"]}'))
    with ModelRegistry(tmp_path / "registry").serving() as served:
        served.store.publish("library/own:1", parts, {})
        name = served.name("library/own:1")
        if on_host:
            [manifest] = (tmp_path / "registry/manifests").rglob("1")
            place = tmp_path / "store/models/manifests" / served.host / "library/own/1"
            place.parent.mkdir(parents=True)
            place.write_bytes(manifest.read_bytes())
            (tmp_path / "store/models/blobs").symlink_to(tmp_path / "registry/blobs")
        found = model_header.dimensions(name, header_of(name, tmp_path / "store"))
    assert (found.source, found.own_context, found.block_count) == ("host" if on_host else "gguf", 32768, 28)


def publish_own(served: ModelRegistry, folder: Path) -> tuple[str, Path]:
    """Put a model with a num_ctx of its own into a registry. Return its name, and the blob with the parameters."""
    published = ollama_store.published("deepseek-r1:1.5b")
    assert published
    parts = [(layer["mediaType"].rpartition(".")[2], published[1][layer["digest"]]) for layer in published[0]["layers"]]
    own = b'{"num_ctx": 32768}'
    served.store.publish("library/own:1", [*((k, c) for k, c in parts if k != "params"), ("params", own)], {})
    [blob] = [path for path in (folder / "blobs").iterdir() if path.read_bytes() == own]
    return served.name("library/own:1"), blob


def test_fit_counts_the_models_own_num_ctx_and_says_so_where_nobody_sends_it(tmp_path: Path) -> None:
    with ModelRegistry(tmp_path / "registry").serving() as served:
        name, blob = publish_own(served, tmp_path / "registry")
        ask = partial(model_header.from_registry, insecure=True)
        told = fit(Wish(name, ["RTX 4090"], Request(4096)), ask)
        blob.unlink()
        silent = fit(Wish(name, ["RTX 4090"], Request(4096)), ask)
        plan = model_header.dimensions(name, header_of(name, tmp_path / "none"))
    assert (told.dimensions.own_context, told.verdict.wanted.context) == (32768, 32768)
    assert "the context is num_ctx 32768 of the model's own parameters" in told.remarks[0]
    assert (silent.dimensions.own_context, silent.verdict.wanted.context) == (0, 4096)
    assert "a num_ctx there is not counted" in silent.remarks[0]
    assert (plan.own_context, plan.own_unread) == (0, True)
    loading = dataclasses.replace(Loads("/a").loading, dimensions=lambda answer: plan)
    fitting = card_room.judged({"ollama1": [("model:x", loading)]}, HostFacts(cards=(card(0),)), {loading.read: SILENT})
    assert "has a num_ctx of its own: nobody sent" in fitting.notes["model:x"]


HOSTILE = [
    b"",
    b"{}",
    b"[]",
    b"null",
    b'{"num_ctx": "8192"}',
    b'{"num_ctx": true}',
    b'{"num_ctx": -1}',
    b"\xff",
    b"[" * 9999,
]


@pytest.mark.parametrize("parameters", [*HOSTILE, b'{"num_ctx": 99999999999}', b'{"num_ctx": 4096.5}'])
def test_parameters_that_no_server_can_use_name_no_context(parameters: bytes) -> None:
    assert model_header.own_context(parameters) == 0


def test_the_models_own_num_ctx_wins_over_the_instances_context() -> None:
    loading = Loads("/a", model="deepseek-r1:32b", context=4096).loading
    dimensions = catalogue.dimensions("deepseek-r1:32b")
    assert dimensions
    assert loading.wish(dimensions) == Request(4096)
    own = dataclasses.replace(dimensions, own_context=65536)
    assert loading.wish(own) == Request(65536)
    large = dataclasses.replace(loading, dimensions=lambda _: own)
    found = card_room.judged({"ollama1": [("note:x", large)]}, HostFacts(cards=(card(0),)), {loading.read: SILENT})
    assert "context 65536 x 1" in found.unfit["ollama1"]
    assert "num_ctx of the model's own parameters" in found.unfit["ollama1"]


# -- the judgement


@dataclass(frozen=True, kw_only=True)
class Loads(Note):
    """A note of an instance that loads a model.

    Args:
        model: name of the model.
        gpus: its cards.
        context: tokens of context.
        at_once: models loaded at once.
        instance: name of the instance.
    """

    model: str = LARGE
    gpus: tuple[int, ...] = (0,)
    context: int = 8192
    at_once: int = 1
    instance: str = "ollama1"

    @property
    def id(self) -> str:
        return f"note:{self.instance}/{self.model}"

    @property
    def part_of(self) -> str:
        return self.instance

    @property
    def loading(self) -> Loading:
        read = look(ECHO, self.model, title=self.model)
        known = partial(model_header.dimensions, self.model)
        smaller = model_header.smaller(self.model)
        request = Request(self.context)
        return Loading(self.model, self.instance, self.gpus, request, self.at_once, read, known, smaller)


def card(index: int, mib: int = 24564, **more: Any) -> Card:
    return Card(index, f"GPU-{index}", "NVIDIA GeForce RTX 4090", "590.48.01", 8.9, mib, **more)


def judged(*steps: Loads, cards: tuple[Card, ...] = (card(0), card(1), card(2)), **facts: Any) -> card_room.Fit:
    entries = [Entry("docker", step) for step in steps]
    plan = HostPlan(tuple(Change("docker", step, "add", "not there") for step in steps), len(steps))
    models = card_room.loads(plan, entries)
    answers = dict.fromkeys(card_room.reads(models), SILENT)
    return card_room.judged(models, HostFacts(cards=cards, **facts), answers)


def test_a_model_that_fits_is_no_remark() -> None:
    assert judged(Loads("/a", model="deepseek-r1:14b")) == card_room.Fit()


def test_a_model_that_does_not_fit_is_refused_with_terms_and_alternatives() -> None:
    why = judged(Loads("/a")).unfit["ollama1"]
    dimensions = catalogue.dimensions(LARGE)
    assert dimensions
    for words in (
        "ollama1: estimate: deepseek-r1:70b (context 8192 x 1, cache f16) needs",
        f"has {(24564 - RESERVED) / 1024:.1f}",
        "needs 2 x NVIDIA GeForce RTX 4090",
        "deepseek-r1:32b fits as asked",
        f"weights {dimensions.weights.on_cards / 2**30:.1f}, KV cache 2.5, ",
        "CUDA context 0.4, margin 1.0",
        "dimensions by our table",
    ):
        assert words in why


def test_several_cards_of_an_instance_count_together() -> None:
    assert judged(Loads("/a", gpus=(0, 1))) == card_room.Fit()
    assert judged(Loads("/a", gpus=(0, 1, 2), context=65536)) == card_room.Fit()
    assert "ollama1" in judged(Loads("/a", gpus=(0, 1), context=65536)).unfit


def test_a_shorter_context_is_proposed() -> None:
    why = judged(Loads("/a", model="deepseek-r1:32b", context=32768)).unfit["ollama1"]
    assert "fits with context " in why
    proposal = int(why.partition("fits with context ")[2].split()[0].strip(";"))
    assert 8192 <= proposal < 32768
    assert judged(Loads("/a", model="deepseek-r1:32b", context=proposal)).unfit == {}


def test_other_users_of_a_card_count() -> None:
    step = Loads("/a", model="deepseek-r1:14b")
    assert judged(step, foreign={"GPU-1": 20000}).unfit == {}
    why = judged(step, foreign={"GPU-0": 24564 - RESERVED - 3072}).unfit["ollama1"]
    assert "has 3.0" in why
    assert "other users hold 20.5 GiB of these cards; as asked the model fits these cards without other users" in why
    assert " x NVIDIA" not in why


def test_models_loaded_at_once_share_the_cards() -> None:
    pair = [Loads("/a", model=f"deepseek-r1:{size}", at_once=2) for size in ("14b", "32b")]
    why = judged(*pair).unfit["ollama1"]
    assert "needs 1" in why
    assert "as asked the model fits these cards without other users" in why
    assert "deepseek-r1:32b of the same instance counts among the other users, because max_loaded_models is 2" in why
    assert "; max_loaded_models: 1 loads the models in turn" in why
    assert judged(*(dataclasses.replace(step, at_once=1) for step in pair)).unfit == {}
    assert judged(*(dataclasses.replace(step, gpus=(0, 1)) for step in pair)).unfit == {}


def test_instances_with_the_same_model_ask_once() -> None:
    """A host without internet waits some seconds for every question to a registry."""
    steps = [Model(instance=f"ollama{n}", name=LARGE, gpus=(n,), context=8192) for n in range(3)]
    plan = HostPlan(tuple(Change("models", step, "add", "not there") for step in steps), len(steps))
    models = card_room.loads(plan, [Entry("models", step) for step in steps])
    [read] = card_room.reads(models)
    found = card_room.judged(models, HostFacts(cards=(card(0), card(1), card(2))), {read: SILENT})
    assert found.unfit.keys() == {"ollama0", "ollama1", "ollama2"}


def test_one_instance_is_refused_and_the_other_is_not() -> None:
    assert judged(Loads("/a"), Loads("/b", model="deepseek-r1:8b", instance="ollama2")).unfit.keys() == {"ollama1"}


@pytest.mark.parametrize(
    ("step", "cards", "words"),
    [
        (Loads("/a", model="qwen3:8b"), (card(0),), "Could not resolve host"),
        (Loads("/a"), (), "nobody tells the memory of card 0"),
        (Loads("/a"), (card(0, 0),), "nobody tells the memory of card 0"),
        (Loads("/a"), (card(0, mig=True),), "divided by MIG"),
    ],
)
def test_what_nobody_knows_is_a_note_and_no_refusal(step: Loads, cards: tuple[Card, ...], words: str) -> None:
    found = judged(step, cards=cards)
    assert found.unfit == {}
    assert found.notes[step.id].startswith(f"not asked: whether {step.model} fits the cards of ollama1: ")
    assert words in found.notes[step.id]


@pytest.mark.parametrize("action", ["remove", ""])
def test_an_instance_without_a_new_model_or_container_asks_nothing(action: str) -> None:
    step = Loads("/a")
    changes = (Change("docker", step, action, "gone"),) if action else ()
    assert card_room.loads(HostPlan(changes), [Entry("docker", step)]) == {}


def test_the_step_of_a_model_names_what_its_instance_serves() -> None:
    step = Model(instance="o", name=LARGE, gpus=(1,), context=4096, parallel=2, cache_type="q8_0", at_once=3)
    loading = step.loading
    assert loading
    assert (loading.gpus, loading.request, loading.at_once) == ((1,), Request(4096, 2, "q8_0"), 3)
    assert Model(instance="o", name=LARGE).loading is None


# -- the refusal


def test_the_plan_leaves_the_refused_instance_out() -> None:
    entries = [Entry("docker", Loads("/a")), Entry("docker", Loads("/b", instance="ollama2"))]
    answers = {entry.fact().command: Answer(0, b"absent") for entry in entries}
    plan = planner.plan_host(entries, frozenset(), [], HostFacts(), answers, unfit={"ollama1": "too large"})
    assert [change.step.part_of for change in plan.changes] == ["ollama2"]
    assert (plan.refused, plan.left_out) == ({"ollama1": "too large"}, 1)


def test_a_refusal_by_the_estimate_is_exit_code_7() -> None:
    error = diagnostics.refused({"ollama1": "too large", "ollama2": "its card is lost"}, ["ollama1"])
    assert isinstance(error, UnfitError)
    assert "--force-fit" in error.hint
    assert error.message == "too large; its card is lost"
    assert exit_code.of_outcomes([Outcome("gpu-01", error=error), Outcome("gpu-02", error=RefusedError("x"))]) == 7
    assert exit_code.of_outcomes([Outcome("gpu-01", error=diagnostics.refused({"ollama1": "lost"}))]) == 3


# -- a model that this machine asks for


@pytest.mark.parametrize("fault", ["", "models-plain"])
def test_this_machine_asks_a_registry_for_the_begin_of_a_model(tmp_path: Path, fault: str) -> None:
    with ModelRegistry(tmp_path / "registry").serving() as served:
        name = publish(served, "qwen3:8b")
        if fault:
            served.fault(fault)
        found = model_header.from_registry(name, insecure=True)
        assert next(ranged for _, path, ranged in served.requests() if "blobs" in path) == "bytes=0-65535"
    assert (found.source, found.architecture, found.block_count) == ("gguf", "qwen3", 36)


@pytest.mark.parametrize(
    ("fault", "value", "words"),
    [
        ("models-manifest", "html", "names no weights|makes no sense"),
        ("models-manifest", "404", "answers 404"),
        ("models-manifest", "nothing", "cannot be fetched"),
        ("models-blob", "html", "no GGUF file: it begins with '<html>"),
        ("models-close", "100", "ends|cannot be fetched|no GGUF|have no"),
    ],
)
def test_a_registry_that_tells_this_machine_nothing_is_named(
    tmp_path: Path, fault: str, value: str, words: str
) -> None:
    with ModelRegistry(tmp_path / "registry").serving() as served:
        name = publish(served, "qwen3:8b")
        served.fault(fault, value=value)
        with pytest.raises((GuardError, UnreachableError), match=words):
            model_header.from_registry(name, insecure=True)
