"""The fake hosts for tests of other people's steps and roles."""

import io

import pytest

from provision import actions, testing
from provision.command import Answer, Put, run
from provision.errors import FactError, UnreachableError
from provision.inventory import Connection
from provision.plan.role_interface import Entry
from provision.ssh.host_paths import HostPaths
from provision.ssh.session import Session
from provision.steps.system import file
from provision.testing import FakeHost, ShellHost, Transport
from tests.shell import sh

from .test_host_run import Note

INVENTORY = (
    "all: {vars: {nginx: {accept_known_vulnerabilities: true}}}\n"
    "gpu: {hosts: {gpu-01: {ansible_host: 192.0.2.1, ollama: {instances: [{gpus: [0]}]}}}}"
)
PUBLIC = {name for name in vars(Transport) if not name.startswith("_")}


@pytest.mark.parametrize("kind", [Session, FakeHost, ShellHost])
def test_every_transport_has_all_methods_of_the_interface(kind):
    assert {"begin", "batch", "job", "follow", "upload", "download", "close"} == PUBLIC
    assert all(callable(getattr(kind, name)) for name in PUBLIC)


def test_a_fake_host_answers_by_title_by_words_or_by_its_reply():
    answers = {"ask": "by title", "cat /etc/motd": Answer(1, b"", b"by words")}
    host = FakeHost(answers, reply=lambda command: Answer(0, command.words[0].encode()))
    commands = [run("true", title="ask"), run("cat", "/etc/motd"), run("id")]
    found = host.batch(commands, stop=False)
    assert found == [Answer(0, b"by title"), Answer(1, b"", b"by words"), Answer(0, b"id")]
    assert host.commands == commands
    assert host.execs == 1


def test_a_batch_on_a_fake_host_stops_at_the_first_failure():
    host = FakeHost({"false": Answer(1)})
    assert len(host.batch([run("true"), run("false"), run("true")], stop=True)) == 2
    assert len(host.batch([run("true"), run("false"), run("true")], stop=False)) == 3


def test_a_fake_host_keeps_written_and_uploaded_files():
    host, target = FakeHost(), io.BytesIO()
    host.batch([Put("/etc/a", b"one")], stop=True)
    host.upload(io.BytesIO(b"two"), "/etc/b")
    host.download("/etc/b", target)
    assert host.files == {"/etc/a": b"one", "/etc/b": b"two"}
    assert target.getvalue() == b"two"
    with pytest.raises(FactError, match="could not read /etc/c"):
        host.download("/etc/c", target)


def test_a_job_on_a_fake_host_tells_every_line():
    lines = []
    answer = FakeHost({"pull": "10 %\n20 %\n"}).job(sh("true", title="pull", job=True), lines.append)
    assert (lines, answer.exit) == (["10 %", "20 %"], 0)


@pytest.mark.parametrize("make", [FakeHost, ShellHost])
def test_a_host_is_lost_at_the_given_exec(make):
    host = make(lost_at=frozenset({2}))
    host.batch([run("true")], stop=False)
    with pytest.raises(UnreachableError):
        host.batch([run("true")], stop=False)


def test_a_shell_host_runs_jobs_and_moves_files(tmp_path, paths):
    host, lines, target = ShellHost(paths), [], io.BytesIO()
    answer = host.job(sh('echo "$1"; exit 3', "it's", title="job", job=True), lines.append)
    assert (answer.exit, lines) == (3, ["it's"])
    host.upload(io.BytesIO(b"bytes\n"), str(tmp_path / "file"), owner="")
    host.download(str(tmp_path / "file"), target)
    assert target.getvalue() == b"bytes\n"


def test_a_setup_keeps_the_files_of_a_run_below_its_folder(tmp_path):
    made = testing.setup(tmp_path, who="me@here")
    assert (made.paths.lock_by_hand, made.who) == (f"{tmp_path}/state/lock", "me@here")
    assert isinstance(made.transport(Connection(address="192.0.2.1"), None), ShellHost)
    assert len(made.catalog.owned()) > 5, "the finders of the roles"


def test_the_usual_folders_are_those_that_file_steps_use():
    assert HostPaths().store == file.STORE


def test_a_deploy_over_a_fake_host_writes_the_files_of_its_steps(tmp_path):
    path, inventory = str(tmp_path / "note"), tmp_path / "inventory.yaml"
    inventory.write_text(INVENTORY)

    def reply(command):
        return Answer(0, host.files.get(path, b"")) if command.title == "cat" else Answer(0)

    host = FakeHost(reply=reply)
    steps = (Entry("docker", Note(path)),)
    setup = testing.setup(tmp_path, host.connect, steps=lambda *_: steps, owned=())
    result = actions.deploy(actions.Request(str(inventory), tags=("docker",), setup=setup))
    assert [(outcome.host, outcome.result) for outcome in result.outcomes] == [("gpu-01", "changed")]
    assert host.files[path] == b"wanted"
    titles = [str(command) for command in host.commands]
    assert titles.index("take the lock") < titles.index(str(Put(path, b"wanted", owner="")))
    assert titles[-1] == "release the lock"


def test_commands_of_a_step_are_values_or_text():
    step = Note("/etc/note")
    assert testing.commands(step) == [Put("/etc/note", b"wanted", owner="")]
    assert testing.described(step)[0].startswith("write /etc/note (6 bytes, sha256 ")
