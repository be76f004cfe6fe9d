"""The ollama role: one container per instance, pinned to its cards, reachable only by its balancers.

Order matters. A step that may fail (image) comes before steps that do harm; the firewall and the boot units come before
the first container, and each instance's storage before its container.
"""

import math
from collections.abc import Iterator
from functools import partial

from provision.capacity.proposal import Wish
from provision.errors import Problem
from provision.inventory import Host, Instance, Inventory, duration_seconds, shared_settings, size_bytes
from provision.inventory.direct import without_proxy
from provision.roles import ollama_settings
from provision.roles import ollama_settings_traffic as public_names
from provision.roles.ollama_settings import InstanceSettings, Settings, Tuning, named, value_of, wish_of
from provision.steps import engines, nvidia_smi
from provision.steps.base import Owned, Step
from provision.steps.docker.firewall import OwnedFirewall
from provision.steps.docker.image import Image, OwnedImages
from provision.steps.docker.network import Network, OwnedNetworks
from provision.steps.docker.registry_login import registry_of
from provision.steps.docker.volume import OwnedVolumes
from provision.steps.instance import boot, endpoint, storage
from provision.steps.instance.automatic import Automatic
from provision.steps.instance.conflicts import Holders
from provision.steps.instance.container import Container, OwnedContainers
from provision.steps.instance.create_arguments import BRIDGE, bind, fingerprint, volume
from provision.steps.instance.previous import OwnedPrevious
from provision.steps.instance_paths import FOLDER, PROGRAMS, env_file
from provision.steps.ollama.engine import OLLAMA
from provision.steps.ollama.environment import from_settings
from provision.steps.system.file import File, OwnedFiles
from provision.steps.system.owned_units import OwnedUnits

TOLERATE = f"{OLLAMA.name}.tolerate"
SERVES = DECLARES_INSTANCES = STARTS_CONTAINERS = True
GROUPS = ("gpu",)
instances, serving = ollama_settings.instances, ollama_settings.serving
_SECRET = ("https_proxy", "no_proxy")


def problems(host: Host, inventory: Inventory) -> Iterator[Problem]:
    """Yield networks that `admit` names in vain, cards of another host, and versions without an instance."""
    settings = host.of(Settings)
    yield from _elsewhere(host, inventory)
    serving = (*(each for each in inventory.hosts if each.instances), host)
    yield from public_names.of_fleet(host, inventory, {other.name: other.of(Settings).traffic for other in serving})
    if settings.admit and host.instances and endpoint.is_local(host, inventory):
        yield host.problem(
            OLLAMA.name,
            ("admit",),
            f"would have no effect: the instances of {host.name} listen on {settings.listen_address or '127.0.0.1'},"
            " because no balancer on another host sends to them. Remove the key, or set ollama.listen_address to the"
            f" address of {host.name} that these networks reach",
        )


def _elsewhere(host: Host, inventory: Inventory) -> Iterator[Problem]:
    """Yield UUIDs that an earlier host names too: a UUID belongs to one card of the world."""
    if not any(isinstance(card, str) for instance in host.instances for card in instance.gpus):
        return
    owners: dict[int | str, str] = {}
    for other in inventory.hosts:
        if other.name == host.name:
            break
        owners |= {card: f"{other.name}/{own.name}" for own in other.instances for card in own.gpus}
    for index, instance in enumerate(host.instances):
        for card in instance.gpus:
            if isinstance(card, str) and card in owners:
                told = f"{card} is already a card of {owners[card]}; `provision facts` lists the UUIDs of a host"
                yield host.problem(OLLAMA.name, ("instances", index, "gpus"), told)


def steps(host: Host, inventory: Inventory) -> Iterator[Step]:
    """Yield every step of a gpu host, in order; none for other hosts.

    Args:
        host: one host, with its instances.
        inventory: the whole inventory, for the host's balancers.
    """
    settings = host.of(Settings)
    instances = host.instances
    if not host.gpu or not instances or engines.of(host.serving) is not OLLAMA:
        return
    address = partial(endpoint.listen_address, host, inventory)
    cards = {instance.name: instance.gpus for instance in instances}
    ports = {instance.name: instance.port for instance in instances}
    yield Holders(cards=cards, ports=ports, address=address, tolerate=settings.tolerate, setting=TOLERATE)
    docker = shared_settings.docker(host)
    yield Image(
        reference=settings.image,
        data_root=docker.data_root or "",
        mirrors=tuple(docker.registry_mirrors),
        login=registry_of(settings.image) in docker.registries,
        containerd=docker.containerd_images,
    )
    yield from boot.firewall_steps(host, inventory, OLLAMA)
    yield from boot.start_steps(host, address, _kept_loaded(settings, instances), OLLAMA)
    yield File(path=nvidia_smi.RECORD, content=lambda facts: nvidia_smi.record_text(facts.record))
    yield from storage.steps(instances)
    yield from (Network(name=name) for name in boot.own_networks(host).values())
    yield from _containers(host, inventory)


