"""A file of nginx's configuration that holds keys: root's alone, put right when it is not, back after a rollback."""

import dataclasses

import pytest

from provision.plan import role_interface
from provision.ssh.session import Session
from provision.steps.facts import HostFacts
from provision.steps.nginx.member_update import MemberUpdate

pytestmark = pytest.mark.lab
FACTS = HostFacts()
KEYS = "/etc/provision/nginx/keys.conf"
KEY = "# canary-of-the-lab\n"
OURS = "600 root:root\n"


class Balancer:
    """The balancer of the lab, with its configuration as a step.

    Args:
        inventory: the lab's inventory.
    """

    def __init__(self, inventory):
        self.host = inventory.host("lb-01")
        self.step = next(entry.step for entry in role_interface.steps(self.host, inventory) if entry.step.routes)
        self.keyed = dataclasses.replace(
            self.step, files={**self.step.files, "keys.conf": KEY.encode()}, modes={"keys.conf": 0o600}
        )
        self.session = Session(self.host.connection)

    def have(self, step=None):
        """The state, as a step reads it."""
        fact = (step or self.step).fact()
        return fact.parse(self.session.batch([fact.command], stop=False)[0])

    def change(self, step, want):
        """Bring the configuration to a state, and make sure that the host has it."""
        answers = self.session.batch(list(step.commands(self.have(step), want)), stop=True)
        assert {answer.exit for answer in answers} == {0}, answers[-1].error
        have = self.have(step)
        assert {key: have[key] for key in want} == want
        return have

    def apply(self, step):
        """Make the configuration what a step wants."""
        return self.change(step, step.want(FACTS, self.have(step)))


@pytest.fixture
def balancer(fleet, lab):
    made = Balancer(role_interface.load(lab.inventory))
    yield made
    made.session.close()
    fleet.deploy()


def test_a_file_with_keys_is_roots_alone_whatever_becomes_of_it(fleet, balancer):
    before = balancer.have()

    def mode():
        return fleet.on("lb-01", "stat", "-Lc", "%a %U:%G", KEYS)

    keyed = balancer.apply(balancer.keyed)
    assert (mode(), fleet.on("lb-01", "cat", KEYS)) == (OURS, KEY)
    assert keyed["loaded"] == keyed["id"], "nginx has loaded it"
    for spoil in (("chmod", "644"), ("chown", "www-data")):
        fleet.on("lb-01", *spoil, KEYS)
        assert mode() != OURS
        assert fleet.provision("plan", "--exit-code", "--limit", "lb-01").code == 5, "the file is not declared at all"
        balancer.apply(balancer.keyed)
        assert mode() == OURS

    update = {"name": balancer.step.name, "files": {}, "binary": keyed["exe"], "status_port": balancer.step.status_port}
    member = next(server.label for server in balancer.step.servers)
    for marks in ({"down": frozenset({member})}, {"up": {member: ""}}):
        step = MemberUpdate(**update, **marks)
        balancer.change(step, step.want(FACTS, balancer.have(balancer.keyed)))
        assert (mode(), fleet.on("lb-01", "cat", KEYS)) == (OURS, KEY)

    balancer.change(balancer.step, balancer.step.restore(FACTS, balancer.have(), before))
    assert "keys.conf" not in fleet.on("lb-01", "ls", "/etc/provision/nginx/")
    balancer.change(balancer.step, balancer.step.restore(FACTS, balancer.have(), keyed))
    assert (mode(), fleet.on("lb-01", "cat", KEYS)) == (OURS, KEY), "from a generation on the host"
    shown = fleet.provision("plan", "--diff", "--limit", "lb-01")
    assert "keys.conf" in shown.out
    assert "canary" not in shown.out + shown.err
    fleet.deploy()
    assert "canary" not in fleet.on("lb-01", "sh", "-c", "cat /var/lib/provision/journal/*.jsonl")
    kept = fleet.on("lb-01", "sh", "-c", "grep -rl canary-of-the-lab /var/lib/provision/store || :")
    assert kept == "", "no bytes of it are in the store"
