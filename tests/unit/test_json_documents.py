"""The JSON document of every command, on success and on failure, against the schema that is shipped."""

import copy
import dataclasses
import json
import os
import subprocess
import sys
from importlib.resources import files
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator

from provision import actions, cli, testing
from provision.actions.draining import Drain
from provision.actions.facts import DockerFacts, Facts, HostReport
from provision.actions.history import History, RunStory
from provision.actions.lock import Locks
from provision.actions.results import Answers, DrainResult, RollbackPlan, RollbackResult
from provision.actions.trust import SeenKey
from provision.cli.caller import Caller
from provision.errors import LockedError, UnreachableError
from provision.inventory import Connection, Host, Inventory
from provision.loadtest import session as loadtest
from provision.loadtest.capacity import Capacity, Step
from provision.loadtest.drive import Ended, Load
from provision.loadtest.measure import Tally, summary
from provision.loadtest.profile import Profile
from provision.loadtest.verdict import Verdict
from provision.report import console, drain, facts, history, lock, rollback, trust
from provision.report.plan import Detail
from provision.rollout.outcome import Outcome
from provision.runs.history import ChangeRecord, Entry, Story
from provision.runs.lock import Holder
from provision.runs.log import Log
from provision.runs.rollback_plan import Left, Undo
from provision.ssh.trust import Key
from provision.steps.card_details import CardDetails, Details, Report
from provision.steps.docker.gpu_processes import Application, Listing
from provision.steps.facts import Card, HostFacts
from provision.steps.nvidia_smi import MigDevice
from provision.steps.system.machine import FileSystem, Machine
from tests import json_page

from . import test_actions

noting = test_actions.noting  # a fixture: two hosts that are this machine's shell, and each should have a note
HERE = ["-i", "inventory.yaml", "-t", "docker", "--json"]
INVENTORY = """
all: {vars: {nginx: {accept_known_vulnerabilities: true}}}
gpu: {hosts: {box: {ansible_host: 127.0.0.1, ansible_port: 1, ollama: {models: [m], instances: [{gpus: [0]}]}}}}
balancer: {hosts: {lb: {ansible_host: 127.0.0.2, ansible_port: 1}}}
"""
RUN = "20261122T081140Z-585d"
SCHEMA = json.loads(files("provision.report").joinpath("schema.json").read_text())
HOST = Host(name="gpu-01", connection=Connection(address="192.0.2.1"))
LB = Host(name="lb-01", connection=Connection(address="192.0.2.2"))
FLEET = Inventory(path="x", hosts=(HOST, LB), warnings=("a warning",))
LOST = UnreachableError("no route")


def strict(schema):
    """Return a copy of the schema that refuses unnamed fields."""
    schema = copy.deepcopy(schema)
    waiting = [schema]
    while waiting:
        one = waiting.pop()
        if isinstance(one, dict):
            if "properties" in one and one.get("type") in ("object", ["object", "null"]):
                one["additionalProperties"] = False
            waiting += one.values()
        elif isinstance(one, list):
            waiting += one
    return schema


STRICT = strict(SCHEMA)


def checked(text):
    """Return the document in a text; assert the schema of the command, which names every field."""
    document = json.loads(text)
    kinds = [one["$ref"].rpartition("/")[2] for one in SCHEMA["anyOf"]]
    named = [
        kind for kind in kinds if document["command"] in SCHEMA["$defs"][kind]["properties"]["command"].get("enum", ())
    ]
    if "error" in document:
        named = ["failure"]
    elif document["command"] == "rollback":
        named = ["rollback" if "run" in document else "rollback_plan"]
    (kind,) = named
    validator = Draft202012Validator({"$ref": f"#/$defs/{kind}", "$defs": STRICT["$defs"]})
    problems = [f"{'.'.join(map(str, one.absolute_path))}: {one.message}" for one in validator.iter_errors(document)]
    assert problems == []
    Draft202012Validator(SCHEMA).validate(document)
    return document


