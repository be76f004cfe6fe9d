"""`provision trust` against a machine that shows a key: what is shown, and when known_hosts is written."""

import contextlib
import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import paramiko
import pytest

from provision import cli

KEY = paramiko.ECDSAKey.generate()


@pytest.fixture
def machine() -> Iterator[int]:
    """The port of a machine that shows KEY to everybody and lets nobody in."""
    listener = socket.create_server(("127.0.0.1", 0))
    transports: list[paramiko.Transport] = []

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                transport = paramiko.Transport(listener.accept()[0])
                transport.add_server_key(KEY)
                transports.append(transport)
                transport.start_server(event=threading.Event(), server=paramiko.ServerInterface())

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    yield listener.getsockname()[1]
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    thread.join(60)
    for transport in transports:
        transport.close()


@pytest.fixture
def inventory(machine: int, tmp_path: Path) -> str:
    path = tmp_path / "inventory.yaml"
    known = f"-o UserKnownHostsFile={tmp_path}/known_hosts"
    hosts = f"{{box: {{ansible_host: 127.0.0.1, ansible_port: {machine}, ollama: {{instances: [{{gpus: [0]}}]}}}}}}"
    path.write_text(
        "all: {vars: {nginx: {accept_known_vulnerabilities: true}}}\n"
        f'gpu: {{hosts: {hosts}, vars: {{ansible_ssh_common_args: "{known}"}}}}\n'
    )
    return str(path)


def test_a_new_key_is_shown_and_written_with_yes_alone(
    inventory: str, machine: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    known = tmp_path / "known_hosts"
    assert cli.execute(["trust", "-i", inventory]) == 2
    said = capsys.readouterr()
    assert KEY.fingerprint in said.out
    assert "trust asks first, and there is no terminal" in said.err
    assert cli.execute(["trust", "--json", "-i", inventory]) == 0
    assert not known.exists()
    capsys.readouterr()
    assert cli.execute(["trust", "--yes", "-i", inventory]) == 0
    assert f"1 written to {known}" in capsys.readouterr().out
    assert known.read_text() == f"[127.0.0.1]:{machine} {KEY.get_name()} {KEY.get_base64()}\n"


def test_programs_get_the_key_and_where_it_was_written(
    inventory: str, machine: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def trust(*words: str) -> tuple[int, str, list[dict[str, object]]]:
        code = cli.execute(["trust", "--json", "-i", inventory, *words])
        found = json.loads(capsys.readouterr().out)
        (host,) = found["hosts"]
        assert host["key"]["fingerprint"] == KEY.fingerprint
        return code, host["result"], found["written"]

    file = str(tmp_path / "known_hosts")
    assert trust() == (0, "new", [])
    assert trust("--yes") == (0, "new", [{"file": file, "keys": 1}])
    assert trust("--yes") == (0, "known", [])
    other = paramiko.ECDSAKey.generate()
    Path(file).write_text(f"[127.0.0.1]:{machine} {other.get_name()} {other.get_base64()}\n")
    assert trust("--yes") == (4, "changed", [])
    assert trust("--yes", "--replace") == (0, "changed", [{"file": file, "keys": 1}])
    assert trust() == (0, "known", [])


def test_a_changed_key_is_refused_without_replace(
    inventory: str, machine: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = paramiko.ECDSAKey.generate()
    line = f"[127.0.0.1]:{machine} {other.get_name()} {other.get_base64()}\n"
    (tmp_path / "known_hosts").write_text(line)
    assert cli.execute(["trust", "--yes", "-i", inventory]) == 4
    said = capsys.readouterr()
    assert "CHANGED" in said.out
    assert "if the host was reinstalled, say --replace" in said.err
    assert (tmp_path / "known_hosts").read_text() == line
