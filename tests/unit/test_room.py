"""Room on a disk before the first byte: the reads by a real shell, and the refusal of a plan with numbers."""

import json
import os
import subprocess
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest

from provision import actions, testing
from provision.apply import disk_room
from provision.command import Answer, Run, Script, look
from provision.errors import UnfitError
from provision.lab.model_registry import ModelRegistry
from provision.plan.planner import Change, HostPlan
from provision.plan.role_interface import Entry
from provision.roles.docker import Settings
from provision.steps import room
from provision.steps.docker import image_room
from provision.steps.docker.image import Image
from provision.steps.ollama import server_state
from provision.steps.ollama.model import Model
from provision.steps.room import Filling, Room

from .test_actions import INVENTORY
from .test_host_run import Note

AMD, ARM, CUT = (f"sha256:{letter * 64}" for letter in "abc")
KB = 1000
MANIFEST = {
    "config": {"digest": AMD, "size": 5},
    "layers": [{"digest": ARM, "size": 40 * KB}, {"digest": CUT, "size": 60 * KB}],
}
INDEX = {
    "manifests": [
        {"digest": ARM, "size": 1, "platform": {"architecture": "arm64", "os": "linux"}},
        {"digest": AMD, "size": 1, "platform": {"architecture": "amd64", "os": "linux"}},
        {"digest": CUT, "size": 1, "platform": {"architecture": "unknown"}, "annotations": {"reference.digest": AMD}},
    ]
}


class Registry:
    """A registry on loopback, with an answer for each path, and perhaps a token to be asked for first."""

    def __init__(self) -> None:
        self.answers: dict[str, Any] = {}
        self.token = ""
        self.asked: list[tuple[str, str]] = []
        handler = type("Handler", (_Handler,), {"registry": self})
        self.http = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.at = f"127.0.0.1:{self.http.server_port}"
        threading.Thread(target=self.http.serve_forever, args=(0.01,), daemon=True).start()


class _Handler(BaseHTTPRequestHandler):
    registry: Registry

    def do_GET(self) -> None:
        registry = self.registry
        path, _, query = self.path.partition("?")
        registry.asked.append((path, query))
        if registry.token and path == "/token":
            return self._say(200, {"token": registry.token})
        if registry.token and self.headers["Authorization"] != f"Bearer {registry.token}":
            realm = f'Bearer realm="http://{registry.at}/token",service="here",scope="x"'
            return self._say(401, {}, ("Www-Authenticate", realm))
        answer = registry.answers.get(path)
        return self._say(404 if answer is None else 200, answer)

    def _say(self, status: int, body: Any, *headers: tuple[str, str]) -> None:
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body.encode() if isinstance(body, str) else json.dumps(body).encode())

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def registry() -> Iterator[Registry]:
    found = Registry()
    yield found
    found.http.shutdown()


def run(command: Run, path: str = "") -> Answer:
    environment = {**os.environ, "PATH": f"{path}:{os.environ['PATH']}", "http_proxy": "", "no_proxy": "*"}
    done = subprocess.run(command.words, input=command.stdin, capture_output=True, check=False, env=environment)
    return Answer(done.returncode, done.stdout, done.stderr)


def program(folder: Path, name: str, text: str) -> str:
    """Write a program, and return its folder."""
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\n{text}\n")
    (folder / name).chmod(0o755)
    return str(folder)


# -- the free space


def test_the_free_space_of_a_folder_that_is_not_there_yet_is_that_of_its_parent(tmp_path: Path) -> None:
    shell = look(Script("test/free", f'{room.FREE}\nfree "$1"'), f"{tmp_path}/a b/c", title="free")
    found = room.of(run(shell), 7)
    assert (found.need, found.unknown, found.device) == (7, "", str(tmp_path.stat().st_dev))
    assert found.free > 0
    assert os.path.ismount(found.mount)
    beside = look(Script("test/free", f'{room.FREE}\nfree "$1"'), "/proc", title="free")
    assert room.of(run(beside), 7).device != found.device


