"""What bad input gets (issue 2, section 6): one clear screen, nothing half-done, the other hosts finish, and a second
deploy converges once it is mended. Everything on real hosts, through the command line."""

import re
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from .conftest import Done

pytestmark = pytest.mark.lab
GOOD, BAD, BALANCER = "gpu-01", "gpu-02", "lb-01"
SPOILT = "/opt/provision/lib/docker-notes"  # drift on the good host, of the role docker: it must be mended all the same
DAEMON = "/etc/docker/daemon.json"
# What a deploy may leave on a host where it failed: its locks' guard, and what only says what was found and begun.
LEFT_ANYWAY = ("/run/provision/lock.guard", "/var/lib/provision/journal/", "/var/lib/provision/store/")
TEMPORARY = re.compile(r"/\.provision\.|provision-new|\.new$|/\.new\b")
LISTED = "/etc /opt/provision /var/lib/provision /run/provision /var/tmp /tmp"
NOBODYS_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIKtjrqNhLYHLlYYBCVdbeXkLzQpfYzUwZQtqgYFx2uYV"


class Day:
    """The deployed fleet and the host that has a bad day."""

    def __init__(self, fleet, lab, folder):
        self.fleet = fleet
        self.lab = lab
        self.folder = folder

    def sh(self, text: str, *args: str, host: str = BAD) -> str:
        """Run a script as root, from the machine's side."""
        return self.lab.host(host).run(["sh", "-eu", "-c", text, "sh", *args], timeout=60).stdout

    def write(self, path: str, text: str, host: str = BAD) -> None:
        self.lab.host(host).write(path, text)

    def set(self, role: str, host: str = BAD, **settings) -> None:
        """Settings of one host, beside those it has."""
        self.vars(host).setdefault(role, {}).update(settings)

    def vars(self, host: str = BAD) -> dict:
        return self.fleet.hosts("balancer" if host == BALANCER else "gpu")[host]

    def instance(self, number: int = 0) -> dict:
        return self.vars()["ollama"]["instances"][number]

    def fault(self, name: str, state: str = "on", target: str = BAD, value: str = "") -> None:
        from provision.lab import faults

        faults.switch(self.lab, target, name, on=state == "on", value=value)

    def full(self, path: str) -> None:
        """What is at this path stays there, on a file system of its own that has not a byte left."""
        self.sh(
            'mkdir -p /mnt "$1"; mount -t tmpfs -o mode=$(stat -c %a "$1") tmpfs /mnt; cp -a "$1/." /mnt;'
            ' used=$(df -k --output=used /mnt | tail -n 1); [ "$used" -gt 0 ] || { echo >/mnt/.one-page; used=4; };'
            ' mount -o remount,size=$((used))k /mnt; mount --bind /mnt "$1"; umount /mnt;'
            ' if echo x 2>/dev/null >"$1/x"; then exit 1; fi; rm "$1/x"',
            path,
        )

    def roomy(self, path: str) -> None:
        """Undo `full`, and what was written meanwhile."""
        self.sh('umount "$1"', path)

    def traces(self, host: str) -> dict[str, str]:
        """Every file that a deploy may write, with its hash, and the containers with the time they were started."""
        if not self.lab.host(host).running:
            return {}
        text = f"find {LISTED} -type f -exec sha256sum {{}} + 2>/dev/null || :"
        files = {line[66:]: line[:64] for line in self.sh(text, host=host).splitlines()}
        shown = "{{.Name}} {{.Id}} {{.State.StartedAt}} {{.State.Status}}"
        text = 'ids=$(docker ps -aq) || exit 0; [ -z "$ids" ] || docker inspect --format "$1" $ids'
        containers = {}
        if host != BALANCER:
            containers = dict.fromkeys(self.sh(text, shown, host=host).splitlines(), "container")
        return files | containers


@pytest.fixture
def day(fleet, lab, tmp_path):
    return Day(fleet, lab, tmp_path)


