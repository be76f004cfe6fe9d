"""Marks in a balancer's upstream: what is changed, what is not, and what survives a rendering."""

import os
import subprocess
from typing import Any

import pytest

from provision.steps.base import RefusalError
from provision.steps.facts import Fleet, HostFacts
from provision.steps.nginx import member_update, upstream
from provision.steps.nginx.generation import status_port
from provision.steps.nginx.member_update import Marking
from provision.steps.nginx.upstream import Drained, Place
from tests.unit.balancer_fleet import config, fleet, state, texts

READ = {"gpu-01": "10.1.0.11", "gpu-02": "10.1.0.12"}
ONE, TWO = "gpu-01/ollama1", "gpu-02/ollama2"
WHY = Drained(ONE, "2026-11-22T08:00:00Z", "ops@desk", "a new fan; {really} # so")


def written(**known: Any) -> str:
    """The upstream as the role writes it."""
    return texts(config(fleet()), Fleet(READ, **known))[upstream.FILE]


def down(text: str) -> set[str]:
    return {name for name, member in upstream.members(text).items() if member.down}


def test_marking_and_unmarking_gives_the_same_bytes() -> None:
    marked = upstream.marked(written(), down=[ONE, TWO])
    assert down(marked) == {ONE, TWO}
    assert upstream.marked(marked, up={ONE: Place("10.1.0.11:3001", ONE), TWO: Place("", TWO)}) == written()


def test_marks_are_what_the_role_writes_itself() -> None:
    assert upstream.marked(written(), down=[ONE]) == written(unfit=frozenset({ONE}))
    assert upstream.marked(written(), drain={ONE: WHY}) == written(drained={ONE: WHY})


@pytest.mark.parametrize(
    ("said", "address"),
    [
        ("10.1.0.11:4001", "10.1.0.11:4001"),
        ("10.9.0.1:3001", "10.9.0.1:3001"),
        ("0.0.0.0:4001", "10.1.0.11:4001"),
        ("", "10.1.0.11:3001"),
        ("10.1.0.11:3001; evil", "10.1.0.11:3001"),
        ("999.1.1.1:4001", "10.1.0.11:4001"),
    ],
)
def test_what_gets_back_in_gets_its_requests_where_it_proved_itself(said: str, address: str) -> None:
    moved = upstream.marked(upstream.marked(written(), down=[ONE]), up={ONE: Place(said, ONE)})
    assert moved == written().replace("10.1.0.11:3001", address)


def test_what_takes_the_place_of_what_is_gone_gets_its_line() -> None:
    gone = upstream.marked(written(), down=[ONE])
    moved = upstream.marked(gone, up={"gpu-01/chat": Place("10.1.0.11:3001", ONE)})
    assert moved == written().replace(ONE, "gpu-01/chat")
    assert upstream.marked(gone, up={TWO: Place("10.1.0.11:3001", ONE)}) == gone, "it has a line of its own"


def test_two_that_change_ports_are_no_two_equal_keys() -> None:
    """Of the map of names: nginx would refuse it."""
    one = upstream.marked(written(), up={ONE: Place("10.1.0.11:3002", ONE)})
    assert one.count('"10.1.0.11:3002" "') == 1
    two = upstream.marked(one, up={"gpu-01/ollama2": Place("10.1.0.11:3001", "gpu-01/ollama2")})
    assert [member.port for member in upstream.members(two).values()] == [3002, 3001, 3001, 3002]
    assert two.count('"10.1.0.11:300') == 1


def test_who_is_drained_is_not_marked_up() -> None:
    drained = upstream.marked(written(), drain={ONE: WHY})
    assert upstream.drained(drained) == {ONE: WHY}
    assert upstream.marked(drained, up={ONE: Place("", ONE)}) == drained
    assert upstream.marked(drained, undrain=[ONE]) == written()


def test_a_later_drain_replaces_the_earlier() -> None:
    later = Drained(ONE, "2026-11-23T08:00:00Z", "root@desk", "")
    twice = upstream.marked(upstream.marked(written(), drain={ONE: WHY}), drain={ONE: later})
    assert upstream.drained(twice) == {ONE: later}


