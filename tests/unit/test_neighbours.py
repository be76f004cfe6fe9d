"""The proof that an instance is closed: the asking host, the exec, and the meaning of the answers."""

import dataclasses
import functools
import socket
import subprocess

import pytest

from provision.command import Answer
from provision.errors import UnreachableError
from provision.inventory import Connection, Host, Instance, Inventory
from provision.steps.facts import Attachment, HostFacts
from provision.verify import neighbours
from provision.verify.neighbours import Place, Reply, Way


def host(name, address, *groups, **settings):
    return Host(
        name=name,
        groups=groups,
        connection=Connection(address=address),
        instances=(Instance(host=name, name="ollama1", gpus=(0,), port=3001, **settings),) if "gpu" in groups else (),
    )


LB = host("lb-01", "10.0.0.5", "balancer")
GPU = [host(f"gpu-0{number}", f"10.0.0.1{number}", "gpu") for number in (1, 2, 3)]
HOSTS = [*GPU, LB]
PLACE = Place("gpu-01", "ollama1", "10.0.0.11", 3001, ("10.0.0.5/32",), frozenset({"lb-01"}), "ollama")
WAY = Way("10.0.0.11", 3001)


def place(number, **changes):
    changed = {"host": f"gpu-0{number}", "address": f"10.0.0.1{number}", **changes}
    return dataclasses.replace(PLACE, **changed)


@pytest.mark.parametrize(("number", "asker"), [(1, "gpu-02"), (2, "gpu-03"), (3, "gpu-01")])
def test_the_next_host_asks(number, asker):
    assert neighbours.neighbour(place(number), HOSTS) == asker


def test_a_host_with_access_to_the_instance_does_not_ask():
    assert neighbours.neighbour(place(1, admitted=("10.0.0.12", "10.0.0.5/32")), HOSTS) == "gpu-03"
    assert neighbours.neighbour(place(1, senders=frozenset({"gpu-02", "lb-01"})), HOSTS) == "gpu-03"
    assert neighbours.neighbour(place(1), [GPU[0], LB]) == ""
    assert neighbours.neighbour(place(1, admitted=("0.0.0.0/0",)), HOSTS) == ""


def test_the_addresses_of_instances_and_the_admitted_networks():
    first = host("gpu-01", "10.0.0.11", "gpu", admit=("10.9.0.0/16",))
    attached = (Attachment("ollama1", "172.17.0.2", "172.17.0.1"), Attachment("other", "172.17.0.3", "172.17.0.1"))
    facts = HostFacts(
        addresses=("10.0.0.11",),
        sources={"10.0.0.5": "10.0.0.11"},
        resolved={"10.0.0.5": "10.0.0.5"},
        attached=attached,
    )
    inventory = Inventory(path="", hosts=(first, LB))
    around = {"gate": "10.0.0.11", "inside": 11434, "container": "172.17.0.2"}
    [found] = neighbours.places(first, inventory, facts)
    assert found == place(1, admitted=("10.0.0.5/32", "10.9.0.0/16"), **around)
    assert found.ways == (WAY, Way("172.17.0.2", 11434, "10.0.0.11"))
    assert neighbours.places(LB, inventory, facts) == ()


def test_the_ways_around_an_instance_on_loopback():
    alone = [host(f"gpu-0{number}", f"10.0.0.1{number}", "gpu") for number in (1, 2)]
    facts = HostFacts(addresses=("10.0.0.11",))
    [local] = neighbours.places(alone[0], Inventory(path="", hosts=tuple(alone)), facts)
    assert (local.admitted, neighbours.neighbour(local, alone)) == ((), "gpu-02")
    assert local.ways == (Way("127.0.0.1", 3001, "10.0.0.11"),), "the address of a stopped container is unknown"
    assert neighbours.places(alone[0], Inventory(path="", hosts=tuple(alone[:1])), facts) == (), "no other host"


def test_every_way_to_an_instance_has_its_own_proof():
    around = place(1, gate="10.0.0.11", inside=11434, container="172.17.0.2")
    run = Run(gpu_02="0 10.0.0.12 1\n1 10.0.0.12 0\n")
    replies = ask([around], HOSTS, run)
    assert run.asked == [("gpu-02", ("10.0.0.11", "3001", "-", "172.17.0.2", "11434", "10.0.0.11"))]
    assert [(check.name, check.got) for check in (reply.check() for reply in replies)] == [
        ("10.0.0.11:3001 is closed to gpu-02", "closed"),
        ("172.17.0.2:11434 is closed to gpu-02 by way of gpu-01", "open"),
    ]


