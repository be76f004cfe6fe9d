"""nginx from its source: a prefix per recipe, compiled once per platform and installed from an archive."""

import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from provision.command import READ_TIMEOUT, Command, Obtain, Put, Run, run, sh
from provision.steps.base import Answer, Check, Fact, Owned, RefusalError, State, Step, UnreadableError, differing
from provision.steps.facts import HostFacts
from provision.steps.nginx.build_scripts import CLOSE, INSTALL, LIST, MAKE, READ, REMOVE_ALL
from provision.steps.system.apt import INSTALLED, Packages
from provision.steps.wording import Vocabulary, Words

ROOT = "/opt/provision/nginx"
CURRENT = f"{ROOT}/current"
ARTIFACTS = "/var/lib/provision/artifacts"
USER = "provision-nginx"
CONFIG = "/etc/provision/nginx"
RUN = "/run/provision-nginx"
LOGS = "/var/log/provision-nginx"
CACHE = "/var/cache/provision-nginx"
PID = f"{RUN}/nginx.pid"
UNIT = "provision-nginx.service"

LAYOUT = (
    f"--user={USER}",
    f"--group={USER}",
    f"--conf-path={CONFIG}/nginx.conf",
    f"--pid-path={PID}",
    f"--lock-path={RUN}/nginx.lock",
    f"--error-log-path={LOGS}/error.log",
    f"--http-log-path={LOGS}/access.log",
    f"--http-client-body-temp-path={CACHE}",
    f"--http-proxy-temp-path={CACHE}",
)
"""Compiled in, so that `nginx -t` by hand looks where the service looks."""

DISTRIBUTIONS = ("debian", "ubuntu")

TOOLS = Packages(
    name="nginx_build",
    packages=dict.fromkeys(
        ("gcc", "make", "libc6-dev", "libpcre2-dev", "zlib1g-dev", "libssl-dev", "ca-certificates", "curl")
    ),
)
"""What compiling needs; installed where nginx is compiled and nowhere else."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """What is built: equal sources give interchangeable binaries on one platform.

    Args:
        version: nginx's version.
        sha256: of the tarball.
        url: where the tarball is; not part of the recipe, because the hash says what it is.
        arguments: of `configure`, without the paths, which are ours.
    """

    version: str
    sha256: str
    url: str
    arguments: tuple[str, ...] = ()

    @property
    def recipe(self) -> str:
        """The hash of all that makes a difference."""
        parts = {"format": 1, "version": self.version, "sha256": self.sha256, "arguments": (*LAYOUT, *self.arguments)}
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    @property
    def prefix(self) -> str:
        """Where it is installed."""
        return f"{ROOT}/{self.version}-{self.recipe[:8]}"

    @property
    def binary(self) -> str:
        """The program."""
        return f"{self.prefix}/sbin/nginx"

    @property
    def configure(self) -> tuple[str, ...]:
        """All arguments of `configure`."""
        return (f"--prefix={self.prefix}", *LAYOUT, *self.arguments)


@dataclass(frozen=True, kw_only=True)
class Build(Step):
    """One build in its prefix, intact.

    Args:
        source: what is built.
        mode: `once` per platform for the whole fleet, or on `each` host.
        host: the only host that may compile; empty for whichever comes first.
        jobs: how many compilers at once; 0 for one per processor.
    """

    words: ClassVar[Vocabulary] = {
        "prefix": Words("another place", "place"),
        "recipe": Words("built from other arguments or another source"),
        "platform": Words("built for another platform", "platform"),
        "intact": Words("its binary is not the one that was built"),
        "open": Words("open to others", "open to others"),
    }

    source: Source
    mode: str = "once"
    host: str = ""
    jobs: int = 0

    @property
    def id(self) -> str:
        """`build:nginx`."""
        return "build:nginx"

    def fact(self) -> Fact:
        """Reads the prefix's stamp and hashes its binary."""
        command = sh(READ, self.source.prefix, title=f"read {self.source.prefix}", timeout=READ_TIMEOUT)
        return Fact(command, self._parse)

    def want(self, facts: HostFacts, have: State) -> State:
        """The build for this host's platform. Refuses distributions on which it was never tried."""
        if facts.distribution not in DISTRIBUTIONS:
            raise RefusalError(
                f"nginx is built on Debian and Ubuntu only, and this host is {facts.distribution or 'neither'}"
            )
        return {
            "prefix": self.source.prefix,
            "recipe": self.source.recipe,
            "platform": platform(facts),
            "intact": True,
            "open": [],
        }

    def commands(self, have: State, want: State) -> Sequence[Command]:
        """Obtains the archive, or makes it here, and installs it; other builds but the one in use go."""
        if want is None:
            return [run("rm", "-rf", "--", self.source.prefix, title=f"remove {self.source.prefix}")]
        if _only_open(have, want):
            return [sh(CLOSE, self.source.prefix, title=f"close {self.source.prefix} to others")]
        archive = self._archive(want["platform"])
        folder = run("install", "-d", "-m", "0700", "--", "/var/lib/provision", ARTIFACTS)
        made = (
            [self._obtain(archive, want["platform"])] if self.mode == "once" else self._make(archive, want["platform"])
        )
        words = (archive, self.source.prefix, self.source.recipe, want["platform"])
        return [folder, *made, sh(INSTALL, *words, title=f"install {self.source.prefix}")]

    def _archive(self, platform: str) -> str:
        return f"{ARTIFACTS}/nginx-{self.source.version}-{self.source.recipe[:8]}-{platform}.tar"

    def _obtain(self, archive: str, platform: str) -> Obtain:
        key = f"nginx {self.source.recipe} {platform}"
        title = f"nginx {self.source.version} for {platform}"
        return Obtain(key, archive, tuple(self._make(archive, platform)), self.host, title)

    def _make(self, archive: str, platform: str) -> list[Run | Put]:
        source = self.source
        words = (archive, platform, source.sha256, source.url, str(self.jobs), source.recipe, source.prefix)
        title = f"compile nginx {source.version}"
        tools = TOOLS.commands(None, dict.fromkeys(TOOLS.packages, INSTALLED))
        return [
            *(command for command in tools if isinstance(command, Run)),
            sh(MAKE, *words, *source.configure, title=title, timeout=1800, job=True, progress=_progress),
        ]

    def irrevocable(self, before: State, after: State) -> str:
        """A build alone does nothing: the one before it is there still."""
        return "it stays until the next build, and is not used"

    def impact(self, have: State, want: State) -> str:
        """Says that it compiles."""
        if want is None or _only_open(have, want):
            return ""
        where = f" on {self.host}" if self.host else ""
        once = f", once for {want['platform']}{where}" if self.mode == "once" else ""
        return f"compiles nginx {self.source.version} (about a minute{once}; installs a C compiler there)"

    def check(self, live: Any) -> Iterator[Check]:
        """The binary is the one that was built, starts, and was built as asked."""
        said = live.run("%s -V", self.source.binary)
        yield Check("version", _version(said.stderr), self.source.version)
        built = said.stderr.partition("configure arguments:")[2]
        yield Check("missing configure arguments", [a for a in self.source.configure if a not in built], [])
        stamp = live.run("sed -n 's/^sha256 //p' %s", f"{self.source.prefix}/.provision").stdout.strip()
        yield Check("sha256", live.run("sha256sum <%s", self.source.binary).stdout[:64], stamp or "no stamp")

    def _parse(self, answer: Answer) -> State:
        if answer.exit:
            raise UnreadableError(answer.complaint or f"exited {answer.exit}")
        said = dict(line.partition(" ")[::2] for line in answer.text.splitlines())
        if "absent" in said:
            return None
        if "now" not in said:
            raise UnreadableError("the answer ends early")
        return {
            "prefix": self.source.prefix,
            "recipe": said.get("recipe", ""),
            "platform": said.get("platform", ""),
            "intact": bool(said["now"]) and said["now"] == said.get("sha256"),
            "open": sorted(line[5:] for line in answer.text.splitlines() if line.startswith("open /")),
        }


