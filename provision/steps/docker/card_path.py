"""The path by which each running container got its cards, and whether a daemon-reload would take the cards. Pure.

Only a container in a scope of systemd's can lose cards: a daemon-reload writes the scope's list of devices anew, from
what systemd knows. The OCI configuration, which the runtime was started with, shows the path. Docker's own
configuration of a container does not: Engine 29 tries CDI, and falls back to the hook without a word in
`docker inspect`.

Sources, read in Go modules:

* hook: moby v2.0.0-beta.24 `daemon/devices_nvidia_linux.go` adds the prestart hook `nvidia-container-runtime-hook` and
  `NVIDIA_VISIBLE_DEVICES=IDS`, and no node; the same since Docker 19.03. nvidia-container-toolkit v1.20.2
  `internal/modifier/stable.go` does so for the runtime `nvidia` in mode `legacy`.
* CDI: `daemon/cdi.go` of moby, and nvidia-container-toolkit `internal/modifier/cdi.go`, which writes the file of the
  bundle anew (`internal/oci/spec_file.go`): the nodes are in `linux.devices`, and the specification sets
  `NVIDIA_VISIBLE_DEVICES=void` (`cmd/nvidia-ctk/cdi/generate/generate_test.go`). `hook_remover.go` takes the hook out.
* systemd's list: opencontainers/cgroups v0.1.0 `devices/systemd.go` gives every node of `linux.devices` to systemd, and
  DevicePolicy `auto` for a privileged container. runc 1.1.5 `libcontainer/cgroups/systemd/common.go` leaves out a node
  without an entry in /dev/char and /sys/dev/char, and NVIDIA's driver makes no entry. So a path by CDI alone proves
  nothing, and systemd is asked for its list. runc 1.1.5 `specconv/spec_linux.go` puts `char-* m` into every list: a
  container may make any node, and open none by that entry.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from provision.steps.docker.card_look import BUNDLES
from provision.steps.facts import MANAGED

NO_CDI = re.compile(r"unresolvable CDI devices|failed to stat CDI host device|CDI device injection failed")
"""Errors of a CDI file that is missing, or older than the nodes of the cards: tags.cncf.io/container-device-interface
v1.1.1 `pkg/cdi/cache.go` and `container-edits_unix.go`; moby `daemon/cdi.go`."""
NO_DIRECT_HOOK = re.compile(r"invoking the NVIDIA Container Runtime Hook directly .* is not supported")
"""Error of nvidia-container-toolkit v1.20.2 `cmd/nvidia-container-runtime-hook/hook_config.go`: NVIDIA's configuration
demands CDI, and Docker came by the hook."""
MOST = 256  # scopes to look at
ANSWERS = 15  # seconds for systemd, and for Docker
CDI, HOOK, OTHER, UNKNOWN = "CDI", "NVIDIA's hook", "--device or --privileged", "an unknown path"

_HOOK = "nvidia-container-(runtime-hook|toolkit)"
# `evidence` takes the id of a container in a scope of systemd's. `scopes` asks Docker for names if $1 is active:
# docker.socket would start a stopped daemon. A host whose containers live in no such scope starts grep alone. A quote
# inside a JSON text is escaped, so no value can forge these patterns.
SHELL = rf"""
bundles={BUNDLES}
evidence() {{
  timeout {ANSWERS} systemctl show --no-pager --property=DevicePolicy,DeviceAllow "docker-$1.scope" || :
  grep -oE '"ociVersion"|"path":"[^"]*/{_HOOK}"|"NVIDIA_VISIBLE_DEVICES=[^"]*"|"path":"/dev/nvidia[^}}]*' \
    "$bundles/$1/config.json" | head -c 20000
}} 2>/dev/null
"""
_DOCKER = (
    '{"id":{{json .Id}},"name":{{json .Name}},"requests":{{json .HostConfig.DeviceRequests}},'
    f'"runtime":{{{{json .HostConfig.Runtime}}}},"managed":{{{{json (index .Config.Labels "{MANAGED}")}}}}}}'
)
ALL = rf"""
{SHELL.strip()}
scopes() {{
  ids=$(grep -hsoE 'docker-[0-9a-f]{{64}}[.]scope' /proc/[0-9]*/cgroup) || [ -n "$ids" ] || return 0
  ids=$(printf '%s\n' "$ids" | sort -u | head -n {MOST} | cut -c8-71)
  for id in $ids; do echo "@ $id"; evidence "$id"; done
  [ "$1" != active ] || timeout {ANSWERS} docker inspect --type container --format '{_DOCKER}' $ids 2>/dev/null
}}
"""


@dataclass(frozen=True)
class Given:
    """A running container with cards, in a scope of systemd's.

    Args:
        name: name of the container; the start of its id where Docker gave no name.
        ours: whether provision made the container. A container without a name counts as ours.
        path: `CDI`, `HOOK`, `OTHER` or `UNKNOWN`.
        reason: the evidence that the container loses its cards at a daemon-reload; empty for a safe container.
    """

    name: str
    ours: bool
    path: str
    reason: str = ""

    @property
    def words(self) -> str:
        """The container, the path, and the evidence."""
        return f"{self.name} (cards by {self.path}: {self.reason})" if self.reason else f"{self.name} (by {self.path})"


CURE = (
    "cure: with docker.cgroup_driver: auto or cgroupfs a deploy makes our containers safe; a container of somebody else"
    " has to be made anew, by --device nvidia.com/gpu=UUID or after the change to cgroupfs"
)


def listed(given: Iterable[Given]) -> str:
    """Return the words for containers: four by name, and the number of the rest."""
    words = [each.words for each in given]
    more = [f"{len(words) - 4} more"] if len(words) > 4 else []
    return ", ".join([*words[:4], *more])


def parse(text: str) -> tuple[Given, ...]:
    """Return the containers with cards in scopes of systemd's, by name.

    Args:
        text: output of `scopes`.
    """
    parts: dict[str, list[str]] = {}
    known: dict[str, Mapping[str, Any]] = {}
    own: list[str] = []
    for line in text.splitlines():
        if line.startswith("@ "):
            own = parts.setdefault(line[2:], [])
        elif line.startswith('{"id":'):
            item = json.loads(line)
            known[item["id"]] = item
        else:
            own.append(line)
    named = bool(known)  # Docker answered: a scope that Docker does not know belongs to another Docker
    found = (_given(key, lines, known.get(key), named=named) for key, lines in parts.items())
    return tuple(sorted((each for each in found if each is not None), key=lambda each: each.name))


def _given(key: str, lines: list[str], item: Mapping[str, Any] | None, *, named: bool) -> Given | None:
    if item is None and named:
        return None
    asked = item is None or bool(item["requests"])
    path, reason = judge(lines, asked=asked, nvidia=item is not None and item["runtime"] == "nvidia")
    if not path:
        return None
    if item is None:
        return Given(key[:12], ours=True, path=path, reason=reason)
    return Given(item["name"].lstrip("/"), ours=item["managed"] == "1", path=path, reason=reason)


def judge(lines: Iterable[str], *, asked: bool, nvidia: bool = False) -> tuple[str, str]:
    """Return the path of a container in a scope of systemd's, and why a daemon-reload takes the cards.

    Args:
        lines: output of `evidence`.
        asked: whether Docker was asked for cards.
        nvidia: whether the container has NVIDIA's runtime, which takes NVIDIA_VISIBLE_DEVICES for a request.

    Returns:
        An empty path for a container without cards, and an empty reason for a safe container.
    """
    found = _Evidence.of(lines)
    if not found.whole:
        return (UNKNOWN, "the runtime's config.json is not readable") if asked or nvidia else ("", "")
    if found.hook and found.cards:
        reason = "" if found.unlimited else "systemd does not know the nodes"
        return HOOK, reason
    if not found.nodes:
        words = "the runtime's config.json names neither a node nor the hook"
        return (UNKNOWN, words) if asked or (nvidia and found.cards) else ("", "")
    return (CDI if found.void else OTHER), found.missing


@dataclass(frozen=True)
class _Evidence:
    """The parsed evidence: whether config.json was read, the hook, NVIDIA_VISIBLE_DEVICES, nodes, systemd's list."""

    whole: bool
    hook: bool
    visible: str
    nodes: Mapping[str, str]
    policy: str
    allowed: frozenset[str]

    @classmethod
    def of(cls, lines: Iterable[str]) -> "_Evidence":
        text = "\n".join(lines)
        values = re.findall(r'"NVIDIA_VISIBLE_DEVICES=([^"]*)"', text)
        policies = re.findall(r"^DevicePolicy=(\S+)", text, re.MULTILINE)
        return cls(
            whole='"ociVersion"' in text,
            hook=re.search(rf'"path":"[^"]*/{_HOOK}"', text) is not None,
            visible=values[-1] if values else "",  # the last value of a variable counts
            nodes=dict(_nodes(text)),
            policy=policies[0] if policies else "",
            allowed=frozenset(re.findall(r"^DeviceAllow=(\S+) rw", text, re.MULTILINE)),
        )

    @property
    def unlimited(self) -> bool:
        """Whether systemd allows every device: `auto` without an entry, systemd.resource-control(5)."""
        return self.policy == "auto" and not self.allowed

    @property
    def void(self) -> bool:
        return self.visible == "void"

    @property
    def cards(self) -> bool:
        """Whether the hook gives cards."""
        return self.visible not in ("", "void", "none")

    @property
    def missing(self) -> str:
        """Why systemd would take a node of the configuration; empty if systemd knows all nodes."""
        if self.unlimited:
            return ""
        if not self.policy:
            return "systemd does not tell its list of devices"
        unknown = [node for node, number in sorted(self.nodes.items()) if not self._knows(node, number)]
        return f"systemd's list of devices lacks {', '.join(unknown[:4])}" if unknown else ""

    def _knows(self, node: str, number: str) -> bool:
        major = number.partition(":")[0]
        return not self.allowed.isdisjoint((node, f"/dev/char/{number}", f"char-{major}", "char-*"))


def _nodes(text: str) -> Iterator[tuple[str, str]]:
    """Yield path and MAJOR:MINOR of the character devices of NVIDIA's in `linux.devices`."""
    for path, rest in re.findall(r'"path":"(/dev/nvidia[^"]*)",([^}\n]*)', text):
        numbers = [re.search(rf'"{key}":(\d+)', rest) for key in ("major", "minor")]
        yield path, ":".join(match[1] if match else "?" for match in numbers)