@pytest.mark.parametrize("text", ["", "free - 5 /", "free 12 x /", "nonsense"])
def test_an_answer_without_a_number_is_unknown(text: str) -> None:
    assert "cannot be read" in room.of(Answer(0, text.encode(), b"df: x: No such file"), 7).unknown


# -- models


def model(registry: Registry, folder: Path, have: dict[str, Any] | None = None, name: str = "s/m:1") -> Room:
    step = Model(instance="ollama1", name=f"{registry.at}/{name}", storage=str(folder), insecure=True)
    filling = step.filling(have)
    assert filling is not None
    return filling.room(run(filling.size), run(filling.place))


def test_a_model_needs_its_layers(registry: Registry, tmp_path: Path) -> None:
    registry.answers["/v2/s/m/manifests/1"] = MANIFEST
    found = model(registry, tmp_path / "none yet")
    assert (found.need, found.unknown) == (100 * KB + 5, "")
    assert found.device == str(tmp_path.stat().st_dev)


def test_blobs_and_the_written_part_of_a_partial_blob_count_as_there(registry: Registry, tmp_path: Path) -> None:
    registry.answers["/v2/s/m/manifests/1"] = MANIFEST
    blobs = tmp_path / "models/blobs"
    blobs.mkdir(parents=True)
    (blobs / ARM.replace(":", "-")).write_bytes(b"x" * 40 * KB)
    with (blobs / f"{CUT.replace(':', '-')}-partial").open("wb") as partial:
        partial.truncate(60 * KB)
        partial.write(b"x" * 8192)
        partial.flush()
        os.fsync(partial.fileno())
    written = min(60 * KB, (blobs / f"{CUT.replace(':', '-')}-partial").stat().st_blocks * 512)
    assert 0 < written < 60 * KB
    assert model(registry, tmp_path).need == 5 + 60 * KB - written


def test_a_registry_without_the_model_is_not_asked_for_its_size(registry: Registry, tmp_path: Path) -> None:
    found = model(registry, tmp_path)
    assert found.need is None
    assert "HTTP 404 from http://127.0.0.1" in found.unknown


NO_MANIFESTS = ("<html>", "[]", '{"layers": 5}', '{"layers": [{"digest": "x", "size": -1}]}', '{"layers": [{}]}')


@pytest.mark.parametrize("body", NO_MANIFESTS)
def test_an_answer_that_is_no_manifest_is_no_size(registry: Registry, tmp_path: Path, body: str) -> None:
    registry.answers["/v2/s/m/manifests/1"] = body
    assert model(registry, tmp_path).need is None


def test_the_labs_model_registry_tells_a_size_and_a_portal_does_not(tmp_path: Path) -> None:
    with ModelRegistry(tmp_path / "registry").serving() as served:
        served.store.publish("library/small:latest", [("model", b"x" * 100 * KB)], {"model_format": "gguf"})
        step = Model(instance="o", name=served.name("library/small:latest"), insecure=True, storage=str(tmp_path))
        filling = step.filling(None)
        assert filling is not None
        place = run(filling.place)
        assert 100 * KB < (filling.room(run(filling.size), place).need or 0) < 110 * KB
        served.fault("models-manifest", model="library/small", value="html")
        assert filling.room(run(filling.size), place).need is None


MOVED = {"layers": [{"digest": f"sha256:{'d' * 64}", "size": 900 * KB}]}
WHOLE = "".join(
    f"blob {layer['digest'].replace(':', '-')} {layer['size']} 8\n"
    for layer in (MANIFEST["config"], *MANIFEST["layers"])
)


@pytest.mark.parametrize(
    ("blobs", "digest", "have", "need"),
    [
        (WHOLE, "", None, 0),
        (WHOLE.replace(" 60000 ", " 59000 "), "", None, 900 * KB),
        (WHOLE, "d", None, 900 * KB),
        (WHOLE, "", {"whole": False}, 900 * KB),
    ],
    ids=["whole", "cut", "another digest is demanded", "damaged"],
)
def test_a_model_on_the_disk_of_a_stopped_server_is_not_pulled_for_a_tag_that_moved(
    blobs: str, digest: str, have: dict[str, Any] | None, need: int
) -> None:
    filling = Model(instance="ollama1", name="m:1", digest=digest).filling(have)
    assert filling is not None
    place = Answer(0, f"free 5 1 /\nmanifest {json.dumps(MANIFEST)}\n{blobs}".encode())
    assert filling.room(Answer(0, json.dumps(MOVED).encode()), place).need == need