@dataclass(frozen=True)
class Case:
    """A bad day.

    Args:
        bad: makes it.
        says: what the screen must say, as patterns.
        mend: ends it.
        step: where it fails; empty before any step.
        tags: roles of the deploys.
        host: whose bad day it is.
        code: the exit code.
        result: of that host.
        stderr: whether there is evidence: the words of what failed.
        changes: patterns of the steps that may be done before the failing one.
        leaves: paths that may differ afterwards: what those steps wrote.
        again: whether the failure is seen a second time, as JSON; not where it takes long.
    """

    bad: Callable[[Day], object]
    says: tuple[str, ...]
    mend: Callable[[Day], object] = lambda day: None
    step: str = ""
    tags: str = "docker"
    host: str = BAD
    code: int = 3
    result: str = "failed"
    stderr: bool = False
    changes: tuple[str, ...] = ()
    leaves: tuple[str, ...] = ()
    again: bool = True


def both(*actions: Callable[[Day], object]) -> Callable[[Day], object]:
    return lambda day: [action(day) for action in actions]


# ---- bad days ---------------------------------------------------------------------------------------------------


def power_on(day: Day) -> None:
    day.fault("power-off", "off")
    day.sh("until systemctl -q is-active docker provision-instances; do sleep 0.5; done")


def fake_release(text: str) -> Callable[[Day], object]:
    return both(
        lambda day: day.sh("rm /etc/os-release"),
        lambda day: day.write("/etc/os-release", text),
    )


def true_release(day: Day) -> None:
    day.sh("ln -sf ../usr/lib/os-release /etc/os-release")


def known_hosts(text: str) -> Callable[[Day], object]:
    """Give the host a known_hosts of its own."""

    def write(day: Day) -> None:
        path = day.folder / "known_hosts"
        path.write_text(text.format(address=day.fleet.address(BAD)))
        day.vars()["ansible_ssh_common_args"] = f"-o UserKnownHostsFile={path}"

    return write


def sudo_asks(password: str | None) -> Callable[[Day], object]:
    """Connect as a user whom sudo asks for a password, with this one or none."""

    def change(day: Day) -> None:
        day.sh(
            "id asked >/dev/null 2>&1 || useradd -m -s /bin/bash asked; echo asked:right | chpasswd;"
            " cp -r /home/ops/.ssh /home/asked/; chown -R asked:asked /home/asked/.ssh;"
            " echo 'asked ALL=(ALL) ALL' >/etc/sudoers.d/asked; chmod 0440 /etc/sudoers.d/asked"
        )
        day.vars()["ansible_user"] = "asked"
        if password is not None:
            day.vars()["ansible_become_password"] = password

    return change


def sudo_as_before(day: Day) -> None:
    for name in ("ansible_user", "ansible_become_password"):
        day.vars().pop(name, None)
    day.sh("rm -f /etc/sudoers.d/asked; userdel -rf asked 2>/dev/null || :")


def forget(role: str, *names: str, host: str = BAD) -> Callable[[Day], object]:
    """Take settings of one host out of the inventory again."""
    return lambda day: [day.vars(host)[role].pop(name) for name in names]


def hold(day: Day, seconds: float) -> None:
    """Another process has apt's lock, as a person's apt-get would; a package is missing meanwhile."""
    day.sh("dpkg --force-depends -r libnvidia-container-tools >/dev/null 2>&1")
    day.write(
        "/root/holder.py",
        "import fcntl, time\n"
        "files = [open(name, 'w') for name in ('/var/lib/dpkg/lock-frontend', '/var/lib/dpkg/lock')]\n"
        "[fcntl.lockf(file, fcntl.LOCK_EX) for file in files]\n"
        f"time.sleep({seconds})\n",
    )
    day.sh("systemd-run --quiet --collect --unit=holder python3 /root/holder.py; sleep 0.5")


def let_go(day: Day) -> None:
    day.sh("systemctl stop holder 2>/dev/null || :; rm -f /root/holder.py")


def foreign_container(*words: str) -> Callable[[Day], object]:
    """Somebody else's container, made by hand from the image that is there; ours of that card or port stands still."""

    def make(day: Day) -> None:
        day.sh(
            'docker rm -f ollama1 >/dev/null; docker run -d --name "$@" --entrypoint sleep ollama/ollama:0.34.4 600'
            " >/dev/null",
            *words,
        )

    return make


def without(name: str) -> Callable[[Day], object]:
    return lambda day: day.sh('docker rm -f "$1" >/dev/null', name)


