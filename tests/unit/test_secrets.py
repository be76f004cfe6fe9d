"""Secrets are in no words of a command, no plan, no document and no line of progress.

A secret travels on standard input, or into a file for root alone.
"""

import base64
import dataclasses
import json
import re
import shlex
from pathlib import Path

import pytest
import yaml

from provision import cli, testing
from provision.actions import Pace, Request, documents
from provision.actions.run_session import Logged
from provision.apply.host_run import HostRun
from provision.artifacts.store import Store
from provision.cli.caller import Caller
from provision.command import Put, Run, run
from provision.errors import CommandError
from provision.inventory import Inventory, Mask, Secret
from provision.plan import planner, role_interface
from provision.plan.planner import HostPlan
from provision.plan.role_interface import Entry
from provision.report import console
from provision.report import plan as report_plan
from provision.rollout.outcome import Outcome, selection
from provision.rollout.waves import Rollout
from provision.runs.context import Context
from provision.runs.journal import Journal
from provision.runs.log import default_folder
from provision.ssh.script import assemble
from provision.steps.base import RefusalError
from provision.testing import ShellHost
from tests.unit.test_host_run import Note
from tests.unit.test_hostile import FACTS

SUDO, LOGIN, PROXY = "canary-of-sudo", "canary-of-login", "http://user:canary-of-proxy@proxy.test:3128"
CANARIES = ("canary-of-sudo", "canary-of-login", "canary-of-proxy", "canary-of-token")
RUN = "20261122T081140Z-585d"
INVENTORY = """
all:
  vars:
    ansible_user: ops
    ansible_password: !env CANARY_LOGIN
    ansible_become_password: !file sudo.txt
    nginx: {accept_known_vulnerabilities: true}
    mine: {token: !env CANARY_TOKEN}
    proxy: {http: !env CANARY_PROXY, https: "http://user:canary-of-proxy@proxy.test:3128"}
    ollama: {models: [deepseek-r1:1.5b], https_proxy: !env CANARY_PROXY}
  children:
    gpu:
      hosts:
        gpu-01:
          ansible_host: gpu
          ollama: {instances: [{gpus: [0]}, {gpus: [1], https_proxy: !file proxy.txt}]}
    balancer: {hosts: {lb-01: {ansible_host: lb}}}
"""


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name, value in (("LOGIN", LOGIN), ("PROXY", PROXY), ("TOKEN", "canary-of-token")):
        monkeypatch.setenv(f"CANARY_{name}", value)
    (tmp_path / "sudo.txt").write_text(SUDO + "\n")
    (tmp_path / "proxy.txt").write_text(PROXY + "/second\n")
    (tmp_path / "inventory.yaml").write_text(INVENTORY)
    return tmp_path / "inventory.yaml"


def clean(text: str) -> bool:
    return not any(canary in text for canary in CANARIES)


def changes(path):
    """Yield every step of every host, with the wanted state on a bare host and the commands there and back."""
    inventory = role_interface.load(str(path))
    for host in inventory.hosts:
        for entry in role_interface.steps(host, inventory):
            try:
                want = entry.step.want(FACTS, None)
            except RefusalError:
                continue
            there, back = entry.step.commands(None, want), entry.step.commands(want, None)
            yield entry, want, [entry.step.fact().command, *there, *back]


def test_no_command_shows_a_secret_and_files_with_secrets_are_for_root_alone(path):
    held = []
    for entry, want, commands in changes(path):
        assert clean(repr(entry.step)), entry.step.id
        assert clean(json.dumps(want, default=str)), entry.step.id
        for command in commands:
            assert clean(str(command)), entry.step.id
            assert clean(repr(command)), entry.step.id
            assert not isinstance(command, Run) or clean(" ".join(command.words)), entry.step.id
            if isinstance(command, Put) and not clean(command.content.decode(errors="replace")):
                assert (command.mode, command.owner) == (0o600, "root:root")
                held.append(command.path)
    ours = ["/etc/provision/proxy.env", "/etc/apt/apt.conf.d/0-provision-proxy"]
    instances = ["/etc/provision/ollama/ollama1.env", "/etc/provision/ollama/ollama2.env"]
    assert held == [*ours, "/etc/provision/docker/proxy.env", *instances, *ours]


def test_a_script_hands_secrets_to_builtins_only(path):
    """A quoted word of `printf`, a builtin, has the secret: no process gets the secret in its words."""
    puts = [c for _, _, commands in changes(path) for c in commands if isinstance(c, Put)]
    text = assemble(puts, "mark", stop=True).decode()
    written = re.compile(r"^printf %s (?:'[^']*'|\\'|\"'\")+ \| put ", re.MULTILINE)
    assert any(not clean(found[0]) for found in written.finditer(text))
    assert clean(written.sub("", text))


