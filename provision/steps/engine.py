"""What Docker has on a host: containers, images, volumes and listening sockets, read by one command for all steps.

Sources: `docker inspect`'s fields as Docker 20.10 to 29 print them; `--gpus` in HostConfig.DeviceRequests, FACTS 2.4.
"""

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from provision.command import READ_TIMEOUT, Answer, Run
from provision.steps.base import BlockedError, Fact, State, UnreadableError, asked_once

MANAGED = "provision.managed"
MARKS = "/var/lib/provision/images"
SILENT, LEFT_OVER, NO_CURL = 75, 76, 77
MOST = 64  # instances of a host that are asked; it has no more cards

# The environment of foreign containers is not ours to read: only the one variable that gives a container cards.
_CONTAINER = (
    '{"id":{{json .Id}},"name":{{json .Name}},"status":{{json .State.Status}},"image":{{json .Config.Image}},'
    '"image_id":{{json .Image}},"labels":{{json .Config.Labels}},"mounts":{{json .Mounts}},'
    f'"env":{{{{if index .Config.Labels "{MANAGED}"}}}}{{{{json .Config.Env}}}}{{{{else}}}}null{{{{end}}}},'
    '"visible":[{{range .Config.Env}}{{if eq (index (split . "=") 0) "NVIDIA_VISIBLE_DEVICES"}}{{json .}},{{end}}'
    '{{end}}null],"requests":{{json .HostConfig.DeviceRequests}},"ports":{{json .HostConfig.PortBindings}},'
    '"restart":{{json .HostConfig.RestartPolicy}},"memory":{{json .HostConfig.Memory}},'
    '"cpus":{{json .HostConfig.NanoCpus}},"pids":{{json .HostConfig.PidsLimit}},"log":{{json .HostConfig.LogConfig}},'
    '"privileged":{{json .HostConfig.Privileged}},"devices":{{json .HostConfig.Devices}},'
    '"runtime":{{json .HostConfig.Runtime}},'
    '"networks":[{{range $name, $_ := .NetworkSettings.Networks}}{{json $name}},{{end}}null]}'
)
_IMAGE = '{"repository":{{json .Repository}},"tag":{{json .Tag}},"digest":{{json .Digest}},"id":{{json .ID}}}'
_VOLUME = '{"name":{{json .Name}},"labels":{{json .Labels}}}'

# Whether an instance answers and still sees its cards is asked of all of them at once: a container can lose its cards
# while it runs (FACTS 2.5), and nothing but a look inside shows it.
# A daemon that does not answer is no proof of anything; no client and no containers on disk is one of absence.
# A container may go between `ps` and `inspect`: the second attempt then lists anew.
SCRIPT = f"""
if ! command -v docker >/dev/null 2>&1; then
  if [ -n "$(ls -A /var/lib/docker/containers 2>/dev/null)" ]; then
    echo 'there are containers in /var/lib/docker, but no docker client to read them' >&2; exit {LEFT_OVER}
  fi
  echo '# absent'; exit 0
fi
# asking a stopped daemon would start it, where docker.socket listens for it: a read must not
if [ -d /run/systemd/system ] && ! systemctl -q is-active docker.service; then
  echo 'docker.service is not running' >&2; exit {SILENT}
fi
containers() {{
  ids=$(timeout 15 docker ps -aq --no-trunc) || exit {SILENT}
  [ -z "$ids" ] || timeout 15 docker inspect --type container --format '{_CONTAINER}' $ids
}}
probe() {{
  echo "$1 answers $(curl --noproxy '*' -fsS -m 5 -o /dev/null "http://$2/api/version" 2>&1 && echo yes)"
  echo "$1 sees $(timeout -k 1 10 docker exec "$1" nvidia-smi -L 2>&1 | tr '\\n' ' ' | head -c 3000)"
}}
running() {{
  timeout 15 docker ps --no-trunc --filter label=provision.instance --filter status=running \\
    --format '{{{{.ID}}}} {{{{.Ports}}}}'
}}
ours=$(running) || exit {SILENT}
# each line is asked about at once: what is no container of ours must not become a process
ours=$(printf '%s\\n' "$ours" | grep -E '^[0-9a-f]{{64}} ' | head -n {MOST})
[ -z "$ours" ] || command -v curl >/dev/null || {{ echo 'curl is not there to ask with' >&2; exit {NO_CURL}; }}
probes() {{
  while read -r id ports; do
    [ -z "$id" ] || probe "$id" "${{ports%%->*}}" &
  done <<ours
$ours
ours
  wait
}}
# the instances answer into the pipe while Docker is asked
probes | {{
  found=$(containers 2>/dev/null) || found=$(containers) || exit {SILENT}
  echo '# containers'; printf '%s\\n' "$found"
  echo '# images'; timeout 15 docker image ls --no-trunc --digests --format '{_IMAGE}' || exit {SILENT}
  echo '# volumes'; timeout 15 docker volume ls --format '{_VOLUME}' || exit {SILENT}
  echo '# pulled'; cat {MARKS}/* 2>/dev/null || :
  echo '# listening'; ss -Hltnp 2>/dev/null || :
  echo '# probes'; cat
  echo '# end'
}}
"""

COMMAND = Run(
    ("sh", "-s"), ("set -u\n" + SCRIPT.strip("\n") + "\n").encode(), READ_TIMEOUT + 40, title="look at Docker"
)


