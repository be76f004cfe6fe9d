"""The scripts that replace a container, against a Docker of files: cut anywhere, the old container is still there."""

import subprocess
from pathlib import Path

import pytest

from provision.command import Script
from provision.steps.base import converged
from provision.steps.facts import HostFacts
from provision.steps.instance import scripts
from provision.steps.instance.container import Container
from provision.steps.nvidia_smi import Card
from provision.steps.ollama.engine import OLLAMA

OLD, NEW = "ollama1.PREVIOUS", "ollama1.provision-new"
COMMANDS = 8  # of Docker, in a replacement
# A container is a file with status, restart policy, label and id. The command with the number in `cut` fails, and so
# does every later command.
DOCKER = r"""#!/bin/sh
cd "$BOX" || exit 1
count=$(($(cat ../count) + 1)); echo $count >../count
[ $count -lt "$(cat ../cut)" ] || exit 1
for last do :; done
case $1 in
  ps) for one in *; do read -r status rest <"$one"; case $status in running) echo "$one" ;; esac; done; exit ;;
  create) [ ! -e "$3" ] || exit 1; echo "created unless-stopped 1 made-$count" >"$3"; exit ;;
esac
[ "$1" != rename ] || { [ -e "$2" ] && [ ! -e "$3" ] && mv "$2" "$3"; exit; }
[ -e "$last" ] || exit 1
read -r status policy label id <"$last"
case $1:$5 in
  inspect:*managed*) echo "$label"; exit ;;
  inspect:*Name*) echo "/$last"; exit ;;
  inspect:*Bindings*) echo 10.0.0.11:3001 GPU-1; exit ;;
  inspect:*Id*) echo "$last"; exit ;;
  inspect:*) exit ;;
  stop:*) [ "$policy" != rm ] || { rm "$last"; exit; }; status=exited ;;
  rm:*) rm "$last"; exit ;;
  update:*) [ "$status" != running ] || exit 1; policy=$3 ;;
esac
echo "$status $policy $label $id" >"$last"
"""


