"""The screens of a bad day, as an operator reads them on a terminal of 80 columns.

Every screen comes from the report code of the command and from real results. After a change that is meant to change
screens: PROVISION_GOLDEN=write, then read the diff.
"""

import contextlib
import dataclasses
import io
import os
from pathlib import Path

import pytest

from provision import cli
from provision.actions import DeployResult, DoctorResult, Pace, Plan, Request, VerifyResult
from provision.actions.facts import DockerFacts, Facts, HostReport
from provision.actions.history import History, RunStory
from provision.actions.lock import Locks
from provision.actions.status import status
from provision.apply import diagnostics
from provision.command import Answer, run
from provision.doctor.examine import Diagnosis
from provision.doctor.finding import bad, good, risk
from provision.errors import LockedError, UnreachableError
from provision.events import Event
from provision.plan import role_interface, vocabulary
from provision.plan.planner import Change, HostPlan, make_change
from provision.plan.role_interface import Entry
from provision.report import doctor as doctor_report
from provision.report import facts as facts_report
from provision.report import history as history_report
from provision.report import lock as lock_report
from provision.report import plan as plan_report
from provision.report import recap as recap_report
from provision.report import status as status_report
from provision.report import verify as verify_report
from provision.report.progress import Progress
from provision.rollout.outcome import Outcome
from provision.runs import lock
from provision.runs.context import Stopped
from provision.runs.history import ChangeRecord, Story
from provision.runs.history import Entry as Run
from provision.runs.log import Log
from provision.steps.base import Check
from provision.steps.card_details import CardDetails, Details, Report
from provision.steps.docker.gpu_processes import Application, Listing
from provision.steps.facts import Card, HostFacts
from provision.steps.instance.container import Container
from provision.steps.nginx.build import Build
from provision.steps.nvidia_smi import MigDevice
from provision.steps.ollama.engine import OLLAMA
from provision.steps.system.machine import FileSystem, Machine
from provision.verify.checks import HostResult, StepResult
from provision.verify.failure import CONNECTION
from tests.unit import status_fleet

SCREENS = Path(__file__).parent.parent / "screens"
COLUMNS = 80
RUN = "20261130T021500Z-5e1f"
FLEET = """\
all: {vars: {nginx: {accept_known_vulnerabilities: true}}}
gpu:
  hosts:
    gpu-01: {ansible_host: 10.0.0.11}
    gpu-02: {ansible_host: 10.0.0.12}
  vars:
    ollama: {models: ["llama3.1:8b"], instances: [{gpus: [0]}, {gpus: [1]}]}
balancer:
  hosts:
    lb-01: {ansible_host: 10.0.0.5}
"""
MANY = """\
all: {vars: {nginx: {accept_known_vulnerabilities: true}}}
gpu:
  hosts: {"gpu-[001:200]": {}}
  vars:
    ollama: {models: ["llama3.1:8b"], instances: [{gpus: [0]}, {gpus: [1]}]}
balancer:
  hosts: {lb-01: {}}
"""


class Terminal(io.StringIO):
    """A terminal that does not say how wide it is: that means 80 columns."""

    def isatty(self):
        return True


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """A folder with the inventory; a screen without colours."""
    (tmp_path / "inventory.yaml").write_text(FLEET)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("COLUMNS", raising=False)
    monkeypatch.setenv("NO_COLOR", "1")


@contextlib.contextmanager
def screen(name):
    """Compares what is printed with the golden screen of a name."""
    terminal = Terminal()
    with contextlib.redirect_stdout(terminal), contextlib.redirect_stderr(terminal):
        yield
    golden = SCREENS / f"{name}-{COLUMNS}.txt"
    if os.environ.get("PROVISION_GOLDEN") == "write":
        golden.write_text(terminal.getvalue())
    assert terminal.getvalue() == golden.read_text()


@pytest.mark.parametrize("path", sorted(SCREENS.glob("*.txt")), ids=lambda path: path.stem)
def test_no_line_is_longer_than_the_terminal(path):
    assert [line for line in path.read_text().splitlines() if len(line) > COLUMNS] == []


def test_every_screen_belongs_to_a_test():
    here = Path(__file__).read_text()
    assert [
        path.stem for path in SCREENS.glob("*.txt") if f'"{path.stem.removesuffix(f"-{COLUMNS}")}"' not in here
    ] == []


def inventory():
    return role_interface.load("inventory.yaml")


def no_answer(host):
    """What `open_connection` raises for a host that is switched off."""
    hint = "check the address, the route and the firewall"
    return UnreachableError(f"tcp {host.connection.address}:22 does not answer within 10 s", hint)


