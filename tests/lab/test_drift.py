"""Whatever is deleted, stopped or edited on a host is seen by plan, mended by one deploy, and nothing else is touched.

A round breaks something on each host at once; a host gets several breakages at once only where these are independent.
The tests of all breakages of a round share its outcome.
"""

import fnmatch
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

import pytest

from provision.plan import role_interface
from tests.lab.conftest import DEPLOYED, Done, Fleet, settle

pytestmark = pytest.mark.lab

IMAGE = "ollama/ollama:0.34.4"
MODEL = "deepseek-r1:1.5b"
SOURCES, KEYS = "/etc/apt/sources.list.d", "/etc/apt/keyrings"
DAEMON = "/etc/docker/daemon.json"
HOOK = "/usr/bin/nvidia-container-runtime-hook"
NGINX, UPSTREAM = "/etc/provision/nginx", "/etc/provision/nginx/upstream.conf"
# Our unit for the instances stops and starts with Docker.
DOCKER_RESTARTS = ("unit docker.service", "unit provision-instances.service", "/var/lib/provision/docker/good.json")

# `$1` is the part after the kind in the step's id.
EDIT = 'echo "# by hand" >>"$1"'
EDIT_UNIT = 'echo "# by hand" >>/etc/systemd/system/$1'
REMOVE = 'rm -f -- "$1"'
REMOVE_UNIT = 'rm -f -- "/etc/systemd/system/$1"; systemctl daemon-reload'
FORWARD = ("firewall:DOCKER-USER",)  # a starting Docker puts its own rules before ours
STOP_DOCKER = "systemctl stop docker.socket docker.service"
BEHIND = 'at=$(readlink -f "$(command -v dockerd)"); cp -p "$at" "$at.new"; mv -fT "$at.new" "$at"'
ASK = 'at=$(docker port ollama1 11434); ask() { curl -sf -X "$1" -d "$3" "http://$at/api/$2"; }; '
RESTART = """
docker restart -t 1 ollama2
until curl --noproxy '*' -sf -o /dev/null "http://$(docker port ollama2 11434)/api/version"; do sleep 0.2; done
"""
PID = "/run/provision-nginx/nginx.pid"
# A reload is over when nginx has other workers.
RELOADED = f"""
workers() {{{{ pgrep -P "$(cat {PID})" | sort; }}}}
before=$(workers); {{how}}
while [ "$(workers)" = "$before" ]; do sleep 0.1; done
sleep 1
"""
RELOAD_NGINX = RELOADED.format(how="systemctl reload provision-nginx")
LOAD_ANOTHER = f"""
cp {NGINX}/site.conf /root/site.conf
sed -i 's/client_max_body_size .*/client_max_body_size 1;/' {NGINX}/site.conf
%s
cat /root/site.conf >{NGINX}/site.conf
"""
READ_ANOTHER = """
cp /etc/systemd/system/$1 /root/unit
sed -i s/RestartSec=2/RestartSec=3/ /etc/systemd/system/$1
systemctl daemon-reload
cat /root/unit >/etc/systemd/system/$1
"""
OTHER_CARD = f"""
at=$(docker port ollama1 11434)
docker rm -f ollama1
docker run -d --name ollama1 --label provision.managed=1 --gpus device=1 -p "$at:11434" \
  --mount type=volume,source=ollama1,target=/root/.ollama {IMAGE}
"""
# As a tool that offers to duplicate and edit a container: the copy has all labels and variables.
COPY = r"""
cards=$(docker inspect "$1" --format '{{(index .HostConfig.DeviceRequests 0).DeviceIDs}}' | tr -d '[]')
run=$(docker inspect "$1" --format '{{index .Config.Labels "provision.run"}}'); at=$(docker port "$1" 11434)
docker inspect "$1" --format '{{range .Config.Env}}{{println .}}{{end}}' | grep '^OLLAMA_[^H]' >/run/variables
docker rm -f "$1"
docker run -d --name "$1" --gpus "\"device=$cards\"" --restart unless-stopped -p "$at:11434" --env-file /run/variables \
  --mount "type=volume,source=$1,target=/root/.ollama" --log-opt max-size=50m --log-opt max-file=3 \
  --label provision.managed=1 --label "provision.instance=$1" --label "provision.run=$run" """


