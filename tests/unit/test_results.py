"""The results of long runs: a file for each part, and a rerun of a part leaves the other files alone."""

import json
import subprocess
from pathlib import Path

import pytest

from tests import results
from tests.results import Machine, Result
from tests.verdicts import Program, Verdict

MACHINE = Machine(2, 24, "6.1.0", "KVM")


def result(part: str, evidence: str = "") -> Result:
    verdict = Verdict("Docker", "29.2", part, "starts", "holds", evidence, 1.5)
    return Result(
        part, "2026-11-30", "abc1234", MACHINE, 12.34, "A note.", [Program("Docker", "29.2", "here")], [verdict]
    )


def test_a_result_comes_back_as_it_was_kept(tmp_path: Path) -> None:
    kept = result("demo")
    kept.save(tmp_path)
    assert results.load(tmp_path, ["demo"]) == [kept]


def test_a_rerun_of_a_part_leaves_the_other_parts_alone(tmp_path: Path) -> None:
    for part in ("demo", "lab"):
        result(part).save(tmp_path)
    before = (tmp_path / "demo.json").read_bytes()
    result("lab", "again").save(tmp_path)
    assert (tmp_path / "demo.json").read_bytes() == before
    assert [each.verdicts[0].evidence for each in results.load(tmp_path, ["demo", "lab"])] == ["", "again"]


def test_parts_come_in_the_order_of_the_page_and_a_part_without_a_run_is_left_out(tmp_path: Path) -> None:
    for part in ("a", "b"):
        result(part).save(tmp_path)
    assert [each.part for each in results.load(tmp_path, ["b", "c", "a"])] == ["b", "a"]


def test_a_kept_file_has_no_place_of_the_machine(tmp_path: Path) -> None:
    result("demo", "open /tmp/some/folder: 127.0.0.1:40213\nhttps://models.example.net/v2/x").save(tmp_path)
    text = (tmp_path / "demo.json").read_text()
    assert "open FOLDER: 127.0.0.1:PORT REGISTRY/v2/x" in text


def test_scrubbed_text_stays_when_scrubbed_again() -> None:
    text = results.scrubbed("Get http://127.0.0.1:40213/v2/library/x: " + "y" * 1000)
    assert results.scrubbed(text) == text


def test_a_broken_file_is_named_with_advice(tmp_path: Path) -> None:
    result("demo").save(tmp_path)
    (tmp_path / "demo.json").write_text(json.dumps({"part": "demo"}))
    with pytest.raises(ValueError, match=r"demo\.json is no result of a part: .*run the part again, or take the file"):
        results.load(tmp_path, ["demo"])


def test_a_commit_says_whether_the_tree_had_changes(tmp_path: Path) -> None:
    git = ["git", "-C", str(tmp_path), "-c", "user.name=x", "-c", "user.email=x@localhost"]
    (tmp_path / "code").write_text("1")
    for words in (["init", "--quiet"], ["add", "code"], ["commit", "--quiet", "--message", "One"]):
        subprocess.run([*git, *words], check=True)
    clean = results.commit(tmp_path)
    (tmp_path / "code").write_text("2")
    assert results.commit(tmp_path) == f"{clean}, with changes"