@dataclass(frozen=True)
class Listener:
    """A listening TCP socket.

    Args:
        address: what it is bound to, such as `0.0.0.0` or `[::]`.
        port: its port.
        program: the program's name, or empty.
    """

    address: str
    port: int
    program: str


@dataclass(frozen=True)
class Engine:
    """What Docker has on a host.

    Args:
        containers: name -> inspect's fields, under the names that `SCRIPT` gives them, and for running ones of ours
            `answers` (`yes`, or what came instead) and `sees` (what nvidia-smi says inside).
        images: reference (`repository:tag`, `repository@digest`) -> image id.
        volumes: name -> labels.
        pulled: the references of images that we pulled.
        listening: listening TCP sockets.
    """

    containers: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    images: Mapping[str, str] = field(default_factory=dict)
    volumes: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    pulled: tuple[str, ...] = ()
    listening: tuple[Listener, ...] = ()

    def image_id(self, reference: str) -> str:
        """The id that a reference stands for on this host, or an empty string."""
        return self.images.get(familiar(reference), "")


def fact(pick: Callable[[Engine], State]) -> Fact:
    """A fact about Docker; all of them share one command.

    Args:
        pick: the state out of what Docker has.
    """
    return Fact(COMMAND, lambda answer: pick(read(answer)))


def read(answer: Answer) -> Engine:
    """What the command found.

    Raises:
        BlockedError: the daemon does not answer, or there is nothing to ask the instances with.
        UnreadableError: the answer is not whole, or proves nothing.
    """
    if answer.exit in (SILENT, 124):
        raise BlockedError("service:docker", answer.complaint)
    if answer.exit == NO_CURL:
        raise BlockedError("packages:apt-tools", answer.complaint)
    if answer.exit:
        raise UnreadableError(answer.complaint or f"exit code {answer.exit}")
    return _parse(answer.stdout)


def read_live(live: Any) -> Engine:
    """The same, asked through testinfra: once for all steps of a verification.

    Args:
        live: testinfra's host.
    """
    said = asked_once(live, "sh -c %s", COMMAND.stdin.decode())
    return read(Answer(said.rc, said.stdout.encode(), said.stderr.encode()))


@lru_cache(maxsize=16)
def _parse(stdout: bytes) -> Engine:
    lines = stdout.decode(errors="replace").splitlines()
    if lines == ["# absent"]:
        return Engine()
    sections = _sections(lines)
    try:
        return Engine(
            containers=_containers(map(json.loads, sections["containers"]), sections["probes"]),
            images=_images([json.loads(line) for line in sections["images"]]),
            volumes={item["name"]: _labels(item["labels"]) for item in map(json.loads, sections["volumes"])},
            pulled=tuple(sections["pulled"]),
            listening=tuple(_listener(line) for line in sections["listening"]),
        )
    except (KeyError, ValueError, IndexError) as error:
        raise UnreadableError(f"Docker's answer is garbled ({type(error).__name__})") from None


def _sections(lines: list[str]) -> dict[str, list[str]]:
    sections: dict[str, list[str]] = {}
    current: list[str] = []
    for line in lines:
        if line.startswith("# "):
            current = sections.setdefault(line[2:], [])
        elif line.strip():
            current.append(line)
    if "end" not in sections:
        raise UnreadableError("Docker's answer ends early")
    return sections


_TOOK = re.compile(r" after \d+ m(s|illiseconds)\b")  # two reads of what does not answer are to be equal


def _containers(items: Iterable[dict[str, Any]], probes: list[str]) -> dict[str, dict[str, Any]]:
    said = {(words[0], words[1]): words[2] for words in ((line + "  ").split(" ", 2) for line in probes)}
    found = {item["name"].lstrip("/"): item for item in items}
    for item in found.values():
        item["sees"] = said.get((item["id"], "sees"), "").strip()
        item["answers"] = _TOOK.sub("", said.get((item["id"], "answers"), "")).strip()
    return found


def _images(rows: list[dict[str, str]]) -> dict[str, str]:
    found = {}
    for row in rows:
        for separator, part in ((":", row["tag"]), ("@", row["digest"])):
            if "<none>" not in (row["repository"], part) and part:
                found[f"{row['repository']}{separator}{part}"] = row["id"]
    return found


def _labels(text: str) -> dict[str, str]:
    return dict(item.partition("=")[::2] for item in text.split(",") if item)


def _listener(line: str) -> Listener:
    words = line.split()
    address, _, port = words[3].rpartition(":")
    program = words[5].partition('("')[2].partition('"')[0] if len(words) > 5 else ""
    return Listener(address.partition("%")[0], int(port), program)


def familiar(reference: str) -> str:
    """An image reference as Docker lists it: without its own registry and namespace, with a tag or only a digest.

    Args:
        reference: as in an inventory, such as `docker.io/ollama/ollama`.
    """
    name, _, digest = reference.partition("@")
    for prefix in ("docker.io/", "index.docker.io/", "library/"):
        name = name.removeprefix(prefix)
    head, slash, last = name.rpartition("/")
    last, colon, tag = last.partition(":")
    if digest:
        return f"{head}{slash}{last}@{digest}"
    return f"{head}{slash}{last}:{tag if colon else 'latest'}"
