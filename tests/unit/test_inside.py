"""`provision exec` and `provision ssh`: words, exit codes, output, and the way of ssh through jump hosts."""

import re
import shlex
import shutil
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from provision import cli, testing
from provision.actions import Request, inside
from provision.cli.caller import Caller
from provision.command import Answer
from provision.errors import UsageError
from provision.inventory import Connection, Secret
from provision.report.passed import Passed
from provision.ssh import openssh
from provision.testing import FakeHost, ShellHost
from tests.unit.test_screens import Terminal

INVENTORY = """
all:
  vars:
    nginx: {accept_known_vulnerabilities: true}
    ansible_user: ops
    ansible_password: hunter22hunter
    ansible_become_password: hunter23hunter
gpu:
  hosts: {gpu-01: {ansible_host: 192.0.2.1, ansible_port: 2222}, gpu-02: {ansible_host: 192.0.2.2}}
  vars: {ollama: {models: ["llama3.1:8b"], instances: [{gpus: [0]}]}}
balancer: {hosts: {lb-01: {ansible_host: 192.0.2.5}}}
"""
ODD = ["a b", "", "$(touch forged)", "'\"", "; true", "-n", "*", "\\", "ä"]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "inventory.yaml").write_text(INVENTORY)
    monkeypatch.chdir(tmp_path)
    return tmp_path


