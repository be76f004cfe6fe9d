"""A host answers with a key other than the known key, or with an unknown key."""

import pytest

from provision.lab import keys
from tests.faults.case import Case, both, params, play
from tests.faults.common import key_back, one_key
from tests.faults.world import BAD

pytestmark = [pytest.mark.lab, pytest.mark.faults]
NOBODYS_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIKtjrqNhLYHLlYYBCVdbeXkLzQpfYzUwZQtqgYFx2uYV"
UNREACHABLE = {"code": 4, "result": "unreachable"}
HOST_KEY = "/etc/ssh/ssh_host_ed25519_key"


def known_hosts(text):
    """Give the host a known_hosts of its own."""

    def write(world):
        path = world.folder / "known_hosts"
        path.write_text(text.format(address=world.fleet.address(BAD)))
        world.vars()["ansible_ssh_common_args"] = f"-o UserKnownHostsFile={path}"

    return write


def as_before(world):
    world.vars().pop("ansible_ssh_common_args", None)


def another_key(world):
    """As a host that was installed anew, with another key."""
    known_hosts("")(world)
    key = world.lab.host(BAD).key
    (world.folder / "known_hosts").write_text(keys.known_host(key, [world.fleet.address(BAD)]))
    world.sh(
        f"mkdir -p /root/keys; cp -p {HOST_KEY}* /root/keys; rm {HOST_KEY}*;"
        f" ssh-keygen -q -t ed25519 -N '' -f {HOST_KEY}; systemctl restart ssh"
    )


def trusted(world):
    """The command on the screen: the new key is looked at and trusted; everything else stays the same."""
    done = world.fleet.provision("trust", "--replace", "--yes", "--limit", BAD)
    assert done.code == 0, done


def old_key(world):
    world.sh(f"cp -p /root/keys/* /etc/ssh/; rm -r /root/keys; systemctl restart ssh; rm -f {HOST_KEY}.old")


CASES = {
    "a key that is not known": Case(
        known_hosts(""),
        ("host key of .* is not known", "SHA256:", "provision trust"),
        as_before,
        leaves=(),
        **UNREACHABLE,
    ),
    "another key than the known one": Case(
        known_hosts(f"{{address}} {NOBODYS_KEY}\n"),
        ("host key of .* has CHANGED", "SHA256:", "provision trust --replace"),
        as_before,
        leaves=(),
        **UNREACHABLE,
    ),
    "another host answers in the middle of the run": Case(
        both(another_key, lambda w: w.sh("for pid in $(pgrep sshd-session); do kill -9 $pid; done")),
        ("connection was lost|broke off|CHANGED",),
        both(old_key, as_before, key_back),
        "docker_config:daemon.json",
        at="docker_config:daemon.json",
        ready=one_key,
        **UNREACHABLE,
    ),
}


@pytest.mark.parametrize("case", params(CASES, "another key than the known one"))
def test_host_key(world, seen, case):
    play(world, case, seen)


def test_a_host_that_was_installed_anew_is_trusted_by_hand(world, seen):
    """Another key on a host without anything of ours: refused, then trusted, then deployed from the ground up."""
    world.lab.restore(BAD)
    another_key(world)
    try:
        case = Case(lambda _: None, ("has CHANGED", "provision trust --replace"), trusted, keep=False, **UNREACHABLE)
        play(world, case, seen)
    finally:
        old_key(world)
