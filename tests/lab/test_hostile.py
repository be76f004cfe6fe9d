"""Hostile values on a real host: carried as data to their place, and run nowhere. Hostile answers of a host: a
clear and bounded error, and the other hosts finish."""

import json
import re
from pathlib import Path

import pytest

from .conftest import Done, settle

pytestmark = pytest.mark.lab
GOOD, BAD = "gpu-01", "gpu-02"
CANARIES = "/tmp/provision-canary"
HOSTILE = (
    f'it\'s "x", $(touch {CANARIES}-1) `touch {CANARIES}-2`; touch {CANARIES}-3 && #\\ *~ ${{IFS}} ü %s {{{{ 7*7 }}}}'
)
FOLDER = f'/srv/it\'s $(touch {CANARIES}-4), "quoted" `touch {CANARIES}-5`; -rf *'
PROXY = "http://user:$(touch${IFS}" + CANARIES + "-6);'\"`id`@proxy.test:3128"
LABEL = f'by=$(touch {CANARIES}-7) it\'s "quoted"\ntouch {CANARIES}-8'
ANSI = "\x1b[31m\x1b]0;pwned\x07[bold red]loud[/bold red][/]"


@pytest.fixture
def restored(fleet, lab):
    """The deployed fleet; the bad host is put back afterwards."""
    yield fleet
    lab.restore(BAD, "deployed")
    settle(fleet)
    done = fleet.provision("undrain", BAD)  # the balancer was not restored, and still has the drain
    assert done.code == 0, done


def canaries(lab) -> list[str]:
    words = [
        "find",
        "/",
        "/var/lib/docker",
        "-xdev",
        "-path",
        "/srv",
        "-prune",
        "-o",
        "-name",
        "provision-canary*",
        "-print",
    ]
    found = lab.host(BAD).run(words).stdout.split()
    return [*found, *map(str, Path("/tmp").glob("provision-canary*"))]


def test_hostile_settings_arrive_as_they_are_and_nothing_of_them_runs(restored, lab):
    ours = restored.hosts("gpu")[BAD]
    one = ours["ollama"]["instances"][0]
    one["environment"] = {"OLLAMA_REMOTES": HOSTILE, "OLLAMA_LLM_LIBRARY": "--privileged"}
    one |= {"origins": [HOSTILE.replace(",", "")], "no_proxy": HOSTILE, "https_proxy": PROXY, "storage": FOLDER}
    ours["docker"] = {"daemon": {"labels": [LABEL]}}
    words = ["--limit", BAD, "--tags", "docker,ollama"]
    # In its new folder the instance has no model: it could not get back in, so balancers are not asked.
    assert restored.provision("drain", BAD).code == 0
    done = restored.provision("deploy", "--yes", "--json", *words)
    assert done.code == 0, done
    inspected = json.loads(lab.host(BAD).run(["docker", "inspect", "ollama1"]).stdout)[0]
    environment = dict(word.split("=", 1) for word in inspected["Config"]["Env"])
    assert environment["OLLAMA_REMOTES"] == HOSTILE
    assert environment["OLLAMA_LLM_LIBRARY"] == "--privileged"
    assert environment["OLLAMA_ORIGINS"] == HOSTILE.replace(",", "")
    assert (environment["NO_PROXY"], environment["HTTPS_PROXY"]) == (HOSTILE, PROXY)
    assert inspected["HostConfig"]["Privileged"] is False
    assert [mount["Source"] for mount in inspected["Mounts"]] == [FOLDER]
    assert json.loads(lab.host(BAD).run(["cat", "/etc/docker/daemon.json"]).stdout)["labels"] == [LABEL]
    assert restored.changes(*words) == {BAD: []}
    checked = restored.provision("verify", "--json", "--limit", BAD, "--tags", "docker,ollama")
    assert checked.code == 0, [c for c in checked.host(BAD)["checks"] if not c["passed"]]
    assert canaries(lab) == []


