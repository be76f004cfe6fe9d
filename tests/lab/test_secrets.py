"""Secrets on a real host: canaries that must be in no process list, journal, label, plan, document or line of progress,
in no file that others may read, and on the controller only where the operator put them."""

import base64
import contextlib
import json
import stat
import threading
import time
from pathlib import Path
from typing import Self

import pytest
import yaml

from provision.steps.docker import image_room

from .conftest import Done, settle

pytestmark = pytest.mark.lab
HOST = "gpu-02"
CANARY = "zq9canary"
SUDO, WRONG = f"{CANARY}-sudo 'right' $(id)", f"{CANARY}-sudo-wrong"
PROXY = f"http://user:{CANARY}-proxy@proxy.test:3128"
MIRROR = f"https://bot:{CANARY}-mirror@mirror.test/docker-ce"
REGISTRY, TOKEN = "registry.test:5000", f"{CANARY}-registry"
AUTH = base64.b64encode(f"bot:{TOKEN}".encode()).decode()
LOGINS = ("/etc/apt/auth.conf.d/provision-mirrors.conf", "/etc/provision/mirrors.netrc")
# A container's settings: Docker makes the files, and only root may read them.
DOCKERS_OWN = ("/var/lib/docker/containers/", "/var/lib/containerd/", "/run/containerd/")
STORE = "/var/lib/provision/store/"
YOUNG = 2.0  # seconds
PLACES = ["/etc", "/opt", "/var", "/root", "/home", "/run", "/tmp", "/usr/local"]


class Env(str):
    """A value written as `!env NAME`."""


class File(str):
    """A value written as `!file PATH`."""


yaml.add_representer(Env, lambda d, v: d.represent_scalar("!env", str(v)), Dumper=yaml.SafeDumper)
yaml.add_representer(File, lambda d, v: d.represent_scalar("!file", str(v)), Dumper=yaml.SafeDumper)


class Watch(threading.Thread):
    """Reads the words of every process of this machine, the lab's hosts included, again and again.

    An old process seldom gets other words: only every fiftieth round reads old processes, so that young processes are
    read the more often.

    Args:
        texts: texts to look for. Several files of tests run on the machine at once, so each file has its own texts.
    """

    def __init__(self, *texts: str) -> None:
        super().__init__(daemon=True)
        self.hidden = [text.encode() for text in texts]
        self.found: set[str] = set()
        self.rounds = 0
        self.whole = False
        self.over = threading.Event()

    def run(self) -> None:
        born: dict[str, float] = {}
        while not self.over.wait(0.005):
            self.rounds += 1
            now = time.monotonic()
            present = [one.name for one in Path("/proc").iterdir() if one.name.isdigit()]
            born = {process: born.get(process, now) for process in present}
            for process in present:
                if now - born[process] > YOUNG and self.rounds % 50:
                    continue
                try:
                    words = Path("/proc", process, "cmdline").read_bytes()
                except OSError:
                    continue
                if any(text in words for text in self.hidden):
                    self.found.add(words.decode(errors="replace"))
        self.whole = True

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self.join()


@pytest.fixture
def asked(fleet, lab):
    """The host lets us in as a user whom sudo asks for a password; the host is restored afterwards."""
    host = lab.host(HOST)
    host.run(["useradd", "-m", "-s", "/bin/bash", "asked"])
    host.run(["chpasswd"], stdin=f"asked:{SUDO}\n")
    host.run(["sh", "-c", "cp -r /home/ops/.ssh /home/asked/; chown -R asked:asked /home/asked/.ssh"])
    host.write("/etc/sudoers.d/asked", "asked ALL=(ALL) ALL\n", 0o440)
    yield fleet
    lab.restore(HOST, "deployed")
    settle(fleet)