def listener(address: str, port: int) -> str:
    """A script that starts a foreign program which listens."""
    program = f"import socket, time; s = socket.create_server(('{address}', {port})); time.sleep(600)"
    return (
        "systemctl reset-failed squatter 2>/dev/null || :; systemd-run --quiet --collect --unit=squatter python3 -c"
        f' "{program}"; for _ in $(seq 50); do ss -Hltn | grep -q ":{port} .*" && break; sleep 0.1; done'
    )


def port_taken(day: Day) -> None:
    day.sh("docker stop ollama1 >/dev/null")
    day.sh(listener("", 3001))


def balancer_port_taken(day: Day) -> None:
    day.sh("systemctl stop provision-nginx", host=BALANCER)
    day.sh(listener("", 3008), host=BALANCER)


def no_squatter(host: str) -> Callable[[Day], object]:
    return lambda day: day.sh("systemctl stop squatter", host=host)


CARDS = "provision does not install it"
UNREACHABLE = {"code": 4, "result": "unreachable"}
GUARD = {"step": "require:cards"}

CASES = {
    "powered off": Case(
        lambda day: day.fault("power-off"),
        (r"no SSH connection|does not answer", "ssh -v|route"),
        power_on,
        **UNREACHABLE,
    ),
    "cut off": Case(
        both(lambda day: day.lab.cut(BAD), lambda day: day.vars().update(ansible_timeout=3)),
        ("does not answer within 3 s", "firewall"),
        lambda day: day.lab.uncut(BAD),
        **UNREACHABLE,
    ),
    "unknown host key": Case(
        known_hosts(""),
        ("host key of .* is not known", "SHA256:", "provision trust"),
        lambda day: day.vars().pop("ansible_ssh_common_args"),
        **UNREACHABLE,
    ),
    "changed host key": Case(
        known_hosts(f"{{address}} {NOBODYS_KEY}\n"),
        ("host key of .* has CHANGED", "SHA256:", "provision trust --replace"),
        lambda day: day.vars().pop("ansible_ssh_common_args"),
        **UNREACHABLE,
    ),
    "refused key": Case(
        lambda day: day.vars().update(ansible_user="nobody-of-this-name"),
        ("nobody-of-this-name@.* refused to log us in", "authorized_keys"),
        lambda day: day.vars().pop("ansible_user"),
        **UNREACHABLE,
    ),
    "wrong sudo password": Case(sudo_asks("wrong"), ("sudo password is wrong", "-K"), sudo_as_before),
    "no sudo password": Case(sudo_asks(None), ("sudo asks for a password", "-K"), sudo_as_before),
    "another distribution": Case(
        fake_release('ID=fedora\nVERSION_ID="43"\nPRETTY_NAME="Fedora Linux 43"\n'),
        ("this host is fedora 43", "Debian 12 and 13, Ubuntu 22.04 and 24.04", "nothing was changed"),
        true_release,
        step="require:host",
    ),
    "no os-release": Case(
        lambda day: day.sh("rm /etc/os-release"), ("this host is unknown",), true_release, step="require:host"
    ),
    "driver missing": Case(
        lambda day: day.sh("mv /usr/bin/nvidia-smi /usr/bin/nvidia-smi.away"),
        ("nvidia-smi is not installed", CARDS),
        lambda day: day.sh("mv /usr/bin/nvidia-smi.away /usr/bin/nvidia-smi"),
        **GUARD,
    ),
    "driver broken": Case(
        lambda day: day.fault("driver-broken"),
        ("the NVIDIA driver is not loaded: NVIDIA-SMI has failed", CARDS),
        lambda day: day.fault("driver-broken", "off"),
        **GUARD,
    ),
    "driver too old": Case(
        lambda day: day.fault("driver-old"),
        ("the driver is 535.309.01", "needs 550", "silently run on the CPU"),
        lambda day: day.fault("driver-old", "off"),
        **GUARD,
    ),
    "driver hangs": Case(
        lambda day: day.fault("nvidia-smi-hang"),
        ("nvidia-smi does not answer", CARDS),
        lambda day: day.fault("nvidia-smi-hang", "off"),
        again=False,
        **GUARD,
    ),
    "a card is gone": Case(
        lambda day: day.fault("card-missing"),
        ("ollama2 names GPU 1, and this host has GPU 0",),
        lambda day: day.fault("card-missing", "off"),
        **GUARD,
    ),
    "a card that never was": Case(
        lambda day: day.instance(1).update(gpus=[7]),
        ("ollama2 names GPU 7, and this host has GPU 0 .*, GPU 1",),
        lambda day: day.instance(1).update(gpus=[1]),
        **GUARD,
    ),
    "a key that does not match": Case(
        lambda day: day.set("docker", key_fingerprint="A" * 40),
        ("413A4A9A|fingerprint", "A" * 40),
        forget("docker", "key_fingerprint"),
        step="apt_key:/etc/apt/keyrings/provision-docker.asc",
        stderr=True,
    ),
    "apt is locked": Case(
        both(lambda day: day.set("docker", lock_timeout="3s"), lambda day: hold(day, 600)),
        (r"apt is locked by process \d+ \(.*python3 /root/holder.py", r"gave up after \d+ s"),
        let_go,
        step="packages:nvidia_toolkit",
        tags="nvidia_toolkit",
        stderr=True,
        again=False,
    ),
    "no room for packages": Case(
        both(
            lambda day: day.sh("apt-get clean; dpkg --force-depends -r libnvidia-container-tools >/dev/null 2>&1"),
            lambda day: day.full("/var/cache/apt/archives"),
        ),
        ("space|full disk", "full disk: /var/cache/apt/archives has 0 MB left"),
        lambda day: day.roomy("/var/cache/apt/archives"),
        step="packages:nvidia_toolkit",
        tags="nvidia_toolkit",
        stderr=True,
        again=False,
    ),
    "no room for our state": Case(
        both(lambda day: day.set("docker", log_max_file=4), lambda day: day.full("/var/lib/provision")),
        ("No space left on device",),
        both(lambda day: day.roomy("/var/lib/provision"), forget("docker", "log_max_file")),
        step="docker_config:daemon.json",
        stderr=True,
    ),
    "no room beside daemon.json": Case(
        both(lambda day: day.set("docker", log_max_file=4), lambda day: day.full("/etc/docker")),
        ("No space left on device",),
        both(lambda day: day.roomy("/etc/docker"), forget("docker", "log_max_file")),
        step="docker_config:daemon.json",
        stderr=True,
        leaves=("/var/lib/provision/store/",),
    ),
    "no room for our configuration": Case(
        both(
            lambda day: day.set("ollama", https_proxy="http://proxy.test:3128"),
            lambda day: day.full("/etc/provision/ollama"),
        ),
        ("No space left on device",),
        both(lambda day: day.roomy("/etc/provision/ollama"), forget("ollama", "https_proxy")),
        step="file:/etc/provision/ollama/ollama1.env",
        tags="ollama,models",
        stderr=True,
    ),
    "no room for the lock": Case(
        both(lambda day: day.set("docker", log_max_file=4), lambda day: day.full("/run/provision")),
        ("the lock could not be taken", "/run/provision: .*(I/O error|No space left)", "is there room in /run"),
        both(lambda day: day.roomy("/run/provision"), forget("docker", "log_max_file")),
        stderr=True,
    ),
    "no room for an image": Case(
        both(
            lambda day: day.sh("docker image rm -f ollama/ollama:0.33.0 >/dev/null 2>&1 || :"),
            lambda day: day.set("ollama", image="ollama/ollama:0.33.0"),
            lambda day: day.full("/var/lib/docker/tmp"),
        ),
        ("no space left on device",),
        both(lambda day: day.roomy("/var/lib/docker/tmp"), forget("ollama", "image")),
        step="image:ollama/ollama:0.33.0",
        tags="ollama,models",
        stderr=True,
        again=False,
    ),
    "an image tag that does not exist": Case(
        lambda day: day.set("ollama", image="ollama/ollama:9.99.9"),
        ("a mirror said: manifest unknown",),
        forget("ollama", "image"),
        step="image:ollama/ollama:9.99.9",
        tags="ollama,models",
        stderr=True,
    ),
    "a model that does not exist": Case(
        lambda day: day.instance().update(models=["deepseek-r1:1.5b", "no-such-model:1b"]),
        ("ollama1 could not pull no-such-model:1b: pull model manifest: file does not exist",),
        lambda day: day.instance().pop("models"),
        step="model:ollama1/no-such-model:1b",
        tags="models",
        stderr=True,
    ),
    "a pull that fails after status 200": Case(
        both(
            lambda day: day.instance().update(models=["deepseek-r1:1.5b", "nomic-embed-text:latest"]),
            lambda day: day.fault("pull-fails", target=f"{BAD}/ollama1", value="write: no space left on device"),
        ),
        ("ollama1 could not pull nomic-embed-text:latest: .*no space left on device",),
        both(
            lambda day: day.fault("pull-fails", "off", target=f"{BAD}/ollama1"),
            lambda day: day.instance().pop("models"),
        ),
        step="model:ollama1/nomic-embed-text:latest",
        tags="models",
        stderr=True,
    ),
    "a tarball that is another file": Case(
        lambda day: day.set("nginx", BALANCER, sha256="f" * 64),
        ("has sha256 69ee2b23", "f{64} is expected", "tampered"),
        forget("nginx", "sha256", host=BALANCER),
        step="build:nginx",
        tags="nginx",
        host=BALANCER,
        stderr=True,
        leaves=("/var/lib/provision/artifacts",),
    ),
    "a compile that fails": Case(
        lambda day: day.set("nginx", BALANCER, configure_args=["--with-http_no_such_module"]),
        ('invalid option "--with-http_no_such_module"',),
        forget("nginx", "configure_args", host=BALANCER),
        step="build:nginx",
        tags="nginx",
        host=BALANCER,
        stderr=True,
    ),
    "a foreign container of our name": Case(
        foreign_container("ollama1"),
        ("a container named ollama1 is there that is not ours", "rename or remove it"),
        without("ollama1"),
        step="container:ollama1",
        tags="ollama,models",
    ),
    "a foreign container on our card and port": Case(
        foreign_container("somebodys", "--gpus", "device=0", "-p", "3001:80"),
        (
            "card 0 of ollama1 is held by the container somebodys, which is not ours",
            "port 3001 of ollama1 is published by the container somebodys",
        ),
        without("somebodys"),
        step="guard:instances",
        tags="ollama,models",
    ),
    "a foreign process on our port": Case(
        port_taken,
        ("port 3001 of ollama1 is taken by python3 on 0.0.0.0",),
        no_squatter(BAD),
        step="guard:instances",
        tags="ollama,models",
    ),
    "the balancer's port is taken": Case(
        balancer_port_taken,
        (r"0\.0\.0\.0:3008 by python3 \(pid \d+, /usr/bin/python3", "not ours"),
        no_squatter(BALANCER),
        step="listen:nginx",
        tags="balancer",
        host=BALANCER,
    ),
    "daemon.json is no JSON": Case(
        both(lambda day: day.sh(f"cp {DAEMON} /root/daemon.json"), lambda day: day.write(DAEMON, '{"debug": tru')),
        (f"{DAEMON} is not what Docker can read", "line 1|Expecting"),
        lambda day: day.sh(f"cp /root/daemon.json {DAEMON}; rm /root/daemon.json"),
        step="docker_config:daemon.json",
    ),
    "a daemon.json that Docker refuses": Case(
        lambda day: day.set("docker", daemon={"no-such-directive": True}),
        ("no-such-directive",),
        forget("docker", "daemon"),
        step="docker_config:daemon.json",
        stderr=True,
        leaves=("/var/lib/provision/store/",),
    ),
    "a daemon.json with which Docker does not start": Case(
        lambda day: day.set("docker", daemon={"storage-driver": "no-such-driver"}),
        ("no-such-driver", "was put back"),
        forget("docker", "daemon"),
        step="service:docker",
        stderr=True,
        changes=("docker_config:daemon.json",),
        leaves=("/var/lib/provision/", "/run/provision/docker/", "/tmp/tmp."),  # the boot unit may be at work
        again=False,
        tags="ollama,models",  # the containers serve on, and Docker has lost their roots: they are made anew
    ),
    "somebody else deploys": Case(
        both(
            lambda day: day.set("docker", log_max_file=4),
            lambda day: day.write("/run/provision/lock", "20260101T000000Z-beef 99999999 1 alice@desk\n\n"),
        ),
        ("locked by alice@desk, run 20260101T000000Z-beef", "expires by itself"),
        both(lambda day: day.sh("rm -f /run/provision/lock"), forget("docker", "log_max_file")),
        code=6,
        result="locked",
        leaves=("/run/provision/lock",),
    ),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_a_bad_day(day, case):
    other = GOOD if case.host != GOOD else BAD
    words = ["--yes", "--tags", f"{case.tags},docker", "--limit", f"{other},{case.host}"]
    day.sh(f"echo '# by hand' >>{SPOILT}", host=other)
    case.bad(day)
    before = day.traces(case.host)
    if case.again:
        screen(day.fleet.provision("deploy", *words), case)
        document(day.fleet.provision("deploy", "--json", *words), case, {other: "ok"})
    else:
        document(day.fleet.provision("deploy", "--json", *words), case, {other: "changed"})
    nothing_half_done(day, case, before)
    assert "by hand" not in day.sh(f"cat {SPOILT}", host=other), "the other host did not finish"
    case.mend(day)
    done = day.fleet.provision("deploy", "--json", *words)
    assert done.code == 0, done


def screen(done: Done, case: Case) -> None:
    """One clear screen: what, where, the evidence, what to do; and the recap with every host and what to run next."""
    text = done.out + done.err
    assert done.code == case.code, done
    assert "Traceback" not in text, done
    assert len(re.findall(r"^ *error: ", text, re.MULTILINE)) == 1, done
    assert len(done.out.splitlines()) <= 40, done
    assert len(done.err.splitlines()) <= 10, done
    assert max(map(len, done.out.splitlines())) <= 1000, done
    part = done.out.split("\nHOST ")[0]
    for pattern in case.says:
        assert re.search(pattern, part), (pattern, done)
    assert f"{case.host}  {case.step}".rstrip() in part
    assert "  -> " in part, done
    assert f"deploy -i {done_inventory(done)} -l {case.host}" in done.out, done
    assert re.search(rf"^{case.host} +{case.result.upper()}", done.out, re.MULTILINE), done


def done_inventory(done: Done) -> str:
    return re.search(r"deploy -i (\S+)", done.out)[1]


def document(done: Done, case: Case, others: dict[str, str]) -> None:
    """The JSON document names the failure, and what the others came to."""
    assert done.code == case.code, done
    assert "Traceback" not in done.err, done
    host = done.host(case.host)
    assert host["result"] == case.result, done
    assert [step for step in host["changed"] if not any(re.match(p, step) for p in case.changes)] == [], done
    failed = host["failed"]
    assert failed["step"] == case.step, done
    assert bool(failed["stderr"]) >= case.stderr, done
    if case.step and case.stderr:
        assert failed["command"], done
        assert failed["exit"], done
    said = f"{host['why']}\n{failed['stderr']}"
    if not case.again:
        for pattern in case.says:
            assert re.search(pattern, said), (pattern, done)
    for name, result in others.items():
        assert done.host(name)["result"] == result, done
    assert done.doc["exit"] == case.code
    assert done.doc["summary"][case.result] == 1


def nothing_half_done(day: Day, case: Case, before: dict[str, str]) -> None:
    """No temporary files, no lock, no file or container otherwise than before, but for what is said to be left."""
    if case.host == BAD and case.result == "unreachable":
        return
    after = day.traces(case.host)
    differing = sorted(key for key, _ in before.items() ^ after.items())
    allowed = (*LEFT_ANYWAY, *case.leaves)
    assert [path for path in dict.fromkeys(differing) if not path.startswith(allowed)] == []
    assert [path for path in after if TEMPORARY.search(path)] == []
    if case.result != "locked":
        assert "/run/provision/lock" not in after


def test_apt_that_is_released_in_time_is_waited_for_and_that_is_said(day):
    hold(day, 6)
    done = day.fleet.provision("deploy", "--yes", "--tags", "nvidia_toolkit", "--limit", BAD)
    let_go(day)
    assert done.code == 0, done
    assert len(re.findall(r"waiting: apt is locked by process \d+ \(.*python3 /root/holder.py", done.err)) == 1
    assert "packages:nvidia_toolkit" in done.err
