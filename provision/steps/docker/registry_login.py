"""The logins of image registries: a configuration of Docker's client for root alone, in a folder of our own.

`docker pull` sends the login to the daemon, so no login is a word of a command. An operator's own `docker login` in
/root/.docker stays as it is, and counts for every registry without a login in the inventory.
Source: docker/cli `cli/config/configfile/file.go` (auths).
"""

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Self

from provision.inventory.secret import Secret
from provision.steps.docker import image_room
from provision.steps.docker.image_room import LOGINS
from provision.steps.system.login_file import LoginFile

HUB = "docker.io"
_HUB_KEY = "https://index.docker.io/v1/"


@dataclass(frozen=True, kw_only=True)
class RegistryLogin(LoginFile):
    """The file with the logins of all registries."""

    KIND: ClassVar[str] = "registry_login"
    gone: ClassVar[str] = "no longer declared: no registry has a login"

    path: str = LOGINS
    kind: str = KIND

    @classmethod
    def of(cls, logins: Mapping[str, tuple[str, Secret]]) -> Self:
        """Return the file.

        Args:
            logins: registry, such as `docker.io` or `registry.test:5000` -> user and password.
        """
        auths = {
            _HUB_KEY if name == HUB else name: base64.b64encode(f"{user}:{password.reveal()}".encode()).decode()
            for name, (user, password) in logins.items()
        }
        # a line for each registry: the script `docker/image-size` reads the lines
        lines = ",\n".join(f'    {json.dumps(name)}: {{"auth": "{auth}"}}' for name, auth in auths.items())
        text = f'{{\n  "auths": {{\n{lines}\n  }}\n}}\n'
        return cls(content=text.encode(), places=tuple(logins))


def registry_of(reference: str) -> str:
    """Return the registry of an image as the inventory names registries.

    Args:
        reference: of an image.
    """
    address = image_room.parts(reference)[0]
    return HUB if address == image_room.HUB else address.partition("://")[2]
