"""A model server that the host runs outside Docker, and its models, which instances can use without a download."""

import posixpath
import shlex
from collections.abc import Iterator

from provision.doctor.check import Check, Look, Subject, alone
from provision.doctor.finding import Finding, bad, good, risk
from provision.inventory import Host, Instance, Inventory
from provision.steps import engines
from provision.steps.base import State
from provision.steps.instance import storage
from provision.steps.system.content import gigabytes

SUGGESTED = "/srv/models"
"""The folder named to an operator whose instances keep their models in volumes."""


def _look(host: Host, inventory: Inventory) -> Look | None:
    native = engines.of(host.serving).native
    if native is None or not host.instances:
        return None
    fact = native(_folders(host))
    return alone(fact.command, fact.parse)


def _folders(host: Host) -> tuple[str, ...]:
    """Return the folders of models that instances of a host use, without volumes."""
    return tuple(dict.fromkeys(each.storage for each in host.instances if each.storage != storage.VOLUME))


def _judge(state: State, subject: Subject) -> Iterator[Finding]:
    state = state or {}
    unit = state["unit"]
    if state["active"]:
        says = f"{unit} runs outside Docker and takes memory of any card at any request"
        yield bad(says, f"systemctl disable --now {unit}", "active" + (", enabled" if state["enabled"] else ""))
    elif state["enabled"]:
        yield risk(f"{unit} starts outside Docker at the next boot", f"systemctl disable {unit}", "enabled")
    reusable = list(_reusable(state, subject.host))
    if reusable:
        size = sum(state["models"][name] for name in reusable)
        says = (
            f"{', '.join(reusable)} ({gigabytes(size)}) can be used without a download: copy the folder of the models"
        )
        yield risk(says, _copy(state["folder"], subject.host), _before(state, subject.host))
    if not (state["active"] or state["enabled"] or reusable):
        yield good(f"no {unit} runs, and no declared model waits to be copied")


def _reusable(state: State, host: Host) -> Iterator[str]:
    """Yield the declared models that a native server has, and that are not in the folders of the instances."""
    canonical = engines.of(host.serving).canonical
    declared = dict.fromkeys(canonical(model) for instance in host.instances for model in instance.models)
    state = state or {}
    for name in declared:
        if name in state["models"] and name not in state["there"]:
            yield name


def _target(instance: Instance) -> str:
    return posixpath.join(SUGGESTED, instance.name) if instance.storage == storage.VOLUME else instance.storage


def _copy(folder: str, host: Host) -> str:
    """Return the command that gives the models to every instance: hard links of blobs where the file system is the
    same, also in place of equal blobs that an instance has already. Manifests are copied, because a server writes a
    manifest in place (Ollama `server/images.go`, PullModel): with a hard link, the pull of one server would change the
    models of the other servers. A newer manifest of an instance stays."""
    parts = []
    for target in dict.fromkeys(_target(instance) for instance in host.instances):
        into = shlex.quote(f"{target}/models")
        blobs, manifests = (shlex.quote(f"{folder}/{name}") for name in ("blobs", "manifests"))
        link = f"{{ cp -alf {blobs} {into} 2>/dev/null || cp -a {blobs} {into}; }}"
        parts.append(f"mkdir -p {into} && {link} && cp -au {manifests} {into}")
    return " && ".join(parts)


def _before(state: State, host: Host) -> str:
    """Return the change of the inventory that comes before the copy; empty if instances use folders already."""
    text = f"models in {(state or {})['folder']}"
    if all(instance.storage != storage.VOLUME for instance in host.instances):
        return text
    setting = f"{host.serving.engine}.storage: {SUGGESTED}"
    return f"{text}; first write {setting} into the inventory, because volumes are made by Docker"


CHECKS = (Check("native server", _look, _judge),)
