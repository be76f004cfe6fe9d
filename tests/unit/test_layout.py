"""How text fits a terminal, what stands on a row of progress, and the commands that go on."""

import contextlib
import dataclasses
import io
import logging
import sys

import pytest

from provision.actions import DeployResult, DrainResult, Pace, Request
from provision.actions.draining import Drain
from provision.actions.results import advice
from provision.apply import diagnostics
from provision.apply.disruption import Disruption
from provision.artifacts.store import Store
from provision.command import Answer, Obtain, run
from provision.errors import HostError, LockedError, RefusedError, UnreachableError
from provision.events import Event
from provision.inventory import Connection, Host, Inventory
from provision.plan import role_interface
from provision.plan.planner import Change, HostPlan
from provision.report import console, layout, next_command, recap, trace
from provision.report import drain as drain_report
from provision.report.progress import Lines
from provision.rollout.outcome import Outcome
from provision.steps import wording
from provision.steps.nginx.build import Build
from provision.steps.nginx.source import Source
from provision.steps.wording import ANY, Words
from provision.terminal_text import ending


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture(autouse=True)
def no_wishes(monkeypatch):
    for name in ("COLUMNS", "NO_COLOR", "FORCE_COLOR", "TERM"):
        monkeypatch.delenv(name, raising=False)


def test_a_terminal_has_a_width_and_a_pipe_gets_whole_lines(monkeypatch):
    assert layout.width(Terminal()) == 80
    assert layout.width(io.StringIO()) == layout.WHOLE
    monkeypatch.setenv("COLUMNS", "120")
    assert layout.width(Terminal()) == 120
    assert layout.width(io.StringIO()) == layout.WHOLE


@pytest.mark.parametrize(
    ("wishes", "terminal", "colours"),
    [
        ({}, True, True),
        ({}, False, False),
        ({"TERM": "dumb"}, True, False),
        ({"NO_COLOR": "1"}, True, False),
        ({"FORCE_COLOR": "1"}, False, True),
        ({"FORCE_COLOR": "0"}, False, False),
        ({"FORCE_COLOR": "1", "TERM": "dumb"}, True, True),
        ({"FORCE_COLOR": "1", "NO_COLOR": "1"}, True, False),
    ],
)
def test_who_gets_colours(monkeypatch, wishes, terminal, colours):
    for name, value in wishes.items():
        monkeypatch.setenv(name, value)
    assert layout.has_colours(Terminal() if terminal else io.StringIO()) == colours


def test_a_long_line_is_broken_at_blanks_and_a_long_word_anywhere():
    assert layout.wrap("    the quick brown fox", 6, 16) == ["    the quick", "      brown fox"]
    assert layout.wrap("a " + "x" * 12, 2, 8) == ["a", "  xxxxxx", "  xxxxxx"]
    assert layout.wrap("short", 2, 8) == ["short"]


def test_wide_letters_take_two_columns_and_joined_accents_none():
    assert (layout.seen("漢字"), layout.seen("e\u0301")) == (4, 1)
    assert layout.wrap("a " + "漢" * 7, 2, 8) == ["a", "  漢漢漢", "  漢漢漢", "  漢"]
    assert layout.wrap("e\u0301" * 8, 2, 8) == ["e\u0301" * 8]


def test_colours_take_no_room():
    painted = "\x1b[31mred\x1b[0m"
    assert layout.seen(painted) == 3
    assert layout.wrap(f"{painted} and blue", 2, 12) == [f"{painted} and blue"]


def test_a_broken_command_can_be_copied():
    lines = layout.typed("provision deploy -i inventory.yaml -l 'all,!gpu-02'", 2, 40)
    assert lines == ["  provision deploy -i inventory.yaml \\", "      -l 'all,!gpu-02'"]


def test_a_command_that_was_cut_inside_quotes_is_shown(monkeypatch):
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    console.warn("run 1 died; to go on: provision rollback -i '" + "very long/" * 200 + "'")
    assert "to go on:" in screen.getvalue()
    assert "very long/" in screen.getvalue()


def test_what_is_counted_has_its_number():
    assert (layout.count(1, "host"), layout.count(2, "host"), layout.count(0, "host")) == (
        "1 host",
        "2 hosts",
        "0 hosts",
    )
    assert layout.names(["a", "b", "c"], most=2) == "a, b and 1 more"


WORDS = {
    "running": Words("stopped", otherwise="runs"),
    "image": Words("other image", "image"),
    "environment": Words("variable{s} {names}", "variable"),
    "sees": Words("does not see its cards", "cards", unless=("running",)),
    "run": Words("made by other options", unless=(ANY,)),
}


