"""Docker's containers, images, volumes and listening sockets on a host, read by one command for all steps.

Source: the fields of `docker inspect`, `--gpus` in HostConfig.DeviceRequests among them, docs/facts.md#docker-inspect.
"""

import base64
import importlib
import json
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache, lru_cache
from typing import Any

from provision.command import READ_TIMEOUT, Answer, Run, Script, look
from provision.steps import facts
from provision.steps.base import BlockedError, Fact, State, UnreadableError
from provision.steps.docker import card_look, card_path, gpu_processes, image_list, listeners, model_files, probe
from provision.steps.docker.gpu_processes import Application, Listing
from provision.steps.docker.image_list import familiar
from provision.steps.docker.listeners import Listener
from provision.steps.docker.probe import Probes
from provision.steps.live import read_once
from provision.steps.system import content

MANAGED = facts.MANAGED
NO_ANSWER = card_look.NO_ANSWER
PROBE = "provision.probe"  # label of a container that lives for one look at the cards, and belongs to no instance
MARKS = "/var/lib/provision/images"
SILENT, LEFT_OVER, NO_CURL, BABBLES = 75, 76, 77, 78
ANSWERS = 15  # seconds for the daemon to list its containers
SOCKET, _API = "/var/run/docker.sock", "http://docker"
MOST = 64  # instances of a host to ask; no host has more cards

# The environment of foreign containers is not ours to read, except the variable that gives a container cards.
CONTAINER = (
    '{"id":{{json .Id}},"name":{{json .Name}},"status":{{json .State.Status}},"image":{{json .Config.Image}},'
    '"started":{{json .State.StartedAt}},'
    '"image_id":{{json .Image}},"labels":{{json .Config.Labels}},"mounts":{{json .Mounts}},'
    f'"env":{{{{if index .Config.Labels "{MANAGED}"}}}}{{{{json .Config.Env}}}}{{{{else}}}}null{{{{end}}}},'
    '"visible":[{{range .Config.Env}}{{if eq (index (split . "=") 0) "NVIDIA_VISIBLE_DEVICES"}}{{json .}},{{end}}'
    '{{end}}null],"requests":{{json .HostConfig.DeviceRequests}},"ports":{{json .HostConfig.PortBindings}},'
    '"restart":{{json .HostConfig.RestartPolicy}},"memory":{{json .HostConfig.Memory}},'
    '"cpus":{{json .HostConfig.NanoCpus}},"pids":{{json .HostConfig.PidsLimit}},"log":{{json .HostConfig.LogConfig}},'
    '"privileged":{{json .HostConfig.Privileged}},"devices":{{json .HostConfig.Devices}},'
    '"runtime":{{json .HostConfig.Runtime}},'
    f'{{{{if index .Config.Labels "{MANAGED}"}}}}"host":{{{{json .HostConfig}}}},'
    '"config":{{json .Config}},{{end}}'
    '"networks":[{{range $name, $_ := .NetworkSettings.Networks}}{{json $name}},{{end}}null],'
    '"network_ids":[{{range .NetworkSettings.Networks}}{{json .NetworkID}},{{end}}null],'
    '"attached":[{{range .NetworkSettings.Networks}}[{{json .IPAddress}},{{json .Gateway}}],{{end}}null]}'
)
_IMAGE = '{"repository":{{json .Repository}},"tag":{{json .Tag}},"digest":{{json .Digest}},"id":{{json .ID}}}'
_IMAGE_CONFIG = '{"id":{{json .Id}},"config":{{json .Config}}}'
_VOLUME = '{"name":{{json .Name}},"labels":{{json .Labels}}}'


