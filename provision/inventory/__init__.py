"""The inventory: the only package that reads YAML, and one validator for all settings.

settings, types      types of settings, declared by roles
loadtest             targets of `provision loadtest`: a section of no role
proxy, direct        the URL of a proxy; the places that a host reaches without the proxy
model, secret        the parts of a loaded inventory
topology             balancers, and the hosts behind each
shared_settings      settings of a role for readers outside the role
loader               from files to an `Inventory`, through:
  document, scalars    YAML files to values with file and line (value)
  ansible              INI files and programs, as `ansible-inventory` reads them
  groups, ranges       Ansible's groups, in order of precedence
  unmapped             hosts in no group of ours, and how to map them
  varfiles, extra      `group_vars/`, `host_vars/`, `-e`
  check                pydantic's errors to problems with file, line and nearest name (near)
  connection           `ansible_*` variables (variables, sshoptions, sshargs) and `~/.ssh/config` (sshconfig)
patterns             `--limit`
masked, example      pages for people: the merged result; every setting with its meaning
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
    CardName,
    CardUser,
    Duration,
    Fingerprint,
    ImageRef,
    IpNetwork,
    Lines,
    ModelName,
    Name,
    Network,
    PoolName,
    Port,
    Sha256,
    Share,
    SiteName,
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
    "CardName",
    "CardUser",
    "Connection",
    "Duration",
    "Fingerprint",
    "Host",
    "ImageRef",
    "Instance",
    "Inventory",
    "IpNetwork",
    "Lines",
    "LoadTest",
    "Mask",
    "ModelName",
    "Name",
    "Network",
    "PoolName",
    "Port",
    "Secret",
    "Serving",
    "Settings",
    "Sha256",
    "Share",
    "SiteName",
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