def _kept_loaded(settings: Settings, instances: tuple[Instance, ...]) -> dict[str, tuple[str, ...]]:
    """Return instance -> the models that stay loaded all the time."""
    items, kept = dict(named(settings)), {}
    for instance in instances:
        item = items[instance.name]
        is_for_ever = math.isinf(duration_seconds(value_of(settings, item, "keep_alive")))
        kept[instance.name] = instance.models[: loaded_at_once(settings, instance, item)] if is_for_ever else ()
    return kept


def _containers(host: Host, inventory: Inventory) -> Iterator[Step]:
    items = dict(named(host.of(Settings)))
    for instance in host.instances:
        secrets = _secrets(host, inventory, items[instance.name])
        if secrets:
            text = "".join(f"{key}={value}\n" for key, value in secrets.items())
            yield File(path=env_file(instance.name), content=text.encode(), mode=0o600)
    for instance in host.instances:
        yield _container(host, inventory, instance, items[instance.name])


def _container(host: Host, inventory: Inventory, instance: Instance, item: InstanceSettings) -> Container:
    settings = host.of(Settings)
    memory, cpus, pids = (value_of(settings, item, name) for name in ("memory", "cpus", "pids_limit"))
    mount = (
        volume(instance.name, OLLAMA.probe.home)
        if instance.storage == storage.VOLUME
        else bind(instance.storage, OLLAMA.probe.home)
    )
    return Container(
        name=instance.name,
        engine=OLLAMA,
        image=instance.image,
        gpus=instance.gpus,
        port=instance.port,
        address=partial(endpoint.listen_address, host, inventory),
        environment=environment(settings, instance, item),
        secrets={key: fingerprint(value) for key, value in _secrets(host, inventory, item).items()},
        mounts=(mount,),
        restart=settings.restart,
        memory=size_bytes(memory) if memory else 0,
        cpus=cpus or 0.0,
        pids=pids or 0,
        log_max_size=settings.log_max_size,
        log_max_file=settings.log_max_file,
        network=boot.own_networks(host).get(instance.name, BRIDGE),
        automatic=_automatic(instance, wish_of(settings, item)),
    )


def _automatic(instance: Instance, wish: Wish) -> Automatic | None:
    """Return the variables that take the proposal of the estimate; None where the inventory has all numbers."""
    if not (instance.context_auto or instance.parallel_auto):
        return None
    return Automatic(
        instance=instance.name,
        gpus=instance.gpus,
        models=instance.models,
        wish=wish,
        context="OLLAMA_CONTEXT_LENGTH",
        parallel="OLLAMA_NUM_PARALLEL",
    )


def environment(settings: Settings, instance: Instance, item: InstanceSettings) -> dict[str, str]:
    """Return the variables of an instance's server, without the secret variables.

    OLLAMA_CONTEXT_LENGTH is always set: the server's own default depends on the card and overflows the card
    (docs/facts.md#ollama-variables). An automatic number has its usual value here.
    """
    values = {name: value_of(settings, item, name) for name in Tuning.model_fields if name not in _SECRET}
    usual = wish_of(settings, item).usual
    values |= {"context_length": usual.context, "num_parallel": usual.parallel}
    values["max_loaded_models"] = loaded_at_once(settings, instance, item)
    if values["no_prune"] is None and _shares(settings, item):
        values["no_prune"] = True
    order = {"CUDA_DEVICE_ORDER": "PCI_BUS_ID"} if len(instance.gpus) > 1 else {}
    return {**order, **from_settings(values), **settings.environment, **item.environment}


def loaded_at_once(settings: Settings, instance: Instance, item: InstanceSettings) -> int:
    """Return how many models an instance keeps loaded: all of its own, unless declared otherwise."""
    return value_of(settings, item, "max_loaded_models") or max(1, len(instance.models))


def _secrets(host: Host, inventory: Inventory, item: InstanceSettings) -> dict[str, str]:
    """Return the variables that may hold a password. The proxy of the host is the default."""
    settings, common = host.of(Settings), shared_settings.proxy(host).https
    proxy, without = value_of(settings, item, "https_proxy"), value_of(settings, item, "no_proxy")
    if proxy is None and common:
        proxy, without = common, without or ",".join(without_proxy(host, inventory))
    values = {"HTTPS_PROXY": proxy.reveal() if proxy else "", "NO_PROXY": without or ""}
    return {name: value for name, value in values.items() if value}


def _shares(settings: Settings, item: InstanceSettings) -> bool:
    """Whether the instance shares its folder: a starting server prunes its neighbour's unfinished pull
    (docs/facts.md#shared-models-folder)."""
    paths = [str(other.storage) for other in settings.instances if other.storage not in (None, "volume")]
    return item.storage is not None and paths.count(str(item.storage)) > 1


OWNED: tuple[Owned, ...] = (
    OwnedUnits(prefix="provision-firewall"),
    OwnedUnits(prefix="provision-instances"),
    OwnedContainers(engine=OLLAMA),
    OwnedFirewall(),
    OwnedPrevious(engine=OLLAMA),
    OwnedNetworks(),
    OwnedVolumes(),
    OwnedImages(),
    OwnedFiles(globs=(f"{FOLDER}/*", f"{PROGRAMS}*")),
)
