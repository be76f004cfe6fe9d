"""INI inventories and inventory programs, read through a stand-in for `ansible-inventory` on PATH."""

import time
from pathlib import Path

import pytest

from provision.errors import InventoryError, Problem
from provision.inventory import ansible, load
from tests.unit.inventory_roles import ROLES

INI = "[gpu]\na ansible_host=10.0.0.1\n\n[gpu:vars]\nansible_user=ops\n"
ANSWER = "all: {children: {gpu: {hosts: {a: {ansible_host: 10.0.0.1}}, vars: {ansible_user: ops}}}}"


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    """A function that puts a shell script on PATH as `ansible-inventory`."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    monkeypatch.setenv("HOME", str(tmp_path))

    def write(text: str) -> None:
        program = folder / ansible.PROGRAM
        program.write_text(f"#!/bin/sh\n{text}\n")
        program.chmod(0o755)

    return write


@pytest.fixture
def ini(tmp_path):
    path = tmp_path / "hosts.ini"
    path.write_text(INI)
    return path


def problems_of(path: Path) -> list[str]:
    with pytest.raises(InventoryError) as caught:
        load(path, roles=ROLES)
    return [str(problem) for problem in caught.value.problems]


def test_an_ini_inventory_is_read_with_group_vars_beside_the_file(stand_in, ini, tmp_path):
    stand_in(f"echo '{ANSWER}'")
    (tmp_path / "group_vars").mkdir()
    (tmp_path / "group_vars" / "gpu.yaml").write_text("ollama: {image: x/y:1}\npass: !env HOME\n")
    host = load(ini, roles=ROLES).host("a")
    assert (host.connection.address, host.connection.user) == ("10.0.0.1", "ops")
    assert host.settings["ollama"].image == "x/y:1"
    assert host.secrets()[0].reveal() == str(tmp_path)


def test_the_program_is_asked_for_yaml_without_the_variables_beside_the_file(stand_in, ini, tmp_path):
    stand_in(f'printf "%s\\n" "$@" "$ANSIBLE_VARS_ENABLED" >{tmp_path}/asked; echo "{ANSWER}"')
    load(ini, roles=ROLES, overrides=["ansible_password=hunter2"])
    asked = (tmp_path / "asked").read_text().splitlines()
    assert asked == [f"--inventory={ini}", "--list", "--yaml", "--export", "none"]


def test_an_inventory_program_is_read_in_the_same_way(stand_in, tmp_path):
    stand_in(f"echo '{ANSWER}'")
    script = tmp_path / "inventory.yaml"
    script.write_text("#!/bin/sh\necho not yaml: [\n")
    script.chmod(0o755)
    assert [host.name for host in load(script, roles=ROLES).hosts] == ["a"]
    script.chmod(0o644)
    assert ": not YAML: " in problems_of(script)[0], "a file without the executable bit is not started"


def test_problems_name_the_inventory_without_a_line(stand_in, ini):
    stand_in("echo 'gpu: {hosts: {a: {ollama: {imge: x}}}}'")
    assert problems_of(ini) == [f"{ini}: gpu.hosts.a.ollama.imge: unknown; did you mean image?"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("echo my-password >&2; exit 3", "ansible-inventory ended with exit code 3; `ansible-inventory -i INI --list`"),
        ("kill -9 $$", "ansible-inventory ended with exit code -9;"),
        ("yes 'a: {b: c}'", "ansible-inventory printed more than 4 MiB;"),
        ("head -c 100 /dev/zero | tr '\\0' '\\377'", "ansible-inventory printed something else than UTF-8 text;"),
        ("printf 'a\\0b'", "in the output of ansible-inventory: not YAML: holds the control character U+0000"),
        ("printf '[[[['", "in the output of ansible-inventory: not YAML: "),
        ("printf 'a: &a [*a]'", "in the output of ansible-inventory: the anchor &a contains itself"),
        ("printf 'x: !!python/object/apply:os.system [id]'", "x: in the output of ansible-inventory: the YAML tag"),
        (":", "names no host"),
        ("echo 'gpu: {hosts: {\"a;rm\": }}'", 'gpu.hosts."a;rm": is no name for a host'),
        ("echo 'gpu: {hosts: {a: {ansible_host: 010.0.0.1}}}'", "gpu.hosts.a.ansible_host: must be a DNS name"),
    ],
)
def test_a_hostile_answer_is_refused_in_words(stand_in, ini, text, said):
    stand_in(text)
    found = problems_of(ini)
    assert any(one.startswith(f"{ini}: {said.replace('INI', str(ini))}") for one in found), found
    assert "my-password" not in str(found), "the output of the program may quote a secret"


@pytest.mark.parametrize(
    "text", ["sleep 600", "sleep 600 >/dev/null", "exec >&-; sleep 600", "setsid sleep 9 & sleep 600"]
)
def test_a_hanging_program_is_killed(stand_in, ini, text):
    stand_in(text)
    problems: list[Problem] = []
    begun = time.monotonic()
    assert ansible.read(ini, problems, seconds=0.3) is None
    assert time.monotonic() - begun < 300
    assert "ansible-inventory has not ended after 0.3 s" in problems[0].message


def test_a_program_that_cannot_be_started_is_reported(stand_in, ini, tmp_path):
    stand_in("")
    (tmp_path / "bin" / ansible.PROGRAM).write_text("#!/no/such/interpreter\n")
    assert "ansible-inventory cannot be started: No such file or directory" in problems_of(ini)[0]


def test_without_the_program_the_command_that_writes_yaml_is_named(ini, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    (said,) = problems_of(ini)
    assert said.startswith(f"{ini}: is an INI inventory; YAML is read here: `ansible-inventory -i {ini} --list --yaml ")


def test_yaml_is_read_without_the_program(stand_in, tmp_path):
    stand_in(f"touch {tmp_path}/started")
    (tmp_path / "inventory.yaml").write_text("gpu: {hosts: {a: }}\n")
    assert load(tmp_path / "inventory.yaml", roles=ROLES).hosts
    assert not (tmp_path / "started").exists()
