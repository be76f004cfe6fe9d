"""The file of clients: keys are made, rotated and revoked; a key itself is nowhere."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provision.errors import UsageError
from provision.inventory.client_file import ClientFile, Limits, StoredKey, load, save

NOW = 1_796_083_200
LIMITS = Limits(models=("deepseek-r1:32b",), concurrency=4, rate=60, tokens_per_day=1000, pool="line")


def hashed(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


def usable(clients: ClientFile, now: int) -> set[str]:
    return {key.sha256 for key in clients.keys if key.is_usable(now)}


def test_a_new_client_has_a_key_that_is_stored_as_a_hash(tmp_path: Path) -> None:
    path = tmp_path / "clients.json"
    clients, key = ClientFile().added("alice", LIMITS, NOW)
    save(path, clients)
    assert key.startswith("sk-prov-")
    assert len(key) == len("sk-prov-") + 48
    assert key not in path.read_text()
    assert hashed(key) in path.read_text()
    assert path.stat().st_mode & 0o777 == 0o600
    assert load(path) == clients
    assert [path.name for path in tmp_path.iterdir()] == ["clients.json"]


def test_two_keys_differ() -> None:
    assert len({ClientFile().added("alice", Limits(), NOW)[1] for _ in range(50)}) == 50


def test_a_hash_shows_nowhere_by_itself() -> None:
    clients, _ = ClientFile().added("alice", LIMITS, NOW)
    assert clients.keys[0].sha256 not in repr(clients)


def test_two_keys_are_valid_during_a_rotation() -> None:
    clients, old = ClientFile().added("alice", LIMITS, NOW)
    clients, other = clients.added("bob", Limits(), NOW)
    clients, new = clients.rotated("alice", NOW + 10, overlap=100)
    assert usable(clients, NOW + 109) == {hashed(old), hashed(new), hashed(other)}
    assert usable(clients, NOW + 110) == {hashed(new), hashed(other)}
    assert clients.clients["alice"] == LIMITS


def test_a_rotation_never_lengthens_the_life_of_a_key() -> None:
    clients, old = ClientFile().added("alice", LIMITS, NOW, expires=NOW + 50)
    clients, new = clients.rotated("alice", NOW + 10, overlap=100)
    assert usable(clients, NOW + 50) == {hashed(new)}
    clients = clients.revoked("alice", NOW + 60)
    assert usable(clients.rotated("alice", NOW + 70, overlap=100)[0], NOW + 71) - {hashed(old), hashed(new)}
    assert not usable(clients.rotated("alice", NOW + 70, overlap=100)[0], NOW + 71) & {hashed(old), hashed(new)}


def test_a_key_is_revoked_by_its_client_or_by_its_id() -> None:
    clients, first = ClientFile().added("alice", LIMITS, NOW)
    clients, second = clients.rotated("alice", NOW, overlap=100)
    by_id = clients.revoked(clients.keys[0].id, NOW + 1)
    assert usable(by_id, NOW + 1) == {hashed(second)}
    assert usable(clients.revoked("alice", NOW + 1), NOW + 1) == set()
    assert clients.keys[0].id == hashed(first)[:8]


@pytest.mark.parametrize(
    "make",
    [
        lambda clients: clients.added("alice", Limits(), NOW),
        lambda clients: clients.added("Bad Name", Limits(), NOW),
        lambda clients: clients.added("x\n", Limits(), NOW),
        lambda clients: clients.added("bob", Limits(rate=-1), NOW),
        lambda clients: clients.added("bob", Limits(models=("Upper:1b",)), NOW),
        lambda clients: clients.added("bob", Limits(pool="a;b"), NOW),
        lambda clients: clients.added("bob", Limits(), NOW, expires=NOW),
        lambda clients: clients.rotated("nobody", NOW, 1),
        lambda clients: clients.rotated("alice", NOW, -1),
        lambda clients: clients.revoked("nobody", NOW),
        lambda clients: clients.revoked("alice", NOW).revoked("alice", NOW),
    ],
)
def test_a_wrong_wish_is_refused(make: Any) -> None:
    clients, _ = ClientFile().added("alice", LIMITS, NOW)
    with pytest.raises(UsageError):
        make(clients)


KEY = {"sha256": "a" * 64, "client": "alice", "made": NOW, "expires": None, "revoked": None}


@pytest.mark.parametrize(
    ("document", "words"),
    [
        ([], "must be an object"),
        ({"clients": {}}, "must be an object"),
        ({"clients": [], "keys": []}, "clients: must be"),
        ({"clients": {}, "keys": {}}, "keys: must be"),
        ({"clients": {"A": {}}, "keys": []}, "clients: 'A'"),
        ({"clients": {"a": {"rat": 1}}, "keys": []}, "clients: 'a': must be"),
        ({"clients": {"a": {"rate": True}}, "keys": []}, "rate must be"),
        ({"clients": {"a": {"concurrency": 1e9}}, "keys": []}, "concurrency must be"),
        ({"clients": {"a": {"models": "all"}}, "keys": []}, "models must be"),
        ({"clients": {"a": {"models": [1]}}, "keys": []}, "models must be"),
        ({"clients": {"a": {"pool": "{"}}, "keys": []}, "pool must be"),
        ({"clients": {"alice": {}}, "keys": [{**KEY, "sha256": "sk-prov-1"}]}, "64 hexadecimal"),
        ({"clients": {"alice": {}}, "keys": [KEY, KEY]}, "twice"),
        ({"clients": {}, "keys": [KEY]}, "one of the clients"),
        ({"clients": {"alice": {}}, "keys": [{**KEY, "expires": "tomorrow"}]}, "seconds since 1970"),
        ({"clients": {"alice": {}}, "keys": [{**KEY, "expires": ""}]}, "seconds since 1970"),
        ({"clients": {"alice": {}}, "keys": [{**KEY, "expires": []}]}, "seconds since 1970"),
        ({"clients": {"alice": {}}, "keys": [{**KEY, "revoked": False}]}, "seconds since 1970"),
        ({"clients": {"a": {"concurrency": 65536}}, "keys": []}, "concurrency must be"),
        ({"clients": {"alice": {}}, "keys": [{**KEY, "more": 1}]}, "keys[0]: must be"),
    ],
)
def test_a_wrong_file_is_refused_with_the_place(tmp_path: Path, document: Any, words: str) -> None:
    path = tmp_path / "clients.json"
    path.write_text(json.dumps(document))
    path.chmod(0o600)
    with pytest.raises(UsageError) as error:
        load(path)
    assert words in error.value.message
    assert str(path) in error.value.message


def test_a_client_that_is_twice_in_a_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "clients.json"
    path.touch(0o600)
    path.write_text('{"clients": {"alice": {"models": ["tiny:latest"]}, "alice": {}}, "keys": []}')
    with pytest.raises(UsageError, match="'alice' is twice"):
        load(path)


def test_a_file_that_others_may_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "clients.json"
    save(path, ClientFile())
    path.chmod(0o640)
    with pytest.raises(UsageError, match="others may read"):
        load(path)


def test_a_missing_file_has_no_clients(tmp_path: Path) -> None:
    assert load(tmp_path / "clients.json") == ClientFile()


def test_a_file_that_is_no_json_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "clients.json"
    path.touch(0o600)
    path.write_bytes(b"[" * 100_000)
    with pytest.raises(UsageError, match="no JSON"):
        load(path)


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be written"):
        save(tmp_path / "missing/clients.json", ClientFile())


NAMES = st.from_regex(r"[a-z][a-z0-9_-]{0,10}", fullmatch=True)
KEYS = st.builds(
    StoredKey,
    st.binary(min_size=32, max_size=32).map(bytes.hex),
    st.just("alice"),
    st.integers(0, 2**40),
    st.none() | st.integers(1, 2**40),
    st.none() | st.integers(1, 2**40),
)


@given(NAMES, st.lists(KEYS, max_size=4, unique_by=lambda key: key.sha256), st.integers(0, 65_535))
def test_what_is_saved_is_loaded(tmp_path_factory: Any, name: str, keys: list[StoredKey], number: int) -> None:
    path = tmp_path_factory.mktemp("clients") / "clients.json"
    clients = ClientFile({"alice": Limits(), name: Limits(concurrency=number)}, tuple(keys))
    save(path, clients)
    assert load(path) == clients