SILENT = Answer(1, b"", b"curl: (6) Could not resolve host: registry.ollama.ai")


@pytest.mark.parametrize(
    ("name", "place", "need"),
    [
        ("deepseek-r1:1.5b", "", 1117322599),
        ("deepseek-r1:1.5b", f"manifest {json.dumps(MANIFEST)}\nblob {AMD.replace(':', '-')} 5 8\n", 100 * KB),
        ("deepseek-r1:1.5b", "manifest <html>\n", 1117322599),
        ("qwen3:8b", f"manifest {json.dumps(MANIFEST)}\n", 100 * KB + 5),
        ("qwen3:8b", "", None),
    ],
)
def test_without_the_registry_the_plan_knows_some_sizes(name: str, place: str, need: int | None) -> None:
    filling = Model(instance="ollama1", name=name).filling(None)
    assert filling is not None
    found = filling.room(SILENT, Answer(0, f"free 5 1 /\n{place}".encode()))
    assert found.need == need
    assert bool(found.unknown) == (need is None)


def test_a_model_in_a_volume_is_in_dockers_folder(tmp_path: Path) -> None:
    filling = Model(instance="ollama1", name="m:1").filling(None)
    assert filling is not None
    store = tmp_path / "root/volumes/ollama1/_data/models/blobs"
    store.mkdir(parents=True)
    (store / AMD.replace(":", "-")).write_bytes(b"12345")
    manifest = store.parent / "manifests" / server_state.manifest_path("m:1")
    manifest.parent.mkdir(parents=True)
    manifest.write_text(json.dumps(MANIFEST, indent=1))
    path = program(tmp_path / "bin", "docker", f"echo {tmp_path}/root")
    place = run(filling.place, path)
    assert f"blob {AMD.replace(':', '-')} 5 " in place.text
    assert filling.room(SILENT, place).need == 100 * KB


@pytest.mark.parametrize(
    ("have", "brings"),
    [
        (None, True),
        ({"whole": True, "digest": "d", "stale": True}, False),
        ({"whole": False, "digest": "d"}, True),
        ({"whole": True, "digest": "other"}, True),
    ],
)
def test_a_model_that_is_only_restarted_brings_nothing(have: dict[str, Any] | None, brings: bool) -> None:
    assert (Model(instance="o", name="m:1", digest="d").filling(have) is not None) == brings


# -- images


def image(registry: Registry, tmp_path: Path, docker: str, have: dict[str, Any] | None = None) -> Room:
    filling = Image(reference="ollama/ollama:1", mirrors=(f"http://{registry.at}/",)).filling(have)
    assert filling is not None
    path = program(tmp_path / "bin", "docker", docker)
    program(tmp_path / "bin", "uname", "echo x86_64")
    return filling.room(run(filling.size, path), run(filling.place, path))


NO_IMAGE = 'case $1 in info) echo "$ROOT [[\\"Backing Filesystem\\",\\"extfs\\"]]" ;; image) exit 1 ;; esac'


@pytest.mark.parametrize("token", ["", "let-me-in"])
def test_an_image_needs_three_times_the_layers_of_its_platform(registry: Registry, tmp_path: Path, token: str) -> None:
    registry.token = token
    registry.answers["/v2/ollama/ollama/manifests/1"] = INDEX
    registry.answers[f"/v2/ollama/ollama/manifests/{AMD}"] = MANIFEST
    found = image(registry, tmp_path, NO_IMAGE.replace("$ROOT", str(tmp_path)))
    assert (found.need, found.unknown) == (3 * (100 * KB + 5), "")
    assert found.device == str(tmp_path.stat().st_dev)
    asked = [(path, unquote(query)) for path, query in registry.asked]
    assert (("/token", "service=here&scope=repository:ollama/ollama:pull") in asked) == bool(token)


