"""Prints the facts of hosts: a block for each host, with a table of its cards."""

from collections.abc import Iterator, Mapping
from typing import Any

from provision.actions.facts import Facts, HostReport
from provision.errors import HostError
from provision.inventory import Host
from provision.report import console
from provision.report.console import failures, say
from provision.report.layout import paint
from provision.steps import nvidia_smi
from provision.steps.card_details import CardDetails, Report
from provision.steps.docker.gpu_processes import Application
from provision.steps.nvidia_smi import Card
from provision.terminal_text import line

GIB = 2**30
LABEL = 10  # columns of the names of values
HEAD = ("GPU", "NAME", "FREE/TOTAL MIB", "MIG", "ECC", "XID", "POWER", "PERSIST")
SWITCH = {True: "on", False: "off", None: "-"}
SHOWN = 8  # file systems, users and Xid errors to show of a host


def show(facts: Facts, *, as_json: bool) -> None:
    """Print the facts of every host, or the JSON document.

    Args:
        facts: of every host.
        as_json: whether the document is wanted.
    """
    if as_json:
        hosts = [_host(host.name, answer) for host, answer in facts.hosts]
        console.document("facts", facts.exit_code, facts.warnings, hosts=hosts)
        return
    for warning in facts.warnings:
        console.warn(warning)
    for number, (host, answer) in enumerate(facts.hosts):
        if number:
            say()
        if isinstance(answer, HostError):
            say(f"{paint(host.name, 'bold')}  {paint(console.result_of(answer).upper(), 'red')}, see below")
        else:
            _host_text(host, answer)
    failures(((host.name, answer) for host, answer in facts.hosts if isinstance(answer, HostError)), facts.inventory)


def _host_text(host: Host, report: HostReport) -> None:
    facts, machine = report.facts, report.machine
    system = f"{facts.distribution or 'unknown'} {facts.version} {facts.codename and f'({facts.codename})'}".strip()
    say(f"{paint(host.name, 'bold')}  {line(system)}, {line(facts.architecture)}", hang=2)
    _value(
        "kernel", f"{machine.kernel or 'unknown'}, cgroup v{facts.cgroup}" + ("" if facts.systemd else ", no systemd")
    )
    free = _gib(machine.memory_available)
    _value("memory", f"{free} of {_gib(machine.memory)} GiB available, {machine.processors} processors")
    _value("Docker", _docker(report))
    _value("toolkit", machine.toolkit or "not installed")
    for number, disk in enumerate(machine.disks[:SHOWN]):
        _value("" if number else "disks", f"{disk.mount} {_gib(disk.free)} of {_gib(disk.size)} GiB free ({disk.kind})")
    if len(machine.disks) > SHOWN:
        _value("", f"and {len(machine.disks) - SHOWN} more")
    if facts.cards:
        _value("driver", facts.cards[0].driver or "unknown")
    if facts.driver_error and (host.gpu or facts.driver_error != nvidia_smi.ERRORS[127]):
        _value("nvidia-smi", facts.driver_error, "yellow")
    _cards(report)


def _value(label: str, text: str, colour: str = "") -> None:
    say(f"  {label:{LABEL}} {paint(line(text, 600), colour)}", hang=LABEL + 3)


def _gib(size: int) -> str:
    return f"{size / GIB:.1f}" if size < 10 * GIB else f"{size / GIB:.0f}"


def _docker(report: HostReport) -> str:
    docker = report.docker
    words = {"absent": "not installed", "running": docker.version or "running"}.get(docker.state, docker.state)
    driver = f"cgroup driver {docker.cgroup_driver}" if docker.cgroup_driver else ""
    return ", ".join(filter(None, (words, driver, docker.why, "also a snap" if docker.snap else "")))


def _cards(report: HostReport) -> None:
    rows = [HEAD, *(_row(index, card, details) for index, card, details in report.cards)]
    if len(rows) == 1:
        return
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEAD))]
    for number, row in enumerate(rows):
        text = "  ".join(f"{word:{width}}" for word, width in zip(row, widths, strict=True)).rstrip()
        say(f"  {paint(text, 'dim') if not number else text}", hang=widths[0] + 4)
        if number:
            index, card, details = report.cards[number - 1]
            for remark in _remarks(report, index, card, details):
                say(f"  {'':{widths[0]}}  {line(remark, 600)}", hang=widths[0] + 6)
    for error in report.details.reports[-SHOWN:]:
        say(f"  {line(_xid(error), 600)}", hang=6)


def _row(index: int, card: Card, details: CardDetails) -> tuple[str, ...]:
    free = "?" if details.free_mib is None else str(details.free_mib)
    power = "-" if details.power_limit_w is None else f"{details.power_limit_w:.0f} W"
    words = (
        str(index),
        card.name.removeprefix("NVIDIA "),
        f"{free}/{card.memory_mib or '?'}",
        _mig(details),
        _ecc(details),
        str(len(details.reports) or "-"),
        power,
        SWITCH[card.persistent],
    )
    return tuple(line(word, 60) for word in words)