def container(image="ollama/ollama:0.34.4", **variables):
    environment = {"OLLAMA_KEEP_ALIVE": "-1", "OLLAMA_NUM_PARALLEL": "1", **variables}
    return Container(
        name="ollama1", engine=OLLAMA, image=image, gpus=(0,), port=3001, address="10.0.0.11", environment=environment
    )


FACTS = HostFacts(cards=(Card(0, "GPU-1", "NVIDIA L40S", "590.48.01", 8.9, 46068),), addresses=("10.0.0.11",))


def upgrade(name="ollama1"):
    """A container that gets another image and another variable."""
    step = dataclasses.replace(container(OLLAMA_CONTEXT_LENGTH="8192"), name=name)
    before = dataclasses.replace(step, image="ollama/ollama:0.33.0", environment={"OLLAMA_CONTEXT_LENGTH": "4096"})
    return make_change(Entry("ollama", step), before.want(FACTS, None), step.want(FACTS, None))


def result(code, outcomes, **request):
    asked = Request("inventory.yaml", **request)
    return DeployResult(RUN, "deploy", asked, Pace(), inventory(), outcomes, code)


def recap(code, *outcomes, events=(), **request):
    progress = Progress(as_json=False, verbose=False)
    for host in inventory().hosts:
        progress(Event(host.name, "selected"))
    for event in events:
        progress(event)
    progress(Event("", "over"))
    recap_report.show(result(code, outcomes, **request), as_json=False, warned=False)


PLANNED = HostPlan((upgrade(), upgrade("ollama2")), 40)


def test_a_host_that_dies_in_a_roll():
    dead = no_answer(inventory().hosts[1])
    halted = f"not taken out of the upstream: gpu-02/ollama1: {dead.message}"
    dead.step = "container:ollama1"
    with screen("dead-host-deploy"):
        recap(
            7,
            Outcome("gpu-01", PLANNED, error=Stopped(halted, "repair the cause, then deploy again"), seconds=61.2),
            Outcome("gpu-02", PLANNED, error=dead, seconds=74.9, down=frozenset({"gpu-02/ollama1"})),
            Outcome("lb-01", HostPlan(steps=14), reloads=2, seconds=1.9, down=frozenset({"gpu-02/ollama1"})),
            events=[
                Event("gpu-02", "unreachable", dead.step, dead.message),
                Event("gpu-01", "stopped", "container:ollama1", halted),
            ],
        )


def test_a_plan_with_a_dead_host():
    first, second, third = inventory().hosts
    outcomes = [
        Outcome("gpu-01", PLANNED),
        Outcome("gpu-02", error=no_answer(second)),
        Outcome("lb-01", HostPlan(steps=14)),
    ]
    assert (first.name, third.name) == ("gpu-01", "lb-01")
    with screen("dead-host-plan"):
        plan_report.show(Plan(inventory(), outcomes, 4), 4, as_json=False, detail=plan_report.Detail())


def test_a_verification_with_a_dead_host():
    passed = [Check("as declared", True, True)]
    names = ["container:ollama1", "model:ollama1/llama3.1:8b", "resident:ollama1"]
    dead = no_answer(inventory().hosts[1])
    waits = [StepResult(name, "ollama", problem=dead.message, waits_for=CONNECTION) for name in names]
    members = Check("instances that get requests", ["gpu-01/ollama1"], ["gpu-01/ollama1", "gpu-02/ollama1"])
    elsewhere = [StepResult("config:balancer", "balancer", [members])]
    results = [
        HostResult("gpu-01", [StepResult(name, "ollama", passed) for name in names], seconds=3.1),
        HostResult("gpu-02", waits, dead, seconds=10.2),
        HostResult("lb-01", elsewhere, seconds=1.4),
    ]
    with screen("dead-host-verify"):
        verify_report.show(Request("inventory.yaml"), VerifyResult(inventory(), results, 5), as_json=False)


def test_a_fleet_that_does_not_answer(tmp_path):
    (tmp_path / "inventory.yaml").write_text(MANY)
    hosts = inventory().hosts
    errors = {host.name: no_answer(host) for host in hosts}
    with screen("dead-fleet-deploy"):
        recap(
            4,
            *(Outcome(host.name, error=errors[host.name], seconds=10.0) for host in hosts),
            events=[Event(name, "unreachable", "", error.message) for name, error in errors.items()],
        )


def held(who="alice@desk", by_hand=""):
    """What a host says of a lock that somebody else has."""
    lease = "by-hand" if by_hand else "9170"
    return f"{RUN} {lease} 8800 9000 yes {who}\n{by_hand}\n"


