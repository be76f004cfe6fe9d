"""Clients that need no key in their networks: the file, the commands, nginx's files, and a rollback."""

import ipaddress
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provision.errors import UsageError
from provision.inventory import client_file, client_networks
from provision.inventory.client_file import ClientFile, Limits, load, save
from provision.roles.balancer_gateway import CLIENTS as HASHES
from provision.steps.facts import HostFacts
from provision.steps.nginx.router import NETWORKS

from . import test_keys
from .balancer_fleet import config, texts
from .test_balancer_router import CLIENTS, KNOWN, on_host
from .test_balancer_router import load as inventory
from .test_keys import Terminal, of_inventory

NOW = 1_796_083_200
CLI = Limits(networks=("10.0.0.0/8", "fd00::/64"))
terminal = test_keys.terminal


def problems(**networks: Any) -> list[str]:
    return list(client_networks.problems({name: {"networks": value} for name, value in networks.items()}))


@pytest.mark.parametrize(
    "network",
    [
        *("10.0.0.1/8", "10.0.0.7", "10.0.0.0/255.0.0.0", "10.0.0.0/33", "FD00::/64", "fd00:0::/64", "fe80::%eth0/64"),
        *(
            "",
            "10.0.0.0/8;",
            "10.0.0.0/8\n",
            "default",
            "all",
            10,
            None,
            ["10.0.0.0/8"],
            "1" * 5000,
            "0.0.0.0/0",
            "::/0",
        ),
        *("::ffff:10.0.0.0/104", "::ffff:a00:0/104"),
    ],
)
def test_a_network_that_nginx_may_read_otherwise_is_refused_with_its_place(network: Any) -> None:
    (said,) = problems(cli=["192.0.2.0/24", network])
    assert said.startswith("clients: 'cli': networks[1] ")


def test_networks_are_a_bounded_list() -> None:
    assert problems(cli="10.0.0.0/8") == ["clients: 'cli': networks must be a list"]
    many = [f"10.{number // 256}.{number % 256}.0/24" for number in range(1001)]
    assert problems(cli=many[:500], bob=many[500:]) == ["clients: the file has 1001 networks, and 1000 are possible"]
    assert not problems(cli=many[:1000])


@pytest.mark.parametrize(
    ("mine", "other", "said"),
    [
        (["10.0.0.0/8"], ["10.9.0.0/16"], "'bob': network 10.9.0.0/16 overlaps 10.0.0.0/8 of 'cli'"),
        (["10.9.0.0/16"], ["10.0.0.0/8"], "'cli': network 10.9.0.0/16 overlaps 10.0.0.0/8 of 'bob'"),
        (["fd00::/64"], ["fd00::/64"], "'bob': network fd00::/64 overlaps fd00::/64 of 'cli'"),
        (["10.0.0.0/8", "10.0.0.0/8"], [], "'cli': network 10.0.0.0/8 overlaps 10.0.0.0/8 of 'cli'"),
    ],
)
def test_a_network_belongs_to_a_single_client(mine: list[str], other: list[str], said: str) -> None:
    assert problems(cli=mine, bob=other) == [f"clients: {said}"]


SMALL = st.builds(
    lambda number, length: str(ipaddress.ip_network((number << 24, length), strict=False)),
    st.integers(0, 15),
    st.integers(5, 8),
)


@given(st.lists(SMALL, max_size=6), st.lists(SMALL, max_size=6))
def test_every_overlap_is_found(mine: list[str], other: list[str]) -> None:
    parsed = [ipaddress.ip_network(network) for network in (*mine, *other)]
    overlaps = any(a.overlaps(b) for place, a in enumerate(parsed) for b in parsed[:place])
    assert bool(problems(cli=mine, bob=other)) == overlaps


