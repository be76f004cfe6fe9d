"""The SSH options of one host from all sources, in OpenSSH's words and in order of precedence."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from provision.errors import Problem
from provision.inventory.paths import beside
from provision.inventory.sshargs import jump_of_command, parse
from provision.inventory.sshconfig import Lookup
from provision.inventory.value import Value
from provision.inventory.variables import ARGUMENTS, KEY, PORT, TIMEOUT, USER, Reader

_FROM_CONFIG = ("user", "port", "proxyjump", "hostkeyalias", "connecttimeout")


@dataclass(frozen=True)
class Option:
    """One option.

    Args:
        words: the value; several words for key files and known_hosts files.
        origin: the place of the option.
    """

    words: tuple[str, ...]
    origin: Value

    @property
    def word(self) -> str:
        """The first word, the only word of most options."""
        return self.words[0]

    def paths(self) -> tuple[str, ...]:
        """Return the words as absolute paths: `~` and `%d` are the home, a relative path is beside the file."""
        named = [word.replace("%d", "~") for word in self.words if word.lower() != "none"]
        return tuple(str(beside(word, self.origin.file)) for word in named)


Options = Mapping[str, Option]


def from_variables(reader: Reader, problems: list[Problem]) -> dict[str, Option]:
    """Return the options in the inventory: Ansible's own variables first, then the words for ssh."""
    options: dict[str, Option] = {}
    for name, names in (("port", PORT), ("user", USER), ("identityfile", KEY), ("connecttimeout", TIMEOUT)):
        value = reader.text(names)
        if value is not None:
            options[name] = Option((value.data,), value)
    for variable in ARGUMENTS:
        value = reader.text((variable,))
        if value is not None:
            _add(options, _arguments(value, problems))
    return options


def _add(options: dict[str, Option], more: Options) -> None:
    for name, option in more.items():
        options.setdefault(name, option)


def _arguments(value: Value, problems: list[Problem]) -> Options:
    pairs, messages = parse(value.data)
    problems.extend(value.problem(message) for message in messages)
    options: dict[str, Option] = {}
    for name, text in pairs:
        words = tuple(text.split()) if name == "userknownhostsfile" else (text,)
        if name == "identityfile" and name in options:
            words = (*options[name].words, *words)
            options[name] = Option(words, value)
        options.setdefault(name, Option(words, value))
    return options


def from_config(configured: Lookup, file: Path, host: str) -> dict[str, Option]:
    """Return the options of a host in an ssh configuration file."""
    origin = Value(None, str(file), 0, (host,))
    options: dict[str, Option] = {}
    for name in _FROM_CONFIG:
        if configured.get(name):
            options[name] = Option((str(configured[name]),), origin)
    for name in ("identityfile", "userknownhostsfile"):
        words = configured.get(name)
        if words:
            options[name] = Option(tuple(words if isinstance(words, list) else words.split()), origin)
    command = str(configured.get("proxycommand") or "none")
    if "proxyjump" not in options and command.lower() != "none":
        options["proxyjump"] = Option((jump_of_command(command) or _refused(command),), origin)
    return options


def _refused(command: str) -> str:
    """Return a word that is no hop, so that the option is refused only if nothing else names the way."""
    return f"ProxyCommand {command}"
