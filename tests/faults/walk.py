"""A deploy that is cut at one step after another: each case goes on where the case before was cut."""

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from provision.roles.nginx import LEAN
from tests.faults.cuts import Cut
from tests.faults.running import Running
from tests.faults.screen import first_error, one_clear_screen
from tests.faults.seen import Seen
from tests.faults.watch import Watch
from tests.faults.world import BAD, BALANCER, World
from tests.fleet import at_work, wait_for

# nginx learns of a silent host only by a new connection: each connection that a worker keeps to an instance may swallow
# one more request. Two instances, and as many workers as cores.
KEPT = 2 * (os.cpu_count() or 1)
IMAGE, NEWER = "ollama/ollama:0.34.4", "ollama/ollama:0.33.0"
MODEL, MORE = "deepseek-r1:1.5b", "nomic-embed-text:latest"
KEYS, SOURCES, PINS = "/etc/apt/keyrings", "/etc/apt/sources.list.d", "/etc/apt/preferences.d"
LIB, OLLAMA = "/opt/provision/lib", "/etc/provision/ollama"


@dataclass(frozen=True)
class Story:
    """A deploy with something to do on one host of a serving fleet.

    Args:
        host: the host.
        start: the beginning: gives the host a state from which everything is still to be done.
        settings: role -> settings of the host.
        steps: ids of the steps that the deploy changes, in order.
        live: whether the host served before.
    """

    host: str
    start: Callable[[World], object]
    settings: Mapping[str, Mapping[str, object]]
    steps: tuple[str, ...]
    live: bool

    def prepare(self, world: World) -> None:
        """Write the settings into the inventory."""
        for role, settings in self.settings.items():
            world.set(role, self.host, **settings)

    def missing(self, world: World) -> list[str]:
        """Ids of the steps that a deploy would change now."""
        return world.changes()[self.host]

    def start_over(self, world: World) -> None:
        """Go back to the beginning; the other hosts are as deployed."""
        self.start(world)
        others = [host.name for host in world.lab.hosts() if host.name != self.host]
        for host in [name for name in others if world.changes()[name]]:
            as_deployed(host)(world)
        # The balancer is right to leave out a host that has nothing yet.
        wait_for(lambda: not any(world.changes()[other] for other in others if other != BALANCER))
        wait_for(lambda: self.host != BALANCER or not self.live or world.answers())


def bare(host: str) -> Callable[[World], object]:
    """A host on which nothing was ever done."""
    return lambda world: world.lab.restore(host)


def as_deployed(host: str) -> Callable[[World], object]:
    """A serving host, with the settings of the deployed fleet."""
    return lambda world: world.lab.restore(host, "deployed")


STORIES = {
    "first deploy of a gpu host": Story(
        BAD,
        bare(BAD),
        {},
        (
            f"apt_key:{KEYS}/provision-docker.asc",
            f"apt_source:{SOURCES}/provision-docker.sources",
            f"file:{LIB}/docker-notes",
            "drop_in:docker.service",
            "docker_config:daemon.json",
            "packages:docker",
            "service:docker",
            f"apt_key:{KEYS}/provision-nvidia_toolkit.asc",
            f"apt_source:{SOURCES}/provision-nvidia_toolkit.sources",
            f"file:{PINS}/provision-nvidia_toolkit",
            "packages:nvidia_toolkit",
            "gpu_driver:docker",
            "unit:provision-firewall.service",
            "unit:provision-instances.service",
            f"image:{IMAGE}",
            f"file:{LIB}/ollama-firewall",
            f"file:{OLLAMA}/firewall.rules",
            "service:provision-firewall",
            "firewall:DOCKER-USER",
            f"file:{LIB}/ollama-instances",
            f"file:{OLLAMA}/instances",
            "service:provision-instances",
            "volume:ollama1",
            "volume:ollama2",
            "container:ollama1",
            "container:ollama2",
            f"model:ollama1/{MODEL}",
            "resident:ollama1",
            f"model:ollama2/{MODEL}",
            "resident:ollama2",
        ),
        live=False,
    ),
    "first deploy of a balancer": Story(
        BALANCER,
        bare(BALANCER),
        {},
        (
            "packages:nginx",
            "user:provision-nginx",
            "directory:/var/log/provision-nginx",
            "directory:/var/cache/provision-nginx",
            "build:nginx",
            "link:/opt/provision/nginx/current",
            "program:nginx",
            "file:/etc/logrotate.d/provision-nginx",
            "unit:provision-nginx.service",
            "config:balancer",
            "service:provision-nginx",
        ),
        live=False,
    ),
    "change of a gpu host": Story(
        BAD,
        as_deployed(BAD),
        {"docker": {"log_max_file": 4}, "ollama": {"image": NEWER, "context_length": 8192, "models": [MODEL, MORE]}},
        (
            "docker_config:daemon.json",
            "service:docker",
            "gpu_driver:docker",
            f"image:{NEWER}",
            "firewall:DOCKER-USER",
            f"file:{OLLAMA}/instances",
            "service:provision-instances",
            "container:ollama1",
            "container:ollama2",
            f"model:ollama1/{MORE}",
            "resident:ollama1",
            f"model:ollama2/{MORE}",
            "resident:ollama2",
        ),
        live=True,
    ),
    "change of a balancer": Story(
        BALANCER,
        as_deployed(BALANCER),
        {
            "nginx": {"build": "each", "log_days": 7, "configure_args": [*LEAN, "--with-http_sub_module"]},
            "balancer": {"queue": 30},
        },
        (
            "build:nginx",
            "link:/opt/provision/nginx/current",
            "file:/etc/logrotate.d/provision-nginx",
            "config:balancer",
        ),
        live=True,
    ),
    # the change that a balancer sees every day
    "configuration of a balancer": Story(
        BALANCER, as_deployed(BALANCER), {"balancer": {"queue": 30}}, ("config:balancer",), live=True
    ),
}