@pytest.fixture
def document(capsys):
    """A function that runs a command line, and returns the checked document."""

    def run(*words, setup=None):
        code = cli.execute([*words], Caller(setup))
        found = checked(capsys.readouterr().out)
        assert found["exit"] == code
        return found

    return run


@pytest.fixture
def printed(capsys):
    """A function that returns the checked document on stdout."""
    return lambda: checked(capsys.readouterr().out)


@pytest.fixture
def inventory(tmp_path):
    path = tmp_path / "other.yaml"
    path.write_text(INVENTORY)
    return str(path)


def test_the_schema_is_valid():
    Draft202012Validator.check_schema(SCHEMA)


def test_a_document_with_an_unnamed_or_a_missing_field_does_not_fit(document, inventory):
    found = document("inventory", "check", "--json", "-i", inventory)
    for broken in ({**found, "more": 1}, {**found, "problems": None}, {k: v for k, v in found.items() if k != "exit"}):
        with pytest.raises((AssertionError, KeyError)):
            checked(json.dumps(broken))


def test_the_page_names_every_field_and_is_written_from_the_schema():
    page = Path(__file__).parents[2] / "docs" / "json.md"
    assert page.read_text() == json_page.text(SCHEMA), "`make example` writes docs/json.md"


def test_plans_deploys_and_verifications(noting, document, tmp_path):
    (tmp_path / "gpu-02.note").write_text("before")
    planned = document("plan", *HERE, setup=noting())
    assert [change["action"] for host in planned["hosts"] for change in host["changes"]] == ["add", "change"]
    assert document("deploy", "--check", "--exit-code", *HERE, setup=noting())["exit"] == 5
    assert document("verify", *HERE, setup=noting())["summary"]["failed"] == 2
    done = document("deploy", "--yes", *HERE, setup=noting())
    assert [host["changed"] for host in done["hosts"]] == [["note:gpu-01.note"], ["note:gpu-02.note"]]
    assert [change["step"] for host in done["hosts"] for change in host["changes"]] == [
        "note:gpu-01.note",
        "note:gpu-02.note",
    ]
    assert {change["reason"] for host in done["hosts"] for change in host["changes"]} == {
        change["reason"] for host in planned["hosts"] for change in host["changes"]
    }
    assert document("deploy", "--yes", *HERE, setup=noting())["summary"]["ok"] == 2
    assert document("verify", *HERE, setup=noting())["summary"]["failed"] == 0


def test_the_journal_and_the_locks_of_hosts_that_answer(noting, document):
    here = ["--json", "-i", "inventory.yaml"]
    run = document("deploy", "--yes", "-l", "gpu-01", *HERE, setup=noting())["run"]  # both keep one journal
    (listed,) = document("history", *here, setup=noting())["runs"]
    assert (listed["run"], listed["hosts"][0]["change_count"]) == (run, 1)
    shown = document("show", *here, setup=noting())
    assert (shown["run"], [change["step"] for change in shown["hosts"][0]["changes"]][:1]) == (
        run,
        ["note:gpu-01.note"],
    )
    undone = document("rollback", run, "--check", *HERE, setup=noting())
    assert (undone["of"], undone["summary"]["hosts"]) == (run, 2)
    (host,) = document("lock", "acquire", "-m", "a fan", "-l", "gpu-01", *here, setup=noting())["hosts"]
    assert (host["result"], host["lock"]["why"]) == ("ok", "a fan")
    (host,) = document("lock", "status", "-l", "gpu-01", *here, setup=noting())["hosts"]
    assert host["lock"]["left"] is None
    (host,) = document("lock", "release", "-l", "gpu-01", *here, setup=noting())["hosts"]
    assert host["lock"]["why"] == "a fan"
    (host,) = document("lock", "status", "-l", "gpu-01", *here, setup=noting())["hosts"]
    assert host["lock"] is None