def locked():
    with pytest.raises(LockedError) as caught:
        lock.HostLock().checked(Answer(lock.EXIT_HELD, b"", held().encode()))
    caught.value.step = "container:ollama1"
    return caught.value


def test_hosts_that_another_operator_has():
    with screen("locked-deploy"):
        recap(
            6,
            Outcome("gpu-01", PLANNED, error=locked(), seconds=2.0),
            Outcome("gpu-02", PLANNED, error=locked(), seconds=2.1),
            Outcome("lb-01", HostPlan(steps=14), seconds=1.2),
            events=[Event(name, "locked", "container:ollama1", locked().message) for name in ("gpu-01", "gpu-02")],
        )


def test_the_state_of_a_fleet_on_a_bad_day(tmp_path):
    sick = status_fleet.sick(tmp_path)
    with screen("bad-day-status"):
        status_report.show(status(sick.request), as_json=False)


def test_the_page_about_the_state_shows_the_screen_of_the_test():
    page = (SCREENS.parents[1] / "docs" / "status.md").read_text()
    whole = (SCREENS / "bad-day-status-80.txt").read_text()
    shown = "".join(f"    {line}".rstrip() + "\n" for line in whole.split("\nlast run")[0].splitlines())
    assert shown.strip() in page


def test_the_state_of_a_fleet_that_is_well(tmp_path):
    well = status_fleet.StatusFleet(tmp_path)
    with screen("well-fleet-status"):
        status_report.show(status(well.request), as_json=False)


def test_the_doctor_of_a_bad_site():
    def found(check, finding):
        return dataclasses.replace(finding, check=check)

    held = bad(
        "port 3001 of ollama1 is taken by gitea (pid 77, /usr/bin/gitea)",
        'systemctl disable --now "$(ps -o unit= -p 77)"',
    )
    clock = risk(
        "the clock agrees with this machine's, but no service keeps it right", "timedatectl set-ntp true", "NTP=no"
    )
    ssh = bad(no_answer(inventory().hosts[1]).message, "ssh -v root@10.0.0.12 true", "check the firewall", here=True)
    full = bad(
        "/var/lib/docker has 3.0 GB free and needs 9.1 GB: image:ollama/ollama:0.34.4 6.0 GB, and 0.8 GB to spare",
        "du -xhd3 -- '/var/lib/docker with a long name of its own, as somebody called it' | sort -h | tail",
        "or name a larger disk: docker.data_root",
    )
    passed = tuple(found(name, good("is well")) for name in ("ssh", "sudo", "distribution"))
    hosts = [
        Diagnosis("gpu-01", (*passed, found("time", clock), found("disks", full), found("ports", held)), (), 2.4),
        Diagnosis("gpu-02", (found("ssh", ssh),), ("sudo", "disks", "ports"), 10.1),
        Diagnosis("lb-01", (*passed, found("time", clock)), (), 1.1),
    ]
    with screen("bad-site-doctor"):
        doctor_report.show(DoctorResult(inventory(), hosts, (), 5), as_json=False)


def test_whose_the_locks_are():
    [first, second, third] = inventory().hosts
    holder = lock.HostLock().holder_of(Answer(0, held().encode()))
    by_hand = lock.HostLock().holder_of(Answer(0, held("bob@desk", "a new fan in gpu-02").encode()))
    hosts = [(first, holder), (second, by_hand), (third, None)]
    with screen("locked-status"):
        lock_report.show("lock status", Locks(inventory(), hosts, 0, lambda holder: None), as_json=False)


SAID = 'ollama1 did not end a streamed answer of llama3.1:8b well (status 500): {"error":"llama runner has terminated"}'
LOG = f"""\
{SAID}
time=2026-11-30T02:16:08.120Z level=INFO source=routes.go:1298 msg="Listening on [::]:11434 (version 0.34.4)"
time=2026-11-30T02:16:09.377Z level=ERROR source=sched.go:441 msg="error loading llama server" error="out of memory"
"""


