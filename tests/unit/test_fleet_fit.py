"""What fits on the hosts of an inventory, and loaded models beside their estimate, on hosts without a shell."""

import dataclasses
import json
from pathlib import Path

import pytest

from provision import testing
from provision.actions import fleet_fit
from provision.actions.request import Request
from provision.actions.results import Answers
from provision.capacity import catalogue
from provision.capacity import estimate as capacity
from provision.command import Answer
from provision.errors import FactError
from provision.inventory import Host, Instance, Inventory
from provision.report import fleet_fit as report
from provision.steps.facts import HostFacts
from provision.steps.nvidia_smi import Card
from provision.steps.ollama import measured_size
from provision.steps.ollama.kept_size import Kept
from provision.steps.ollama.measured_size import Size, Sizes
from provision.steps.ollama.model import Model
from provision.steps.ollama.server_state import Server

from .test_actions import INVENTORY
from .test_room import SILENT

WISH = capacity.Request(8192)
HOST = Host(
    name="gpu-01",
    groups=("gpu",),
    connection=None,  # type: ignore[arg-type] - no connection is made
    instances=(Instance(host="gpu-01", name="ollama1", gpus=(0, 1), port=3001),),
)


def card(index: int, mib: int = 24564) -> Card:
    return Card(index, f"GPU-{index}", "NVIDIA GeForce RTX 4090", "590.48.01", 8.9, mib)


def test_every_instance_and_every_card_without_an_instance_gets_a_model() -> None:
    facts = HostFacts(cards=(card(0), card(1), card(2), card(3)), foreign={"GPU-3": 16000})
    places = list(fleet_fit.places(HOST, facts, WISH))
    assert [(place.label, place.model, place.context) for place in places] == [
        ("gpu-01/ollama1", "deepseek-r1:70b", 8192),
        ("gpu-01, card 2", "deepseek-r1:32b", 8192),
        ("gpu-01, card 3", "deepseek-r1:8b", 8192),
    ]
    assert "spread over 2 cards" in places[0].reason
    assert list(fleet_fit.places(HOST, facts, WISH)) == places


def test_a_shorter_context_is_proposed_where_nothing_serves_the_wish() -> None:
    facts = HostFacts(cards=(card(0, 0), card(1), card(2, 3600)))
    unknown, small = fleet_fit.places(HOST, facts, capacity.Request(131072))
    assert (unknown.model, unknown.reason) == ("", "nobody tells the memory of card 0")
    assert small.label == "gpu-01, card 2"
    assert small.model == "" or 4096 <= small.context < 131072


def test_a_loaded_model_is_beside_its_estimate() -> None:
    loading = Model(instance="ollama1", name="deepseek-r1:32b", gpus=(0,), context=4096).loading
    assert loading
    loaded = (Size("ollama1", "deepseek-r1:32b", 23 << 30, 22, 8192), Size("ollama1", "qwen3:8b", 5, 5, 4096))
    known, other = fleet_fit.compared("gpu-01", [loading], Sizes(loaded), (), {loading.read: SILENT})
    dimensions = catalogue.dimensions("deepseek-r1:32b")
    assert dimensions
    assert known.need == capacity.estimate(dimensions, capacity.Request(8192)), "the context of the server counts"
    assert known.estimated == known.need.total - known.need.margin - known.need.cuda_context
    assert known.difference == round(((23 << 30) / known.estimated - 1) * 100, 1)
    assert other.difference is None
    assert (other.need, other.why) == (None, "the inventory does not declare the model")


def test_the_estimate_has_the_settings_of_the_server() -> None:
    """An inventory with `auto` has only the least numbers."""
    loading = Model(instance="ollama1", name=SMALL, gpus=(0,), context=4096, parallel=1, proposes=True).loading
    dimensions = catalogue.dimensions(SMALL)
    assert loading
    assert dimensions
    for settings, wish in (((16384, 4), capacity.Request(16384, 4)), ((0, 0), capacity.Request(4096, 1))):
        sizes = Sizes(answered=frozenset({"ollama1"}), settings={"ollama1": settings})
        (row,) = fleet_fit.compared("gpu-01", [loading], sizes, (), {loading.read: SILENT})
        assert row.need == capacity.estimate(dimensions, wish)
    sizes = Sizes((Size("ollama1", SMALL, 5, 5, 8192),), settings={"ollama1": (16384, 4)})
    (row,) = fleet_fit.compared("gpu-01", [loading], sizes, (), {loading.read: SILENT})
    assert row.need == capacity.estimate(dimensions, capacity.Request(8192, 4)), "the context of the load counts"


def test_a_model_that_nobody_knows_has_a_size_and_no_estimate() -> None:
    loading = Model(instance="ollama1", name="qwen3:8b", gpus=(0,), context=4096).loading
    assert loading
    sizes = Sizes((Size("ollama1", "qwen3:8b", 5, 5, 4096),))
    (row,) = fleet_fit.compared("gpu-01", [loading], sizes, (), {loading.read: SILENT})
    assert row.need is None
    assert "Could not resolve host" in row.why


SMALL = "deepseek-r1:1.5b"
KEPT = Kept(Size("ollama1", SMALL, 3 << 30, 3 << 30, 8192), 1_800_000_000)
STATES = {
    "silent, with a kept size": (
        Sizes(silent={"ollama1": "connection refused"}),
        (KEPT,),
        "the server did not answer: connection refused",
    ),
    "silent": (Sizes(silent={"ollama1": "no answer"}), (), "no size: the server did not answer: no answer"),
    "not loaded, with a kept size": (Sizes(answered=frozenset({"ollama1"})), (KEPT,), "not loaded now"),
    "not loaded": (Sizes(answered=frozenset({"ollama1"})), (), "no size: not loaded now"),
    "not there": (Sizes(), (), "no size: the instance is not there"),
}