@pytest.mark.parametrize("command", ["plan", "deploy", "verify"])
@pytest.mark.parametrize("option", ["--list-hosts", "--list-steps"])
def test_lists(document, inventory, command, option):
    found = document(command, option, "--json", "-i", inventory, "-l", "box")
    assert [(host["host"], host["chosen"]) for host in found["hosts"]] == [("box", True), ("lb", False)]


UNREACHABLE = [
    ["plan"],
    ["deploy", "--check"],
    ["deploy", "--yes"],
    ["verify"],
    ["drain", "box", "--force"],
    ["undrain", "box"],
    ["rollback", RUN, "--check"],
    ["rollback", RUN, "--yes"],
    ["history"],
    ["show", RUN],
    ["lock", "status"],
    ["lock", "acquire", "-m", "why"],
    ["lock", "release"],
    ["trust"],
    ["usage", "-l", "lb"],
]


@pytest.mark.parametrize("words", UNREACHABLE, ids=" ".join)
def test_hosts_that_cannot_be_reached(document, inventory, words):
    found = document(*words, "--json", "-i", inventory)
    assert found["exit"] == 4
    assert {host["result"] for host in found["hosts"]} == {"unreachable"}
    assert all(host["why"] for host in found["hosts"])


def test_the_doctor_of_hosts_that_cannot_be_reached(document, inventory):
    found = document("doctor", "--json", "-i", inventory)
    assert (found["exit"], found["summary"]) == (5, {"hosts": 2, "pass": 0, "warn": 0, "fail": 2})
    assert {host["checks"][0]["cure_on"] for host in found["hosts"]} == {"controller"}


@pytest.mark.parametrize(
    "words",
    [
        *UNREACHABLE,
        ["keys", "list"],
        ["keys", "add", "alice"],
        ["doctor"],
        ["rollback", "--yes"],
        ["show"],
        ["inventory", "show"],
        ["loadtest"],
    ],
    ids=" ".join,
)
def test_an_inventory_with_faults(document, tmp_path, words):
    path = tmp_path / "inventory.yaml"
    path.write_text("gpu: {hosts: {box: {olama: {}, ollama: {instnaces: []}}}}\n")
    run = [word for word in words if word != "--check"] if words[0] == "deploy" else words
    found = document(*run, *(["--yes"] if run == ["deploy"] else []), "--json", "-i", str(path))
    assert (found["exit"], found["hosts"]) == (2, [])
    assert any(problem["path"].endswith("instnaces") for problem in found["error"]["problems"])
    assert any("olama is no role" in warning for warning in found["warnings"])


@pytest.mark.parametrize(
    "words",
    [
        ["plan"],
        ["facts"],
        ["keys", "add"],
        ["usage"],
        ["lock", "acquire"],
        ["inventory", "check"],
        ["trust"],
        ["loadtest"],
        ["history"],
    ],
    ids=" ".join,
)
def test_wrong_usage(document, words):
    found = document(*words, "--json", "--no-such-option")
    assert (found["exit"], found["command"]) == (2, " ".join(words))
    assert "--no-such-option" in found["error"]["message"]


def test_a_run_nobody_knows_and_a_deploy_nobody_agreed_to(document, inventory):
    assert document("show", "RUN", "--json", "-i", inventory)["error"]["hint"]
    assert "--yes" in document("deploy", "--json", "-i", inventory)["error"]["hint"]
    assert document("rollback", "--json", "--yes", "-i", inventory)["exit"] == 4


def test_an_authority_and_the_certificates_of_balancers(document, inventory, tmp_path):
    assert document("ca", "init", "--json", "-i", inventory)["certificate"].endswith("/ca/ca.pem")
    assert document("ca", "init", "--json", "-i", inventory)["error"]["hint"]
    words = ["-i", inventory, "-e", "balancer.tls={authority: ca}"]
    assert [host["host"] for host in document("ca", "renew", "--json", *words)["hosts"]] == ["lb"]