def test_an_instance_that_fails_its_test():
    change = upgrade()
    failed = diagnostics.command_failed(
        change, run("true", title="test ollama1: version, one streamed answer, cards"), Answer(1, b"", LOG.encode())
    )
    failed.step = "container:ollama1"
    halted = "not taken out of the upstream: gpu-01/ollama1: ollama1 did not end a streamed answer of llama3.1:8b well"
    with screen("failed-gate-deploy"):
        recap(
            7,
            Outcome("gpu-01", PLANNED, ["container:ollama1"], failed, 41.7, down=frozenset({"gpu-01/ollama1"})),
            Outcome("gpu-02", PLANNED, [], Stopped(halted, "repair the cause, then deploy again"), 43.0),
            Outcome("lb-01", HostPlan(steps=14), reloads=1, seconds=1.6),
            events=[
                Event("gpu-01", "changed", "container:ollama1", change.reason, 12.4),
                Event("gpu-01", "failed", failed.step, failed.message),
                Event("gpu-02", "stopped", "container:ollama1", halted),
            ],
        )


PULL = """\
Error response from daemon: manifest for ollama/ollama:0.99.0 not found: manifest unknown: manifest unknown
try 1 of 3 failed, the next in 2 s
Error response from daemon: manifest for ollama/ollama:0.99.0 not found: manifest unknown: manifest unknown
try 2 of 3 failed, the next in 4 s
Error response from daemon: manifest for ollama/ollama:0.99.0 not found: manifest unknown: manifest unknown
"""


def failing(command, evidence, code=1):
    change = Change("ollama", dataclasses.replace(container(), name="ollama1"), "change", "other image")
    return diagnostics.command_failed(change, run("true", title=command), Answer(code, b"", evidence.encode()))


def test_an_image_that_does_not_exist():
    errors = [failing("docker pull ollama/ollama:0.99.0", PULL) for _ in range(2)]
    with screen("bad-image-deploy"):
        recap(
            3,
            Outcome("gpu-01", PLANNED, error=errors[0], seconds=9.3),
            Outcome("gpu-02", PLANNED, error=errors[1], seconds=9.1),
            Outcome("lb-01", HostPlan(steps=14), seconds=1.1),
            events=[Event(f"gpu-0{n}", "failed", "container:ollama1", errors[0].message) for n in (1, 2)],
        )


FULL = """\
printf: write error: No space left on device
/var/lib/provision cannot be written:
Filesystem     1K-blocks     Used Available Use% Mounted on
/dev/nvme0n1p2 459850824 459850824         0 100% /
"""


def test_a_full_disk():
    error = failing("keep /etc/provision/ollama/ollama1.env", FULL)
    with screen("full-disk-deploy"):
        recap(
            3,
            Outcome("gpu-01", PLANNED, error=error, seconds=3.3),
            Outcome("gpu-02", PLANNED, ["container:ollama1", "container:ollama2"], seconds=64.0),
            Outcome("lb-01", HostPlan(steps=14), reloads=4, seconds=2.2),
            events=[Event("gpu-01", "failed", error.step, error.message)],
        )


def dead_run():
    boot = {"machine": "desk", "pid": 4242, "started": "1", "boot": "2"}
    died = Log(RUN, "deploy", str(Path("inventory.yaml").resolve()), who="ops@desk", **boot)
    return dataclasses.replace(died, machine=os.uname().nodename)


def entry(outcome, **more):
    return Run(run=RUN, time="2026-11-30T02:15:00+00:00", who="ops@desk", command="deploy", result=outcome, **more)


def test_the_history_after_a_run_was_killed():
    before = dataclasses.replace(entry("changed", changes=6), run="20261129T090100Z-77aa", time="2026-11-29T09:01:00")
    runs = [
        ("unfinished", 1, "container:ollama1"),
        ("changed", 2, ""),
        ("changed", 4, ""),
    ]
    hosts = [
        (host, [entry(word, changes=changes, step=step), before])
        for host, (word, changes, step) in zip(inventory().hosts, runs, strict=True)
    ]
    with screen("killed-run-history"):
        history_report.show_history(History(inventory(), hosts, 0, dead_run()), 20, as_json=False)


def test_what_a_killed_run_did():
    first, second, third = inventory().hosts
    change = upgrade()
    made = ChangeRecord("container:ollama1", "ollama", "change", change.reason, change.have, change.want, True)
    done = dataclasses.replace(made, result="done")
    marks = [
        ChangeRecord(
            "config:balancer",
            "balancer",
            "change",
            f"gpu-0{n}/ollama{m} {word}",
            {"id": "a"},
            {"id": "b"},
            True,
            "done",
        )
        for n in (1, 2)
        for m in (1, 2)
        for word in ("down", "up")
    ]
    hosts = [
        (first, Story(entry("unfinished", changes=1, step="container:ollama1"), (made,))),
        (second, Story(entry("changed", changes=1), (done,))),
        (third, Story(entry("changed", changes=8), tuple(marks))),
    ]
    words = vocabulary.vocabularies(inventory())
    with screen("killed-run-show"):
        history_report.show_story(RunStory(inventory(), hosts, 0, RUN, dead_run(), words), as_json=False)


