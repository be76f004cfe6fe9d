"""Docker's daemon: running with its configuration loaded, and able to give cards to containers."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from provision.command import Command, Script, run, sh
from provision.steps.base import EVERY, BlockedError, Check, Fact, PutBack, RefusalError, State, Step, UnreadableError
from provision.steps.docker import card_path, daemon_state, inspect
from provision.steps.docker.daemon_state import CONFIG, STATE, Dockerd
from provision.steps.facts import HostFacts, live_facts
from provision.steps.live import read_once
from provision.steps.system.systemd import FIXED
from provision.steps.wording import Vocabulary, Words
from provision.terminal_text import ending

ID = "service:docker"
NOTHING, RELOADS, RESTARTS = "nothing", "reload", "restart"
CDI_ENGINE = (29, 2)  # from this version on --gpus tries CDI first, and then the hook (docs/facts.md#cdi)

# Has a running daemon reload, and waits until live-restore is on: the daemon loads it some time after the signal. No
# failure if live-restore stays off: the restart, or the next deploy, sees a key that is not loaded.
LOAD = f"""
if systemctl -q is-active docker.service; then
  systemctl reload docker.service || :
  if grep -qs '"live-restore"[[:space:]]*:[[:space:]]*true' {CONFIG}; then
    for _ in 1 2 3 4 5 6 7 8 9 10; do
      [ "$(timeout 10 docker info --format '{{{{.LiveRestoreEnabled}}}}' 2>/dev/null)" != true ] || break
      sleep 0.5
    done
  fi
fi
"""

# $1: "live" to switch live-restore on first, so that containers go on while Docker restarts; or "".
# Our drop-in keeps the last configuration with which Docker came up; the script restores it if the new one fails.
RESTART = Script(
    "docker/restart",
    f"""
good={STATE}/good.json
answers() {{
  for _ in 1 2 3 4 5 6 7 8 9 10; do
    if timeout 10 docker info >/dev/null 2>&1; then return 0; fi
    sleep 1
  done
  return 1
}}
start() {{ systemctl reset-failed docker.service 2>/dev/null || :; systemctl restart docker.service && answers; }}
if [ "$1" = live ] && systemctl -q is-active docker.service; then
  systemctl reload docker.service
  for _ in 1 2 3 4 5 6 7 8 9 10; do
    [ "$(timeout 10 docker info --format '{{{{.LiveRestoreEnabled}}}}' 2>/dev/null)" != true ] || break
    sleep 0.5
  done
fi
if start 2>/dev/null; then exit 0; fi
journalctl -u docker.service -n 15 --no-pager -o cat | grep -v 'Reloaded configuration' | cut -c1-300 >&2 || :
if [ -f "$good" ] && ! cmp -s "$good" {CONFIG}; then
  install -m 0600 -- "$good" {CONFIG}.provision-new
  if [ -f {CONFIG} ]; then
    cp -f -- {CONFIG} {STATE}/rejected.json
    chmod --reference={CONFIG} -- {CONFIG}.provision-new
    chown --reference={CONFIG} -- {CONFIG}.provision-new
  fi
  mv -fT -- {CONFIG}.provision-new {CONFIG}
  if start; then echo 'Docker did not come up; the daemon.json before this one was put back, and it runs with that' >&2
  else echo 'Docker did not come up, not with the daemon.json before this one either' >&2; fi
fi
exit 1
""",
)

RELOAD = Script(
    "docker/reload",
    """
