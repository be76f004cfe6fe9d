"""The inventory: the only package that reads YAML, and one validator for all settings.

settings, types      what a role declares
loadtest             what `provision loadtest` demands: a section that is no role's
model, secret        what a loaded inventory is made of
topology             who sends to whom: balancers and the hosts behind them
shared_settings      what others may know of a role's settings
loader               from files to an `Inventory`, through:
  document, scalars    YAML files to values that know their file and line (value)
  ansible              INI files and programs, as `ansible-inventory` reads them
  groups, ranges       Ansible's groups; the order in which they win
  unmapped             hosts in no group of ours, and how to map them
  varfiles, extra      `group_vars/`, `host_vars/`, `-e`
  check                pydantic's errors to problems with file, line and nearest name (near)
  connection           `ansible_*` variables (variables, sshoptions, sshargs) and `~/.ssh/config` (sshconfig)
patterns             `--limit`
masked, example      what people see: the merged result; every setting with its meaning
"""

from provision.inventory.extra import unsaid
from provision.inventory.loader import load
from provision.inventory.loadtest import LoadTest, Targets
from provision.inventory.masked import as_yaml, show
from provision.inventory.model import Connection, Host, Instance, Inventory, Serving
from provision.inventory.secret import Mask, Secret
from provision.inventory.settings import Settings
from provision.inventory.types import (
    AbsolutePath,
    Address,
    Duration,
    Fingerprint,
    ImageRef,
    ModelName,
    Name,
    Network,
    Port,
    Sha256,
    Share,
    Size,
    Text,
    Url,
    Version,
    duration_seconds,
    is_address,
    is_duration,
    share_of,
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
    "LoadTest",
    "Mask",
    "ModelName",
    "Name",
    "Network",
    "Port",
    "Secret",
    "Serving",
    "Settings",
    "Sha256",
    "Share",
    "Size",
    "Targets",
    "Text",
    "Url",
    "Version",
    "as_yaml",
    "duration_seconds",
    "is_address",
    "is_duration",
    "load",
    "share_of",
    "show",
    "size_bytes",
    "unsaid",
]
