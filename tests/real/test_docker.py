"""The whole sequence on hosts of a lab with Docker 28 and 29, which no distribution of the lab ships.

The daemon, the proxy and the client are built from upstream's Go modules; containerd, runc, the units and the scripts
of the packages are Debian 13's, but an upgrade restarts the daemon, as with Docker's own package. The hosts have cgroup
v1, and Docker 29 prints a warning. Debian 13's runc 1.1 knows no time namespaces, so the inventory has
`docker.daemon: {features: {time-namespaces: false}}`. Cards, toolkit and model server of the lab are simulated.
"""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from provision.artifacts import store
from provision.lab import builds
from provision.lab.lab import Lab
from provision.lab.spec import Spec
from provision.steps.docker import image_room
from tests.bench.roll.load import Load
from tests.fleet import KEEP, NAME, Fleet
from tests.real import docker_packages
from tests.real.conftest import NOTED
from tests.real.install import docker
from tests.real.install.docker import NEWEST, OLDER, Built
from tests.real.install.workshop import Workshop, default_folder
from tests.real.noted import Noted

GPU = ("gpu-01", "gpu-02")
OTHER = "ollama/ollama:0.33.0"
ASK = ["curl", "--noproxy", "*", "-s", "-o", "/dev/null", "--max-time", "5", "-w", "%{http_code}"]
OLD_RUNC = {"features": {"time-namespaces": False}}
"""Docker 29.8 gives each container a time namespace. Debian 13's runc 1.1 knows none: no container starts."""
RESTARTS = "restarts Docker while containers run: they go on, by live-restore"


@pytest.fixture
def noted(request: pytest.FixtureRequest) -> Noted:
    """The case's notes for the page. No case here needs Ollama."""
    notes = Noted("Docker", NEWEST.version)
    request.node.stash[NOTED] = notes
    return notes


@pytest.fixture(scope="module")
def older() -> Built | str:
    """Docker 28, or why this release is not built."""
    return docker.older_if_it_builds(Workshop(default_folder()))


@pytest.fixture(scope="module")
def lab(older: Built | str) -> Iterator[Lab]:
    """Two gpu hosts with one simulated card each, and a balancer; its repository has Docker 26.1, 28.5 and 29.

    A lab that a run with PROVISION_KEEP_LAB kept is taken again, with bare hosts.
    """
    if kept := [each for each in Lab.all() if KEEP and each.name == f"{NAME}-docker"]:
        kept[0].restore()
        yield kept[0]
        return
    shop = Workshop(default_folder())
    built = [docker.installed(shop, NEWEST), *([] if isinstance(older, str) else [older])]
    packages = docker_packages.folder(shop, built)
    made = Lab.up(Spec(f"{NAME}-docker", 2, 1, 1, packages=str(packages)), install=True)
    try:
        yield made
    finally:
        if not KEEP:
            made.down()


