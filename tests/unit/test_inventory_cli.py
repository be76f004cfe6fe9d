"""`provision init`, `provision inventory`, and the example that names every setting."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any, Literal

import pytest
import yaml

from provision import cli
from provision.inventory import AbsolutePath, Inventory, Settings, example, load, show
from tests.unit.inventory_roles import ROLES


@pytest.fixture(autouse=True)
def sequence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Let the commands load inventories with the roles of these tests."""
    from provision.plan import role_interface

    def loading(path: str, overrides: Any = ()) -> Inventory:
        return load(path, roles=ROLES, overrides=overrides)

    monkeypatch.setattr(role_interface, "load", loading)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PROVISION_INVENTORY", raising=False)


def run(*words: str) -> int:
    with pytest.raises(SystemExit) as stopped:
        cli.main(list(words))
    assert isinstance(stopped.value.code, int)
    return stopped.value.code


GOOD = "gpu: {vars: {pass: !env HOME, ngnix: 1}, hosts: {gpu-01: {ollama: {image: a/b:1}}, gpu-02: }}"
BAD = "gpu: {hosts: {gpu-01: {ollama: {imge: x, debug: 3}}}}"


def test_init_writes_once(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("init") == 0
    assert "provision inventory check -i inventory.yaml" in capsys.readouterr().out
    assert run("inventory", "check") == 0
    assert run("init") == 2
    assert "inventory.yaml exists already" in capsys.readouterr().err
    assert run("init", "missing/x.yaml") == 2
    assert run("init", "other.yaml") == 0


def test_check_counts_hosts_groups_and_instances(capsys: pytest.CaptureFixture[str]) -> None:
    Path("i.yaml").write_text(GOOD)
    assert run("inventory", "check", "-i", "i.yaml") == 0
    out, err = capsys.readouterr()
    assert out == "i.yaml: 2 hosts, 1 group, 0 instances; no problems\n"
    assert err == "warning: i.yaml:1: ngnix is no role; did you mean nginx?\n"


def test_check_prints_every_problem(capsys: pytest.CaptureFixture[str]) -> None:
    Path("i.yaml").write_text(BAD)
    assert run("inventory", "check", "-i", "i.yaml") == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        "i.yaml:1: gpu.hosts.gpu-01.ollama.debug: must be true or false, not 3",
        "i.yaml:1: gpu.hosts.gpu-01.ollama.imge: unknown; did you mean image?",
        "2 problems",
    ]


def test_check_in_json(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    Path("i.yaml").write_text(BAD)
    monkeypatch.setenv("PROVISION_INVENTORY", "i.yaml")
    assert run("inventory", "check", "--json") == 2
    found = json.loads(capsys.readouterr().out)
    assert (found["schema"], found["command"], found["exit"]) == (1, "inventory check", 2)
    assert found["problems"][1]["line"] == 1
    Path("i.yaml").write_text(GOOD)
    assert run("inventory", "check", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["summary"] == {"hosts": 2, "groups": 1, "instances": 0}
    assert len(found["warnings"]) == 1


def test_show_merges_and_masks(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    Path("i.yaml").write_text(GOOD)
    assert run("inventory", "show", "gpu-01", "-i", "i.yaml", "--json", "-e", "nginx.version=1.30.5") == 0
    out = capsys.readouterr().out
    found = json.loads(out)["hosts"]
    assert [host["host"] for host in found] == ["gpu-01"]
    assert found[0]["settings"]["ollama"]["image"] == "a/b:1"
    assert found[0]["settings"]["nginx"]["version"] == "1.30.5"
    assert found[0]["variables"]["pass"] == "[secret]"
    assert run("inventory", "show", "-i", "i.yaml", "-l", "gpu:!gpu-01") == 0
    assert list(yaml.safe_load(capsys.readouterr().out)["hosts"]) == ["gpu-02"]


def test_show_of_an_unknown_host(capsys: pytest.CaptureFixture[str]) -> None:
    Path("i.yaml").write_text(GOOD)
    assert run("inventory", "show", "gpu-1", "-i", "i.yaml") == 2
    assert "no such host: gpu-1; did you mean gpu-01?" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("ollama.imge=x", "-e: ollama.imge: unknown; did you mean image?"),
        (
            "nginx.version=1.26",
            '-e: nginx.version: must be text, not 1.26, which YAML reads as a number: write it in quotes, "1.26"',
        ),
        ("olama.image=x", "-e: olama.image: olama is no role; did you mean ollama?"),
        ("nonsense", "-e: nonsense: write key=value, role.key=value or @FILE"),
        ("@missing", "missing: cannot be read: No such file or directory"),
    ],
)
def test_overrides_are_checked(word: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("i.yaml").write_text(GOOD)
    assert run("inventory", "check", "-i", "i.yaml", "-e", word) == 2
    assert message in capsys.readouterr().err.splitlines()


def test_overrides_win_over_the_inventory(tmp_path: Path) -> None:
    Path("i.yaml").write_text(GOOD)
    Path("more.yaml").write_text("ollama: {mode: slow, models: [a]}\nmine: 1")
    words = ["@more.yaml", "ollama.models=[b, c]", "{ollama: {debug: true}}", "ollama.limits.pids=7", "mine=x=y"]
    host = load("i.yaml", roles=ROLES, overrides=words).host("gpu-02")
    shown = show(load("i.yaml", roles=ROLES, overrides=words))["hosts"]["gpu-02"]["settings"]["ollama"]
    assert (shown["mode"], shown["models"], shown["debug"]) == ("slow", ["b", "c"], True)
    assert shown["limits"] == {"memory": None, "pids": 7}
    assert host.variables["mine"] == "x=y"


def test_the_example_is_complete_and_holds_the_defaults() -> None:
    text = example.render(ROLES)
    Path("example.yaml").write_text(text)
    document = yaml.safe_load(text)["all"]["vars"]
    for name, cls in ROLES.items():
        assert set(document[name]) == set(cls.model_fields)
        assert cls.model_validate(document[name]) == cls()
        for field in cls.model_fields:
            assert (example.meaning(cls, field) or "no meaning").split()[0] in text
    loaded = load("example.yaml", roles=ROLES)
    assert [host.name for host in loaded.hosts] == ["gpu-01", "gpu-02", "gpu-03", "gpu-04", "lb-01"]
    assert loaded.warnings == ()


def test_the_example_shows_the_items_of_lists() -> None:
    text = example.render(ROLES)
    assert "# Each of instances:\n" in text
    assert "#   # gpus is required\n" in text
    assert "pids: 512\n" in text
    assert "One of: fast, slow." in text
    assert "This paragraph is for engineers" not in text


def test_help_does_not_import_the_inventory() -> None:
    program = (
        "import sys; from provision.cli import group; group.main(['--help'], standalone_mode=False);"
        "sys.exit(any(name.startswith(('provision.inventory', 'pydantic', 'yaml')) for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, check=False).returncode == 0


class Parent(Settings):
    level: int = 1
    """How much."""
    where: Literal["volume"] | AbsolutePath = "volume"
    """A place."""


class Child(Parent):
    level: int = 2


def test_a_changed_default_keeps_its_meaning() -> None:
    text = example.render({"child": Child})
    assert "# How much.\n      level: 2\n" in text
    assert "# A place.\n" in text
