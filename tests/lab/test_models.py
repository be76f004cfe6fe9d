"""Embedding models, stalling pulls and damaged blobs, on real hosts."""

import json
import re

import pytest

from provision.lab import faults, models, registry
from provision.lab.simulated import ollama_store

from .conftest import UPSTREAM
from .test_drift import COPY, IMAGE

pytestmark = pytest.mark.lab
MODEL, EMBEDDING = "deepseek-r1:1.5b", "nomic-embed-text"
BLOBS = "/var/lib/docker/volumes/ollama1/_data/models/blobs"


def ask(fleet, path, *, get=False, **body):
    """The answer of `gpu-01/ollama1` to a request from its own host."""
    at = fleet.on("gpu-01", "docker", "port", "ollama1", "11434/tcp").splitlines()[0]
    if get:
        return fleet.on("gpu-01", "curl", "-s", f"http://{at}{path}")
    return fleet.on("gpu-01", "curl", "-s", "-d", json.dumps({"stream": False, **body}), f"http://{at}{path}")


def listed(fleet) -> list[str]:
    """The instances to which the balancer sends requests."""
    lines = fleet.on("lb-01", "cat", UPSTREAM).splitlines()
    return [line.rpartition("# ")[2] for line in lines if line.strip().startswith("server ") and " down;" not in line]


@pytest.mark.matrix
def test_instances_whose_only_model_embeds_are_back_in_the_upstream_after_a_roll(scratch):
    before = listed(scratch)
    scratch.vars["ollama"]["models"] = [EMBEDDING]
    scratch.deploy()
    scratch.vars["ollama"]["log_max_file"] = 4
    done = scratch.deploy()
    assert "container:ollama1" in done.host("gpu-01")["changed"]
    assert listed(scratch) == before
    verified = scratch.provision("verify", "--json")
    assert verified.code == 0, verified


@pytest.mark.matrix
def test_a_pull_that_stalls_is_given_up_and_the_host_is_free_again(scratch, lab):
    """The site's model registry stalls."""
    long = f"{lab.network.site}:{models.PORT}/library/{EMBEDDING}"
    faults.switch(lab, f"site/{EMBEDDING}", "models-stall", on=True)
    assert (f"site/{EMBEDDING}", "models-stall") in faults.active(lab)
    scratch.vars["ollama"]["models"] = [MODEL, long]
    scratch.vars["models"] = {"stall": "10s", "tries": 1, "insecure": True}
    done = scratch.provision("deploy", "--yes", "--json", "--limit", "gpu-01", "--tags", "models")
    assert done.code == 3, done
    assert "nothing came for 1" in json.dumps(done.host("gpu-01")), done
    assert "(models.stall)" in json.dumps(done.host("gpu-01")), done
    status = scratch.provision("lock", "status", "--limit", "gpu-01", "--json")
    assert status.host("gpu-01")["lock"] is None
    faults.switch(lab, f"site/{EMBEDDING}", "models-stall", on=False)
    scratch.deploy()
    assert not any(scratch.changes().values())
    assert f"{long}:latest" in fleet_models(scratch)


def test_a_model_too_large_for_its_card_is_refused_with_numbers_and_the_alternative_deploys(scratch, lab):
    """Cards, registry and server are simulated, with the sizes of the real models. Small cards need little disk."""
    scratch.on("gpu-01", "sed", "-i", 's/"memory_mib": 49140/"memory_mib": 16384/', "/etc/provision-lab/gpus.json")
    one, two = scratch.hosts("gpu")["gpu-01"]["ollama"]["instances"]
    one["models"], two["memory"] = [f"{lab.network.site}:{models.PORT}/library/deepseek-r1:671b"], "4g"
    scratch.vars["models"] = {"insecure": True}
    planned = scratch.provision("plan", "--json", "--limit", "gpu-01")
    assert planned.code == 7, planned
    why = planned.host("gpu-01")["why"]
    need = re.search(r"671b \(context \d+ x 1, cache f16\) needs (\d+)\.\d GiB of one card; (.*) has 15\.5", why)
    assert need, why
    assert 370 < int(need[1]) < 385, why
    assert "deepseek-r1:14b fits as asked" in why
    assert "dimensions by the registry" in why
    done = scratch.provision("deploy", "--yes", "--json", "--limit", "gpu-01")
    assert done.code == 7, done
    changed = done.host("gpu-01")["changed"]
    assert "container:ollama2" in changed, "the other instance goes on"
    assert not [step for step in changed if "ollama1" in step], changed
    assert "671b" not in fleet_models(scratch), "not a byte was pulled"
    one["models"] = ["deepseek-r1:14b"]
    scratch.deploy()
    assert not any(scratch.changes().values())
    (loaded,) = json.loads(ask(scratch, "/api/ps", get=True))["models"]
    assert (loaded["name"], loaded["size"]) == ("deepseek-r1:14b", loaded["size_vram"])
    forced_onto_its_card(scratch, one)