def test_canaries(asked, lab, tmp_path):
    secrets = tmp_path / "secrets"
    secrets.mkdir(mode=0o700)
    (secrets / "proxy").write_text(PROXY + "\n")
    ours = asked.hosts("gpu")[HOST]
    ours |= {"ansible_user": "asked", "ansible_become_password": Env("CANARY_SUDO")}
    ours["ollama"]["https_proxy"] = File(secrets / "proxy")
    for name, text in {"mirror": MIRROR, "registry": TOKEN}.items():
        (secrets / name).write_text(text + "\n")
    ours["mirrors"] = {"docker": File(secrets / "mirror")}  # the lab's docker.repository wins over the address
    ours["docker"] = {"registries": {REGISTRY: {"username": "bot", "password": File(secrets / "registry")}}}
    words = ["--limit", HOST, "--tags", "mirrors,docker,ollama"]
    said = []
    begun = time.time()
    with Watch(CANARY, AUTH) as watch:
        done = asked.provision("deploy", "--yes", *words, env={"CANARY_SUDO": WRONG})
        assert (done.code, "the sudo password is wrong" in done.out) == (3, True), done
        said.append(done)
        for verb in (
            ["plan"],
            ["plan", "--json"],
            ["deploy", "--yes", "-v"],
            ["plan"],
            ["verify", "--json"],
            ["verify"],
        ):
            done = asked.provision(*verb, *words, env={"CANARY_SUDO": SUDO})
            assert done.code == 0, done
            said.append(done)
        said.append(asked.provision("inventory", "show", env={"CANARY_SUDO": SUDO}))
        (secrets / "proxy").write_text(PROXY + "/another\n")
        said += there_and_back(asked, words)
    assert "file:/etc/provision/ollama/ollama1.env" in said[1].out + said[2].out, said[1]
    for done in said:
        assert CANARY not in done.out + done.err, done
        assert AUTH not in done.out + done.err, done
    assert watch.rounds > 50
    assert watch.whole, "the watch ended early"
    assert watch.found == set()
    on_the_host(lab.host(HOST))
    on_the_controller(asked, lab, begun, secrets)


def there_and_back(fleet, words: list[str]) -> list[Done]:
    """A changed secret is looked at and put back: the host keeps the old value."""
    limit = words[:2]
    run = fleet.provision("deploy", "--yes", "--json", *words, env={"CANARY_SUDO": SUDO})
    verbs = (
        ["history", *limit],
        ["history", "--json", *limit],
        ["show", run.doc["run"], *limit],
        ["show", run.doc["run"], "--json", *limit],
        ["rollback", "--check", *words],
        ["rollback", "--yes", "-v", *words],
    )
    said = [run, *(fleet.provision(*verb, env={"CANARY_SUDO": SUDO}) for verb in verbs)]
    assert [done.code for done in said] == [0] * len(said), said
    assert "file:/etc/provision/ollama/ollama1.env" in said[-1].err
    return said


def on_the_host(host) -> None:
    assert CANARY not in host.run(["journalctl", "--no-pager"]).stdout
    inspected = json.loads(host.run(["docker", "inspect", "ollama1", "ollama2"]).stdout)
    for container in inspected:
        assert f"HTTPS_PROXY={PROXY}" in container["Config"]["Env"], (
            "the proxy has to be there, or the test proves nothing"
        )
        assert CANARY not in json.dumps(
            [
                container["Config"]["Labels"],
                container["Path"],
                container["Args"],
                container["HostConfig"],
                container["Mounts"],
            ]
        )
    search = ["grep", "-rls", "--devices=skip", CANARY, *PLACES]
    found = host.run(search, check=False).stdout.splitlines()
    ours = {path for path in found if not path.startswith(DOCKERS_OWN)}
    assert any(path.startswith(STORE) for path in ours), "the file was restored from there"
    live = {path for path in ours if not path.startswith(STORE)}
    assert live == {*LOGINS, *(f"/etc/provision/ollama/ollama{number}.env" for number in (1, 2))}
    encoded = host.run(["grep", "-rls", "--devices=skip", AUTH, *PLACES], check=False).stdout.split()
    assert encoded == [image_room.LOGINS], "Docker's client keeps its logins in base64"
    ours.add(image_room.LOGINS)
    assert {host.run(["stat", "-c", "%a %U:%G", path]).stdout.strip() for path in ours} == {"600 root:root"}
    nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
    processes = ["sh", "-c", 'grep -ls "$1" /proc/[0-9]*/environ', "sh", CANARY]
    for words in (search, processes):
        assert host.run([*nobody, *words], check=False).stdout == "", "a user besides root can read it"


def on_the_controller(fleet, lab, begun: float, secrets: Path) -> None:
    """The files written since then, wherever we may write: no file has a canary, and only we may read our store."""
    roots = [
        lab.home / "cache",
        fleet.folder,
        Path.home() / ".cache/provision",
        Path.home() / ".config",
        Path.home() / ".local/state",
        Path.home() / ".ssh",
    ]
    for path in (path for root in roots if root.exists() for path in root.rglob("*")):
        with contextlib.suppress(FileNotFoundError):  # a run of another test renames its log meanwhile
            if path.is_file() and path.stat().st_mtime >= begun and secrets not in path.parents:
                assert CANARY.encode() not in path.read_bytes(), path
    for folder in (lab.home / "cache").glob("provision/*"):
        assert not stat.S_IMODE(folder.stat().st_mode) & 0o077, folder
