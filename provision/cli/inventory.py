"""`provision init`, `provision inventory check` and `provision inventory show`."""

from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

import click

from provision.cli.options import (
    Group,
    answered,
    colour_option,
    extra_vars_option,
    inventory_option,
    json_option,
    limit_option,
)
from provision.errors import InventoryError, UsageError

if TYPE_CHECKING:
    from provision.inventory import Inventory


@click.command()
@click.argument("path", default="inventory.yaml", type=click.Path(path_type=Path))
def init(path: Path) -> int:
    """Write a commented inventory to start from (inventory.yaml); never over a file."""
    text = files("provision.examples").joinpath("starter.yaml").read_text(encoding="utf-8")
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        message = f"{path} exists already"
        raise UsageError(message, "give another path, or move the file away") from None
    except OSError as error:
        message = f"{path} cannot be written: {error.strerror}"
        raise UsageError(message) from None
    click.echo(f"Wrote {path}. Put your hosts in it, then: provision inventory check -i {path}")
    return 0


@click.group(cls=Group)
def inventory() -> None:
    """Check the inventory, or show it merged."""


@inventory.command(short_help="Report every problem of the inventory at once.")
@inventory_option
@limit_option
@extra_vars_option
@colour_option
@json_option
def check(inventory: str, limit: tuple[str, ...], extra_vars: tuple[str, ...], as_json: bool) -> int:
    """Report every problem of the inventory at once, with exit code 2. Reaches no host.

    --limit chooses the hosts to count; the problems of all hosts are reported.
    """
    return answered("inventory check", as_json, lambda: _check(inventory, limit, extra_vars, as_json=as_json))


def _check(inventory: str, limit: tuple[str, ...], extra_vars: tuple[str, ...], *, as_json: bool) -> int:
    from provision.plan import role_interface
    from provision.report.console import document

    try:
        loaded = role_interface.load(inventory, extra_vars)
    except InventoryError as error:
        _failed(error, as_json=as_json)
        return error.exit_code
    chosen = loaded.replace(loaded.select(limit))
    told = (*loaded.advice.values(), *loaded.accepted.values())
    warnings = (*loaded.warnings, *(text for texts in told for text in texts))
    if as_json:
        document("inventory check", 0, warnings, problems=[], summary=_summary(chosen))
        return 0
    _warn(warnings)
    click.echo(f"{inventory}: {', '.join(_counted(_summary(chosen)))}; no problems")
    return 0


@inventory.command(short_help="Show what holds for every host, or for HOST, after merging.")
@click.argument("host", required=False)
@inventory_option
@limit_option
@extra_vars_option
@colour_option
@json_option
def show(host: str | None, inventory: str, limit: tuple[str, ...], extra_vars: tuple[str, ...], as_json: bool) -> int:
    """Show the merged settings of every host, or of HOST; secrets are masked."""
    return answered("inventory show", as_json, lambda: _show(host, inventory, limit, extra_vars, as_json=as_json))


def _show(
    host: str | None, inventory: str, limit: tuple[str, ...], extra_vars: tuple[str, ...], *, as_json: bool
) -> int:
    from provision.inventory import as_yaml
    from provision.inventory import show as merged
    from provision.plan import role_interface
    from provision.report.console import document

    loaded = role_interface.load(inventory, extra_vars)
    chosen = loaded.replace(loaded.select(limit)) if limit else loaded
    shown = merged(chosen, host)
    if as_json:
        hosts = [{"host": name, **settings} for name, settings in shown["hosts"].items()]
        document("inventory show", 0, loaded.warnings, inventory=shown["inventory"], hosts=hosts)
        return 0
    _warn(loaded.warnings)
    click.echo(as_yaml(shown), nl=False)
    return 0


def _failed(error: InventoryError, *, as_json: bool) -> None:
    """Print every problem, on stdout as JSON or on stderr for people."""
    problems = error.problems
    if as_json:
        from provision.report.console import document

        faults = [vars(problem) for problem in problems]
        document("inventory check", 2, error.warnings, problems=faults, summary={})
        return
    _warn(error.warnings)
    for problem in problems:
        click.echo(problem, err=True)
    click.echo(f"{len(problems)} problem{'s'[: len(problems) != 1]}", err=True)


def _warn(warnings: tuple[str, ...]) -> None:
    from provision.report.console import warn

    for warning in warnings:
        warn(warning)


def _summary(loaded: "Inventory") -> dict[str, int]:
    groups = {group for host in loaded.hosts for group in host.groups}
    instances = sum(len(host.instances) for host in loaded.hosts)
    return {"hosts": len(loaded.hosts), "groups": len(groups), "instances": instances}


def _counted(summary: dict[str, int]) -> list[str]:
    return [f"{count} {noun if count != 1 else noun.removesuffix('s')}" for noun, count in summary.items()]