def forced_onto_its_card(fleet, instance):
    """A context for which the estimate wants a margin that the (simulated) server does not need."""
    places = fleet.provision("fit", "--json", "--limit", "gpu-01").doc["places"]
    assert [(place["place"], place["model"]) for place in places] == [
        ("gpu-01/ollama1", "deepseek-r1:14b"),
        ("gpu-01/ollama2", "deepseek-r1:14b"),
    ]
    instance["context_length"] = 32768
    refused = fleet.provision("plan", "--json", "--limit", "gpu-01")
    assert (refused.code, "context 32768 x 1" in refused.host("gpu-01")["why"]) == (7, True), refused
    done = fleet.deploy("--force-fit", "--limit", "gpu-01")
    assert any("forced by --force-fit: ollama1: estimate: " in text for text in done.doc["warnings"]), done
    (loaded,) = json.loads(ask(fleet, "/api/ps", get=True))["models"]
    row = measured(fleet, "gpu-01/ollama1")
    assert (row["is_loaded"], row["context"], row["measured"]) == (True, 32768, loaded["size"])
    assert row["kept"]["size"] == row["kept"]["on_cards"] == loaded["size"]
    assert abs(row["difference"]) < 10, row
    fleet.on("gpu-01", "docker", "stop", "ollama1")
    silent = measured(fleet, "gpu-01/ollama1")
    assert (silent["is_loaded"], silent["measured"], silent["kept"]) == (False, loaded["size"], row["kept"])
    assert silent["why"] == "the server did not answer: its container is exited"


def measured(fleet, instance):
    """The row of an instance in the document of `fit --measured`."""
    done = fleet.provision("fit", "--measured", "--json", "--limit", "gpu-01")
    assert done.code == 0, done
    [row] = [row for row in done.doc["measured"] if row["instance"] == instance]
    return row


def test_an_instance_takes_the_numbers_of_the_estimate_and_keeps_them(scratch):
    """The card and the server are simulated; the estimate is that of the real model."""
    instance = scratch.hosts("gpu")["gpu-01"]["ollama"]["instances"][0]
    before = numbers(scratch)
    instance.update(context_length="auto", num_parallel="auto")
    notes = {note["step"]: note["note"] for note in scratch.plan("--json").host("gpu-01")["notes"]}
    assert (
        f"auto: OLLAMA_CONTEXT_LENGTH=131072, OLLAMA_NUM_PARALLEL=4, the most for {MODEL}" in notes["container:ollama1"]
    )
    done = scratch.deploy()
    assert "container:ollama1" in done.host("gpu-01")["changed"]
    assert "container:ollama2" not in done.host("gpu-01")["changed"]
    assert not any(scratch.changes().values()), "the memory of the loaded model is no other user"
    (loaded,) = json.loads(ask(scratch, "/api/ps", get=True))["models"]
    assert loaded["context_length"] == 131072
    assert re.search(r"max_conns=20 .*# gpu-01/ollama1\n", scratch.on("lb-01", "cat", UPSTREAM))
    by_hand = f"set -- ollama1; {COPY} -e OLLAMA_CONTEXT_LENGTH=4096 {IMAGE}"
    scratch.on("gpu-01", "sh", "-c", by_hand)
    assert scratch.provision("verify", "--json", "--limit", "gpu-01").code == 5
    assert "container:ollama1" in scratch.changes()["gpu-01"]
    scratch.deploy()
    del instance["context_length"], instance["num_parallel"]
    assert "container:ollama1" in scratch.changes()["gpu-01"], "the defaults return"
    back = scratch.provision("rollback", done.doc["run"], "--yes", "--json")
    assert back.code == 0, back
    assert "container:ollama1" in back.host("gpu-01")["changed"]
    assert numbers(scratch) == before
    assert not any(scratch.changes().values()), "the numbers of the run before are those of the inventory without auto"


def numbers(fleet) -> list[str]:
    """The variables of ollama1's server that the estimate can set."""
    every = fleet.on("gpu-01", "docker", "inspect", "--format", "{{range .Config.Env}}{{println .}}{{end}}", "ollama1")
    return sorted(line for line in every.split() if line.startswith(("OLLAMA_CONTEXT_LENGTH=", "OLLAMA_NUM_PARALLEL=")))


def fleet_models(fleet) -> str:
    return fleet.on("gpu-01", "docker", "exec", "ollama1", "ollama", "list")


