"""The simulated server pulls from a registry as the real one: frames, resumption, and the texts of errors."""

import hashlib
import json
import threading

import pytest

from provision.lab.model_registry import ModelRegistry
from provision.lab.simulated import ollama_lab
from tests.unit.test_lab_ollama import ask, frames, lines, saved, server

__all__ = ["server"]
WEIGHTS = b"weights " * (1 << 17)
DIGEST = f"sha256:{hashlib.sha256(WEIGHTS).hexdigest()}"
CONFIG = {"model_family": "gemma3", "model_type": "268M", "file_type": "Q4_K_M"}
MODEL = "library/small"


@pytest.fixture
def registry(tmp_path):
    (tmp_path / "lab").mkdir(exist_ok=True)
    with ModelRegistry(tmp_path / "registry").serving() as running:
        running.store.publish(f"{MODEL}:latest", [("model", WEIGHTS), ("license", b"free")], CONFIG)
        yield running


def knobs(**values: float) -> None:
    (ollama_lab.LAB / "knobs.json").write_text(json.dumps(values))


def pull(server, name, **more):
    """The distinct frames of a pull, without those of blobs."""
    said = frames(server, "/api/pull", {"model": name, "insecure": True, **more})
    return [frame for frame in said if "digest" not in frame]


def blob(server):
    return server.models / "blobs" / DIGEST.replace(":", "-")


def test_a_model_is_pulled_and_listed_under_its_long_name(server, registry):
    name = registry.name(f"{MODEL}:latest")
    statuses = [frame["status"] for frame in pull(server, name)]
    assert statuses == ["pulling manifest", "verifying sha256 digest", "writing manifest", "success"]
    assert blob(server).read_bytes() == WEIGHTS
    manifest = server.models / "manifests" / registry.host / MODEL / "latest"
    assert manifest.read_bytes() == registry.store.manifest(MODEL, "latest")
    assert not list((server.models / "blobs").glob("*partial*"))
    (model,) = json.loads(ask(server, "GET", "/api/tags")[2])["models"]
    assert model["name"] == name
    assert ask(server, "DELETE", "/api/delete", {"model": name})[0] == 200
    assert not blob(server).exists()


def test_a_scheme_before_the_name_changes_nothing(server, registry):
    assert pull(server, f"http://{registry.host}/{MODEL}")[-1] == {"status": "success"}
    assert (server.models / "manifests" / registry.host / MODEL / "latest").exists()


def test_a_blob_that_is_there_is_not_asked_for(server, registry):
    name = registry.name(f"{MODEL}:latest")
    pull(server, name)
    before = len(registry.requests())
    said = frames(server, "/api/pull", {"model": name, "insecure": True})
    assert {"status": f"pulling {DIGEST[7:19]}", "digest": DIGEST, "total": len(WEIGHTS)}.items() <= said[1].items()
    assert said[1]["completed"] == len(WEIGHTS)
    assert [path for _, path, _ in registry.requests()[before:]] == [f"/v2/{MODEL}/manifests/latest"]


def test_a_new_manifest_removes_the_blobs_that_it_lacks(server, registry):
    name = registry.name(f"{MODEL}:latest")
    pull(server, name)
    registry.store.publish(f"{MODEL}:latest", [("model", b"new weights")], CONFIG)
    assert {"status": "removing unused layers"} in pull(server, name)
    assert not blob(server).exists()


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("404", "file does not exist"),
        ("500", '500: {"errors":[{"code":"SIMULATED"'),
        ("401", 'realm host "" does not match original host "127.0.0.1:'),
        ("html", "invalid character '<' looking for beginning of value"),
        ("nothing", '/manifests/latest": EOF'),
    ],
)
def test_a_manifest_that_does_not_come_has_an_error(server, registry, value, text):
    registry.fault("models-manifest", value=value)
    begin, error = pull(server, registry.name(MODEL))
    assert begin == {"status": "pulling manifest"}
    assert error["error"].startswith("pull model manifest: ")
    assert text in error["error"]


def test_an_unknown_name_and_a_missing_blob_do_not_exist(server, registry):
    assert pull(server, registry.name("library/nope"))[-1] == {"error": "pull model manifest: file does not exist"}
    registry.fault("models-blob", value="404")
    assert pull(server, registry.name(MODEL))[-1] == {"error": "file does not exist"}


def test_without_insecure_a_registry_is_asked_over_tls(server, registry):
    (_, error) = pull(server, registry.name(MODEL), insecure=False)
    assert error["error"].startswith(
        f'pull model manifest: Get "https://{registry.host}/v2/{MODEL}/manifests/latest": '
    )
    assert "HTTP" in error["error"] or "tls: first record does not look like a TLS handshake" in error["error"]