def test_a_plan_shows_no_secret_in_any_form(path, capsys):
    found = [planner.make_change(entry, None, want) for entry, want, _ in changes(path) if want]
    gone = [planner.make_change(entry, want, None) for entry, want, _ in changes(path) if want]
    other = [
        planner.make_change(entry, {**want, "sha256": "0" * 64, "environment": {"HTTPS_PROXY": "sha256:0"}}, want)
        for entry, want, _ in changes(path)
        if want and ("environment" in want or want.get("kind") == "file")
    ]
    outcome = Outcome("gpu-01", HostPlan((*found, *gone, *other), 9))
    report_plan.text([outcome], Inventory(path="", hosts=()), report_plan.Detail(steps=True))
    shown = capsys.readouterr()
    assert clean(shown.out + shown.err)
    assert clean(json.dumps(report_plan.document([outcome]), default=str))


def test_a_journal_names_a_secret_by_its_hash(path):
    for entry, want, _ in changes(path):
        journal = Journal("run", "deploy")
        commands = [journal.before(planner.make_change(entry, None, want)), journal.done(entry.step.id), journal.end()]
        for command in commands:
            assert clean(" ".join(command.words) + repr(command) + str(command))
            assert clean(told(command.stdin)), entry.step.id


def told(text):
    """Return the input of a journal command, with the kept states decoded."""
    lines = text.decode().splitlines()
    kept = [base64.b64decode(line.split(" ")[1]).decode() for line in lines if not line.startswith("{")]
    return "\n".join([*lines, *kept])


def test_a_rollback_reads_only_the_hash_of_a_secret_file(path):
    """The host hashes and keeps files for root alone, so no answer has their bytes."""
    inventory = role_interface.load(str(path))
    steps = [entry.step for entry in role_interface.steps(inventory.hosts[0], inventory)]
    files = [step for step in steps if step.id.endswith(".env")]
    assert files
    for step in files:
        have = {"kind": "file", "mode": "0600", "owner": "root:root", "sha256": "0" * 64}
        want = step.restore(FACTS, None, have)
        assert [str(command) for command in step.commands(None, want)][-1].startswith("restore /etc/provision/")


def test_the_log_of_a_run_keeps_no_setting_of_the_command_line(path):
    request = Request(str(path), extra_vars=("ollama.https_proxy=" + PROXY,), become_password=SUDO)
    Logged(RUN, "deploy", request, Pace()).begin()
    [file] = default_folder().iterdir()
    assert clean(file.read_text())
    assert json.loads(file.read_text())["extra_vars"] == 1


WORDS = (
    f"ansible_become_password={SUDO}",
    f"ollama.https_proxy={PROXY}",
    f"{{ansible_password: {LOGIN}}}",
)


@pytest.mark.parametrize("command", [["deploy", "--yes"], ["rollback", RUN, "--yes"]])
def test_the_next_command_names_the_overrides_without_values(path, tmp_path, capfd, command):
    (tmp_path / "more.yaml").write_text("mine: {}")
    caller = Caller(testing.setup(tmp_path, lambda *_: ShellHost(lost_at=frozenset({1}))))
    begin = [word for value in (*WORDS, f"@{tmp_path}/more.yaml") for word in ("-e", value)]
    assert cli.execute([*command, "-i", str(path), "-l", "gpu-01", "-t", "docker", *begin], caller) == 4
    said = capfd.readouterr()
    assert clean(said.out + said.err)
    again = said.out.partition("again: ")[2]
    assert "-e ansible_become_password=... -e ollama.https_proxy=... -e '{...}' -e @" in again
    assert cli.execute([*shlex.split(again)[1:], "--yes"]) == 2, "the dots in place of a value are no setting"
    assert capfd.readouterr().err.count("stands for what was not printed: say it again") == 3


@pytest.mark.parametrize(
    "word",
    [
        f".password={SUDO}",
        f"ansible_become_password: {SUDO}",
        f"ansible_become_password:{SUDO}",
        f"ansible_become_password=*{SUDO}",
        f"ansible_become_password=!{SUDO}",
        f"ansible_become_password=!!int {SUDO}",
        f"{{ansible_become_password: *{SUDO}}}",
        f"ansible_become_password=[{SUDO}]",
        f"ansible_become_passwort={SUDO}",
    ],
)
def test_a_refused_override_is_reported_without_its_value(path, word, capsys):
    assert cli.execute(["inventory", "check", "-i", str(path), "-e", word]) in (0, 2)
    said = capsys.readouterr()
    assert "ansible_become_password" in said.err or word[0] in ".{"
    assert clean(said.out + said.err)