def test_a_balancer_keeps_what_it_knows_of_the_drained_and_not_what_others_know() -> None:
    step = config(fleet())
    drained = upstream.marked(written(), drain={ONE: WHY})
    known = Fleet(READ, drained={TWO: Drained(TWO, "x", "y", "")})
    assert texts(step, known, state(step, **{upstream.FILE: drained}))[upstream.FILE] == drained


def test_a_new_balancer_takes_it_from_the_others() -> None:
    text = written(drained={TWO: Drained(TWO, "2026-11-22T08:00:00Z", "ops@desk", "")})
    assert down(text) == {TWO}
    assert set(upstream.drained(text)) == {TWO}


def test_an_instance_that_was_drained_and_is_no_more_declared_is_forgotten() -> None:
    step = config(fleet())
    drained = upstream.marked(written(), drain={ONE: WHY}).replace("gpu-01/ollama1", "gpu-01/gone")
    assert upstream.drained(texts(step, Fleet(READ), state(step, **{upstream.FILE: drained}))[upstream.FILE]) == {}


def test_nothing_but_marks_is_changed_and_the_running_nginx_checks() -> None:
    have = {**state(config(fleet()), **{"site.conf": "edited by hand"}), "exe": "/opt/old/nginx", "loaded": "x"}
    member_update = Marking(name="balancer", files={}, binary=have["exe"], status_port=8080, down=frozenset({ONE}))
    want = member_update.want(HostFacts(), have)
    assert want is not None
    changed = {name for name in want["files"] if want["files"][name] != have["files"][name]}
    assert changed == {upstream.FILE, "generation.conf"}
    commands = [str(command) for command in member_update.commands(have, want)]
    assert any(f"check with nginx -t, then link /etc/provision/nginx to generation {want['id']}" in c for c in commands)
    assert member_update.commands(have, want)[-2].words[6] == "/opt/old/nginx"  # type: ignore[union-attr]


def test_a_mark_that_is_there_changes_nothing() -> None:
    have = {**state(config(fleet())), "exe": "/opt/nginx", "touched": []}
    have["loaded"] = have["id"]
    member_update = Marking(name="balancer", files={}, binary=have["exe"], status_port=8080, up={ONE: Place("", ONE)})
    assert member_update.want(HostFacts(), have) == {
        key: have[key] for key in ("kind", "id", "files", "odd", "exe", "loaded", "touched")
    }


def test_where_there_is_no_configuration_there_is_nothing_to_mark() -> None:
    member_update = Marking(name="balancer", files={}, binary="", status_port=8080)
    with pytest.raises(RefusalError, match="no configuration of ours"):
        member_update.want(HostFacts(), None)


def test_the_port_to_ask_is_that_of_the_present_configuration() -> None:
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
def test_no_answer_of_ss_is_not_no_stream(tmp_path, program, exit_code, said) -> None:
    for name, text in (("ss", program), ("curl", "exit 0")):
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / name).chmod(0o755)
    command = member_update.wait(["10.0.0.11:3001"], 0)
    path = f"{tmp_path}:{os.environ['PATH']}"
    done = subprocess.run(command.words, input=command.stdin, capture_output=True, check=False, env={"PATH": path})
    assert (done.returncode, done.stdout.decode()) == (exit_code, said)


@pytest.mark.parametrize(
    ("marks", "said"),
    [
        ({"down": frozenset({TWO, ONE})}, f"{ONE}, {TWO} down"),
        ({"up": {ONE: Place("", ONE)}}, f"{ONE} up"),
        ({"drain": {ONE: WHY}}, f"{ONE} drained"),
        ({"undrain": frozenset({ONE})}, f"{ONE} drained no longer"),
    ],
)
def test_a_mark_says_whose_it_is(marks: dict[str, Any], said: str) -> None:
    assert Marking(name="balancer", files={}, binary="", status_port=8080, **marks).reason == said