class Container(ShellHost):
    """A host whose shell, containers and all, is the shell of this machine."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        (folder / "docker").write_text('#!/bin/sh\n[ "$1 $2 $3" = "exec -- ollama1" ] || exit 99\nshift 3\nexec "$@"\n')
        (folder / "docker").chmod(0o755)
        self._folder = folder

    def follow(self, run: Any, on_out: Any, on_error: Any = None) -> int:
        words = ("env", f"PATH={self._folder}:/usr/bin:/bin", *run.words)
        return super().follow(type(run)(words, run.stdin), on_out, on_error)


def caller(folder: Path, host: Any) -> Caller:
    return Caller(testing.setup(folder, lambda connection, password, paths: host))


@pytest.mark.parametrize("code", [0, 1, 3, 42, 127])
def test_the_exit_code_of_the_program_is_passed_on(folder: Path, capfd: pytest.CaptureFixture[str], code: int) -> None:
    words = ["exec", "-i", "inventory.yaml", "gpu-01/ollama1", "--", "sh", "-c", f"echo out; echo err >&2; exit {code}"]
    assert cli.execute(words, caller(folder, Container(folder))) == code
    assert capfd.readouterr() == ("out\n", "err\n")


def test_each_word_reaches_the_program_as_typed(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    program = "import sys; print(sys.argv[1:])"
    words = ["exec", "gpu-01/ollama1", "--", sys.executable, "-c", program, *ODD]
    assert cli.execute(words, caller(folder, Container(folder))) == 0
    assert capfd.readouterr().out == f"{ODD}\n"
    assert not (folder / "forged").exists()


def test_bytes_that_are_no_text_reach_a_pipe_unchanged(folder: Path, capfdbinary: Any) -> None:
    words = ["exec", "gpu-01/ollama1", "--", "printf", r"\001\377\033[2J\n"]
    assert cli.execute(words, caller(folder, Container(folder))) == 0
    assert capfdbinary.readouterr().out == b"\x01\xff\x1b[2J\n"


def test_a_terminal_gets_no_escapes_of_a_container() -> None:
    terminal = Terminal()
    passed = Passed(terminal)
    for piece in (b"one\x1b[2", b"Jtwo\xe2\x80\xae\r\nthree", b"\xc3"):
        passed(piece)
    passed.end()
    assert terminal.getvalue() == "onetwo \nthree\ufffd\n"


@pytest.mark.parametrize(
    ("place", "text"),
    [("gpu-01", "is no instance"), ("gpu-01/x", "has no instance x"), ("gpu-9/ollama1", "no such host")],
)
def test_a_place_that_is_no_instance_is_refused(place: str, text: str) -> None:
    with pytest.raises(UsageError, match=text):
        inside.execute(Request("inventory.yaml"), place, ["true"], bytes, bytes)


def test_a_host_that_cannot_be_reached(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    host = FakeHost(lost_at=frozenset({1}))
    assert cli.execute(["exec", "gpu-01/ollama1", "--", "true"], caller(folder, host)) == 4
    assert "the connection was lost" in capfd.readouterr().err
    assert host.closes == 1


def test_the_secrets_of_a_host_are_not_among_the_words(folder: Path) -> None:
    host = FakeHost(reply=lambda run: Answer(7))
    assert cli.execute(["exec", "gpu-01/ollama1", "--", "true"], caller(folder, host)) == 7
    (run,) = host.commands
    assert "hunter" not in str(vars(run))


def test_a_closed_connection_ends_the_client_of_docker(folder: Path) -> None:
    host = Container(folder)
    run = inside.command("ollama1", ["sh", "-c", f"echo begun; exec tail -f {folder}/inventory.yaml"])
    begun = threading.Event()
    thread = threading.Thread(target=host.follow, args=(run, lambda data: begun.set()))
    thread.start()
    assert begun.wait(20)
    host.close()
    thread.join(20)
    assert not thread.is_alive()


def test_without_a_command_nothing_is_run(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.execute(["exec", "gpu-01/ollama1"]) == 2
    assert "give a command after --" in capsys.readouterr().err


def typed(*words: str) -> list[str]:
    """Return the words of the ssh that a command becomes."""
    found: list[list[str]] = []

    def become(program: Sequence[str]) -> int:
        found.append(list(program))
        return 0

    assert cli.execute(["ssh", *words], Caller(become=become)) == 0
    return found[0]


def test_ssh_has_the_settings_of_the_inventory_and_no_secret() -> None:
    words = typed("gpu-01", "--", *ODD)
    assert words[0] == "ssh"
    assert words[1:3] == ["-F", "none"]
    assert "StrictHostKeyChecking=yes" in words
    assert words[words.index("-l") + 1] == "ops"
    assert words[words.index("-p") + 1] == "2222"
    assert words[-3:-1] == ["--", "192.0.2.1"]
    assert shlex.split(words[-1]) == ODD
    assert "hunter" not in " ".join(words)


def test_a_host_that_is_not_in_the_inventory(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.execute(["ssh", "gpu-9"]) == 2
    assert "no such host: gpu-9" in capsys.readouterr().err


JUMPS = (
    Connection(address="jump1.example", user="a", key_files=("/keys/50%/one key",), known_hosts=("/known/a b",)),
    Connection(address="jump2.example", port=2200, user="b", known_hosts=("/known/100%",), host_key_alias="two"),
)
TARGET = Connection(
    address="-oProxyCommand=touch forged",
    user="c",
    known_hosts=("/known/x", "/known/y z"),
    password=Secret("hunter22hunter"),
    jumps=JUMPS,
)


def settings(words: Sequence[str]) -> dict[str, str]:
    """Return the settings of some words as ssh itself understands them."""
    done = subprocess.run([words[0], "-G", *words[1:]], capture_output=True, text=True, check=True, timeout=30)
    return dict(line.partition(" ")[::2] for line in done.stdout.splitlines())


def expanded(way: str) -> str:
    """Return a ProxyCommand with its tokens replaced, as by ssh."""
    return re.sub("%(.)", lambda token: {"h": "H", "p": "22", "%": "%"}[token[1]], way)


needs_ssh = pytest.mark.skipif(shutil.which("ssh") is None, reason="needs OpenSSH's client")


@needs_ssh
def test_ssh_itself_understands_the_settings() -> None:
    words = openssh.words(Connection(address="gpu.example", user="c", port=2222, known_hosts=("/k/x", "/k/y z%")))
    found = settings(words)
    assert (found["hostname"], found["user"], found["port"]) == ("gpu.example", "c", "2222")
    assert found["stricthostkeychecking"] in ("true", "yes")
    assert "/k/x" in found["userknownhostsfile"]
    assert found["globalknownhostsfile"] == "/dev/null"


@needs_ssh
def test_each_jump_host_has_its_own_settings_and_the_innermost_command_is_whole() -> None:
    words = openssh.words(TARGET)
    assert words[-2:] == ["--", TARGET.address]
    assert "hunter" not in " ".join(words)
    way = next(word for word in words if word.startswith("ProxyCommand=")).partition("=")[2]
    outer = shlex.split(expanded(way))[1:]
    assert outer[-4:] == ["-W", "[H]:22", "--", "jump2.example"]
    second = settings(outer)
    assert (second["user"], second["port"], second["hostkeyalias"]) == ("b", "2200", "two")
    inner_way = next(word for word in outer if word.startswith("ProxyCommand=")).partition("=")[2]
    inner = shlex.split(expanded(inner_way))[1:]
    assert inner[-4:] == ["-W", "[H]:22", "--", "jump1.example"]
    assert inner[inner.index("-i") + 1] == "/keys/50%%/one key"
    assert settings(inner)["user"] == "a"


@pytest.mark.parametrize("path", ['/a"b', "/${HOME}", "/a\nb"])
def test_a_path_that_ssh_would_read_otherwise_is_refused(path: str) -> None:
    with pytest.raises(UsageError, match="cannot be told the path"):
        openssh.words(Connection(address="x", known_hosts=(path,)))


def test_a_machine_without_ssh(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert cli.execute(["ssh", "gpu-01"]) == 2
    assert "apt install openssh-client" in capsys.readouterr().err