def test_the_inventory(document, inventory, tmp_path):
    assert document("inventory", "check", "--json", "-i", inventory)["summary"]["hosts"] == 2
    assert [host["host"] for host in document("inventory", "show", "--json", "-i", inventory)["hosts"]] == ["box", "lb"]
    (tmp_path / "other.yaml").write_text("gpu: {hosts: {box: {ollama: {instnaces: []}}}}\n")
    assert document("inventory", "check", "--json", "-i", inventory)["problems"][0]["line"] == 1


def about(kind, outcomes, **more):
    return kind(RUN, "drain a/ollama1", actions.Request("x"), actions.Pace(), FLEET, outcomes, 6, **more)


def test_a_drain(printed):
    outcomes = [Drain("lb-01", ("a/ollama1",), changed=True), Drain("lb-02", error=LockedError("locked"))]
    drain.show(about(DrainResult, outcomes), as_json=True)
    assert [host["result"] for host in printed()["hosts"]] == ["changed", "locked"]


def test_a_rollback(printed):
    outcomes = [_outcome("gpu-01"), _outcome("lb-01", LOST)]
    undos = {"gpu-01": Undo(HOST, (), (Left("model:a/m", "models stay"),))}
    rollback.show(about(RollbackResult, outcomes, of=RUN, undos=undos), as_json=True)
    assert printed()["left"] == [{"host": "gpu-01", "step": "model:a/m", "why": "models stay"}]
    rollback.show_plan(RollbackPlan(FLEET, outcomes, 4, of=RUN, undos=undos), as_json=True, detail=Detail())
    assert printed()["summary"]["hosts"] == 2


def _outcome(name, error=None):
    return Outcome(name, changed=[] if error else ["file:/etc/x"], error=error, seconds=1.0)


LOG = Log(run=RUN, command="deploy", inventory="x")


def test_histories(printed):
    entry = Entry(RUN, "2026-11-22T08:11:42+00:00", "ops@desk", "deploy", 2, "failed", "container:ollama1", "why")
    found = [(HOST, [entry]), (LB, LOST)]
    history.show_history(History(FLEET, found, 4, LOG), 20, as_json=True)
    shown = printed()
    assert shown["runs"][0]["hosts"][0]["change_count"] == 2
    assert shown["unfinished"]["run"] == RUN
    made = ChangeRecord(
        "file:/x", "docker", "change", "text differs", {"text": "a"}, {"text": "b"}, True, "failed", 1, "why"
    )
    for story, result in ((Story(entry, (made,)), "failed"), (None, "none")):
        history.show_story(RunStory(FLEET, [(HOST, story), (LB, LOST)], 4, RUN, None), as_json=True)
        assert [host["result"] for host in printed()["hosts"]] == [result, "unreachable"]


@pytest.mark.parametrize("command", ["lock status", "lock acquire", "lock release"])
def test_locks(printed, command):
    by_run = Holder(RUN, "ops@desk", 60, 600, busy=True, why="")
    by_hand = Holder("", "ops@desk", 60, None, busy=False, why="a new fan")
    hosts = [(HOST, by_run), (HOST, by_hand), (HOST, None), (LB, LockedError("locked"))]
    lock.show(command, Locks(FLEET, hosts, 6, lambda run: LOG), as_json=True)
    assert [host["lock"] and host["lock"]["left"] for host in printed()["hosts"]] == [600, None, None, None]


def test_facts(printed):
    card = Card(0, "GPU-1", "H100", "590", 9.0, 81559)
    details = CardDetails(devices=(MigDevice("MIG-1", "3g.40gb"),), reports=(Report("", "0000:01:00", 79, "x"),))
    users = Listing((Application("GPU-1", 1, "ollama", "ollama1", None, "root"),))
    disks = (FileSystem("/", "ext4", 2, 1),)
    known = HostReport(
        HostFacts(cards=(card,)),
        Machine(disks=disks),
        DockerFacts("absent"),
        Details({"GPU-1": details}, details.reports),
        users,
        {"ollama1": "ollama1"},
    )
    facts.show(Facts(FLEET, [(HOST, known), (LB, LOST)], 4), as_json=True)
    whole, lost = printed()["hosts"]
    assert (lost["result"], lost["facts"]) == ("unreachable", None)
    assert whole["facts"]["cards"][0]["processes"][0]["instance"] == "ollama1"
    unknown = dataclasses.replace(known, processes=None, details=Details())
    facts.show(Facts(FLEET, [(HOST, unknown)], 0), as_json=True)
    assert printed()["hosts"][0]["facts"]["cards"][0]["processes"] is None