class Box:
    """A host with containers as files.

    Args:
        folder: a folder of the test.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "box").mkdir()
        (folder / "docker").write_text(DOCKER)
        (folder / "docker").chmod(0o755)
        self.put("ollama1", "running unless-stopped 1 old")

    def put(self, name: str, text: str) -> None:
        (self.folder / "box" / name).write_text(text + "\n")

    def run(self, script: Script, *words: str, cut: int = 1000) -> int:
        """Run a script until a number of commands of Docker; return its exit code."""
        (self.folder / "count").write_text("0")
        (self.folder / "cut").write_text(str(cut))
        env = {"PATH": f"{self.folder}:/usr/bin:/bin", "BOX": f"{self.folder}/box"}
        argv = ["sh", "-eu", "-c", str(script), "sh", *words]
        return subprocess.run(argv, env=env, timeout=30, check=False, capture_output=True).returncode

    @property
    def containers(self) -> dict[str, str]:
        """Name -> status and policy, and `old` for the old container."""
        items = {path.name: path.read_text().split() for path in (self.folder / "box").iterdir()}
        return {name: f"{words[0]} {words[1]} {words[3].partition('-')[0]}" for name, words in items.items()}


@pytest.fixture
def box(tmp_path: Path) -> Box:
    return Box(tmp_path)


def test_a_replacement_keeps_the_old_container_stopped_and_without_a_policy(box: Box) -> None:
    assert box.run(scripts.RECREATE, "ollama1", "x") == 0
    assert box.containers == {"ollama1": "created unless-stopped made", OLD: "exited no old"}


def test_a_second_replacement_keeps_what_the_first_kept(box: Box) -> None:
    for _ in range(2):
        assert box.run(scripts.RECREATE, "ollama1", "x") == 0
    assert box.containers == {"ollama1": "created unless-stopped made", OLD: "exited no old"}


def test_a_container_that_goes_when_stopped_is_replaced_all_the_same(box: Box) -> None:
    box.put("ollama1", "running rm 1 old")
    assert box.run(scripts.RECREATE, "ollama1", "x") == 0
    assert box.containers == {"ollama1": "created unless-stopped made"}


@pytest.mark.parametrize("cut", range(1, 10))
def test_a_replacement_cut_anywhere_keeps_the_old_container_and_a_second_one_ends_well(box: Box, cut: int) -> None:
    done = box.run(scripts.RECREATE, "ollama1", "x", cut=cut) == 0
    assert done or "old" in " ".join(box.containers.values())
    assert box.run(scripts.RECREATE, "ollama1", "x") == 0
    assert box.containers == {"ollama1": "created unless-stopped made", OLD: "exited no old"}


@pytest.mark.parametrize(
    ("cut", "back"), [*((cut, 1000) for cut in range(1, 9)), *((cut, n) for cut in (8, 9) for n in range(1, 9))]
)
def test_the_old_container_comes_back_after_any_cut(box: Box, cut: int, back: int) -> None:
    assert (box.run(scripts.RECREATE, "ollama1", "x", cut=cut) == 0) == (cut > COMMANDS)
    if OLD in box.containers:
        box.run(scripts.BRING_BACK, "ollama1", "unless-stopped", cut=back)
    if OLD in box.containers:
        assert box.run(scripts.BRING_BACK, "ollama1", "unless-stopped") == 0
        assert NEW not in box.containers
    assert box.containers["ollama1"].endswith(" old")


def test_an_instance_that_is_removed_takes_its_previous_container_along(box: Box) -> None:
    box.run(scripts.RECREATE, "ollama1", "x")
    box.put("ollama2.PREVIOUS", "exited no 1 other")
    assert box.run(scripts.REMOVE, "ollama1") == 0
    assert box.containers == {"ollama2.PREVIOUS": "exited no other"}


@pytest.mark.parametrize("script", [scripts.REMOVE, scripts.REMOVE_PREVIOUS])
def test_a_container_of_somebody_else_is_never_removed_for_its_name(box: Box, script: Script) -> None:
    box.put(OLD, "exited no <no-value> theirs")
    assert box.run(script, "ollama1") == 0
    assert box.containers[OLD] == "exited no theirs"


def test_a_previous_container_is_removed_beside_its_successor(box: Box) -> None:
    box.run(scripts.RECREATE, "ollama1", "x")
    assert box.run(scripts.REMOVE_PREVIOUS, "ollama1") == 0
    assert box.containers == {"ollama1": "created unless-stopped made"}


FREE = Script("free", scripts.FREE + 'free "$@"\n')


def test_a_container_that_gives_up_its_card_is_kept_too(box: Box) -> None:
    box.put("ollama2", "created unless-stopped 1 new")
    assert box.run(FREE, "ollama2", "10.0.0.11:3002", "GPU-1") == 0
    assert box.containers == {"ollama2": "created unless-stopped new", OLD: "exited no old"}


def test_a_previous_container_started_by_hand_is_stopped_for_its_successor(box: Box) -> None:
    box.run(scripts.RECREATE, "ollama1", "x")
    box.put(OLD, "running no 1 old")
    assert box.run(FREE, "ollama1", "10.0.0.11:3001", "GPU-1") == 0
    assert box.containers[OLD] == "exited no old"


@pytest.mark.parametrize(("moved", "title"), [(True, "bring the previous container of o1 back"), (False, "")])
def test_a_rollback_after_a_tag_moved_brings_the_container_with_the_old_image_back(moved: bool, title: str) -> None:
    step = Container(name="o1", engine=OLLAMA, image="ollama/ollama:latest", gpus=(0,), port=3001, address="10.0.0.1")
    facts = HostFacts(cards=(Card(0, "GPU-1", "NVIDIA L40S", "590", 8.9, 1),))
    new = {**(step.want(facts, None) or {})}
    past = {**new, "current": not moved}
    have = {**new, "previous": {**past, "running": False, "restart": "no", "answers": "", "sees": [""]}}
    wanted = step.restore(facts, have, past)
    assert converged(have, wanted) is not moved
    assert not moved or step.commands(have, wanted)[0].title == title
    assert converged(past, step.restore(facts, past, past)), "nothing is to do when the old container is back"
    assert (step.restore(facts, new, past) or {})["current"] is True, "without the old container the tag decides"
