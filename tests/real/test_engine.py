"""The scripts and parsers of `provision` beside a real daemon of Docker 28.5, with the containerd image store.

From Docker 29 on a fresh host has this store; 28.5 has the store by `features`. The daemon runs in namespaces of its
own on the machine of the tests, with cgroup v1 or v2 as the machine has. No card and no host is there.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from provision.command import Answer
from provision.steps.docker import daemon_state, image_room, inspect
from provision.steps.docker.image import MIRROR, PULL, REMOVE, Image
from tests.real.conftest import NOTED
from tests.real.engine import Engine
from tests.real.install import docker_packaged
from tests.real.install.workshop import Workshop, default_folder
from tests.real.noted import Noted

LABELS = ["--label", "provision.managed=1", "--label", "provision.instance=ollama1"]
IDS = "{{.Image}}"


@pytest.fixture(scope="module")
def programs() -> Path:
    """The folder of Docker's programs. No case here needs Ollama."""
    return docker_packaged.installed(Workshop(default_folder()))


@pytest.fixture
def noted(request: pytest.FixtureRequest, programs: Path) -> Noted:
    """The case's notes for the page."""
    notes = Noted("Docker", docker_packaged.version(programs))
    request.node.stash[NOTED] = notes
    return notes


@pytest.fixture(scope="module")
def engine(programs: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    with Engine(programs, tmp_path_factory.mktemp("engine"), {"containerd-snapshotter": True}) as running:
        yield running


@pytest.fixture(scope="module")
def first(engine: Engine) -> str:
    """An image that our script has pulled."""
    reference = engine.publish("1")
    done = engine.script(PULL, reference, "mark", "1")
    assert done.returncode == 0, done
    return reference


@pytest.fixture(scope="module")
def second(engine: Engine) -> str:
    """Another image, which nobody of ours has pulled."""
    reference = engine.publish("2")
    engine.docker("pull", "-q", reference)
    return reference


@pytest.fixture(scope="module")
def ollama1(engine: Engine, first: str) -> str:
    """A running container of the first image, with our labels."""
    engine.docker("run", "-d", "--name", "ollama1", "--network", "none", *LABELS, first)
    return "ollama1"


def look(engine: Engine) -> Answer:
    """The look at Docker, as a host answers."""
    done = engine.script(inspect._script(inspect.known_probes()))
    assert done.returncode == 0, done
    return Answer(done.returncode, done.stdout.encode(), done.stderr.encode())


def test_an_image_has_the_same_id_everywhere(engine: Engine, first: str, ollama1: str, noted: Noted) -> None:
    found = inspect.read(look(engine))
    image = engine.docker("image", "inspect", "--format", "{{.Id}}", first)
    assert found.image_id(first) == found.recorded_id(first) == found.containers[ollama1]["image_id"] == image
    digest = engine.docker("image", "inspect", "--format", "{{index .RepoDigests 0}}", first)
    assert found.image_id(digest) == image
    noted.evidence = f"by tag, by digest, in the mark and of the container: {image[:19]}"


def test_a_tag_that_moved_is_seen(engine: Engine, first: str, second: str, ollama1: str, noted: Noted) -> None:
    own = engine.docker("inspect", "-f", IDS, ollama1)
    engine.docker("tag", second, first)
    state = Image(reference=first).fact().parse(look(engine))
    assert state is not None
    assert "moved on this host" in state["tag"]
    assert engine.docker("inspect", "-f", IDS, ollama1) == own
    engine.docker("rm", engine.docker("create", "--network", "none", own))
    engine.docker("pull", "-q", first)
    state = Image(reference=first).fact().parse(look(engine))
    assert state is not None
    assert state["tag"] == "as pulled"
    noted.evidence = "the container keeps its id, Docker makes a container by that id, and a pull mends the tag"


def test_the_room_is_asked_of_containerds_disk(engine: Engine, first: str, noted: Noted) -> None:
    done = engine.script(image_room.PLACE, "", first, "")
    assert done.stdout.split()[3:] == ["/var/lib/containerd", "present"]
    noted.evidence = done.stdout.strip()


def test_the_image_of_a_stopped_container_stays(engine: Engine, first: str, ollama1: str, noted: Noted) -> None:
    """A rollback starts the previous container, which is stopped."""
    engine.docker("stop", "-t", "0", ollama1)
    engine.docker("rename", ollama1, "ollama1.previous")
    engine.docker("image", "prune", "-a", "-f")
    done = engine.script(REMOVE, first, "other")
    assert "still used or gone; left as it is" in done.stdout
    engine.docker("rename", "ollama1.previous", ollama1)
    engine.docker("start", ollama1)
    assert engine.docker("inspect", "-f", "{{.State.Status}} {{.Config.Image}}", ollama1) == f"running {first}"
    noted.evidence = "`docker image prune -a` and our removal leave the image, and the container starts again"


def test_a_restart_keeps_containers(engine: Engine, ollama1: str, noted: Noted) -> None:
    before = engine.docker("inspect", "-f", "{{.State.Pid}} {{.State.StartedAt}}", ollama1)
    engine.restart()
    assert engine.docker("inspect", "-f", "{{.State.Pid}} {{.State.StartedAt}}", ollama1) == before
    noted.evidence = "live-restore: the same process before and after"


def test_the_errors_of_a_mirror_and_of_the_registry_are_named(engine: Engine, noted: Noted) -> None:
    done = engine.run(["docker", "pull", "busybox:1"])
    assert done.returncode == 1
    path = engine.folder / "dockerd.log"
    said = engine.script(f"mirror() {{{MIRROR}}}\nmirror <{path}").stdout
    assert "a mirror said: failed to do request" in said
    assert "the last registry said: failed to do request" in said
    noted.evidence = " / ".join(line.partition(": Head")[0] for line in said.splitlines())


def test_a_client_that_is_too_old_is_named(engine: Engine, noted: Noted) -> None:
    done = engine.script(daemon_state.ASKED, DOCKER_API_VERSION="1.23")
    assert done.stdout.startswith("silent=Error response from daemon: client version 1.23 is too old."), done
    assert engine.script(daemon_state.ASKED).stdout.startswith('info={"live_restore":true')
    noted.evidence = done.stdout.strip()