def test_an_image_that_docker_has_needs_nothing(registry: Registry, tmp_path: Path) -> None:
    registry.answers["/v2/ollama/ollama/manifests/1"] = MANIFEST
    docker = f'case $1 in info) echo "{tmp_path} null" ;; image) echo present ;; esac'
    assert image(registry, tmp_path, docker).need == 0
    assert image(registry, tmp_path, docker, {"tag": "moved on this host"}).need == 3 * (100 * KB + 5)


def test_images_of_the_newer_store_are_in_containerds_folder(tmp_path: Path) -> None:
    status = '[[\\"driver-type\\",\\"io.containerd.snapshotter.v1\\"]]'
    path = program(tmp_path / "bin", "docker", f'case $1 in info) echo "/srv {status}" ;; *) exit 1 ;; esac')
    program(tmp_path / "bin", "df", 'echo title; echo "5 $4"')
    said = run(image_room.filling("x", "/declared", (), again=False).place, path).text
    assert said.split()[3] == ("/var/lib/containerd" if Path("/var/lib/containerd").is_dir() else "/var/lib")


CONTAINERD = """case $1 in config) printf '%s\\n' 'version = 3' "root = 'TMP/store'" ;; esac"""


@pytest.mark.parametrize(("containerd", "older", "place"), [(True, "", "store"), (True, "zfs", "d"), (False, "", "d")])
def test_before_docker_is_there_the_store_of_the_declared_version_counts(
    tmp_path: Path, containerd: bool, older: str, place: str
) -> None:
    path = program(tmp_path / "bin", "docker", "exit 1")
    program(tmp_path / "bin", "df", 'echo title; echo "5 $4"')
    program(tmp_path / "bin", "containerd", CONTAINERD.replace("TMP", str(tmp_path)))
    (tmp_path / "store").mkdir()
    (tmp_path / "d" / older / "layer").mkdir(parents=True)
    if not older:
        (tmp_path / "d/layer").rmdir()
    filled = image_room.filling("x", f"{tmp_path}/d", (), again=False, containerd=containerd)
    assert run(filled.place, path).text.split()[3] == f"{tmp_path}/{place}"


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, True),
        ({"version": "29.8.1"}, True),
        ({"version": "5:29.8.1-1~debian.13~trixie"}, True),
        ({"version": "28.5.2"}, False),
        ({"version": "28.5.2", "daemon": {"features": {"containerd-snapshotter": True}}}, True),
        ({"daemon": {"features": {"containerd-snapshotter": False}}}, False),
        ({"daemon": {"storage-driver": "overlay2"}}, False),
        ({"source": "distribution"}, False),
    ],
)
def test_the_store_of_images_follows_the_version_and_daemon_json(settings: dict[str, Any], expected: bool) -> None:
    assert Settings(**settings).containerd_images is expected


def test_a_declared_folder_of_docker_wins_over_the_present_folder(tmp_path: Path) -> None:
    path = program(tmp_path / "bin", "docker", 'case $1 in info) echo "/proc null" ;; *) exit 1 ;; esac')
    place = image_room.filling("x", f"{tmp_path}/new", (), again=False).place
    assert room.of(run(place, path), 1).device == str(tmp_path.stat().st_dev)


@pytest.mark.parametrize(
    ("reference", "expected"),
    [
        ("debian", (image_room.HUB, "library/debian", "latest")),
        ("docker.io/ollama/ollama:0.34.4", (image_room.HUB, "ollama/ollama", "0.34.4")),
        (f"ollama/ollama:1@{AMD}", (image_room.HUB, "ollama/ollama", AMD)),
        ("host:5000/a/b:2", ("https://host:5000", "a/b", "2")),
        ("localhost/b", ("https://localhost", "b", "latest")),
        ("ghcr.io/a/b/c:v1", ("https://ghcr.io", "a/b/c", "v1")),
    ],
)
def test_a_reference_names_registry_repository_and_tag(reference: str, expected: tuple[str, str, str]) -> None:
    assert image_room.parts(reference) == expected


