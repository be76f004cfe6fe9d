"""Inventories in tests/unit/inventory: a new case is a new file there, with what is expected in its comments.

bad/NAME.yaml    `# problem: [FILE:]LINE: PATH: MESSAGE`; all problems of the inventory, in any order
good/NAME.yaml   `# HOST KEY = JSON`, a part of what `inventory show` gives for the host
"""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from provision.errors import InventoryError
from provision.inventory import load, show
from provision.plan import role_interface
from tests.unit.inventory_roles import ROLES

DATA = Path(__file__).parent / "inventory"


def cases(folder: str) -> list[Path]:
    single = [path.relative_to(DATA / folder) for path in (DATA / folder).glob("*.yaml")]
    return sorted([*single, *(path.relative_to(DATA / folder) for path in (DATA / folder).glob("*/inventory.yaml"))])


@pytest.fixture(autouse=True)
def surroundings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("SECRET_FOR_TESTS", "a/secret:1")
    monkeypatch.delenv("NO_SUCH_VARIABLE", raising=False)


@pytest.mark.parametrize("case", cases("bad"), ids=str)
def test_every_problem_is_reported(case: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = (DATA / "bad" / case).parent
    monkeypatch.chdir(directory)
    text = Path(case.name).read_text(encoding="utf-8")
    expected = [complete(case.name, found) for found in re.findall(r"^# problem: (.*)$", text, re.MULTILINE)]
    with pytest.raises(InventoryError) as caught:
        load(case.name, roles=ROLES)
    assert [str(problem) for problem in caught.value.problems] == sorted(expected, key=by_line)


def complete(file: str, expected: str) -> str:
    """Put the file's name before a line number; line 0 is shown as no line."""
    named = f"{file}:{expected}" if expected[0].isdigit() else expected
    return named.replace(":0: ", ": ", 1)


def by_line(message: str) -> tuple[str, int, str]:
    file, line = re.match(r"([^:]*):(\d*)", message).groups()
    return file, int(line or 0), message


@pytest.mark.parametrize("case", cases("good"), ids=str)
def test_merged_result(case: Path) -> None:
    path = DATA / "good" / case
    shown = show(load(path, roles=ROLES))
    assert "secret:1" not in json.dumps(shown)
    found = re.findall(r"^# (\S+) (\S+) = (.*)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    assert found
    for host, key, value in found:
        assert look_up(shown["hosts"][host], key) == json.loads(value), f"{host} {key}"


def look_up(host: dict[str, Any], key: str) -> Any:
    role, _, name = key.partition(".")
    if not name:
        return host["variables"][role]
    return host["connection"][name] if role == "connection" else host["settings"][role][name]


def test_hosts_in_no_group_of_ours_are_left_out_and_warnings_name_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(DATA / "good" / "others")
    loaded = load("inventory.yaml", roles=ROLES)
    assert [host.name for host in loaded.hosts] == ["gpu-01"]
    *misnamed, warning = loaded.warnings
    assert [line.partition(": ")[2] for line in misnamed] == [
        'all.children.misnamed.hosts."sw3[": has a bracket that is no range such as [01:20] or [a:c]',
        "all.children.misnamed.hosts.\"sw 4\": is no name for a host: use letters, digits, '.', '_' and '-'",
    ]
    left_out = "hosts left out, because they are in none of the groups gpu, balancer, retired: "
    assert warning.startswith(f"inventory.yaml:4: {left_out}")
    assert warning.endswith(": localhost, same-machine, sw-01, sw-02")


def test_the_warning_of_a_great_inventory_stays_short(tmp_path: Path) -> None:
    path = tmp_path / "inventory.yaml"
    path.write_text("all: {children: {gpu: {hosts: {gpu-01: }}, k8s: {hosts: {'node-[1:40]': , gpu-01: }}}}")
    (warning,) = load(path, roles=ROLES).warnings
    assert warning.endswith(", node-8, node-9, node-10 and 30 more")


def test_a_host_under_retired_is_ours_and_has_nothing_declared(tmp_path):
    path = tmp_path / "inventory.yaml"
    path.write_text(
        "all: {children: {gpu: {hosts: {a: {ansible_host: 10.0.0.1, ollama: {instances: [{gpus: [0]}]}}}},"
        " retired: {hosts: {b: {ansible_host: 10.0.0.2}}}}}\n"
    )
    inventory = role_interface.load(str(path))
    retired = next(host for host in inventory.hosts if host.name == "b")
    assert (retired.gpu, retired.balancer, retired.instances) == (False, False, ())
    assert [entry.step.id for entry in role_interface.steps(retired, inventory) if not entry.step.guards_host] == []
    assert not any("left out" in warning for warning in inventory.warnings)
