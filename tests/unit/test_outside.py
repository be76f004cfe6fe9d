"""The proof by the operator's machine that an instance is closed."""

import socket

import pytest

from provision.command import Answer
from provision.errors import UnreachableError
from provision.inventory import Connection
from provision.ssh.session import Session, straight
from provision.testing import FakeHost
from provision.verify import outside
from provision.verify.neighbours import Place

PLACE = Place("gpu-01", "ollama1", "10.0.0.11", 3001, ("10.0.0.5/32",), frozenset({"lb-01"}), "ollama")
ENDS = ("10.0.9.9", "10.0.0.11")
NAME = "10.0.0.11:3001 is closed to this machine (10.0.9.9)"


def known(command):
    assert command.words == ("ss", "-Htn", "state", "established", "dst", "10.0.9.9")
    return Answer(0, b"0 0 10.0.0.11:22 10.0.9.9:50000\n")


def check(ends=ENDS, run=known, *, is_open=False):
    """Return the proof, with the ports that this machine tried."""
    tried = []

    def knocks(address, port):
        tried.append((address, port))
        return is_open

    [reply] = outside.ask([PLACE], ends, run, knocks)
    return reply.check(), tried


def test_a_port_that_this_machine_reaches_fails_the_proof():
    for is_open, got in ((False, "closed"), (True, "open")):
        found, tried = check(is_open=is_open)
        assert (found.name, found.got, tried) == (NAME, got, [("10.0.0.11", 3001)])


@pytest.mark.parametrize(
    ("ends", "why"),
    [
        (None, "this machine has no straight connection to gpu-01"),
        (("10.0.0.5", "10.0.0.11"), "and so has this machine (10.0.0.5)"),
        (("10.0.0.11", "10.0.0.11"), "and so has this machine (10.0.0.11)"),
        (("10.0.9.9", "192.168.0.11"), "this machine reaches gpu-01 at 192.168.0.11 only"),
    ],
)
def test_a_machine_that_would_prove_nothing_does_not_try(ends, why):
    found, tried = check(ends, is_open=True)
    assert (found.passed, found.name.startswith("not asked: "), why in found.name, tried) == (True, True, True, [])


def test_an_open_port_proves_nothing_if_a_router_translates_the_address_of_this_machine():
    found, _ = check(run=lambda _: Answer(0, b""), is_open=True)
    assert found.passed
    assert "has another address for gpu-01, behind a router" in found.name


def test_a_host_without_an_answer_fails_the_proof():
    def lost(_):
        raise UnreachableError("the connection was lost", "run the command again")

    found, _ = check(run=lost, is_open=True)
    assert (found.passed, found.got) == (False, "this machine could not tell: the connection was lost")


def test_a_connection_tells_an_open_port_from_a_closed_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert outside.knock("127.0.0.1", port)
    assert not outside.knock("127.0.0.1", port)
    with pytest.raises(socket.gaierror):
        outside.knock("fe80::1%absent", 1)


def test_a_way_without_an_open_connection_is_not_straight():
    assert straight(FakeHost()) is None
    assert straight(Session(Connection(address="127.0.0.1"))) is None
