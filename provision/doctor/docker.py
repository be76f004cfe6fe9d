"""Kinds of Docker in which instances get no card, or which answer in the place of the host's own: snap, rootless, and
another context of root's client.

Sources: docs/facts.md#docker-packages for snap; Docker's manual on rootless mode for the socket and its setup tool;
the key `currentContext` of the client's config.json.
"""

import re
import shlex
from collections.abc import Iterator

from provision.command import Answer, Script, look
from provision.doctor.check import Check, Look, Subject, alone
from provision.doctor.finding import Finding, bad, good, risk
from provision.inventory import Host, Inventory
from provision.steps.base import State, UnreadableError
from provision.steps.system.preflight import SNAP

LOOK = look(
    Script(
        "doctor/docker-kinds",
        SNAP
        + r"""
for socket in /run/user/*/docker.sock; do
  [ -S "$socket" ] && printf 'rootless %s\n' "$(stat -c '%U %u' -- "$socket")"
done
context=$(sed -n 's/.*"currentContext" *: *"\([^"]*\)".*/\1/p' /root/.docker/config.json 2>/dev/null | head -n 1)
echo "context $context"
""",
    ),
    title="look for further kinds of Docker",
)
_USER = re.compile(r"rootless ([A-Za-z0-9_][A-Za-z0-9_.@$-]{0,63}) (\d{1,10})")


def _of_gpu_hosts(host: Host, inventory: Inventory) -> Look | None:
    return alone(LOOK, _state) if host.gpu else None


def _state(answer: Answer) -> State:
    lines = answer.text.splitlines()
    if not lines or lines[0] not in ("snap", "none"):
        raise UnreadableError(answer.complaint or f"exited {answer.exit}")
    context = next((line.partition(" ")[2].strip() for line in lines if line.startswith("context")), "")
    users = {match[1]: int(match[2]) for line in lines if (match := _USER.fullmatch(line))}
    return {"snap": lines[0] == "snap", "rootless": users, "context": context[:200]}


def _judge(state: State, subject: Subject) -> Iterator[Finding]:
    state = state or {}
    if state["snap"]:
        yield bad("Docker is installed as a snap, in which --gpus does not work", "snap remove docker")
    for user, uid in state["rootless"].items():
        says = (
            f"{user} runs a rootless Docker: its containers may use the cards, and the host's Docker does not know them"
        )
        command = f"XDG_RUNTIME_DIR=/run/user/{uid} dockerd-rootless-setuptool.sh uninstall"
        yield risk(says, f"runuser -l {shlex.quote(user)} -c {shlex.quote(command)}", f"/run/user/{uid}/docker.sock")
    if state["context"] not in ("", "default"):
        says = f"root's docker asks the context {state['context']}, and not the Docker of this host"
        yield bad(says, "docker context use default", "/root/.docker/config.json")
    elif not state["snap"] and not state["rootless"]:
        yield good("no snap, no rootless Docker, no foreign context")


CHECKS = (Check("docker kinds", _of_gpu_hosts, _judge),)
