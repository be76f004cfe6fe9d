"""Who may reach the instances of a host: a chain of our own, first in DOCKER-USER.

Published ports pass ufw and firewalld by, and DOCKER-USER is where Docker leaves room for rules
(docs/facts.md#docker-ports). There a packet's destination is already the container's, so the rules match what the
client asked for (`--ctorigdst`), and only on the way in (`--ctdir ORIGINAL`): answers have the same connection and
another source.

Docker puts its jump to DOCKER-USER first in FORWARD when it starts. A rule that another program puts before that jump
later can accept a packet that our rules never see, and `nft flush ruleset` takes the jump away. So the jump is kept
first here; the other program's rule stays, after it.

Before Docker 28 a neighbour that routes 172.17.0.0/16 to this host reaches a published container by the container's own
address (moby issue 45610), which no rule about the host's address matches: `direct` closes that way.

IPv6 needs no rules: instances are published on one IPv4 address, `endpoint.listen_address` refuses any other.
"""

import ipaddress
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from provision.command import Answer, Command, Script, look, sh
from provision.steps.base import BlockedError, Check, Fact, Owned, State, Step, UnreadableError
from provision.steps.facts import HostFacts
from provision.steps.instance_paths import FIREWALL_RULES
from provision.steps.wording import Vocabulary, Words

CHAIN = "PROVISION"
PARENT = "DOCKER-USER"
ID = f"firewall:{PARENT}"

# "No chain" is the only failure that proves absence.
SCRIPT = Script(
    "docker/read-firewall",
    f"""
command -v iptables >/dev/null 2>&1 || exit 0
for chain in {PARENT} {CHAIN}; do
  if said=$(iptables -w 10 -S "$chain" 2>&1); then printf '%s\\n' "$said"
  else
    case $said in
      *'No chain'*) ;;
      *) printf '%s\\n' "$said" >&2; exit 76 ;;
    esac
  fi
done
iptables -w 10 -S FORWARD || exit 76
echo '# end'
""",
)
COMMAND = look(SCRIPT, title="look at DOCKER-USER")

# Each of the three commits is atomic, so that no packet passes by in between: the chain
# is filled, then each jump is moved to the first place. A jump is deleted by its words
# and not by its number, which another program's change may shift. Standard input:
# `restore_text`.
APPLY = f"""
first() {{ # chain, target
  {{
    echo '*filter'
    iptables -w 10 -S "$1" | grep -xF -e "-A $1 -j $2" | sed 's/^-A/-D/'
    printf '%s\\n' "-I $1 1 -j $2" COMMIT
  }} | iptables-restore -w 10 --noflush
}}
apply() {{
  iptables -w 10 -N {PARENT} 2>/dev/null || :
  iptables-restore -w 10 --noflush || return
  first {PARENT} {CHAIN} || return
  first FORWARD {PARENT}
}}
"""
# Every packet for a container comes to our rules, and to no others before.
FIRST: Mapping[str, Any] = {"forwarded": True, "ahead": [], "first": True}
# What the chain may have in it is in the file that the boot unit fills it from.
LOOK = """
iptables -w 10 -S %s 1 && iptables -w 10 -S %s && iptables -w 10 -S FORWARD
echo '# file'; sed -n 's/^-A PROVISION //p' %s
"""
RULE = f"-A {CHAIN} "
BRIDGE = "docker0"  # where containers of ours are
MOST, LONGEST = 5, 200  # rules of other programs that are named, and characters of each
FILL = Script("docker/fill-chain", APPLY + "printf '%s' \"$1\" | apply")
REMOVE = Script(
    "docker/remove-chain",
    f"""
while iptables -w 10 -D {PARENT} -j {CHAIN} 2>/dev/null; do :; done
iptables -w 10 -F {CHAIN} 2>/dev/null || :
iptables -w 10 -X {CHAIN} 2>/dev/null || :
""",
)


def direct(inside: int) -> str:
    """The rule by which nobody reaches a server by its container's own address, but for the host itself and its
    containers.

    Args:
        inside: port of the server inside a container.
    """
    return (
        f"! -i {BRIDGE} -o {BRIDGE} -p tcp -m conntrack ! --ctstate DNAT --ctorigdstport {inside} --ctdir ORIGINAL"
        " -j REJECT --reject-with tcp-reset"
    )


