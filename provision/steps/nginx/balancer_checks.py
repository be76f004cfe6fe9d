"""The proofs that a balancer balances: asked of nginx and the instances over HTTP, from the balancer itself."""

import ipaddress
from collections.abc import Collection, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from provision.steps.base import NOT_ASKED, Check
from provision.steps.live import asked_once
from provision.steps.nginx import upstream
from provision.steps.nginx.balanced_engine import BalancedEngine
from provision.steps.nginx.client_networks import STRANGER
from provision.steps.nginx.model_routes import OPENAI, PREFIX, UNKNOWN
from provision.steps.nginx.replica_sets import ReplicaSet, pools_of, sites_of
from provision.steps.nginx.upstream import InstanceRef, Member
from provision.steps.nginx_paths import CONFIG

DRAINED = "drained: "  # begins the name of a check that only names an instance drained by an operator
# The limits bound the cost of a dead instance; a live instance on a busy host may take long.
ASK = "--noproxy '*' --silent --path-as-is --output /dev/null --max-time 30"

# $1 path; then ADDRESS:PORT of every instance; the script asks sixteen at a time.
DIRECT = f"""
path=$1; shift
printf '%s\\n' "$@" | xargs -r -P 16 -I @ curl {ASK} --write-out '@ %{{http_code}}\\n' "http://@$path" || :
"""

LIMITED = "429"
# $1 file with options of curl for these requests, or empty; $2 address that the requests come from, or empty for the
# host's choice; then METHOD URL pairs. One curl asks all pairs, and prints a status for each, in their order.
EDGE = f"""
options=$1 source=$2
shift 2
for pair do
  set -- "$@" --next ${{options:+--config "$options"}} {ASK} --write-out '%{{http_code}}\\n'
  set -- "$@" ${{source:+--interface "$source"}}
  set -- "$@" --request "${{pair%% *}}" "${{pair#* }}"
  shift
done
shift
curl "$@" || :
"""


def members(
    live: Any,
    expected: Mapping[str, tuple[int, int, int]],
    engine: BalancedEngine,
    settled: Mapping[str, str] = MappingProxyType({}),
    proposed: frozenset[str] = frozenset(),
) -> Iterator[Check]:
    """The upstream names exactly these instances, all up except the drained, and each answers.

    Args:
        live: testinfra's host.
        expected: label -> port, weight, max_conns.
        engine: the engine of the instances.
        settled: label -> its address, where the inventory alone decides the address.
        proposed: labels of instances whose max_conns follows the estimate: plan's own read compares that number.
    """
    text = _upstream(live)
    listed = upstream.members(text)
    got = {name: (member.port, member.weight, member.max_conns) for name, member in listed.items()}
    wanted = {
        name: (port, weight, got[name][2] if name in proposed and name in got else most)
        for name, (port, weight, most) in expected.items()
    }
    yield Check("upstream (port, weight, max_conns)", got, wanted)
    yield Check("servers without an instance", upstream.strangers(text), [])
    drained = {name: member.drained for name, member in sorted(listed.items()) if member.drained and member.down}
    yield Check(
        "instances marked down", sorted(n for n, member in listed.items() if member.down and n not in drained), []
    )
    for wish in drained.values():
        yield Check(f"{DRAINED}{wish.label} since {wish.since} by {wish.by}: {wish.why}", True, True)
    yield from _apart({name: member for name, member in listed.items() if not member.down}, settled)
    addresses = {name: member.at for name, member in listed.items() if name not in drained}
    if addresses:
        yield from _answering(live, addresses, engine.health)


def shares(live: Any, sets: Sequence[ReplicaSet]) -> Iterator[Check]:
    """The versions of each public name have the declared shares, and the instances have weights to match.

    Args:
        live: testinfra's host.
        sets: the replica sets by the inventory.
    """
    wanted = [replicas for replicas in sets if replicas.shares]
    listed = [replicas for replicas in upstream.sets(_upstream(live)) if replicas.shares]
    got = {(replicas.pool, replicas.models): replicas for replicas in listed}
    for replicas in wanted:
        found = got.get((replicas.pool, replicas.models))
        where = f" in the pool {replicas.pool}" if replicas.pool else ""
        name = f"{', '.join(replicas.models)}{where}: percent of each version, and weight of each instance"
        yield Check(name, _weighed(found) if found else "no such shares", _weighed(replicas))


