"""The answers of nvidia-smi, in health and in every failure, and the card behind an index."""

import os
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest

from provision.errors import InventoryError
from provision.plan import role_interface
from provision.steps import facts, nvidia_smi
from provision.steps.facts import HostFacts
from provision.steps.nvidia_smi import Card
from provision.steps.ollama.engine import OLLAMA
from provision.steps.system.preflight import UsableCards

FIRST = "0, GPU-0, NVIDIA L40S, 590.48.01, 46068"
SECOND = "1, GPU-1, NVIDIA L40S, 590.48.01, 46068"
LOST = "Unable to determine the device handle for GPU0000:0A:00.0: Unknown Error"
WARNING = "WARNING: infoROM is corrupted at gpu 0000:01:00.0"
EXTRA = "GPU-0, 8.9, Disabled, Disabled, Enabled\nGPU-1, 8.9, [N/A], [N/A], Disabled"


def answers(core: str, code: int = 0, extra: str = EXTRA, extra_code: int = 0, listed: str = "") -> str:
    """Return a nvidia-smi with an answer for the fields of every driver, and another for the optional fields."""
    return f"""#!/bin/sh
case $1 in
  --query-gpu=index,*,persistence_mode) exit 2 ;;
  -L) printf '%s\\n' '{listed}'; exit {code} ;;
  --query-gpu=index,*) printf '%s\\n' '{core}'; exit {code} ;;
  *) printf '%s\\n' '{extra}'; exit {extra_code} ;;
esac
"""


def ask(folder: Path, program: str, *, limit: float = 15, remembered: str = "") -> HostFacts:
    """Return the host facts of a machine with a given nvidia-smi and record."""
    for name, text in {"nvidia-smi": program, "ip": "#!/bin/sh\n", "docker": "#!/bin/sh\nexit 1\n"}.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    (folder / "cards").write_text(remembered)
    command = facts.command((), limit)
    script = command.stdin.decode().replace(nvidia_smi.RECORD, str(folder / "cards"))
    environment = {"PATH": f"{folder}:{os.environ['PATH']}"}
    said = subprocess.run(command.words, input=script, capture_output=True, env=environment, check=True, text=True)
    return facts.parse(said.stdout)


@pytest.mark.parametrize(
    ("core", "code", "uuids", "error"),
    [
        (f"{FIRST}\n{SECOND}", 0, ["GPU-0", "GPU-1"], ""),
        (f"{FIRST}\n{SECOND}\n{WARNING}", 14, ["GPU-0", "GPU-1"], f"the infoROM of a GPU is corrupt: {WARNING}"),
        (f"{LOST}\n{SECOND}", 15, ["GPU-1"], f"a GPU is lost: it needs a reset or a reboot: {LOST}"),
        (LOST, 15, [], f"a GPU is lost: it needs a reset or a reboot: {LOST}"),
        (f"{FIRST}\n1, [Unknown Error], [N/A], [N/A], [N/A]", 0, ["GPU-0"], "nvidia-smi says: 1, [Unknown Error]"),
        ("[N/A], GPU-0, x, 590, 1", 0, [], "nvidia-smi says: [N/A], GPU-0"),
        ("0, GPU-$(id), x, 590, 1", 0, [], "nvidia-smi says: 0, GPU-$(id)"),
        ("0, GPU-0, x, [N/A], [Not Supported]", 0, ["GPU-0"], ""),
        (
            'Field "uuid" is not a valid field to query.',
            2,
            [],
            "nvidia-smi does not know a field: its driver is too old",
        ),
        ("No devices were found", 6, [], "nvidia-smi found no devices: No devices were found"),
        ("Failed to initialize NVML: Unknown Error", 255, [], "nvidia-smi exited 255: Failed to initialize NVML"),
        ("", 0, [], "nvidia-smi lists no card"),
    ],
)
def test_rows_are_used_with_any_exit_code(tmp_path: Path, core: str, code: int, uuids: list[str], error: str) -> None:
    found = ask(tmp_path, answers(core, code))
    assert [card.uuid for card in found.cards] == uuids
    assert found.driver_error.startswith(error)
    assert bool(found.driver_error) == bool(error)


