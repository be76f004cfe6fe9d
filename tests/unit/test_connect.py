"""The known keys of a host, and connections that are not open yet."""

import socket
import threading
import time
from types import SimpleNamespace

import paramiko
import pytest

from provision.command import run
from provision.errors import UnreachableError
from provision.inventory import Connection
from provision.ssh import channels
from provision.ssh.connect import _know
from provision.ssh.session import Session

KEYS = [paramiko.ECDSAKey.generate() for _ in range(3)]
OWN, OTHER, LATER = (f"{key.get_name()} {key.get_base64()}" for key in KEYS)


def known(tmp_path, text, **said):
    path = tmp_path / "known_hosts"
    path.write_text(text)
    keys = paramiko.HostKeys()
    _know(keys, str(path), Connection(address="gpu-01", **said))
    return keys


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (f"gpu-01 {OWN}", {}),
        (f"  other,gpu-01 {OWN} a comment", {}),
        (f"[gpu-01]:2222 {OWN}", {"port": 2222}),
        (f"{paramiko.HostKeys.hash_host('gpu-01')} {OWN}", {}),
        (f"{paramiko.HostKeys.hash_host('[gpu-01]:2222')} {OWN}", {"port": 2222}),
        (f"rack-7 {OWN}", {"host_key_alias": "rack-7"}),
    ],
)
def test_the_key_of_a_host_is_found_among_other_keys(tmp_path, line, said):
    others = f"# comment\n\ngpu-011 {OTHER}\n{paramiko.HostKeys.hash_host('gpu-02')} {OTHER}\n|1|broken {OTHER}\n"
    keys = known(tmp_path, f"{others}{line}\ngpu-0 {OTHER}\ngpu-01 garbled\n", **said)
    name = said.get("host_key_alias") or (f"[gpu-01]:{said['port']}" if "port" in said else "gpu-01")
    assert keys.lookup(name)[KEYS[0].get_name()] == KEYS[0]
    assert len(keys._entries) == 1


def test_the_first_of_two_keys_counts_and_a_missing_file_has_no_key(tmp_path):
    keys = known(tmp_path, f"gpu-01 {OWN}\ngpu-01 {LATER}\n")
    assert keys.lookup("gpu-01")[KEYS[0].get_name()] == KEYS[0]
    _know(keys, str(tmp_path / "none"), Connection(address="gpu-01"))


def test_a_connection_that_is_being_opened_can_be_closed():
    """The host accepts the connection and then stays silent."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        session = Session(Connection(address="127.0.0.1", port=server.getsockname()[1], user="x"))
        session.begin()
        silent, _ = server.accept()
        while not (session._begun and session._begun[0].client.get_transport()):
            time.sleep(0.01)
        session.close()
        with silent, pytest.raises(UnreachableError):
            session.open()


class Opened:
    """A fake connection that knows if it is open."""

    def __init__(self):
        self.is_connected = True
        self.client = self

    def close(self):
        self.is_connected = False


@pytest.fixture
def session():
    """A session to a host that accepts every connection."""

    def dial(target, gateway, begun):
        made = Opened()
        begun(made)
        return made

    return Session(Connection(address="192.0.2.1"), dial=dial)


def test_a_command_beside_reopens_a_lost_connection_and_not_a_closed_session(session):
    with pytest.raises(UnreachableError, match="closed"):
        session.batch([run("true")], stop=False, beside=True)
    session.open()
    session._client.close()
    assert session._connected(reopen=False).is_connected
    session.close()
    with pytest.raises(UnreachableError, match="closed"):
        session._connected(reopen=False)
    assert session.connects == 2


@pytest.mark.parametrize("beside", [True, False])
def test_a_silent_command_beside_leaves_the_connection_open(session, beside):
    def silent(timeout):
        raise TimeoutError

    session.open()
    client = session._client
    client.transport = SimpleNamespace(open_session=silent)
    with pytest.raises(UnreachableError, match="no answer"):
        session.batch([run("true")], stop=False, beside=beside)
    assert client.is_connected == beside


def test_a_connection_from_the_background_is_not_used_after_a_close(session):
    session.begin()
    while session._client is None:  # a run builds its steps meanwhile
        time.sleep(0.01)
    first = session._connected()
    session.close()
    assert session._connected() is not first
    assert (session._connected().is_connected, session.connects) == (True, 2)


def test_the_wait_for_a_missing_exit_code_has_an_end():
    channel = SimpleNamespace(status_event=threading.Event(), recv_exit_status=lambda: 3)
    with pytest.raises(TimeoutError):
        channels.exit_status(channel, time.monotonic() + 0.05)
    channel.status_event.set()
    assert channels.exit_status(channel, time.monotonic() + 0.05) == 3