@dataclass(frozen=True)
class Breakage:
    """Damage that somebody did to a host.

    Args:
        step: id of the step that must see the damage.
        how: the damage in words.
        script: the damage as a script: POSIX sh, run as root; `$1` is the part after the kind in the step's id.
        also: ids of further steps that have to be mended.
        touches: patterns of further things that may differ afterwards, beside the steps' own things (see `ABOUT`).
    """

    step: str
    how: str
    script: str
    also: tuple[str, ...] = ()
    touches: tuple[str, ...] = ()

    @property
    def steps(self) -> frozenset[str]:
        """All steps that have to be mended."""
        return frozenset((self.step, *self.also))

    def __str__(self) -> str:
        return f"{self.step} {self.how}"


def loses(instance: str, how: str, script: str, *also: str) -> Breakage:
    """A container that is down or new afterwards: its models have to be loaded again."""
    return Breakage(f"container:{instance}", how, script, (*also, f"resident:{instance}"))


def copied(instance: str, how: str, options: str) -> Breakage:
    """A container that was replaced by a copy with further options."""
    return loses(instance, f"copied with its labels and {how}", f"{COPY} {options} {IMAGE}")


def volume_gone(instance: str) -> Breakage:
    """All data of an instance is lost."""
    also = (f"container:{instance}", f"model:{instance}/{MODEL}", f"resident:{instance}")
    return Breakage(f"volume:{instance}", "removed", 'docker rm -f "$1"; docker volume rm "$1"', also)


def config(how: str, script: str, *also: str) -> Breakage:
    """Damage to daemon.json."""
    return Breakage("docker_config:daemon.json", how, script, also)


def firewall(how: str, script: str) -> Breakage:
    """Damage to the rules in front of the instances."""
    return Breakage("firewall:DOCKER-USER", how, script)


def balancer(how: str, script: str) -> Breakage:
    """Damage to nginx's configuration."""
    return Breakage("config:balancer", how, script)


