"""Address and login of each host: `ansible_*` variables first, then `~/.ssh/config`, then defaults.

Differs from Ansible where safer or shorter: host keys are always checked; `become` is on unless the user is root; a
relative path is beside the file with the path; a jump host without keys or known_hosts in `~/.ssh/config` uses the
keys and known_hosts of the host behind it.
"""

import getpass
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from provision.errors import Problem
from provision.inventory.model import Connection
from provision.inventory.near import clip
from provision.inventory.sshconfig import SshConfig
from provision.inventory.sshoptions import Option, from_config, from_variables
from provision.inventory.types import is_address, is_host, looks_like_ipv4
from provision.inventory.value import Value
from provision.inventory.variables import (
    BECOME,
    BECOME_METHOD,
    BECOME_PASSWORD,
    BECOME_USER,
    CONNECTION,
    HOST,
    PASSWORD,
    TIMEOUT_FACTOR,
    Reader,
)

SYSTEM_KNOWN_HOSTS = "/etc/ssh/ssh_known_hosts"
MAX_JUMPS = 8
TIMEOUT = 10.0  # seconds, Ansible's default
MOST = 100  # of timeout_factor

_USER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@\\+$-]{0,127}")
_HOP = re.compile(
    r"(?:ssh://)?(?:(?P<user>[^\s]+)@)?(?:\[(?P<v6>[0-9A-Fa-f:.]+)\]|(?P<host>[^:\s\[\]@]+))"
    r"(?::(?P<port>[0-9]{1,5}))?/?"
)
_ONLY = (
    (CONNECTION, ("ssh", "smart", "paramiko", "paramiko_ssh")),
    (BECOME_USER, ("root",)),
    (BECOME_METHOD, ("sudo",)),
)