@dataclass(frozen=True, kw_only=True)
class Firewall(Step):
    """Only these networks reach these ports of containers.

    Args:
        ports: the published ports.
        inside: the port of the servers inside their containers.
        address: the address they are published on, or a pure function of the host facts that gives it.
        admit: the networks that may reach them, or such a function.
        after: ids of steps that change it behind our back.
    """

    words: ClassVar[Vocabulary] = {
        "forwarded": Words("packets for containers do not pass DOCKER-USER"),
        "ahead": Words("a rule of another program comes first"),
        "first": Words("not first in DOCKER-USER"),
        "rules": Words("other rules", "rules"),
    }

    ports: tuple[int, ...]
    inside: int
    address: str | Callable[[HostFacts], str]
    admit: tuple[str, ...] | Callable[[HostFacts], tuple[str, ...]]
    after: tuple[str, ...] = ()

    @property
    def id(self) -> str:
        """`firewall:DOCKER-USER`."""
        return ID

    def fact(self) -> Fact:
        """Reads both chains."""
        return Fact(COMMAND, parse)

    def want(self, facts: HostFacts, have: State) -> State:
        """The rules, in a chain that comes first, where every packet for a container comes by."""
        return {**FIRST, "rules": self.rules(_known(facts))}

    def rules(self, facts: HostFacts) -> list[str]:
        """The rules of our chain, as `iptables -A` takes them.

        A port or an address that changes stays closed where a container of ours is still published, which may be for
        long where a roll is halted: a server asks nobody for a password. What is published says so, and not the rules
        that are there, because a restart of the unit or a flush may have taken those away; and the unit's file has the
        same rules, for a boot in between. They go in the next round of the same run, once the container has moved.
        """
        address = self.address(facts) if callable(self.address) else self.address
        places = [*((address, port) for port in self.ports), *_published(facts)]
        return [*self._rules(places, facts), direct(self.inside)]

    def _rules(self, places: Iterable[tuple[str, int]], facts: HostFacts) -> list[str]:
        admit = self.admit(facts) if callable(self.admit) else self.admit
        return [rule for at, port in dict.fromkeys(places) for rule in _port_rules(at, port, admit)]

    def content(self, facts: HostFacts) -> bytes:
        """The rules for `iptables-restore`: what the boot unit puts in place before Docker starts a container."""
        head = "# Managed by provision; changes made here are undone by the next deploy.\n"
        return (head + restore_text(self.rules(facts))).encode()

    def commands(self, have: State, want: State) -> Sequence[Command]:
        """Fills the chain and puts it first, or takes it away."""
        if want is None:
            return [sh(REMOVE, title=f"remove chain {CHAIN}")]
        return [sh(FILL, restore_text(want["rules"]), title=f"fill chain {CHAIN}, first in {PARENT}")]

    def restore(self, facts: HostFacts, have: State, past: Mapping[str, Any]) -> State:
        """The rules of then, where every packet for a container comes by, and those of what is still published."""
        rules = list(past["rules"])
        if self.ports:  # where no chain is declared, nobody knows any more who was to be let in
            rules += self._rules((at for at in _published(_known(facts)) if not _closes(rules, *at)), facts)
            own = direct(self.inside)
            rules += [] if own in rules else [own]
        return {**past, **FIRST, "rules": rules}

    def diff(self, have: State, want: State) -> Sequence[str]:
        """As for any step. A rule of another program that stands before ours is named: it stays, after ours."""
        ahead = (have or {}).get("ahead", ())
        named = [f"FORWARD has a rule before ours, which stays after ours: {rule}" for rule in ahead]
        return [*named, *(line for line in super().diff(have, want) if not line.startswith("ahead:"))]

    def check(self, live: Any) -> Iterator[Check]:
        """A packet for an instance meets our rules before any other, and there is no other among them."""
        said = live.run(LOOK, PARENT, CHAIN, FIREWALL_RULES)
        rules, _, file = said.stdout.partition("# file\n")
        lines, ours = rules.splitlines(), [canonical(line) for line in file.splitlines()]
        yield Check("first rule of DOCKER-USER", lines[0] if lines else said.stderr.strip(), f"-A {PARENT} -j {CHAIN}")
        rejected = sorted(port for port in self.ports if any(_rejects(line, port) for line in lines))
        yield Check("ports closed to others", rejected, sorted(self.ports))
        found = [line for line in lines if line.startswith(RULE)]
        others = [line for line in found if canonical(line.removeprefix(RULE)) not in ours]
        yield Check("rules among ours that are not", others, [])
        yield Check("FORWARD leads to DOCKER-USER", f"-A FORWARD -j {PARENT}" in lines, True)


def _known(facts: HostFacts) -> HostFacts:
    """The same facts, with what is published.

    Raises:
        BlockedError: Docker cannot be asked.
    """
    if facts.published is None:
        raise BlockedError(facts.asked_after, "Docker cannot be asked what is published")
    return facts


