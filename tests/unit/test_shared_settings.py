"""The settings of a role that other modules read: present, and of the declared type."""

from typing import Any

import pytest

from provision.inventory import Connection, Host, shared_settings
from provision.roles import balancer, docker, nginx, nvidia_toolkit

ROLES = {"docker": docker, "nvidia_toolkit": nvidia_toolkit, "nginx": nginx, "balancer": balancer}
HOST = Host(
    name="h",
    connection=Connection(address="h"),
    settings={name: role.Settings() for name, role in ROLES.items()},
)


@pytest.mark.parametrize(
    ("read", "role", "shared"),
    [
        (shared_settings.docker, "docker", shared_settings.DockerSettings),
        (shared_settings.toolkit, "nvidia_toolkit", shared_settings.ToolkitSettings),
        (shared_settings.nginx, "nginx", shared_settings.NginxSettings),
        (shared_settings.balancer, "balancer", shared_settings.BalancerSettings),
    ],
)
def test_a_role_has_the_settings_that_other_modules_read(read: Any, role: str, shared: type) -> None:
    settings = read(HOST)
    assert settings is HOST.settings[role]
    kinds = {
        name: one.fget.__annotations__["return"] for name, one in vars(shared).items() if isinstance(one, property)
    }
    assert kinds
    for name, kind in kinds.items():
        assert isinstance(getattr(settings, name), getattr(kind, "__origin__", kind)), name
