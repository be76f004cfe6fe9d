"""How hosts are reached: inventory first, then the ssh configuration, then defaults."""

import getpass
import json
from pathlib import Path
from typing import Any

import pytest

from provision.errors import InventoryError
from provision.inventory import Connection, Host, Inventory, load
from provision.inventory.sshargs import jump_of_command
from tests.unit.inventory_roles import ROLES

SYSTEM = "/etc/ssh/ssh_known_hosts"


@pytest.fixture(autouse=True)
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".ssh").mkdir()
    return tmp_path


def loaded(home: Path, variables: dict[str, Any], config: str = "") -> Inventory:
    if config:
        (home / ".ssh" / "config").write_text(config)
    path = home / "site" / "inventory.yaml"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({"gpu": {"hosts": {"gpu-01": variables}}}))
    return load(path, roles=ROLES)


def connection(home: Path, variables: dict[str, Any], config: str = "") -> Connection:
    return loaded(home, variables, config).host("gpu-01").connection


def test_defaults(home: Path) -> None:
    found = connection(home, {})
    assert found == Connection(
        address="gpu-01",
        user=getpass.getuser(),
        become=getpass.getuser() != "root",
        known_hosts=(str(home / ".ssh/known_hosts"), SYSTEM),
    )


def test_ansible_variables(home: Path) -> None:
    found = connection(
        home,
        {
            "ansible_host": "10.0.0.1",
            "ansible_port": 2222,
            "ansible_user": "ops",
            "ansible_ssh_private_key_file": "keys/id",
            "ansible_timeout": 3,
            "ansible_password": 12345,
            "ansible_become_pass": "s u d o",
            "ansible_ssh_common_args": "-o UserKnownHostsFile='known ~/more' -o HostKeyAlias=gpu -o LogLevel=ERROR",
        },
    )
    assert found.password is not None
    assert found.password.reveal() == "12345"
    assert found.become_password is not None
    assert found.become_password.reveal() == "s u d o"
    assert (found.address, found.port, found.user, found.become) == ("10.0.0.1", 2222, "ops", True)
    assert found.key_files == (str(home / "site/keys/id"),)
    assert found.known_hosts == (str(home / "site/known"), str(home / "more"), SYSTEM)
    assert (found.connect_timeout, found.host_key_alias) == (3.0, "gpu")


def test_the_time_limits_of_a_slow_host_are_a_variable_of_ours(home: Path) -> None:
    found = loaded(home, {"timeout_factor": 12})
    assert found.host("gpu-01").connection.timeout_factor == 12
    assert (found.warnings, found.host("gpu-01").variables) == ((), {})
    path = home / "site" / "inventory.yaml"
    assert load(path, roles=ROLES, overrides=["timeout_factor=3"]).hosts[0].connection.timeout_factor == 3
    [warning] = loaded(home, {"timeout_facter": 12}).warnings
    assert warning.endswith("timeout_facter has no effect here; did you mean timeout_factor?")


def test_root_needs_no_sudo_unless_ansible_become_says_so(home: Path) -> None:
    assert not connection(home, {"ansible_user": "root"}).become
    assert connection(home, {"ansible_user": "root", "ansible_become": "yes"}).become
    assert not connection(home, {"ansible_user": "ops", "ansible_become": False}).become


CONFIG = """
Host 10.0.0.* gpu-01
  User fromconfig
  Port 2200
  IdentityFile ~/.ssh/special
  ProxyJump bastion
  UserKnownHostsFile ~/.ssh/site_hosts
  HostKeyAlias alias
  ConnectTimeout 7
Host gpu-01
  HostName 10.9.9.9
Host bastion
  HostName bastion.example.org
  User jumper
  ProxyJump outer:2022
Host outer
  IdentityFile ~/.ssh/outer
"""


def test_ssh_config_fills_in_missing_values(home: Path) -> None:
    found = connection(home, {}, CONFIG)
    assert (found.address, found.port, found.user) == ("10.9.9.9", 2200, "fromconfig")
    assert found.key_files == (str(home / ".ssh/special"),)
    assert found.known_hosts == (str(home / ".ssh/site_hosts"), SYSTEM)
    assert (found.connect_timeout, found.host_key_alias) == (7.0, "alias")


def test_jump_hosts_come_outermost_first(home: Path) -> None:
    outer, bastion = connection(home, {}, CONFIG).jumps
    assert (outer.address, outer.port, outer.user) == ("outer", 2022, getpass.getuser())
    assert (bastion.address, bastion.port, bastion.user) == ("bastion.example.org", 22, "jumper")
    assert outer.key_files == (str(home / ".ssh/outer"),)
    assert bastion.key_files == (str(home / ".ssh/special"),)
    assert bastion.known_hosts == (str(home / ".ssh/site_hosts"), SYSTEM)
    assert outer.jumps == bastion.jumps == ()


