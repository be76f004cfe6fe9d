"""The options of the command line, each by what the command does with it."""

import json
import os
import re
import subprocess
import sys

import pytest

from provision import actions, cli
from provision.actions.instances import chosen
from provision.actions.selection import selected
from provision.cli.caller import Caller
from provision.errors import UsageError
from provision.inventory import Connection, Host, Instance, Inventory

from . import test_actions

# Fixtures: two hosts that are this machine's shell, and each should have a note.
noting, request_of = test_actions.noting, test_actions.request_of
HERE = ["-i", "inventory.yaml", "-t", "docker"]
INVENTORY = """
all: {vars: {nginx: {accept_known_vulnerabilities: true}}}
gpu: {hosts: {box: {ansible_host: 127.0.0.1, ansible_port: 1, ollama: {models: [m], instances: [{gpus: [0]}]}}}}
balancer: {hosts: {lb: {ansible_host: 127.0.0.2, ansible_port: 1}}}
"""


@pytest.fixture
def inventory(tmp_path):
    path = tmp_path / "other.yaml"
    path.write_text(INVENTORY)
    return str(path)


def run(capsys, *words, setup=None):
    code = cli.execute([*words], Caller(setup))
    said = capsys.readouterr()
    return code, said.out, said.err


def test_quiet_leaves_the_last_line_of_a_plan_of_a_deploy_and_of_a_verification(noting, capsys):
    code, out, err = run(capsys, "plan", "-q", *HERE, setup=noting())
    assert (code, err) == (0, "")
    assert out.startswith("2 hosts, 2 steps: 2 to add")
    assert out.count("\n") == 1
    code, out, err = run(capsys, "deploy", "-q", "--yes", *HERE, setup=noting())
    assert (code, err) == (0, "")
    assert re.fullmatch(r"2 changed of 2 · run \S+\n", out), out
    code, out, err = run(capsys, "verify", "-q", *HERE, setup=noting())
    assert (code, err) == (0, "")
    assert re.fullmatch(r"\d of \d checks passed on 2 hosts · next: .*\n", out), out


def test_quiet_names_the_steps_that_are_not_proved(noting, capsys):
    code, out, _ = run(capsys, "verify", "-q", *HERE, setup=noting())
    assert code == 5, "nothing is deployed"
    assert "gpu-01  note:gpu-01.note\n" in out


def test_quiet_names_the_hosts_that_failed(inventory, capsys):
    for command in (["plan"], ["deploy", "--yes"], ["verify"], ["drain", "box", "--force"], ["undrain", "box"]):
        code, out, _ = run(capsys, *command, "-q", "-i", inventory)
        assert code in (3, 4), command
        assert "connection refused" in out, command
        assert "HOST" not in out, command
        assert any(line.split()[0].isdigit() for line in out.splitlines()[-2:]), command


def test_quiet_and_verbose_do_not_go_together(inventory, capsys):
    assert run(capsys, "plan", "-q", "-v", "-i", inventory)[0] == 2


def test_list_hosts_names_the_selected_hosts_and_connects_to_none(inventory, capsys):
    assert run(capsys, "plan", "--list-hosts", "-i", inventory)[:2] == (0, "box\nlb\n")
    assert run(capsys, "deploy", "--list-hosts", "-i", inventory, "-l", "box")[1] == "box\nlb  only balancer\n"
    assert run(capsys, "verify", "--list-hosts", "-i", inventory, "-t", "ollama", "-l", "box")[1] == "box\n"
    assert run(capsys, "plan", "--list-hosts", "-i", inventory, "-l", "bxo")[0] == 2


def test_list_steps_names_the_steps_of_the_selected_roles(inventory, capsys):
    code, out, _ = run(capsys, "verify", "--list-steps", "-i", inventory, "-l", "box", "-t", "models")
    assert (code, out.split()) == (0, ["box", "models", "model:ollama1/m", "models", "resident:ollama1"])
    code, out, _ = run(capsys, "plan", "--list-steps", "--json", "-i", inventory, "-l", "box")
    box, lb = json.loads(out)["hosts"]
    assert (box["chosen"], lb["chosen"], lb["roles"]) == (True, False, ["balancer"])
    assert {"step": "container:ollama1", "role": "ollama"} in box["steps"]
    assert {step["role"] for step in lb["steps"]} == {"balancer"}


