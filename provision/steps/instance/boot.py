"""What a host does at boot without anyone running a command: the firewall before Docker starts a container, then the
instances, then their models.

Docker leaves a container `exited` whose address is not there yet, whatever its restart policy
(docs/facts.md#docker-accepts), and a restarted server has no model loaded (docs/facts.md#ollama-load). The scripts are
constants; what differs is in plain files below /etc/provision/ollama: `instances` has a line
`NAME ADDRESS PORT MODEL ...` for each instance, and nothing in it needs quoting, because the inventory's types allow no
blank in any of these.
"""

from collections.abc import Callable, Iterable, Iterator
from functools import partial

from provision.inventory import Host, Inventory
from provision.render import render
from provision.steps.base import Step
from provision.steps.docker.firewall import APPLY, RULES_FILE, Firewall
from provision.steps.facts import HostFacts
from provision.steps.instance import endpoint
from provision.steps.instance.scripts import READY
from provision.steps.ollama.scripts import LOADING
from provision.steps.system.file import File
from provision.steps.system.systemd import Service, Unit

FOLDER = "/etc/provision/ollama"
INSTANCES = f"{FOLDER}/instances"
FIREWALL_SCRIPT = "/opt/provision/lib/ollama-firewall"
INSTANCES_SCRIPT = "/opt/provision/lib/ollama-instances"
FIREWALL_UNIT = "provision-firewall.service"
INSTANCES_UNIT = "provision-instances.service"
HEAD = "# Managed by provision; changes made here are undone by the next deploy.\n"

_FIREWALL = f"""
[ -f {RULES_FILE} ] || exit 0
apply <{RULES_FILE}
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
  ready "$name" "$at" 300 || return
  for model do
    echo "$name: loading $model"
    request="{{\"model\":\"$model\",\"keep_alive\":-1,\"stream\":false}}"
    embedding="{{\"model\":\"$model\",\"keep_alive\":-1,\"input\":\".\"}}"
    load "$at" "$request" "$embedding" "$answer/$name" 7200 || {{
      echo "$name could not load $model: $(head -c 500 "$answer/$name")" >&2; return 1
    }}
  done
}}

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


def firewall_steps(host: Host, inventory: Inventory) -> Iterator[Step]:
    """The firewall of a host's instances: in place now, and at boot before Docker starts a container.

    Args:
        host: a gpu host.
        inventory: the whole inventory, for the host's balancers.
    """
    firewall = Firewall(
        ports=tuple(instance.port for instance in host.instances),
        address=partial(endpoint.listen_address, host, inventory),
        admit=partial(endpoint.admitted, host, inventory),
        after=("service:docker", "service:provision-firewall"),
    )
    yield File(path=FIREWALL_SCRIPT, content=firewall_script(), mode=0o755)
    yield File(path=RULES_FILE, content=firewall.content)
    unit = render("ollama/provision-firewall.service.j2", script=FIREWALL_SCRIPT)
    yield Unit(name=FIREWALL_UNIT, content=unit)
    yield Service(name=FIREWALL_UNIT.removesuffix(".service"), after=(f"unit:{FIREWALL_UNIT}",))
    yield firewall


def start_steps(
    host: Host, address: Callable[[HostFacts], str], kept_loaded: dict[str, tuple[str, ...]]
) -> Iterator[Step]:
    """What starts a host's instances at boot and loads their models.

    Args:
        host: a gpu host.
        address: where its instances listen.
        kept_loaded: instance -> the models that it has loaded all the time.
    """

    def lines(facts: HostFacts) -> bytes:
        listening = address(facts)
        return instances_file((own.name, listening, own.port, kept_loaded[own.name]) for own in host.instances)

    yield File(path=INSTANCES_SCRIPT, content=instances_script(), mode=0o755)
    yield File(path=INSTANCES, content=lines)
    unit = render("ollama/provision-instances.service.j2", script=INSTANCES_SCRIPT)
    yield Unit(name=INSTANCES_UNIT, content=unit)
    after = ("service:docker", f"unit:{INSTANCES_UNIT}")
    yield Service(name=INSTANCES_UNIT.removesuffix(".service"), after=after)


def firewall_script() -> bytes:
    """The script that puts the rules in place."""
    return ("#!/bin/sh\n" + HEAD + "set -eu\n" + APPLY + _FIREWALL).encode()


def instances_script() -> bytes:
    """The script that starts the instances and loads their models, all of them at once."""
    return ("#!/bin/sh\n" + HEAD + "set -eu\n" + READY + LOADING + _INSTANCES).encode()


def instances_file(lines: Iterable[tuple[str, str, int, tuple[str, ...]]]) -> bytes:
    """What the script reads.

    Args:
        lines: name, address, port and models of each instance.
    """
    rows = (" ".join((name, address, str(port), *models)) for name, address, port, models in lines)
    return (HEAD + "# name address port models\n" + "".join(f"{row}\n" for row in rows)).encode()