@pytest.mark.parametrize(
    ("have", "want", "reason", "lines"),
    [
        ({"running": False}, {"running": True}, "stopped", []),
        ({"running": True}, {"running": False}, "runs", []),
        ({"image": "a"}, {"image": "b"}, "other image", ["image: a -> b"]),
        ({"running": False, "sees": []}, {"running": True, "sees": ["GPU-1"]}, "stopped", []),
        ({"sees": []}, {"sees": ["GPU-1"]}, "does not see its cards", ["cards: none -> GPU-1"]),
        ({"run": "1", "image": "a"}, {"run": "2", "image": "b"}, "other image", ["image: a -> b"]),
        ({"run": "1"}, {"run": "2"}, "made by other options", []),
        ({"unknown": 1}, {"unknown": 2}, "unknown differs", ["unknown: 1 -> 2"]),
        ({"environment": {"A": "1"}}, {"environment": {"A": "2"}}, "variable A", ["variable A: 1 -> 2"]),
        (
            {"environment": {"A": "1", "B": "2", "C": "3"}},
            {"environment": {"A": "1", "B": "5", "D": "4"}},
            "variables B, C, D",
            ["variable B: 2 -> 5", "variable C: 3 -> not set", "variable D: not set -> 4"],
        ),
    ],
)
def test_a_difference_is_told_in_words(have, want, reason, lines):
    assert wording.reason(WORDS, have, want) == reason
    assert wording.lines(WORDS, have, want) == lines


def test_two_long_values_are_cut_where_they_begin_to_differ():
    [text] = wording.lines({}, {"key": "x" * 300 + "old"}, {"key": "x" * 300 + "new"})
    assert len(text) < 2 * wording.LONGEST
    assert text.endswith("old -> …" + "x" * wording.CONTEXT + "new")


HOSTS = tuple(
    Host(name=name, groups=(group,), connection=Connection(address=f"10.0.0.{number}"))
    for number, (name, group) in enumerate([("gpu-01", "gpu"), ("gpu-02", "gpu"), ("lb-01", "balancer")], 1)
)


def deployed(*errors, code=3, limit=()):
    outcomes = [Outcome(host.name, error=error) for host, error in zip(HOSTS, errors, strict=True)]
    request = Request("i.yaml", limit=limit)
    return DeployResult("run", "deploy", request, Pace(), Inventory(path="i.yaml", hosts=HOSTS), outcomes, code)


LOST, TAKEN, WRONG = UnreachableError("no answer"), LockedError("locked by a"), RefusedError("not ours")


@pytest.mark.parametrize(
    ("errors", "limit", "commands"),
    [
        (
            (None, None, LOST),
            (),
            [
                ("again", "provision deploy -i i.yaml -l lb-01"),
                ("without lb-01", "provision deploy -i i.yaml -l 'all,!lb-01'"),
            ],
        ),
        ((LOST, LOST, LOST), (), [("again", "provision deploy -i i.yaml")]),
        ((LOST, LOST, LOST), ("gpu",), [("again", "provision deploy -i i.yaml -l gpu")]),
        (
            (LOST, WRONG, None),
            ("@hosts.txt", "gpu", "lb-01"),
            [
                ("again", "provision deploy -i i.yaml -l gpu-01,gpu-02"),
                ("without gpu-01", "provision deploy -i i.yaml -l @hosts.txt -l 'gpu,lb-01,!gpu-01'"),
            ],
        ),
        ((TAKEN, None, None), (), [("again", "provision deploy -i i.yaml -l gpu-01 --lock-wait 5m")]),
        ((WRONG, None, None), (), [("once mended", "provision deploy -i i.yaml -l gpu-01")]),
    ],
)
def test_the_commands_that_go_on(errors, limit, commands):
    assert next_command.after_deploy(deployed(*errors, limit=limit)) == commands


def test_nothing_is_to_be_run_where_all_is_well():
    assert next_command.after_deploy(deployed(None, None, None, code=0)) == []


def test_errors_that_differ_in_the_name_of_their_host_are_one():
    inventory = Inventory(path="i.yaml", hosts=HOSTS)
    errors = [(host.name, UnreachableError(f"tcp {host.connection.address}:22 is closed")) for host in HOSTS]
    assert [len(group) for group in console.grouped(errors, inventory)] == [3]
    other = [*errors, ("gpu-03", UnreachableError("tcp 10.0.0.9:22 refuses the login"))]
    assert [len(group) for group in console.grouped(other, inventory)] == [3, 1]