def test_the_plan_after_a_run_was_killed():
    build = role_interface.steps(inventory().hosts[2], inventory())
    [nginx] = [one for one in build if isinstance(one.step, Build)]
    planned = make_change(nginx, None, {"prefix": "/opt/x", "recipe": "r", "platform": "debian-13-amd64", "open": []})
    outcomes = [
        Outcome("gpu-01", HostPlan((upgrade(),), 40)),
        Outcome("gpu-02", HostPlan(steps=40)),
        Outcome("lb-01", HostPlan((planned,), 14)),
    ]
    found = Plan(inventory(), outcomes, 0, (dead_run().epitaph,))
    with screen("killed-run-plan"):
        plan_report.show(found, 0, as_json=False, detail=plan_report.Detail())


def test_the_locks_that_a_killed_run_left():
    [first, second, third] = inventory().hosts
    holder = lock.HostLock().holder_of(Answer(0, held("ops@desk").encode()))
    hosts = [(first, holder), (second, None), (third, holder)]
    with screen("killed-run-locks"):
        lock_report.show("lock status", Locks(inventory(), hosts, 0, lambda holder: dead_run()), as_json=False)


GIB = 2**30
CARD, HALF = "GPU-2a5a1a52-9d0c-4a3e-8d34-0d8f4f7a0001", "GPU-2a5a1a52-9d0c-4a3e-8d34-0d8f4f7a0002"


def report(cards=(), driver_error="", details=(), processes=None, **docker):
    system = {"distribution": "debian", "version": "13", "codename": "trixie", "architecture": "amd64"}
    disks = (FileSystem("/", "ext4", 98 * GIB, 35 * GIB), FileSystem("/srv/models", "xfs", 1800 * GIB, 9 * GIB))
    return HostReport(
        HostFacts(cards=cards, driver_error=driver_error, **system),
        Machine("6.12.48+deb13-amd64", 64, 504 * GIB, 480 * GIB, 86400, disks, "1.20.0-1"),
        DockerFacts(**docker),
        Details(dict(details)),
        processes,
        {"ollama1": "ollama1"},
    )


def test_the_facts_of_a_broken_fleet():
    first, second, third = inventory().hosts
    cards = (
        Card(0, CARD, "NVIDIA GeForce RTX 4080 SUPER", "590.48.01", 8.9, 16376, persistent=False),
        Card(1, HALF, "NVIDIA H100 80GB HBM3", "590.48.01", 9.0, 81559, mig=True, persistent=True),
    )
    xid = Report("2026-11-30T02:15:00+0000", "0000:01:00", 79, "pid=4242, name=ollama, GPU has fallen off the bus.")
    devices = (MigDevice("MIG-6a1f0c11-0d5e-5c3e-9d2c-2f2a3f4b0001", "3g.40gb"),)
    details = {
        CARD: CardDetails("00000000:01:00.0", 596, 15348, 320.0, reports=(xid,)),
        HALF: CardDetails("00000000:02:00.0", 59, 81022, 700.0, True, 0, "Default", True, False, "Reset", devices),
    }
    processes = (
        Application(CARD, 4242, "ollama", "ollama1", 15000, "root"),
        Application(CARD, 99, "kwin_wayland", "", 25, "alice"),
    )
    whole = report(cards, "", details, Listing(processes), state="running", version="29.1.3", cgroup_driver="systemd")
    broken = report(
        (),
        "the NVIDIA driver is not loaded: NVIDIA-SMI has failed because it couldn't communicate with "
        "the NVIDIA driver.",
        state="stopped",
        snap=True,
    )
    lost = UnreachableError("10.0.0.5:22 refuses the connection", "is sshd running?")
    with screen("broken-fleet-facts"):
        facts_report.show(Facts(inventory(), [(first, whole), (second, broken), (third, lost)], 4), as_json=False)


def test_a_model_that_fits_with_less_context():
    with screen("fit-context"):
        assert cli.execute(["fit", "--model", "deepseek-r1:32b", "--gpu", "RTX 4090", "--context", "32768"]) == 5


def test_a_model_over_several_cards():
    with screen("fit-cards"):
        assert cli.execute(["fit", "--model", "deepseek-r1:70b", "--gpu", "4x RTX 3090", "--context", "200000"]) == 0


def test_the_table_of_cards_and_models():
    with screen("fit-table"):
        assert cli.execute(["fit", "--table"]) == 0