systemctl reload docker.service
timeout 10 docker info >/dev/null
""",
)


@dataclass(frozen=True, kw_only=True)
class DockerService(Step):
    """Docker runs, starts at boot, and has loaded its configuration.

    Args:
        live_restore: whether containers go on while the daemon is away; checked.
        cgroup_driver: the demanded driver, or empty for any driver that survives a daemon-reload; checked.
        proxied: whether instances listen on the loopback address, where Docker's own proxy passes streams on.
        after: ids of the steps that install, configure or restart Docker.
    """

    endangers_cards: ClassVar[bool] = True
    volatile: ClassVar[frozenset[str]] = frozenset({"running"})
    is_health: ClassVar[bool] = True
    words: ClassVar[Vocabulary] = {
        "running": Words("stopped"),
        "enabled": Words("does not start at boot"),
        "masked": Words("masked"),
        "pending": Words("has not loaded daemon.json ({have})", unless=("running",)),
        "replaced": Words("runs the program of an earlier package", unless=("running",)),
    }

    live_restore: bool = True
    cgroup_driver: str = ""
    proxied: bool = False
    after: tuple[str, ...] = ()

    @property
    def id(self) -> str:
        """`service:docker`."""
        return ID

    def fact(self) -> Fact:
        """Reads the daemon."""
        return Fact(daemon_state.COMMAND, lambda answer: _service(daemon_state.read(answer)))

    def want(self, facts: HostFacts, have: State) -> State:
        """Running with the configuration loaded. Refuses a swarm, in which live-restore does not work."""
        if self.live_restore and (have or {}).get("swarm") == "active":
            raise RefusalError(
                "Docker is part of a swarm, where live-restore does not work: leave the swarm, or set "
                "docker.live_restore: false"
            )
        return {"enabled": True, "running": True, "masked": False, "pending": NOTHING, "replaced": False}

    def commands(self, have: State, want: State) -> Sequence[Command]:
        """Enables; then starts, restarts or reloads, as gently as possible."""
        if want is None:
            return []
        present = have or {"enabled": False, "running": False, "masked": False, "pending": NOTHING}
        return [*_registration(present, want), *_running(present, want)]

    def restore(self, facts: HostFacts, have: State, past: Mapping[str, Any]) -> State:
        """Running with the configuration loaded: a rollback stops no Docker because it was found dead."""
        return self.want(facts, have)

    def irrevocable(self, before: State, after: State) -> str:
        """Docker stays with its packages."""
        return "" if before else "Docker stays, with its packages"

    def follows(self, put_back: PutBack) -> Step | None:
        """The service itself: Docker runs after every rollback."""
        return self

    def impact(self, have: State, want: State) -> str:
        """The effect on the containers."""
        if have is None or want is None:
            return "starts or restarts Docker" if want else ""
        if have["running"] and not want["running"]:
            return "stops Docker"
        if not have["running"]:
            return "starts Docker" if want["running"] else ""
        due = _due(have, want)
        return restart_impact(have) if due == RESTARTS else "reloads Docker" if due == RELOADS else ""

    def disrupts(self, have: State, want: State) -> frozenset[str]:
        """Every instance, if instances stop with Docker, or if Docker itself passes their streams on."""
        restarts = have is not None and have["running"] and want is not None and _due(have, want) == RESTARTS
        stops = have is not None and have["running"] and want is not None and not want["running"]
        return stopped_by_restart(have, proxied=self.proxied) if restarts or stops else frozenset()

    def endangers(self, have: State, want: State) -> bool:
        """True where the change restarts Docker, or has systemd reload."""
        if have is None or want is None:
            return False
        return (have["running"] and _due(have, want) == RESTARTS) or bool(_registration(have, want))

    def check(self, live: Any) -> Iterator[Check]:
        """Docker answers, starts at boot, and has the settings that the containers need."""
        unit = live.run("systemctl is-enabled docker.service").stdout.strip()
        yield Check("enabled at boot", unit in ("enabled", *FIXED), True)
        info = live.run("systemctl -q is-active docker.service && timeout 15 docker info --format %s", CHECKED)
        yield Check("answers", info.rc, 0)
        words = [*info.stdout.split(), "", "", ""]
        yield Check("live-restore", words[0] == "true", self.live_restore)
        if self.cgroup_driver:
            yield Check("cgroup driver", words[1], self.cgroup_driver)
        if not self.cgroup_driver or engine_version(words[2]) >= CDI_ENGINE:
            yield Check("containers keep their cards over a daemon-reload", _keeps(live, words[1]), True)


def _keeps(live: Any, driver: str) -> bool | str:
    """True if the path of each container proves that a daemon-reload takes no cards; else the evidence and the cure."""
    try:
        dockerd = daemon_state.read(read_once(live, daemon_state.COMMAND))
    except UnreadableError as error:
        return f"not known: {error}"
    if dockerd.at_risk:
        return f"a daemon-reload takes the cards of {card_path.listed(dockerd.at_risk)}; {card_path.CURE}"
    if driver == "cgroupfs" or dockerd.by_cdi:
        return True
    return f"not proved: systemd makes Docker's cgroups, and no container got cards by CDI; {card_path.CURE}"


CHECKED = "{{.LiveRestoreEnabled}} {{.CgroupDriver}} {{.ServerVersion}}"


def engine_version(version: str) -> tuple[int, ...]:
    """The first two numbers of a version of Docker's engine, such as `(29, 2)`.

    Args:
        version: the daemon's version.
    """
    return tuple(int(part) for part in version.split(".")[:2] if part.isdigit())


def _service(dockerd: Dockerd) -> State:
    if not dockerd.installed:
        return None
    file_state = dockerd.unit.get("UnitFileState", "")
    return {
        "enabled": file_state in ("enabled", *FIXED),
        "running": dockerd.running,
        "masked": file_state.startswith("masked"),
        "pending": daemon_state.pending(dockerd),
        "replaced": dockerd.replaced,
        **evidence(dockerd),
    }


def evidence(dockerd: Dockerd) -> dict[str, Any]:
    """The evidence that the impact of a restart depends on."""
    try:
        live_restore = daemon_state.parse_config(dockerd.config).get("live-restore") is True
    except ValueError:
        live_restore = False
    return {
        "live_restore": live_restore,
        "containers": dockerd.info.get("running", 0) > 0,
        "swarm": dockerd.info.get("swarm", ""),
    }


def restart_impact(have: State) -> str:
    """The effect of a restart of Docker on running containers."""
    if have is None:
        return "restarts Docker"
    if not have.get("containers"):
        return "restarts Docker (no container runs)"
    goes = "they go on, by live-restore" if have.get("live_restore") else "they stop, when their streams have ended"
    return f"restarts Docker while containers run: {goes}"


def stopped_by_restart(have: State, *, proxied: bool) -> frozenset[str]:
    """The instances whose streams a restart of Docker cuts.

    Streams to 127.0.0.1 go through docker-proxy, which ends with the daemon, live-restore or not (seen with 26.1.5).

    Args:
        have: a state with the keys of `evidence`.
        proxied: whether instances listen on the loopback address.
    """
    if have is None or not have.get("containers"):
        return frozenset()
    return frozenset() if have.get("live_restore") and not proxied else EVERY


def restart(have: State) -> Command:
    """Restart or start Docker, and put the previous configuration back if Docker does not come up."""
    live = "live" if (have or {}).get("live_restore") else ""
    return sh(RESTART, live, title="systemctl restart docker.service", timeout=300)


def _registration(have: State, want: State) -> list[Command]:
    was, shall = have or {}, want or {}
    commands: list[Command] = []
    if was.get("masked") and not shall.get("masked"):
        commands.append(run("systemctl", "unmask", "docker.service"))
    if was.get("enabled") != shall.get("enabled"):
        commands.append(run("systemctl", "enable" if shall.get("enabled") else "disable", "docker.service"))
    return commands


def _due(have: Mapping[str, Any], want: Mapping[str, Any]) -> str:
    """The work of a running daemon between two states: `restart`, `reload` or `nothing`."""
    if want["pending"] != NOTHING:
        return NOTHING
    if have.get("replaced") and not want.get("replaced"):
        return RESTARTS
    return str(have["pending"]).partition(":")[0]


def _running(have: State, want: State) -> list[Command]:
    was, shall = have or {}, want or {}
    if was["running"] and not shall["running"]:
        return [run("systemctl", "stop", "docker.socket", "docker.service")]
    due = _due(was, shall)
    if shall["running"] and (not was["running"] or due == RESTARTS):
        return [restart(have)]
    if due == RELOADS:
        return [sh(RELOAD, title="systemctl reload docker.service")]
    return []


@dataclass(frozen=True, kw_only=True)
class GpuDriver(Step):
    """Docker's GPU driver: registered when the daemon starts, if the NVIDIA hook exists by then.

    Args:
        image: an image for a proof by `nvidia-smi` in a container, where the host has the image.
        proxied: see `DockerService`.
        after: ids of the steps that install the hook or restart Docker.
    """

    endangers_cards: ClassVar[bool] = True
    words: ClassVar[Vocabulary] = {
        "registered": Words("Docker started before the NVIDIA toolkit was installed"),
    }

    image: str = ""
    proxied: bool = False
    after: tuple[str, ...] = ()

    @property
    def id(self) -> str:
        """`gpu_driver:docker`."""
        return "gpu_driver:docker"

    def fact(self) -> Fact:
        """Reads the daemon."""
        return Fact(daemon_state.COMMAND, lambda answer: _driver(daemon_state.read(answer)))

    def want(self, facts: HostFacts, have: State) -> State:
        """Registered."""
        return {"registered": True}

    def commands(self, have: State, want: State) -> Sequence[Command]:
        """Restarts Docker; only removing the hook would take the driver away again."""
        return [restart(have)] if want and not (have or {}).get("registered") else []

    def irrevocable(self, before: State, after: State) -> str:
        """Only removing the hook, which is a package, would take the driver away."""
        return "the driver stays, with its packages"

    def impact(self, have: State, want: State) -> str:
        """The effect of the restart."""
        return restart_impact(have) if want else ""

    def disrupts(self, have: State, want: State) -> frozenset[str]:
        """See `DockerService`."""
        return stopped_by_restart(have, proxied=self.proxied) if want else frozenset()

    def endangers(self, have: State, want: State) -> bool:
        """The change restarts Docker."""
        return want is not None

    def diff(self, have: State, want: State) -> Sequence[str]:
        """The reason."""
        return ["the daemon started before the NVIDIA hook was there"] if want else []

    def check(self, live: Any) -> Iterator[Check]:
        """A container with all cards sees the host's cards. Needs no image but the image in use."""
        missing = live.run("docker image inspect --format present %s", self.image).rc if self.image else 1
        if missing:
            noted = live.run("cat %s", f"{daemon_state.NOTES}/hook").stdout.strip()
            yield Check("Docker found the NVIDIA hook when it started", bool(noted), True)
            return
        words = "docker run --rm --pull=never --network=none --gpus=all --label %s --entrypoint=nvidia-smi %s -L"
        inside = live.run(
            words, f"{inspect.PROBE}=1", self.image
        )  # marked, so that a parallel run takes the container for a probe
        outside = sorted(card.uuid for card in live_facts(live).cards)
        seen = cards(inside.stdout) or ending(inside.stderr.strip(), 300)  # a listing counts, also with a warning
        yield Check("a container sees the host's cards", seen, outside)


def cards(listing: str) -> list[str]:
    """The UUIDs of `nvidia-smi -L`."""
    return sorted(line.rpartition("UUID: ")[2].rstrip(") ") for line in listing.splitlines() if "UUID: GPU-" in line)


def _driver(dockerd: Dockerd) -> State:
    if not dockerd.installed:
        return None
    if not dockerd.running:
        raise BlockedError(ID, "docker.service is not running")
    return {"registered": dockerd.hook is True, **evidence(dockerd)}
