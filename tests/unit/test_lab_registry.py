"""The lab's model registry answers as a registry from which Ollama pulls, and fails in the listed ways."""

import hashlib
import http.client
import json
import os
import socket
import struct
import subprocess
import sys
import threading
import time
from types import SimpleNamespace
from urllib.parse import urlsplit

import pytest

from provision.lab.model_registry import ModelRegistry
from provision.lab.model_store import Store
from provision.lab.models import active, switch
from provision.lab.waiting import wait_for_port

SMALL = "library/small"
WEIGHTS = b"weights " * 32768
CONFIG = {"model_format": "gguf"}


@pytest.fixture
def registry(tmp_path):
    with ModelRegistry(tmp_path / "models").serving() as running:
        running.store.publish(f"{SMALL}:latest", [("model", WEIGHTS), ("license", b"free")], CONFIG)
        yield running


def ask(url, method="GET", limit=60, **headers):
    """Status, headers and body of an answer; the body ends where the server closed early."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.netloc, timeout=limit)
    connection.request(method, parts.path, headers=headers)
    answer = connection.getresponse()
    try:
        return answer.status, answer.headers, answer.read()
    except http.client.IncompleteRead as cut:
        return answer.status, answer.headers, cut.partial


def manifest(registry, model=SMALL, tag="latest"):
    return ask(f"http://{registry.host}/v2/{model}/manifests/{tag}")


def weights(registry, **more):
    """An answer to a request for the blob of the weights, after the redirect."""
    digest = f"sha256:{hashlib.sha256(WEIGHTS).hexdigest()}"
    status, headers, _ = ask(f"http://{registry.host}/v2/{SMALL}/blobs/{digest}")
    assert status == 307
    assert urlsplit(headers["Location"]).hostname != registry.host.partition(":")[0]
    return ask(headers["Location"], **more)


def test_a_manifest_lists_blobs_that_are_there(registry):
    status, headers, data = manifest(registry)
    assert status == 200
    assert headers["Content-Type"] == "application/vnd.docker.distribution.manifest.v2+json"
    document = json.loads(data)
    assert [layer["mediaType"].rpartition(".")[2] for layer in document["layers"]] == ["model", "license"]
    for part in [*document["layers"], document["config"]]:
        url = f"http://{registry.host}/v2/{SMALL}/blobs/{part['digest']}"
        status, headers, _ = ask(url, "HEAD")
        assert (status, int(headers["Content-Length"])) == (200, part["size"])


def test_a_blob_comes_from_another_host_whole_or_in_ranges(registry):
    assert weights(registry)[::2] == (200, WEIGHTS)
    status, headers, data = weights(registry, Range="bytes=5-14")
    assert (status, data) == (206, WEIGHTS[5:15])
    assert headers["Content-Range"] == f"bytes 5-14/{len(WEIGHTS)}"
    assert weights(registry, Range="bytes=100-")[2] == WEIGHTS[100:]
    assert ("GET", "bytes=5-14") in [(method, ranged) for method, _, ranged in registry.requests()]


@pytest.mark.parametrize(
    ("model", "tag"), [("library/none", "latest"), (SMALL, "none"), ("library/..", ".."), ("a", "b")]
)
def test_an_unknown_model_is_404(registry, model, tag):
    assert manifest(registry, model, tag)[0] == 404


def test_an_unknown_blob_is_404(registry):
    for digest in ("sha256:" + 64 * "0", "sha256:..", "../../etc/passwd"):
        assert ask(f"http://{registry.host}/v2/{SMALL}/blobs/{digest}")[0] == 404


def test_a_name_that_leaves_the_folder_cannot_be_published(registry):
    with pytest.raises(ValueError, match="no name of a model"):
        registry.store.publish("library/../../x:latest", [], CONFIG)


def test_weights_of_a_file_are_published(registry, tmp_path):
    (tmp_path / "weights").write_bytes(b"other weights")
    digest = registry.store.publish("library/other:q4", [("model", tmp_path / "weights")], CONFIG)
    data = manifest(registry, "library/other", "q4")[2]
    assert digest == hashlib.sha256(data).hexdigest()
    assert registry.store.blob(json.loads(data)["layers"][0]["digest"]).read_bytes() == b"other weights"


@pytest.mark.parametrize("value", ["401", "404", "500"])
def test_the_manifest_is_refused(registry, value):
    registry.fault("models-manifest", SMALL, value)
    assert manifest(registry)[0] == int(value)
    registry.clear("models-manifest", SMALL)
    assert manifest(registry)[0] == 200


def test_the_manifest_is_a_page(registry):
    registry.fault("models-manifest", value="html")
    assert manifest(registry)[2].startswith(b"<html>")


def test_the_connection_ends_without_an_answer(registry):
    registry.fault("models-manifest", value="nothing")
    with pytest.raises(http.client.RemoteDisconnected):
        manifest(registry)


def test_no_manifest_comes(registry):
    registry.fault("models-manifest", value="silence")
    with pytest.raises(TimeoutError):
        ask(f"http://{registry.host}/v2/{SMALL}/manifests/latest", limit=0.5)


def test_no_byte_of_a_blob_comes(registry):
    registry.fault("models-blob", value="silence")
    with pytest.raises(TimeoutError):
        weights(registry, limit=0.5)


def test_a_fault_of_a_model_leaves_the_others_alone(registry):
    registry.store.publish("library/other:latest", [("model", b"other")], CONFIG)
    registry.fault("models-manifest", "library/other", "500")
    assert manifest(registry)[0] == 200
    assert manifest(registry, "library/other")[0] == 500


def test_a_blob_is_missing(registry):
    registry.fault("models-blob", value="404")
    digest = f"sha256:{hashlib.sha256(WEIGHTS).hexdigest()}"
    assert ask(f"http://{registry.host}/v2/{SMALL}/blobs/{digest}", "HEAD")[0] == 404


def test_a_blob_has_other_bytes_than_its_digest_says(registry):
    registry.fault("models-lie")
    assert weights(registry)[2] == bytes(len(WEIGHTS))


def test_a_connection_closes_in_the_middle_of_a_blob(registry):
    registry.fault("models-close", value="1000")
    for _ in range(2):
        assert weights(registry, Range="bytes=0-")[2] == WEIGHTS[:1000]
    assert weights(registry, Range="bytes=1000-")[2] == WEIGHTS[1000:2000]


def test_a_connection_closes_once(registry):
    registry.fault("models-close", value="1000 once")
    assert weights(registry)[2] == WEIGHTS[:1000]
    assert weights(registry)[2] == WEIGHTS


def test_a_blob_stalls_in_the_middle(registry):
    registry.fault("models-stall", SMALL)
    with pytest.raises(TimeoutError):
        weights(registry, limit=0.5)


def test_an_ordinary_registry_sends_blobs_itself(registry):
    registry.fault("models-plain")
    digest = f"sha256:{hashlib.sha256(WEIGHTS).hexdigest()}"
    assert ask(f"http://{registry.host}/v2/{SMALL}/blobs/{digest}")[::2] == (200, WEIGHTS)


def test_the_program_serves_two_addresses(tmp_path):
    store = Store(tmp_path / "models")
    store.publish(f"{SMALL}:latest", [("model", WEIGHTS)], CONFIG)
    switch(tmp_path, "small", "models-manifest", on=True, value="500")
    # addresses that no test of another process uses: there the next port is free too
    registry, blobs = (f"127.{net}.{os.getpid() >> 8 & 255}.{os.getpid() & 255}" for net in (88, 89))
    with socket.create_server((registry, 0)) as free:
        port = free.getsockname()[1]
    words = [registry, str(port), blobs, str(tmp_path / "models"), str(tmp_path / "model-faults")]
    with subprocess.Popen([sys.executable, "-I", "-m", "provision.lab.model_registry", *words]) as program:
        try:
            wait_for_port(registry, port)
            host = SimpleNamespace(host=f"{registry}:{port}")
            assert manifest(host)[0] == 500
            assert list(active(tmp_path)) == [("small", "models-manifest")]
            switch(tmp_path, "small", "models-manifest", on=False)
            assert manifest(host)[0] == 200
            assert weights(host)[2] == WEIGHTS
        finally:
            program.kill()
    assert not list(active(tmp_path))


def test_a_client_that_leaves_in_the_middle_of_a_request_is_no_bug(registry, capfd):
    before = set(threading.enumerate())
    with socket.create_connection(registry.host.split(":")) as client:
        client.sendall(b"GET /v2/ HT")
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # a reset instead of an end
    while any("process_request_thread" in thread.name for thread in set(threading.enumerate()) - before):
        time.sleep(0.01)
    assert manifest(registry)[0] == 200
    assert capfd.readouterr().err == ""