def test_host_keys(printed):
    seen = SeenKey(Key("192.0.2.1", "ssh-ed25519", "AAAA"), "new", (), "/root/.ssh/known_hosts")
    trust.document(Answers(FLEET, [(HOST, seen), (LB, LOST)], 4), {"/root/.ssh/known_hosts": 1}, 4)
    assert [host["result"] for host in printed()["hosts"]] == ["new", "unreachable"]


def test_load_tests(printed):
    load = Load(("http://x",), Profile("chat", "m", 8), 1, 1.0, 2.0, 60.0)
    found = summary(Tally(), {"a/ollama1": 1.0})
    verdicts = [Verdict("failures", "1%", "-", passed=False, value=None, bound=0.01)]
    step = Step(1, found, verdicts)
    for capacity in (None, Capacity([step], step, None, None)):
        result = loadtest.Result(load, found, Tally(), Ended(""), verdicts, ["slow"], capacity)
        console.document("loadtest", 5, [], **loadtest.document(result))
        assert printed()["verdict"][0]["value"] is None


@pytest.mark.parametrize(
    ("raised", "code", "said"),
    [("KeyError('surprise')", 1, "a bug of provision"), ("KeyboardInterrupt", 130, "interrupted")],
)
@pytest.mark.parametrize("words", [["plan"], ["inventory", "show"], ["lock", "status"]])
def test_a_bug_and_ctrl_c_are_documents_too(inventory, tmp_path, words, raised, code, said):
    text = f"import provision.plan.role_interface as s\ndef load(*_, **__): raise {raised}\ns.load = load\n"
    (tmp_path / "sitecustomize.py").write_text(text)
    argv = [sys.executable, "-m", "provision", *words, "--json", "-i", inventory]
    env = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(argv, capture_output=True, text=True, check=False, env=env, timeout=60)
    found = checked(done.stdout)
    assert (done.returncode, found["exit"], found["command"]) == (code, code, " ".join(words))
    assert said in found["error"]["message"]


def test_fits_of_hosts_name_the_reason_of_a_failed_host_as_the_screen_does(document, noting, capsys):
    hosts = {"192.0.2.1": testing.FakeHost(lost_at=frozenset({1, 2})), "192.0.2.2": testing.FakeHost()}
    setup = noting(lambda connection, password, paths: hosts[connection.address])
    words = ("--inventory", "inventory.yaml")
    found = document("fit", *words, "--json", setup=setup)
    assert found["exit"] == 4
    lost, other = found["hosts"]
    assert (lost["result"], other) == ("unreachable", {"host": "gpu-02", "result": "ok", "why": "", "hint": ""})
    assert cli.execute(["fit", *words], Caller(setup)) == 4
    screen = " ".join(capsys.readouterr().out.split())
    assert lost["why"].removeprefix("gpu-01: ") in screen
    assert lost["hint"] in screen


def test_fits_and_the_table_of_cards(document):
    words = ("fit", "--model", "deepseek-r1:32b", "--gpu", "RTX 4090", "--json")
    assert document(*words)["fit"]["kind"] == "fits"
    short = document(*words, "--context", "32768")
    assert short["exit"] == 5
    assert 4096 <= short["fit"]["proposal"]["context"] < 32768
    table = document("fit", "--table", "--json")
    assert len(table["table"][0]["cells"]) == 21
    assert document("fit", "--model", "deepseek-r1:33b", "--gpu", "T4", "--json")["error"]["message"].startswith(
        "the table has no"
    )