def _only_open(have: State, want: State) -> bool:
    """Whether the build is right, and others than root may write to it."""
    return have is not None and [key for key, _ in differing(have, want)] == ["open"]


def platform(facts: HostFacts) -> str:
    """What a binary depends on: distribution, release, architecture.

    Raises:
        RefusalError: the host says something that cannot be one.
    """
    name = f"{facts.distribution}-{facts.version or 'rolling'}-{facts.architecture}"
    if not re.fullmatch(r"[a-z0-9._-]{1,100}", name):
        raise RefusalError(f"this host calls its platform {name!r}")
    return name


def _version(text: str) -> str:
    found = re.search(r"nginx version: nginx/(\S+)", text)
    return found[1] if found else text.strip()[:200] or "it does not start"


def _progress(line: str) -> str | None:
    """What is shown of a build: its stages, and the file that is being compiled."""
    if line.startswith("==> "):
        return line[4:]
    compiled = re.search(r"-o objs/(\S+)\.o\b", line)
    return f"compiling {compiled[1]}.c" if compiled else None


@dataclass(frozen=True, kw_only=True)
class Builds(Step):
    """Every build together, for their removal."""

    foundation_of: ClassVar[frozenset[str]] = frozenset({"nginx", "balancer"})

    @property
    def id(self) -> str:
        """`build:nginx`."""
        return "build:nginx"

    def fact(self) -> Fact:
        """Lists the folder of builds."""
        return Fact(sh(LIST, ROOT, title=f"list {ROOT}", timeout=READ_TIMEOUT), _builds)

    def want(self, facts: HostFacts, have: State) -> State:
        """None of them."""
        return None

    def commands(self, have: State, want: State) -> Sequence[Command]:
        """Removes them and what they kept for themselves; logs are the operator's and stay."""
        return [sh(REMOVE_ALL, ROOT, CACHE, title=f"remove {ROOT}")]

    def irrevocable(self, before: State, after: State) -> str:
        """What was compiled is gone."""
        return "nginx was removed and must be built again"

    def check(self, live: Any) -> Iterator[Check]:
        """There is none."""
        yield Check("gone", live.run("ls -d -- %s", ROOT).rc != 0, True)


def _builds(answer: Answer) -> State:
    if answer.exit:
        raise UnreadableError(answer.complaint or f"ls exited {answer.exit}")
    names = answer.text.split()
    return {"builds": names} if names else None


@dataclass(frozen=True, kw_only=True)
class OwnedBuilds(Owned):
    """Finds builds: an orphan when the role is gone. Old ones go, but for one, with each new build."""

    def fact(self) -> Fact:
        """Lists the folder of builds."""
        found = Builds().fact()
        return Fact(found.command, lambda answer: _marked("build:nginx", found.parse(answer)))

    def step(self, step_id: str) -> Step:
        """All builds, to be removed."""
        return Builds()


def _marked(step_id: str, state: State) -> State:
    return {} if state is None else {step_id: state}
