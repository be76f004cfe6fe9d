"""The addresses outside a site: the addresses of the section `mirrors`, and the presets.

Sources of the presets, which nobody has tried from here: docs/facts.md#mirrors.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Literal
from urllib.parse import unquote

from pydantic import AfterValidator, GetCoreSchemaHandler
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from provision.inventory.proxy import ProxyUrl
from provision.inventory.secret import Secret
from provision.inventory.types import is_host, is_url

LONGEST = 1000
WANTED = (
    "must be an http:// or https:// URL without blank or quote; a mirror with a login is https://USER:PASSWORD@HOST "
    "(`%40` for `@`, and so on), by !env NAME"
)
_URL = re.compile(r"(https?://)(?:([A-Za-z0-9._~!*+,=%-]+:[A-Za-z0-9._~!*+,=%-]+)@)?([^@]+)")
_WRONG_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")
_REGISTRY = re.compile(r"([A-Za-z0-9][A-Za-z0-9.-]*)(?::([0-9]{1,5}))?")
_BREAKS_NETRC = re.compile(r"[\s\"'\\#]")

Purpose = Literal["packages", "source", "images", "models"]


@dataclass(frozen=True)
class Outside:
    """An address outside the site that a host asks.

    Args:
        address: URL without user and password, for people.
        purpose: `packages` of apt, `source` of nginx, `images` or `models`.
        key: path of the setting with the address, such as `mirrors.docker`.
        probe: URL that answers if the address is right, with `{distribution}`, `{codename}` and `{architecture}` for
            the host's own. A registry may answer 401.
    """

    address: str
    purpose: Purpose
    key: str
    probe: str


class MirrorUrl(ProxyUrl):
    """URL of a mirror. Prints without user and password.

    Args:
        value: the URL.
    """

    __slots__ = ()

    @property
    def address(self) -> str:
        """The URL without user, password and trailing slash."""
        return f"{self._value.partition('://')[0]}://{self.endpoint}"

    @property
    def login(self) -> tuple[str, str] | None:
        """User and password, or None."""
        user, _, password = self._login().partition(":")
        return (unquote(user), unquote(password)) if user else None

    @classmethod
    def __get_pydantic_core_schema__(cls, source: object, handler: GetCoreSchemaHandler) -> CoreSchema:
        shown = core_schema.plain_serializer_function_ser_schema(str, when_used="json")
        return core_schema.no_info_plain_validator_function(_mirror_url, serialization=shown)


def _mirror_url(value: object) -> MirrorUrl:
    if isinstance(value, MirrorUrl):
        return value
    text = value.reveal() if isinstance(value, Secret) else value
    if not isinstance(text, str) or not _is_mirror(text):
        raise PydanticCustomError("secret_type", WANTED)
    return MirrorUrl(text.rstrip("/"))


def _is_mirror(text: str) -> bool:
    match = _URL.fullmatch(text) if len(text) <= LONGEST else None
    if match is None:
        return False
    login = unquote(match[2] or "")
    whole = login.isprintable() and not _BREAKS_NETRC.search(login) and not _WRONG_ESCAPE.search(match[2] or "")
    return whole and is_url(match[1] + match[3]) and not set("?#") & set(match[3])


def _registry_name(value: str) -> str:
    match = _REGISTRY.fullmatch(value) if len(value) <= 260 else None
    if match is None or not is_host(match[1]) or not 0 < int(match[2] or 1) <= 65535:
        message = "must be a registry such as models.example:5000, without http:// and without a path"
        raise ValueError(message)
    return value


RegistryName = Annotated[str, AfterValidator(_registry_name)]
"""`HOST` or `HOST:PORT` of a registry, as in the name of an image or of a model."""


@dataclass(frozen=True)
class Preset:
    """The addresses of a preset.

    Args:
        addresses: key of `mirrors` -> URL.
        images: mirrors of Docker Hub.
    """

    addresses: Mapping[str, str]
    images: tuple[str, ...] = ()


PRESETS: Mapping[str, Preset] = {
    "none": Preset({}),
    "china": Preset(
        {
            "docker": "https://mirrors.tuna.tsinghua.edu.cn/docker-ce",
            "nvidia_toolkit": "https://mirrors.ustc.edu.cn/libnvidia-container",
        },
        ("https://docker.m.daocloud.io",),
    ),
}
