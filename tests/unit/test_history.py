"""`history` and `show`: the runs of all hosts put together, as people and programs see them."""

import base64
import json

import pytest

from provision.actions.history import History, RunStory
from provision.actions.request import run_id_of
from provision.command import Answer
from provision.errors import FactError, UnreachableError, UsageError
from provision.inventory import Connection, Host, Inventory, Mask, Secret
from provision.report import history as report
from provision.runs import history, journal
from provision.steps.nginx.generation import Generation
from provision.testing import ShellHost

from . import test_host_run
from .local import deployed
from .test_host_run import ROLES, note

make = test_host_run.make  # a fixture


RUN = "20261122T081140Z-585d"


def host(name):
    return Host(name=name, connection=Connection(address="192.0.2.1"))


def told(run, found):
    return RunStory(Inventory(path="", hosts=()), found, 0, run, None)


def listed(found, code=0):
    return History(Inventory(path="", hosts=tuple(host for host, _ in found)), found, code, None)


def entry(run="20261122T081140Z-585d", result="changed", **how):
    told = {"time": "2026-11-22T08:11:42+00:00", "who": "ops@desk", "command": "deploy", "changes": 2}
    return history.Entry(run=run, result=result, **{**told, **how})


def test_a_run_on_several_hosts_is_a_single_line_and_the_newest_run_comes_first(capsys):
    late = "20261122T091140Z-0001"
    found = [
        (host("gpu-01"), [entry(late, "failed", step="container:ollama1", why="exited 1"), entry()]),
        (host("gpu-02"), [entry(late, "unfinished", who="", time="", command="")]),
        (host("lb-01"), UnreachableError("no route")),
    ]
    document = report.history_document(found, 20)
    assert [run["run"] for run in document["runs"]] == [late, entry().run]
    assert [one["result"] for one in document["runs"][0]["hosts"]] == ["failed", "unfinished"]
    assert {one["host"]: one["result"] for one in document["hosts"]} == {
        "gpu-01": "ok",
        "gpu-02": "ok",
        "lb-01": "unreachable",
    }
    json.dumps(document)
    report.history_text(listed(found), 20)
    said = capsys.readouterr().out
    assert "2026-11-22 08:11  ops@desk  deploy      1 changed" in said
    assert "1 failed (gpu-01 at container:ollama1); 1 unfinished (gpu-02)" in said
    assert "no route" in said


def unreachable(name):
    return Host(name=name, connection=Connection(address=name)), UnreachableError(f"tcp {name}:22 connection refused")


def test_hosts_without_an_answer_share_one_error_and_nothing_is_said_of_runs(capsys):
    report.history_text(listed([unreachable("gpu-01"), unreachable("gpu-02")], 4), 20)
    said = capsys.readouterr().out
    assert said.strip().splitlines() == ["gpu-01, gpu-02", "  error: tcp gpu-01:22 connection refused"]


@pytest.mark.parametrize(
    ("more", "code", "of"), [([], 0, "these hosts"), ([unreachable("gpu-02")], 4, "the hosts that answered")]
)
def test_hosts_without_a_run_are_told_apart_from_hosts_without_an_answer(more, code, of, capsys):
    report.history_text(listed([(host("gpu-01"), []), *more], code), 20)
    assert capsys.readouterr().out.startswith(f"no run has changed {of}, as far as the journals show\n")


def test_history_lists_as_many_runs_as_the_limit_allows():
    found = [(host("gpu-01"), [entry(f"20261122T08{minute:02}00Z-0000") for minute in range(9, 0, -1)])]
    assert len(report.history_document(found, 3)["runs"]) == 3


def test_show_lists_every_step_of_a_run_with_action_diff_and_result(make, paths, capsys):
    (make.folder / "b").write_text("before")
    made = make(note(make), note(make, "b"))
    deployed(made.deploy(ROLES))
    [answer] = ShellHost().batch([history.read("run-1", paths)], stop=False)
    found = [(host("gpu-01"), history.story("run-1", answer)), (host("gpu-02"), None)]
    document = report.story_document(told("run-1", found))
    assert document["about"]["command"] == "deploy"
    [one, other] = document["hosts"]
    assert (one["result"], other["result"], other["changes"]) == ("changed", "none", [])
    assert [(c["step"], c["action"], c["diff"], c["result"]) for c in one["changes"]] == [
        ("note:a", "add", [], "done"),
        ("note:b", "change", ["text: before -> wanted"], "done"),
    ]
    report.story_text(told("run-1", found))
    said = capsys.readouterr().out
    assert "text: before -> wanted" in said
    assert "gpu-02" not in said


def test_the_diff_of_a_configuration_names_the_differing_files():
    have, want = ({"files": {"nginx.conf": "same", "upstream.conf": now}, "id": now} for now in ("one", "two"))
    made = history.ChangeRecord("config:balancer", "balancer", "change", "a/ollama1 drained", have, want, True)
    assert report.difference(made, {}) == ["files upstream.conf: one -> two", "id: one -> two"]
    assert report.difference(made, {"config": Generation.words}) == [], "the reason says it, and no hash"


def test_texts_of_a_host_are_escaped_for_a_terminal_and_show_no_secret(capsys):
    nasty = "\x1b[2Jhunter2-and-more\x07"
    made = history.ChangeRecord(nasty, nasty, nasty, nasty, {nasty: nasty}, {nasty: "x"}, True, nasty, 1, nasty)
    story = history.hidden(history.Story(entry(result=nasty, why=nasty), (made,)), Mask([Secret("hunter2-and-more")]))
    report.story_text(told("run", [(host("gpu-01"), story)]))
    report.history_text(listed([(host("gpu-01"), [entry(result=nasty, step=nasty, who=nasty, time=nasty)])]), 5)
    said = capsys.readouterr().out
    assert "\x1b[2J" not in said
    assert "\x07" not in said
    shown = json.dumps(report.story_document(told("run", [(host("gpu-01"), story)])))
    assert "hunter2" not in shown.replace(json.dumps(nasty)[1:-1], "")


@pytest.mark.parametrize(
    "text", ["", "../../etc/shadow", "20261122T081140Z-585d/..", "20261122T081140Z-585d\n", "latest"]
)
def test_a_malformed_run_id_is_refused_before_any_host_is_asked(text):
    with pytest.raises(UsageError, match="is not the id of a run"):
        run_id_of(text)


@pytest.mark.parametrize("answer", [Answer(1, b"", b"sh: cannot fork"), Answer(0, b"# journal\nand then nothing")])
def test_an_unreadable_journal_is_an_error_and_no_empty_journal(answer):
    with pytest.raises(FactError, match="cannot be read"):
        history.story("run-1", answer)


def test_a_state_nested_without_end_is_cut_and_shown(capsys):
    """The journal's own digest fits, because the host computes the digest."""
    texts = [b'{"a": ' + b"[" * 900 + number + b"]" * 900 + b"}" for number in (b"0", b"1")]
    names = [journal.digest(text) for text in texts]
    record = {"record": "change", "step": "file:x", "have": names[0], "want": names[1]}
    kept = "\n".join(f"{name} {base64.b64encode(text).decode()}" for name, text in zip(names, texts, strict=True))
    story = history.story(RUN, Answer(0, f"# journal\n{json.dumps(record)}\n\n# kept\n{kept}\n".encode()))
    report.story_text(told(RUN, [(host("gpu-01"), history.hidden(story, Mask([])))]))
    assert "file:x" in capsys.readouterr().out


def test_a_number_of_changes_with_thousands_of_digits_is_no_journal():
    assert history.entries(Answer(0, f"# {'9' * 5000} {RUN}\n".encode())) == []
