"""The log that this machine keeps of its runs: which of them died, and going on with one."""

import dataclasses
import json
import os
import subprocess
import sys
from functools import partial

import pytest

from provision.actions import Pace, Request, resume
from provision.actions.lock import Locks
from provision.actions.run_session import Logged
from provision.cli import execute
from provision.errors import LockedError, UsageError
from provision.inventory import Connection, Host, Inventory
from provision.report import lock as report_lock
from provision.runs import lock
from provision.runs import log as runs
from provision.runs.lock import HostLock
from provision.runs.log import Log, Logs
from provision.testing import ShellHost

RUN, OTHER = "20261122T081140Z-585d", "20261122T091140Z-0001"
REQUEST = Request("inventory.yaml")
PACE = Pace("25%", True, "0")


@pytest.fixture
def logs():
    return Logs(runs.default_folder())


def gone():
    """The id of a process that is no more."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def log(**how):
    return Log(**{"run": RUN, "command": "deploy", "inventory": "/srv/prod.yaml", **how})


def test_a_log_can_be_read_again_and_only_by_its_owner(logs):
    logs.write(log(limit=("gpu",), tags=("nginx",), extra_vars=2))
    assert logs.find(RUN) == log(limit=("gpu",), tags=("nginx",), extra_vars=2, time=logs.find(RUN).time)
    modes = [path.stat().st_mode & 0o777 for path in (logs.folder, *logs.folder.iterdir())]
    assert modes == [0o700, 0o600]
    logs.write(dataclasses.replace(logs.find(RUN), exit=3, hosts={"gpu-01": "failed"}))
    assert (logs.find(RUN).exit, logs.find(RUN).hosts) == (3, {"gpu-01": "failed"})
    assert len(list(logs.folder.iterdir())) == 1


def test_a_run_is_dead_if_its_process_ended_without_a_result(logs):
    assert not log().is_dead, "it is this process"
    assert log(pid=gone()).is_dead
    assert log(started="1").is_dead, "the same number, another process"
    assert log(boot="before").is_dead, "the machine was booted since"
    assert not log(pid=gone(), exit=0).is_dead
    assert not log(pid=gone(), machine="another").is_dead, "what is elsewhere cannot be told"
    assert log(pid=gone(), started="", boot="").is_dead
    assert not log(pid=os.getppid(), started="", boot="").is_dead
    logs.write(log())
    logs.write(log(run=OTHER, pid=gone()))
    assert (logs.over(RUN), logs.over(OTHER).run) == (None, OTHER)
    assert (runs.is_over(RUN), runs.is_over(OTHER)) == (False, True)


@pytest.mark.parametrize(
    ("code", "result"), [(4, "unreachable"), (130, "stopped"), (3, "failed"), (130, "changed"), (0, "changed")]
)
def test_a_run_that_ended_on_this_machine_is_over_whatever_its_result(logs, code, result):
    logs.write(log(exit=code, hosts={"gpu-01": result}))
    assert logs.over(RUN).exit == code
    logs.write(log())
    assert logs.over(RUN) is None, "it was resumed, and runs"
    logs.write(log(exit=code, hosts={"gpu-01": result}, machine="another"))
    assert logs.over(RUN) is None


def test_a_run_id_from_a_host_cannot_name_another_file(logs):
    logs.write(log(exit=0))
    (logs.folder.parent / f"{RUN}.json").write_text((logs.folder / f"{RUN}.json").read_text())
    for name in (f"../{RUN}", str(logs.folder.parent / RUN), "..", "", "x" * 5000, "a\0b"):
        assert logs.over(name) is None


def test_the_last_run_of_an_inventory_is_unfinished_if_its_process_died(logs, tmp_path):
    mine = str(tmp_path / "prod.yaml")
    assert logs.unfinished(mine) is None
    logs.write(log(inventory=mine, pid=gone()))
    assert logs.unfinished(mine).run == RUN
    assert logs.unfinished(str(tmp_path / "x" / ".." / "prod.yaml")).run == RUN
    assert logs.unfinished(str(tmp_path / "other.yaml")) is None
    logs.write(log(inventory=mine, run=OTHER, command="undrain gpu-01", exit=0))
    assert logs.unfinished(mine).run == RUN, "what an operator takes out meanwhile ends no deploy"
    for how in ({"exit": 3}, {}):
        logs.write(log(inventory=mine, run=OTHER, **how))
        assert logs.unfinished(mine) is None, "a newer one has ended, or is at work"


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({}, f"provision deploy --resume {RUN}"),
        ({"extra_vars": 2}, f"provision deploy --resume {RUN} -e ..."),
        ({"command": f"rollback {OTHER}"}, f"provision rollback {OTHER} -i /srv/prod.yaml"),
        (
            {"command": "drain gpu-01", "inventory": "/srv/my prod.yaml"},
            "provision drain gpu-01 -i '/srv/my prod.yaml'",
        ),
    ],
)
def test_the_epitaph_of_a_run_ends_with_the_command_that_goes_on(how, said):
    died = log(pid=4242, **how, boot="before")
    assert died.epitaph == f"run {RUN} died: its process 4242 on this machine is gone; to go on: {said}"
    assert log(exit=130, **how).epitaph == f"run {RUN} has ended here and left this lock; to go on: {said}"


def held(run_id, who=None):
    return lock.Holder(run_id, who or lock.who(), 60, 170, busy=False, why="")


def test_lock_status_names_the_dead_run_of_a_lock_and_the_next_command(logs, capsys):
    logs.write(log(pid=gone()))
    hosts = [Host(name=name, connection=Connection(address="192.0.2.1")) for name in "abcd"]
    found = list(zip(hosts, [held(RUN), held(RUN), held(OTHER), held(RUN, "bob@lab")], strict=True))
    over = partial(logs.left_by, who=lock.who())
    locks = Locks(Inventory(path="", hosts=tuple(hosts)), found, 0, over)
    report_lock.locks_text(locks, released=False)
    said = capsys.readouterr().out.splitlines()
    assert [line.partition(" ")[0] for line in said] == ["a", "b", "c", "d", "run", "to"]
    assert said[4] == logs.over(RUN).epitaph
    locks = [one["lock"] for one in report_lock.locks_document(found, over)["hosts"]]
    assert [one["over"] for one in locks] == [True, True, False, False]
    assert [one["next"] for one in locks] == [f"provision deploy --resume {RUN}"] * 2 + [""] * 2


UNREACHABLE = """
all: {vars: {nginx: {accept_known_vulnerabilities: true}}}
gpu: {hosts: {a: {ansible_host: 127.0.0.1, ansible_port: 1, ollama: {instances: [{gpus: [0]}]}}}}
"""


@pytest.mark.parametrize("words", [["history"], ["plan"], ["history", "--json"], ["plan", "--json"]])
def test_history_and_plan_name_a_run_that_died_on_this_machine(logs, tmp_path, capsys, words):
    path = tmp_path / "inventory.yaml"
    path.write_text(UNREACHABLE)
    for pid, known in ((gone(), True), (os.getpid(), False)):
        logs.write(log(inventory=str(path), pid=pid))
        assert execute([*words, "-i", str(path)]) == 4
        said = "".join(capsys.readouterr())
        assert (f"provision deploy --resume {RUN}" in said) == known


def test_the_number_of_logs_is_bounded_and_a_garbled_log_counts_as_no_log():
    logs = Logs(runs.default_folder(), keep=3)
    for minute in range(10, 16):
        logs.write(log(run=f"20261122T08{minute}00Z-0000", exit=0))
    assert len(list(logs.folder.iterdir())) == 3
    for text in ("", "{", "[]", '{"run": "x"}', '{"run": 3}'):
        (logs.folder / f"{RUN}.running").write_text(text)
        assert logs.find(RUN) is None
        assert logs.over(RUN) is None


def test_the_lock_of_a_dead_run_of_this_operator_is_taken_over_at_once(paths):
    lock = HostLock(paths)

    def ran(command):
        return ShellHost().batch([command], stop=False)[0]

    lock.checked(ran(lock.acquire(RUN)))
    with pytest.raises(LockedError):
        lock.checked(ran(lock.acquire(OTHER)))
    for another in ("20261122T000000Z-0000", RUN[:-1], f"{RUN} {OTHER}"):
        with pytest.raises(LockedError):
            lock.checked(ran(lock.acquire(OTHER, 0, another)))
    lock.checked(ran(lock.acquire(OTHER, 0, RUN)))
    assert lock.holder_of(ran(lock.status())).run == OTHER
    # Somebody else has resumed it, which the log here does not know.
    somebody = HostLock(paths, "somebody@another")
    somebody.checked(ran(somebody.acquire(OTHER)))
    with pytest.raises(LockedError, match="somebody@another"):
        lock.checked(ran(lock.acquire(RUN, 0, OTHER)))
    lock.holder_of(ran(lock.take_away(force=True)))
    lock.checked(ran(lock.acquire_by_hand("mine")))
    with pytest.raises(LockedError, match="mine"):
        lock.checked(ran(lock.acquire(OTHER, 0, RUN)))


def test_a_resumed_run_loads_models_as_its_log_says(logs):
    dead = log(pid=gone(), command="deploy --force-fit")
    logs.write(dead)
    assert resume.resumed(REQUEST, Pace(), RUN)[0].force_fit
    assert dead.goes_on.startswith(f"provision deploy --resume {RUN}")


def test_a_resumed_run_has_the_inventory_limit_and_tags_of_its_log(logs):
    logs.write(log(pid=gone(), limit=("gpu",), tags=("nginx",)))
    request, pace = resume.resumed(REQUEST, Pace(), RUN)
    assert (request.inventory, request.limit, request.tags) == ("/srv/prod.yaml", ("gpu",), ("nginx",))
    assert pace == Pace()


def test_a_resumed_run_has_the_pace_of_its_log_except_for_given_options(logs):
    Logged(RUN, "deploy", REQUEST, PACE).begin()
    logs.write(dataclasses.replace(logs.find(RUN), exit=7))
    assert resume.resumed(REQUEST, Pace(), RUN)[1] == PACE
    said = Pace("100%", max_fail="3", lock_wait=60)
    assert resume.resumed(REQUEST, said, RUN)[1] == Pace("100%", True, "3", 60)


def test_a_log_of_an_earlier_version_has_no_pace(logs):
    logs.write(log(exit=7))
    path = logs.folder / f"{RUN}.json"
    keys = ("serial", "canary", "max_fail")
    path.write_text(json.dumps({key: value for key, value in json.loads(path.read_text()).items() if key not in keys}))
    assert resume.resumed(REQUEST, Pace(serial="2"), RUN)[1] == Pace(serial="2")


@pytest.mark.parametrize(
    ("how", "said", "why"),
    [
        ({}, {}, "still at work"),
        ({"exit": 0}, {}, "came to its end"),
        ({"command": "rollback", "exit": 3}, {}, "no deploy but a rollback"),
        ({"exit": 3}, {"limit": ("gpu",)}, "leave out --limit"),
        ({"exit": 3, "extra_vars": 1}, {}, "give -e again"),
    ],
)
def test_a_run_that_cannot_be_resumed_is_refused_with_the_reason(logs, how, said, why):
    logs.write(log(**how))
    with pytest.raises(UsageError, match=why):
        resume.resumed(dataclasses.replace(REQUEST, **said), Pace(), RUN)


def test_a_run_without_a_log_must_be_known_to_a_host(tmp_path):
    path = tmp_path / "inventory.yaml"
    path.write_text(UNREACHABLE)
    with pytest.raises(UsageError, match="neither this machine nor these hosts know"):
        resume.resumed(dataclasses.replace(REQUEST, inventory=str(path)), Pace(), RUN)
    with pytest.raises(UsageError, match="is not the id of a run"):
        resume.resumed(REQUEST, Pace(), "latest")
