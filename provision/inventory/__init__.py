"""The inventory: the only package that reads YAML, and one validator for all settings.

settings, types   what a role declares
model             what a loaded inventory is made of
document, value   YAML files to values that know their file and line
groups, ranges    Ansible's groups; the order in which they win
varfiles, extra   `group_vars/`, `host_vars/`, `-e`
connection        `ansible_*` variables and `~/.ssh/config`
check             pydantic's errors to problems with file, line and nearest name
load              all of it, in order
"""

from provision.inventory.loader import load
from provision.inventory.masked import as_yaml, show
from provision.inventory.model import Connection, Host, Instance, Inventory
from provision.inventory.secret import Secret
from provision.inventory.settings import Settings
from provision.inventory.types import (
    AbsolutePath,
    Address,
    Duration,
    Fingerprint,
    ImageRef,
    ModelName,
    Name,
    Port,
    Sha256,
    Size,
    Text,
    Url,
    Version,
    duration_seconds,
    size_bytes,
)

__all__ = [
    "AbsolutePath",
    "Address",
    "Connection",
    "Duration",
    "Fingerprint",
    "Host",
    "ImageRef",
    "Instance",
    "Inventory",
    "ModelName",
    "Name",
    "Port",
    "Secret",
    "Settings",
    "Sha256",
    "Size",
    "Text",
    "Url",
    "Version",
    "as_yaml",
    "duration_seconds",
    "load",
    "show",
    "size_bytes",
]