# The slow breakages last.
GPU = (
    Breakage(f"apt_key:{KEYS}/provision-docker.asc", "is another key", f"cat {KEYS}/provision-nvidia_*.asc >$1"),
    Breakage(f"apt_key:{KEYS}/provision-nvidia_toolkit.asc", "removed", REMOVE),
    Breakage(f"apt_source:{SOURCES}/provision-docker.sources", "edited", "sed -i s/stable/test/ $1"),
    Breakage(f"apt_source:{SOURCES}/provision-nvidia_toolkit.sources", "removed", REMOVE),
    Breakage("file:/opt/provision/lib/docker-notes", "not executable", 'chmod 0644 "$1"'),
    Breakage("file:/etc/apt/preferences.d/provision-nvidia_toolkit", "removed", REMOVE),
    Breakage("drop_in:docker.service", "removed", 'rm -r "/etc/systemd/system/$1.d"; systemctl daemon-reload'),
    config("edited", f"sed -i s/50m/9m/ {DAEMON}"),
    config("removed", f"rm {DAEMON}"),
    config("edited and loaded", f"sed -i s/50m/9m/ {DAEMON}; systemctl restart docker", "service:docker", *FORWARD),
    config("edited and reloaded", f"sed -i /live-re/s/true/false/ {DAEMON}; systemctl reload docker"),
    config("without our note", "rm /var/lib/provision/docker/ours.json"),
    Breakage("service:docker", "stopped", STOP_DOCKER, also=FORWARD),
    Breakage("service:docker", "disabled", "systemctl disable docker.service"),
    Breakage("service:docker", "stopped and masked", f"{STOP_DOCKER}; systemctl mask docker.service", also=FORWARD),
    # as Debian's package docker.io does: a new program, and the old daemon runs on
    Breakage("service:docker", "left behind by its package", BEHIND, also=FORWARD),
    Breakage(
        *("gpu_driver:docker", "not registered", f"mv {HOOK} /x; systemctl restart docker; mv /x {HOOK}"),
        touches=DOCKER_RESTARTS,
        also=FORWARD,
    ),
    Breakage(f"image:{IMAGE}", "untagged", f"docker tag {IMAGE} by-hand:1; docker rmi {IMAGE}"),
    Breakage(f"image:{IMAGE}", "given to another image", 'tar c -C /etc hostname | docker import - "$1"'),
    Breakage("file:/opt/provision/lib/ollama-firewall", "removed", REMOVE),
    Breakage("file:/etc/provision/ollama/firewall.rules", "edited", "sed -i /REJECT/d $1"),
    Breakage("file:/opt/provision/lib/ollama-instances", "edited", EDIT),
    Breakage("file:/etc/provision/ollama/instances", "removed", REMOVE),
    Breakage(
        "folders:provision", "open", "chmod 0777 /etc/provision /var/lib/provision; chown nobody /etc/provision/ollama"
    ),
    Breakage("file:/etc/provision/ollama/cards", "removed", REMOVE),
    Breakage("file:/etc/provision/ollama/cards", "edited", EDIT),
    Breakage("unit:provision-instances.service", "removed", REMOVE_UNIT),
    Breakage("service:provision-instances", "stopped", "systemctl stop provision-instances"),
    Breakage("service:provision-instances", "disabled", "systemctl disable provision-instances"),
    loses("ollama1", "stopped", "docker stop -t 1 ollama1"),
    loses("ollama2", "removed", "docker rm -f ollama2"),
    Breakage("container:ollama1", "paused", "docker pause ollama1"),
    loses("ollama2", "limited", "docker update --memory 1g --memory-swap 1g ollama2"),
    loses("ollama1", "not restarted", "docker update --restart no ollama1"),
    loses("ollama2", "renamed", "docker rename ollama2 by-hand", "container:by-hand"),
    loses("ollama1", "on the other card", OTHER_CARD),
    copied("ollama1", "a proxy", "-e HTTPS_PROXY=http://proxy:3128"),
    copied("ollama2", "more rights", "-e FOO=bar --pid host --cap-add NET_ADMIN -v /etc:/host:ro"),
    loses("ollama2", "off its network", "docker network disconnect bridge ollama2"),
    Breakage(
        f"model:ollama1/{MODEL}",
        "deleted",
        ASK + f"""ask DELETE delete '{{"model":"{MODEL}"}}'""",
    ),
    Breakage(
        f"model:ollama2/{MODEL}",
        "truncated",
        "cd /var/lib/docker/volumes/ollama2/_data/models/blobs; truncate -s 9 $(ls -S | head -1)",
        ("resident:ollama2",),
        touches=("container ollama2",),  # the container restarts
    ),
    Breakage("resident:ollama1", "unloaded", ASK + f"""ask POST generate '{{"model":"{MODEL}","keep_alive":0}}'"""),
    Breakage("resident:ollama2", "restarted", RESTART, touches=("container ollama2",)),
    volume_gone("ollama1"),
    volume_gone("ollama2"),
    Breakage("unit:provision-firewall.service", "edited", EDIT_UNIT),
    Breakage("service:provision-firewall", "disabled", "systemctl disable provision-firewall"),
    Breakage("service:provision-firewall", "stopped", "systemctl stop provision-firewall"),
    firewall("without its jump", "iptables -D DOCKER-USER -j PROVISION"),
    firewall("flushed", "iptables -F PROVISION"),
    firewall("passed by", "iptables -I DOCKER-USER -p tcp -j ACCEPT"),
    firewall("with a hole", "iptables -I PROVISION -p tcp -j RETURN"),
    Breakage("packages:apt-tools", "without gnupg", "dpkg --remove --force-depends gnupg"),
    Breakage("packages:apt-tools", "without curl", "dpkg --remove --force-depends curl"),
    Breakage("packages:nvidia_toolkit", "removed", "apt-get -qy remove libnvidia-container-tools"),
    Breakage("packages:docker", "removed", "apt-get -qy remove docker-ce", touches=DOCKER_RESTARTS, also=FORWARD),
    Breakage(
        "docker_proxy:/etc/provision/docker/proxy.env",
        "made by hand",
        'mkdir -p /etc/provision/docker; echo HTTPS_PROXY=http://proxy.test:3128 >"$1"',
    ),
)

