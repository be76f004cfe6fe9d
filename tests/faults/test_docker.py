"""Docker is stopped, wedged or restarted; before a run and while it goes on."""

import pytest

from tests.bench.roll.load import Load
from tests.faults.case import Case, both, params, play
from tests.faults.common import DAEMON, container_back, key_back, one_container, one_key
from tests.faults.world import BAD
from tests.lab.test_rolling import Watch, down

pytestmark = [pytest.mark.lab, pytest.mark.faults]
STOP = "systemctl stop docker.socket docker.service"
WEDGE = "kill -STOP $(cat /run/docker.pid)"
UNWEDGE = "kill -CONT $(cat /run/docker.pid)"

CASES = {
    "stopped before the run, which starts it": Case(lambda w: w.sh(STOP), code=0, keep=False),
    "stopped and masked before the run, which starts it": Case(
        lambda w: w.sh(f"{STOP}; systemctl mask docker.service 2>/dev/null"), code=0, keep=False
    ),
    "stopped while a container is made": Case(
        lambda w: w.sh(STOP),
        ("ollama1", "[Dd]ocker"),
        container_back,
        r"\S+",
        at="container:ollama1",
        ready=one_container,
        keep=False,
        stops=True,
    ),
    "wedged before the run": Case(
        both(one_container, lambda w: w.sh(WEDGE)),
        ("[Dd]ocker", "does not answer|took too long|timed? ?out"),
        both(container_back, lambda w: w.sh(UNWEDGE)),
        r"\S+",
        keep=False,
    ),
    "wedged while a container is made": Case(
        lambda w: w.sh(WEDGE),
        ("ollama1", "does not answer|took too long|timed? ?out"),
        both(container_back, lambda w: w.sh(UNWEDGE)),
        r"\S+",
        at="container:ollama1",
        ready=one_container,
        keep=False,
        stops=True,
    ),
    "restarted while a container is made": Case(
        lambda w: w.sh("systemctl restart docker"),
        mend=container_back,
        at="container:ollama1",
        ready=one_container,
        step=r"\S+",
        stops=True,
        race=True,
        keep=False,
    ),
    "killed while a container is made": Case(
        lambda w: w.sh("kill -9 $(cat /run/docker.pid)"),
        mend=container_back,
        at="container:ollama1",
        ready=one_container,
        step=r"\S+",
        stops=True,
        race=True,
        keep=False,
    ),
    "daemon.json is no JSON": Case(
        both(lambda w: w.sh(f"cp {DAEMON} /root/daemon.json"), lambda w: w.write(DAEMON, '{"debug": tru')),
        (f"{DAEMON} is not valid JSON for Docker", "line 1|Expecting"),
        lambda w: w.sh(f"cp /root/daemon.json {DAEMON}; rm /root/daemon.json"),
        "docker_config:daemon.json",
        leaves=(),
    ),
    "a daemon.json that Docker refuses": Case(
        lambda w: w.set("docker", daemon={"no-such-directive": True}),
        ("no-such-directive",),
        lambda w: w.unset("docker", "daemon"),
        "docker_config:daemon.json",
        leaves=(),
    ),
    "a daemon.json with which Docker does not start": Case(
        lambda w: w.set("docker", daemon={"storage-driver": "no-such-driver"}),
        ("no-such-driver", "was put back"),
        lambda w: w.unset("docker", "daemon"),
        "service:docker",
        keep=False,
    ),
    "dies while it is reconfigured": Case(
        lambda w: w.sh("kill -9 $(cat /run/docker.pid)"),
        mend=key_back,
        at="docker_config:daemon.json",
        ready=one_key,
        step=r"\S+",
        race=True,
        keep=False,
    ),
}


@pytest.mark.parametrize("case", params(CASES, "stopped while a container is made"))
def test_docker(world, seen, case):
    play(world, case, seen)


# Runs at every daemon-reload. A container in a scope of systemd's may then use the devices that systemd knows, and
# systemd does not know the hook's cards (docs/facts.md#lost-cards); another start gives the cards back. SIMULATED: the
# lab's cards are no devices.
CARDS_GO = """#!/bin/sh
docker ps -q --no-trunc | xargs -r docker inspect -f '{{.Id}} {{.State.Pid}}' | while read -r id pid; do
  ! grep -q 'docker-[0-9a-f]*[.]scope' "/proc/$pid/cgroup" ||
    grep -q '"path":"/dev/nvidia0"' "/run/containerd/io.containerd.runtime.v2.task/moby/$id/config.json" ||
    echo '{"visible": [], "name": "lost"}' >"/proc/$pid/root/etc/provision-lab-container.json"
done
"""