@pytest.mark.parametrize(
    ("host", "text"),
    [
        ("127.0.0.1:1", "dial tcp 127.0.0.1:1: connect: connection refused"),
        ("no.invalid", "dial tcp: lookup no.invalid"),
    ],
)
def test_a_registry_that_cannot_be_reached_is_said_as_go_says_it(server, host, text):
    error = pull(server, f"{host}/{MODEL}:1")[-1]["error"]
    assert error.startswith(f'pull model manifest: Get "http://{host}/v2/{MODEL}/manifests/1": {text}')


def test_a_registry_without_redirects_is_refused(server, registry):
    registry.fault("models-plain")
    assert pull(server, registry.name(MODEL))[-1] == {"error": "http: no Location header in response"}


def test_a_blob_with_other_bytes_is_removed_and_the_rest_stays(server, registry):
    registry.fault("models-lie", value="")
    error = pull(server, registry.name(MODEL))[-1]["error"]
    assert error.startswith(f"digest mismatch, file must be downloaded again: want {DIGEST}, got sha256:")
    assert not blob(server).exists()
    registry.clear("models-lie")
    assert pull(server, registry.name(MODEL))[-1] == {"status": "success"}


def test_a_blob_that_is_refused_is_asked_for_until_the_deadline(server, registry):
    knobs(locate_seconds=0.5)
    registry.fault("models-blob", value="500")
    said = frames(server, "/api/pull", {"model": registry.name(MODEL), "insecure": True})
    assert said[-1] == {"error": "context deadline exceeded"}
    assert not any("completed" in frame for frame in said)


def test_a_closed_connection_goes_on_at_the_same_byte(server, registry):
    knobs(retry_seconds=0.01)
    registry.fault("models-close", value="1000 once")
    assert pull(server, registry.name(MODEL))[-1] == {"status": "success"}
    assert f"bytes=1000-{len(WEIGHTS) - 1}" in [ranged for *_, ranged in registry.requests()]


def test_a_registry_that_always_closes_is_tried_six_times(server, registry):
    knobs(retry_seconds=0.01)
    registry.fault("models-close", value="1000")
    assert pull(server, registry.name(MODEL))[-1] == {"error": "max retries exceeded: unexpected EOF"}
    assert saved(server) == 6000


@pytest.mark.parametrize("fault", ["models-stall", "models-blob"])
def test_a_stalled_part_starts_over_without_end(server, registry, fault):
    knobs(stall_seconds=0.3)
    registry.fault(fault, MODEL, "silence" if fault == "models-blob" else "1000")
    for frame in lines(server, {"model": registry.name(MODEL), "insecure": True}):
        asked = [ranged for *_, ranged in registry.requests() if ranged]
        if "digest" in frame and len(asked) >= 3:
            break
    assert set(asked) == {f"bytes=0-{len(WEIGHTS) - 1}"}
    registry.clear(fault, MODEL)
    assert pull(server, registry.name(MODEL))[-1] == {"status": "success"}


def test_the_count_goes_back_where_a_part_starts_over(server, registry):
    knobs(stall_seconds=0.3)
    registry.fault("models-slow", value="20000")
    registry.fault("models-stall", value="10000")
    counts = []
    for frame in lines(server, {"model": registry.name(MODEL), "insecure": True}):
        counts += [frame.get("completed", 0)] if "digest" in frame else []
        if max(counts, default=0) == 10000 and counts[-1] < 10000:
            break
    assert counts[-1] < max(counts) == 10000


def test_a_manifest_that_never_comes_is_waited_for_until_the_client_leaves(server, registry):
    registry.fault("models-manifest", value="silence")
    answer = lines(server, {"model": registry.name(MODEL), "insecure": True})
    assert next(answer) == {"status": "pulling manifest"}
    answer.close()
    registry.clear("models-manifest")
    assert pull(server, registry.name(MODEL))[-1] == {"status": "success"}


def test_the_next_client_goes_on_where_the_last_one_left(server, registry):
    registry.fault("models-slow", value="100000")
    for frame in lines(server, {"model": registry.name(MODEL), "insecure": True}):
        if frame.get("completed"):
            break
    while not saved(server):
        threading.Event().wait(0.02)
    there = saved(server)
    registry.clear("models-slow")
    assert pull(server, registry.name(MODEL))[-1] == {"status": "success"}
    assert f"bytes={there}-{len(WEIGHTS) - 1}" in [ranged for *_, ranged in registry.requests()]


def test_two_clients_share_a_download(server, registry):
    registry.fault("models-slow", value="4000000")
    both = [lines(server, {"model": registry.name(MODEL), "insecure": True}) for _ in range(2)]
    for one in both:
        while "completed" not in next(one):
            pass
    both[0].close()
    assert [*both[1]][-1] == {"status": "success"}
    assert len([ranged for *_, ranged in registry.requests() if ranged.startswith("bytes=0-")]) <= 3, (
        "a blob comes once"
    )


def test_a_manifest_with_digests_that_are_none_is_refused(server, registry):
    registry.store.put_manifest(f"{MODEL}:latest", b'{"layers":[{"digest":"sha256:../../x"}]}')
    assert pull(server, registry.name(MODEL))[-1] == {"error": "invalid digest format"}