@pytest.mark.parametrize(
    ("code", "query"), [(15, LOST), (255, LOST), (2, 'Field "driver_version" is not a valid field to query.')]
)
def test_if_the_query_fails_the_list_names_the_remaining_cards(tmp_path: Path, code: int, query: str) -> None:
    listed = f"GPU 0: NVIDIA L40S (UUID: GPU-0)\n{LOST}\nGPU 2: NVIDIA L40S (UUID: GPU-2)"
    found = ask(tmp_path, answers(query, code, listed=listed))
    assert [(card.index, card.uuid, card.name) for card in found.cards] == [
        (0, "GPU-0", "NVIDIA L40S"),
        (2, "GPU-2", "NVIDIA L40S"),
    ]
    assert query in found.driver_error
    assert found.driver_error.count(LOST) == 1


def test_the_optional_fields_are_asked_separately(tmp_path: Path) -> None:
    (first, second) = ask(
        tmp_path,
        answers(f"{FIRST}\n{SECOND}", extra="GPU-1, 9.0, Enabled, Enabled, Disabled\nGPU-0, 8.9, [N/A], [N/A], [N/A]"),
    ).cards
    assert first == Card(0, "GPU-0", "NVIDIA L40S", "590.48.01", 8.9, 46068)
    assert second == Card(1, "GPU-1", "NVIDIA L40S", "590.48.01", 9.0, 46068, mig=True, persistent=False)


def test_an_optional_field_missing_in_a_driver_stays_unknown(tmp_path: Path) -> None:
    said = 'Field "compute_cap" is not a valid field to query.\n'
    found = ask(tmp_path, answers(FIRST, extra=said, extra_code=2))
    assert (found.cards, found.driver_error) == ((Card(0, "GPU-0", "NVIDIA L40S", "590.48.01", 0.0, 46068),), "")


WHOLE = """#!/bin/sh
echo "$1" >>"$(dirname "$0")/asked"
echo '0, GPU-0, NVIDIA L40S, 590.48.01, 46068, 8.9, Disabled, Disabled, Enabled'
echo '1, [Unknown Error], [N/A], [N/A], [N/A], [N/A], [N/A], [N/A], [N/A]'
exit CODE
"""


def test_a_driver_that_knows_all_fields_is_asked_once(tmp_path: Path) -> None:
    found = ask(tmp_path, WHOLE.replace("CODE", "0"))
    assert found.cards == (Card(0, "GPU-0", "NVIDIA L40S", "590.48.01", 8.9, 46068, persistent=True),)
    assert found.driver_error == "nvidia-smi says: 1, [Unknown Error], [N/A], [N/A], [N/A]"
    assert len((tmp_path / "asked").read_text().splitlines()) == 1


def test_the_output_of_a_failed_query_is_not_used(tmp_path: Path) -> None:
    found = ask(tmp_path, WHOLE.replace("CODE", "15"))
    assert "a GPU is lost" in found.driver_error
    assert sorted((tmp_path / "asked").read_text().split()) == [
        "--query-gpu=index,uuid,name,driver_version,memory.total",
        f"--query-gpu={nvidia_smi.ALL}",
        f"--query-gpu={nvidia_smi.EXTRA}",
        *("-L", "-L"),
    ]


@pytest.mark.parametrize("word", ["[GPU requires reset]", "[GPU is lost]"])
def test_a_card_that_requires_a_reset_is_broken(tmp_path: Path, word: str) -> None:
    (first, second) = ask(tmp_path, answers(f"{FIRST}\n1, GPU-1, NVIDIA L40S, 590.48.01, {word}")).cards
    assert (first.broken, second.broken) == ("", word.strip("[]"))


