"""Which models a rollback takes away again: never the last that an instance has."""

import pytest

from provision.plan import role_order
from tests.unit.test_rollback_plan import INVENTORY, container, ids, made, undo

MODEL = {"whole": True, "digest": "", "size": 1, "damaged": [], "ours": True}


def swapped(instance="ollama1", old="old:1", new="new:1"):
    """What a run did that was to have another model on an instance."""
    return (
        made(f"model:{instance}/{new}", None, {"whole": True}, role="models"),
        made(f"resident:{instance}", {"enough": False, "on_cpu": []}, {"enough": True, "on_cpu": []}, role="models"),
        made(f"model:{instance}/{old}", MODEL, None, role="models"),
    )


def declaring(tmp_path, models, *, storage="volume", instances="{gpus: [0]}"):
    """An inventory whose instances are to have these models."""
    path = tmp_path / "models.yaml"
    said = f"ollama: {{models: [{models}], storage: {storage}, instances: [{instances}]}}"
    path.write_text(INVENTORY.replace("ollama: {instances: [{gpus: [0]}, {gpus: [1]}]}", said))
    return role_order.load(str(path))


@pytest.mark.parametrize("models", ["new:1", "old:1"], ids=["as the run found it", "put back already"])
@pytest.mark.parametrize("container_too", [False, True])
def test_an_instance_is_not_left_without_any_model(tmp_path, models, container_too):
    inventory = declaring(tmp_path, models)
    before = container(inventory, run="before")
    changes = (made("container:ollama1", before, container(inventory)),) if container_too else ()
    found = undo(inventory, *changes, *swapped())
    assert "model:ollama1/new:1" not in ids(found)
    assert {one.step: one.why for one in found.left} == {
        "model:ollama1/new:1": "kept: no other model is known to be left on ollama1",
        "model:ollama1/old:1": "old:1 was deleted and must be pulled again",
    }
    assert [one.models for one in found.host.instances] == [("new:1",)], "that is what can be loaded and tested"
    step = next(entry.step for entry in found.entries if entry.step.id == "resident:ollama1")
    assert step.models == ("new:1",)


def test_a_model_that_was_added_goes_where_another_is_left(tmp_path):
    found = undo(declaring(tmp_path, "stays:1, new:1"), *swapped())
    assert "model:ollama1/new:1" in ids(found)
    assert [one.models for one in found.host.instances] == [("stays:1",)]


def test_a_model_that_was_deleted_is_not_loaded(tmp_path):
    found = undo(declaring(tmp_path, "stays:1, old:1"), *swapped())
    step = next(entry.step for entry in found.entries if entry.step.id == "resident:ollama1")
    assert step.models == ("stays:1",)


def test_a_shared_folder_keeps_its_last_model_for_every_instance(tmp_path):
    """The second instance found there what the first had pulled, and so has no change of its own."""
    both = "{gpus: [0], storage: /srv/models}, {gpus: [1], storage: /srv/models}"
    inventory = declaring(tmp_path, "new:1", instances=both)
    pulled = made("model:ollama1/new:1", None, {"whole": True}, role="models")
    found = undo(inventory, pulled)
    assert [one.step for one in found.left] == ["model:ollama1/new:1"]
    found = undo(inventory, made("container:ollama1", None, container(inventory)), pulled)
    assert "model:ollama1/new:1" not in ids(found), "ollama2 stays, and serves it"
    assert [(one.name, one.models) for one in found.host.instances] == [("ollama2", ("new:1",))]


def test_a_model_goes_with_the_instance_that_was_added(tmp_path):
    inventory = declaring(tmp_path, "new:1")
    found = undo(inventory, made("container:ollama1", None, container(inventory)), swapped()[0])
    assert {"model:ollama1/new:1", "container:ollama1"} <= set(ids(found))
