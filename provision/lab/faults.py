"""Faults that a person can switch on and off while the lab runs.

A target is a host (`gpu-01`), an instance on a host (`gpu-01/ollama1`), the site (`site`), or a model in the site's
model registry (`site/deepseek-r1`).
"""

from dataclasses import dataclass

from provision.errors import UsageError
from provision.lab import models
from provision.lab.lab import Lab
from provision.lab.network import DISTURBANCES

HOST, INSTANCE, SITE, MODEL = "HOST", "HOST/INSTANCE", "site", "site[/MODEL]"
_FOLDER = "/etc/provision-lab/faults"
_PORTS = {"web-down": 80, "packages-down": 3142, "registry-down": 5000, "models-down": models.PORT}


@dataclass(frozen=True)
class Fault:
    """One fault.

    Args:
        name: its name.
        target: the kind of its target.
        text: its effect.
    """

    name: str
    target: str
    text: str


FAULTS = [
    Fault("driver-broken", HOST, "nvidia-smi exits 9: it cannot communicate with the driver"),
    Fault("driver-old", HOST, "the driver is 535.309.01, which Ollama silently leaves for the CPU"),
    Fault("driver-ancient", HOST, "the driver is 470.256.02, and nvidia-smi exits 2 if it is asked for compute_cap"),
    Fault("inforom-corrupt", HOST, "nvidia-smi lists all cards, warns of an infoROM, and exits 14"),
    Fault("nvidia-smi-hang", HOST, "nvidia-smi never ends"),
    Fault("nvidia-smi-slow", HOST, "nvidia-smi takes 5 s for each call (--value SECONDS)"),
    Fault("persistence-off", HOST, "the driver is not kept loaded: persistence mode is off"),
    Fault("card-missing", HOST, "a card is gone, and those behind it move up (--value INDEX; the last one by default)"),
    Fault("card-lost", HOST, "a card fell off the bus: nvidia-smi lists the others and exits 15 (--value INDEX)"),
    Fault("card-broken", HOST, "nvidia-smi says `GPU requires reset` of a card (--value INDEX)"),
    Fault("mig", HOST, "SIMULATED MIG: a card is in MIG mode, with two devices 1g.10gb (--value INDEX)"),
    Fault("mig-half", HOST, "SIMULATED MIG: the MIG mode of a card changes at a reset that is due (--value INDEX)"),
    Fault("gpu-lost", HOST, "containers say `Failed to initialize NVML: Unknown Error`, the host is fine"),
    Fault(
        "cdi",
        HOST,
        "the simulated runtime `nvidia` gives cards by CDI, not by the hook: a node in the OCI configuration, and"
        " NVIDIA_VISIBLE_DEVICES=void",
    ),
    Fault("cut", HOST, "every packet from and to the host is dropped"),
    Fault("lossy", HOST, "one packet in five to the host is lost"),
    Fault("ssh-reset", HOST, "SSH connections are reset"),
    Fault("power-off", HOST, "the host has no power"),
    Fault("answer-503", INSTANCE, "every request is answered 503"),
    Fault("hang", INSTANCE, "requests are taken and never answered"),
    Fault("cpu", INSTANCE, "the model runs on the CPU: size_vram 0, new loads slow"),
    Fault(
        "cpu-unsaid",
        INSTANCE,
        "a model loaded from now on works on the CPU while size_vram says all is on the card (--value LIBRARY: the "
        "library in the log of the next start)",
    ),
    Fault("slow", INSTANCE, "answers come ten times slower, from the cards (--value FACTOR)"),
    Fault("pull-fails", INSTANCE, "a pull ends in an error after status 200 (--value TEXT)"),
    Fault("pull-stalls", INSTANCE, "half of a model comes, then nothing (--value manifest: not even its manifest)"),
    Fault("pull-closes", INSTANCE, "the library closes connections before a blob is whole"),
    Fault("stream-fails", INSTANCE, "an answer breaks off with an error after status 200"),
    Fault("web-down", SITE, "the package repositories and the nginx tarball are refused"),
    Fault("packages-down", SITE, "the way to the distribution's mirror is refused"),
    Fault("registry-down", SITE, "the image registry is refused"),
    Fault("models-down", SITE, "the model registry is refused"),
    *(Fault(name, MODEL, text) for name, text in models.FAULTS.items()),
]


def switch(lab: Lab, target: str, name: str, *, on: bool, value: str = "") -> None:
    """Switch a fault on or off.

    Args:
        lab: the lab.
        target: `gpu-01`, `gpu-01/ollama1`, `site` or `site/MODEL`.
        name: name of the fault.
        on: whether the fault is on from now on.
        value: the value that some faults take.

    Raises:
        UsageError: no such fault for this kind of target.
        LabError: the lab lacks the host, or the host is down.
    """
    kinds = _kinds(target)
    if not any(fault.name == name and fault.target in kinds for fault in FAULTS):
        fitting = ", ".join(fault.name for fault in FAULTS if fault.target in kinds)
        raise UsageError(f"{target} cannot have the fault {name!r}", f"faults of {' and '.join(kinds)}: {fitting}")
    if name in _PORTS:
        lab.network.close(_PORTS[name], on=on)
    elif MODEL in kinds:
        models.switch(lab.home, target.partition("/")[2], name, on=on, value=value)
    elif name == "power-off":
        _power(lab, target, on=not on)
    elif name in DISTURBANCES:
        lab.host(target).disturb(name, on=on)
    else:
        _mark(lab, target, name, on=on, value=value)


def _kinds(target: str) -> tuple[str, ...]:
    """The kinds of targets that a word can mean."""
    if target == SITE:
        return SITE, MODEL
    if target.startswith(f"{SITE}/"):
        return (MODEL,)
    return (INSTANCE,) if "/" in target else (HOST,)


def active(lab: Lab) -> list[tuple[str, str]]:
    """Every fault that is on, as (target, name)."""
    switched = [(SITE, name) for name, port in _PORTS.items() if lab.network.closed(port)]
    switched += [(f"{SITE}/{model}" if model else SITE, name) for model, name in models.active(lab.home)]
    for host in lab.hosts():
        if not host.running:
            switched.append((host.name, "power-off"))
            continue
        switched += [(host.name, name) for name in DISTURBANCES if host.disturbed(name)]
        for file in host.run(["ls", _FOLDER], check=False).stdout.split():
            instance, dot, name = file.rpartition(".")
            switched.append((f"{host.name}/{instance}" if dot else host.name, name))
    return switched


def _mark(lab: Lab, target: str, name: str, *, on: bool, value: str) -> None:
    """Make or delete the file of a fault; the simulated programs look for the file at each call."""
    host, _, instance = target.partition("/")
    file = f"{_FOLDER}/{instance}.{name}" if instance else f"{_FOLDER}/{name}"
    if on:
        lab.host(host).write(file, value)
    else:
        lab.host(host).run(["rm", "-f", file])


def _power(lab: Lab, target: str, *, on: bool) -> None:
    host = lab.host(target)
    if on:
        host.start()
        host.wait()
    else:
        host.stop()