class Connections:
    """Makes the connections of one load.

    Args:
        config: the user's ssh configuration.
        problems: collects every problem.
    """

    def __init__(self, config: SshConfig, problems: list[Problem]) -> None:
        self._config = config
        self._problems = problems

    def of(self, name: str, variables: Mapping[str, Value], place: Value) -> Connection:
        """Return the connection to a host.

        Args:
            name: the name of the host, and by default its address.
            variables: the merged variables of the host.
            place: the place of the host in the inventory, for problems without a variable.
        """
        reader = Reader(variables, self._problems)
        self._check_only(reader)
        wanted = reader.text(HOST) or Value(name, place.file, place.line, place.path)
        options = from_variables(reader, self._problems)
        file = _configuration(options.get("configfile"))
        connection = self._connection(wanted, options, file)
        become = reader.flag(BECOME)
        return replace(
            connection,
            password=reader.secret(PASSWORD),
            become=connection.user != "root" if become is None else become,
            become_password=reader.secret(BECOME_PASSWORD),
            timeout_factor=self._factor(reader.text(TIMEOUT_FACTOR)),
            jumps=self._jumps(connection, options.get("proxyjump"), file),
        )

    def _check_only(self, reader: Reader) -> None:
        for names, allowed in _ONLY:
            value = reader.text(names)
            if value is not None and value.data not in allowed:
                self._problems.append(value.problem(f"must be {allowed[0]}, not {clip(value.data)}"))

    def _configured(self, wanted: Value, options: dict[str, Option], file: Path | None) -> str:
        """Add the options of the ssh configuration, and return the address to connect to."""
        name = str(wanted.data)
        if not is_host(name):
            self._problems.append(wanted.problem(f"must be a DNS name or an IP address, not {clip(name)}{_why(name)}"))
            return name
        configured = self._config.lookup(name, file)
        for key, option in from_config(configured, file or self._config.default, name).items():
            options.setdefault(key, option)
        address = str(configured.get("hostname") or name)
        if not is_host(address):
            place = Value(None, str(file or self._config.default), 0, (name,))
            message = f"HostName must be a DNS name or an IP address, not {clip(address)}{_why(address)}"
            self._problems.append(place.problem(message))
        return address

    def _connection(
        self, wanted: Value, options: dict[str, Option], file: Path | None, behind: Connection | None = None
    ) -> Connection:
        """Return the connection to one machine, without its jumps.

        Args:
            wanted: the name to look up, with its place.
            options: the options in the inventory; the options of the ssh configuration are added.
            file: the configuration file to use in place of the default.
            behind: the target, if this machine is its jump host.
        """
        address = self._configured(wanted, options, file)
        keys = options["identityfile"].paths() if "identityfile" in options else None
        known = options["userknownhostsfile"].paths() if "userknownhostsfile" in options else None
        return Connection(
            address=address,
            port=self._port(options.get("port")),
            user=self._user(options.get("user"), wanted),
            key_files=keys if keys is not None else behind.key_files if behind else (),
            known_hosts=_known_hosts(known, behind),
            host_key_alias=self._alias(options.get("hostkeyalias")),
            connect_timeout=self._timeout(options.get("connecttimeout"), behind),
        )

    def _jumps(self, target: Connection, option: Option | None, file: Path | None) -> tuple[Connection, ...]:
        """Return the jump hosts of a target in order, including the jumps of the first jump host."""
        jumps: list[Connection] = []
        while option is not None and option.word.lower() != "none":
            hops = [hop.strip() for hop in option.word.split(",")]
            if len(jumps) + len(hops) > MAX_JUMPS:
                self._report(option, f"leads through more than {MAX_JUMPS} jump hosts, or round in a circle")
                break
            connected = [self._jump(hop, option, target, file) for hop in hops]
            if any(jump is None for jump, _ in connected):
                break
            jumps = [*(jump for jump, _ in connected if jump), *jumps]
            option = connected[0][1]
        return tuple(jumps)

    def _jump(
        self, hop: str, option: Option, target: Connection, file: Path | None
    ) -> tuple[Connection | None, Option | None]:
        """Return the connection to a jump host, and the option that names its own jump."""
        match = _HOP.fullmatch(hop)
        if match is None or len(hop) > 400:
            hint = "; write -o ProxyJump=USER@HOST instead" if hop.startswith("ProxyCommand") else ""
            self._report(option, f"is no jump host: {clip(hop)}{hint}")
            return None, None
        origin = option.origin
        options = {name: Option((match[name],), origin) for name in ("user", "port") if match[name]}
        wanted = Value(match["v6"] or match["host"], origin.file, origin.line, origin.path)
        connection = self._connection(wanted, options, file, target)
        return connection, options.get("proxyjump")

    def _port(self, option: Option | None) -> int:
        if option is None:
            return 22
        if option.word.isascii() and option.word.isdigit() and 0 < int(option.word[:9]) <= 65535:
            return int(option.word)
        self._report(option, f"must be a port from 1 to 65535, not {clip(option.word)}")
        return 22

    def _user(self, option: Option | None, wanted: Value) -> str:
        if option is None:
            return self._own_name(wanted)
        if not _USER.fullmatch(option.word):
            self._report(option, f"must be a user name, not {clip(option.word)}")
        return option.word

    def _own_name(self, wanted: Value) -> str:
        try:
            return getpass.getuser()
        except (KeyError, OSError):
            self._problems.append(wanted.problem("has no ansible_user, and your own user has no name"))
            return "root"

    def _alias(self, option: Option | None) -> str:
        if option is None:
            return ""
        if len(option.word) > 253 or not option.word.isprintable() or " " in option.word:
            self._report(option, f"must be the name of a host, not {clip(option.word)}")
        return option.word

    def _timeout(self, option: Option | None, behind: Connection | None) -> float:
        if option is None or option.word == "none":
            return behind.connect_timeout if behind else TIMEOUT
        if option.word.isascii() and option.word.isdigit() and 0 < int(option.word[:9]) <= 3600:
            return float(option.word)
        self._report(option, f"must be a number of seconds from 1 to 3600, not {clip(option.word)}")
        return TIMEOUT

    def _factor(self, value: Value | None) -> int:
        if value is None:
            return 1
        word = str(value.data)
        if word.isascii() and word.isdigit() and 1 <= int(word[:9]) <= MOST:
            return int(word)
        self._problems.append(value.problem(f"must be a whole number from 1 to {MOST}, not {clip(word)}"))
        return 1

    def _report(self, option: Option, message: str) -> None:
        self._problems.append(option.origin.problem(message))


def _configuration(option: Option | None) -> Path | None:
    """Return the file of `-F`; `-F none` means no file."""
    if option is None:
        return None
    return Path(option.paths()[0]) if option.paths() else Path("/dev/null")


def _why(text: str) -> str:
    """Return why a text that looks like an address is none; empty for any other text."""
    inside = text.strip("[]")
    if inside != text and is_address(inside):
        return f": write an IPv6 address without brackets, {inside}"
    if "%" in text and is_address(inside.partition("%")[0]):
        return ": an address that needs a zone cannot be used here; give the host a global or a unique local address"
    if looks_like_ipv4(text):
        parts = text.split(".")
        whole = len(parts) == 4 and all(part.isdigit() for part in parts)
        if whole and any(part != "0" and part.startswith("0") for part in parts):
            meant = ".".join(str(int(part)) for part in parts)
            return f": a number with a leading zero is octal to one program and decimal to another; write {meant}"
        return ": an IPv4 address has four decimal numbers from 0 to 255"
    return ""


def _known_hosts(own: tuple[str, ...] | None, behind: Connection | None) -> tuple[str, ...]:
    if own is not None:
        return (*own, SYSTEM_KNOWN_HOSTS)
    if behind is not None:
        return behind.known_hosts
    return (str(Path.home() / ".ssh" / "known_hosts"), SYSTEM_KNOWN_HOSTS)