# All instances are asked at once whether they answer and still see their cards: a container can lose its cards while it
# runs (docs/facts.md#lost-cards), and only a look inside shows the loss.
# A daemon without an answer proves nothing; no client and no containers on disk prove absence. After the list of
# containers, the limit of the whole command is enough for the rest.
# A container may go between `ps` and `inspect`: the second attempt then lists anew.
def _script(probes: Probes) -> str:
    """The script that looks at Docker, and asks the instances of some engines."""
    fields = CONTAINER + probe.place(probes)
    return rf"""
{gpu_processes.SHELL.strip()}
if ! command -v docker >/dev/null 2>&1; then
  if [ -n "$(ls -A /var/lib/docker/containers 2>/dev/null)" ]; then
    echo 'there are containers in /var/lib/docker, but no docker client to read them' >&2; exit {LEFT_OVER}
  fi
  echo '# absent'; echo '# probes'; applications; echo '# end'; exit 0
fi
{facts.DOCKER_RUNS.strip()}
docker_runs || {{ echo 'docker.service is not running' >&2; exit {SILENT}; }}
containers() {{
  ids=$(timeout {ANSWERS} docker ps -aq --no-trunc) || {{
    [ $? -ne 124 ] || echo 'Docker does not answer (docker ps, {ANSWERS} s)' >&2
    exit {SILENT}
  }}
  case $ids in *[!0-9a-f"$nl"]*) echo 'docker ps prints what are no ids of containers' >&2; exit {BABBLES} ;; esac
  [ -z "$ids" ] || timeout {ANSWERS} docker inspect --type container --format '{fields}' $ids ||
    exit {SILENT}
}}
nl='
'
found=$(containers 2>/dev/null) || found=$(containers) || exit $?
ours=$(printf '%s\n' "$found" | sed -n 's/^@ //p')
case $nl$ours in *"${{nl}}running "*)
  command -v curl >/dev/null || {{ echo 'curl is not there to ask with' >&2; exit {NO_CURL}; }} ;;
esac
{probe.answers(probes)}
{card_look.SHELL.strip()}
{card_path.SHELL.strip()}
# Who lives in a scope of systemd's, and who makes Docker's cgroups by now: it may have been told otherwise since.
scope() {{
  while read -r line; do
    case $line in *"docker-$1.scope"*) ;; *) continue ;; esac
    printf '%s scope %s\n' "$1" "$(timeout {ANSWERS} docker info --format '{{{{.CgroupDriver}}}}' 2>/dev/null)"
    evidence "$1" | base64 -w 3000 | while read -r part; do printf '%s evidence %s\n' "$1" "$part"; done
    break
  done <"/proc/$2/cgroup"
}} 2>/dev/null
probes() {{
  asked=0
  applications &
  while read -r {probe.words(probes)}; do
    # each is asked by processes of its own: what is no container of ours must not become one
    case $status:$id in running:*[!0-9a-f]* | running:) continue ;; running:*) ;; *) continue ;; esac
    case $pid in *[!0-9]* | '') continue ;; esac
    asked=$((asked + 1)); [ $asked -le {MOST} ] || break
    answers "$id" "$at"{' "$engine"' if len(probes) > 1 else ""} &
    sees "$id" "$pid" &
    scope "$id" "$pid" &
  done <<ours
$ours
ours
  wait
}}
{model_files.shell(probes).strip()}
{content.STILL_DAMAGED.strip()}
# All images, volumes and networks, and the configuration of the images of our containers: a removed image has none.
# One call of Docker's API tells it all; where that cannot be called, three of its client do.
listed() {{
  ids=$(printf '%s\n' "$ours" | sed -nE 's/^([^ ]+ ){{4}}(sha256:[0-9a-f]+)( .*)?$/\2/p' | sort -u)
  urls={_API}/networks$(for id in $ids; do echo " {_API}/images/$id/json"; done)
  said=$(curl --noproxy '*' -sf -m {ANSWERS} -w '\n' --unix-socket {SOCKET} {_API}/images/json {_API}/volumes $urls)
  case $said in '['*"]$nl"*'{{"Volumes":'*) echo '# api'; printf '%s\n' "$said"; return ;; esac
  echo '# image configs'
  [ -z "$ids" ] || timeout {ANSWERS} docker image inspect --format '{_IMAGE_CONFIG}' $ids 2>/dev/null || :
  echo '# images'; docker image ls --no-trunc --digests --format '{_IMAGE}' || exit {SILENT}
  echo '# volumes'; docker volume ls --format '{_VOLUME}' || exit {SILENT}
  echo '# networks'; docker network inspect --format '{{{{json .}}}}' $(docker network ls -q) || exit {SILENT}
}}
# the instances answer into the pipe while Docker is asked
probes | {{
  echo '# containers'; printf '%s\n' "$found"
  listed
  echo '# pulled'; ls -1t {MARKS} 2>/dev/null | while IFS= read -r name; do cat -- {MARKS}/"$name"; done
  echo '# listening'; ss -Hltnp 2>/dev/null || :
  echo '# damaged'; damaged
  echo '# files'; files | base64 -w 0; echo
  echo '# probes'; cat
  echo '# end'
}}
"""


@cache
def command_for(probes: Probes) -> Run:
    """The command that looks at Docker.

    Args:
        probes: the probes of the engines whose instances are asked.
    """
    script = Script("docker/inspect", _script(probes))
    return look(script, title="look at Docker", timeout=READ_TIMEOUT + 60, slow=True)


def known_probes() -> Probes:
    """The probes of all engines. Engines are above this room, so this function finds them by name, as roles are
    found."""
    probes: Probes = importlib.import_module("provision.steps.engines").probes()
    return probes


