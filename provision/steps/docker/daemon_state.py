"""Reading Docker's daemon: its unit, its configuration, and the part that the daemon has loaded. One command for all.

Our drop-in for docker.service records, in /run/provision/docker, the configuration that the daemon read at its start
and at its last reload, so that work left undone by a failed run is still seen. A daemon that started before the drop-in
existed left no such record; then a daemon.json older than the daemon must be the loaded file.

A package may replace the program and leave the daemon running (docs/facts.md#docker-reload). The kernel then names the
program of the process `PATH (deleted)`: proc_pid_exe(5). A unit may start a shell that starts dockerd: the program of
such a shell tells nothing about Docker.

Source: the keys that a reload applies, and the registration of the GPU driver at the daemon's start,
docs/facts.md#docker-reload.
"""

import base64
import binascii
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from provision.command import Answer, Script, look
from provision.steps.base import UnreadableError
from provision.steps.docker import card_path
from provision.steps.docker.card_path import Given

CONFIG = "/etc/docker/daemon.json"
NOTES = "/run/provision/docker"
PROXY = "/etc/provision/docker/proxy.env"
STATE = "/var/lib/provision/docker"
UNITS = "/etc/systemd/system"
HOOK = "nvidia-container-runtime-hook"

RELOADABLE = frozenset(
    {
        "allow-nondistributable-artifacts",
        "authorization-plugins",
        "debug",
        "default-runtime",
        "features",
        "insecure-registries",
        "labels",
        "live-restore",
        "max-concurrent-downloads",
        "max-concurrent-uploads",
        "max-download-attempts",
        "registry-mirrors",
        "runtimes",
        "shutdown-timeout",
    }
)

_INFO = (
    '{"live_restore":{{json .LiveRestoreEnabled}},"driver":{{json .CgroupDriver}},"version":{{json .ServerVersion}},'
    '"running":{{json .ContainersRunning}},"swarm":{{json .Swarm.LocalNodeState}}}'
)

# Beside an error the client prints empty fields: 28.5.2 with exit code 1 without a daemon, and with exit code 0 where
# the daemon refuses the client as too old (measured). An error sorts before the fields' brace.
ASKED = f"""
info=$(timeout 15 docker info --format '{_INFO}' 2>&1 | grep . | sort | head -n 1)
case $info in
  '{{'*) echo "info=$info" ;;
  *) echo "silent=${{info:-nothing came within 15 s}}" ;;
esac
"""

# A stopped daemon is not asked: docker.socket would start it, and a read must change nothing.
SCRIPT = Script(
    "docker/read-daemon",
    f"""
keys=LoadState,ActiveState,SubState,UnitFileState,InvocationID,MainPID
keys=$keys,FragmentPath,DropInPaths,EnvironmentFiles,ExecStart,NeedDaemonReload
unit=$(systemctl show --no-pager --property="$keys" docker.service) || exit
printf '%s\\n' "$unit"
pid=0 active='' files='' unread=''
while IFS='=' read -r key value; do
  case $key in
    MainPID) pid=$value ;;
    ActiveState) active=$value ;;
    FragmentPath | DropInPaths) files="$files $value" ;;
    EnvironmentFiles) files="$files ${{value%% (*}}" ;;
    NeedDaemonReload) [ "$value" != yes ] || unread='{UNITS}/docker.service {UNITS}/docker.service.d/*.conf' ;;
    LoadState) [ "$value" != not-found ] || files=/etc/default/docker ;;
  esac
done <<unit
$unit
unit
encoded() {{ if [ -f "$2" ]; then printf '%s=%s\\n' "$1" "$(base64 -w0 <"$2")"; fi; }}
encoded config {CONFIG}
encoded ours {STATE}/ours.json
encoded started_with {NOTES}/started-with.json
encoded loaded {NOTES}/loaded.json
encoded invocation {NOTES}/invocation
encoded hook_at_start {NOTES}/hook
[ ! -f {CONFIG} ] || stat -c 'config_mode=%a
config_changed=%Z' {CONFIG}
[ ! -f {PROXY} ] || echo "proxy=$(sha256sum <{PROXY} | cut -c1-64) $(stat -c '%a %U:%G' {PROXY})"
[ ! -f {NOTES}/proxy ] || echo "proxy_loaded=$(cut -c1-64 {NOTES}/proxy)"
hook=$(command -v {HOOK}) && echo "hook_changed=$(stat -L -c %Z "$hook")"
at=/proc/$pid
if [ "$pid" -gt 0 ] 2>/dev/null && [ -r "$at/stat" ]; then
  read -r stat <"$at/stat"
  set -- ${{stat##*) }}
  ticks=${{20}}
  echo "started=$(awk -v t="$ticks" -v hz="$(getconf CLK_TCK)" '/^btime/{{printf "%d", $2 + t / hz}}' /proc/stat)"
  encoded words "$at/cmdline"
  echo "program=$(readlink "$at/exe")"
fi
for path in $unread; do
  case " $files " in *" $path "*) ;; *) files="$files $path" ;; esac
done
texts() {{ for path in $files; do echo "# $path"; cat -- "$path"; done; }}
printf 'unit=%s\\n' "$(texts 2>/dev/null | base64 -w0)"
if [ "$active" = active ]; then
{ASKED.strip()}
fi
{card_path.ALL.strip()}
given=$(scopes "$active") || :
[ -z "$given" ] || printf 'given=%s\n' "$(printf '%s\n' "$given" | base64 -w0)"
echo end=
""",
)

