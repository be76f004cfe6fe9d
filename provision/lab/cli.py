"""`provision lab ...`: parse, call, print. Each command imports its heavy modules itself."""

import os
from pathlib import Path

import click

from provision.errors import UsageError


@click.group()
def lab() -> None:
    """A throw-away fleet of real hosts with simulated GPUs on this machine (needs root)."""


SIMULATED = "simulated: the cards, NVIDIA's container toolkit and the model server"
_name = click.option("--name", default="lab", show_default=True, help="Name of the lab.")


_release = click.option(
    "--release", default="", help="Release of the hosts.  [default: trixie; on Ubuntu the machine's]"
)
_vm = click.option("--vm", is_flag=True, help="Hosts are virtual machines (QEMU) with kernel and systemd of their own.")
_install = click.option("--install", is_flag=True, help="Install what this machine lacks with apt-get.")


@lab.command(short_help="Make the images that a lab boots from")
@_release
@_vm
@_install
def prepare(release: str, vm: bool, install: bool) -> None:
    """Make whatever takes minutes and needs the package mirror the first time; else `up` makes it."""
    from provision.lab import machine
    from provision.lab.lab import Lab

    Lab.prepare(release or machine.default_release(), install=install, vm=vm, say=_say)


@lab.command()
@_name
@click.option("--gpu-hosts", default=2, show_default=True, help="Hosts with simulated GPUs.")
@click.option("--balancers", default=1, show_default=True, help="Hosts without.")
@click.option("--gpus", default=2, show_default=True, help="Cards per gpu host.")
@click.option("--rtt", default=0.0, show_default=True, help="Round-trip delay to the hosts, in milliseconds.")
@_release
@_vm
@click.option("--packages", default="", help="A folder of .deb files that the lab's repository of Docker has too.")
@_install
def up(
    name: str,
    gpu_hosts: int,
    balancers: int,
    gpus: int,
    rtt: float,
    release: str,
    vm: bool,
    packages: str,
    install: bool,
) -> None:
    """Boot the lab; finish, enlarge or keep a lab of the same name."""
    from provision.lab import machine
    from provision.lab.lab import Lab
    from provision.lab.spec import Spec

    folder = str(Path(packages).resolve()) if packages else ""
    spec = Spec(name, gpu_hosts, balancers, gpus, rtt, release or machine.default_release(), vm, folder)
    if spec.vm:
        _prepare_machines(spec.release, install=install)
    booted = Lab.up(spec, install=install, say=_say)
    for host in booted.hosts():
        click.echo(f"{host.name:<8} {host.address}")
    click.echo(SIMULATED)
    click.echo(f"inventory: {booted.inventory}")


def _say(text: str) -> None:
    click.echo(text, err=True)


def _prepare_machines(release: str, *, install: bool) -> None:
    """Make the image, and a native build of nginx where QEMU emulates."""
    from provision.lab import acceleration, builds, vm_image
    from provision.lab.lab import Lab

    Lab.prepare(release, install=install, vm=True, say=_say)
    if acceleration.acceleration(vm_image.ensure(release, _say)) == acceleration.EMULATED:
        builds.ensure(release, _say)


@lab.command()
@_name
@click.option("--all", "everything", is_flag=True, help="Every lab of this machine.")
def down(name: str, everything: bool) -> None:
    """Take the lab down and leave nothing behind."""
    from provision.lab.lab import Lab

    chosen = Lab.all() if everything else [Lab.find(name)]
    if not chosen:
        click.echo("there is no lab")
    for each in chosen:
        each.down()
        click.echo(f"lab {each.name} is gone")


@lab.command()
def status() -> None:
    """Show every lab of this machine with its hosts."""
    from provision.lab.lab import Lab

    labs = Lab.all()
    if not labs:
        click.echo("there is no lab; `provision lab up` boots one")
    for each in labs:
        kind = f"{each.spec.release}{', virtual machines' if each.spec.vm else ''}"
        click.echo(f"{each.name}: {kind}, subnet {each.network.cidr}, inventory {each.inventory}")
        for host in each.hosts():
            state = "running" if host.running else "stopped"
            saved = f"  saved: {', '.join(host.disk.saved())}" if host.disk.saved() else ""
            click.echo(f"  {host.name:<8} {host.address:<15} {state}{saved}")


@lab.command(context_settings={"ignore_unknown_options": True})
@_name
@click.argument("host")
@click.argument("words", nargs=-1, type=click.UNPROCESSED)
def ssh(name: str, host: str, words: tuple[str, ...]) -> None:
    """Log in to HOST, or run WORDS there."""
    from provision.lab.lab import Lab

    argv = Lab.find(name).ssh(host, words)
    os.execvp(argv[0], argv)  # noqa: S606


@lab.command(short_help="Boot HOST, or all hosts, bare or from a saved state")
@_name
@click.option("--label", default="", help="A state that `lab save` kept.  [default: the bare host]")
@click.argument("host", required=False)
def reset(name: str, label: str, host: str | None) -> None:
    """Cut the power of HOST (or of all) and boot it bare, or from a saved state."""
    from provision.lab.lab import Lab

    Lab.find(name).restore(host, label)


@lab.command(short_help="Keep the state of every host under LABEL")
@_name
@click.argument("label")
def save(name: str, label: str) -> None:
    """Keep the state of every host under LABEL, for `lab reset --label`."""
    from provision.lab.lab import Lab

    if not label.isalnum():
        raise UsageError("a label is letters and digits")
    Lab.find(name).save(label)


@lab.command(short_help="Switch a FAULT of a TARGET on or off, or show the faults")
@_name
@click.option("--list", "listed", is_flag=True, help="Show what can go wrong.")
@click.option("--value", default="", help="A value that some faults take.")
@click.argument("target", required=False)
@click.argument("fault", required=False)
@click.argument("state", type=click.Choice(["on", "off"]), default="on")
def fault(name: str, listed: bool, value: str, target: str | None, fault: str | None, state: str) -> None:
    """Switch a FAULT of a TARGET on or off; without TARGET and FAULT, show the faults that are on.

    A TARGET is a host (gpu-01), an instance (gpu-01/ollama1), the site, or a model of the site (site/deepseek-r1).
    """
    from provision.lab import faults
    from provision.lab.lab import Lab

    if listed:
        for each in faults.FAULTS:
            click.echo(f"{each.target:<14} {each.name:<16} {each.text}")
    elif target and fault:
        faults.switch(Lab.find(name), target, fault, on=state == "on", value=value)
    elif target:
        raise UsageError("which fault?", "see `provision lab fault --list`")
    else:
        for where, what in faults.active(Lab.find(name)):
            click.echo(f"{where:<16} {what}")


@lab.command(short_help="Boot a lab, deploy, verify, and stream a question")
@_name
def demo(name: str) -> None:
    """Boot a lab, deploy to its hosts, verify them and stream a question."""
    from provision.lab import demo as play
    from provision.lab import machine
    from provision.lab.spec import Spec

    for line in play.run(Spec(name, release=machine.default_release())):
        click.echo(line)