def test_many_hosts_that_fail_alike_are_told_a_few_times(capsys):
    lines = Lines(6)
    for number in range(200):
        lines(Event(f"gpu-{number:03}", "unreachable", "", f"tcp 10.0.0.{number}:22 does not answer"))
    assert len(capsys.readouterr().err.splitlines()) == 3


def test_commands_are_shown_to_who_asks_for_them(capsys):
    command = Event("gpu-01", "command", "image:x", "docker pull x")
    Lines(6)(command)
    assert capsys.readouterr().err == ""
    Lines(6, verbose=True)(command)
    assert "docker pull x" in capsys.readouterr().err


def test_the_trace_shows_what_goes_over_ssh(capsys):
    before = {name: (logging.getLogger(name).level, list(logging.getLogger(name).handlers)) for name in trace.SSH}
    try:
        trace.show_ssh()
        logging.getLogger("provision.ssh.session").debug("10.0.0.1: exec")
        assert capsys.readouterr().err.endswith("10.0.0.1: exec\n")
    finally:
        for name, (level, handlers) in before.items():
            logger = logging.getLogger(name)
            logger.handlers, logger.propagate = handlers, True
            logger.setLevel(level)


def test_advice_is_for_a_plan_that_changes_its_role():
    inventory = Inventory(path="i.yaml", hosts=HOSTS, advice={"nginx": ("set version",)}, accepted={"nginx": ("risk",)})
    step = Build(source=Source(version="1.26.3", sha256="0" * 64, url="http://x"))
    plans = [HostPlan((Change(role, step, "add", "not there"),)) for role in ("docker", "nginx")]
    assert advice(inventory, [Outcome("a", plans[0])]) == []
    assert advice(inventory, [Outcome("a", plan) for plan in plans]) == ["set version", "risk"]


def test_the_default_nginx_is_no_warning_but_an_accepted_risk(tmp_path):
    path = tmp_path / "inventory.yaml"
    path.write_text(
        "all: {vars: {nginx: {accept_known_vulnerabilities: true}}}\n"
        "gpu: {hosts: {a: {ollama: {instances: [{gpus: [0]}]}}}}"
    )
    loaded = role_interface.load(str(path))
    assert not any("nginx" in warning for warning in loaded.warnings)
    assert "1.26.3" in loaded.accepted["nginx"][0]


def test_what_is_in_the_store_is_planned_as_a_copy(tmp_path):
    store = Store(tmp_path)
    made = Obtain("nginx key", "/tmp/x", (), title="nginx 1.26.3 for debian-13-amd64")
    step = Build(source=Source(version="1.26.3", sha256="0" * 64, url="http://x"))
    change = Change("nginx", step, "add", "not there", None, {}, impact="compiles nginx", commands=(made,))
    disruption = Disruption.__new__(Disruption)
    disruption.of = lambda change: frozenset()
    assert disruption.with_cost(change, store).impact == "compiles nginx"
    with store.adding("nginx key") as path:
        path.write_bytes(b"x")
    assert (
        disruption.with_cost(change, store).impact == "copies nginx 1.26.3 for debian-13-amd64, which is built already"
    )


def test_nothing_is_printed_to_a_stream_that_is_no_terminal_in_pieces(capsys):
    console.say("word " * 60)
    assert capsys.readouterr().out.count("\n") == 1
    assert sys.stdout.isatty() is False


LONG = "gpu-with-a-name-of-exactly-forty-letters"


def rows_of(outcomes, inventory, monkeypatch):
    """The lines of a recap on a terminal of 80 columns without colours."""
    monkeypatch.setenv("NO_COLOR", "1")
    with contextlib.redirect_stdout(Terminal()) as terminal:
        request = Request("i.yaml")
        recap.text(DeployResult("run", "deploy", request, Pace(), inventory, outcomes, 0), [])
    return terminal.getvalue().splitlines()


@pytest.mark.parametrize("name", ["gpu-01", "g" * 33, "g" * 34, "g" * 35, LONG, "g" * 90])
def test_the_columns_of_a_recap_stay_in_line_whatever_the_name_of_a_host(name, monkeypatch):
    assert len(LONG) == 40
    host = dataclasses.replace(HOSTS[0], name=name)
    inventory = Inventory(path="i.yaml", hosts=(host, *HOSTS[1:]))
    outcomes = [Outcome(name, HostPlan(steps=40), reloads=2, seconds=61.2), Outcome("lb-01", HostPlan(steps=14))]
    rows = rows_of(outcomes, inventory, monkeypatch)
    assert max(map(len, rows)) <= 80
    [head] = [row for row in rows if row.startswith("HOST")]
    column = head.index("STEPS") + len("STEPS")
    assert [row[:column].split()[-1] for row in rows if "/" in row] == ["40/40", "14/14"]


