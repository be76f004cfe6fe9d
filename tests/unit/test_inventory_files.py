"""Inventories in tests/unit/inventory: a new case is a new file there, with the expectations in comments.

bad/NAME.yaml    `# problem: [FILE:]LINE: PATH: MESSAGE`; all problems of the inventory, in any order
good/NAME.yaml   `# HOST KEY = JSON`, a part of the output of `inventory show` for the host
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
    monkeypatch.setenv("PATH", str(tmp_path))  # without ansible-inventory


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
def test_show_gives_the_merged_settings(case: Path) -> None:
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


def test_the_warning_of_a_large_inventory_stays_short(tmp_path: Path) -> None:
    path = tmp_path / "inventory.yaml"
    path.write_text("all: {children: {gpu: {hosts: {gpu-01: }}, k8s: {hosts: {'node-[1:40]': , gpu-01: }}}}")
    (warning,) = load(path, roles=ROLES).warnings
    assert warning.endswith(", node-8, node-9, node-10 and 30 more")


def test_a_host_under_retired_is_ours_and_has_nothing_declared(tmp_path):
    path = tmp_path / "inventory.yaml"
    path.write_text(
        "all: {vars: {nginx: {accept_known_vulnerabilities: true}},"
        " children: {gpu: {hosts: {a: {ansible_host: 10.0.0.1, ollama: {instances: [{gpus: [0]}]}}}},"
        " retired: {hosts: {b: {ansible_host: 10.0.0.2}}}}}\n"
    )
    inventory = role_interface.load(str(path))
    retired = next(host for host in inventory.hosts if host.name == "b")
    assert (retired.gpu, retired.balancer, retired.instances) == (False, False, ())
    assert [entry.step.id for entry in role_interface.steps(retired, inventory) if not entry.step.guards_host] == []
    assert not any("left out" in warning for warning in inventory.warnings)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"gpu:\n  hosts: {a: {x: 'b\0c'}}\n", "2: not YAML: holds the control character U+0000"),
        (b"gpu:\n\n  hosts: {a: {x: 'b\x1bc'}}\n", "3: not YAML: holds the control character U+001B"),
        (b"$ANSIBLE_VAULT;1.1;AES256\n6162\n", "1: is encrypted as a whole; provision reads no vault: decrypt"),
        (b"#!/bin/sh\necho '{}'\n", " is a program that prints an inventory; YAML is read here: `ansible-inventory"),
    ],
)
def test_files_of_another_kind_are_refused_with_advice(tmp_path: Path, data: bytes, message: str) -> None:
    path = tmp_path / "inventory.yaml"
    path.write_bytes(data)
    path.chmod(0o755)
    with pytest.raises(InventoryError) as caught:
        load(path, roles=ROLES)
    (problem,) = caught.value.problems
    assert str(problem).startswith(f"{path}:{message}")


def test_a_folder_is_refused_and_the_message_names_a_file_inside(tmp_path: Path) -> None:
    folder = tmp_path / "production"
    folder.mkdir()
    said = f"{folder}: is a folder"
    assert problems_of(folder) == [f"{said} without a YAML file"]
    for name in ("hosts.yml", "z.yaml", "README"):
        (folder / name).touch()
    assert problems_of(folder) == [f"{said}: name one of its files, such as {folder}/hosts.yml"]


def problems_of(path: Path) -> list[str]:
    with pytest.raises(InventoryError) as caught:
        load(path, roles=ROLES)
    return [str(problem) for problem in caught.value.problems]


def test_an_encrypted_file_of_variables_is_named(tmp_path: Path) -> None:
    (tmp_path / "inventory.yaml").write_text("gpu: {hosts: {a: }}\nsw: {hosts: {s: }}\n")
    (tmp_path / "host_vars").mkdir()
    for name in ("a", "s"):
        (tmp_path / "host_vars" / name).write_text("$ANSIBLE_VAULT;1.1;AES256\n6162\n")
    (said,) = problems_of(tmp_path / "inventory.yaml")
    assert said.startswith(f"{tmp_path}/host_vars/a:1: is encrypted as a whole; ")


def test_a_group_similar_to_ours_is_named_with_the_line_that_maps_the_group(tmp_path: Path) -> None:
    path = tmp_path / "inventory.yaml"
    path.write_text("gpu: {hosts: {a: }}\ngpu_nodes: {hosts: {b: , a: }}\nload_balancers: {hosts: {l: }}\n")
    (warning,) = load(path, roles=ROLES).warnings
    assert warning.endswith(": b, l; if these are yours, map them by `balancer: {children: {load_balancers: }}`")
    path.write_text("gpu: {hosts: {a: }}\ngpus: {hosts: {b: }}\n")
    (warning,) = load(path, roles=ROLES).warnings
    assert warning.endswith(": b; if these are yours, map them by `gpu: {children: {gpus: }}`")


def test_problems_inside_the_variables_of_other_hosts_are_warnings(tmp_path: Path) -> None:
    path = tmp_path / "inventory.yaml"
    others = "sw: {hosts: {s: {a: 1, a: 2, b: !vault x, c: !python/object:x {}}}, vars: {d: 1, d: 2}}\n"
    path.write_text(f"gpu: {{hosts: {{a: }}}}\n{others}")
    warnings = load(path, roles=ROLES).warnings
    assert [said.removeprefix(f"{path}:2: ") for said in warnings[:3]] == [
        "sw.hosts.s.a: is written twice; the first time on line 2",
        "sw.hosts.s.c: the YAML tag !python/object:x cannot be used here",
        "sw.vars.d: is written twice; the first time on line 2",
    ]
    path.write_text(f"gpu: {{hosts: {{a: , s: }}}}\n{others}")
    assert len(problems_of(path)) == 4, "the host is ours now"


def test_warnings_are_reported_beside_problems(tmp_path: Path) -> None:
    path = tmp_path / "inventory.yaml"
    path.write_text("gpu: {hosts: {a: {ollma: {}, ansible_prot: 1, ollama: {debug: 3}}}}\nbalancers: {hosts: {b: }}\n")
    with pytest.raises(InventoryError) as caught:
        load(path, roles=ROLES)
    assert [str(problem).rpartition(": ")[2] for problem in caught.value.problems] == ["must be true or false, not 3"]
    told = "\n".join(caught.value.warnings)
    for said in ("ollma is no role; did you mean ollama?", "did you mean ansible_port?", "{children: {balancers: }}"):
        assert said in told


def test_an_override_without_effect_is_a_warning(tmp_path: Path) -> None:
    path = tmp_path / "inventory.yaml"
    path.write_text("gpu: {hosts: {a: {rack: 3}}}\n")
    (tmp_path / "more.yaml").write_text("site: x\n")
    words = ["foo=1", "ollma=2", "ansible_prot=1", f"@{tmp_path}/more.yaml", "ansible_port=23"]
    assert [said for said in load(path, roles=ROLES, overrides=words).warnings if said.startswith("-e")] == [
        "-e: ansible_prot has no effect here; did you mean ansible_port?",
        "-e: foo has no effect here: no role is called foo",
        "-e: ollma is no role; did you mean ollama?",
    ]


def test_an_anchor_at_the_top_is_refused_with_the_right_place(tmp_path: Path) -> None:
    path = tmp_path / "inventory.yaml"
    path.write_text("x-common: &common {a: 1}\ngpu: {hosts: {a: {<<: *common}}}\n")
    (said,) = problems_of(path)
    assert said.endswith("an anchor may stand wherever its value is first used, such as `vars: &common {...}`")
