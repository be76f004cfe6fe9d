"""The networks that may reach the instances of a host: a chain of our own, first in DOCKER-USER.

Published ports bypass ufw and firewalld, and Docker leaves room for rules in DOCKER-USER
(docs/facts.md#docker-ports). There a packet's destination is already the container's, so the rules match the client's
own destination (`--ctorigdst`), and only on the way in (`--ctdir ORIGINAL`): answers have the same connection and
another source.

Docker puts its jump to DOCKER-USER first in FORWARD when it starts. If another program later puts a rule before the
jump, the rule can accept a packet that our rules never see, and `nft flush ruleset` takes the jump away. So this step
keeps the jump first; the foreign rule stays, after the jump.

Before Docker 28 a neighbour on the same link goes around the published address in two ways
(docs/facts.md#docker-ports). With a route to Docker's network by this host the neighbour reaches a container by the
container's own address, and no rule about the host's address matches: `direct` closes this way on every bridge with a
container of ours. A port published on 127.0.0.1 answers a packet for 127.0.0.1 that comes from the link: the rules of a
published address hold for 127.0.0.1 too, and admit nobody. The host's own packets do not pass FORWARD.

IPv6 needs no rules: instances are published on one IPv4 address, `endpoint.listen_address` refuses any other.
"""

import ipaddress
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from provision.command import Answer, Command, Script, look, sh
from provision.steps.base import BlockedError, Check, Fact, Owned, State, Step, UnreadableError
from provision.steps.docker import isolation
from provision.steps.facts import HostFacts, live_facts
from provision.steps.instance_paths import FIREWALL_RULES
from provision.steps.wording import Vocabulary, Words

CHAIN = "PROVISION"
PARENT = "DOCKER-USER"
ID = f"firewall:{PARENT}"

# A chain is absent where iptables says "No chain". iptables-nft 1.8.9 (Debian 12) calls an absent chain
# incompatible, as it calls a chain that it cannot read (docs/facts.md#docker-ports): iptables-save tells the two apart.
_READ = f"""
command -v iptables >/dev/null 2>&1 || exit 0
for chain in {PARENT} {CHAIN}; do
  if said=$(iptables -w 10 -S "$chain" 2>&1); then printf '%s\\n' "$said"
  else
    case $said in
      *'No chain'*) continue ;;
      *incompatible*)
        case $(iptables-save -t filter 2>&1) in
          *":$chain "* | *incompatible*) ;;
          *':FORWARD '*) continue ;;
        esac ;;
    esac
    printf '%s\\n' "$said" >&2
    exit 76
  fi
done
iptables -w 10 -S FORWARD || exit 76
echo '# end'
"""
SCRIPT = Script("docker/read-firewall", _READ)
COMMAND = look(SCRIPT, title="look at DOCKER-USER")
ISOLATED = look(
    Script("docker/read-isolation", _READ.replace("\necho '# end'", isolation.READ + "echo '# end'")),
    title="look at DOCKER-USER and INPUT",
)

# Each of the three commits is atomic, so that no packet passes in between: first the chain is filled, then each jump is
# moved to the first place. The script deletes a jump by its words and not by its number, because another program's
# change may shift numbers. Standard input: `restore_text`.
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
# Every packet for a container comes to our rules, before any other rule.
FIRST: Mapping[str, Any] = {"forwarded": True, "ahead": [], "first": True}
# The rules that the chain may have are in the file from which the boot unit fills the chain.
LOOK = """
iptables -w 10 -S %s 1 && iptables -w 10 -S %s && iptables -w 10 -S FORWARD
echo '# file'; sed -n 's/^-A PROVISION //p' %s
"""
LOOK_INSIDE = LOOK.replace("echo '# file'", f"{isolation.LOOK.strip()}\necho '# file'")
RULE = f"-A {CHAIN} "
BRIDGE = "docker0"  # Docker's own bridge, on which our containers are
MOST, LONGEST = 5, 200  # foreign rules to name, and characters of each
_FILL = APPLY + "printf '%s' \"$1\" | apply"
FILL = Script("docker/fill-chain", _FILL)
FILL_AND_ENTER = Script("docker/fill-chain-and-enter", isolation.ENTER + _FILL + "\nenter\n")
FILL_AND_LEAVE = Script("docker/fill-chain-and-leave", f"{_FILL}\n{isolation.LEAVE}")
_REMOVE = f"""
while iptables -w 10 -D {PARENT} -j {CHAIN} 2>/dev/null; do :; done
iptables -w 10 -F {CHAIN} 2>/dev/null || :
iptables -w 10 -X {CHAIN} 2>/dev/null || :
"""
REMOVE = Script("docker/remove-chain", _REMOVE)
LEAVE_AND_REMOVE = Script("docker/leave-and-remove-chain", isolation.LEAVE + _REMOVE)


