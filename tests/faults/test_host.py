"""A host is not as the inventory declares, or has things of somebody else: refused, and nothing is changed."""

import pytest

from tests.faults.case import Case, both, params, play

pytestmark = [pytest.mark.lab, pytest.mark.faults]
CARDS = "provision does not install it"
GUARD = {"step": "require:cards"}
IMAGE = "ollama/ollama:0.34.4"


def fake_release(text):
    return both(lambda w: w.sh("rm /etc/os-release"), lambda w: w.write("/etc/os-release", text))


def true_release(world):
    world.sh("ln -sf ../usr/lib/os-release /etc/os-release")


def foreign_container(*words):
    """A foreign container, made by hand from the present image; our container of the same card or port is stopped."""
    text = f'docker rm -f ollama1 >/dev/null; docker run -d --name "$@" --entrypoint sleep {IMAGE} 600 >/dev/null'
    return lambda world: world.sh(text, *words)


def without(name):
    return lambda world: world.sh('docker rm -f "$1" >/dev/null', name)


def port_taken(world):
    program = "import socket, time; s = socket.create_server(('', 3001)); time.sleep(600)"
    world.sh(
        "docker stop ollama1 >/dev/null; systemctl reset-failed squatter 2>/dev/null || :;"
        f' systemd-run --quiet --collect --unit=squatter python3 -c "{program}";'
        ' for _ in $(seq 50); do ss -Hltn | grep -q ":3001 .*" && break; sleep 0.1; done'
    )


def switched(fault):
    return lambda world: world.fault(fault), lambda world: world.fault(fault, "off")


CASES = {
    "another distribution": Case(
        fake_release('ID=fedora\nVERSION_ID="43"\nPRETTY_NAME="Fedora Linux 43"\n'),
        ("this host is fedora 43", "Debian 12 and 13, Ubuntu 22.04 and 24.04", "nothing was changed"),
        true_release,
        "require:host",
        leaves=(),
    ),
    "no os-release": Case(
        lambda w: w.sh("rm /etc/os-release"),
        ("this host is unknown",),
        true_release,
        "require:host",
        leaves=(),
    ),
    "no driver": Case(
        lambda w: w.sh("mv /usr/bin/nvidia-smi /usr/bin/nvidia-smi.away"),
        ("nvidia-smi is not installed", CARDS),
        lambda w: w.sh("mv /usr/bin/nvidia-smi.away /usr/bin/nvidia-smi"),
        leaves=(),
        **GUARD,
    ),
    "the driver is broken": Case(
        switched("driver-broken")[0],
        ("the NVIDIA driver is not loaded: NVIDIA-SMI has failed", CARDS),
        switched("driver-broken")[1],
        leaves=(),
        **GUARD,
    ),
    "the driver is too old": Case(
        switched("driver-old")[0],
        ("the driver is 535.309.01", "needs 550", "silently run on the CPU"),
        switched("driver-old")[1],
        leaves=(),
        **GUARD,
    ),
    "the driver hangs": Case(
        switched("nvidia-smi-hang")[0],
        ("nvidia-smi does not answer", CARDS),
        switched("nvidia-smi-hang")[1],
        **GUARD,
    ),
    "a card is gone": Case(
        switched("card-missing")[0],
        ("ollama2 cannot run: GPU 1 .* is missing: nvidia-smi does not list it",),
        switched("card-missing")[1],
        leaves=(),
        **GUARD,
    ),
    "a card fell off the bus": Case(
        switched("card-lost")[0],
        ("ollama2 cannot run: GPU 1 .* is missing.*; a GPU is lost.*Unable to determine the device handle",),
        switched("card-lost")[1],
        leaves=(),
        **GUARD,
    ),
    "a card that never was": Case(
        lambda w: w.instance(1).update(gpus=[7]),
        ("ollama2 cannot run: there is no GPU 7: this host has GPU 0 .*, GPU 1",),
        lambda w: w.instance(1).update(gpus=[1]),
        leaves=(),
        **GUARD,
    ),
    "a foreign container has our name": Case(
        foreign_container("ollama1"),
        ("a container named ollama1 is there that is not ours", "rename or remove it"),
        without("ollama1"),
        "container:ollama1",
        keep=False,
        leaves=(),
        stops=True,
    ),
    "a foreign container has our card and port": Case(
        foreign_container("somebodys", "--gpus", "device=0", "-p", "3001:80"),
        (
            "card 0 of ollama1 is held by the container somebodys, which is not ours",
            "port 3001 of ollama1 is published by the container somebodys",
        ),
        without("somebodys"),
        "guard:instances",
        keep=False,
        leaves=(),
    ),
    "a foreign process has our port": Case(
        port_taken,
        ("port 3001 of ollama1 is taken by python3 on 0.0.0.0",),
        lambda w: w.sh("systemctl stop squatter"),
        "guard:instances",
        keep=False,
        leaves=(),
    ),
    "a model that does not exist": Case(
        lambda w: w.instance().update(models=["deepseek-r1:1.5b", "no-such-model:1b"]),
        ("ollama1 could not pull no-such-model:1b: pull model manifest: file does not exist",),
        lambda w: w.instance().pop("models"),
        "model:ollama1/no-such-model:1b",
        stops=True,
        keep=False,
    ),
}


@pytest.mark.parametrize("case", params(CASES, "the driver is too old"))
def test_host(world, seen, case):
    play(world, case, seen)
