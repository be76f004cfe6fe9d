"""`provision logs`: the selected logs, the lines of all hosts by their times, followers and their end, and secrets."""

import dataclasses
import json
import os
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from provision import cli, testing
from provision.actions.logs import HostLine, Wanted, follow, logs, selected
from provision.actions.request import Request
from provision.cli.caller import Caller
from provision.command import Answer
from provision.errors import UsageError
from provision.plan import role_interface
from provision.steps.system import log_lines
from provision.steps.system.log_lines import Line, Source
from provision.testing import FakeHost, ShellHost
from tests.unit.test_json_documents import checked

INVENTORY = """
all: {vars: {nginx: {accept_known_vulnerabilities: true}, ansible_become_password: hunter22hunter}}
gpu:
  hosts: {gpu-01: {ansible_host: 192.0.2.1}, gpu-02: {ansible_host: 192.0.2.2}}
  vars: {ollama: {models: ["llama3.1:8b"], instances: [{gpus: [0]}, {gpus: [1]}]}}
balancer: {hosts: {lb-01: {ansible_host: 192.0.2.5}}}
"""
STAMP = "2026-12-01T10:00:0{}.123456789Z"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "inventory.yaml").write_text(INVENTORY)
    monkeypatch.chdir(tmp_path)


def request_of(tmp_path: Path, hosts: dict[str, Any], **words: Any) -> Request:
    """Return a request whose hosts are fakes: address -> host; every other host is lost."""
    lost = FakeHost(lost_at=frozenset(range(1, 99)))
    setup = testing.setup(tmp_path, lambda connection, password, paths: hosts.get(connection.address, lost))
    return Request("inventory.yaml", setup=setup, **words)


def names(*words: str) -> dict[str, list[str]]:
    """Return host -> names of the logs that some words select."""
    inventory = role_interface.load("inventory.yaml")
    found = selected(inventory, inventory.hosts, words)
    return {name: [source.name for source in each] for name, each in found.items()}


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (
            (),
            {"gpu-01": ["ollama1", "ollama2"], "gpu-02": ["ollama1", "ollama2"], "lb-01": ["access", "error"]},
        ),
        (("gpu-02",), {"gpu-02": ["ollama1", "ollama2"]}),
        (("gpu/ollama2", "gpu-01/ollama1"), {"gpu-01": ["ollama2", "ollama1"], "gpu-02": ["ollama2"]}),
        (("balancer",), {"lb-01": ["access", "error"]}),
        (("all/e*",), {"lb-01": ["error"]}),
    ],
)
def test_words_select_logs(words: tuple[str, ...], expected: dict[str, list[str]]) -> None:
    assert names(*words) == expected


@pytest.mark.parametrize(
    ("word", "text"),
    [("gpu-9", "no such host: gpu-9"), ("gpu-01/x", "gpu-01 has no log x"), ("lb-01/ollama1", "no log")],
)
def test_a_word_without_a_log_is_refused(word: str, text: str) -> None:
    with pytest.raises(UsageError, match=text):
        names(word)


@pytest.mark.parametrize("pattern", ["a\nb", "\x1b[2J", "x" * 1001])
def test_a_pattern_of_several_lines_is_refused(pattern: str) -> None:
    with pytest.raises(UsageError, match="--grep takes one line"):
        Wanted(grep=pattern)


def text(*lines: str) -> Answer:
    return Answer(0, "".join(f"{line}\n" for line in (*lines, "end")).encode())