def direct(inside: int, bridge: str = BRIDGE) -> str:
    """The rule that closes a server's port at its container's own address, except for the host and the containers on
    the same bridge.

    Args:
        inside: port of the server inside a container.
        bridge: interface of the container's network.
    """
    return (
        f"! -i {bridge} -o {bridge} -p tcp -m conntrack ! --ctstate DNAT --ctorigdstport {inside} --ctdir ORIGINAL"
        " -j REJECT --reject-with tcp-reset"
    )


@dataclass(frozen=True, kw_only=True)
class Firewall(Step):
    """Only these networks reach these ports of containers.

    Args:
        ports: the published ports.
        inside: the port of the servers inside their containers.
        address: the address of the published ports, or a pure function from the host facts to the address.
        admit: the networks that may reach the ports, or a pure function from the host facts to the networks.
        bridge: the declared bridge of Docker. Bridges of running containers of ours are closed too.
        bridges: the bridges of instances with a network of their own. With such bridges, the ports are closed to the
            instances too.
        after: ids of steps that change the rules behind our back.
    """

    words: ClassVar[Vocabulary] = {
        "forwarded": Words("packets for containers do not pass DOCKER-USER"),
        "ahead": Words("a rule of another program comes first"),
        "first": Words("not first in DOCKER-USER"),
        "rules": Words("other rules", "rules"),
        "entered": Words("packets from instances for the host do not pass our rules first"),
    }

    ports: tuple[int, ...]
    inside: int
    address: str | Callable[[HostFacts], str]
    admit: tuple[str, ...] | Callable[[HostFacts], tuple[str, ...]]
    bridge: str = BRIDGE
    bridges: tuple[str, ...] = ()
    after: tuple[str, ...] = ()

    @property
    def id(self) -> str:
        """`firewall:DOCKER-USER`."""
        return ID

    def fact(self) -> Fact:
        """Reads both chains, and INPUT for instances with networks of their own."""
        return Fact(ISOLATED if self.bridges else COMMAND, parse)

    def restored_fact(self, past: State) -> Fact:
        """Reads INPUT too where the past rules kept instances from each other."""
        return Fact(ISOLATED, parse) if isolation.is_isolated(past or {}) else self.fact()

    def want(self, facts: HostFacts, have: State) -> State:
        """The rules, in a chain that comes first on the way of every packet for a container."""
        return {**FIRST, "rules": self.rules(_known(facts)), **({"entered": True} if self.bridges else {})}

    def rules(self, facts: HostFacts) -> list[str]:
        """The rules of our chain, in the words of `iptables -A`.

        An old port or address stays closed as long as a container of ours is still published there, which may be long
        where a roll is halted: a server asks nobody for a password. The published ports decide, and not the present
        rules, because a restart of the unit or a flush may have removed rules; and the unit's file has the same rules,
        for a boot in between. Rules for old places go in the next round of the same run, once the container has moved.
        """
        address = self.address(facts) if callable(self.address) else self.address
        places = [*((address, port) for port in self.ports), *_published(facts)]
        return [*self._isolation(places), *self._rules(places, facts), *self._direct(facts)]

    def _isolation(self, places: Iterable[tuple[str, int]]) -> list[str]:
        outside = [at for at in dict.fromkeys(places) if not ipaddress.ip_address(at[0]).is_loopback]
        return [isolation.rule(_match(*at)) for at in outside] if self.bridges else []

    def _direct(self, facts: HostFacts) -> list[str]:
        return [direct(self.inside, bridge) for bridge in dict.fromkeys((self.bridge, *self.bridges, *facts.bridges))]

    def _rules(self, places: Iterable[tuple[str, int]], facts: HostFacts) -> list[str]:
        admit = self.admit(facts) if callable(self.admit) else self.admit
        return [rule for at, port in dict.fromkeys(places) for rule in _port_rules(at, port, admit)]

    def content(self, facts: HostFacts) -> bytes:
        """The rules for `iptables-restore`, which the boot unit applies before Docker starts a container."""
        head = "# Managed by provision; changes made here are undone by the next deploy.\n"
        return (head + restore_text(self.rules(facts))).encode()

    def commands(self, have: State, want: State) -> Sequence[Command]:
        """Fills the chain and puts it first, or removes the chain."""
        was, is_wanted = isolation.is_isolated(have or {}), isolation.is_isolated(want or {})
        if want is None:
            return [sh(LEAVE_AND_REMOVE if was else REMOVE, title=f"remove chain {CHAIN}")]
        script = FILL_AND_ENTER if is_wanted else FILL_AND_LEAVE if was else FILL
        return [sh(script, restore_text(want["rules"]), title=f"fill chain {CHAIN}, first in {PARENT}")]

    def restore(self, facts: HostFacts, have: State, past: Mapping[str, Any]) -> State:
        """The past rules, first on the way of every packet for a container, and rules for the ports that are still
        published."""
        rules = list(past["rules"])
        if self.ports:  # without a declared chain nobody knows any more which networks to admit
            rules += self._rules((at for at in _published(_known(facts)) if not _closes(rules, *at)), facts)
            rules += [rule for rule in self._direct(facts) if rule not in rules]
        kept = {key: value for key, value in past.items() if key != "entered"}
        return {**kept, **FIRST, "rules": rules, **({"entered": True} if isolation.is_isolated(past) else {})}

    def diff(self, have: State, want: State) -> Sequence[str]:
        """The usual lines, a line for each rule to add and to remove, and the name of each foreign rule before ours,
        which stays, after ours."""
        ahead = (have or {}).get("ahead", ())
        named = [f"FORWARD has a rule before ours, which stays after ours: {rule}" for rule in ahead]
        rules = _rules_diff(have, want)
        left_out = ("ahead:", "rules:") if rules else ("ahead:",)
        return [*named, *(line for line in super().diff(have, want) if not line.startswith(left_out)), *rules]

    def check(self, live: Any) -> Iterator[Check]:
        """A packet for an instance meets our rules before any other, and no foreign rule is among ours."""
        result = live.run(LOOK_INSIDE if self.bridges else LOOK, PARENT, CHAIN, FIREWALL_RULES)
        rules, _, file = result.stdout.partition("# file\n")
        lines, ours = rules.splitlines(), [canonical(line) for line in file.splitlines()]
        yield Check(
            "first rule of DOCKER-USER", lines[0] if lines else result.stderr.strip(), f"-A {PARENT} -j {CHAIN}"
        )
        rejected = sorted(port for port in self.ports if any(_rejects(line, port) for line in lines))
        yield Check("ports closed to others", rejected, sorted(self.ports))
        rules_now = [line for line in lines if line.startswith(RULE)]
        strangers = [line for line in rules_now if canonical(line.removeprefix(RULE)) not in ours]
        yield Check("foreign rules among ours", strangers, [])
        open_ways = sorted(
            set(self._direct(live_facts(live))) - {canonical(line.removeprefix(RULE)) for line in rules_now}
        )
        yield Check("ways around the published ports", open_ways, [])
        yield Check("FORWARD leads to DOCKER-USER", f"-A FORWARD -j {PARENT}" in lines, True)
        if self.bridges:
            yield Check("INPUT begins with our rules", isolation.entered(lines).get("entered"), True)


