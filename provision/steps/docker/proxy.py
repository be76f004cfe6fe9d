"""Docker's proxy: variables of the daemon, in a file for root alone that our drop-in names.

Variables work with every Docker from 20.10 to 29; the key `proxies` of daemon.json is unknown before 23.0, and such a
daemon does not start with the key. `Environment=` in a unit would show a password to every user of the host, and
`EnvironmentFile=` shows a path (docs/facts.md#proxies). The daemon reads its variables at a start, so every change
restarts Docker.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from provision.command import Command
from provision.inventory.proxy import ProxyUrl
from provision.steps.base import Check, Fact, RefusalError, State, Step, differing
from provision.steps.docker import daemon_state
from provision.steps.docker.daemon_state import CONFIG, PROXY, Dockerd
from provision.steps.docker.service import evidence, restart_impact
from provision.steps.facts import HostFacts
from provision.steps.system.file import FILE_WORDS, change_file
from provision.steps.system.file_scan import Content
from provision.steps.system.proxy import MODE, about, environment
from provision.steps.wording import Vocabulary, Words

KIND = "docker_proxy"
_FILE = ("sha256", "mode", "owner")
_VARIABLES = re.compile(r"^\s*Environment\s*=.*\b(http|https|no)_proxy=", re.IGNORECASE | re.MULTILINE)
_ASKED = "{{.HTTPProxy}}\n{{.HTTPSProxy}}"


@dataclass(frozen=True, kw_only=True)
class DockerProxy(Step):
    """The file of variables for Docker's daemon; no file without a proxy.

    Args:
        http: the proxy for http:// addresses, or None.
        https: the proxy for https:// addresses, or None.
        direct: the places to reach without a proxy.
    """

    words: ClassVar[Vocabulary] = {**FILE_WORDS, "sha256": Words("another proxy")}
    volatile: ClassVar[frozenset[str]] = frozenset({"running"})

    http: ProxyUrl | None = field(default=None, repr=False)
    https: ProxyUrl | None = field(default=None, repr=False)
    direct: tuple[str, ...] = ()

    @property
    def id(self) -> str:
        """`docker_proxy:PATH`."""
        return f"{KIND}:{PROXY}"

    def fact(self) -> Fact:
        """Reads the daemon, and the hash of the file."""
        return Fact(daemon_state.COMMAND, lambda answer: proxy_state(daemon_state.read(answer)))

    def want(self, facts: HostFacts, have: State) -> State:
        """The file, or none. Refuses an operator's `proxies` in daemon.json, which Docker prefers to variables."""
        if not (self.http or self.https):
            return None if have is None else {"sha256": None}
        if (have or {}).get("foreign"):
            raise RefusalError(
                f'{CONFIG} has the key "proxies", which Docker prefers to the proxy of the inventory: remove the key '
                f"from the file, or the section proxy from the inventory"
            )
        text = Content(environment(self.http, self.https, self.direct, upper=True))
        return {"sha256": text, "mode": f"{MODE:04o}", "owner": "root:root"}

    def commands(self, have: State, want: State) -> Sequence[Command]:
        """Writes or removes the file. The restart of Docker is the change of its service."""
        return change_file(PROXY, _file(have), _file(want))

    def restore(self, facts: HostFacts, have: State, past: Mapping[str, Any]) -> State:
        """The past file, from the store of the host."""
        return {key: past[key] for key in (_FILE if past["sha256"] else _FILE[:1])}

    def impact(self, have: State, want: State) -> str:
        """The restart of a running Docker, which follows, and an operator's variables that count no more: systemd
        prefers `EnvironmentFile=` to `Environment=` (systemd.exec(5))."""
        same = have is not None and want is not None and have["sha256"] == want["sha256"]
        if have is None or same:
            return ""
        words = [restart_impact(have)] if have.get("running") else []
        if have.get("theirs") and want is not None and want["sha256"] is not None:
            theirs = ", ".join(have["theirs"])
            words.append(f"wins over the proxy variables in {theirs}: copy their NO_PROXY into proxy.no_proxy")
        return "; ".join(words)

    def diff(self, have: State, want: State) -> Sequence[str]:
        """The proxies without passwords; the text of the file is not shown."""
        if want is None or want["sha256"] is None:
            return ["Docker asks registries directly"]
        ways = about(self.http, self.https, self.direct) if self.http or self.https else ()
        changed = ["sha256"] if have is None else [key for key, _ in differing(have, want)]
        return [f"{', '.join(changed)}: {PROXY}, whose text is not shown: it may hold secrets", *ways]

    def check(self, live: Any) -> Iterator[Check]:
        """The running daemon uses these proxies; Docker itself hides passwords. Without a proxy here, an operator's own
        proxy is no fault, and only our file must be gone."""
        if not (self.http or self.https):
            yield Check(f"{PROXY} is there", live.file(PROXY).exists, False)
            return
        asked = live.run("docker info --format %s", _ASKED).stdout.splitlines()
        for name, url, said in zip(("http", "https"), (self.http, self.https), (*asked, "", ""), strict=False):
            expected = url.endpoint if url else ""
            yield Check(f"proxy for {name}://", said.rpartition("@")[2].rpartition("://")[2].rstrip("/"), expected)


def proxy_state(dockerd: Dockerd) -> State:
    """The state of the file, with what the daemon and its unit say of proxies."""
    if not (dockerd.installed or dockerd.proxy):
        return None
    return {
        **dict(zip(_FILE, dockerd.proxy or (None, None, None), strict=True)),
        **evidence(dockerd),
        "running": dockerd.running,
        "foreign": _is_foreign(dockerd),
        **({"theirs": theirs} if (theirs := _theirs(dockerd)) else {}),
    }


def _theirs(dockerd: Dockerd) -> list[str]:
    """The files of docker.service in which an operator has set variables for a proxy."""
    return sorted(path for path, text in dockerd.texts.items() if _VARIABLES.search(text))


def _is_foreign(dockerd: Dockerd) -> bool:
    """Whether daemon.json has a key `proxies` that is not ours."""
    try:
        there, ours = (daemon_state.parse_config(text) for text in (dockerd.config, dockerd.ours.encode()))
    except ValueError:
        return False
    return "proxies" in there and "proxies" not in ours


def _file(state: State) -> State:
    if state is None or state["sha256"] is None:
        return None
    return {"kind": "file", **{key: state[key] for key in _FILE}}
