"""nginx from its source: a prefix per recipe, compiled once per platform and installed from an archive."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from provision.command import READ_TIMEOUT, Command, Obtain, Put, Run, run, sh
from provision.steps.base import Answer, Check, Fact, Owned, RefusalError, State, Step, UnreadableError, differing
from provision.steps.facts import HostFacts
from provision.steps.nginx.build_scripts import CLOSE, INSTALL, LIST, MAKE, READ, REMOVE_ALL
from provision.steps.nginx.source import PACKAGED, Source
from provision.steps.nginx_paths import CACHE, ROOT
from provision.steps.system.apt import INSTALLED, Packages
from provision.steps.wording import Vocabulary, Words

ARTIFACTS = "/var/lib/provision/artifacts"

DISTRIBUTIONS = ("debian", "ubuntu")

TOOLS = Packages(
    name="nginx_build",
    packages=dict.fromkeys(
        ("gcc", "make", "libc6-dev", "libpcre2-dev", "zlib1g-dev", "libssl-dev", "ca-certificates", "curl")
    ),
)
"""Packages for compiling; installed only where nginx is compiled."""


PATCHING = Packages(name="nginx_build", packages={**TOOLS.packages, **dict.fromkeys(("patch", "xz-utils"))})
"""Packages for compiling with patches."""


@dataclass(frozen=True, kw_only=True)
class Build(Step):
    """A build in its prefix, intact.

    Args:
        source: the source.
        mode: `once` per platform for the whole fleet, or on `each` host.
        host: the only host that may compile; empty for the first host that needs the build.
        jobs: number of parallel compilers; 0 for one per processor.
    """

    words: ClassVar[Vocabulary] = {
        "prefix": Words("another place", "prefix"),
        "recipe": Words("built from other arguments or another source"),
        "platform": Words("built for another platform", "platform"),
        "patches": Words("built with other patches", "sha256 of the patches"),
        "intact": Words("its binary or module is not the one that was built"),
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
        """The build for this host's platform. Refuses distributions on which the build was never tried, and a module of
        a package that is for another nginx."""
        if facts.distribution not in DISTRIBUTIONS:
            raise RefusalError(
                f"nginx is built on Debian and Ubuntu only, and this host is {facts.distribution or 'neither'}"
            )
        here = (facts.distribution, facts.version)
        if self.source.module and PACKAGED.get(here) != self.source.version:
            known = ", ".join(f"{version} on {name} {release}" for (name, release), version in PACKAGED.items())
            raise RefusalError(
                "balancer.router: njs needs nginx' JavaScript module, and no package here is for nginx"
                f" {self.source.version} on {' '.join(here)} (known: {known}). Three ways out: that version; the source"
                " of the module in nginx.njs; or no balancer.router, and clients reach every model at /models/NAME/"
            )
        return {
            "prefix": self.source.prefix,
            "recipe": self.source.recipe,
            "platform": platform(facts),
            **({"patches": [patch.sha256 for patch in self.source.patches]} if self.source.patches else {}),
            "intact": True,
            "open": [],
        }

    def commands(self, have: State, want: State) -> Sequence[Command]:
        """Obtains the archive, or makes it here, and installs it; older builds go, except for the build in use."""
        if want is None:
            return [run("rm", "-rf", "--", self.source.prefix, title=f"remove {self.source.prefix}")]
        if _only_open(have, want):
            return [sh(CLOSE, self.source.prefix, title=f"close {self.source.prefix} to others")]
        archive = self._archive(want["platform"])
        folder = run("install", "-d", "-m", "0700", "--", "/var/lib/provision", ARTIFACTS)
        archive_commands = (
            [self._obtain(archive, want["platform"])] if self.mode == "once" else self._make(archive, want["platform"])
        )
        words = (archive, self.source.prefix, self.source.recipe, want["platform"], *want.get("patches", ()))
        return [folder, *archive_commands, sh(INSTALL, *words, title=f"install {self.source.prefix}")]

    def _archive(self, platform: str) -> str:
        return f"{ARTIFACTS}/nginx-{self.source.version}-{self.source.recipe[:8]}-{platform}.tar"

    def _obtain(self, archive: str, platform: str) -> Obtain:
        key = f"nginx {self.source.recipe} {platform}"
        title = f"{self.source.name} for {platform}"
        return Obtain(key, archive, tuple(self._make(archive, platform)), self.host, title)

    def _make(self, archive: str, platform: str) -> list[Run | Put]:
        source = self.source
        words = (archive, platform, source.sha256, source.url, str(self.jobs), source.recipe, source.prefix)
        title = f"compile {source.name}"
        needed = PATCHING if source.patches else TOOLS
        tools = needed.commands(None, dict.fromkeys(needed.packages, INSTALLED))
        return [
            *(command for command in tools if isinstance(command, Run)),
            sh(MAKE, *words, *source.parts, *source.configure, title=title, timeout=1800, job=True, progress=_progress),
        ]

    def irrevocable(self, before: State, after: State) -> str:
        """A build alone does nothing: the previous build is still there."""
        return "it stays until the next build, and is not used"

    def impact(self, have: State, want: State) -> str:
        """Whether the change compiles."""
        if want is None or _only_open(have, want):
            return ""
        where = f" on {self.host}" if self.host else ""
        once = f", once for {want['platform']}{where}" if self.mode == "once" else ""
        return f"compiles {self.source.name} (about a minute{once}; installs a C compiler there)"

    def check(self, live: Any) -> Iterator[Check]:
        """The binary is the built binary, starts, and was configured as asked."""
        result = live.run("%s -V", self.source.binary)
        yield Check("version", _version(result.stderr), self.source.version)
        built = result.stderr.partition("configure arguments:")[2]
        yield Check("missing configure arguments", [a for a in self.source.configure if a not in built], [])
        stamp = live.run("sed -n 's/^sha256 //p' %s", f"{self.source.prefix}/.provision").stdout.strip()
        if self.source.patches:
            patches = live.run("sed -n 's/^patch //p' %s", f"{self.source.prefix}/.provision").stdout.split()
            yield Check("patches", patches, [patch.sha256 for patch in self.source.patches])
        yield Check("sha256", live.run("sha256sum <%s", self.source.binary).stdout[:64], stamp or "no stamp")

    def _parse(self, answer: Answer) -> State:
        if answer.exit:
            raise UnreadableError(answer.complaint or f"exited {answer.exit}")
        values = dict(line.partition(" ")[::2] for line in answer.text.splitlines())
        if "absent" in values:
            return None
        if "now" not in values:
            raise UnreadableError("the answer ends early")
        return {
            "prefix": self.source.prefix,
            "recipe": values.get("recipe", ""),
            "platform": values.get("platform", ""),
            **self._patches(answer),
            "intact": bool(values["now"]) and values["now"] == values.get("sha256") and self._has_module(values),
            "open": sorted(line[5:] for line in answer.text.splitlines() if line.startswith("open /")),
        }

    def _has_module(self, values: Mapping[str, str]) -> bool:
        """Whether the JavaScript module is the one of the stamp, and is there if nginx is to load it."""
        stamped = values.get("module", "")
        return stamped == values.get("has", "")[:64] and bool(stamped) >= bool(self.source.module)

    def _patches(self, answer: Answer) -> dict[str, list[str]]:
        """The patches that the stamp names; nothing for a build without patches."""
        found = [line[6:] for line in answer.text.splitlines() if line.startswith("patch ")]
        return {"patches": found} if found or self.source.patches else {}


def _only_open(have: State, want: State) -> bool:
    """Whether the build is right, but users besides root may write to it."""
    return have is not None and [key for key, _ in differing(have, want)] == ["open"]


def platform(facts: HostFacts) -> str:
    """The platform of a binary: distribution, release, architecture.

    Raises:
        RefusalError: the host's values cannot be a platform.
    """
    name = f"{facts.distribution}-{facts.version or 'rolling'}-{facts.architecture}"
    if not re.fullmatch(r"[a-z0-9._-]{1,100}", name):
        raise RefusalError(f"this host calls its platform {name!r}")
    return name


def _version(text: str) -> str:
    match = re.search(r"nginx version: nginx/(\S+)", text)
    return match[1] if match else text.strip()[:200] or "it does not start"


def _progress(line: str) -> str | None:
    """The progress of a build: its stages, and the file being compiled."""
    if line.startswith("==> "):
        return line[4:]
    compiled = re.search(r"-o objs/(\S+)\.o\b", line)
    return f"compiling {compiled[1]}.c" if compiled else None


@dataclass(frozen=True, kw_only=True)
class Builds(Step):
    """All builds together, for their removal."""

    foundation_of: ClassVar[frozenset[str]] = frozenset({"nginx", "balancer"})

    @property
    def id(self) -> str:
        """`build:nginx`."""
        return "build:nginx"

    def fact(self) -> Fact:
        """Lists the folder of builds."""
        return Fact(sh(LIST, ROOT, title=f"list {ROOT}", timeout=READ_TIMEOUT), _builds)

    def want(self, facts: HostFacts, have: State) -> State:
        """No build."""
        return None

    def commands(self, have: State, want: State) -> Sequence[Command]:
        """Removes the builds and their caches; logs are the operator's and stay."""
        return [sh(REMOVE_ALL, ROOT, CACHE, title=f"remove {ROOT}")]

    def irrevocable(self, before: State, after: State) -> str:
        """The compiled builds are gone."""
        return "nginx was removed and must be built again"

    def check(self, live: Any) -> Iterator[Check]:
        """The folder of builds is gone."""
        yield Check("gone", live.run("ls -d -- %s", ROOT).rc != 0, True)


def _builds(answer: Answer) -> State:
    if answer.exit:
        raise UnreadableError(answer.complaint or f"ls exited {answer.exit}")
    names = answer.text.split()
    return {"builds": names} if names else None


@dataclass(frozen=True, kw_only=True)
class OwnedBuilds(Owned):
    """Finds builds, which are orphans when the role is gone. With each new build the old builds go, except for one."""

    def fact(self) -> Fact:
        """Lists the folder of builds."""
        fact = Builds().fact()
        return Fact(fact.command, lambda answer: _marked("build:nginx", fact.parse(answer)))

    def step(self, step_id: str) -> Step:
        """All builds, to be removed."""
        return Builds()


def _marked(step_id: str, state: State) -> State:
    return {} if state is None else {step_id: state}