def test_a_mirror_of_docker_hub_is_asked_first_and_only_for_docker_hub() -> None:
    of_hub, of_own = (Image(reference=name, mirrors=("http://m:1/",)).filling(None) for name in ("a/b:1", "own:5/a:1"))
    assert of_hub is not None
    assert of_own is not None
    assert of_hub.size.words[-2:] == ("http://m:1", image_room.HUB)
    assert of_own.size.words[-1:] == ("https://own:5",)
    assert "http://m:1" not in of_own.size.words


# -- a plan


ECHO = Script("test/echo", 'echo "$1"')


@dataclass(frozen=True)
class Big(Note):
    """A note that brings many bytes.

    Args:
        need: bytes; None for unknown.
        device: number of its file system.
        free: bytes that are free there.
        tags: smaller things, each with its bytes.
    """

    need: int | None = 0
    device: str = "1"
    free: int = 1000
    tags: tuple[tuple[str, int], ...] = ()

    def filling(self, have: Any) -> Filling:
        size, place = (look(ECHO, word, title=word) for word in (str(self.need), self.device))
        unknown = "" if self.need is not None else "nobody says"
        return Filling(
            self.id,
            size,
            place,
            lambda _, place: Room(self.need, unknown, self.free, place.text.strip(), "/srv"),
            "x.folder",
            self.tags,
        )


def plan_of(*steps: Big, action: str = "add") -> HostPlan:
    return HostPlan(tuple(Change("docker", step, action, "not there") for step in steps), len(steps))


def asks(reads: Any) -> list[Answer]:
    return [run(read) for read in reads]


def test_a_plan_that_fits_is_the_same_plan() -> None:
    plan = plan_of(Big("/a", need=900))
    assert disk_room.checked(plan, asks) == disk_room.Checked(plan)


def shortage_of(plan: HostPlan) -> UnfitError:
    shortage = disk_room.checked(plan, asks).shortage
    assert shortage is not None
    return shortage


def test_a_plan_that_does_not_fit_is_refused_with_numbers_step_and_path() -> None:
    plan = plan_of(Big("/a", need=500 * KB), Big("/b", need=400 * KB), Big("/c", need=1, device="2"))
    refused = shortage_of(plan)
    assert (refused.step, refused.exit_code) == ("note:a", 7)
    assert refused.message == (
        "no room: /srv has 0.0 MB free and needs 1.0 MB: note:a 0.5 MB, note:b 0.4 MB, and 0.1 MB to spare"
    )
    assert "`df -h /srv` on the host" in refused.hint
    assert "(x.folder)" in refused.hint
    assert "--force-fit" in refused.hint
    assert "nothing was changed on this host" in refused.hint


def test_the_spare_room_decides() -> None:
    assert disk_room.checked(plan_of(Big("/a", need=909)), asks).shortage is None
    assert shortage_of(plan_of(Big("/a", need=920)))


def test_a_large_model_needs_no_large_spare_room() -> None:
    gb = 10**9
    fits, too_large = (plan_of(Big("/a", need=need * gb, free=420 * gb)) for need in (404, 411))
    assert disk_room.checked(fits, asks).shortage is None
    assert "needs 421.0 GB: note:a 411.0 GB, and 10.0 GB to spare" in shortage_of(too_large).message


TAGS = (("r1:70b", 70 * 10**9), ("r1:32b", 20 * 10**9), ("r1:7b", 5 * 10**9))


@pytest.mark.parametrize(
    ("needs", "free", "words"),
    [
        ((70,), 30, "; r1:32b (20.0 GB) fits in place of note:a"),
        ((70, 10), 33, "; r1:32b (20.0 GB) fits in place of note:a"),
        ((70, 10), 32, "; r1:7b (5.0 GB) fits in place of note:a"),
        ((4,), 3, "to spare"),
        ((70,), 5, "to spare"),
    ],
)
def test_the_largest_smaller_thing_that_fits_the_disk_is_named(needs: Any, free: int, words: str) -> None:
    gb = 10**9
    steps = [
        Big(f"/{name}", need=need * gb, free=free * gb, tags=TAGS) for name, need in zip("ab", needs, strict=False)
    ]
    assert shortage_of(plan_of(*steps)).message.endswith(words)