def test_a_missing_nvidia_smi_is_a_driver_error(tmp_path: Path) -> None:
    command = facts.command(())
    script = command.stdin.decode().replace("nvidia-smi", "no-such-nvidia-smi")
    said = subprocess.run(command.words, input=script, capture_output=True, check=True, text=True)
    assert facts.parse(said.stdout).driver_error == nvidia_smi.ERRORS[127]


# A process stuck in a wedged driver outlives its time limit, ignores signals, and keeps the pipe for the answer open.
WEDGED = """#!/bin/sh
trap '' TERM
setsid sleep 600 &
echo $! >>"$(dirname "$0")/held"
sleep 600
"""


def test_a_wedged_driver_costs_no_more_than_the_time_limit(tmp_path: Path) -> None:
    found = ask(tmp_path, WEDGED, limit=3)
    for line in (tmp_path / "held").read_text().split():
        os.kill(int(line), 9)  # the process still runs: the script did not wait
    assert found.cards == ()
    assert found.driver_error.startswith(nvidia_smi.ERRORS[137])


def test_only_valid_lines_of_the_record_are_read(tmp_path: Path) -> None:
    text = "# gpu\n0 GPU-0\n1 GPU-$(id)\nx GPU-2\n3 GPU-3 more\n# gpu-exit\n7 GPU-7\n"
    found = ask(tmp_path, answers(SECOND), remembered=text)
    assert found.remembered == {0: "GPU-0", 7: "GPU-7"}
    assert nvidia_smi.parse_record(nvidia_smi.record_text(found.record).decode().splitlines()) == {
        **found.remembered,
        1: "GPU-1",
    }


def cards(*uuids: str) -> list[Card]:
    return [Card(index, uuid, "NVIDIA L40S", "590.48.01", 8.9, 46068) for index, uuid in enumerate(uuids)]


THREE = {0: "GPU-a", 1: "GPU-b", 2: "GPU-c"}


@pytest.mark.parametrize(
    ("remembered", "listed", "record"),
    [
        ({}, ["GPU-a", "GPU-b", "GPU-c"], THREE),  # the first time
        (THREE, ["GPU-c", "GPU-a", "GPU-b"], THREE),  # a boot changed the numbers
        (THREE, ["GPU-b", "GPU-c"], THREE),  # a card is gone, and the cards behind moved up
        (THREE, [], THREE),
        (THREE, ["GPU-a", "GPU-new", "GPU-c"], {**THREE, 1: "GPU-new"}),  # replaced in its slot
        (THREE, ["GPU-new", "GPU-a", "GPU-c"], {**THREE, 1: "GPU-new"}),  # replaced, and in another slot
        (THREE, ["GPU-x", "GPU-b", "GPU-y"], {0: "GPU-x", 1: "GPU-b", 2: "GPU-y"}),  # two replaced
        (THREE, ["GPU-x", "GPU-y", "GPU-z"], {0: "GPU-x", 1: "GPU-y", 2: "GPU-z"}),  # another machine
        (THREE, ["GPU-a", "GPU-b", "GPU-c", "GPU-new"], {**THREE, 3: "GPU-new"}),  # a card more
        (THREE, ["GPU-new", "GPU-a", "GPU-b", "GPU-c"], {**THREE, 3: "GPU-new"}),  # a card more, in the first slot
        ({5: "GPU-a"}, ["GPU-a", "GPU-b"], {5: "GPU-a", 1: "GPU-b"}),
    ],
)
def test_an_index_keeps_its_card(remembered: dict[int, str], listed: list[str], record: dict[int, str]) -> None:
    assert nvidia_smi.record(cards(*listed), remembered) == record
    assert nvidia_smi.record(cards(*listed), record) == record, "writing the record does not change its meaning"