def test_a_neighbour_behind_a_router_cannot_try_the_way_around():
    around = place(1, gate="10.0.0.11", inside=11434, container="172.17.0.2")
    published, other = ask([around], HOSTS, Run(gpu_02="0 10.0.0.12 1\n1 - 3\n"))
    why = "gpu-02 is not on one link with gpu-01"
    assert (published.reached, other.reached, other.why) == (False, None, why)
    assert other.check().name == f"not asked: whether gpu-01/ollama1 is closed to others by way of gpu-01: {why}"
    assert other.check().passed
    [failed] = ask([PLACE], HOSTS, Run(gpu_02="0 10.0.0.12 3\n"))
    assert not failed.check().passed, "3 is no answer about the published address"


class Run:
    """Answers for hosts, and records the questions."""

    def __init__(self, **lines):
        self.lines, self.asked = lines, []

    def __call__(self, name, command):
        self.asked.append((name, command.words[3:]))
        if name.replace("-", "_") not in self.lines:
            raise UnreachableError("the connection was lost", "run the command again")
        return Answer(0, self.lines[name.replace("-", "_")].encode())


def ask(places, hosts, run):
    by_asker, replies = neighbours.assign(places, hosts)
    assert not by_asker.pop("", []), "the test has an instance without a neighbour"
    for asker, questions in by_asker.items():
        replies += neighbours.ask(asker, questions, functools.partial(run, asker))
    return sorted(replies, key=lambda reply: reply.place.label)


def test_every_neighbour_asks_once_for_any_number_of_instances():
    two = [place(1), place(1, instance="ollama2", port=3002), place(2)]
    run = Run(gpu_02="1 10.0.0.12 0\n0 10.0.0.12 1\n", gpu_03="0 10.0.0.13 124\n")
    replies = ask(two, HOSTS, run)
    assert sorted(run.asked) == [
        ("gpu-02", ("10.0.0.11", "3001", "-", "10.0.0.11", "3002", "-")),
        ("gpu-03", ("10.0.0.12", "3001", "-")),
    ]
    assert [(reply.place.label, reply.asker, reply.reached) for reply in replies] == [
        ("gpu-01/ollama1", "gpu-02", False),
        ("gpu-01/ollama2", "gpu-02", True),
        ("gpu-02/ollama1", "gpu-03", False),
    ]
    checks = [reply.check() for reply in replies]
    assert [(check.name, check.got) for check in checks] == [
        ("10.0.0.11:3001 is closed to gpu-02", "closed"),
        ("10.0.0.11:3002 is closed to gpu-02", "open"),
        ("10.0.0.12:3001 is closed to gpu-03", "closed"),
    ]
    assert [check.passed for check in checks] == [True, False, True]


def test_an_admitted_neighbour_proves_nothing():
    why = "gpu-02 asks from 10.0.0.5, which the instance admits"
    [reply] = ask([PLACE], HOSTS, Run(gpu_02="0 10.0.0.5 0"))
    assert reply == Reply(PLACE, "gpu-02", None, why, way=WAY)
    assert reply.check().name == f"not asked: whether gpu-01/ollama1 is closed to others: {why}"
    assert reply.check().passed


@pytest.mark.parametrize(
    ("answers", "why"),
    [
        ({"gpu_02": "0 10.0.0.12 127"}, "gpu-02 could not try to connect (exit code 127)"),
        ({"gpu_02": ""}, "gpu-02 could not try to connect (exit code unknown)"),
        ({"gpu_02": "garbage 1 2 3\n7 10.0.0.12 0"}, "gpu-02 could not try to connect (exit code unknown)"),
        ({}, "gpu-02 was asked and gave no answer: the connection was lost"),
    ],
)
def test_a_neighbour_without_an_answer_fails_the_proof(answers, why):
    [reply] = ask([PLACE], HOSTS, Run(**answers))
    check = reply.check()
    assert (check.name, check.got, check.passed) == ("10.0.0.11:3001 is closed to gpu-02", why, False)


def test_without_a_neighbour_no_host_asks():
    assert neighbours.assign([PLACE], [GPU[0], LB]) == ({"": [PLACE]}, [])
    everybody = place(1, admitted=("0.0.0.0/0",))
    assert ask([everybody], HOSTS, Run()) == [Reply(everybody, why="ollama.admit lets everybody in")]


def test_the_script_tells_open_from_closed_ports():
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_server(("127.0.0.1", 0)) as other:
        opened, closed = server.getsockname()[1], other.getsockname()[1]
        other.close()
        places = [place(1, address="127.0.0.1", port=port) for port in [closed] + [opened] * 40]
        command = neighbours.command(places)
        done = subprocess.run(command.words, input=command.stdin, capture_output=True, check=True)
    replies = neighbours.parse("gpu-02", places, Answer(0, done.stdout))
    assert [reply.reached for reply in replies] == [False] + [True] * 40
