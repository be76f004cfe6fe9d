"""A change of only the marks in a balancer's upstream, and the wait for the streams that still run.

The base is the balancer's present configuration, whatever the inventory declares by now, and the running nginx checks
the result, whatever version is wanted: half a roll carries no further change into production.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from provision.command import Command, Run, Script, run, sh
from provision.steps.base import RefusalError, State
from provision.steps.facts import HostFacts
from provision.steps.nginx import upstream
from provision.steps.nginx.generation import GENERATIONS, Files, Generation, closed, files_of
from provision.steps.nginx.upstream import Drained, Upstream
from provision.steps.nginx_paths import CONFIG

# $1 seconds at most, $2 the path that an instance answers; then ADDRESS:PORT of each. Prints how many connections nginx
# still has to the instances. Old workers close idle connections when they shut down. A connection that is still being
# made counts: a request follows over it in a moment, and is not sent twice if the connection gets cut. An instance that
# does not answer any more finishes no stream either.
WAIT = Script(
    "nginx/wait-idle",
    r"""
seconds=$1 health=$2; shift 2
uptime() { cut -d. -f1 /proc/uptime; }
until=$(($(uptime) + seconds))
open() {
  found=$(for at do ss -Htnp state connected dst "$at" || exit; done) || exit 1 # no answer is not no stream
  printf '%s\n' "$found" | grep -c '"nginx"' || :
}
alive() {
  for at do
    for try in 1 2 3; do
      if curl --noproxy '*' -fs -m 5 -o /dev/null "http://$at$health"; then return 0; fi
    done
  done
  return 1
}
while count=$(open "$@") || exit 1; [ "$count" != 0 ] && [ "$(uptime)" -lt "$until" ]; do sleep 0.2; done
[ "$count" = 0 ] || alive "$@" || { echo "dead $count"; exit 0; }
echo "open $count"
""",
)


@dataclass(frozen=True, kw_only=True)
class MemberUpdate(Generation):
    """The present configuration with other marks.

    Args:
        down: labels that get no more requests.
        up: label -> `ADDRESS:PORT`, of instances that get requests again; an empty place leaves the member's place.
        drain: labels that an operator takes out.
        undrain: labels that an operator gives back.
        forget: id of an earlier generation of the same run; empty for none.
    """

    down: frozenset[str] = frozenset()
    up: Mapping[str, str] = field(default_factory=dict)
    drain: Mapping[str, Drained] = field(default_factory=dict)
    undrain: frozenset[str] = frozenset()
    forget: str = ""

    @property
    def reason(self) -> str:
        """The marked instances, with their marks."""
        marks = {"down": self.down, "up": self.up, "drained": self.drain, "drained no longer": self.undrain}
        return "; ".join(f"{', '.join(sorted(names))} {mark}" for mark, names in marks.items() if names)

    def rendered(self, facts: HostFacts, have: State) -> Files:
        """The present files with other marks."""
        files = files_of(have)
        if not isinstance(files.get(upstream.FILE), bytes):
            raise RefusalError("the balancer has no configuration of ours to mark")
        new = present(have).updated(self.down, self.up, self.drain, self.undrain)
        return {**files, upstream.FILE: new.text.encode()}

    def modes_beside(self, have: State) -> Mapping[str, int]:
        """The modes of the present files."""
        return closed(have)

    def commands(self, have: State, want: State) -> Sequence[Command]:
        """As for any generation. A roll would push all older generations out, so all its own but the last go."""
        commands = list(super().commands(have, want))
        if self.forget and want is not None and self.forget not in (want["id"], (have or {}).get("id")):
            commands.append(run("rm", "-rf", "--", f"{GENERATIONS}/{self.forget}", title=f"forget {self.forget}"))
        return commands


def present(have: State) -> Upstream:
    """The upstream of a configuration.

    Args:
        have: the configuration; it has an upstream.

    Raises:
        RefusalError: somebody else wrote or edited a server or a setting of the upstream.
    """
    text = upstream.text_of(have)
    parsed = Upstream.parse(text)
    if parsed is None or upstream.strangers(text):
        by_hand = f"{CONFIG}/{upstream.FILE} has servers or settings that provision did not write"
        raise RefusalError(f"{by_hand}: `provision deploy --tags balancer` writes it anew")
    return parsed


def wait(addresses: Sequence[str], seconds: int, health: str) -> Run:
    """Wait on the balancer until nginx has no connection to some instances any more.

    Args:
        addresses: `ADDRESS:PORT` of the instances.
        seconds: seconds to wait at most.
        health: the path that an instance answers.
    """
    title = f"wait until no stream from {', '.join(addresses)} is left"
    return sh(WAIT, str(seconds), health, *addresses, title=title, timeout=seconds + 60)