@pytest.mark.matrix
def test_a_model_of_an_image_registry_is_refused_with_advice(scratch, lab):
    """The site's image registry is a real docker-registry, and sends blobs without a redirect."""
    name = f"library/{EMBEDDING}"
    registry.publish_model(lab.network.site, name, "latest", *ollama_store.published(EMBEDDING))
    scratch.vars["ollama"]["models"] = [MODEL, f"{lab.network.site}:5000/{name}"]
    scratch.vars["models"] = {"insecure": True}
    checked = scratch.provision("inventory", "check")
    assert "serves Docker images here" in checked.err
    done = scratch.provision("deploy", "--yes", "--json", "--limit", "gpu-01", "--tags", "models")
    assert done.code == 3, done
    said = json.dumps(done.host("gpu-01"))
    assert "http: no Location header in response (Ollama pulls only from a registry that redirects" in said, done
    assert "try 1 failed" not in said


def test_a_blob_that_was_damaged_is_mended_and_its_instance_answers(fleet, lab):
    """The server reads the model while its blob is damaged: the server takes the model for useless until it
    restarts."""
    before = listed(fleet)
    largest = fleet.on("gpu-01", "sh", "-c", f"ls -S {BLOBS} | head -n 1").strip()
    fleet.on("gpu-01", "sh", "-c", f"echo damaged >{BLOBS}/{largest}; docker restart ollama1")
    lab.host("gpu-01").run(["sh", "-c", "until docker exec ollama1 ollama list; do sleep 0.2; done"])
    assert "does not support generate" in ask(fleet, "/api/generate", model=MODEL, prompt="hello")
    planned = fleet.plan()
    assert "then restarts ollama1 (its streams finish first)" in planned.out
    done = fleet.deploy()
    assert f"model:ollama1/{MODEL}" in done.host("gpu-01")["changed"]
    assert json.loads(ask(fleet, "/api/generate", model=MODEL, prompt="hello"))["done"]
    assert listed(fleet) == before
    assert not any(fleet.changes().values())


def test_a_server_on_the_cpu_that_reports_the_cards_is_found_and_restarted(fleet, lab):
    began = fleet.on("gpu-01", "docker", "inspect", "--format", "{{.State.StartedAt}}", "ollama1")
    faults.switch(lab, "gpu-01/ollama1", "cpu-unsaid", on=True)
    for keep_alive in (0, -1):
        ask(fleet, "/api/generate", model=MODEL, keep_alive=keep_alive)
    (loaded,) = json.loads(fleet.on("gpu-01", "sh", "-c", "curl -s http://$(docker port ollama1 11434)/api/ps"))[
        "models"
    ]
    assert loaded["size_vram"] == loaded["size"]
    assert fleet.changes()["gpu-01"] == ["resident:ollama1"]
    failed = fleet.provision("deploy", "--yes", "--json")
    assert failed.code == 7, failed
    assert "MiB: it works on the CPU" in json.dumps(failed.host("gpu-01")), failed
    faults.switch(lab, "gpu-01/ollama1", "cpu-unsaid", on=False)
    fleet.deploy()
    assert fleet.on("gpu-01", "docker", "inspect", "--format", "{{.State.StartedAt}}", "ollama1") != began
    assert not any(fleet.changes().values())


def test_damage_in_the_middle_of_a_blob_is_found_by_a_hash_and_mended_by_the_next_deploy(fleet):
    blob = fleet.on("gpu-01", "sh", "-c", f"ls -S {BLOBS} | head -n 1").strip()
    damage = f"printf nonsense | dd of={BLOBS}/{blob} bs=1 seek=$(($(stat -c %s {BLOBS}/{blob}) / 2)) conv=notrunc"
    fleet.on("gpu-01", "sh", "-c", damage)
    assert fleet.provision("verify", "--json").code == 0, "the size is the same"
    deep = fleet.provision("verify", "--deep", "--json")
    assert deep.code == 5, deep
    [found] = [check for check in deep.host("gpu-01")["checks"] if not check["passed"]]
    assert (found["step"], found["name"]) == (f"model:ollama1/{MODEL}", f"bytes of {blob}")
    assert found["expected"] == blob.removeprefix("sha256-")
    assert found["got"] == fleet.on("gpu-01", "sha256sum", f"{BLOBS}/{blob}").split()[0]
    assert "then restarts ollama1" in fleet.plan().out, "a plain plan knows"
    started = fleet.on("gpu-01", "docker", "inspect", "-f", "{{.State.StartedAt}}", "ollama1")
    done = fleet.deploy()
    assert f"model:ollama1/{MODEL}" in done.host("gpu-01")["changed"]
    assert fleet.on("gpu-01", "docker", "inspect", "-f", "{{.State.StartedAt}}", "ollama1") != started
    assert not any(fleet.changes().values())
    assert fleet.provision("verify", "--deep", "--json").code == 0
    assert "No such file" in fleet.on("gpu-01", "sh", "-c", "ls /var/lib/provision/damaged 2>&1 || :")
