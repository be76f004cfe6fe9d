"""What the Ollama servers of a host say and have on disk: one read for all models of all instances.

Sources: `/api/tags` and `/api/ps`, FACTS 4.3; the layout of a models folder, FACTS 4.6; a blob that is on disk is never
looked at again by Ollama, FACTS 4.4.
"""

import base64
import binascii
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from provision.command import READ_TIMEOUT, Answer, Run
from provision.steps.base import BlockedError, UnreadableError, asked_once
from provision.steps.engine import NO_CURL, SILENT

MARKS = "provision-models"  # folder beside `models/`: one file for each model that we pulled, with its name in it
DEFAULT_REGISTRY, DEFAULT_SPACE, DEFAULT_TAG = "registry.ollama.ai", "library", "latest"

# Five lines for each container: name, status, address:port, folder of its models, two of its variables. None of them
# holds a line break.
LIST = (
    '{{slice .Name 1}} {{index .Config.Labels "provision.instance"}}{{println}}{{.State.Status}}{{println}}'
    '{{with index .HostConfig.PortBindings "11434/tcp"}}{{with index . 0}}{{.HostIp}}:{{.HostPort}}{{end}}{{end}}'
    '{{println}}{{range .Mounts}}{{if eq .Destination "/root/.ollama"}}{{.Source}}{{end}}{{end}}{{println}}'
    '{{range .Config.Env}}{{$name := index (split . "=") 0}}'
    '{{if or (eq $name "OLLAMA_KEEP_ALIVE") (eq $name "OLLAMA_MAX_LOADED_MODELS")}}{{.}} {{end}}{{end}}'
)
SCRIPT = rf"""
command -v docker >/dev/null 2>&1 || {{ echo '# end'; exit 0; }}
encode='for file do printf "%s %s " "$0" "$file"; base64 -w0 <"$file"; echo; done'
if [ -d /run/systemd/system ] && ! systemctl -q is-active docker.service; then
  echo 'docker.service is not running' >&2; exit {SILENT}
fi
ids=$(timeout 15 docker ps -aq --no-trunc --filter label=provision.instance) || exit {SILENT}
echo '# volumes'; timeout 15 docker volume ls -q || exit {SILENT}
[ -n "$ids" ] || {{ echo '# end'; exit 0; }}
command -v curl >/dev/null || {{ echo 'curl is not there to ask with' >&2; exit {NO_CURL}; }}
list=$(timeout 15 docker inspect --type container --format '{LIST}' $ids) || exit {SILENT}
printf '%s\n' "$list" | while
  read -r name label && IFS= read -r status && IFS= read -r at && IFS= read -r folder && IFS= read -r told; do
  [ "$name" = "$label" ] || continue # one that was renamed by hand is no instance any more
  echo '# instance'; printf '%s\n%s\n%s\n%s\n%s\n' "$name" "$status" "$at" "$told" "$folder"
  if [ "$status" = running ]; then
    for what in tags ps; do
      said=$(curl --noproxy '*' -fsS -m 8 "http://$at/api/$what" 2>&1) || echo "$name: $said" >&2
      printf 'api %s ' "$what"; printf '%s' "$said" | base64 -w0; echo
    done
  fi
  [ -n "$folder" ] && cd "$folder" 2>/dev/null || continue
  find models/manifests -type f -exec sh -c "$encode" manifest {{}} + 2>/dev/null
  find models/blobs -maxdepth 1 -type f -name 'sha256-*' -printf 'blob %f %s\n' 2>/dev/null
  find {MARKS} -maxdepth 1 -type f -exec sh -c "$encode" mark {{}} + 2>/dev/null
done
echo '# end'
"""
COMMAND = Run(
    ("sh", "-s"), ("set -u\n" + SCRIPT.strip("\n") + "\n").encode(), READ_TIMEOUT + 60, title="ask the Ollama servers"
)


@dataclass(frozen=True)
class Server:
    """One instance.

    Args:
        status: of its container.
        at: address and port.
        folder: where its models are on the host.
        keeps: whether what is loaded stays so (OLLAMA_KEEP_ALIVE is negative).
        limit: how many models it may have loaded (OLLAMA_MAX_LOADED_MODELS).
        tags: model name -> entry of `/api/tags`; None where the server did not answer.
        loaded: model name -> entry of `/api/ps`; None where the server did not answer.
        error: what it said instead.
        manifests: path below `models/manifests` -> manifest.
        blobs: blob file -> size.
        marked: models that we pulled.
    """

    status: str
    at: str = ""
    folder: str = ""
    keeps: bool = False
    limit: int = 0
    tags: Mapping[str, Mapping[str, Any]] | None = None
    loaded: Mapping[str, Mapping[str, Any]] | None = None
    error: str = ""
    manifests: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    blobs: Mapping[str, int] = field(default_factory=dict)
    marked: tuple[str, ...] = ()

    def damage(self, model: str) -> str:
        """The first blob of a model that is missing or has another size, or an empty string."""
        manifest = self.manifests.get(manifest_path(model), {})
        for layer in [manifest.get("config") or {}, *(manifest.get("layers") or ())]:
            name = str(layer.get("digest", "")).replace(":", "-")
            if name and self.blobs.get(name) != layer.get("size"):
                return name
        return ""


