"""A change of marks on a balancer: the changed files, the kept files, and the marks that survive a deploy."""

import os
import subprocess
from typing import Any

import pytest

from provision.steps.base import RefusalError
from provision.steps.facts import HostFacts
from provision.steps.fleet_state import FleetState
from provision.steps.nginx import member_update, upstream
from provision.steps.nginx.generation import status_port
from provision.steps.nginx.member_update import MemberUpdate
from provision.steps.nginx.upstream import Drained, Upstream
from tests.unit.balancer_fleet import config, fleet, state, texts

READ = {"gpu-01": "10.1.0.11", "gpu-02": "10.1.0.12"}
ONE, TWO = "gpu-01/ollama1", "gpu-02/ollama2"
WHY = Drained(ONE, "2026-11-22T08:00:00Z", "ops@desk", "a new fan; {really} # so")


def written(**known: Any) -> str:
    """Return the upstream in the text of the role."""
    return texts(config(fleet()), FleetState(READ, **known))[upstream.FILE]


def down(text: str) -> set[str]:
    return {name for name, member in upstream.members(text).items() if member.down}


def marked(**marks: Any) -> str:
    """Return the upstream with other marks."""
    made = Upstream.parse(written())
    assert made is not None
    return made.updated(**marks).text


def test_an_update_writes_the_marks_that_the_role_writes() -> None:
    assert marked(down=[ONE]) == written(not_ready=frozenset({ONE}))
    assert marked(drain={ONE: WHY}) == written(drained={ONE: WHY})


def test_a_balancer_keeps_its_own_drains_and_ignores_the_drains_of_other_balancers() -> None:
    step = config(fleet())
    drained = marked(drain={ONE: WHY})
    known = FleetState(READ, drained={TWO: Drained(TWO, "x", "y", "")})
    assert texts(step, known, state(step, **{upstream.FILE: drained}))[upstream.FILE] == drained


def test_a_new_balancer_takes_the_drains_of_other_balancers() -> None:
    text = written(drained={TWO: Drained(TWO, "2026-11-22T08:00:00Z", "ops@desk", "")})
    assert down(text) == {TWO}
    assert set(upstream.drained(text)) == {TWO}


def test_the_drain_of_an_undeclared_instance_is_forgotten() -> None:
    step = config(fleet())
    drained = marked(drain={ONE: WHY}).replace("gpu-01/ollama1", "gpu-01/gone")
    assert upstream.drained(texts(step, FleetState(READ), state(step, **{upstream.FILE: drained}))[upstream.FILE]) == {}


def test_an_update_changes_only_marks_and_the_running_nginx_checks() -> None:
    have = {**state(config(fleet()), **{"site.conf": "edited by hand"}), "exe": "/opt/old/nginx", "loaded": "x"}
    update = MemberUpdate(name="balancer", files={}, binary=have["exe"], status_port=8080, down=frozenset({ONE}))
    want = update.want(HostFacts(), have)
    assert want is not None
    changed = {name for name in want["files"] if want["files"][name] != have["files"][name]}
    assert changed == {upstream.FILE, "generation.conf"}
    commands = [str(command) for command in update.commands(have, want)]
    assert any(f"check with nginx -t, then link /etc/provision/nginx to generation {want['id']}" in c for c in commands)
    assert update.commands(have, want)[-2].words[6] == "/opt/old/nginx"  # type: ignore[union-attr]


def test_a_present_mark_changes_nothing() -> None:
    have = {**state(config(fleet())), "exe": "/opt/nginx", "touched": []}
    have["loaded"] = have["id"]
    update = MemberUpdate(name="balancer", files={}, binary=have["exe"], status_port=8080, up={ONE: ""})
    assert update.want(HostFacts(), have) == {
        key: have[key] for key in ("kind", "id", "files", "odd", "exe", "loaded", "touched")
    }


def test_a_balancer_without_a_configuration_refuses_marks() -> None:
    update = MemberUpdate(name="balancer", files={}, binary="", status_port=8080)
    with pytest.raises(RefusalError, match="no configuration of ours"):
        update.want(HostFacts(), None)


@pytest.mark.parametrize("how", ["a server of somebody else", "no settings"])
def test_an_edited_upstream_is_refused_with_the_way_out(how: str) -> None:
    edits = {"no settings": ("    keepalive 16;\n", ""), "a server of somebody else": ("; # gpu-01/ollama2", ";")}
    have = state(config(fleet()), **{upstream.FILE: written().replace(*edits[how])})
    update = MemberUpdate(name="balancer", files={}, binary="", status_port=8080, down=frozenset({ONE}))
    with pytest.raises(RefusalError, match=r"nginx/upstream\.conf has .* `provision deploy --tags balancer`"):
        update.want(HostFacts(), have)
    drained = state(config(fleet()), **{upstream.FILE: marked(drain={ONE: WHY}).replace(*edits[how])})
    text = texts(config(fleet()), FleetState(READ), drained)[upstream.FILE]
    assert text == marked(drain={ONE: WHY}), "a deploy writes the file anew, and drained members stay drained"


def test_the_status_port_comes_from_the_present_configuration() -> None:
    assert status_port(state(config(fleet(balancer={"status_port": 8123})))) == 8123
    assert status_port(None) == 0


@pytest.mark.parametrize(
    ("program", "exit_code", "said"),
    [
        ("exit 127", 1, ""),
        ("echo '0 0 10.0.0.5:1 10.0.0.11:3001 users:((\"nginx\",pid=7))'", 0, "open 1\n"),
        (":", 0, "open 0\n"),
    ],
)
def test_a_failed_ss_does_not_count_as_no_streams(tmp_path, program, exit_code, said) -> None:
    for name, text in (("ss", program), ("curl", "exit 0")):
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / name).chmod(0o755)
    command = member_update.wait(["10.0.0.11:3001"], 0, "/health")
    path = f"{tmp_path}:{os.environ['PATH']}"
    done = subprocess.run(command.words, input=command.stdin, capture_output=True, check=False, env={"PATH": path})
    assert (done.returncode, done.stdout.decode()) == (exit_code, said)


@pytest.mark.parametrize(
    ("marks", "said"),
    [
        ({"down": frozenset({TWO, ONE})}, f"{ONE}, {TWO} down"),
        ({"up": {ONE: ""}}, f"{ONE} up"),
        ({"drain": {ONE: WHY}}, f"{ONE} drained"),
        ({"undrain": frozenset({ONE})}, f"{ONE} drained no longer"),
    ],
)
def test_the_reason_of_a_mark_names_the_instances(marks: dict[str, Any], said: str) -> None:
    assert MemberUpdate(name="balancer", files={}, binary="", status_port=8080, **marks).reason == said
