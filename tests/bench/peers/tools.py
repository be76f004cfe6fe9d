"""The tools: the command of each, and the output of each where nothing changed."""

import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tests.bench.peers.install import HERE, strategies
from tests.bench.peers.job import Job

# The peers' output where nothing was changed.
PYINFRA_QUIET = re.compile(r"Grand total +\d+ +- +- ")
ANSIBLE_QUIET = re.compile(
    r"\A(?!.*changed=[1-9])(?!.*failed=[1-9])(?!.*unreachable=[1-9]).*PLAY RECAP.* changed=0 ", re.DOTALL
)


@dataclass(frozen=True)
class Tool:
    """One line of the tables.

    Args:
        name: name in the tables.
        words: the command that gives the hosts' first instances a weight.
        env: additions to its environment.
        quiet: pattern of standard output and error where nothing was changed.
        changes: whether the tool can change anything.
    """

    name: str
    words: Callable[[int], list[str]]
    quiet: re.Pattern[str]
    env: Callable[[int], Mapping[str, str]] = field(default=lambda weight: {})
    changes: bool = True


def tools(job: Job, programs: Mapping[str, Path]) -> list[Tool]:
    """All tools, the floor first.

    Args:
        job: the job of the tools.
        programs: folders of the installed peers' programs.
    """
    peers = {"pyinfra": _pyinfra, "ansible": _ansible}
    return [
        *_ours(job),
        *(tool for name, make in peers.items() if name in programs for tool in make(job, programs[name])),
    ]


def floor_of_change(job: Job) -> Tool:
    """A command over SSH to write the upstream and reload nginx."""
    return Tool("floor", lambda weight: _floor(job.path(f"floor-change-{weight}")), re.compile(""))


def _floor(path: Path) -> list[str]:
    return [sys.executable, str(HERE / "floor.py"), str(path)]


def _ours(job: Job) -> list[Tool]:
    def words(*command: str) -> Callable[[int], list[str]]:
        return lambda weight: job.fleet.provision(*command, inventory=job.inventory[weight])

    all_ok = re.compile(rf"^{job.size} ok of {job.size} ", re.MULTILINE)
    return [
        Tool("floor", lambda weight: _floor(job.path("floor-read")), re.compile(""), changes=False),
        Tool("provision deploy", words("deploy", "--yes"), all_ok),
        Tool("provision deploy -t balancer", words("deploy", "--yes", "--tags", "balancer"), all_ok),
        Tool("provision plan", words("plan"), re.compile("0 to add, 0 to change, 0 to remove"), changes=False),
        Tool("provision verify", words("verify"), re.compile("PASSED"), changes=False),
    ]


def _pyinfra(job: Job, programs: Path) -> list[Tool]:
    folder = HERE / "pyinfra"
    words = [str(programs / "pyinfra"), "--yes", "--parallel", str(job.size)]
    tool = Tool(
        "pyinfra",
        lambda weight: [*words, str(folder / "inventory.py"), str(folder / "deploy.py")],
        PYINFRA_QUIET,
        lambda weight: {"BENCH_JOB": str(job.path("pyinfra", weight))},
    )
    return [tool]


def _ansible(job: Job, programs: Path) -> list[Tool]:
    folder = HERE / "ansible"
    playbook = [str(programs / "ansible-playbook"), "--forks", str(job.size), "-i", str(job.path("ansible"))]
    plain = {"ANSIBLE_CONFIG": str(folder / "ansible.cfg")}
    mitogen = {"ANSIBLE_STRATEGY": "mitogen_linear", "ANSIBLE_STRATEGY_PLUGINS": str(strategies(programs))}

    def words(weight: int) -> list[str]:
        short = [] if job.whole else ["--skip-tags", "whole"]
        return [*playbook, *short, "-e", f"weight={weight}", str(folder / "site.yml")]

    return [
        Tool("ansible-core + mitogen", words, ANSIBLE_QUIET, lambda weight: {**plain, **mitogen}),
        Tool("ansible-core", words, ANSIBLE_QUIET, lambda weight: plain),
    ]