def _published(facts: HostFacts) -> list[tuple[str, int]]:
    """Where our containers can be reached from outside; on every address none of them is for long, see `Container`."""
    pairs = (at.rpartition(":")[::2] for at in facts.published or ())
    return [(address, int(port)) for address, port in pairs if port.isdecimal() and _is_outside(address)]


def _is_outside(address: str) -> bool:
    try:
        found = ipaddress.IPv4Address(address)
    except ValueError:
        return False
    return not (found.is_loopback or found.is_unspecified)


def _match(address: str, port: int) -> str:
    return f"-p tcp -m conntrack --ctorigdst {address} --ctorigdstport {port} --ctdir ORIGINAL"


def _closes(rules: Sequence[str], address: str, port: int) -> bool:
    """Whether the last word of these rules about a port is there."""
    return f"{_match(address, port)} -j REJECT --reject-with tcp-reset" in rules


def _port_rules(address: str, port: int, admit: Sequence[str]) -> Iterator[str]:
    match = _match(address, port)
    for network in admit:  # iptables drops a source that says nothing
        yield f"{match} -j RETURN" if network.endswith("/0") else f"-s {network} {match} -j RETURN"
    yield f"{match} -j REJECT --reject-with tcp-reset"


def restore_text(rules: Sequence[str]) -> str:
    """What `iptables-restore --noflush` takes to make our chain anew with these rules, in one go."""
    lines = ["*filter", f":{CHAIN} - [0:0]", *(f"-A {CHAIN} {rule}" for rule in rules), "COMMIT"]
    return "\n".join(lines) + "\n"


def parse(answer: Answer) -> State:
    """The state out of both chains' rules; None if nothing of ours is there.

    Raises:
        UnreadableError: iptables failed.
    """
    if answer.exit:
        raise UnreadableError(f"iptables: {answer.complaint}")
    lines = answer.text.splitlines()
    parent = [line for line in lines if line.startswith(f"-A {PARENT} ")]
    jumps = [line for line in parent if line == f"-A {PARENT} -j {CHAIN}"]
    if f"-N {CHAIN}" not in lines and not jumps:
        return None
    rules = [line.removeprefix(f"-A {CHAIN} ") for line in lines if line.startswith(f"-A {CHAIN} ")]
    return {
        "forwarded": f"-A FORWARD -j {PARENT}" in lines,
        "ahead": _ahead(lines),
        "first": parent[:1] == jumps and bool(jumps),
        "rules": [canonical(rule) for rule in rules],
    }


def _ahead(lines: Sequence[str]) -> list[str]:
    """The rules of FORWARD that a packet meets before it comes to DOCKER-USER; of many only the first ones."""
    forward = [line for line in lines if line.startswith("-A FORWARD ")]
    jump = f"-A FORWARD -j {PARENT}"
    ahead = forward[: forward.index(jump)] if jump in forward else []
    return [rule.removeprefix("-A FORWARD ")[:LONGEST] for rule in ahead[:MOST]]


ORDER = ("-s", "-i", "-o", "-p", "-m", "--ctstate", "--ctorigdst", "--ctorigdstport", "--ctdir", "-j", "--reject-with")


def canonical(rule: str) -> str:
    """A rule with its options in our order: how iptables prints them differs from version to version.

    A rule with anything else in it is left as it is, and so equals none of ours.
    """
    words = rule.replace("! ", "!").split()  # `! -i docker0` negates the option that follows
    pairs = list(zip(words[::2], words[1::2], strict=False))
    if len(words) % 2 or any(option.lstrip("!") not in ORDER for option, _ in pairs):
        return rule
    pairs = [(option, value.removesuffix("/32") if option == "--ctorigdst" else value) for option, value in pairs]
    kept = sorted((pair for pair in pairs if pair != ("-m", "tcp")), key=lambda pair: ORDER.index(pair[0].lstrip("!")))
    return " ".join(f"{option} {value}" for option, value in kept).replace("!", "! ")


def _rejects(line: str, port: int) -> bool:
    """Whether a rule closes a published port to everybody; `direct` is about a container's own address."""
    match = "--ctorigdst " in line and f"--ctorigdstport {port} " in line
    return match and "-j REJECT" in line and " -s " not in line


@dataclass(frozen=True, kw_only=True)
class OwnedFirewall(Owned):
    """Finds our chain."""

    last: ClassVar[bool] = True  # a container stays published to the network until its own step has moved it

    def fact(self) -> Fact:
        """Reads both chains."""
        return Fact(COMMAND, self._parse)

    def step(self, step_id: str) -> Step:
        """The chain, to be removed."""
        return Firewall(ports=(), inside=0, address="", admit=())

    @staticmethod
    def _parse(answer: Answer) -> State:
        found = parse(answer)
        return {} if found is None else {ID: found}
