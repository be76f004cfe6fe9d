"""Secret files of nginx's configuration: the mode is declared, and the bytes stay on the host and are never shown."""

import base64
import dataclasses
import hashlib
import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from provision.command import Answer, Put, Run, describe
from provision.inventory import Inventory
from provision.plan.planner import HostPlan, make_change
from provision.plan.role_interface import Entry
from provision.report import plan as report_plan
from provision.rollout.outcome import Outcome
from provision.runs.journal import Journal
from provision.steps.facts import HostFacts
from provision.steps.nginx.generation import Generation, parse
from provision.steps.nginx.generation_scripts import CARRY
from provision.steps.nginx.member_update import MemberUpdate
from provision.steps.system.file_scan import Content
from tests.unit.balancer_fleet import config, fleet

KEY, OLDER = b"# canary-of-key\n", b"# canary-of-older-key\n"
HASH, OLD_HASH = (hashlib.sha256(key).hexdigest() for key in (KEY, OLDER))
CLOSED = {"keys.conf": "file 0600 root:root"}
FACTS = HostFacts()


def keyed(key: bytes = KEY) -> Generation:
    """Return the balancer's configuration with a key file."""
    step = config(fleet())
    return dataclasses.replace(step, files={**step.files, "keys.conf": key}, modes={"keys.conf": 0o600})


def found(step: Generation, **how: Any) -> dict[str, Any]:
    """Return the state of a host with the configuration and a running nginx: only the hash of the key."""
    want = step.want(FACTS, None)
    assert want is not None
    files = {name: str(content) if name == "keys.conf" else content for name, content in want["files"].items()}
    running = {"exe": step.binary, "loaded": want["id"], "touched": []}
    return {**want, "files": files, **running, **how}


def listing(**files: tuple[str, bytes]) -> Answer:
    """Return the answer of a host with some files: mode and content by name; `_` in a name stands for a dot."""
    heads, contents = "", b""
    for name, (mode, content) in files.items():
        path = f"/etc/provision/nginx/{name.replace('_', '.')}"
        heads += f"{path}\0f\0{mode}\0root:root\0\0later {len(content)}\n\n"
        contents += content
    said = f"kind link\ntarget /var/lib/provision/nginx/0123456789ab\n# files\n{heads}=contents {len(files)}\n"
    return Answer(0, said.encode() + contents)


@pytest.mark.parametrize(("name", "mode"), [("keys_conf", "600"), ("keys_conf", "644"), ("other_conf", "640")])
def test_of_a_secret_file_no_more_than_the_hash_is_in_a_state(name: str, mode: str) -> None:
    state = keyed().fact().parse(listing(nginx_conf=("600", b"x\n"), **{name: (mode, KEY)}))
    assert state is not None
    content = state["files"][name.replace("_", ".")]
    assert (content, isinstance(content, Content)) == (HASH, False)
    assert isinstance(state["files"]["nginx.conf"], Content), "what is declared for all to read is known at any mode"


def test_a_file_that_nobody_declares_tells_by_its_mode_whether_it_is_secret() -> None:
    state = parse(listing(a_conf=("600", KEY), b_conf=("644", KEY)))
    assert state is not None
    assert {name: isinstance(content, Content) for name, content in state["files"].items()} == {
        "a.conf": False,
        "b.conf": True,
    }


CHANGES: list[tuple[Generation, Any]] = [
    (keyed(), None),
    (keyed(), found(keyed(OLDER))),
    (keyed(), found(keyed(), odd={})),
    (keyed(), found(config(fleet()))),
    (config(fleet()), found(keyed())),
]


@pytest.mark.parametrize(("step", "have"), CHANGES, ids=["new", "another key", "readable", "added", "removed"])
def test_a_key_is_in_no_plan_command_line_or_journal(
    step: Generation, have: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    change = make_change(Entry("balancer", step), have, step.want(FACTS, have))
    outcome = Outcome("lb-01", HostPlan((change,), 1))
    report_plan.text([outcome], Inventory(path="", hosts=()), report_plan.Detail(steps=True))
    journal = Journal("run", "deploy")
    kept = journal.before(change).stdin.decode().splitlines()
    shown = [
        capsys.readouterr().out,
        json.dumps(report_plan.document([outcome]), default=str),
        *(describe(command) + repr(command) for command in change.commands),
        *kept,
        *(base64.b64decode(line.split(" ")[1]).decode() for line in kept if not line.startswith("{")),
    ]
    assert [text for text in shown if "canary" in text] == []
    assert "keys.conf" in shown[0]


def test_a_key_goes_into_a_file_of_root_alone_and_other_files_stay_as_they_are() -> None:
    puts = [command for command in keyed().commands(None, keyed().want(FACTS, None)) if isinstance(command, Put)]
    modes = {put.path.rpartition("/")[2]: (put.mode, put.owner) for put in puts}
    assert modes.pop("keys.conf") == (0o600, "root:root")
    assert set(modes.values()) == {(0o644, "root:root")}


def carried(commands: Any) -> list[tuple[str, ...]]:
    """File, hash and mode of what is taken from a generation on the host."""
    runs = [command for command in commands if isinstance(command, Run) and command.script == CARRY.name]
    return [run.words[-3:] for run in runs]


def test_other_marks_carry_the_key_along_without_having_it() -> None:
    have = found(keyed())
    step = MemberUpdate(name="balancer", files={}, binary="", status_port=8080, down=frozenset({"gpu-01/ollama1"}))
    want = step.want(FACTS, have)
    assert want is not None
    assert (want["files"]["keys.conf"], want["odd"]) == (HASH, CLOSED)
    assert carried(step.commands(have, want)) == [("keys.conf", HASH, "0600")]


def test_a_rollback_brings_the_modes_back_and_takes_the_key_from_the_host() -> None:
    past, now = found(keyed(OLDER)), found(config(fleet()))
    want = config(fleet()).restore(FACTS, now, past)
    assert want is not None
    assert (want["files"]["keys.conf"], want["odd"]) == (OLD_HASH, CLOSED)
    assert carried(config(fleet()).commands(now, want)) == [("keys.conf", OLD_HASH, "0600")]
    undone = keyed().restore(FACTS, past, now)
    assert undone is not None
    assert ("keys.conf" in undone["files"], undone["odd"]) == (False, {})


INSTALL = '#!/bin/sh\n[ "$3$4$5$6" = -oroot-groot ] && exec /usr/bin/install -m "$2" -- "$8" "$9"\n'


@pytest.mark.parametrize(("wanted", "code"), [(HASH, 0), ("0" * 64, 1)])
def test_a_file_is_carried_from_whichever_generation_has_it(tmp_path: Path, wanted: str, code: int) -> None:
    for name, key in (("0123456789ab", OLDER), ("ba9876543210", KEY), (".new", b"")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "keys.conf").write_bytes(key)
    (tmp_path / "install").write_text(INSTALL)
    (tmp_path / "install").chmod(0o755)
    words = [f"{tmp_path}/.new", str(tmp_path), "keys.conf", wanted, "0600"]
    path = f"{tmp_path}:{os.environ['PATH']}"
    done = subprocess.run(
        ["sh", "-euc", CARRY, "sh", *words], capture_output=True, text=True, env={"PATH": path}, check=False
    )
    made = tmp_path / ".new" / "keys.conf"
    assert (done.returncode, made.read_bytes()) == (code, b"" if code else KEY)
    assert code or made.stat().st_mode & 0o777 == 0o600
    assert not code or done.stderr.startswith("no generation on this host has keys.conf with sha256 000")
