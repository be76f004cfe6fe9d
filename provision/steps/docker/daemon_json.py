"""Docker's daemon.json: our keys merged into the operator's, and checked by Docker before the file is put in place.

Sources: the keys, and the keys that a reload applies, docs/facts.md#docker-reload; the cgroup driver that a
daemon-reload hurts, docs/facts.md#lost-cards.
"""

import copy
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from provision.command import Command, Put, Script, run, sh
from provision.steps.base import Check, Fact, RefusalError, State, Step, differing
from provision.steps.docker import daemon_state
from provision.steps.docker.daemon_state import CONFIG, STATE, Dockerd
from provision.steps.docker.service import CDI_ENGINE, LOAD, engine_version, restart_impact
from provision.steps.docker.start_flags import flags
from provision.steps.facts import HostFacts
from provision.steps.system.file import KEEP
from provision.steps.system.file_scan import Content
from provision.steps.wording import Vocabulary, Words, text_diff

NEW = f"{CONFIG}.provision-new"
OURS = f"{STATE}/ours.json"
# User and password of a URL in a line of JSON. Docker takes proxies without a scheme too.
_USERINFO = re.compile(r"""(://|")(?:[^/\s"\\]|\\.)*@""")
DRIVER = "native.cgroupdriver="

FOLDERS = Script(
    "docker/config-folders",
    f"""
[ -d /etc/docker ] || install -d -m 0755 /etc/docker
install -d -m 0700 /var/lib/provision {STATE}
""",
)
# If Docker does not come up with the new file, the file of the running daemon is put back. The drop-in keeps that file
# at every start; the copy here is for a daemon started before the drop-in existed. The reload comes at once: installing
# packages restarts Docker next, and containers go on only if live-restore is loaded by then.
SWAP = Script(
    "docker/swap-config",
    f"""
if dockerd --help 2>/dev/null | grep -q -e --validate; then
  dockerd --validate --config-file={NEW} >/dev/null || {{ rm -f -- {NEW}; exit 1; }}
fi
if [ ! -f {STATE}/good.json ] && systemctl -q is-active docker.service; then
  if [ -f {CONFIG} ]; then cp -- {CONFIG} {STATE}/good.json; else echo '{{}}' >{STATE}/good.json; fi
fi
mv -fT -- {NEW} {CONFIG}
{LOAD}""",
)
REMOVE = Script(
    "docker/remove-config",
    f"""
rm -f -- {CONFIG}
{LOAD}""",
)