@pytest.mark.parametrize(
    ("text", "network"),
    [("10.0.0.7", "10.0.0.7/32"), ("FD00:0::/64", "fd00::/64"), ("10.0.0.0/255.0.0.0", "10.0.0.0/8")],
)
def test_a_network_of_a_command_gets_its_short_form(text: str, network: str) -> None:
    assert client_networks.canonical(text) == network


def test_the_file_keeps_networks_and_says_nothing_without_networks(tmp_path: Path) -> None:
    path = tmp_path / "clients.json"
    clients, _ = ClientFile().added("alice", Limits(), NOW)
    save(path, clients)
    assert "networks" not in path.read_text()
    clients = clients.admitted("cli", CLI)
    save(path, clients)
    assert load(path) == clients
    assert load(path).networks == {"10.0.0.0/8": "cli", "fd00::/64": "cli"}


def test_a_revoked_client_has_neither_network_nor_key() -> None:
    clients, _ = ClientFile().admitted("cli", CLI).rotated("cli", NOW, overlap=0)
    by_id = clients.revoked(clients.keys[0].id, NOW)
    assert by_id.networks == clients.networks, "the id of a key is the key alone"
    closed = clients.revoked("cli", NOW)
    assert (closed.networks, closed.clients["cli"], closed.keys[0].revoked) == ({}, Limits(), NOW)
    with pytest.raises(UsageError, match="no key in use"):
        closed.revoked("cli", NOW)


def test_the_command_adds_lists_and_revokes_a_client_of_networks(terminal: Terminal) -> None:
    said = terminal.type("add", "cli", "--networks", "10.0.0.0/8, FD00::/64", "--networks", "192.0.2.7", "--rate", "60")
    assert "cli needs no key in 10.0.0.0/8, fd00::/64, 192.0.2.7/32, and has none" in said
    assert "sk-prov-" not in terminal.out + terminal.err
    assert json.loads(terminal.file)["keys"] == []
    assert "cli  all models; 60 a minute; no key in 10.0.0.0/8, fd00::/64, 192.0.2.7/32" in terminal.type("list")
    assert terminal.document("list")["clients"][0]["networks"] == ["10.0.0.0/8", "fd00::/64", "192.0.2.7/32"]
    assert "clients in 10.0.0.0/8, fd00::/64, 192.0.2.7/32 need a key" in terminal.type("revoke", "cli")
    assert client_file.load(terminal.folder / test_keys.FILE) == ClientFile({"cli": Limits(rate=60)})


def test_the_documents_of_a_client_of_networks(terminal: Terminal) -> None:
    made = terminal.document("add", "cli", "--networks", "10.0.0.0/8")
    assert (made["client"], made["key"], made["id"], made["networks"]) == ("cli", None, None, ["10.0.0.0/8"])
    rotated = terminal.document("rotate", "cli")
    assert (rotated["networks"], len(rotated["key"])) == (["10.0.0.0/8"], 56)
    gone = terminal.document("revoke", "cli")
    assert (gone["networks"], [key["id"] for key in gone["revoked"]]) == (["10.0.0.0/8"], [rotated["id"]])


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--networks", ""], "needs a network"),
        (["--networks", "10.0.0.1/8"], "the network itself is 10.0.0.0/8"),
        (["--networks", "office"], "'office' is no network"),
        (["--networks", "10.1.0.0/16"], "overlaps 10.0.0.0/8 of 'alice'"),
        (["--networks", "0.0.0.0/0"], "is everybody"),
        (["--networks", "192.0.2.7", "--expires", "90d"], "gets no key that could expire"),
    ],
)
def test_wrong_networks_change_nothing(terminal: Terminal, words: list[str], says: str) -> None:
    terminal.type("add", "alice", "--networks", "10.0.0.0/8")
    before = terminal.file
    terminal.type("add", "bob", *words, code=2)
    assert says in " ".join(terminal.err.split())
    assert terminal.file == before


