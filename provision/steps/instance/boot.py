"""The boot of a host without an operator: the firewall before Docker starts a container, then the instances, then their
models.

Docker leaves a container `exited` if its address is missing, whatever its restart policy
(docs/facts.md#docker-accepts), and a restarted server has no model loaded (docs/facts.md#ollama-load). The scripts are
constants of an engine; their data is in plain files (`instance_paths`): `instances` has a line `NAME ADDRESS PORT MODEL
...` for each instance, and no word needs quoting, because the inventory's types allow no blank in names, addresses and
models.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial

from provision.inventory import Host, Inventory, shared_settings
from provision.render import render
from provision.steps.base import Step
from provision.steps.docker import isolation
from provision.steps.docker.firewall import APPLY, BRIDGE, Firewall
from provision.steps.docker.network import interface, network_name
from provision.steps.facts import HostFacts
from provision.steps.instance import endpoint, scripts
from provision.steps.instance.engine import Engine
from provision.steps.instance_paths import FIREWALL_PROGRAM, FIREWALL_RULES, INSTANCES, INSTANCES_PROGRAM
from provision.steps.system.file import File
from provision.steps.system.systemd import Service, Unit

FIREWALL_UNIT = "provision-firewall.service"
INSTANCES_UNIT = "provision-instances.service"
HEAD = "# Managed by provision; changes made here are undone by the next deploy.\n"

_FIREWALL = f"""
[ -f {FIREWALL_RULES} ] || exit 0
apply <{FIREWALL_RULES}
"""

_INSTANCES = rf"""
list={INSTANCES}
answer=$(mktemp -d)
trap 'rm -rf "$answer"' EXIT
failed=$answer/failed

wait_for_address() {{
  tries=0
  until ip -o addr show | awk '{{sub("/.*", "", $4); print $4}}' | grep -qxF "$1"; do
    tries=$((tries + 1))
    [ "$tries" -lt 300 ] || {{ echo "this host does not get the address $1" >&2; return 1; }}
    sleep 1
  done
}}

serve() {{ # name, address, port, models
  name=$1; address=$2; at=$2:$3; shift 3
  wait_for_address "$address" || return
  docker start "$name" >/dev/null || return
  ready "$name" "$at" SECONDS || returnMODELS}}

docker version --format '{{{{.Server.Version}}}}' >/dev/null
while read -r name address port models; do
  case $name in ''|'#'*) continue ;; esac
  docker inspect --type container "$name" >/dev/null 2>&1 || {{ echo "$name is not there yet"; continue; }}
  set -f
  {{ serve "$name" "$address" "$port" $models || echo "$name" >>"$failed"; }} </dev/null &
done <"$list"
wait
[ ! -s "$failed" ] || {{ echo "failed: $(tr '\n' ' ' <"$failed")" >&2; exit 1; }}
"""


def firewall_steps(host: Host, inventory: Inventory, engine: Engine) -> Iterator[Step]:
    """Yield the firewall of a host's instances: in place now, and at boot before Docker starts a container.

    Args:
        host: a gpu host.
        inventory: the whole inventory, for the host's balancers.
        engine: of the instances.
    """
    firewall = Firewall(
        ports=tuple(instance.port for instance in host.instances),
        inside=engine.probe.port,
        address=partial(endpoint.listen_address, host, inventory),
        admit=partial(endpoint.admitted, host, inventory),
        bridge=str(shared_settings.docker(host).daemon.get("bridge") or BRIDGE),
        bridges=tuple(interface(name) for name in own_networks(host).values()),
        after=("service:docker", "service:provision-firewall"),
    )
    yield File(path=FIREWALL_PROGRAM, content=firewall_script(bool(host.serving.network_pool)), mode=0o755)
    yield File(path=FIREWALL_RULES, content=firewall.content)
    unit = render("instance/provision-firewall.service.j2", script=FIREWALL_PROGRAM, engine=engine.title)
    yield Unit(name=FIREWALL_UNIT, content=unit)
    yield Service(name=FIREWALL_UNIT.removesuffix(".service"), after=(f"unit:{FIREWALL_UNIT}",))
    yield firewall


def own_networks(host: Host) -> dict[str, str]:
    """Return instance -> its own network; none where the instances are on Docker's bridge.

    Args:
        host: a gpu host.
    """
    pool = host.serving.network_pool
    return {own.name: network_name(own.name, pool) for own in host.instances} if pool else {}


def start_steps(
    host: Host, address: Callable[[HostFacts], str], kept_loaded: Mapping[str, tuple[str, ...]], engine: Engine
) -> Iterator[Step]:
    """Yield the steps that start a host's instances at boot and load their models.

    Args:
        host: a gpu host.
        address: returns the address of the instances.
        kept_loaded: instance -> the models to keep loaded.
        engine: of the instances.
    """

    def lines(facts: HostFacts) -> bytes:
        listening = address(facts)
        return instances_file((own.name, listening, own.port, kept_loaded[own.name]) for own in host.instances)

    yield File(path=INSTANCES_PROGRAM, content=instances_script(engine), mode=0o755)
    yield File(path=INSTANCES, content=lines)
    unit = render("instance/provision-instances.service.j2", script=INSTANCES_PROGRAM, engine=engine.title)
    yield Unit(name=INSTANCES_UNIT, content=unit)
    after = ("service:docker", f"unit:{INSTANCES_UNIT}")
    yield Service(name=INSTANCES_UNIT.removesuffix(".service"), after=after)


def firewall_script(isolated: bool = False) -> bytes:
    """Return the script that puts the rules in place.

    Args:
        isolated: whether the instances have networks of their own.
    """
    text = f"{isolation.ENTER}{APPLY}{_FIREWALL}enter\n" if isolated else APPLY + _FIREWALL
    return f"#!/bin/sh\n{HEAD}set -eu\n{text}".encode()


def instances_script(engine: Engine) -> bytes:
    """Return the script that starts the instances and loads their models, all instances at once.

    Args:
        engine: of the instances.
    """
    models = engine.loading.models or "\n"
    serve = _INSTANCES.replace("SECONDS", str(engine.boot_timeout)).replace("MODELS", models)
    functions = scripts.ready(engine.health) + engine.loading.functions
    return ("#!/bin/sh\n" + HEAD + "set -eu\n" + functions + serve).encode()


def instances_file(lines: Iterable[tuple[str, str, int, tuple[str, ...]]]) -> bytes:
    """Return the data of the script.

    Args:
        lines: name, address, port and models of each instance.
    """
    rows = (" ".join((name, address, str(port), *models)) for name, address, port, models in lines)
    return (HEAD + "# name address port models\n" + "".join(f"{row}\n" for row in rows)).encode()