def test_a_list_does_not_go_with_resume(inventory, capsys):
    code, _, err = run(capsys, "deploy", "--list-hosts", "--resume", "20261122T081140Z-585d", "-i", inventory)
    assert (code, "leave out --list-hosts" in err) == (2, True)


@pytest.mark.parametrize("words", [["plan", "--exit-code"], ["deploy", "--check", "--exit-code"]])
def test_the_exit_code_of_a_plan_tells_a_change(noting, request_of, capsys, words):
    assert run(capsys, *words, *HERE, setup=noting())[0] == 5
    actions.deploy(request_of())
    assert run(capsys, *words, *HERE, setup=noting())[0] == 0


def test_a_deploy_without_check_has_no_exit_code_of_a_plan(inventory, capsys):
    code, _, err = run(capsys, "deploy", "--yes", "--exit-code", "-i", inventory)
    assert (code, "--check" in err) == (2, True)


@pytest.mark.parametrize("words", [["plan"], ["deploy", "--check"]])
def test_a_plan_shows_what_changes_in_files_unless_it_shall_not(noting, tmp_path, capsys, words):
    (tmp_path / "gpu-01.note").write_text("before")
    assert "before" in run(capsys, *words, *HERE, setup=noting())[1]
    assert "before" in run(capsys, *words, "-D", *HERE, setup=noting())[1]
    assert "before" not in run(capsys, *words, "--no-diff", *HERE, setup=noting())[1]