def pools(live: Any, sets: Sequence[ReplicaSet]) -> Iterator[Check]:
    """Each pool has exactly its declared instances, and no instance of a pool is in the common pool.

    Args:
        live: testinfra's host.
        sets: the replica sets by the inventory.
    """
    got, wanted = ({label: pool for label, pool in pools_of(each).items() if pool} for each in (_sets(live), sets))
    if got or wanted:
        yield Check("pool of each instance that has its own clients", got, wanted)


def sites(live: Any, sets: Sequence[ReplicaSet]) -> Iterator[Check]:
    """Each instance belongs to its declared site, and serves where no instance of the balancer's site can.

    Args:
        live: testinfra's host.
        sets: the replica sets by the inventory.
    """
    got, wanted = ({label: site for label, site in sites_of(each).items() if site} for each in (_sets(live), sets))
    if got or wanted:
        yield Check("site of each instance outside of the balancer's site", got, wanted)


def reachable(model: str, sets: Sequence[ReplicaSet], serving: Collection[str]) -> tuple[str, ...]:
    """Return the labels of the instances that answer for a model: those of the first replica set that can serve.

    Args:
        model: the model, canonical and in lower case.
        sets: all replica sets of the balancer, those of its site first.
        serving: labels of the members that get requests.
    """
    own = [replicas for replicas in sets if model in replicas.models]
    pool = own[0].pool
    able = [each.labels for each in own if each.pool == pool and not set(each.labels).isdisjoint(serving)]
    return (able or [own[0].labels])[0]


def not_asked(replicas: ReplicaSet) -> Check:
    """The streamed answer that nobody asks of a replica set whose models another replica set serves before it.

    Args:
        replicas: a replica set of a pool, or of another site.
    """
    models = ", ".join(replicas.models)
    if replicas.site:
        why = f"a streamed answer of {models} from the site {replicas.site}"
        return Check(f"{NOT_ASKED}{why}: it serves where no instance of the balancer's site can", True, True)
    asked = f"a streamed answer of {models} through the pool {replicas.pool}"
    return Check(f"{NOT_ASKED}{asked}: verify has no key, and its port leads to another pool", True, True)


def _sets(live: Any) -> tuple[ReplicaSet, ...]:
    return upstream.sets(_upstream(live))


def _weighed(replicas: ReplicaSet) -> dict[str, int]:
    return {**dict(replicas.shares), **dict(zip(replicas.labels, replicas.weights, strict=False))}


def _apart(up: Mapping[str, Member], settled: Mapping[str, str]) -> Iterator[Check]:
    """Each instance has a place of its own, and all of a host one address: an answer does not name its instance."""
    named = {name: address for name, address in settled.items() if name in up}
    yield Check("addresses of the inventory", {name: up[name].address for name in named}, named)
    at: dict[str, list[str]] = {}
    hosts: dict[str, set[str]] = {}
    for name, member in up.items():
        at.setdefault(member.at, []).append(name)
        hosts.setdefault(InstanceRef.of(name).host, set()).add(member.address)
    yield Check(
        "instances at one address and port", {place: names for place, names in at.items() if len(names) > 1}, {}
    )
    torn = {host: sorted(addresses) for host, addresses in hosts.items() if len(addresses) > 1}
    yield Check("hosts with several addresses", torn, {})


def _answering(live: Any, addresses: Mapping[str, str], health: str) -> Iterator[Check]:
    blanks = " ".join(["%s"] * len(addresses))
    output = live.run(f"sh -c %s sh %s {blanks}", DIRECT, health, *addresses.values()).stdout
    codes = dict(line.split(" ", 1) for line in output.splitlines() if " " in line)
    for name, address in addresses.items():
        yield Check(f"{name} answers at {address}", codes.get(address, "nothing"), "200")


def edge(
    live: Any, url: str, status_port: int, engine: BalancedEngine, models: Sequence[str] = (), config: str = ""
) -> Iterator[Check]:
    """The balancer answers, refuses closed paths and unknown models, and shows its status on the loopback address.

    Args:
        live: testinfra's host.
        url: URL of the balancer, without a path.
        status_port: port of the status page.
        engine: the engine of the instances.
        models: names of the served models, canonical and in lower case.
        config: file on the host with options of curl for requests to the balancer; empty for none.
    """
    asked = [*(f"GET {url}{path}" for path in engine.open_paths), _status(status_port)]
    asked += [f"POST {url}{PREFIX}{UNKNOWN}{OPENAI}chat/completions"]
    asked += [f"GET {url}{PREFIX}{name}{engine.health}" for name in models]
    asked += [f"{method} {url}{path}" for method, _, path in (pair.partition(" ") for pair in engine.refused)]
    codes = iter(_statuses(live, asked, config))
    for path in engine.open_paths:
        yield Check(f"GET {path} through the balancer", next(codes), "200")
    yield Check("stub_status on the loopback address", next(codes), "200")
    yield Check("the path of an unknown model", next(codes), "404")
    answers = {name: next(codes) for name in models}
    if models:
        yield Check("the path of every model", answers, dict.fromkeys(models, "200"))
    yield Check("refused", dict(zip(engine.refused, codes, strict=True)), dict.fromkeys(engine.refused, "403"))


