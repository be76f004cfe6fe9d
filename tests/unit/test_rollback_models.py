"""A rollback leaves models alone: no model is deleted, and only a restored instance gets its models pulled."""

import pytest

from provision.plan import role_interface
from tests.unit.test_rollback_plan import INVENTORY, container, ids, made, undo

MODEL = {"whole": True, "digest": "", "size": 1, "damaged": [], "ours": True}


def swapped(instance="ollama1", old="old:1", new="new:1"):
    """Return the changes of a run that replaced the model of an instance."""
    return (
        made(f"model:{instance}/{new}", None, {"whole": True}, role="models"),
        made(f"resident:{instance}", {"enough": False, "on_cpu": []}, {"enough": True, "on_cpu": []}, role="models"),
        made(f"model:{instance}/{old}", MODEL, None, role="models"),
    )


def declaring(tmp_path, models):
    """Return an inventory whose single instance declares the models."""
    path = tmp_path / "models.yaml"
    said = f"ollama: {{models: [{models}], instances: [{{gpus: [0]}}]}}"
    path.write_text(INVENTORY.replace("ollama: {instances: [{gpus: [0]}, {gpus: [1]}]}", said))
    return role_interface.load(str(path))


def loaded(found):
    """Return the models that the rollback loads, if the instance has the models."""
    steps = [entry.step for entry in found.entries if entry.step.id.startswith("resident:")]
    assert all(step.pulled_only for step in steps)
    return [step.models for step in steps]


@pytest.mark.parametrize("container_too", [False, True])
def test_a_model_pulled_by_the_run_stays_and_a_deleted_model_stays_away(tmp_path, container_too):
    inventory = declaring(tmp_path, "new:1")
    before = container(inventory, run="before")
    changes = (made("container:ollama1", before, container(inventory)),) if container_too else ()
    found = undo(inventory, *changes, *swapped())
    assert {change.step: change.why for change in found.left} == {
        "model:ollama1/new:1": "a rollback deletes no model; the next deploy deletes new:1 unless it is declared",
        "model:ollama1/old:1": "old:1 was deleted and must be pulled again",
    }
    assert not [step for step in ids(found) if step.startswith("model:")]
    assert loaded(found) == [("new:1",)]


def test_a_deleted_model_is_neither_pulled_nor_required_even_if_declared_again(tmp_path):
    found = undo(declaring(tmp_path, "old:1"), *swapped())
    assert not [step for step in ids(found) if step.startswith("model:")]
    assert loaded(found) == [("old:1",)]


def test_an_instance_with_untouched_models_gets_no_model_loaded(tmp_path):
    assert loaded(undo(declaring(tmp_path, "new:1"), swapped()[0])) == []


def test_an_added_instance_is_removed_without_deleting_its_model_first(tmp_path):
    inventory = declaring(tmp_path, "new:1")
    found = undo(inventory, made("container:ollama1", None, container(inventory)), swapped()[0])
    assert "container:ollama1" in ids(found)
    assert [change.step for change in found.left] == ["model:ollama1/new:1"]
    assert found.host.instances == ()