def _rules_diff(have: State, want: State) -> list[str]:
    """The rules that a change removes and adds; none for a whole chain, or where only the order of rules differs."""
    if have is None or want is None:
        return []
    gone = [rule for rule in have["rules"] if rule not in want["rules"]]
    return [f"- {rule}" for rule in gone] + [f"+ {rule}" for rule in want["rules"] if rule not in have["rules"]]


def _known(facts: HostFacts) -> HostFacts:
    """The same facts, with the published ports.

    Raises:
        BlockedError: Docker cannot be asked.
    """
    if facts.published is None:
        raise BlockedError(facts.asked_after, "Docker cannot be asked for published ports")
    return facts


def _published(facts: HostFacts) -> list[tuple[str, int]]:
    """The places at which our containers can be reached from outside, 127.0.0.1 too. No container is long on every
    address: see `Container`."""
    pairs = (at.rpartition(":")[::2] for at in facts.published or ())
    return [(address, int(port)) for address, port in pairs if port.isdecimal() and _is_single(address)]


def _is_single(address: str) -> bool:
    try:
        return not ipaddress.IPv4Address(address).is_unspecified
    except ValueError:
        return False


def _match(address: str, port: int) -> str:
    return f"-p tcp -m conntrack --ctorigdst {address} --ctorigdstport {port} --ctdir ORIGINAL"