def test_a_model_of_the_table_names_the_smaller_tags() -> None:
    filling = Model(instance="ollama1", name="deepseek-r1:14b").filling(None)
    assert filling is not None
    assert filling.smaller[0] == ("deepseek-r1:8b", 5225376000)
    assert [name for name, _ in filling.smaller][-1] == "deepseek-r1:1.5b"
    unknown = Model(instance="ollama1", name="qwen3:8b").filling(None)
    assert unknown is not None
    assert unknown.smaller == ()


def test_disks_are_judged_apart_and_a_shared_place_counts_once() -> None:
    apart = plan_of(Big("/a", need=800), Big("/b", need=801, device="2"), Big("/c", need=800))
    assert disk_room.checked(apart, asks).shortage is None
    assert shortage_of(plan_of(Big("/a", need=800), Big("/b", need=801)))


def test_a_size_that_nobody_says_is_a_note_and_no_refusal() -> None:
    plan = disk_room.checked(plan_of(Big("/a", need=None)), asks).plan
    assert plan.notes == {"note:a": "not asked: room for note:a: nobody says"}


def never(reads: Any) -> list[Answer]:
    raise AssertionError("asked")


SMALL = HostPlan((Change("docker", Note("/a"), "add", "not there"),))


@pytest.mark.parametrize("plan", [HostPlan(), plan_of(Big("/a", need=10**9), action="remove"), SMALL])
def test_a_plan_that_brings_nothing_asks_nothing(plan: HostPlan) -> None:
    assert disk_room.checked(plan, never) == disk_room.Checked(plan)


@pytest.fixture
def request_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., actions.Request]:
    (tmp_path / "inventory.yaml").write_text(INVENTORY)
    monkeypatch.chdir(tmp_path)

    def build(need: int | None, **words: Any) -> actions.Request:
        def steps(host: Any, inventory: Any) -> tuple[Entry, ...]:
            return (Entry("docker", Big(str(tmp_path / f"{host.name}.note"), need=need)),)

        setup = testing.setup(tmp_path, steps=steps, owned=())
        return actions.Request("inventory.yaml", limit=("gpu-01",), tags=("docker",), setup=setup, **words)

    return build


def test_plan_and_deploy_refuse_before_any_change(request_for: Any, tmp_path: Path) -> None:
    for outcomes in (actions.plan(request_for(10**6)).outcomes, actions.deploy(request_for(10**6)).outcomes):
        [outcome] = outcomes
        assert (outcome.result, outcome.error.step) == ("failed", "note:gpu-01.note")
        assert "no room" in outcome.error.message
    assert actions.plan(request_for(10**6)).exit_code == actions.deploy(request_for(10**6)).exit_code == 7
    assert not (tmp_path / "gpu-01.note").exists()


def test_force_fit_deploys_to_a_disk_without_room_and_says_so(request_for: Any, tmp_path: Path) -> None:
    plan = actions.plan(request_for(10**6, force_fit=True))
    assert plan.exit_code == 0
    [remark] = [remark for remark in plan.remarks if "by --force-fit" in remark]
    assert remark.startswith("gpu-01: forced by --force-fit: no room: /srv has 0.0 MB free and needs 1.1 MB")
    assert actions.deploy(request_for(10**6, force_fit=True)).exit_code == 0
    assert (tmp_path / "gpu-01.note").exists()


def test_an_unknown_size_is_told_by_the_plan_and_deployed(request_for: Any, tmp_path: Path) -> None:
    [outcome] = actions.plan(request_for(None)).outcomes
    assert "not asked" in outcome.plan.notes["note:gpu-01.note"]
    assert actions.deploy(request_for(None)).exit_code == 0
    assert (tmp_path / "gpu-01.note").exists()


def test_a_verification_pulls_nothing_and_needs_no_room(request_for: Any) -> None:
    assert actions.verify(request_for(10**6)).exit_code == 5, "not there, and not refused"