def answers(program: str, text: str) -> str:
    """A script that puts a lying program where our scripts look first."""
    return f"cat >/usr/local/sbin/{program} <<'END'\n#!/bin/sh\n{text}\nEND\nchmod 755 /usr/local/sbin/{program}"


SHOUT = "printf '%s\\n' " + f"'{ANSI}'"
NAME = ANSI.replace("/", "")
FLOOD = f"yes '{ANSI}' | head -c 45000000"
LIES = {
    "cards that shout": answers("nvidia-smi", f"{SHOUT} >&2; {SHOUT}; exit 9"),
    "cards without end": answers("nvidia-smi", FLOOD),
    "cards with hostile names": answers(
        "nvidia-smi",
        f"echo '0, GPU-$(id), x, 590.1, 99999'; echo '0, GPU-1, {ANSI}, 590.1, [GPU requires reset {ANSI}]'",
    ),
    "cards with hostile numbers": answers(
        "nvidia-smi", f"echo '{'9' * 5000}, GPU-1, x, y.z, 1'; echo '0, GPU-1, x, y.z, {'9' * 400}'"
    ),
    "Docker that shouts": answers("docker", f"{SHOUT}; {SHOUT} >&2; exit 1"),
    "Docker that babbles": answers("docker", f"{SHOUT}; echo '# containers'; echo '{{\"name\": 5}}'; echo '# end'"),
    "Docker without end": answers("docker", FLOOD),
    "packages that shout": answers("dpkg-query", f"{SHOUT} >&2; exit 2"),
    "an os-release that shouts": f"rm /etc/os-release; printf '%s\\n' 'ID={ANSI}' 'VERSION_ID={ANSI}' >/etc/os-release",
    "an os-release without end": f"rm /etc/os-release; {FLOOD} >/etc/os-release",
    "sockets that shout": answers("ss", f"{SHOUT}; exit 0"),
    "file names that shout": "cd /etc/provision/ollama;"
    f" touch -- \"$(printf '{NAME}\\n$(touch x)')\" \"$(printf -- '-rf {NAME}')\"",
}


OFTEN = ("Docker that babbles", "cards that shout", "file names that shout")  # in every run


@pytest.mark.parametrize(
    "lie",
    [pytest.param(lie, id=name, marks=[] if name in OFTEN else [pytest.mark.matrix]) for name, lie in LIES.items()],
)
def test_a_host_that_lies_is_refused_on_one_clean_screen(fleet, lab, lie):
    host = lab.host(BAD)
    host.run(["sh", "-euc", "cp -P /etc/os-release /root/os-release.kept"])
    host.run(["sh", "-euc", lie])
    try:
        words = ["--limit", f"{GOOD},{BAD}", "--tags", "docker,ollama"]
        plan = fleet.provision("plan", *words)
        document = fleet.provision("plan", "--json", *words)
        checked = fleet.provision("verify", *words)
    finally:
        text = "find /usr/local/sbin -type f ! -name 'lab-*' -delete;"  # the lab's own scripts are needed at boot
        text += " cp -P /root/os-release.kept /etc/os-release; rm /root/os-release.kept;"
        text += " find /etc/provision -name '*bold*' -delete"
        host.run(["sh", "-c", text])
    assert plan.code in (0, 3), plan
    assert checked.code in (0, 3, 5), checked
    for done, most in ((plan, 100), (checked, 400)):
        clean(done, most)
    assert len(document.out) < 200_000
    assert document.host(GOOD)["result"] in ("ok", "change"), document
    assert canaries(lab) == []


def clean(done: Done, most: int) -> None:
    """Bounded, without traceback, without a character that a terminal obeys; markup is text."""
    text = done.out + done.err
    assert "Traceback" not in text, done
    assert "bug of provision" not in text, done
    assert len(text.splitlines()) < most, done
    assert len(text) < 60_000
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", text), done


def test_hostile_answers_leave_nothing_behind(fleet):
    assert fleet.changes("--limit", BAD, "--tags", "docker,ollama") == {BAD: []}
