"""The sizes that a host keeps of loaded models: the file by a real shell, the parser, and the end of the file."""

import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from provision.command import Answer
from provision.steps.instance import scripts as instance_scripts
from provision.steps.instance_paths import MEASURED
from provision.steps.ollama import kept_size, scripts
from provision.steps.ollama.kept_size import MOST_BYTES, MOST_MODELS, Kept
from provision.steps.ollama.measured_size import MOST, Size

CASES: dict[str, Any] = yaml.safe_load((Path(__file__).parent / "kept_sizes.yaml").read_text())


def shell(folder: Path, text: str, *words: str) -> str:
    """Run a script with the folder of kept sizes at another place."""
    done = subprocess.run(
        ["sh", "-eu", "-s", "--", *words],
        input=text.replace(MEASURED, str(folder)),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout


def keep(folder: Path, said: str, instance: str = "ollama1") -> None:
    shell(folder, f'{kept_size.KEEP}\nkeep_sizes "$1" "$2"\n', instance, said)


def read(folder: Path) -> tuple[Kept, ...]:
    return kept_size.kept(Answer(0, shell(folder, kept_size.READ).encode()))


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("case", CASES.values(), ids=list(CASES))
def test_the_file_has_the_newest_size_of_each_model(tmp_path: Path, case: Any) -> None:
    for said in case["said"]:
        keep(tmp_path / "measured", said)
    lines = (tmp_path / "measured/ollama1").read_text().splitlines()
    assert [line.partition(" ")[2] for line in lines] == case["file"]
    assert all(int(line.split()[0]) > 1_700_000_000 for line in lines)
    assert [entry.size for entry in read(tmp_path / "measured")] == [
        Size("ollama1", words[3], *map(int, words[:3])) for words in map(str.split, case["file"])
    ]


def test_only_root_reads_the_file_and_nothing_else_is_left(tmp_path: Path) -> None:
    keep(tmp_path / "measured", CASES["one model"]["said"][0])
    assert (tmp_path / "measured").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "measured/ollama1").stat().st_mode & 0o777 == 0o600
    assert names(tmp_path / "measured") == ["ollama1"]


def test_without_the_folder_of_provision_nothing_is_kept(tmp_path: Path) -> None:
    keep(tmp_path / "none/measured", CASES["one model"]["said"][0])
    assert names(tmp_path) == []


def test_a_folder_that_takes_no_file_fails_no_load(tmp_path: Path) -> None:
    (tmp_path / "measured").write_text("a file in the place of the folder")
    keep(tmp_path / "measured", CASES["one model"]["said"][0])


def test_a_full_disk_costs_no_kept_size(tmp_path: Path) -> None:
    keep(tmp_path / "measured", CASES["one model"]["said"][0])
    kept = read(tmp_path / "measured")
    full = 'head() { case $1 in -c) command head "$@" >/dev/full ;; *) command head "$@" ;; esac; }'
    said = CASES["partly on the CPU, and an older server without the context"]["said"][0]
    shell(tmp_path / "measured", f'{full}\n{kept_size.KEEP}\nkeep_sizes "$1" "$2"\n', "ollama1", said)
    assert len(kept) == 1
    assert read(tmp_path / "measured") == kept
    assert names(tmp_path / "measured") == ["ollama1"]


def test_the_file_is_bounded_whatever_the_server_says(tmp_path: Path) -> None:
    many = ",".join(f'{{"name":"{"x" * 250}{n}:1","size":{n + 1},"size_vram":0}}' for n in range(500))
    keep(tmp_path / "measured", f'{{"models":[{many}]}}'[:120_000])
    assert (tmp_path / "measured/ollama1").stat().st_size <= MOST_BYTES
    assert len(read(tmp_path / "measured")) == MOST_MODELS


def test_the_instances_are_apart(tmp_path: Path) -> None:
    for instance in ("ollama1", "ollama2"):
        keep(tmp_path / "measured", CASES["one model"]["said"][0], instance)
    assert [entry.size.instance for entry in read(tmp_path / "measured")] == ["ollama1", "ollama2"]


def test_the_file_goes_with_its_instance(tmp_path: Path) -> None:
    for instance in ("ollama1", "ollama2"):
        keep(tmp_path / "measured", CASES["one model"]["said"][0], instance)
    no_docker = "docker() { return 1; }\n"
    shell(tmp_path / "measured", no_docker + instance_scripts.REMOVE, "ollama1")
    assert names(tmp_path / "measured") == ["ollama2"]


def test_load_and_test_keep_the_sizes_before_they_judge() -> None:
    assert kept_size.KEEP in scripts.LOAD
    assert scripts.WHOLE.index('keep_sizes "$1"') < scripts.WHOLE.index("of a model are on the cards")


WORDS = st.sampled_from(["# ollama1", "# ../x", "5 10 10 4096 a:1", "5 10 11 4096 a:1", "5 0 0 0 a:1", "x", "# "])


@given(st.lists(WORDS | st.text(max_size=40) | st.from_regex(r"\A\d{1,20} \d{1,20} \d{1,20} \d{1,12} \S{1,9}\Z")))
def test_any_answer_is_a_bounded_list_of_possible_sizes(lines: list[str]) -> None:
    found = kept_size.kept(Answer(0, "\n".join(lines).encode()))
    assert len({(entry.size.instance, entry.size.model) for entry in found}) == len(found) <= len(lines)
    for entry in found:
        assert 0 < entry.size.size < MOST
        assert 0 <= entry.size.on_cards <= entry.size.size
        assert "/" not in entry.size.instance


@pytest.mark.parametrize("answer", [Answer(1), Answer(124, b"# ollama1\n5 10 10 4096 a:1\n"), Answer(0)])
def test_a_host_that_tells_nothing_keeps_nothing(answer: Answer) -> None:
    assert kept_size.kept(answer) == ()
