"""known_hosts: keys under plain and hashed names, and the removals of `--replace`."""

from pathlib import Path

import paramiko
import pytest

from provision.inventory import Connection
from provision.ssh import trust
from provision.ssh.trust import Key

# Nobody logs in with these keys, so only the type inside the bytes matters.
OLD, NEW, OTHER = (paramiko.ECDSAKey.generate().get_base64() for _ in range(3))
KIND = "ecdsa-sha2-nistp256"


def hosts(tmp_path: Path, *lines: str) -> Path:
    path = tmp_path / "known_hosts"
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


@pytest.mark.parametrize("name", ["gpu-01", "[gpu-01]:2222"])
@pytest.mark.parametrize("hashed", [True, False])
def test_replace_removes_the_old_key_under_a_plain_or_hashed_name(tmp_path: Path, name: str, hashed: bool) -> None:
    field = paramiko.HostKeys.hash_host(name) if hashed else f"alias,{name}"
    stranger = f"{paramiko.HostKeys.hash_host('gpu-02')} {KIND} {OTHER}"
    broken = ["# a comment", "", "|1|broken", f"|1|AAAA|AAAA {KIND} {OTHER}", f"@revoked * {KIND} {OTHER}"]
    path = hosts(tmp_path, f"{field} {KIND} {OLD}", stranger, *broken)
    trust.write(path, [Key(name, KIND, NEW)], replace=True)
    assert path.read_text().splitlines() == [stranger, *broken, f"{name} {KIND} {NEW}"]


def test_a_replaced_key_is_known_afterwards(tmp_path: Path) -> None:
    path = hosts(tmp_path, f"{paramiko.HostKeys.hash_host('192.0.2.1')} {KIND} {OLD}")
    connection = Connection(address="192.0.2.1", known_hosts=(str(path),))
    key = Key("192.0.2.1", KIND, NEW)
    assert trust.state(key, trust.known(connection)) == "CHANGED"
    trust.write(path, [key], replace=True)
    assert trust.known(connection) == [key]


def test_without_replace_every_key_stays(tmp_path: Path) -> None:
    line = f"{paramiko.HostKeys.hash_host('a')} {KIND} {OLD}"
    path = hosts(tmp_path, line)
    trust.write(path, [Key("a", KIND, NEW)], replace=False)
    assert path.read_text().splitlines() == [line, f"a {KIND} {NEW}"]


def test_a_key_of_another_type_counts_as_new_and_not_as_changed() -> None:
    key = Key("a", "ssh-ed25519", NEW)
    assert trust.state(key, []) == "new"
    assert trust.state(key, [Key("a", KIND, OLD)]) == "new"
    assert trust.state(key, [Key("a", KIND, OLD), Key("a", "ssh-ed25519", OLD)]) == "CHANGED"
    assert trust.state(key, [Key("a", KIND, OLD), key]) == "known"