@dataclass(frozen=True)
class Servers:
    """Every instance of a host.

    Args:
        by_name: instance -> what it says and has.
        volumes: names of all volumes.
    """

    by_name: Mapping[str, Server] = field(default_factory=dict)
    volumes: frozenset[str] = frozenset()

    def answering(self, name: str) -> Server:
        """An instance that answers.

        Raises:
            BlockedError: its container is not there, does not run, or is ill.
        """
        server = self.by_name.get(name)
        if server is None or server.status != "running":
            raise BlockedError(f"container:{name}", f"{name} is {server.status if server else 'not there'}")
        if server.tags is None or server.loaded is None:
            raise BlockedError(f"container:{name}", f"{name} does not answer on {server.at}: {server.error}")
        return server


def read(answer: Answer) -> Servers:
    """What the command found.

    Raises:
        BlockedError: the Docker daemon does not answer, or there is nothing to ask the servers with.
        UnreadableError: the answer is not whole.
    """
    if answer.exit in (SILENT, 124):
        raise BlockedError("service:docker", answer.complaint)
    if answer.exit == NO_CURL:
        raise BlockedError("packages:apt-tools", answer.complaint)
    if answer.exit:
        raise UnreadableError(answer.complaint or f"exit code {answer.exit}")
    return _parse(answer.stdout)


def read_live(live: Any, *, anew: bool = False) -> Servers:
    """The same, asked through testinfra: once for all steps of a verification.

    Args:
        live: testinfra's host.
        anew: whether to see what a check has done since.
    """
    words = ("sh -c %s", COMMAND.stdin.decode())
    said = live.run(*words) if anew else asked_once(live, *words)
    return read(Answer(said.rc, said.stdout.encode(), said.stderr.encode()))


@lru_cache(maxsize=16)
def _parse(stdout: bytes) -> Servers:
    head, *blocks = re.split(r"^# instance\n", stdout.decode(errors="replace"), flags=re.MULTILINE)
    if not stdout.endswith(b"# end\n"):
        raise UnreadableError("the servers' answer ends early")
    try:
        servers = dict(_server(block.removesuffix("# end\n").splitlines()) for block in blocks)
    except (ValueError, binascii.Error, KeyError, TypeError, AttributeError):
        raise UnreadableError("the servers' answer is garbled") from None
    return Servers(servers, frozenset(head.splitlines()) - {"# volumes", "# end"})


def _server(lines: list[str]) -> tuple[str, Server]:
    name, status, at, told, folder, *rest = lines
    variables = dict(word.partition("=")[::2] for word in told.split())
    tags, tags_error = _api(rest, "tags")
    loaded, loaded_error = _api(rest, "ps")
    return name, Server(
        status=status,
        at=at,
        folder=folder,
        keeps=variables.get("OLLAMA_KEEP_ALIVE", "").startswith("-"),
        limit=int(variables.get("OLLAMA_MAX_LOADED_MODELS", "0")),
        tags=tags,
        loaded=loaded,
        error=tags_error or loaded_error,
        manifests=dict(_manifest(line) for line in rest if line.startswith("manifest ")),
        blobs={line.split()[1]: int(line.split()[2]) for line in rest if line.startswith("blob ")},
        marked=tuple(sorted(_decoded(line.split(" ")[2]).strip() for line in rest if line.startswith("mark "))),
    )


def _api(lines: list[str], what: str) -> tuple[Mapping[str, Mapping[str, Any]] | None, str]:
    """The models by name, or None and what came instead."""
    body = next((_decoded(line.split(" ", 2)[2]) for line in lines if line.startswith(f"api {what} ")), "")
    try:
        return {canonical(item["name"]): item for item in json.loads(body)["models"] or ()}, ""
    except (ValueError, KeyError, TypeError):
        return None, body[:300].strip() or "no answer"


def _manifest(line: str) -> tuple[str, Mapping[str, Any]]:
    """Path and content; a file that is no manifest is one without layers, so that its blobs are found missing."""
    _, path, content = line.split(" ") if line.count(" ") == 2 else ("", "", "")
    try:
        found = json.loads(_decoded(content))
    except ValueError:
        found = {"config": {"digest": "unreadable-manifest"}}
    return path.removeprefix("models/manifests/"), found if isinstance(found, dict) else {}


def _decoded(text: str) -> str:
    return base64.b64decode(text).decode(errors="replace")


def parts(model: str) -> tuple[str, str, str, str]:
    """Registry, namespace, name and tag of a model, with Ollama's defaults (types/model/name.go)."""
    path, name = model.rpartition("/")[::2]
    name, _, tag = name.partition(":")
    registry, space = path.rpartition("/")[::2]
    return registry or DEFAULT_REGISTRY, space or DEFAULT_SPACE, name, tag or DEFAULT_TAG


def canonical(model: str) -> str:
    """A model's name as `/api/tags` shows it: without defaults, but with its tag."""
    registry, space, name, tag = parts(model)
    if registry != DEFAULT_REGISTRY:
        return f"{registry}/{space}/{name}:{tag}"
    return f"{name}:{tag}" if space == DEFAULT_SPACE else f"{space}/{name}:{tag}"


def manifest_path(model: str) -> str:
    """Where a model's manifest is below `models/manifests`."""
    return "/".join(parts(model))