@pytest.fixture(scope="module")
def deployed(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Fleet:
    """Bare hosts after a first deploy, with the newest Docker. A lab's native build of nginx is taken, if there."""
    fleet = Fleet(lab, tmp_path_factory.mktemp("fleet"))
    builds.ensure(lab.spec.release, print)
    shutil.copytree(store.default_folder(), lab.home / "cache/provision/artifacts", dirs_exist_ok=True)
    fleet.vars["docker"].update(version=NEWEST.version, daemon=OLD_RUNC)
    done = fleet.provision("deploy", "--yes", "--json", timeout=1200)
    assert done.code == 0, done
    return fleet


@pytest.fixture
def fleet(deployed: Fleet) -> Fleet:
    return deployed


def info(fleet: Fleet, host: str, what: str) -> str:
    return fleet.on(host, "docker", "info", "--format", what).strip()


def inspect(fleet: Fleet, host: str, what: str, name: str = "ollama1") -> str:
    return fleet.on(host, "docker", "inspect", "-f", what, name).strip()


def containers(fleet: Fleet) -> list[str]:
    return [inspect(fleet, host, "{{.Id}} {{.State.StartedAt}}") for host in GPU]


def settled(fleet: Fleet) -> None:
    assert not any(fleet.changes().values()), fleet.provision("plan", "--diff")
    verified = fleet.provision("verify", "--json")
    assert verified.code == 0, verified


def reached(fleet: Fleet, host: str, at: str) -> bool:
    return fleet.lab.host(host).run([*ASK, f"http://{at}/api/version"], check=False).stdout == "200"


def test_bare_hosts_are_deployed_and_verified(fleet: Fleet, noted: Noted) -> None:
    assert info(fleet, "gpu-01", "{{.ServerVersion}}") == NEWEST.version
    status = json.loads(info(fleet, "gpu-01", "{{json .DriverStatus}}"))
    assert ["driver-type", "io.containerd.snapshotter.v1"] in status, "a fresh host has the containerd image store"
    settled(fleet)
    runtime = fleet.on("gpu-01", "containerd", "--version").split()[2]
    cgroups = info(fleet, "gpu-01", "{{.CgroupVersion}} with {{.CgroupDriver}}")
    noted.evidence = f"plan clean, verify passed; containerd image store, containerd {runtime}, cgroup v{cgroups}"


def test_the_room_is_asked_of_the_disk_that_takes_the_image(fleet: Fleet, noted: Noted) -> None:
    """Docker's folder takes no image of the containerd image store."""
    reference = fleet.vars["ollama"]["image"]
    said = fleet.on("gpu-01", "sh", "-c", str(image_room.PLACE), "sh", "", reference)
    folder = fleet.on("gpu-01", "df", "--output=target", "/var/lib/containerd").split()[-1]
    assert said.splitlines()[0].endswith(f" {folder}")
    assert said.splitlines()[-1] == "present"
    moved = "version = 2\nroot = '/srv/containerd'\n"
    fleet.on("gpu-01", "sh", "-c", f'mkdir -p /etc/containerd && printf "%s" "{moved}" >/etc/containerd/config.toml')
    try:
        said = fleet.on("gpu-01", "sh", "-c", str(image_room.PLACE), "sh", "", reference)
        assert said.splitlines()[0].endswith(" /"), "the root of containerd by its own configuration"
    finally:
        fleet.on("gpu-01", "rm", "/etc/containerd/config.toml")
    noted.evidence = f"{folder}, not Docker's folder; with another root in containerd's configuration, that root"


def test_a_change_of_every_instance_rolls_and_is_rolled_back(fleet: Fleet, noted: Noted) -> None:
    before = containers(fleet)
    fleet.vars["ollama"]["context_length"] = 8192
    with Load(fleet.address("lb-01"), 3, 40, "roll") as load:
        run = fleet.deploy().doc["run"]
    assert load.answers
    assert load.failed == [], "a roll costs no client an answer"
    assert not set(before) & set(containers(fleet))
    assert "PREVIOUS" not in fleet.on("gpu-01", "docker", "ps", "-a", "--format", "{{.Names}}")
    settled(fleet)
    with Load(fleet.address("lb-01"), 3, 40, "back") as back:
        undone = fleet.provision("rollback", run, "--yes", "--json")
    assert undone.code == 0, undone
    assert back.failed == []
    fleet.vars["ollama"]["context_length"] = 4096
    settled(fleet)
    noted.evidence = f"{len(load.answers)} and {len(back.answers)} answers meanwhile, none failed"


def test_a_change_of_the_image_keeps_the_old_image_for_a_rollback(fleet: Fleet, noted: Noted) -> None:
    first = fleet.vars["ollama"]["image"]
    fleet.vars["ollama"]["image"] = OTHER
    run = fleet.deploy().doc["run"]
    settled(fleet)
    listed = fleet.on("gpu-01", "docker", "image", "ls", "--format", "{{.Repository}}:{{.Tag}}").split()
    assert {first, OTHER} <= set(listed)
    fleet.on("gpu-01", "docker", "image", "prune", "--force")
    undone = fleet.provision("rollback", run, "--yes", "--json")
    assert undone.code == 0, undone
    assert inspect(fleet, "gpu-01", "{{.Config.Image}}") == first
    fleet.vars["ollama"]["image"] = first
    fleet.deploy()
    settled(fleet)
    digest = inspect(fleet, "gpu-01", "{{index .RepoDigests 0}}", first).partition("@")[2]
    fleet.vars["ollama"]["image"] = f"{first.partition(':')[0]}@{digest}"
    fleet.deploy()
    settled(fleet)
    fleet.vars["ollama"]["image"] = first
    fleet.deploy()
    settled(fleet)
    noted.evidence = "kept over `docker image prune`; the rollback pulls nothing; an image by digest settles too"


def test_a_tag_that_moved_is_seen(fleet: Fleet, noted: Noted) -> None:
    reference = fleet.vars["ollama"]["image"]
    fleet.on("gpu-01", "docker", "pull", "-q", OTHER)
    fleet.on("gpu-01", "docker", "tag", OTHER, reference)
    assert f"image:{reference}" in fleet.changes()["gpu-01"]
    fleet.deploy()
    settled(fleet)
    fleet.on("gpu-01", "docker", "image", "rm", OTHER)
    noted.evidence = "plan pulls the image again; then plan is clean"


def test_a_restart_of_docker_keeps_the_instances(fleet: Fleet, noted: Noted) -> None:
    before = containers(fleet)
    fleet.vars["docker"]["daemon"] = {**OLD_RUNC, "default-shm-size": "128M"}
    planned = {host["host"]: host["changes"] for host in fleet.plan().doc["hosts"]}
    assert RESTARTS in json.dumps(planned["gpu-01"])
    with Load(fleet.address("lb-01"), 3, 40, "restart") as load:
        fleet.deploy()
    assert load.failed == []
    assert containers(fleet) == before
    fleet.on("gpu-01", "systemctl", "restart", "docker")
    assert containers(fleet) == before
    settled(fleet)
    noted.evidence = f'plan says "{RESTARTS}"; same containers, {len(load.answers)} answers, none failed'


def test_nftables_is_refused_by_name(fleet: Fleet, noted: Noted) -> None:
    """Docker makes no chain DOCKER-USER with this backend."""
    deployed = fleet.vars["docker"]["daemon"]  # of the case before
    fleet.vars["docker"]["daemon"] = {**OLD_RUNC, "firewall-backend": "nftables"}
    planned = fleet.provision("plan", "--limit", "gpu-01")
    fleet.vars["docker"]["daemon"] = deployed
    assert planned.code == 3, planned
    said = (
        '"firewall-backend": "nftables" in /etc/docker/daemon.json: with this backend Docker has no chain DOCKER-USER'
    )
    assert said in " ".join((planned.out + planned.err).split())
    settled(fleet)
    noted.evidence = said


def test_a_client_that_is_too_old_for_the_daemon_is_named(fleet: Fleet, noted: Noted) -> None:
    """The client of Docker 26.1 speaks API 1.45."""
    pool = Path(fleet.lab.spec.packages)
    assert pool.is_dir()
    script = "apt-get -qq download docker-ce-cli=5:26.1.5*; dpkg-deb --extract docker-ce-cli_*26.1.5*.deb old"
    fleet.on("gpu-01", "sh", "-c", f"cd /root && {script} && cp old/usr/bin/docker /usr/local/bin/docker")
    fleet.vars["docker"]["daemon"] = {**OLD_RUNC, "min-api-version": "1.50"}
    try:
        fleet.provision("deploy", "--yes", "--limit", "gpu-01")
        fleet.on("gpu-01", "systemctl", "restart", "docker")
        planned = fleet.provision("plan", "--limit", "gpu-01")
        assert planned.code != 0
        said = planned.out + planned.err
        assert "client version 1.45 is too old" in said
    finally:
        fleet.on("gpu-01", "rm", "/usr/local/bin/docker")
    fleet.vars["docker"]["daemon"] = OLD_RUNC
    fleet.deploy()
    settled(fleet)
    noted.evidence = said


def test_the_older_release_is_deployed_and_upgraded_under_running_instances(
    fleet: Fleet, older: Built | str, noted: Noted
) -> None:
    noted.judge("Docker", OLDER.version)
    if isinstance(older, str):
        noted.not_run = older
        return
    fleet.lab.restore()
    fleet.vars["docker"]["version"] = OLDER.version
    fleet.deploy()
    assert info(fleet, "gpu-01", "{{.ServerVersion}} {{.Driver}}") == f"{OLDER.version} overlay2"
    settled(fleet)
    before = containers(fleet)
    fleet.vars["docker"]["version"] = NEWEST.version
    with Load(fleet.address("lb-01"), 3, 40, "upgrade") as load:
        fleet.deploy()
    assert info(fleet, "gpu-01", "{{.ServerVersion}} {{.Driver}}") == f"{NEWEST.version} overlay2", "the store stays"
    assert containers(fleet) == before
    assert load.failed == []
    settled(fleet)
    noted.evidence = f"plan clean, verify passed; to {NEWEST.version} with the same containers, overlay2 stays"