def test_where_a_daemon_reload_takes_the_cards_the_instances_go_out_for_it_and_get_safe_ones(world, scratch, lab, seen):
    """A host set up by others: containers in cgroups of systemd's making."""
    world.set("docker", cgroup_driver="systemd")
    scratch.deploy()
    world.set("ollama", log_max_file=4)  # containers keep their old cgroups until they are made anew
    scratch.deploy()
    assert world.sh("docker info --format '{{.CgroupDriver}}'") == "systemd\n"
    assert "/system.slice/docker-" in world.sh(CGROUP)
    world.write("/etc/systemd/system-generators/cards-go", CARDS_GO, mode=0o755)
    world.sh('echo "# by hand" >>"$1"', BY_HAND)
    _converges_under_load(world, scratch, lab, seen, [UNIT, *MADE_ANEW])

    world.unset("docker", "cgroup_driver")  # cgroupfs again, while running containers keep their cgroups
    planned = _converges_under_load(world, scratch, lab, seen, ["service:docker", *MADE_ANEW])
    assert "keep their old cgroups" in planned.out
    assert "/system.slice/docker-" not in world.sh(CGROUP)
    world.sh("systemctl daemon-reload")
    assert world.changes()[BAD] == []


NVIDIAS = """python3 -c '
import json, sys
path = "/etc/docker/daemon.json"
config = json.load(open(path))
config["default-runtime"] = "nvidia"
json.dump(config, open(path, "w"))
'; systemctl restart docker"""


def test_containers_with_cards_by_cdi_stay_in_while_systemd_reloads(world, scratch, lab, seen):
    """A host set up by others: systemd's cgroups, NVIDIA's runtime, and a container of somebody else by the hook."""
    world.set("docker", cgroup_driver="systemd")
    scratch.deploy()
    world.fault("cdi")
    world.sh(NVIDIAS)
    world.set("ollama", log_max_file=4)  # makes the containers anew, by CDI
    scratch.deploy()
    assert "/system.slice/docker-" in world.sh(CGROUP)
    world.sh("docker run -d --name training --runtime runc --gpus all --entrypoint sleep ollama/ollama:0.34.4 9999")
    world.write("/etc/systemd/system-generators/cards-go", CARDS_GO, mode=0o755)
    world.sh('echo "# by hand" >>"$1"', BY_HAND)
    planned = world.plan("--limit", BAD)
    assert "takes every instance of this host out" not in planned.out, planned
    assert (
        "a daemon-reload takes the cards of training (cards by NVIDIA's hook: systemd does not know the" in planned.out
    )
    with Watch(lab) as watch:
        done = scratch.deploy("--limit", f"{BAD},lb-01")
    seen.first(done)
    assert UNIT in done.host(BAD)["changed"]
    assert not set(MADE_ANEW) & set(done.host(BAD)["changed"])
    assert watch.most == set()
    inside = "docker exec $1 nvidia-smi -L"
    assert "GPU 0" in world.sh(inside, "ollama1")
    assert "GPU 0" not in world.sh(f"{inside} 2>&1 || :", "training")
    assert world.changes()[BAD] == []
    seen.second(world)


CGROUP = "cat /proc/$(docker inspect -f '{{.State.Pid}}' ollama1)/cgroup"
BY_HAND = "/etc/systemd/system/provision-instances.service"
UNIT = "unit:provision-instances.service"
MADE_ANEW = ("container:ollama1", "container:ollama2")


def _converges_under_load(world, scratch, lab, seen, changed):
    """No stream is cut and no request fails, while every instance of the host is out for the change. Returns the
    plan."""
    planned = world.plan("--limit", f"{BAD},lb-01")
    assert "takes every instance of this host out meanwhile" in planned.out, planned
    with Load(scratch.address("lb-01"), 2, 20, "reload") as load, Watch(lab) as watch:
        done = scratch.deploy("--limit", f"{BAD},lb-01")
    seen.first(done)
    assert set(changed) <= set(done.host(BAD)["changed"]), done
    assert watch.most == {f"{BAD}/ollama1", f"{BAD}/ollama2"}
    assert load.failed == []
    assert down(scratch) == set()
    seen.second(world)
    return planned
