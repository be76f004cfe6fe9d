"""Finds the options of a container that provision never gives. A label proves nothing, because anybody can copy a
label.

A container gets its command and most of its variables from its image. Both are compared with the image's configuration.

Sources: HostConfig in `docker inspect` of Docker 20.10 to 29, where a field is empty, 0, false or null unless an option
set the field. Left out are fields that the daemon fills in from its own configuration (ShmSize, CgroupnsMode, Ulimits,
MemorySwap), and Runtime: a container keeps the daemon's default runtime of its creation. An image's Env, Entrypoint and
similar fields are copied into the container; StopTimeout is null unless `--stop-timeout` set it. All in
docs/facts.md#docker-inspect.
"""

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from provision.steps.instance.create_arguments import PROXIES, fingerprint
from provision.steps.instance.engine import Variables
from provision.steps.wording import ANY, Vocabulary, Words

MOST = 50  # options reported of one container
NO_CARDS = "NVIDIA_VISIBLE_DEVICES=void"  # CDI sets this variable beside the cards (docs/facts.md#cdi)
PRIVATE = ("private", "shareable")  # a daemon's default-ipc-mode

WORDS: Vocabulary = {
    "image": Words("other image", "image"),
    "current": Words("made from an older image of this tag", unless=("image",)),
    "running": Words("stopped", otherwise="runs"),
    "gpus": Words("other cards", "cards"),
    "sees": Words("does not see its cards", "cards seen inside", unless=("gpus", "running")),
    "answers": Words("does not answer", "answer of its server", unless=("running",)),
    "publish": Words("other address", "address"),
    "environment": Words("variable{s} {names}", "variable"),
    "mounts": Words("other mounts", "mounts"),
    "restart": Words("other restart policy", "restart policy"),
    "memory": Words("other memory limit", "memory limit in bytes"),
    "cpus": Words("other CPU limit", "CPU limit in billionths"),
    "pids": Words("other limit of processes", "limit of processes"),
    "log": Words("log setting{s} {names}", "log setting"),
    "privileged": Words("privileged"),
    "devices": Words("devices that provision does not give", "devices"),
    "options": Words("options that provision does not give", "options"),
    "network": Words("other network", "network"),
    "cgroup": Words("a daemon-reload would take its cards", "cgroup"),
    "run": Words("made by other options", unless=(ANY,)),
}
"""The operator's words for the keys of a container's state."""

# Field of HostConfig -> the option of `docker run` that sets it.
HOST = {
    "PidMode": "--pid",
    "IpcMode": "--ipc",
    "UTSMode": "--uts",
    "UsernsMode": "--userns",
    "CapAdd": "--cap-add",
    "CapDrop": "--cap-drop",
    "SecurityOpt": "--security-opt",
    "DeviceCgroupRules": "--device-cgroup-rule",
    "GroupAdd": "--group-add",
    "Tmpfs": "--tmpfs",
    "ReadonlyRootfs": "--read-only",
    "AutoRemove": "--rm",
    "Init": "--init",
    "Sysctls": "--sysctl",
    "ExtraHosts": "--add-host",
    "Dns": "--dns",
    "DnsSearch": "--dns-search",
    "DnsOptions": "--dns-option",
    "Links": "--link",
    "OomKillDisable": "--oom-kill-disable",
    "OomScoreAdj": "--oom-score-adj",
    "CgroupParent": "--cgroup-parent",
    "CpusetCpus": "--cpuset-cpus",
    "CpusetMems": "--cpuset-mems",
    "CpuShares": "--cpu-shares",
    "CpuQuota": "--cpu-quota",
    "MemoryReservation": "--memory-reservation",
    "PublishAllPorts": "--publish-all",
}
UNMASKED = "--security-opt systempaths=unconfined"  # Docker keeps an empty list in place of its own
# Field of an image's configuration -> the option that replaces the field. Values are not shown: a command may hold a
# token.
CONFIG = {
    "Entrypoint": "--entrypoint",
    "Cmd": "another command",
    "User": "--user",
    "WorkingDir": "--workdir",
    "StopSignal": "--stop-signal",
    "Healthcheck": "--health-cmd",
}


def options(item: Mapping[str, Any], variables: Variables) -> list[str]:
    """Return the options of `docker run` in a container that provision never gives.

    Args:
        item: a container, as in `inspect.Docker`.
        variables: of its engine.
    """
    words = [*_host(item.get("host") or {}), *_config(item), *_variables(item, variables)]
    return sorted(word[:100] for word in words)[:MOST]


def environment(item: Mapping[str, Any], declared: Collection[str], variables: Variables) -> dict[str, str]:
    """Return the variables of the server that differ from the image's. A proxy may hold a password.

    Args:
        item: a container, as in `inspect.Docker`.
        declared: variables of the instance, returned even if the image sets the same value.
        variables: of its engine.
    """
    image = item.get("image_config")
    defaults = pairs_of(image.get("Env")) if image else variables.of_image
    return {
        key: fingerprint(value) if key.upper() in PROXIES else value
        for key, value in pairs_of(item["env"]).items()
        if _is_the_servers(key, variables) and (key in declared or defaults.get(key) != value)
    }


def pairs_of(lines: Any) -> dict[str, str]:
    """Return variables by name, from lines such as `NAME=value`.

    Args:
        lines: from Docker; may be None.
    """
    return dict(line.partition("=")[::2] for line in lines or ())


def _is_the_servers(name: str, variables: Variables) -> bool:
    return name.startswith(variables.prefixes) or name.upper() in PROXIES


def _host(config: Mapping[str, Any]) -> Iterator[str]:
    for field, option in HOST.items():
        value = config.get(field)
        if not value or (field == "IpcMode" and value in PRIVATE):
            continue
        several = value if isinstance(value, list | dict) else [value]
        yield from (option if each is True else f"{option} {each}" for each in several)
    if [] in (config.get("MaskedPaths"), config.get("ReadonlyPaths")):
        yield UNMASKED


def _config(item: Mapping[str, Any]) -> Iterator[str]:
    image, config = item.get("image_config"), item.get("config")
    if image and config:
        for field, option in CONFIG.items():
            if _plain(field, config.get(field)) != _plain(field, image.get(field)):
                yield option
        if config.get("StopTimeout") not in (None, image.get("StopTimeout")):  # 0 is a value too
            yield f"--stop-timeout {config['StopTimeout']}"


def _plain(field: str, value: Any) -> Any:
    """Return a value in one form: Docker cleans paths, and writes an unset field as null, empty text or an empty
    list."""
    return "/" + str(value or "").strip("/") if field == "WorkingDir" else value or None


def _variables(item: Mapping[str, Any], variables: Variables) -> Iterator[str]:
    """Yield the names of variables that differ from the image's and are not in `environment`."""
    if not item.get("image_config"):
        return
    have, image = pairs_of(item["env"]), pairs_of(item["image_config"].get("Env"))
    for name in sorted(have.keys() | image.keys()):
        reported = _is_the_servers(name, variables) and name in have
        if not reported and have.get(name) != image.get(name) and f"{name}={have.get(name)}" != NO_CARDS:
            yield f"--env {name}"