@pytest.mark.parametrize("words", [["show"], ["show", "--json"], ["check"], ["check", "--json"], ["show", "gpu-01"]])
def test_the_inventory_is_shown_without_secrets(path, words, capsys):
    assert cli.execute(["inventory", *words, "-i", str(path)]) == 0
    shown = capsys.readouterr()
    assert clean(shown.out + shown.err)
    assert words[0] == "check" or "[secret]" in shown.out


@pytest.mark.parametrize("key", ["port", "image", "instances", "models", "context_length", "environment", "nonsense"])
def test_a_misplaced_secret_is_not_in_the_problem(path, key, capsys):
    data = INVENTORY.replace("https_proxy: !env", f"{key}: !env")
    path.write_text(data)
    assert cli.execute(["inventory", "check", "-i", str(path)]) in (0, 2)
    shown = capsys.readouterr()
    assert clean(shown.out + shown.err)


@pytest.mark.parametrize("command", [["plan", "-v"], ["deploy", "--yes", "-v"], ["deploy", "--yes", "-vv"]])
def test_the_commands_of_a_verbose_run_show_no_secret(path, tmp_path, capfd, command):
    said = f"env: {PROXY} {SUDO} {LOGIN} canary-of-token"
    failing = run("sh", "-c", f"echo '{said}' >&2; exit 1")
    note = Note(str(tmp_path / "note"), said, how=(run("echo", said), failing))
    setup = testing.setup(tmp_path, steps=lambda host, inventory: (Entry("ollama", note),), owned=())
    path.write_text(INVENTORY.replace("balancer: {hosts: {lb-01: {ansible_host: lb}}}", ""))
    code = cli.execute([*command, "-i", str(path)], Caller(setup))
    said = capfd.readouterr()
    assert code == (0 if command[0] == "plan" else 3)
    assert clean(said.out + said.err)
    assert "echo" in said.out + said.err
    assert "[secret]" in said.out + said.err


def test_a_secret_in_the_output_of_a_host_is_masked_everywhere(path, tmp_path, setup):
    """A program may print its environment, as Ollama does at start, and sudo or curl their arguments."""
    inventory = role_interface.load(str(path))
    events = []
    roles, store = frozenset(role_interface.order()), Store(tmp_path / "store")
    context = Context("run", inventory, roles, events.append, store, setup=setup)
    rollout = Rollout(context, selection(inventory, inventory.hosts[:1], context.roles), None, 1)
    member = rollout.members[0]
    said = f"env: HTTPS_PROXY={PROXY}; {SUDO} {LOGIN} canary-of-token"
    with rollout._caught(member):
        raise CommandError(said, said, step="s", command=said, exit_status=1, stderr=said)
    member.run.say("progress", "step", said)
    assert clean(json.dumps(documents.deployed([member.outcome], "run", "")))
    assert clean(console.error_text(member.outcome.error))
    assert clean(str(events))
    assert "[secret]" in member.outcome.error.stderr
    change = planner.make_change(Entry("role", member.run.steps.entries[0].step), {"text": said}, None)
    shown = planner.hidden(dataclasses.replace(change, diff=(said,), reason=said, impact=said), member.run.hide)
    assert clean(f"{shown.diff}{shown.reason}{shown.impact}")
    assert isinstance(member.run, HostRun)


def test_a_mask_covers_every_line_of_a_secret_and_the_longest_secret_first():
    mask = Mask([Secret("hunter2"), Secret("hunter2-and-more"), Secret("first line\nsecond line"), Secret("wrong")])
    assert mask("hunter2-and-more, hunter2, second line") == "[secret], [secret], [secret]"
    assert mask({"a hunter2": ["x", ("hunter2", 3)]}) == {"a [secret]": ["x", ("[secret]", 3)]}
    assert mask("the password is wrong") == "the password is wrong", "a short secret is part of too many words"
    assert Mask([])("anything") == "anything"


def test_a_secret_cannot_be_written_as_yaml():
    with pytest.raises(yaml.YAMLError):
        yaml.safe_dump({"x": Secret("hunter2")})


def test_the_store_is_for_its_owner_alone(tmp_path):
    store = Store(tmp_path / "cache" / "provision" / "artifacts")
    with store.adding("key") as path:
        path.write_text("bytes")
    modes = {found.name: found.stat().st_mode & 0o777 for found in (store.folder, store.folder / "keys")}
    assert modes == {"artifacts": 0o700, "keys": 0o700}
