"""Reading Docker's daemon: its unit, its configuration, and what of that it has really loaded. One command for all.

Our drop-in for docker.service keeps, in /run/provision/docker, what the daemon read when it started and when it was
reloaded, so that work which a failed run left undone is still seen. A daemon that was started before the drop-in was
there left no such notes; then a daemon.json that is older than the daemon must be what it loaded.

Source: which keys a reload applies, and that the GPU driver is registered at the daemon's start,
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

CONFIG = "/etc/docker/daemon.json"
NOTES = "/run/provision/docker"
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
hook=$(command -v {HOOK}) && echo "hook_changed=$(stat -L -c %Z "$hook")"
if [ "$pid" -gt 0 ] 2>/dev/null && [ -r "/proc/$pid/stat" ]; then
  read -r stat <"/proc/$pid/stat"
  set -- ${{stat##*) }}
  ticks=${{20}}
  echo "started=$(awk -v t="$ticks" -v hz="$(getconf CLK_TCK)" '/^btime/{{printf "%d", $2 + t / hz}}' /proc/stat)"
  encoded words "/proc/$pid/cmdline"
fi
for path in $unread; do
  case " $files " in *" $path "*) ;; *) files="$files $path" ;; esac
done
texts() {{ for path in $files; do echo "# $path"; cat -- "$path"; done; }}
printf 'unit=%s\\n' "$(texts 2>/dev/null | base64 -w0)"
if [ "$active" = active ]; then
  info=$(timeout 15 docker info --format '{_INFO}' 2>&1) && echo "info=$info" ||
    printf 'silent=%s\\n' "${{info:-nothing came within 15 s}}" | head -1
fi
echo end=
""",
)

COMMAND = look(SCRIPT, title="look at Docker's daemon")


@dataclass(frozen=True)
class Dockerd:
    """Docker's daemon as it is on a host.

    Args:
        installed: whether there is a docker.service.
        unit: its properties.
        config: the bytes of daemon.json, or None where there is none.
        config_mode: its permission bits, four octal digits.
        ours: the keys that we put into it last time, as JSON text; empty where we never did.
        started_with: what the running daemon read when it started, where its notes are from this start; else None.
        loaded: likewise, the last time that it was started or reloaded.
        config_is_older: whether daemon.json has not changed since the daemon started.
        hook: whether the running daemon found the NVIDIA hook when it started; None where there is no hook at all.
        words: the daemon's program and flags.
        texts: file -> text, of everything that may give the daemon flags; the first line is the path.
        info: what the daemon says of itself; empty where it does not run.
        silent: what came instead, where it runs and does not answer.
    """

    installed: bool
    unit: Mapping[str, str] = field(default_factory=dict)
    config: bytes | None = None
    config_mode: str = "0644"
    ours: str = ""
    started_with: bytes | None = None
    loaded: bytes | None = None
    config_is_older: bool = True
    hook: bool | None = None
    words: tuple[str, ...] = ()
    texts: Mapping[str, str] = field(default_factory=dict)
    info: Mapping[str, Any] = field(default_factory=dict)
    silent: str = ""

    @property
    def running(self) -> bool:
        """Whether systemd has it running."""
        return self.unit.get("ActiveState") in ("active", "reloading")


def read(answer: Answer, *, silent: bool = False) -> Dockerd:
    """What the command found.

    Args:
        answer: of the command.
        silent: whether a daemon that runs and does not answer will do.

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
    said = dict(line.split("=", 1) for line in lines if "=" in line)
    if "end" not in said or "LoadState" not in said:
        raise UnreadableError("the answer ends early")
    try:
        return _dockerd(said)
    except (ValueError, binascii.Error) as error:
        raise UnreadableError(f"the answer is garbled: {error}") from error


def _dockerd(said: Mapping[str, str]) -> Dockerd:
    data = {key: base64.b64decode(said[key]) for key in ENCODED if key in said}
    noted = data.get("invocation", b"").decode().strip() == said.get("InvocationID", "") != ""
    started = int(said.get("started", "0"))
    return Dockerd(
        installed=said["LoadState"] != "not-found",
        unit=said,
        config=data.get("config"),
        config_mode=f"{int(said.get('config_mode', '644'), 8):04o}",
        ours=data.get("ours", b"").decode(),
        started_with=data.get("started_with") if noted else None,
        loaded=data.get("loaded") if noted else None,
        config_is_older=int(said.get("config_changed", "0")) < started,
        hook=_hook(said, data, noted, started),
        words=tuple(data.get("words", b"").decode(errors="replace").split("\0")),
        texts=_files(_text(data, "unit")),
        info=json.loads(said["info"]) if "info" in said else {},
        silent=said.get("silent", ""),
    )


ENCODED = ("config", "ours", "started_with", "loaded", "invocation", "hook_at_start", "words", "unit")


def _hook(said: Mapping[str, str], data: Mapping[str, bytes], noted: bool, started: int) -> bool | None:
    if "hook_changed" not in said:
        return None
    return bool(data.get("hook_at_start", b"").strip()) if noted else int(said["hook_changed"]) < started


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
        ValueError: it is none; the message names line and column.
    """
    if config is None or not config.strip():
        return {}
    try:
        value = json.loads(config)
    except json.JSONDecodeError as error:
        raise ValueError(f"line {error.lineno}, column {error.colno}: {error.msg}") from error
    except RecursionError as error:
        raise ValueError("it is nested too deep") from error
    if not isinstance(value, dict):
        raise ValueError("it is no mapping")
    return value


def pending(dockerd: Dockerd) -> str:
    """What has to be done so that the daemon has loaded what daemon.json says: `nothing`, or what and why."""
    if not dockerd.running:
        return "nothing"
    if dockerd.started_with is None or dockerd.loaded is None:
        fresh = dockerd.config is None or dockerd.config_is_older
        return "nothing" if fresh else "restart: what Docker has loaded is not known"
    restart = _differing(dockerd.config, dockerd.started_with) - RELOADABLE
    if restart:
        return f"restart: {', '.join(sorted(restart))}"
    reload = _differing(dockerd.config, dockerd.loaded) & RELOADABLE
    return f"reload: {', '.join(sorted(reload))}" if reload else "nothing"


def _differing(one: bytes | None, other: bytes | None) -> set[str]:
    try:
        left, right = parse_config(one), parse_config(other)
    except ValueError:
        return {"daemon.json"}
    return {key for key in {*left, *right} if left.get(key) != right.get(key)}