def command() -> Run:
    """The command that all steps share."""
    return command_for(known_probes())


@dataclass(frozen=True)
class Docker:
    """Docker's state on a host.

    Args:
        containers: name -> inspect's fields, under the script's names. A running instance also has `answers` (`yes`, or
            the error), `sees` (nvidia-smi's output inside), `replies` (to `Probe.asks`, perhaps some missing), and
            `scope`: the present maker of Docker's cgroups, for a container in a scope of systemd's; else empty, and
            `loses`: why a daemon-reload takes the cards of such a container; empty for a safe container. A container
            of ours has `image_config`: the configuration of its image, or None where the image was removed.
        images: reference (`repository:tag`, `repository@digest`) -> image id.
        volumes: name -> labels.
        networks: name -> network, as in Docker's API.
        pulled: reference -> image id, of images that we pulled; the last pulled or replaced image comes first. The id
            is empty where an earlier version of provision pulled the image.
        listening: listening TCP sockets.
        files: path -> content, of manifests and marks in the folders of all instances.
        blobs: path -> size, of the blobs in the same folders.
        damaged: path -> sha256, of files whose bytes were found wrong by a hash and are unchanged since.
        listing: the processes that hold memory of cards; None where nvidia-smi gave no answer.
    """

    containers: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    images: Mapping[str, str] = field(default_factory=dict)
    volumes: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    networks: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    pulled: Mapping[str, str] = field(default_factory=dict)
    listening: tuple[Listener, ...] = ()
    files: Mapping[str, bytes] = field(default_factory=dict)
    blobs: Mapping[str, int] = field(default_factory=dict)
    damaged: Mapping[str, str] = field(default_factory=dict)
    listing: Listing | None = None

    @property
    def applications(self) -> tuple[Application, ...] | None:
        """The processes that hold memory of cards; None where nvidia-smi gave no answer."""
        return None if self.listing is None else self.listing.applications

    def image_id(self, reference: str) -> str:
        """The image id of a reference on this host, or an empty string."""
        return self.images.get(familiar(reference), "")

    def recorded_id(self, reference: str) -> str | None:
        """The id in the mark of a pulled image: empty in a mark of an earlier version, None without a mark."""
        known = {familiar(name): image_id for name, image_id in reversed(tuple(self.pulled.items()))}
        return known.get(familiar(reference))

    def used_ids(self, reference: str) -> set[str]:
        """The ids of the images from which our containers were made by a reference."""
        ours = [item for item in self.containers.values() if (item["labels"] or {}).get(MANAGED) == "1"]
        return {item["image_id"] for item in ours if familiar(item["image"]) == familiar(reference)}

    def pulled_id(self, reference: str) -> str:
        """The id of the image that we pulled by a reference, whatever the tag names now; empty if unknown.

        Where an earlier version pulled the image, our containers know the id, because they were made from the image.
        """
        recorded, used = self.recorded_id(reference), self.used_ids(reference)
        return used.pop() if recorded == "" and len(used) == 1 else recorded or ""


def fact(pick: Callable[[Docker], State]) -> Fact:
    """A fact about Docker; all facts about Docker share a command.

    Args:
        pick: takes the state from Docker's.
    """
    return Fact(command(), lambda answer: pick(read(answer)))


def read(answer: Answer) -> Docker:
    """Parse the answer to the command.

    Raises:
        BlockedError: the daemon does not answer, or a program for asking the instances is missing.
        UnreadableError: the answer is not whole, or proves nothing.
    """
    if answer.exit in (SILENT, 124):
        raise BlockedError("service:docker", answer.complaint)
    if answer.exit == NO_CURL:
        raise BlockedError("packages:apt-tools", answer.complaint)
    if answer.exit:
        raise UnreadableError(answer.complaint or f"exit code {answer.exit}")
    return _parse(answer.stdout, known_probes())


def read_live(live: Any) -> Docker:
    """Docker's state in a verification, from the read of its plan, for all steps.

    Args:
        live: testinfra's host.
    """
    return read(read_once(live, command()))


def places(answer: Answer) -> tuple[tuple[str, ...] | None, tuple[facts.Attachment, ...]]:
    """`ADDRESS:PORT` of our containers, also of stopped containers, and the places of the running ones in networks;
    None and nothing where Docker cannot be read.

    Args:
        answer: answer to `command()`.

    Raises:
        BlockedError: the places are known only after another step.
    """
    try:
        containers = read(answer).containers
    except UnreadableError:
        return None, ()
    ours = {name: item for name, item in containers.items() if (item["labels"] or {}).get(MANAGED) == "1"}
    networks = (
        (name, *map(str, place)) for name, item in ours.items() for place in item.get("attached") or () if place
    )
    return _published(ours.values()), facts.attachments(networks)