# In the order of the rounds: replacing instances changes the balancer, which mends some of these breakages.
BALANCER = (
    Breakage("directory:/var/log/provision-nginx", "open to all", 'chmod 0777 "$1"'),
    Breakage("directory:/var/cache/provision-nginx", "removed", 'rm -r "$1"'),
    Breakage("file:/etc/logrotate.d/provision-nginx", "edited", EDIT),
    Breakage("link:/opt/provision/nginx/current", "removed", REMOVE),
    Breakage("link:/opt/provision/nginx/current", "leads elsewhere", "ln -sfn /usr/local $1"),
    Breakage("user:provision-nginx", "may log in", 'usermod -s /bin/bash "$1"'),
    Breakage("unit:provision-nginx.service", "edited", EDIT_UNIT),
    Breakage("unit:provision-nginx.service", "removed", REMOVE_UNIT),
    balancer("upstream edited", f"sed -i s/max_conns=/max_conns=1/ {UPSTREAM}"),
    balancer("without its pid file", f"rm {PID}"),
    balancer("link removed", f"rm {NGINX}"),
    balancer("generation removed", f"rm -r $(readlink {NGINX})"),
    Breakage("service:provision-nginx", "stopped", "systemctl stop provision-nginx"),
    Breakage("service:provision-nginx", "disabled", "systemctl disable provision-nginx"),
    Breakage("service:provision-nginx", "killed", f"kill $(cat {PID}); sleep 1"),
    balancer("upstream edited and loaded", f"sed -i s/max_conns=/max_conns=1/ {UPSTREAM}; {RELOAD_NGINX}"),
    balancer("unreadable", f"chmod 0 {NGINX}/site.conf"),
    balancer("with a file more", f"echo 'server_tokens on;' >{NGINX}/more.conf"),
    Breakage("unit:provision-nginx.service", "edited, read and put back", READ_ANOTHER),
    balancer("edited, loaded and put back", LOAD_ANOTHER % RELOAD_NGINX),
    balancer(
        "edited, loaded past the unit and put back", LOAD_ANOTHER % RELOADED.format(how=f"kill -HUP $(cat {PID})")
    ),
    balancer("open to all", f"chmod 0666 {NGINX}/nginx.conf"),
    balancer("without a port", f"sed -i '/include site.conf/d' {NGINX}/nginx.conf"),
    Breakage("build:nginx", "open to all", "chmod 0777 /opt/provision/nginx/current/sbin/nginx"),
    Breakage("build:nginx", "somebody else's", "chown -R nobody /opt/provision/nginx/current/"),
    Breakage(
        *("user:provision-nginx", "removed", 'systemctl stop provision-nginx; userdel "$1"'),
        also=("service:provision-nginx",),
    ),
    Breakage("packages:nginx", "without logrotate", "dpkg --remove --force-depends logrotate"),
    Breakage("packages:nginx", "without curl", "dpkg --remove --force-depends curl"),
    Breakage("folders:provision", "open to all", "chmod 0777 /etc/provision /opt/provision /var/lib/provision"),
    Breakage("program:nginx", "removed", "rm /usr/local/sbin/nginx"),
    Breakage(
        *("build:nginx", "edited", "cd /opt/provision/nginx/current/sbin; cp nginx new; echo >>new; mv new nginx"),
        also=("config:balancer",),
    ),
    Breakage("build:nginx", "removed", "rm -r /opt/provision/nginx/*-*/", also=("config:balancer",)),
)

