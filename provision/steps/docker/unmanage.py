"""A host that gets no Docker of ours any more: our keys leave its daemon.json, the operator's own stay."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from provision.command import Command
from provision.steps.base import Answer, Fact, Owned, State, Step
from provision.steps.docker import daemon_state
from provision.steps.docker.daemon_json import DockerConfig, config_state, merge
from provision.steps.facts import HostFacts
from provision.steps.system.file_scan import Content


@dataclass(frozen=True, kw_only=True)
class LeftDockerConfig(DockerConfig):
    """The daemon.json of a host with our keys; without our keys the step does not exist."""

    def fact(self) -> Fact:
        """Reads the same as the step of hosts with our Docker."""
        return Fact(daemon_state.COMMAND, _state)

    def want(self, facts: HostFacts, have: State) -> State:
        """None of our keys."""
        return None

    def commands(self, have: State, want: State) -> Sequence[Command]:
        """Takes our keys out, or puts them in again."""
        return super().commands(have, _rest(have) if want is None else want)

    def impact(self, have: State, want: State) -> str:
        """A reload, and the keys that a reload does not apply."""
        present = have or {}
        old, new = (_mapping((state or {}).get("sha256")) for state in (have, _rest(have) if want is None else want))
        changed = {key for key in {*old, *new} if old.get(key) != new.get(key)}
        if not present.get("running") or not changed:
            return ""
        later = ", ".join(sorted(changed - daemon_state.RELOADABLE))
        return f"reloads Docker; {later}: from its next restart on" if later else "reloads Docker"

    def diff(self, have: State, want: State) -> Sequence[str]:
        """The file without our keys."""
        return super().diff(have, _rest(have) if want is None else want)


@dataclass(frozen=True, kw_only=True)
class OwnedDockerConfig(Owned):
    """Finds a daemon.json with our keys."""

    def fact(self) -> Fact:
        """Reads Docker's daemon, which may be dead: the file has the keys all the same."""
        return Fact(daemon_state.COMMAND, self._parse)

    def step(self, step_id: str) -> Step:
        """The file, to be rid of our keys."""
        return LeftDockerConfig()

    def _parse(self, answer: Answer) -> State:
        state = _state(answer)
        return {} if state is None else {LeftDockerConfig().id: state}


def _state(answer: Answer) -> State:
    dockerd = daemon_state.read(answer, silent=True)
    return config_state(dockerd) if dockerd.ours else None


def _rest(have: State) -> State:
    """The state without our keys. An unreadable file stays as it is; a file with only our keys goes."""
    present = have or {}
    config = present.get("sha256")
    before = _mapping(config)
    after = merge(before, _mapping(present.get("ours")), {})
    if after != before:
        config = Content((json.dumps(after, indent=2) + "\n").encode()) if after else None
    return {"sha256": config, "mode": present.get("mode", "0644"), "ours": None}


def _mapping(content: Any) -> Mapping[str, Any]:
    try:
        return daemon_state.parse_config(content.data) if isinstance(content, Content) else {}
    except ValueError:
        return {}
