"""The logins of mirrors and registries in the inventory, tried before a deploy writes them to the host.

A login rides on standard input in front of a script, as lines that the script writes into files of a folder for root
alone: no login is a word of a command.
"""

import base64
import dataclasses
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from provision.command import Run
from provision.inventory import Host, shared_settings
from provision.inventory.mirrors import MirrorUrl, Outside
from provision.steps.docker import image_room
from provision.steps.docker.registry_login import registry_of
from provision.steps.system import mirror_login


@dataclass(frozen=True)
class RegistryUser:
    """The login of the registry of a host's image.

    Args:
        registry: the registry as the inventory names registries.
        user: the user.
        basic: user and password, for a header of HTTP.
    """

    registry: str
    user: str
    basic: str = dataclasses.field(repr=False)

    @property
    def key(self) -> str:
        """Path of the setting."""
        return f'docker.registries."{self.registry}"'


def of_mirrors(host: Host) -> Mapping[str, MirrorUrl]:
    """Return setting -> URL of the repositories with a login.

    Args:
        host: the host.
    """
    section = shared_settings.mirrors(host)
    urls = {f"mirrors.{name}": section.url(name) for name in ("docker", "nvidia_toolkit")} if section else {}
    return {key: url for key, url in urls.items() if url and url.login}


def of_registry(host: Host, address: str, key: str) -> RegistryUser | None:
    """Return the login of an address, if the address is the registry of the host's image. Docker takes no login for a
    mirror.

    Args:
        host: the host.
        address: address of a registry.
        key: path of the setting with the address.
    """
    image = host.serving.image
    if not image or key.endswith("]") or address != image_room.parts(image)[0]:
        return None
    name = registry_of(image)
    login = shared_settings.docker(host).registries.get(name)
    if login is None:
        return None
    basic = base64.b64encode(f"{login.username}:{login.password.reveal()}".encode()).decode()
    return RegistryUser(name, login.username, basic)


def before(run: Run, host: Host, asked: Sequence[Outside]) -> Run:
    """Return a script that knows the logins: `netrc` has lines for curl, `logins` a line `NUMBER BASIC` for each
    registry with a login, by the number of its address.

    Args:
        run: a script on standard input.
        host: the host.
        asked: the addresses, in the order of the script's words.
    """
    mirrors = [(url.address, *url.login) for url in of_mirrors(host).values() if url.login]
    users = ((number, of_registry(host, each.address, each.key)) for number, each in enumerate(asked))
    logins = "".join(f"{number} {user.basic}\n" for number, user in users if user)
    text = {"netrc": mirror_login.netrc(mirrors).decode(), "logins": logins}
    lines = "".join(f"{name}={shlex.quote(value)}\n" for name, value in text.items() if value)
    return dataclasses.replace(run, stdin=lines.encode() + run.stdin)
