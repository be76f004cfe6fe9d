"""The shell scripts for instances: constants, with data only as arguments.

POSIX sh, under `set -eu`. Hosts have `docker` and `curl`; the image has neither curl nor a reliable shell
(docs/facts.md#ollama-image). Only containers with our label are ever stopped or removed.
"""

from provision.command import Script
from provision.steps.instance_paths import MEASURED

PREVIOUS = ".PREVIOUS"
"""Ends the name of a previous container: no instance's name has a capital letter."""

# A stopped container is kept under its other name, unless a kept container is there already: that one has passed its
# test in its time. `docker update` of a running container may take its cards, so the stop comes first. A container that
# Docker removes at its stop (`--rm`) cannot be kept.
KEEP = (
    r"""
there() { docker inspect --type container "$1" >/dev/null 2>&1; }
drop() { docker stop "$1" >/dev/null; docker rm -f "$1" >/dev/null; }
keep() { # container
  case $1 in *PREVIOUS_) docker stop "$1" >/dev/null; return ;; esac
  if there "$1PREVIOUS_"; then drop "$1"; return; fi
  docker stop "$1" >/dev/null
  { docker update --restart no "$1" >/dev/null && docker rename "$1" "$1PREVIOUS_"; } || ! there "$1"
}
"""
).replace("PREVIOUS_", PREVIOUS)

# A container of ours that holds a card ($3..) or the address and port ($2) of container $1 is stopped and kept first:
# its own step makes it again. Docker would start both containers on one card without a word.
_HELD = (
    "{{range .HostConfig.PortBindings}}{{range .}}{{.HostIp}}:{{.HostPort}} {{end}}{{end}}"
    "{{range .HostConfig.DeviceRequests}}{{range .DeviceIDs}}{{.}} {{end}}{{end}}"
)
FREE = f"{KEEP}held='{_HELD}'\n"
FREE += r"""
holds() { # container, then what it must not hold
  found=$(docker inspect --type container --format "$held" "$1" 2>/dev/null) || return 1
  shift
  for one do
    case " $found " in *" $one "*) return 0 ;; esac
  done
  return 1
}
free() { # container that needs it, then what it needs
  own=$(docker inspect --type container --format '{{.Id}}' "$1"); shift
  for other in $(docker ps -q --no-trunc --filter label=provision.managed=1); do
    if [ "$other" != "$own" ] && holds "$other" "$@"; then
      name=$(docker inspect --type container --format '{{.Name}}' "$other"); keep "${name#/}"
    fi
  done
}
"""


def ready(health: str) -> str:
    """Return the shell function that waits until a server answers; after a timeout, the end of the log is the reason.

    Args:
        health: the path that the server answers as soon as it serves.
    """
    return r"""
ready() { # container, address:port, seconds
  end=$(($(cut -d. -f1 /proc/uptime) + $3))
  until curl --noproxy '*' -fsS -m 3 -o /dev/null "http://$2HEALTH" 2>/dev/null; do
    status=$(docker inspect --type container --format '{{.State.Status}} {{.State.ExitCode}}' "$1")
    case $status in running*) ;; *) gone "$1" "is $status, not running"; return 1 ;; esac
    [ "$(cut -d. -f1 /proc/uptime)" -lt "$end" ] || { gone "$1" "does not answer on $2 after $3 s"; return 1; }
    sleep 0.3
  done
}
gone() {
  echo "$1 $2; the end of its log:" >&2
  docker logs --tail 15 "$1" >&2 2>&1 || :
}
""".replace("HEALTH", health)


_OURS = """
ours() {
  [ "$(docker inspect --type container --format '{{index .Config.Labels "provision.managed"}}' "$1" 2>&1)" = 1 ]
}
"""
REMOVE = Script(
    "instance/remove",
    KEEP
    + _OURS
    + f"""
if there "$1"; then drop "$1"; fi
if ours "$1{PREVIOUS}"; then drop "$1{PREVIOUS}"; fi
rm -f -- "{MEASURED}/$1"
""",
)
REMOVE_PREVIOUS = Script(
    "instance/remove-previous",
    KEEP
    + _OURS
    + f"""
if ours "$1{PREVIOUS}"; then drop "$1{PREVIOUS}"; fi
""",
)

# A wrong option shows while the old container still runs: the new container is made beside it and takes its name. The
# old container is kept.
# Docker's client would add the proxies of its own configuration (~/.docker/config.json); the container gets only the
# declared proxies.
RECREATE = Script(
    "instance/recreate",
    KEEP
    + r"""
name=$1; shift
new=$name.provision-new
docker rm -f "$new" >/dev/null 2>&1 || :
DOCKER_CONFIG=/nonexistent docker create --name "$new" "$@" >/dev/null
if there "$name"; then keep "$name"; fi
docker rename "$new" "$name"
""",
)

# $1 container, $2 its restart policy. The container that failed goes.
BRING_BACK = Script(
    "instance/bring-back",
    KEEP
    + f"previous=$1{PREVIOUS}"
    + r"""
there "$previous" || { echo "$previous is gone" >&2; exit 1; }
docker rm -f "$1.provision-new" >/dev/null 2>&1 || :
if there "$1"; then drop "$1"; fi
docker update --restart "$2" "$previous" >/dev/null
docker rename "$previous" "$1"
""",
)

STOP = Script("instance/stop", 'docker stop "$1"')

_START = r"""
free "$@"
case $(docker inspect --type container --format '{{.State.Status}}' "$1") in
  running) ;;
  paused) docker unpause "$1" >/dev/null ;;
  restarting) docker restart "$1" >/dev/null ;;
  *) docker start "$1" >/dev/null ;;
esac
"""

_RESTART = r"""
docker restart "$1" >/dev/null
"""


def start(health: str, seconds: int) -> Script:
    """Return the script that starts a container: $1 name, $2 ADDRESS:PORT, then its cards. Removes our holders of
    these.

    Args:
        health: the path that the server answers as soon as it serves.
        seconds: timeout of the server's first answer.
    """
    return Script("instance/start", FREE + ready(health) + _START + _wait(seconds))


def restart(health: str, seconds: int) -> Script:
    """Return the script that restarts a container, with the arguments of `start`."""
    return Script("instance/restart", ready(health) + _RESTART + _wait(seconds))


def _wait(seconds: int) -> str:
    return f'ready "$1" "$2" $(({seconds} * ${{patience:-1}}))\n'