def _mig(details: CardDetails) -> str:
    if details.mig_pending not in (None, details.mig):
        return "half"
    return SWITCH[details.mig]


def _ecc(details: CardDetails) -> str:
    if details.ecc and details.ecc_errors:
        return f"{details.ecc_errors} errors"
    return SWITCH[details.ecc]


def _remarks(report: HostReport, index: int, card: Card, details: CardDetails) -> Iterator[str]:
    """Yield the lines below a card."""
    users = report.users(card)
    capability = f", compute capability {card.compute_cap}" if card.compute_cap else ""
    yield f"{card.uuid}{capability}" + (f", nvidia-smi's GPU {card.index}" if index != card.index else "")
    if card.broken:
        yield f"broken: {card.broken}"
    if details.recovery:
        yield f"the driver advises: {details.recovery}"
    if details.mig_pending not in (None, details.mig):
        yield f"MIG mode is half switched: {'on' if details.mig_pending else 'off'} after a reset of the card or a boot"
    if details.mig and not details.devices:
        yield "MIG mode is on, and the card has no MIG device: no program can use the card"
    if details.compute_mode not in ("", "Default"):
        yield f"compute mode {details.compute_mode}: the card takes one process or none"
    for device in details.devices:
        yield f"MIG device {device.profile}: {device.uuid}"
    for user in users[:SHOWN]:
        yield f"used by {_user(user, report.instances)}"
    if len(users) > SHOWN:
        yield f"used by {len(users) - SHOWN} more"
    for error in details.reports[-3:]:
        yield _xid(error)


def _user(process: Application, instances: Mapping[str, str]) -> str:
    who = f"user {process.user}" if process.user else ""
    size = "" if process.mib is None else f"{process.mib} MiB"
    place = f"container {process.container}" if process.container else "outside Docker"
    if instance := instances.get(process.container):
        place = f"instance {instance}"
    return f"{process.program} ({', '.join(filter(None, (f'pid {process.pid}', who, size, place)))})"


def _xid(error: Report) -> str:
    return f"Xid {error.xid} of {error.bus_id}" + (f" at {error.time}" if error.time else "") + f": {error.text}"


def _host(name: str, answer: HostReport | HostError) -> dict[str, Any]:
    """Return a host of the JSON document."""
    if isinstance(answer, HostError):
        return {"host": name, "result": console.result_of(answer), "why": answer.message, "facts": None}
    facts, machine, docker = answer.facts, answer.machine, answer.docker
    body = {
        "distribution": facts.distribution,
        "version": facts.version,
        "codename": facts.codename,
        "architecture": facts.architecture,
        "systemd": facts.systemd,
        "kernel": machine.kernel,
        "cgroup": facts.cgroup,
        "processors": machine.processors,
        "memory": machine.memory,
        "memory_available": machine.memory_available,
        "up_seconds": machine.up_seconds,
        "docker": {**vars(docker)},
        "toolkit": machine.toolkit,
        "disks": [{**vars(disk)} for disk in machine.disks],
        "nvidia_smi": facts.driver_error,
        "cards": [_card(answer, index, card, details) for index, card, details in answer.cards],
        "reports": [{**vars(error)} for error in answer.details.reports],
    }
    return {"host": name, "result": "ok", "why": "", "facts": body}


def _card(report: HostReport, index: int, card: Card, details: CardDetails) -> dict[str, Any]:
    return {
        "index": index,
        "smi_index": card.index,
        "uuid": card.uuid,
        "name": card.name,
        "bus_id": details.bus_id,
        "driver": card.driver,
        "compute_capability": card.compute_cap or None,
        "memory_mib": card.memory_mib or None,
        "used_mib": details.used_mib,
        "free_mib": details.free_mib,
        "power_limit_w": details.power_limit_w,
        "persistence": card.persistent,
        "compute_mode": details.compute_mode,
        "ecc": details.ecc,
        "ecc_errors": details.ecc_errors,
        "mig": details.mig,
        "mig_pending": details.mig_pending,
        "mig_devices": [{**vars(device)} for device in details.devices],
        "broken": card.broken,
        "recovery": details.recovery,
        "reports": [{**vars(error)} for error in details.reports],
        "processes": None if report.processes is None else [_process(report, user) for user in report.users(card)],
    }


def _process(report: HostReport, process: Application) -> dict[str, Any]:
    return {
        "pid": process.pid,
        "program": process.program,
        "user": process.user,
        "mib": process.mib,
        "container": process.container,
        "instance": report.instances.get(process.container, ""),
    }