CANNOT_DRIFT = {
    "require:host": "a guard: the step refuses hosts, and has nothing that could differ",
    "require:cards": "a guard: deploy can mend nothing that the step refuses",
    "only_source:docker": "a guard: somebody else's source is refused, not edited",
    "only_source:nvidia_toolkit": "a guard: somebody else's source is refused, not edited",
    "guard:instances": "a guard: who holds a card or a port is not ours to stop",
    "listen:nginx": "a guard: who holds the port is not ours to stop",
}

PROCESSES = "processes of nginx"
# The things of a step, by its id or its kind: patterns of the names in `SNAPSHOT`. `{}` is the part after the kind.
ABOUT = {
    "file": ("{}",),
    "link": ("{}",),
    "program": ("/usr/local/sbin/{}", "/usr/sbin/{}"),
    "directory": ("{}",),
    "folders": ("/etc/provision*", "/opt/provision", "/var/lib/provision"),
    "apt_key": ("{}",),
    "apt_source": ("{}",),
    "unit": ("/etc/systemd/system/{}",),
    "drop_in": ("/etc/systemd/system/{}.d*",),
    "docker_proxy": ("{}", "/etc/provision/docker"),
    "docker_config": ("/etc/docker/daemon.json", "/var/lib/provision/docker/*"),
    "service": ("unit {}.service", "/etc/systemd/system/*.wants/{}.service"),
    "service:provision-nginx": ("unit provision-nginx.service", "/etc/systemd/*/provision-nginx.service", PROCESSES),
    "service:docker": (*DOCKER_RESTARTS, "/etc/systemd/system/*/docker.service", "/etc/systemd/system/docker.service"),
    "container": ("container {}",),
    "volume": ("/var/lib/docker/volumes/{}*",),
    "model": ("/var/lib/docker/volumes/*",),
    "resident": ("/var/lib/provision/measured/{}",),
    "image": ("/var/lib/provision/images*",),
    "firewall": ("firewall",),
    "packages": ("packages",),
    "user": ("/etc/passwd",),
    "build": ("/opt/provision/nginx/*", "/var/lib/provision/artifacts"),
    "config": ("/etc/provision/nginx", "/var/lib/provision/nginx*", PROCESSES),
}

# One line for each thing that must not change by itself: its name, a tab, and a text that changes with the thing.
SNAPSHOT = r"""
printf 'packages\t%s\n' "$(dpkg-query -W | sha256sum)"
set -- /etc/provision /opt/provision /etc/docker /etc/apt /etc/passwd /etc/logrotate.d /var/lib/docker/volumes
set -- "$@" /var/lib/provision /etc/systemd/system /var/log/provision-nginx /var/cache/provision-nginx
find "$@" \( -path /var/lib/provision/store -o -path /var/lib/provision/journal \) -prune -o \
  \( -name '*.log' -o -name '*.db' -o -name backingFsBlockDev -o -name id_ed25519 \) -o \
  -type d -printf '%p\t%m %u:%g\n' -o -printf '%p\t%i %T@ %m %u:%g %l\n' 2>/dev/null
for unit in docker containerd ssh provision-firewall provision-instances provision-nginx; do
  printf 'unit %s.service\t%s\n' $unit "$(systemctl show --value -p InvocationID,UnitFileState $unit | tr '\n' ' ')"
done
[ ! -e /run/provision-nginx/nginx.pid ] || printf 'processes of nginx\t%s\n' \
  "$(cat /run/provision-nginx/nginx.pid) $(pgrep -P "$(cat /run/provision-nginx/nginx.pid)" | sort | tr '\n' ' ')"
command -v docker >/dev/null || exit 0
docker ps -aq | xargs -r docker inspect -f '{{printf "container %s\t%s %s" (slice .Name 1) .Id .State.StartedAt}}'
printf 'firewall\t%s\n' "$(iptables -S DOCKER-USER; iptables -S PROVISION)" | tr '\n' ' '; echo
"""