@pytest.mark.parametrize(("sizes", "kept", "why"), STATES.values(), ids=list(STATES))
def test_a_declared_model_is_never_left_out(
    sizes: Sizes, kept: tuple[Kept, ...], why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    loading = Model(instance="ollama1", name=SMALL, gpus=(0,), context=4096).loading
    assert loading
    other = Kept(Size("ollama1", "gone:1b", 3, 3, 4096), 1)
    (row,) = fleet_fit.compared("gpu-01", [loading], sizes, (*kept, other), {loading.read: SILENT})
    assert (row.size, row.kept, row.why) == (None, kept[0] if kept else None, why)
    assert row.estimated > 0
    assert (row.difference is None) == (not kept)
    found = Answers(None, [(HOST, (row,))], 0)  # type: ignore[arg-type] - no host failed
    report.show_measured(found, WISH, as_json=False)
    said = " ".join(capsys.readouterr().out.split())
    assert f"{SMALL} ({why})" in said
    assert ("8192" in said) == bool(kept)


def test_a_size_now_and_a_kept_size_are_beside_each_other_in_the_document(capsys: pytest.CaptureFixture[str]) -> None:
    loading = Model(instance="ollama1", name=SMALL, gpus=(0,), context=4096).loading
    assert loading
    sizes = Sizes((Size("ollama1", SMALL, 2 << 30, 2 << 30, 4096),), answered=frozenset({"ollama1"}))
    rows = fleet_fit.compared("gpu-01", [loading], sizes, (KEPT,), {loading.read: SILENT})
    inventory = Inventory(path="inventory.yaml", hosts=())
    lost = (dataclasses.replace(HOST, name="gpu-02"), FactError("Docker does not answer", "start Docker"))
    report.show_measured(Answers(inventory, [(HOST, rows), lost], 3), WISH, as_json=True)
    document = json.loads(capsys.readouterr().out)
    assert document["hosts"][1] == {
        "host": "gpu-02",
        "result": "failed",
        "why": "Docker does not answer",
        "hint": "start Docker",
    }
    (row,) = document["measured"]
    assert (row["measured"], row["context"], row["is_loaded"], row["why"]) == (2 << 30, 4096, True, "")
    assert row["kept"] == {"size": 3 << 30, "on_cards": 3 << 30, "context": 8192, "at": 1_800_000_000}
    assert row["difference"] == round(100 * (row["measured"] / row["estimated"] - 1), 1)


def test_a_model_under_a_name_for_clients_is_the_model_that_was_pulled() -> None:
    long = "models.example:5001/library/deepseek-r1:1.5b"
    server = Server("running", loaded={SMALL: {"size": 5, "size_vram": 5}}, aliases={SMALL: long})
    (size,) = measured_size.of_server("ollama1", server)
    assert size.model == long
    loading = Model(instance="ollama1", name=long, gpus=(0,), context=4096).loading
    assert loading
    sizes = Sizes((size,), pulled={("ollama1", SMALL): long})
    (row,) = fleet_fit.compared("gpu-01", [loading], sizes, (KEPT,), {loading.read: SILENT})
    assert (row.model, row.size, row.kept) == (long, size, KEPT)


def test_the_commands_ask_each_host_in_one_exec(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "inventory.yaml").write_text(INVENTORY)
    host = testing.FakeHost()
    request = Request(str(tmp_path / "inventory.yaml"), setup=testing.setup(tmp_path, host.connect))
    found = fleet_fit.propose(request, WISH)
    assert host.execs == 2, "two hosts"
    assert {place.label for _, places in found.hosts for place in places} == {"gpu-01/ollama1", "gpu-02/ollama1"}
    report.show_places(found, WISH, as_json=True)
    document = json.loads(capsys.readouterr().out)
    assert [row["model"] for row in document["places"]] == ["", ""]
    report.show_places(found, WISH, as_json=False)
    assert "nobody tells the memory of card 0" in capsys.readouterr().out


def test_the_page_of_measured_sizes_names_every_model(capsys: pytest.CaptureFixture[str]) -> None:
    loading = Model(instance="ollama1", name="deepseek-r1:1.5b", gpus=(0,), context=4096).loading
    assert loading
    sizes = Sizes((Size("ollama1", "deepseek-r1:1.5b", 2 << 30, 2 << 30, 4096),))
    rows = fleet_fit.compared("gpu-01", [loading], sizes, (), {loading.read: SILENT})
    found = Answers(None, [(HOST, rows)], 0)  # type: ignore[arg-type] - no host failed
    report.show_measured(found, WISH, as_json=False)
    assert "gpu-01/ollama1" in (said := capsys.readouterr().out)
    assert "2.0" in said
    assert "deepseek-r1:1.5b" in said


@pytest.mark.parametrize("answer", [SILENT, Answer(124, b"")])
def test_a_docker_without_an_answer_is_an_error_and_no_host_without_models(answer: Answer) -> None:
    with pytest.raises(FactError, match="Docker does not answer"):
        measured_size.sizes(answer)


@pytest.mark.parametrize("number", [-1, 10**400, "8192", None, 1.5])
def test_an_impossible_number_of_a_server_is_none(number: object) -> None:
    entry = {"size": number, "size_vram": number, "context_length": number}
    server = Server("running", loaded={"deepseek-r1:32b": entry})
    assert list(measured_size.of_server("ollama1", server)) == [Size("ollama1", "deepseek-r1:32b", 0, 0, 0)]


def test_a_host_without_docker_has_no_loaded_model() -> None:
    assert measured_size.sizes(Answer(0, b"# absent\n# probes\n# end\n")) == Sizes()
