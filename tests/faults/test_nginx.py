"""nginx refuses its configuration, dies, or finds its port taken; templates render garbage. The live state stays."""

import os
from pathlib import Path

import pytest

from tests.faults.case import Case, both, params, play
from tests.faults.common import TOOLKIT, new_queue, no_package, old_queue
from tests.faults.world import BALANCER
from tests.fleet import wait_for

pytestmark = [pytest.mark.lab, pytest.mark.faults]
GARBAGE = Path(__file__).parent / "garbage"
LB = {"host": BALANCER, "step": "config:balancer"}
LOGS = "/var/log/provision-nginx"
KILL = "kill -9 $(cat /run/provision-nginx/nginx.pid)"


def garbage(template, text, **more):
    """The template renders this text, in the first run."""
    path = os.pathsep.join(filter(None, (str(GARBAGE), os.environ.get("PYTHONPATH"))))
    env = (("PYTHONPATH", path), ("PROVISION_GARBAGE", f"{template}={text}"))
    return Case(lambda world: None, env=env, **{**LB, **more})


def port_taken(world):
    world.sh("systemctl stop provision-nginx", host=BALANCER)
    program = "import socket, time; s = socket.create_server(('', 3008)); time.sleep(600)"
    world.sh(
        "systemctl reset-failed squatter 2>/dev/null || :; systemd-run --quiet --collect --unit=squatter python3 -c"
        f' "{program}"; for _ in $(seq 50); do ss -Hltn | grep -q ":3008 .*" && break; sleep 0.1; done',
        host=BALANCER,
    )


def starts_again(world):
    """nginx starts again by its unit, without a person."""
    wait_for(world.answers)


CASES = {
    "nginx -t fails": Case(
        lambda w: w.sh(f"mv {LOGS} /root/logs", host=BALANCER),
        ("emerg|No such file", LOGS),
        both(lambda w: w.sh(f"[ -e {LOGS} ] || mv /root/logs {LOGS}; rm -rf /root/logs", host=BALANCER), old_queue),
        at="config:balancer",
        ready=new_queue,
        put_back=True,  # nginx has no log folder until its next start
        **LB,
    ),
    "the upstream renders as garbage": garbage("balancer/upstream.conf.j2", "garbage {", says=("emerg|unexpected",)),
    "the upstream renders as nothing": garbage("balancer/upstream.conf.j2", "", says=("emerg|host not found",)),
    "nginx.conf renders as garbage": garbage("balancer/nginx.conf.j2", "\x01\x02 no configuration", says=("emerg",)),
    "the site renders as what nginx takes and cannot load": garbage(
        "balancer/site.conf.j2", "server { listen 198.51.100.7:3008; }\n", says=("198.51.100.7|did not load|refused",)
    ),
    "nginx's unit renders as garbage": garbage(
        "nginx/provision-nginx.service.j2",
        "[Service]\nExecStart=nothing\n",
        step="unit:provision-nginx.service",
        says=("provision-nginx.service: Command nothing is not executable",),
        leaves=(),
    ),
    "a package source renders as garbage": garbage(
        "nvidia_toolkit/nvidia_toolkit.sources.j2",
        "Types: nonsense\n",
        ready=no_package,
        step=TOOLKIT,
        says=("Malformed|type|nonsense|sources",),
        host="gpu-02",
    ),
    "killed before the run, which starts it": Case(
        lambda w: w.sh(f"{KILL}; sleep 1", host=BALANCER), host=BALANCER, code=0, balancer=False
    ),
    "killed while its configuration is written": Case(
        lambda w: w.sh(KILL, host=BALANCER),
        ("the host still differs: nginx does not run",),
        both(old_queue, starts_again),
        at="config:balancer",
        ready=new_queue,
        balancer=False,
        **LB,
    ),
    "stopped while its configuration is written": Case(
        lambda w: w.sh("systemctl stop provision-nginx", host=BALANCER),
        ("the host still differs: nginx does not run",),
        old_queue,
        at="config:balancer",
        ready=new_queue,
        balancer=False,
        **LB,
    ),
    "its port is taken": Case(
        port_taken,
        (r"0\.0\.0\.0:3008 by python3 \(pid \d+, /usr/bin/python3", "held by a foreign process"),
        lambda w: w.sh("systemctl stop squatter", host=BALANCER),
        "listen:nginx",
        host=BALANCER,
        balancer=False,
        leaves=(),
    ),
}


@pytest.mark.parametrize("case", params(CASES, "the upstream renders as garbage"))
def test_nginx(world, seen, case):
    play(world, case, seen)
