"""`timeout_factor`: every time limit of a command on a slow host is longer, and the key's name is in the messages."""

import subprocess
from types import SimpleNamespace

import pytest

from provision.apply import diagnostics
from provision.command import Answer, Put, Run, run
from provision.errors import FactError
from provision.inventory import Connection
from provision.plan import planner
from provision.plan.planner import host_facts
from provision.runs.lease import Lease
from provision.runs.lease_keeper import LeaseKeeper
from provision.ssh import jobs, script
from provision.ssh.connect import _connect_kwargs
from provision.ssh.time_limits import stretched
from provision.steps.base import Fact, UnreadableError
from provision.steps.docker import card_look
from provision.steps.facts import TITLE
from provision.testing import FakeHost, ShellHost
from tests.shell import sh

FACTOR = 12


@pytest.fixture
def slow(paths):
    """A shell of this machine as a slow host."""
    host = ShellHost(paths)
    host.timeout_factor = FACTOR
    return host


@pytest.fixture
def shown(tmp_path):
    """A folder for PATH with a `timeout` that shows its words in place of a run."""
    program = tmp_path / "timeout"
    program.write_text('#!/bin/sh\necho "$@"\n')
    program.chmod(0o755)
    return str(tmp_path)


def test_a_usual_host_gets_the_same_command():
    command = sh("timeout 15 docker info", title="ask")
    assert stretched(command, 1) is command


def test_the_limit_of_every_command_is_longer(slow):
    slow.batch([Run(("true",), timeout=20), run("true", timeout=3), Put("/nowhere/x", b"")], stop=False)
    [text] = slow.scripts
    assert b"timeout -k 5 240 true" in text
    assert b"timeout -k 5 36 true" in text


@pytest.mark.parametrize(
    ("said", "becomes"),
    [
        ("timeout 15 docker info --format 'a b'", "-k 0 180 docker info --format a b"),
        ('limit=30; timeout -k 2 "$limit" nvidia-smi -L', "-k 2 360 nvidia-smi -L"),
        ("timeout 1.5 nvidia-smi", "-k 0 1.5 nvidia-smi"),  # an operator's own limit
        ('docker() { timeout -k 5 60 docker "$@"; }; docker ps', "-k 5 720 docker ps"),
        ('set -- timeout 15 true; "$@"', "-k 0 180 true"),
        ("echo $((20 * ${patience:-1}))", "240"),
    ],
)
@pytest.mark.parametrize("beside", [[], [Run(("true",))]])
def test_the_limits_inside_of_a_script_are_longer(slow, shown, said, becomes, beside):
    command = sh(f"PATH=$1:$PATH; shift; {said}", shown, "x", title="ask")
    assert slow.batch([command, *beside], stop=False)[0].text == f"{becomes}\n"


def test_the_limits_inside_of_a_proof_of_verify_are_longer(slow, shown):
    proof = Run(("sh", "-c", "PATH=$0:$PATH; true && timeout 15 docker info --format $1", shown, "x"))
    said = slow.batch([proof, Run(("sh", "-c", "echo $0 $1", "a", "b"))], stop=False)
    assert [answer.text for answer in said] == ["-k 0 180 docker info --format x\n", "a b\n"]


def test_a_look_through_the_cards_of_a_container_has_more_time(slow, shown):
    """The look is an `exec` of the program `timeout`, which the function of the same name does not see."""
    text = f"{card_look.SHELL}\nrooted() {{ :; }}\ncgroup_of() {{ folder=$1; }}\nPATH=$1:$PATH; inside $1 2"
    said = slow.batch([sh(text, shown, title="look")], stop=False)[0].text
    assert said.startswith("-k 1 360 env -i ")


def test_the_exit_code_inside_of_a_script_stays(slow):
    kept = sh('rc=0; timeout 15 sh -c "exit 7" || rc=$?; echo $rc $1 $#', "a", title="ask")
    assert slow.batch([kept], stop=True)[0].text == "7 a 1\n"


def test_a_job_has_a_longer_limit_and_is_found_whatever_the_factor(slow):
    job = sh("timeout 15 echo done; echo $patience", title="a job", job=True, timeout=60)
    usual, longer = jobs.Follower(job, print, "/jobs"), jobs.Follower(job, print, "/jobs", FACTOR)
    assert usual.folder == longer.folder
    assert (usual.run.timeout, longer.run.timeout) == (60, 720)
    lines: list[str] = []
    assert slow.job(job, lines.append).exit == 0
    assert lines == ["done", "12"]


def test_the_scripts_that_wait_by_counting_wait_longer():
    waits = subprocess.run(
        ["grep", "-rlF", "patience:-1", "provision/steps"], capture_output=True, text=True, check=True
    ).stdout.split()
    assert {path.removeprefix("provision/steps/") for path in waits if path.endswith(".py")} == {
        "docker/card_look.py",
        "facts.py",
        "instance/scripts.py",
        "nginx/generation_scripts.py",
        "ollama/readiness.py",
        "ollama/scripts.py",
    }


def test_the_controller_waits_as_long_as_the_host():
    commands = [Run(("true",), timeout=20), Put("/x", b"")]
    assert script.longest([stretched(command, 3) for command in commands], 3) == 3 * script.longest(commands)


def test_a_lease_covers_the_longer_limits():
    lease = Lease(FakeHost(), "run-1", LeaseKeeper(), timeout_factor=FACTOR)
    usual = Lease(FakeHost(), "run-1", LeaseKeeper())
    assert lease.acquire(200).words == usual.acquire(2400).words != usual.acquire(200).words


def test_a_slow_host_has_more_time_for_a_login():
    usual, slow = Connection(address="gpu-01"), Connection(address="gpu-01", timeout_factor=FACTOR)
    assert _connect_kwargs(usual, direct=False)["banner_timeout"] == 10 + 20
    assert _connect_kwargs(slow, direct=False)["banner_timeout"] == 10 + 20 * FACTOR


def test_a_read_without_an_answer_in_time_names_the_key():
    def parse(answer: Answer) -> None:
        raise UnreadableError(f"exit code {answer.exit}")

    fact = Fact(Run(("dpkg-query",), timeout=20, title="look at packages"), parse)
    with pytest.raises(FactError) as late:
        planner.parse(fact, {fact.command: Answer(124)}, "packages:x")
    assert late.value.message == "packages:x cannot be read: no answer in 20 s times timeout_factor"
    assert "raise timeout_factor in the inventory" in late.value.hint
    with pytest.raises(FactError) as broken:
        planner.parse(fact, {fact.command: Answer(2)}, "packages:x")
    assert "timeout_factor" not in f"{broken.value}{broken.value.hint}"


def test_host_facts_without_an_end_name_the_key():
    with pytest.raises(FactError) as late:
        host_facts({run("sh", title=TITLE): Answer(124, b"# os\n")})
    assert "raise timeout_factor in the inventory" in late.value.hint


def test_a_change_that_takes_too_long_names_the_key():
    change = SimpleNamespace(step=SimpleNamespace(id="service:docker"))
    late = diagnostics.command_failed(change, run("true"), Answer(124))
    assert "took too long" in late.message
    assert "raise timeout_factor in the inventory" in late.hint
    assert "timeout_factor" not in diagnostics.command_failed(change, run("true"), Answer(1)).hint