@dataclass(frozen=True, kw_only=True)
class DockerConfig(Step):
    """Our keys in daemon.json. A key that we once wrote and do not want any more is taken out.

    Args:
        keys: key -> value. A mapping is merged into the operator's own, any other value replaces it.
        cgroup_driver: `cgroupfs`, `systemd`, or `auto`: the driver that keeps the cards over a daemon-reload.
        cdi: whether the toolkit gives cards by CDI, on which `auto` may then rely.
    """

    volatile: ClassVar[frozenset[str]] = frozenset({"running"})
    words: ClassVar[Vocabulary] = {
        "sha256": Words("other settings"),
        "mode": Words("other mode", "mode"),
        "ours": Words("no record of which settings are provision's", unless=("sha256",)),
    }

    keys: Mapping[str, Any] = field(default_factory=dict)
    cgroup_driver: str = "auto"
    cdi: bool = False

    @property
    def id(self) -> str:
        """`docker_config:daemon.json`."""
        return "docker_config:daemon.json"

    def fact(self) -> Fact:
        """Reads the file, our keys of last time, and the daemon."""
        return Fact(daemon_state.COMMAND, lambda answer: config_state(daemon_state.read(answer)))

    def want(self, facts: HostFacts, have: State) -> State:
        """The merged file. Refuses an unreadable file, keys that are also flags of the daemon, and nftables."""
        present = have or {}
        config = _parsed(present.get("sha256"))
        ours = self._ours(present, config)
        merged = merge(config, _parsed(present.get("ours")), ours)
        self._refuse_flags(present, ours)
        _refuse_backend(merged)
        same = merged == config and isinstance(present.get("sha256"), Content)
        content = present["sha256"] if same else Content((json.dumps(merged, indent=2) + "\n").encode())
        mode = present.get("mode", "0644")
        return {"sha256": content, "mode": mode, "ours": Content((json.dumps(ours, indent=2) + "\n").encode())}

    def commands(self, have: State, want: State) -> Sequence[Command]:
        """Writes beside the file, has Docker check the new file, then swaps. The record of our keys comes last."""
        changes = dict(differing(have, want))
        target = want or {}
        commands: list[Command] = [sh(FOLDERS, title="have /etc/docker")]
        if {"sha256", "mode"} & set(changes):
            commands += _write(target.get("sha256"), str(target.get("mode", "0644")))
        ours = target.get("ours")
        if isinstance(ours, Content):
            commands.append(Put(OURS, ours.data, 0o600))
        elif "ours" in changes:
            commands.append(run("rm", "-f", "--", OURS, f"{STATE}/good.json", f"{STATE}/rejected.json"))
        return commands

    def restore(self, facts: HostFacts, have: State, past: Mapping[str, Any]) -> State:
        """The past file and our keys in it. Refuses where the bytes are not kept."""
        kept = {key: past[key] for key in ("sha256", "mode", "ours") if past[key] is not None or key != "mode"}
        if any(kept[key] is not None and not isinstance(kept[key], Content) for key in ("sha256", "ours")):
            raise RefusalError(f"the past {CONFIG} is not kept on this host any more")
        return kept

    def irrevocable(self, before: State, after: State) -> str:
        """Where there was no Docker before, its configuration stays as long as Docker does."""
        return "" if before else "it stays with Docker"

    def impact(self, have: State, want: State) -> str:
        """The effect of loading the file on Docker and on running containers."""
        present = have or {}
        old, new = _parsed(present.get("sha256")), _parsed((want or {}).get("sha256"))
        changed = {key for key in {*old, *new} if old.get(key) != new.get(key)}
        if not present.get("running") or not changed:
            return ""
        if changed <= daemon_state.RELOADABLE:
            return "reloads Docker"
        goes = restart_impact({**present, "live_restore": new.get("live-restore") is True})
        moved = present.get("containers") and _driver_of(new) not in ("", present.get("driver"))
        stay = "they keep their old cgroups until they are made anew, which follows"
        return f"{goes}; {stay}" if moved else goes

    def diff(self, have: State, want: State) -> Sequence[str]:
        """A unified diff, without passwords in URLs."""
        texts = [(state or {}).get("sha256") for state in (have, want)]
        if texts[0] == texts[1]:
            return ["the record of which settings are provision's is written again"]
        before, after = (text.data.decode(errors="replace") if isinstance(text, Content) else "" for text in texts)
        return [_USERINFO.sub(r"\1[secret]@", line) for line in text_diff(before, after, CONFIG)]

    def check(self, live: Any) -> Iterator[Check]:
        """The file is whole, and has our keys. Passwords in URLs are not shown."""
        file = live.run("cat %s", CONFIG)
        try:
            config = daemon_state.parse_config(file.stdout.encode())
        except ValueError as error:
            yield Check("daemon.json is JSON", str(error), "")
            return
        for key, value in self.keys.items():
            got = _part(config.get(key), value)
            shown, expected = _masked(got), _masked(value)
            yield Check(key, "another password" if got != value and shown == expected else shown, expected)

    def _ours(self, present: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
        driver = self._driver(present, config)
        return {**self.keys, **({"exec-opts": [DRIVER + driver]} if driver else {})}

    def _driver(self, present: Mapping[str, Any], config: Mapping[str, Any]) -> str:
        """The cgroup driver to write, or nothing. The driver stays where running containers prove CDI. A version alone
        proves nothing: Docker falls back to the hook in silence (docs/facts.md#cdi)."""
        if self.cgroup_driver != "auto":
            return self.cgroup_driver
        can = self.cdi and engine_version(str(present.get("version", ""))) >= CDI_ENGINE
        safe = can and present.get("driver") == "systemd" and present.get("by_cdi")
        return "" if safe and _driver_of(config) in ("", "systemd") else "cgroupfs"

    def _refuse_flags(self, present: Mapping[str, Any], ours: Mapping[str, Any]) -> None:
        for key, where in present.get("flags", {}).items():
            if key in ours:
                raise RefusalError(
                    f"Docker is started with {where}, and {key} in {CONFIG} would set the same thing: Docker refuses "
                    f"to start with both. Remove the flag; the inventory can set it (docker.daemon)"
                )


def _refuse_backend(merged: Mapping[str, Any]) -> None:
    """Refuse the backend with which Docker leaves our jump and IP forwarding to others (docs/facts.md#docker-ports)."""
    if merged.get("firewall-backend") == "nftables":
        raise RefusalError(
            f'"firewall-backend": "nftables" in {CONFIG}: with this backend Docker has no chain DOCKER-USER, in which'
            " provision closes the ports of instances, and does not start at a boot without net.ipv4.ip_forward=1."
            " Take the key away, or set the value iptables (docker.daemon in the inventory, or the file by hand)"
        )


def merge(config: Mapping[str, Any], before: Mapping[str, Any], ours: Mapping[str, Any]) -> dict[str, Any]:
    """The operator's daemon.json with our keys, and without keys that we once wrote and do not want any more.

    Args:
        config: the present mapping.
        before: the part that we wrote into it.
        ours: the part that we want in it.
    """
    merged = copy.deepcopy(dict(config))
    if "log-driver" in ours and merged.get("log-driver", ours["log-driver"]) != ours["log-driver"]:
        merged.pop("log-opts", None)  # options of another driver: Docker would not start with them
    _take_out(merged, before, ours)
    _put_in(merged, ours)
    return merged


def _take_out(merged: dict[str, Any], before: Mapping[str, Any], ours: Mapping[str, Any]) -> None:
    for key, value in before.items():
        if isinstance(value, Mapping) and isinstance(merged.get(key), dict):
            kept = ours.get(key)
            _take_out(merged[key], value, kept if isinstance(kept, Mapping) else {})
            if not merged[key] and key not in ours:
                del merged[key]
        elif key == "exec-opts" and key in merged:
            gone = set(value) - set(ours.get(key, ()))
            _set_options(merged, [option for option in _options(merged) if option not in gone])
        elif key not in ours and merged.get(key) == value:
            del merged[key]


def _put_in(merged: dict[str, Any], ours: Mapping[str, Any]) -> None:
    for key, value in ours.items():
        if isinstance(value, Mapping) and isinstance(merged.get(key), dict):
            _put_in(merged[key], value)
        elif key == "exec-opts":
            names = {option.partition("=")[0] for option in value}
            rest = [option for option in _options(merged) if option.partition("=")[0] not in names]
            _set_options(merged, [*rest, *value])
        else:
            merged[key] = copy.deepcopy(value)


def _set_options(merged: dict[str, Any], options: list[str]) -> None:
    if options:
        merged["exec-opts"] = options
    else:
        merged.pop("exec-opts", None)


def _part(have: Any, want: Any) -> Any:
    """The part of `have` that has the keys of `want`."""
    if isinstance(have, dict) and isinstance(want, Mapping):
        return {key: _part(have.get(key), value) for key, value in want.items()}
    return have


def _masked(value: Any) -> Any:
    """The value without the passwords of its URLs."""
    if isinstance(value, Mapping):
        return {key: _masked(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_masked(each) for each in value]
    return re.sub(r"(^|://)[^/\s]*@", r"\1[secret]@", value) if isinstance(value, str) else value


def _options(config: Mapping[str, Any]) -> list[str]:
    """The daemon's exec-opts; Docker would not take anything but a list of text either."""
    options = config.get("exec-opts")
    return [option for option in options if isinstance(option, str)] if isinstance(options, list) else []


def _driver_of(config: Mapping[str, Any]) -> str:
    drivers = [option for option in _options(config) if option.startswith(DRIVER)]
    return drivers[-1].removeprefix(DRIVER) if drivers else ""


def _parsed(content: Any) -> dict[str, Any]:
    if not isinstance(content, Content):
        return {}
    try:
        return daemon_state.parse_config(content.data)
    except ValueError as error:
        raise RefusalError(f"{CONFIG} is not valid JSON for Docker: {error}") from error


def config_state(dockerd: Dockerd) -> State:
    """The daemon's state for this step; None where there is neither Docker nor a key of ours."""
    if not (dockerd.installed or dockerd.config or dockerd.ours):
        return None
    return {
        "sha256": None if dockerd.config is None else Content(dockerd.config),
        "mode": dockerd.config_mode,
        "ours": Content(dockerd.ours.encode()) if dockerd.ours else None,
        "driver": str(dockerd.info.get("driver", "")),
        "version": str(dockerd.info.get("version", "")),
        "running": dockerd.running,
        "containers": dockerd.info.get("running", 0) > 0,
        "by_cdi": dockerd.by_cdi,
        "flags": flags(dockerd),
    }


def _write(sha256: Any, mode: str) -> list[Command]:
    keep = sh(KEEP, CONFIG, title=f"keep {CONFIG}")
    if sha256 is None:
        return [keep, sh(REMOVE, title=f"remove {CONFIG}", timeout=180)]
    if not isinstance(sha256, Content):
        raise RefusalError(f"the bytes of {CONFIG} with sha256 {sha256} are not known")
    return [keep, Put(NEW, sha256.data, int(mode, 8)), sh(SWAP, title=f"check {NEW} and put it in place", timeout=180)]