@pytest.mark.parametrize(("index", "uuid"), [(0, "GPU-a"), (1, None), (2, "GPU-c"), (9, None)])
def test_the_card_of_an_index(index: int, uuid: str | None) -> None:
    card = HostFacts(cards=tuple(cards("GPU-a", "GPU-c")), remembered=THREE).card(index)
    assert (card and card.uuid) == uuid


LIMITED = """all:
  vars: {nginx: {accept_known_vulnerabilities: true}, nvidia_toolkit: {smi_timeout: LIMIT}}
  children: {gpu: {hosts: {gpu-01: {ollama: {instances: [{gpus: [0]}]}}}}}
"""


def test_the_time_limit_is_a_setting(tmp_path: Path) -> None:
    path = tmp_path / "inventory.yaml"
    path.write_text(LIMITED.replace("LIMIT", "2m"))
    inventory = role_interface.load(str(path))
    command = role_interface.facts_command(inventory.hosts[0], inventory)
    assert command.words[3] == "120"
    assert command.timeout > 240


@pytest.mark.parametrize("limit", ["0s", "11m", "-1", "soon"])
def test_a_time_limit_out_of_bounds_is_refused(tmp_path: Path, limit: str) -> None:
    path = tmp_path / "inventory.yaml"
    path.write_text(LIMITED.replace("LIMIT", limit))
    with pytest.raises(InventoryError, match=r"nvidia_toolkit\.smi_timeout"):
        role_interface.load(str(path))


def silent(line: str, *words: str) -> SimpleNamespace:
    """A host without packages of the driver."""
    return SimpleNamespace(stdout="")


@pytest.mark.parametrize(
    ("core", "code", "remembered", "failed"),
    [
        (f"{FIRST}\n{SECOND}\n{WARNING}", 14, "", []),
        (f"{FIRST}\n{LOST}", 15, "0 GPU-gone\n1 GPU-0\n", ["missing or broken cards"]),
        ("no driver", 9, "0 GPU-0\n", ["nvidia-smi answers", "missing or broken cards"]),
    ],
)
def test_verify_takes_the_cards_from_the_read_of_plan(
    tmp_path: Path, core: str, code: int, remembered: str, failed: list[str]
) -> None:
    backend = SimpleNamespace(facts=ask(tmp_path, answers(core, code), remembered=remembered))
    image = "ollama/ollama:0.30.0"
    guard = UsableCards(gpus={"one": (0,), "two": (1,)}, image=image, unusable=OLLAMA.unusable)
    checks = list(guard.check(SimpleNamespace(backend=backend, run=silent)))
    assert [check.name for check in checks if not check.passed] == failed


@pytest.mark.parametrize(
    ("persistence", "warns"),
    [
        (("Enabled", "Enabled"), ""),
        (("Disabled", "Enabled"), "GPU 0"),
        (("[N/A]", "[N/A]"), ""),
        (("Disabled",) * 2, "GPU 0"),
    ],
)
def test_plan_and_verify_warn_where_the_driver_of_a_card_in_use_is_not_kept_loaded(
    tmp_path: Path, persistence: tuple[str, str], warns: str
) -> None:
    extra = "\n".join(f"GPU-{index}, 8.9, Disabled, Disabled, {word}" for index, word in enumerate(persistence))
    found = ask(tmp_path, answers(f"{FIRST}\n{SECOND}", extra=extra))
    guard = UsableCards(gpus={"ollama1": (0,)}, image="ollama/ollama:0.30.0", unusable=OLLAMA.unusable)
    note = guard.note(found, None)
    assert note.startswith(f"persistence mode is off on {warns}: ") if warns else not note
    assert "nvidia-persistenced" in note or not warns
    checks = list(guard.check(SimpleNamespace(backend=SimpleNamespace(facts=found), run=silent)))
    assert [check.name for check in checks if check.name.startswith("warning: ")] == (
        [f"warning: {note}"] if note else []
    )
    assert all(check.passed for check in checks), "a warning fails no verify"
