"""A light look at Docker for a screen that is refreshed: containers, answers, seen cards and processes on the cards.

The answer has the form of the look at Docker (`inspect`), with the sections of images, volumes, networks and files left
empty, so one parser reads both. The look changes nothing and starts no Docker.
"""

from functools import cache

from provision.command import READ_TIMEOUT, Run, Script, look
from provision.steps import facts
from provision.steps.docker import card_look, gpu_processes, inspect, probe
from provision.steps.docker.probe import Probes

TITLE = "glance at Docker"


def _script(probes: Probes) -> str:
    """The script that asks Docker for its containers, and each running instance for its state."""
    fields = inspect.CONTAINER + probe.place(probes)
    return rf"""
{gpu_processes.SHELL.strip()}
command -v docker >/dev/null 2>&1 || {{ echo '# absent'; echo '# probes'; applications; echo '# end'; exit 0; }}
{facts.DOCKER_RUNS.strip()}
docker_runs || {{ echo 'docker.service is not running' >&2; exit {inspect.SILENT}; }}
nl='
'
containers() {{
  ids=$(timeout {inspect.ANSWERS} docker ps -aq --no-trunc --filter label={inspect.MANAGED}=1) || {{
    [ $? -ne 124 ] || echo 'Docker does not answer (docker ps, {inspect.ANSWERS} s)' >&2
    exit {inspect.SILENT}
  }}
  case $ids in
    *[!0-9a-f"$nl"]*) echo 'docker ps prints what are no ids of containers' >&2; exit {inspect.BABBLES} ;;
  esac
  [ -z "$ids" ] || timeout {inspect.ANSWERS} docker inspect --type container --format '{fields}' $ids ||
    exit {inspect.SILENT}
}}
found=$(containers 2>/dev/null) || found=$(containers) || exit $?
ours=$(printf '%s\n' "$found" | sed -n 's/^@ //p')
case $nl$ours in *"${{nl}}running "*)
  command -v curl >/dev/null || {{ echo 'curl is not there to ask with' >&2; exit {inspect.NO_CURL}; }} ;;
esac
{probe.answers(probes)}
{card_look.SHELL.strip()}
probes() {{
  asked=0
  applications &
  while read -r {probe.words(probes)}; do
    case $status:$id in running:*[!0-9a-f]* | running:) continue ;; running:*) ;; *) continue ;; esac
    case $pid in *[!0-9]* | '') continue ;; esac
    asked=$((asked + 1)); [ $asked -le {inspect.MOST} ] || break
    answers "$id" "$at"{' "$engine"' if len(probes) > 1 else ""} &
    sees "$id" "$pid" &
  done <<ours
$ours
ours
  wait
}}
echo '# containers'; printf '%s\n' "$found"
printf '# images\n# volumes\n# pulled\n# listening\n# files\n'
echo '# probes'; probes
echo '# end'
"""


@cache
def command() -> Run:
    """Return the read-only command whose answer `inspect.read` understands."""
    script = Script("docker/glance", _script(inspect.known_probes()))
    return look(script, title=TITLE, timeout=READ_TIMEOUT + 40, slow=True)