@dataclass(frozen=True)
class Story:
    """The outcome of a round on one host.

    Args:
        planned: step -> reason, of the plan after the breakage.
        changed: the steps that the deploy changed.
        left: step -> reason, of the next plan.
        failed: errors of the host, from each command of the three that failed.
        touched: the names of all things that differ from before the breakage.
    """

    planned: dict[str, str]
    changed: list[str]
    left: dict[str, str]
    failed: list[str]
    touched: list[str]


Pack = tuple[Breakage, ...]
QUIET = (
    "apt_key",
    "apt_source",
    "file",
    "directory",
    "folders",
    "link",
    "program",
)  # no other step has to follow these steps
FIREWALL = ("firewall:DOCKER-USER", "unit:provision-firewall.service", "service:provision-firewall")
NGINX_TOOLS = ("packages:nginx", "user:provision-nginx may log in")
MOST = 3  # breakages on one host at once


def _instance(breakage: Breakage) -> str:
    """The instance that a breakage concerns, or nothing."""
    kind = breakage.step.partition(":")[0]
    match = re.search("ollama[0-9]", breakage.step)
    return match[0] if match and kind in ("container", "model", "resident", "volume") else ""


def _together(first: Breakage, second: Breakage) -> bool:
    """Whether neither breakage can be mistaken for an effect of the other."""
    if first.step == second.step:
        return False
    areas = {_area(first), _area(second)}
    return areas in APART or areas == {"quiet"} or ("" != _instance(first) != _instance(second) != "")


def _area(breakage: Breakage) -> str:
    """The area that a breakage stays in, where its kind tells."""
    kind = breakage.step.partition(":")[0]
    if breakage.step in FIREWALL:
        return "firewall"
    if str(breakage).startswith(NGINX_TOOLS):
        return "tools of nginx"
    if kind in QUIET and kind != "link":  # nginx is started and reloaded by way of its link
        return "quiet"
    return "instance" if _instance(breakage) else kind


APART = (
    {"firewall", "instance"},
    {"quiet", "config"},
    {"tools of nginx", "config"},
    {"tools of nginx", "service"},
    {"tools of nginx", "quiet"},
    {"tools of nginx", "link"},
)


def packs(breakages: Sequence[Breakage]) -> list[Pack]:
    """Groups of independent breakages, for one host at once."""
    found: list[Pack] = []
    for one in breakages:
        fitting = (pack for pack in found if len(pack) < MOST and all(_together(one, other) for other in pack))
        pack = next(fitting, None)
        if pack is None:
            found.append((one,))
        else:
            found[found.index(pack)] = (*pack, one)
    return found


def rounds() -> list[dict[str, Pack]]:
    """The breakages of each round, by host."""
    gpu, balancer = packs(GPU), packs(BALANCER)
    rows = zip_longest(gpu[::2], gpu[1::2], balancer)
    return [{host: pack for host, pack in zip(("gpu-01", "gpu-02", "lb-01"), row, strict=True) if pack} for row in rows]


