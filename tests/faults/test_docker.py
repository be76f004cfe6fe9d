"""Docker is stopped, wedged or restarted; before a run and while it goes on."""

import pytest

from tests.faults.case import Case, both, params, play
from tests.faults.common import DAEMON, container_back, key_back, one_container, one_key

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
        (f"{DAEMON} is not what Docker can read", "line 1|Expecting"),
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