COMMAND = look(SCRIPT, title="look at Docker's daemon")


@dataclass(frozen=True)
class Dockerd:
    """Docker's daemon on a host.

    Args:
        installed: whether there is a docker.service.
        unit: properties of the unit.
        config: bytes of daemon.json, or None without the file.
        config_mode: permission bits of the file, four octal digits.
        ours: the keys that we wrote last time, as JSON text; empty where we never wrote any.
        started_with: daemon.json as the running daemon read it at its start, if recorded for this start; else None.
        loaded: daemon.json as the daemon read it at its last start or reload, under the same condition.
        proxy: hash, permission bits and owner of our file with Docker's proxy; empty without the file.
        proxy_loaded: hash of that file when the running daemon started; empty without the file, or without a record.
        config_is_older: whether daemon.json has not changed since the daemon started.
        hook: whether the running daemon found the NVIDIA hook at its start; None where there is no hook at all.
        words: the daemon's program and flags.
        replaced: whether the daemon's program on the disk is another than at the daemon's start.
        texts: file -> text, of every file that may give the daemon flags; the first line is the path.
        info: answer of the daemon's `docker info`; empty where the daemon does not run.
        silent: error of a running daemon that does not answer.
        given: the running containers with cards in scopes of systemd's, also those that others made.
    """

    installed: bool
    unit: Mapping[str, str] = field(default_factory=dict)
    config: bytes | None = None
    config_mode: str = "0644"
    ours: str = ""
    started_with: bytes | None = None
    loaded: bytes | None = None
    proxy: tuple[str, ...] = ()
    proxy_loaded: str = ""
    config_is_older: bool = True
    hook: bool | None = None
    words: tuple[str, ...] = ()
    replaced: bool = False
    texts: Mapping[str, str] = field(default_factory=dict)
    info: Mapping[str, Any] = field(default_factory=dict)
    silent: str = ""
    given: tuple[Given, ...] = ()

    @property
    def at_risk(self) -> tuple[Given, ...]:
        """The containers that lose their cards at a daemon-reload."""
        return tuple(each for each in self.given if each.reason)

    @property
    def by_cdi(self) -> bool:
        """Whether our containers, or all containers where none is ours, prove that Docker gives cards by CDI, and that
        systemd knows the nodes. A container of somebody else may be on another path for a reason of its own."""
        own = [each for each in self.given if each.ours] or self.given
        return any(each.path == card_path.CDI for each in own) and not any(each.reason for each in own)

    @property
    def running(self) -> bool:
        """Whether systemd calls the daemon running."""
        return self.unit.get("ActiveState") in ("active", "reloading")


def read(answer: Answer, *, silent: bool = False) -> Dockerd:
    """Parse the answer to `COMMAND`.

    Args:
        answer: answer to the command.
        silent: whether a running daemon without an answer is acceptable.

    Raises:
        UnreadableError: systemd or the daemon did not answer, or the answer is not whole.
    """
    if answer.exit:
        raise UnreadableError(answer.complaint or f"systemctl exited {answer.exit}")
    dockerd = _parse(answer.stdout)
    if dockerd.silent and not silent:
        raise UnreadableError(f"docker.service is active, and Docker does not answer: {dockerd.silent}")
    return dockerd