class Stories:
    """Plays a round when a test asks for its outcome."""

    def __init__(self, fleet: Fleet) -> None:
        self.fleet = fleet
        self._told: dict[Pack, Story] = {}

    def of(self, pack: Pack) -> Story:
        """The outcome on the host with these breakages."""
        if pack not in self._told:
            row = next(row for row in rounds() if pack in row.values())
            stories = self._play(row)
            self._told |= {one: stories[host] for host, one in row.items()}
            if any(story.left or story.failed for story in stories.values()):
                self.fleet.lab.restore(label=DEPLOYED)
                settle(self.fleet)
        return self._told[pack]

    def _play(self, row: dict[str, Pack]) -> dict[str, Story]:
        fleet = self.fleet
        before = self._snapshots(row)
        fleet.lab.each(lambda host: self._break(host, row[host.name]), [fleet.lab.host(name) for name in row])
        done = [
            fleet.provision("plan", "--json"),
            fleet.provision("deploy", "--yes", "--json"),
            fleet.provision("plan", "--json"),
        ]
        after = self._snapshots(row)
        return {name: _story(name, done, before[name], after[name]) for name in row}

    def _snapshots(self, names: Any) -> dict[str, dict[str, str]]:
        def take(name: str) -> dict[str, str]:
            lines = self.fleet.lab.host(name).run(["sh", "-s"], stdin=SNAPSHOT).stdout.splitlines()
            return dict(line.split("\t", 1) for line in lines if "\t" in line)

        with ThreadPoolExecutor() as pool:
            return dict(zip(names, pool.map(take, names), strict=True))

    @staticmethod
    def _break(host: Any, pack: Pack) -> None:
        for breakage in pack:
            host.run(["sh", "-euc", breakage.script, "sh", breakage.step.partition(":")[2]])


def _story(name: str, done: list[Done], before: dict[str, str], after: dict[str, str]) -> Story:
    first, deployed, second = (one.host(name) for one in done)
    planned, left = ({change["step"]: change["reason"] for change in one["changes"]} for one in (first, second))
    failed = [f"{one['why']} {one.get('failed') or ''}" for one in (first, deployed, second) if one["why"]]
    touched = sorted(key for key in before.keys() | after.keys() if before.get(key) != after.get(key))
    return Story(planned, deployed["changed"], left, failed, touched)


@pytest.fixture(scope="module")
def stories(lab, first_deploy, tmp_path_factory):
    return Stories(Fleet(lab, tmp_path_factory.mktemp("drift")))


# The balancer's own change while instances were out of the upstream: another generation.
MARKS = Breakage("config:balancer", "told of instances that were replaced", ":")


def _is_told(pack: Pack) -> bool:
    """Whether a balancer has these breakages while instances are replaced in the same round."""
    row = next(row for row in rounds() if pack in row.values())
    others = [one for host, found in row.items() if host != "lb-01" for one in found]
    return row.get("lb-01") == pack and any(_instance(one) or "docker" in one.step for one in others)


@pytest.mark.parametrize(
    "pack",
    [
        pytest.param(pack, id="; ".join(map(str, pack)), marks=[pytest.mark.matrix] if number % 4 else [])
        for number, row in enumerate(rounds())
        for pack in row.values()
    ],
)
def test_drift_is_seen_and_mended_and_nothing_else_is_touched(stories, pack):
    story = stories.of(pack)
    print(story)
    steps = frozenset[str]().union(*(breakage.steps for breakage in pack))
    known_later = {step for step, reason in story.planned.items() if reason.startswith("known after ")}
    assert story.failed == []
    assert {breakage.step for breakage in pack} <= story.planned.keys()
    assert story.planned.keys() - known_later <= steps <= story.planned.keys()
    marked = [MARKS] if _is_told(pack) else []  # a new generation, which also mends the files of the old generation
    assert steps - {mark.step for mark in marked} <= set(story.changed) <= steps
    assert story.left == {}
    assert [name for name in story.touched if not any(_may_differ(name, one) for one in (*pack, *marked))] == []


def _may_differ(name: str, breakage: Breakage) -> bool:
    ids = [(step, *step.partition(":")[::2]) for step in breakage.steps]
    patterns = [pattern.format(rest) for step, kind, rest in ids for pattern in ABOUT.get(step, ABOUT.get(kind, ()))]
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in (*patterns, *breakage.touches))


@pytest.mark.parametrize(("host", "breakages"), [("gpu-01", GPU), ("lb-01", BALANCER)])
def test_every_step_is_broken_or_cannot_drift(lab, host, breakages):
    inventory = role_interface.load(str(lab.inventory))
    (found,) = (one for one in inventory.hosts if one.name == host)
    ids = {entry.step.id for entry in role_interface.steps(found, inventory)}
    assert ids - CANNOT_DRIFT.keys() == {breakage.step for breakage in breakages}