def test_the_lines_of_all_hosts_come_by_their_times_and_each_host_is_one_exec(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = text(f"1 {STAMP.format(1)} one", f"1 {STAMP.format(4)} four", "1 and its second line", "9 forged", "noise")
    hosts = {
        "192.0.2.1": FakeHost({"read logs": first}),
        "192.0.2.2": FakeHost({"read logs": text(f"2 {STAMP.format(3)} three")}),
        "192.0.2.5": FakeHost({"read logs": text('1 {"ts":"2026-12-01T12:00:02+02:00","status":200}')}),
    }
    request = request_of(tmp_path, hosts)
    found = logs(request, (), Wanted())
    assert [(one.host, one.line and one.line.text) for one in found.merged] == [
        ("gpu-01", "one"),
        ("lb-01", '{"ts":"2026-12-01T12:00:02+02:00","status":200}'),
        ("gpu-02", "three"),
        ("gpu-01", "four"),
        ("gpu-01", "and its second line"),
    ]
    assert [host.execs for host in hosts.values()] == [1, 1, 1]
    assert cli.execute(["logs", "-i", "inventory.yaml"], Caller(request.setup)) == 0
    assert capsys.readouterr().out.splitlines()[2] == "gpu-02/ollama2 three"
    assert cli.execute(["logs", "-i", "inventory.yaml", "--json"], Caller(request.setup)) == 0
    document = checked(capsys.readouterr().out)
    assert document["hosts"][1]["lines"] == [{"log": "ollama2", "time": "2026-12-01T10:00:03Z", "text": "three"}]


def test_a_host_without_an_answer_hides_no_other_host(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    request = request_of(tmp_path, {"192.0.2.1": FakeHost({"read logs": text("1 one")})})
    assert cli.execute(["logs", "gpu", "-i", "inventory.yaml"], Caller(request.setup)) == 4
    out = capsys.readouterr().out
    assert "gpu-01/ollama1 one" in out
    assert "the connection was lost" in out


@pytest.mark.parametrize("answer", [Answer(3), Answer(0, b"1 one\n"), Answer(1, b"", b"no tail")])
def test_a_wrong_pattern_and_a_cut_answer_are_failures_of_the_host(tmp_path: Path, answer: Answer) -> None:
    request = request_of(tmp_path, {"192.0.2.1": FakeHost({"read logs": answer})}, limit=("gpu-01",))
    assert logs(request, (), Wanted()).exit_code == 3


def test_secrets_and_escapes_of_a_host_are_not_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    evil = "GET /v1?key=sk-prov-abcdefghijk hunter22hunter \x1b[2J\u202e\x07 end"
    request = request_of(tmp_path, {"192.0.2.1": FakeHost({"read logs": text(f"1 {evil}")})}, limit=("gpu-01",))
    assert cli.execute(["logs", "-i", "inventory.yaml", "-l", "gpu-01"], Caller(request.setup)) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("gpu-01/ollama1 GET /v1?key=[secret] [secret] ")
    assert line.isprintable()


class Containers:
    """A host on this machine's shell whose docker is a stand-in."""

    DOCKER = """#!/bin/sh
[ "$1" != container ] || exit 0
echo "$*" >>"$0.asked"
case "$*" in
  *--follow*) exec tail -n 1000 -f "$0.log" ;;
  *) tail -n 100000 "$0.log" ;;
esac
"""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "docker").write_text(self.DOCKER)
        (folder / "docker").chmod(0o755)
        self.log = folder / "docker.log"
        self.log.write_text("")

    def ask(self, run: Any) -> Any:
        """Return the command with the stand-in first on PATH."""
        script = run.stdin.replace(b"PATH=/usr/local/sbin", f"PATH={self.folder}:/usr/local/sbin".encode())
        assert script != run.stdin
        return dataclasses.replace(run, stdin=script)


SOURCES = (Source("ollama1", "container", "ollama1"), Source("error", "file", "/nowhere"))


def once(containers: Containers, sources: tuple[Source, ...] = SOURCES, **wanted: Any) -> list[Line | None]:
    run = containers.ask(log_lines.command(sources, **{"lines": 100, **wanted}))
    done = subprocess.run(run.words, input=run.stdin, capture_output=True, check=True, timeout=60)
    lines = done.stdout.decode(errors="replace").splitlines()
    assert lines[-1] == "end"
    return [log_lines.parse(line, sources) for line in lines[:-1]]


def test_the_last_matching_lines_of_a_container_and_a_file(tmp_path: Path) -> None:
    containers = Containers(tmp_path)
    containers.log.write_text("".join(f"{STAMP.format(n % 10)} line {n} {'odd' if n % 2 else ''}\n" for n in range(50)))
    (tmp_path / "error.log").write_text("2026/12/01 10:00:07 [error] a\n2026/12/01 10:00:08 [error] b\n")
    file = Source("error", "file", str(tmp_path / "error.log"))
    found = once(containers, (SOURCES[0], file), lines=2, pattern="odd|error")
    assert [line and (line.source, line.text) for line in found] == [
        ("ollama1", "line 47 odd"),
        ("ollama1", "line 49 odd"),
        ("error", "2026/12/01 10:00:07 [error] a"),
        ("error", "2026/12/01 10:00:08 [error] b"),
    ]
    assert [line and line.at for line in found][2:] == [1796119207.0, 1796119208.0]


@pytest.mark.parametrize("pattern", ["$(touch forged)", "; touch forged", "-e x", "'\"`touch forged`"])
def test_a_hostile_pattern_is_a_pattern(tmp_path: Path, pattern: str) -> None:
    containers = Containers(tmp_path)
    containers.log.write_text("nothing\n")
    assert once(containers, SOURCES[:1], pattern=pattern) == []
    assert not (tmp_path / "forged").exists()


def test_a_long_line_is_cut_and_a_number_of_lines_is_bounded(tmp_path: Path) -> None:
    containers = Containers(tmp_path)
    containers.log.write_text(f"{'x' * 100_000}\n" * 3)
    found = once(containers, SOURCES[:1], lines=2)
    assert [len(line.text) for line in found if line] == [log_lines.LONGEST] * 2


class Following(ShellHost):
    """A host on this machine's shell, with a stand-in for docker."""

    def __init__(self, containers: Containers) -> None:
        super().__init__()
        self._containers = containers

    def follow(self, run: Any, on_out: Any, on_error: Any = None) -> int:
        return super().follow(self._containers.ask(run), on_out, on_error)


def children(folder: Path) -> list[str]:
    """Return the processes of this machine with a folder in their words."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = entry.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if str(folder) in words and str(os.getpid()) != entry.parent.name:
            found.append(words)
    return found


def take(lines: Iterator[HostLine], number: int) -> list[HostLine]:
    return [next(lines) for _ in range(number)]


def test_followers_pass_on_lines_as_they_come_and_leave_no_process(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    for place in (one, two):
        place.mkdir()
    hosts = {"192.0.2.1": Following(Containers(one)), "192.0.2.2": Following(Containers(two))}
    for place in (one, two):
        (place / "docker.log").write_text(f"{STAMP.format(1)} of {place.name}\n")
    request = request_of(tmp_path, hosts)
    lines = follow(request, ("gpu/ollama1",), Wanted())
    found = {(line.host, line.line and line.line.text) for line in take(lines, 2)}
    assert found == {("gpu-01", "of one"), ("gpu-02", "of two")}
    assert children(tmp_path), "the followers run"
    lines.close()  # type: ignore[attr-defined]
    until = time.monotonic() + 20
    while children(tmp_path):
        assert time.monotonic() < until, children(tmp_path)
        time.sleep(0.1)


def test_a_follower_of_a_file_goes_on_after_a_rotation(tmp_path: Path) -> None:
    log = tmp_path / "error.log"
    log.write_text("before\n")
    sources = (Source("error", "file", str(log)),)
    host, said, came = ShellHost(), bytearray(), threading.Event()

    def heard(data: bytes) -> None:
        said.extend(data)
        came.set()

    thread = threading.Thread(target=host.follow, args=(log_lines.follower(sources, 5), heard))
    thread.start()
    assert came.wait(20)
    log.rename(tmp_path / "error.log.1")
    log.write_text("after\n")
    until = time.monotonic() + 30
    while b"after" not in said:
        assert time.monotonic() < until, bytes(said)
        time.sleep(0.1)
    host.close()
    thread.join(20)
    assert not thread.is_alive()


def test_a_lost_host_is_told_and_the_rest_is_followed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "one").mkdir()
    containers = Containers(tmp_path / "one")
    containers.log.write_text("here\n")
    request = request_of(tmp_path, {"192.0.2.1": Following(containers)})
    lines = follow(request, ("gpu/ollama1",), Wanted())
    found = take(lines, 2)
    lines.close()  # type: ignore[attr-defined]
    assert {(line.host, line.remark.partition(";")[0]) for line in found} == {
        ("gpu-01", ""),
        ("gpu-02", "the connection was lost"),
    }
    assert cli.execute(["logs", "-f", "--json", "-i", "inventory.yaml"], Caller(request.setup)) == 2
    assert "--follow does not go with --json" in json.loads(capsys.readouterr().out)["error"]["message"]