@lru_cache(maxsize=64)  # several steps parse the same answer
def _parse(stdout: bytes) -> Dockerd:
    lines = stdout.decode(errors="replace").splitlines()
    values = dict(line.split("=", 1) for line in lines if "=" in line)
    if "end" not in values or "LoadState" not in values:
        raise UnreadableError("the answer ends early")
    try:
        return _dockerd(values)
    except (KeyError, ValueError, binascii.Error) as error:
        raise UnreadableError(f"the answer is garbled: {error}") from error


def _dockerd(values: Mapping[str, str]) -> Dockerd:
    data = {key: base64.b64decode(values[key]) for key in ENCODED if key in values}
    noted = data.get("invocation", b"").decode().strip() == values.get("InvocationID", "") != ""
    started = int(values.get("started", "0"))
    return Dockerd(
        installed=values["LoadState"] != "not-found",
        unit=values,
        config=data.get("config"),
        config_mode=f"{int(values.get('config_mode', '644'), 8):04o}",
        ours=data.get("ours", b"").decode(),
        started_with=data.get("started_with") if noted else None,
        loaded=data.get("loaded") if noted else None,
        proxy=_proxy(values),
        proxy_loaded=values.get("proxy_loaded", "") if noted else "",
        config_is_older=int(values.get("config_changed", "0")) < started,
        hook=_hook(values, data, noted, started),
        words=tuple(data.get("words", b"").decode(errors="replace").split("\0")),
        replaced=values.get("program", "").endswith("/dockerd (deleted)"),
        texts=_files(_text(data, "unit")),
        info=json.loads(values["info"]) if "info" in values else {},
        silent=values.get("silent", ""),
        given=card_path.parse(_text(data, "given")),
    )


ENCODED = ("config", "ours", "started_with", "loaded", "invocation", "hook_at_start", "words", "unit", "given")


def _proxy(values: Mapping[str, str]) -> tuple[str, ...]:
    if "proxy" not in values:
        return ()
    sha256, mode, owner = values["proxy"].split(" ")
    return sha256, f"{int(mode, 8):04o}", owner


def _hook(values: Mapping[str, str], data: Mapping[str, bytes], noted: bool, started: int) -> bool | None:
    if "hook_changed" not in values:
        return None
    return bool(data.get("hook_at_start", b"").strip()) if noted else int(values["hook_changed"]) < started


def _text(data: Mapping[str, bytes], key: str) -> str:
    return data.get(key, b"").decode(errors="replace")


def _files(text: str) -> dict[str, str]:
    """The unit's files, each after a line with its path."""
    files: dict[str, str] = {}
    path = ""
    for line in text.splitlines():
        if line.startswith("# /"):
            path = line[2:]
        files[path] = files.get(path, "") + line + "\n"
    return files


def parse_config(config: bytes | None) -> dict[str, Any]:
    """A daemon.json as a mapping.

    Raises:
        ValueError: the bytes are no mapping in JSON; the message names line and column.
    """
    if config is None or not config.strip():
        return {}
    try:
        value = json.loads(config)
    except json.JSONDecodeError as error:
        raise ValueError(f"line {error.lineno}, column {error.colno}: {error.msg}") from error
    except RecursionError as error:
        raise ValueError("the mapping is nested too deep") from error
    if not isinstance(value, dict):
        raise ValueError("the text is no mapping")
    return value


def pending(dockerd: Dockerd) -> str:
    """The work that makes the daemon load its configuration: `nothing`, or `reload` or `restart` with the reason."""
    if not dockerd.running:
        return "nothing"
    if dockerd.proxy_loaded != next(iter(dockerd.proxy), ""):
        return "restart: proxy"
    if dockerd.started_with is None or dockerd.loaded is None:
        fresh = dockerd.config is None or dockerd.config_is_older
        return "nothing" if fresh else "restart: what Docker has loaded is not known"
    restart = _differing(dockerd.config, dockerd.started_with) - RELOADABLE
    if restart:
        return f"restart: {', '.join(sorted(restart))}"
    reload = _differing(dockerd.config, dockerd.loaded) & RELOADABLE
    return f"reload: {', '.join(sorted(reload))}" if reload else "nothing"


def _differing(first: bytes | None, second: bytes | None) -> set[str]:
    try:
        left, right = parse_config(first), parse_config(second)
    except ValueError:
        return {"daemon.json"}
    return {key for key in {*left, *right} if left.get(key) != right.get(key)}
