"""`make demo` on cgroup v2: a fresh clone in a virtual machine with Debian 12 (the carrier), Debian's own kernel for
clouds and a unified hierarchy. SIMULATED, as in every lab: the cards, NVIDIA's toolkit, the model server. Carried from
the machine, so that the carrier downloads little: the packages of requirements.lock, the lab's base tree, its package
repositories, images and models, the packages that labs fetched before, and nginx, which a container of the machine
compiles. From the package mirror come git, make and the lab's programs."""

import re

from tests.vm import builds
from tests.vm.carrier import HOSTS, OFFLINE, Carrier
from tests.vm.case import Case, Judged
from tests.vm.guest import Said

_INVENTORY = "/var/lib/provision-lab/lab/inventory.yaml"
_PROVISION = "cd /root/provision && .venv/bin/provision"
_APT = "export DEBIAN_FRONTEND=noninteractive; apt-get update -q; apt-get install -qy --no-install-recommends"
_CGROUPS = (
    "cat /sys/fs/cgroup/cgroup.subtree_control; find /sys/fs/cgroup -maxdepth 1 -type d -name 'provision-lab*' | sort"
)


def cases(carrier: Carrier, judge: Judged) -> list[Case]:
    """Return the cases of the part.

    Args:
        carrier: the machine of the cases.
        judge: gets the version of the kernel.
    """
    demo = Demo(carrier, judge)
    return [
        Case("the carrier boots with Debian's kernel and a unified cgroup hierarchy", demo.boots),
        Case("a fresh clone installs what it needs", demo.installs),
        Case("make demo ends with exit code 0", demo.demonstrates),
        Case("Docker on the hosts runs on cgroup v2", demo.docker, alone=True),
        Case("a plan finds nothing to change", demo.plans, alone=True),
        Case("verify passes", demo.verifies, alone=True),
        Case("lab down leaves no cgroup and no controller behind", demo.goes_down, alone=True),
    ]


def booted(carrier: Carrier, judge: Judged) -> str:
    """Boot the carrier, note its kernel, and return release, kernel and kind of hierarchy.

    Raises:
        AssertionError: the hierarchy is not unified, or the kernel is not Debian's.
    """
    text = '. /etc/os-release; uname -r; echo "$PRETTY_NAME"; stat -f -c %T /sys/fs/cgroup; systemctl --version'
    kernel, name, kind, systemd = carrier.login.sh(text).text.splitlines()[:4]
    judge.version = kernel
    assert kind == "cgroup2fs", f"/sys/fs/cgroup is {kind}"
    assert re.fullmatch(r"\d.*-cloud-\w+", kernel), f"the kernel is {kernel}"
    return f"{name}, {kernel}, {kind}, {' '.join(systemd.split()[:2])}"


class Demo:
    """The cases of the part, in order.

    Args:
        carrier: the machine of the cases.
        judge: gets the version of the kernel.
    """

    def __init__(self, carrier: Carrier, judge: Judged) -> None:
        self._carrier = carrier
        self._judge = judge
        self._before = ""

    def boots(self) -> str:
        """The carrier boots."""
        return booted(self._carrier, self._judge)

    def installs(self) -> str:
        """Packages, clone, virtual environment."""
        return installed(self._carrier)

    def demonstrates(self) -> str:
        """`make demo` from the clone."""
        self._before = self._sh(_CGROUPS).text
        said = self._sh(f"{OFFLINE}; cd /root/provision && make demo", 900)
        answer = next(line for _, line in said.lines if line.startswith("Answered by"))
        return f"make demo: {said.seconds:.0f} s ({phases(said)}). {answer}"

    def docker(self) -> str:
        """Each gpu host's Docker names version 2 of cgroups."""
        asked = "sudo docker info --format '{{.ServerVersion}}, cgroup v{{.CgroupVersion}}, driver {{.CgroupDriver}}'"
        said = self._sh(f'{_PROVISION} lab ssh gpu-01 "{asked}"').text.splitlines()[-1]
        assert "cgroup v2" in said, said
        return f"gpu-01: Docker {said}"

    def plans(self) -> str:
        """A second plan."""
        return _last(self._sh(f"{_PROVISION} plan --exit-code --inventory {_INVENTORY}", 120))

    def verifies(self) -> str:
        """A second verify."""
        return _last(self._sh(f"{_PROVISION} verify --inventory {_INVENTORY}", 120))

    def goes_down(self) -> str:
        """The hierarchy is as before the demo."""
        self._sh(f"{_PROVISION} lab down", 60)
        after = self._sh(_CGROUPS).text
        assert after == self._before, f"before: {self._before or 'nothing'}; after: {after or 'nothing'}"
        return f"cgroup.subtree_control before and after: {after.strip() or 'empty'}"

    def _sh(self, text: str, seconds: float = 60) -> Said:
        return self._carrier.login.sh(text, seconds)


def installed(carrier: Carrier) -> str:
    """Install git and make, clone the project, take nginx along, install packages; return how long the steps took."""
    took = {"apt-get": carrier.login.sh(f"{_APT} git make", 120).seconds}
    commit = carrier.clone()
    carrier.login.sh("mkdir -p /root/.cache; tar -C /root/.cache -x", 60, given=builds.packed(HOSTS, carrier.say))
    took["make needs and the virtual environment"] = carrier.login.sh(
        f"{OFFLINE}; export DEBIAN_FRONTEND=noninteractive; cd /root/provision && make .venv/installed", 240
    ).seconds
    return f"commit {commit}; " + ", ".join(f"{name} {seconds:.0f} s" for name, seconds in took.items())


def phases(said: Said) -> str:
    """Return how long each command of `make demo` took: a line with a prompt begins the next command."""
    marks = [("lab up", 0.0)]
    marks += [(line.split()[2], seconds) for seconds, line in said.lines if line.startswith("$ provision ")]
    ends = [seconds for _, seconds in marks[1:]] + [said.since("$ curl ")]
    return ", ".join(f"{name} {end - begun:.0f} s" for (name, begun), end in zip(marks, ends, strict=True))


def _last(said: Said) -> str:
    return next(line for _, line in reversed(said.lines) if line.strip())