@pytest.mark.parametrize(("name", "longest"), [("g" * 20, 80), ("g" * 21, 61)])
def test_a_row_of_exactly_the_width_of_the_screen_stays_on_one_line(name, longest, monkeypatch):
    step = Build(source=Source(version="1", sha256="0" * 64, url="u"))
    outcome = Outcome(name, HostPlan((Change("nginx", step, "add", "r"),), 40), ["container:ollama01"], seconds=1.0)
    rows = rows_of([outcome], Inventory(path="", hosts=()), monkeypatch)
    assert max(len(row) for row in rows[2:]) == longest
    assert rows[-2].endswith("container:ollama01")


def test_one_host_with_two_errors_alike_is_named_once(capsys):
    console.failures([("gpu-01", UnreachableError("gpu-01: no answer"))] * 2)
    assert capsys.readouterr().out == "\ngpu-01\n  error: no answer\n"


def test_an_undrain_counts_hosts_and_no_instances(capsys):
    lost = UnreachableError("no answer")
    outcomes = [Drain("gpu-01", ("gpu-01/ollama1",), error=lost), Drain("gpu-01", ("gpu-01/ollama2",), error=lost)]
    inventory = Inventory(path="i.yaml", hosts=HOSTS)
    done = DrainResult("run", "undrain gpu-01", Request("i.yaml"), Pace(), inventory, outcomes, 4)
    drain_report.show(done, as_json=False)
    said = capsys.readouterr().out
    assert said.startswith("\ngpu-01\n  error: no answer\n")
    assert "\n1 unreachable of 1 · run run\n" in said


@pytest.mark.parametrize(
    ("evidence", "hint"),
    [
        ("sh: 42: printf: printf: I/O error", "look for a full or broken disk on the host (`df -h` and `dmesg` there)"),
        ("cat: write error: No space left on device", "make room on the host (`df -h` there shows the full disk)"),
        ("write: disk quota exceeded", "make room on the host"),
        (
            "Error response from daemon: CDI device injection failed: unresolvable CDI devices nvidia.com/gpu=GPU-1",
            "make the CDI file of the cards anew (`systemctl restart nvidia-cdi-refresh` there;",
        ),
        ('failed to stat CDI host device "/dev/nvidia0": no such file or directory', "make the CDI file of the cards"),
        (
            "invoking the NVIDIA Container Runtime Hook directly (e.g. by --gpus) is not supported.",
            "set the mode `auto` there",
        ),
        (
            'OCI runtime create failed: runc create failed: namespace {"time" ""} does not exist: unknown',
            "update runc on the host to 1.2 or later, or declare `docker.daemon: {features: {time-namespaces: false}}`",
        ),
        ("manifest unknown", "repair the cause, then run the command again"),
    ],
)
def test_a_full_disk_is_named_in_the_next_action(evidence, hint):
    step = Build(source=Source(version="1.26.3", sha256="0" * 64, url="http://x"))
    change = Change("nginx", step, "add", "not there")
    error = diagnostics.command_failed(change, run("true"), Answer(1, b"", evidence.encode()))
    assert error.hint.startswith(hint)
    assert error.hint.endswith("then run the command again: finished changes stay")
    assert error.stderr == evidence


def test_the_whole_first_line_of_docker_is_in_the_evidence():
    said = "Error response from daemon: failed to create task: OCI runtime create failed: runc create failed: no card"
    step = Build(source=Source(version="1.26.3", sha256="0" * 64, url="http://x"))
    error = diagnostics.command_failed(
        Change("nginx", step, "add", "not there"), run("true"), Answer(125, b"", said.encode())
    )
    assert said in console.error_text(error, sys.stdout).replace("\n", "")


@pytest.mark.parametrize(
    ("width", "kept"),
    [
        (50, "docker: OCI runtime create failed"),
        (33, "docker: OCI runtime create failed"),
        (24, "…runtime create failed"),
        (25, "…OCI runtime create failed"),
        (22, "…runtime create failed"),
        (3, "…led"),
    ],
)
def test_the_end_of_a_long_text_begins_with_a_whole_word(width, kept):
    assert ending("docker: OCI runtime create failed", width) == kept


def test_the_way_back_to_an_old_container_follows_the_way_on():
    failed = HostError("gpu-01: ollama1 does not answer")
    failed.previous = ("ollama1.PREVIOUS",)
    assert next_command.after_deploy(deployed(None, failed, None))[1:] == [
        ("or start the old containers again", f"provision rollback run -i i.yaml -l {HOSTS[1].name}")
    ]
