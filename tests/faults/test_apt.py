"""apt is locked; its mirror lacks files, sends wrong or half files, or does not answer."""

import re

import pytest

from tests.faults.case import Case, both, params, play
from tests.faults.common import TOOLKIT, no_package
from tests.faults.mirror import WEB, corrupt, half, missing, silent
from tests.faults.running import Running
from tests.faults.world import BAD

pytestmark = [pytest.mark.lab, pytest.mark.faults]
HOLDER = (
    "import fcntl, time\n"
    "files = [open(name, 'w') for name in ('/var/lib/dpkg/lock-frontend', '/var/lib/dpkg/lock')]\n"
    "[fcntl.lockf(file, fcntl.LOCK_EX) for file in files]\n"
    "time.sleep({})\n"
)


def hold(world):
    """Another process has apt's lock, as a person's apt-get would; meanwhile a package is missing."""
    no_package(world)
    world.write("/root/holder.py", HOLDER.format(600))
    world.sh("systemd-run --quiet --collect --unit=holder python3 /root/holder.py; sleep 0.5")


def let_go(world):
    world.sh("systemctl stop holder 2>/dev/null || :; rm -f /root/holder.py")


def impatient(world):
    world.set("docker", lock_timeout="3s")


TIRED = "/etc/apt/apt.conf.d/90lab-timeout"


def soon_tired(world):
    """apt waits 5 seconds for a silent mirror, in each of its four tries, and not 30."""
    world.sh(f"echo 'Acquire::http::Timeout \"5\";' >{TIRED}")


def tampered(pattern, how):
    """The mirror is tampered with, and apt has to fetch everything from the mirror again."""
    return both(
        no_package,
        lambda world: world.sh("rm -rf /var/lib/apt/lists/*"),
        lambda world: world.tamper(WEB, pattern, how),
    )


def site(world):
    world.true_site()


CASES = {
    "locked": Case(
        both(impatient, hold),
        (r"apt is locked by process \d+ \(.*python3 /root/holder.py", r"gave up after \d+ s"),
        both(let_go, lambda w: w.unset("docker", "lock_timeout")),
        TOOLKIT,
    ),
    "the mirror has no such package": Case(
        tampered(r"libnvidia-container-tools.*\.deb", missing), ("404", "libnvidia-container-tools"), site, TOOLKIT
    ),
    "the mirror has no such repository": Case(
        tampered(r"libnvidia-container/stable", missing), ("404",), site, TOOLKIT
    ),
    "half a package": Case(
        tampered(r"libnvidia-container-tools.*\.deb", half), ("libnvidia-container-tools",), site, TOOLKIT
    ),
    "a package with another byte": Case(
        tampered(r"libnvidia-container-tools.*\.deb", corrupt), ("libnvidia-container-tools",), site, TOOLKIT
    ),
    "an index with another byte": Case(
        tampered(r"/(In)?Release", corrupt), (r"sign|GPG|BADSIG|NOSPLIT",), site, TOOLKIT
    ),
    "the mirror does not answer": Case(
        both(soon_tired, tampered(r"libnvidia-container-tools.*\.deb", silent)),
        ("libnvidia-container-tools",),
        both(site, lambda w: w.sh(f"rm -f {TIRED}")),
        TOOLKIT,
    ),
    "the mirror is refused": Case(
        both(
            no_package,
            lambda w: w.sh("rm -rf /var/lib/apt/lists/*"),
            lambda w: w.fault("web-down", target="site"),
        ),
        ("[Cc]onnect",),
        lambda w: w.fault("web-down", "off", target="site"),
        TOOLKIT,
    ),
    "a key that does not match": Case(
        lambda w: w.set("docker", key_fingerprint="A" * 40),
        ("413A4A9A|fingerprint", "A" * 40),
        lambda w: w.unset("docker", "key_fingerprint"),
        "apt_key:/etc/apt/keyrings/provision-docker.asc",
        leaves=(),
    ),
    "a repository signed with another key": Case(
        both(
            lambda w: w.sh("rm -rf /var/lib/apt/lists/*"),
            no_package,
            lambda w: w.sh("cp /etc/apt/keyrings/provision-docker.asc /root/other.asc"),
            lambda w: w.tamper(WEB, "/(In)?Release", other_signature),
        ),
        (r"sign|NO_PUBKEY|not signed",),
        site,
        TOOLKIT,
    ),
}


def other_signature(handler, answer, body):
    """Docker's index, which Docker's key signs, in the place of NVIDIA's."""
    import http.client

    from tests.faults.mirror import _head

    connection = http.client.HTTPConnection(handler.site[0], handler.site[1], timeout=30)
    connection.request("GET", "/docker/linux/debian/dists/trixie/InRelease")
    other = connection.getresponse().read()
    _head(handler, answer, len(other))
    handler.wfile.write(other)


@pytest.mark.parametrize("case", params(CASES, "the mirror has no such package"))
def test_apt(world, seen, case):
    play(world, case, seen)


def test_apt_that_is_released_in_time_is_waited_for_and_that_is_said(world, seen):
    hold(world)
    running = Running(
        world.fleet, "deploy", "--yes", "--tags", "nvidia_toolkit", "--limit", BAD, hold_at="waiting: apt"
    )
    running.until_held()
    let_go(world)
    running.go()
    done = running.end()
    seen.first(done)
    assert done.code == 0, done
    assert len(re.findall(r"waiting: apt is locked by process \d+ \(.*python3 /root/holder.py", done.err)) == 1
    assert "packages:nvidia_toolkit" in done.err
    seen.second(world)


def test_an_installation_that_broke_off_is_finished_and_that_is_said(world, seen):
    no_package(world)
    world.sh(
        "cd /tmp; apt-get -qq download libnvidia-container-tools >/dev/null 2>&1;"
        " dpkg --unpack ./libnvidia-container-tools_*.deb >/dev/null 2>&1; rm ./libnvidia-container-tools_*.deb"
    )
    assert "libnvidia-container-tools" in world.sh("dpkg --audit")
    done = world.fleet.provision("deploy", "--yes", "-v", "--tags", "nvidia_toolkit", "--limit", BAD)
    seen.first(done)
    assert done.code == 0, done
    assert "finishing an installation that was interrupted" in done.err
    assert world.sh("dpkg --audit") == ""
    seen.second(world)