@dataclass(frozen=True)
class Place:
    """The place where a deploy is cut.

    Args:
        story: a key of `STORIES`.
        step: id of the step.
        last: whether the step is the story's last.
    """

    story: str
    step: str
    last: bool = False

    def __str__(self) -> str:
        return f"{self.story}, {self.step}"


PLACES = [Place(name, step, step == story.steps[-1]) for name, story in STORIES.items() for step in story.steps]


# Steps slow enough for a cut while the host is at work on the step, instead of at its beginning.
AT_WORK = [
    Place("first deploy of a gpu host", "packages:docker"),
    *(
        Place("change of a gpu host", step)
        for step in (
            "service:docker",
            f"image:{NEWER}",
            "container:ollama1",
            f"model:ollama1/{MORE}",
            "resident:ollama1",
        )
    ),
    Place("change of a balancer", "build:nginx"),
    Place("configuration of a balancer", "config:balancer"),
]


def cut_there(world: World, place: Place, cut: Cut, seen: Seen, *, follow: bool = False, working: bool = False) -> None:
    """Cut a deploy at a place, and judge the outcome.

    Args:
        world: the fleet.
        place: the place.
        cut: the cut.
        seen: takes the results.
        follow: whether a second deploy follows to its end. After the last step of a story a second deploy always
            follows; before, the next case goes on from here.
        working: whether to cut while the host is at work on the step; else before the host gets the step.
    """
    story = STORIES[place.story]
    story.prepare(world)
    if place.step == story.steps[0] or place.step not in story.missing(world):
        story.start_over(world)
    serves = cut.serves and story.live
    asked = serves or story.host != BALANCER
    with Watch(world.lab, story.host, balancer=asked, streams=True, goes=not cut.serves) as watch:
        _strike(world, story, place.step, cut, seen, working=working)
        if cut.code is not None:
            world.expire()
        watch.check(lost=KEPT if cut.silent and watch.served else 0)
        if story.host == BALANCER and story.live:
            world.nginx_is_good()
        if not (place.last or follow):
            seen.again = "the next case goes on from here"
            return
        seen.second(world)
        watch.check(lost=KEPT if cut.silent and watch.served else 0)
    if story.live:
        world.put_back(story.host)


def _strike(world: World, story: Story, step: str, cut: Cut, seen: Seen, *, working: bool) -> None:
    at = rf"^{story.host} +changing +{re.escape(step)}(\s|$)"
    running = Running(world.fleet, "deploy", "--yes", "-v", "--lock-wait", "3m", hold_at=at)
    try:
        running.until_held()
        if working:
            running.go()
            at_work(world.fleet, step, host=story.host)
        cut.strike(world, story.host, running)
        running.go()
        done = running.end()
        seen.first(done)
        if cut.code is None:
            _refused(world, story.host, seen)
        else:
            left = "|".join(map(re.escape, story.steps))  # the answer to this step may have come before the cut
            codes = (cut.code, 7)  # 7 where the run had begun to replace an instance, because the roll is then halted
            one_clear_screen(done, story.host, codes, "unreachable", left)
    finally:
        running.kill()
        cut.lift(world, story.host)


def _refused(world: World, host: str, seen: Seen) -> None:
    """A deploy from another machine right after the controller was killed is kept off by the lease."""
    elsewhere = {"XDG_STATE_HOME": str(world.folder)}  # the controller's own machine knows that the run is dead
    refused = world.fleet.provision("deploy", "--yes", env=elsewhere)
    # the dead run has locked the balancer as well, and a lock that is a second older is told in words of its own
    one_clear_screen(refused, host, (6,), "locked", errors=2)
    seen.said = f"from another machine: {first_error(refused)}"