def test_a_key_in_place_of_a_name_is_not_repeated(terminal: Terminal) -> None:
    key = terminal.key("add", "alice")
    for networks in ("10.0.0.0/8", ""):
        terminal.type("add", key, "--networks", networks, code=2)
        assert key[8:] not in terminal.out + terminal.err


def test_a_model_that_nobody_serves_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert of_inventory(tmp_path, "add", "cli", "--networks", "10.0.0.0/8", "--models", "other") == 0
    assert "no instance of the inventory serves other:latest" in capsys.readouterr().err


def stored(folder: Path, clients: ClientFile) -> None:
    save(folder / "clients.json", clients)


def test_the_networks_are_a_file_of_their_own_that_is_absent_without_networks(tmp_path: Path) -> None:
    stored(tmp_path, ClientFile().admitted("cli", CLI))
    known = inventory(tmp_path, CLIENTS)
    assert known.warnings == ()
    found = texts(config(known), KNOWN)
    assert found[NETWORKS].splitlines()[2:] == ["10.0.0.0/8 cli;", "fd00::/64 cli;"]
    assert '{\n    default "";\n    include gateway_networks.conf;\n}' in found["gateway_http.conf"]
    stored(tmp_path, ClientFile({"cli": Limits()}))
    plain = texts(config(inventory(tmp_path, CLIENTS)), KNOWN)
    assert NETWORKS not in plain
    assert 'gateway_trusted_client {\n    default "";\n}' in plain["gateway_http.conf"]


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ((), ("10.0.0.0/8",), "clients in 10.0.0.0/8 need no key"),
        (("10.0.0.0/8",), (), "clients in 10.0.0.0/8 need a key"),
        (("10.0.0.0/8",), ("fd00::/64",), "clients in fd00::/64 need no key; clients in 10.0.0.0/8 need a key"),
    ],
)
def test_a_plan_says_who_needs_a_key(
    tmp_path: Path, before: tuple[str, ...], after: tuple[str, ...], said: str
) -> None:
    stored(tmp_path, ClientFile({"cli": Limits(networks=before)}))
    have = on_host(config(inventory(tmp_path, CLIENTS)).in_fleet(KNOWN))
    stored(tmp_path, ClientFile({"cli": Limits(networks=after)}))
    step = config(inventory(tmp_path, CLIENTS)).in_fleet(KNOWN)
    want = step.want(HostFacts(), have)
    assert step.impact(have, want) == f"reloads nginx (open streams finish); {said}"
    assert any(NETWORKS in line for line in step.diff(have, want))


def test_a_revoked_network_stays_revoked_after_a_rollback(tmp_path: Path) -> None:
    clients = ClientFile().admitted("cli", CLI)
    stored(tmp_path, clients)
    past = on_host(config(inventory(tmp_path, f"{CLIENTS}, max_tokens: 7")).in_fleet(KNOWN))
    stored(tmp_path, clients.revoked("cli", NOW))
    after = config(inventory(tmp_path, CLIENTS)).in_fleet(KNOWN)
    want = after.restore(HostFacts(), on_host(after), past)
    assert want is not None
    assert want["files"]["gateway_http.conf"] == past["files"]["gateway_http.conf"]
    text = want["files"][NETWORKS].data.decode()
    assert [line for line in text.splitlines() if line[0] != "#"] == [], "nginx finds the file, and no network"
    assert json.loads(want["files"][HASHES].data)["clients"].keys() == {"cli", "_provision"}


def test_a_rollback_to_a_time_without_networks_brings_no_network(tmp_path: Path) -> None:
    stored(tmp_path, ClientFile({"cli": Limits()}))
    past = on_host(config(inventory(tmp_path, CLIENTS)).in_fleet(KNOWN))
    stored(tmp_path, ClientFile().admitted("cli", CLI))
    after = config(inventory(tmp_path, CLIENTS)).in_fleet(KNOWN)
    want = after.restore(HostFacts(), on_host(after), past)
    assert want is not None
    assert NETWORKS not in want["files"]