def foreign(answer: Answer) -> Mapping[str, int] | None:
    """Return UUID of a card -> MiB that processes outside of our containers hold there, as far as nvidia-smi tells;
    None where nvidia-smi gave no answer.

    Args:
        answer: answer to `command()`.

    Raises:
        BlockedError: the processes are known only after another step.
    """
    try:
        docker = read(answer)
    except UnreadableError:
        return None
    if docker.applications is None:
        return None
    ours = {name for name, item in docker.containers.items() if (item["labels"] or {}).get(MANAGED) == "1"}
    held: dict[str, int] = defaultdict(int)
    for process in docker.applications:
        if process.container not in ours:
            held[process.card] += process.mib or 0
    return held


def _published(ours: Iterable[Mapping[str, Any]]) -> tuple[str, ...]:
    places = (place for item in ours for bound in (item["ports"] or {}).values() for place in bound or ())
    pairs = ((place.get("HostIp"), place.get("HostPort")) for place in places)
    return tuple(sorted({f"{address}:{port}" for address, port in pairs if address and port}))


@lru_cache(maxsize=16)
def _parse(stdout: bytes, probes: Probes) -> Docker:
    # names may hold a character that only Python takes for the end of a line
    lines = stdout.decode(errors="replace").split("\n")
    sections = _sections(lines)
    try:
        if "absent" in sections:
            return Docker(listing=gpu_processes.parse(_outputs(sections["probes"])["host", "applications"], {}))
        outputs = _outputs(sections["probes"])
        images, volumes, configs = image_list.parse(sections)
        containers = _containers(sections["containers"], configs, outputs)
        names = {item["id"]: name for name, item in containers.items()}
        files, blobs = model_files.parse(base64.b64decode("".join(sections["files"])), probes)
        return Docker(
            containers=containers,
            images=images,
            volumes=volumes,
            networks=image_list.networks(sections),
            pulled=dict((line + " ").split(" ")[:2] for line in sections["pulled"]),
            listening=tuple(listeners.parse(line) for line in sections["listening"]),
            files=files,
            blobs=blobs,
            damaged=content.parse_record(sections.get("damaged", ())),
            listing=gpu_processes.parse(outputs["host", "applications"], names),
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


_TOOK = re.compile(r" after \d+ m(s|illiseconds)\b")  # two reads of a silent server must be equal
# A body, then curl's report of the transfer.
_TRANSFER = re.compile(r"(.*?)\n(\d+) \d{3} ([^\n]*)\n", re.DOTALL)


def _outputs(probes: Iterable[str]) -> Mapping[tuple[str, str], str]:
    """The probes' output about a container, or about the host: its parts joined, empty without output."""
    outputs: dict[tuple[str, str], str] = defaultdict(str)
    for container, what, text in ((line + "  ").split(" ", 2) for line in probes):
        outputs[container, what] += text.strip()
    return outputs


def _containers(
    lines: Iterable[str], images: Mapping[str, Any], outputs: Mapping[tuple[str, str], str]
) -> dict[str, dict[str, Any]]:
    items = [json.loads(line) for line in lines if not line.startswith("@ ")]
    for item in items:
        item["image_config"] = images.get(item.get("image_id"))
        item["sees"] = outputs[item["id"], "sees"]
        item["scope"] = outputs[item["id"], "scope"]
        item["loses"] = _loses(outputs[item["id"], "evidence"]) if item["scope"] else ""
        item.update(_api(outputs[item["id"], "api"]))
    return {item["name"].lstrip("/"): item for item in items}


def _loses(text: str) -> str:
    """The path of the cards and the reason why a daemon-reload takes the cards, or empty."""
    lines = base64.b64decode(text).decode(errors="replace").splitlines()
    path, reason = card_path.judge(lines, asked=True)
    return f"cards by {path}: {reason}" if reason else ""


def _api(text: str) -> dict[str, Any]:
    """The parsed answer of an instance. An instance that forges curl's report lies about itself alone."""
    transfers = _TRANSFER.findall(base64.b64decode(text).decode(errors="replace"))
    errors = [f"curl: ({code}) {_TOOK.sub('', error)}".strip() for _, code, error in transfers if code != "0"]
    answers = "" if not transfers else errors[0] if transfers[0][1] != "0" else "yes"
    bodies = [body for body, code, _ in transfers[1:] if code == "0"]
    return {"answers": answers, "replies": (*bodies, *errors)}