def _closes(rules: Sequence[str], address: str, port: int) -> bool:
    """Whether the rules end with the rejection for a port."""
    return f"{_match(address, port)} -j REJECT --reject-with tcp-reset" in rules


def _port_rules(address: str, port: int, admit: Sequence[str]) -> Iterator[str]:
    match = _match(address, port)
    for network in (
        () if ipaddress.ip_address(address).is_loopback else admit
    ):  # iptables drops a source that matches everything
        yield f"{match} -j RETURN" if network.endswith("/0") else f"-s {network} {match} -j RETURN"
    yield f"{match} -j REJECT --reject-with tcp-reset"


def restore_text(rules: Sequence[str]) -> str:
    """The input by which `iptables-restore --noflush` makes our chain anew, with all rules at once."""
    lines = ["*filter", f":{CHAIN} - [0:0]", *(f"-A {CHAIN} {rule}" for rule in rules), "COMMIT"]
    return "\n".join(lines) + "\n"


def parse(answer: Answer) -> State:
    """The state from both chains' rules; None without a chain and a jump of ours.

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
        **isolation.entered(lines),
    }


def _ahead(lines: Sequence[str]) -> list[str]:
    """The rules of FORWARD that a packet meets before DOCKER-USER; of many rules only the first."""
    forward = [line for line in lines if line.startswith("-A FORWARD ")]
    jump = f"-A FORWARD -j {PARENT}"
    ahead = forward[: forward.index(jump)] if jump in forward else []
    return [rule.removeprefix("-A FORWARD ")[:LONGEST] for rule in ahead[:MOST]]


ORDER = ("-s", "-i", "-o", "-p", "-m", "--ctstate", "--ctorigdst", "--ctorigdstport", "--ctdir", "-j", "--reject-with")


def canonical(rule: str) -> str:
    """A rule with its options in our order, because versions of iptables print options in different orders.

    A rule with an unknown option stays as it is, and so equals no rule of ours.
    """
    words = rule.replace("! ", "!").split()  # `! -i docker0` negates the next option
    pairs = list(zip(words[::2], words[1::2], strict=False))
    if len(words) % 2 or any(option.lstrip("!") not in ORDER for option, _ in pairs):
        return rule
    pairs = [(option, value.removesuffix("/32") if option == "--ctorigdst" else value) for option, value in pairs]
    kept = sorted((pair for pair in pairs if pair != ("-m", "tcp")), key=lambda pair: ORDER.index(pair[0].lstrip("!")))
    return " ".join(f"{option} {value}" for option, value in kept).replace("!", "! ")


def _rejects(line: str, port: int) -> bool:
    """Whether a rule closes a published port to everybody; `direct` is about a container's own address."""
    match = "--ctorigdst " in line and f"--ctorigdstport {port} " in line
    return match and "-j REJECT" in line and " -s " not in line and " -i " not in line


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
        state = parse(answer)
        return {} if state is None else {ID: state}