def without_certificate(live: Any, url: str, status_port: int, config: str) -> Iterator[Check]:
    """A balancer that asks clients for a certificate refuses a client without one. Verify has none itself.

    Args:
        live: testinfra's host.
        url: URL of the balancer, without a path.
        status_port: port of the status page.
        config: see `edge`.
    """
    refused, status = _statuses(live, [f"GET {url}/", _status(status_port)], config)
    yield Check("refused without a client certificate", refused, "400")
    yield Check("stub_status on the loopback address", status, "200")
    why = "balancer.tls.client_ca admits clients with a certificate, and verify has none"
    yield Check(f"{NOT_ASKED}paths and a streamed answer through the balancer: {why}", True, True)


def in_clear(live: Any, at: str, redirect_port: int) -> Iterator[Check]:
    """A balancer with TLS answers no request in clear, and redirects on the port for that.

    Args:
        live: testinfra's host.
        at: `ADDRESS:PORT` where the host reaches its balancer.
        redirect_port: port of the redirect; 0 for none.
    """
    redirect = [f"GET http://{at.rpartition(':')[0]}:{redirect_port}/"] if redirect_port else []
    plain, *redirected = _statuses(live, [f"GET http://{at}/", *redirect], "")
    yield Check("refused without TLS", plain, "400")
    for code in redirected:
        yield Check(f"redirected to TLS from port {redirect_port}", code, "308")


def keyless(
    live: Any, url: str, at: str, engine: BalancedEngine, config: str = "", networks: Collection[str] = ()
) -> Iterator[Check]:
    """A balancer whose clients need keys refuses requests without a key, at the root and below the name of a model.

    Where the host's own address needs no key, a stranger's address asks, and the own address gets an answer.

    Args:
        live: testinfra's host.
        url: URL of the balancer for clients, without a path.
        at: `ADDRESS:PORT` behind the URL. The host asks from this address too.
        engine: the engine of the instances.
        config: see `edge`.
        networks: networks in which a client needs no key.
    """
    asked = [*(f"GET {url}{path}" for path in engine.lists), f"POST {url}{PREFIX}{UNKNOWN}{OPENAI}chat/completions"]
    own = at.rpartition(":")[0].strip("[]")
    network = _network_of(own, networks)
    if network:
        (answer,) = _statuses(live, asked[:1], config)
        known = answer if answer == LIMITED else "200"  # the limits count clients by name, and nobody else
        yield Check(f"answers {own} without a key, as a client of {network}", answer, known)
    if network and (":" in own or _network_of(STRANGER, networks)):
        why = f"{own} is in {network}, and this host has no address outside of the networks without a key"
        yield Check(f"{NOT_ASKED}whether requests without a key are refused: {why}", True, True)
        return
    refused = [
        status in ("401", "403") for status in _statuses(live, asked, config, source=STRANGER if network else "")
    ]
    yield Check("refused without a key", refused, [True] * len(asked))


def _network_of(address: str, networks: Collection[str]) -> str:
    """Return the network that an address is in; empty for none."""
    found = ipaddress.ip_address(address)
    return next((network for network in networks if found in ipaddress.ip_network(network)), "")


def _status(port: int) -> str:
    return f"GET http://127.0.0.1:{port}/stub_status"


def _statuses(live: Any, asked: list[str], config: str, source: str = "") -> list[str]:
    """The status of each answer, or `nothing` for all. The requests come from the address `source`, if one is given."""
    blanks = " ".join(["%s"] * len(asked))
    statuses: list[str] = live.run(f"sh -c %s sh %s %s {blanks}", EDGE, config, source, *asked).stdout.split()
    return statuses if len(statuses) == len(asked) else ["nothing"] * len(asked)


def serving(live: Any) -> dict[str, str]:
    """Label -> `ADDRESS:PORT`, of the instances that get requests.

    Args:
        live: testinfra's host.
    """
    return {name: member.at for name, member in upstream.members(_upstream(live)).items() if not member.down}


def _upstream(live: Any) -> str:
    """The text of the upstream, read once for all proofs."""
    return str(asked_once(live, "cat -- %s", f"{CONFIG}/{upstream.FILE}").stdout)