def test_the_inventory_wins_over_ssh_config(home: Path) -> None:
    said = {
        "ansible_host": "10.0.0.7",
        "ansible_user": "ops",
        "ansible_port": 22,
        "ansible_ssh_common_args": "-o ProxyJump=none -o ConnectTimeout=1 -i /k",
    }
    found = connection(home, said, CONFIG)
    assert (found.address, found.user, found.port, found.jumps) == ("10.0.0.7", "ops", 22, ())
    assert (found.connect_timeout, found.key_files) == (1.0, ("/k",))


@pytest.mark.parametrize(
    ("hop", "expected"),
    [
        ("bastion", ("bastion", 22)),
        ("me@bastion:2022", ("bastion", 2022)),
        ("ssh://me@bastion:2022", ("bastion", 2022)),
        ("me@[fe80::1]:2022", ("fe80::1", 2022)),
        ("dom\\me@10.0.0.1", ("10.0.0.1", 22)),
    ],
)
def test_every_form_of_a_jump_host_is_read(home: Path, hop: str, expected: tuple[str, int]) -> None:
    (jump,) = connection(home, {"ansible_ssh_common_args": f"-J '{hop}'"}).jumps
    assert (jump.address, jump.port) == expected


@pytest.mark.parametrize(
    ("command", "hop"),
    [
        ("ssh -W %h:%p -q ops@bastion", "ops@bastion"),
        ("ssh -q -W %h:%p -p 2222 bastion", "bastion:2222"),
        ("ssh bastion -W %h:%p", "bastion"),
        ("ssh -o StrictHostKeyChecking=no -W %h:%p bastion", ""),
        ("nc %h %p", ""),
        ("ssh '", ""),
    ],
)
def test_a_proxy_command_by_ssh_becomes_a_jump(command: str, hop: str) -> None:
    assert jump_of_command(command) == hop


def test_a_circle_of_jumps_is_refused(home: Path) -> None:
    config = "Host a\n  ProxyJump b\nHost b\n  ProxyJump a\nHost gpu-01\n  ProxyJump a\n"
    with pytest.raises(InventoryError, match="more than 8 jump hosts, or round in a circle"):
        connection(home, {}, config)


def test_a_proxy_command_of_ssh_config_is_refused_unless_overruled(home: Path) -> None:
    config = "Host gpu-01\n  ProxyCommand nc %h %p\n"
    with pytest.raises(InventoryError, match="write -o ProxyJump=USER@HOST instead"):
        connection(home, {}, config)
    assert connection(home, {"ansible_ssh_common_args": "-J bastion"}, config).jumps


def test_an_include_keeps_sections_apart(home: Path) -> None:
    (home / ".ssh" / "more").write_text("Host gpu-01\n  Port 2022\nHost other\n  User wrong\n")
    found = connection(home, {}, "Include more\nUser right\nHost gpu-01\n  ConnectTimeout 3\n")
    assert (found.port, found.user, found.connect_timeout) == (2022, "right", 3.0)


def test_the_home_of_an_unknown_user_is_no_error(home: Path) -> None:
    found = connection(home, {"ansible_ssh_private_key_file": "~nobody-here/key"}, "Include ~nobody-here/x\n")
    assert found.key_files == (str(home / "site/~nobody-here/key"),)


def test_ansible_ssh_common_args_may_name_another_configuration(home: Path) -> None:
    (home / "site").mkdir()
    (home / "site" / "ssh.cfg").write_text("Host *\n  User cfg\n")
    assert connection(home, {"ansible_ssh_common_args": "-F ssh.cfg"}, CONFIG).user == "cfg"
    assert connection(home, {"ansible_ssh_common_args": "-F none"}, CONFIG).jumps == ()
    with pytest.raises(InventoryError, match="cannot be read"):
        connection(home, {"ansible_ssh_common_args": "-F missing.cfg"})


@pytest.mark.parametrize(
    "config",
    ["Host gpu-01\n  Port many\n", "Host gpu-01\n HostName -x\n", "Match nonsense\n", "\0", "Include 'a\n"],
)
def test_a_broken_ssh_config_is_a_problem(home: Path, config: str) -> None:
    with pytest.raises(InventoryError, match=r"\.ssh/config: "):
        connection(home, {}, config)


def test_misspelt_variables_are_warned_of(home: Path) -> None:
    warnings = loaded(home, {"ansible_hots": "x", "ngnix": {}, "ansible_python_interpreter": "x", "mine": 1}).warnings
    assert [warning.partition(": ")[2] for warning in warnings] == [
        "ansible_hots has no effect here; did you mean ansible_host?",
        "ngnix is no role; did you mean nginx?",
    ]


def test_hosts_know_their_groups_and_places(home: Path) -> None:
    host = loaded(home, {"ollama": {"instances": [{"gpus": [0]}]}}).host("gpu-01")
    assert isinstance(host, Host)
    assert (host.gpu, host.balancer, host.groups) == (True, False, ("gpu",))
    problem = host.problem("ollama", ("instances", 0, "port"), "is taken")
    assert str(problem).endswith("inventory.yaml:1: gpu.hosts.gpu-01.ollama.instances[0].port: is taken")