def test_the_user_and_the_key_of_the_command_line_win(inventory, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    request = actions.Request(inventory, extra_vars=("ansible_user=no",), user="joe", private_key="keys/id")
    connection = selected(request).hosts[0].host.connection
    assert (connection.user, connection.key_files) == ("joe", (str(tmp_path / "keys/id"),))
    code, _, err = run(capsys, "plan", "-u", "joe public", "-i", inventory)
    assert (code, "ansible_user: must be a user name" in err) == (2, True)
    _, out, _ = run(capsys, "deploy", "--yes", "-q", "-u", "yes", "--private-key", "my key", "-i", inventory)
    assert "-u yes --private-key 'my key'" in out, "the command that tries again logs in likewise"


def test_the_inventory_may_stand_before_the_command(inventory, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("PROVISION_INVENTORY", "/nowhere")
    assert run(capsys, "-i", inventory, "plan", "--list-hosts")[1] == "box\nlb\n"
    assert run(capsys, "-i", inventory, "inventory", "check")[0] == 0
    assert run(capsys, "-i", "/nothing", "plan", "--list-hosts", "-i", inventory)[0] == 0, "the command's own wins"
    code, _, err = run(capsys, "plan", "--list-hosts")
    assert (code, "/nowhere" in err) == (2, True)


def test_the_version_has_a_short_option(capsys):
    assert run(capsys, "-V") == run(capsys, "--version")
    assert run(capsys, "-V")[1].startswith("provision, version ")


@pytest.mark.parametrize("words", [[], ["plan"], ["lock", "status"], ["inventory"]])
def test_help_of_a_command_is_what_its_option_says(capsys, words):
    assert run(capsys, "help", *words) == run(capsys, *words, "--help")


@pytest.mark.parametrize("words", [["depoly"], ["plan", "x"], ["lock", "statsu"]])
def test_help_of_no_command_is_wrong_usage(capsys, words):
    code, _, err = run(capsys, "help", *words)
    assert (code, f"no such command: {' '.join(words)}" in err) == (2, True)


def test_help_imports_nothing_heavy_and_takes_little_time():
    program = (
        "import sys, resource, provision.cli as c; c.execute(['--help'])\n"
        "heavy = {'provision.inventory', 'provision.actions', 'pydantic', 'yaml', 'rich', 'fabric'} & {*sys.modules}\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_utime, *heavy, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    seconds, *heavy = done.stderr.split()
    assert not heavy
    assert float(seconds) < 0.3


@pytest.mark.parametrize("words", [["--no-color", "plan"], ["plan", "--no-color"]])
def test_no_color_wins_over_a_wish_for_colours(inventory, words):
    program = f"import sys; sys.stdout.isatty = lambda: True; from provision.cli import main; main({words!r})"
    env = {**os.environ, "PROVISION_INVENTORY": inventory, "FORCE_COLOR": "1", "TERM": "xterm"}
    env.pop("NO_COLOR", None)
    for text, coloured in ((program, False), (program.replace("'--no-color'", "*[]"), True)):
        done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=False, env=env)
        assert done.returncode == 4, done
        assert ("\x1b[" in done.stdout) == coloured, done.stdout


@pytest.mark.parametrize(
    ("words", "command"),
    [
        (["depoly", "--json"], ""),
        (["plan", "--json", "--nix"], "plan"),
        (["plan", "--json", "-f", "many"], "plan"),
        (["lock", "acquire", "--json"], "lock acquire"),
        (["inventory", "show", "--json", "a", "b"], "inventory show"),
    ],
)
def test_wrong_usage_is_a_document_too(capsys, words, command):
    code, out, err = run(capsys, *words)
    found = json.loads(out)
    assert (code, found["exit"], found["command"], found["hosts"]) == (2, 2, command, [])
    assert found["error"]["message"] in err


def test_show_without_a_run_shows_the_last_one(request_of, noting, capsys):
    code, _, err = run(capsys, "show", "-i", "inventory.yaml", setup=noting())
    assert (code, "no run has changed these hosts" in err) == (2, True)
    runs = [actions.deploy(request_of(limit=(name,))).run_id for name in ("gpu-01", "gpu-02")]
    code, out, _ = run(capsys, "show", "--json", "-i", "inventory.yaml", setup=noting())
    assert (code, json.loads(out)["run"]) == (0, max(runs)), "of two runs in one second the name decides"


def instance(host, name):
    return Instance(host=host, name=name, gpus=(0,), port=3001)


def fleet():
    gpu = [
        Host(
            name=name,
            groups=("gpu", rack),
            connection=Connection(address=name),
            instances=tuple(instance(name, one) for one in instances),
        )
        for name, rack, instances in (("a", "r1", ("o1", "o2")), ("b", "r1", ("o1",)), ("c", "r2", ("x1",)))
    ]
    lb = Host(name="lb", groups=("balancer", "r1"), connection=Connection(address="lb"))
    return Inventory(path="x", hosts=(*gpu, lb))


@pytest.mark.parametrize(
    ("words", "limit", "expected"),
    [
        (["a"], [], "a/o1 a/o2"),
        (["a/o2", "c"], [], "a/o2 c/x1"),
        (["r1"], [], "a/o1 a/o2 b/o1"),
        (["r1/o1"], [], "a/o1 b/o1"),
        (["all"], [], "a/o1 a/o2 b/o1 c/x1"),
        (["all/x*"], [], "c/x1"),
        (["~[bc]"], [], "b/o1 c/x1"),
        (["gpu", "!a"], [], "b/o1 c/x1"),
        (["b", "a", "!a"], [], "b/o1"),
        (["gpu:&r1"], [], "a/o1 a/o2 b/o1"),
        (["!r1"], [], "c/x1"),
        (["all"], ["r1"], "a/o1 a/o2 b/o1"),
        (["gpu"], ["!a,!lb"], "b/o1 c/x1"),
    ],
)
def test_patterns_choose_instances(words, limit, expected):
    found = chosen(fleet(), limit, words)
    assert [f"{host.name}/{name}" for host, names in found for name in names] == expected.split()


@pytest.mark.parametrize(
    ("words", "limit", "message"),
    [
        (["d"], [], "no such gpu host: d"),
        (["lb"], [], "no such gpu host: lb"),
        (["b"], ["a"], "no such gpu host: b"),
        (["r2/o1"], [], "r2 has no instance o1"),
        (["b", "!b"], [], "no instance is selected by b !b"),
        (["all"], ["lb"], "--limit selects no gpu host"),
    ],
)
def test_patterns_that_choose_no_instance_are_refused(words, limit, message):
    with pytest.raises(UsageError) as caught:
        chosen(fleet(), limit, words)
    assert caught.value.message == message


@pytest.mark.parametrize("command", ["drain", "undrain"])
@pytest.mark.parametrize(
    ("words", "said"),
    [([], "no instance is named"), (["box", "--all"], "do not go together"), (["-l", "lb"], "selects no gpu host")],
)
def test_all_instances_are_meant_by_all_alone(inventory, capsys, command, words, said):
    code, _, err = run(capsys, command, *words, "-i", inventory)
    assert (code, said in err) == (2, True)


@pytest.mark.parametrize("words", [["--all"], ["-l", "gpu"], ["~b[ou]x"]])
def test_a_drain_by_pattern_reaches_the_balancers(inventory, capsys, words):
    code, out, _ = run(capsys, "drain", *words, "--force", "-i", inventory)
    assert (code, "lb  box/ollama1  UNREACHABLE" in out) == (4, True), out


@pytest.mark.parametrize(
    "words",
    [["history"], ["show", "20261122T081140Z-585d"], ["lock", "status"], ["trust"], ["drain", "box"], ["plan"]],
)
def test_commands_that_ask_hosts_take_the_same_options(inventory, capsys, words):
    own = ["--force"] if words[0] == "drain" else []
    code, out, _ = run(
        capsys, *words, *own, "-f", "1", "-u", "me", "-l", "all", "--no-color", "--json", "-i", inventory
    )
    assert (code, json.loads(out)["exit"]) == (4, 4)


def test_the_help_of_trust_says_that_a_password_has_no_effect(capsys):
    assert "Without effect: this command logs in to no host" in " ".join(run(capsys, "trust", "--help")[1].split())
    assert "Without effect" not in run(capsys, "history", "--help")[1]


def test_trust_asks_for_no_password_and_tells_programs_the_keys(inventory, capsys):
    code, out, _ = run(capsys, "trust", "-K", "--json", "-i", inventory)
    found = json.loads(out)
    assert (code, found["written"]) == (4, [])
    assert [(host["host"], host["result"], host["key"]) for host in found["hosts"]] == [
        ("box", "unreachable", None),
        ("lb", "unreachable", None),
    ]


def test_durations_and_shares_of_a_load_test_have_a_name(capsys):
    out = run(capsys, "loadtest", "--help")[1]
    for option in ("--duration DURATION", "--timeout DURATION", "--stop-at-failures SHARE", "--margin SHARE"):
        assert option in out
    assert "TEXT" not in out


def test_a_limit_of_inventory_check_is_checked_and_counts(inventory, capsys):
    assert "1 host, 1 group, 1 instance;" in run(capsys, "inventory", "check", "-l", "box", "-i", inventory)[1]
    code, _, err = run(capsys, "inventory", "check", "-l", "bxo", "-i", inventory)
    assert (code, "did you mean box?" in err) == (2, True)


def completed(*words):
    env = {**os.environ, "_PROVISION_COMPLETE": "bash_complete"}
    env |= {"COMP_WORDS": " ".join(["provision", *words]), "COMP_CWORD": str(len(words))}
    done = subprocess.run([sys.executable, "-m", "provision"], capture_output=True, text=True, check=True, env=env)
    return done.stdout.split()


def test_the_shell_completes_commands_options_roles_and_files():
    assert completed("dr") == ["plain,drain"]
    assert completed("lock", "s") == ["plain,status"]
    assert completed("plan", "--list-") == ["plain,--list-hosts", "plain,--list-steps"]
    assert completed("plan", "-t", "o") == ["plain,ollama"]
    assert completed("plan", "-i", "inv") == ["file,inv"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_readme_says_how_the_shell_learns_it(shell):
    readme = (test_actions.ROOT / "README.md").read_text()
    assert f"{shell}_source" in readme
    env = {**os.environ, "_PROVISION_COMPLETE": f"{shell}_source"}
    done = subprocess.run([sys.executable, "-m", "provision"], capture_output=True, text=True, check=True, env=env)
    assert "_PROVISION_COMPLETE" in done.stdout
    if shell == "bash":
        subprocess.run(["bash", "-n"], input=done.stdout, text=True, check=True)


@pytest.mark.parametrize("words", [[], ["lock"], ["inventory"], ["lab"]])
def test_the_help_of_a_group_fits_eighty_columns_and_cuts_no_sentence(words):
    env = {**os.environ, "COLUMNS": "80"}
    argv = [sys.executable, "-m", "provision", *words, "--help"]
    shown = subprocess.run(argv, capture_output=True, text=True, check=True, env=env).stdout
    assert "..." not in shown.partition("Commands:")[2]
    assert max(map(len, shown.splitlines())) <= 80
