"""`provision fit`."""

from __future__ import annotations

import click

from provision.actions import Request
from provision.cli import caller as callers
from provision.cli.options import answered, colour_option, json_option, limit_option, password_option


@click.command()
@click.option("--model", default="", metavar="NAME", help="A model, such as deepseek-r1:32b.")
@click.option(
    "--gpu",
    "gpus",
    multiple=True,
    metavar="CARD",
    help='A card of the instance: "RTX 4090", "4x RTX 4090", or free memory such as "48GiB". May be given again.',
)
@click.option("--table", is_flag=True, help="Every card of the table with every model of the table.")
@click.option(
    "--context",
    default=8192,
    show_default=True,
    type=click.IntRange(256, 10_000_000),
    metavar="TOKENS",
    help="Context of one request.",
)
@click.option(
    "--parallel",
    default=1,
    show_default=True,
    type=click.IntRange(1, 1024),
    metavar="N",
    help="Requests at once; each has its own context.",
)
@click.option(
    "--cache-type",
    default="f16",
    show_default=True,
    type=click.Choice(["f16", "q8_0", "q4_0"]),
    help="Numbers of the context's cache.",
)
@click.option(
    "--quantisation",
    default="",
    type=click.Choice(["", "Q4_K_M", "Q8_0", "F16"]),
    metavar="TYPE",
    help="Numbers of the weights: Q4_K_M, Q8_0 or F16.  [default: that of the name]",
)
@click.option(
    "-i",
    "--inventory",
    default="",
    is_flag=False,
    flag_value="inventory.yaml",
    metavar="[FILE]",
    help="Propose a model for the cards of each host of the inventory.  [FILE: inventory.yaml]",
)
@click.option(
    "--measured",
    is_flag=True,
    help="With --inventory: the models of the hosts, measured, kept of the last load, and estimated.",
)
@limit_option
@password_option
@colour_option
@json_option
def fit(
    model: str,
    gpus: tuple[str, ...],
    table: bool,
    context: int,
    parallel: int,
    cache_type: str,
    quantisation: str,
    inventory: str,
    measured: bool,
    limit: tuple[str, ...],
    ask_become_pass: bool,
    as_json: bool,
) -> int:
    """Estimate whether a model fits into cards, and what fits instead. Connects to no host without --inventory.

    Of a model outside of the table, the first bytes come from its registry.

    A model that does not fit runs on the CPU without an error, at a fraction of the speed. The command adds weights,
    cache of the context, compute buffer, process and margin, and compares with the memory of the cards.

    With --inventory each host is asked for its cards, in one exec, and nothing is changed.

    Exit code 0: all of the wish fits. Exit code 5: less fits, or nothing.
    """
    wish = (context, parallel, cache_type)
    if inventory or measured:
        if model or gpus or table or quantisation:
            raise click.UsageError("--inventory and --measured go with none of --model, --gpu, --table, --quantisation")
        password = click.prompt("sudo password", hide_input=True, err=True) if ask_become_pass else None
        request = Request(inventory or "inventory.yaml", limit, become_password=password, setup=callers.current().setup)
        return answered("fit", as_json, lambda: _fleet(request, wish, measured=measured, as_json=as_json))
    return answered("fit", as_json, lambda: _fit(model, gpus, wish, quantisation, in_table=table, as_json=as_json))


def _fleet(request: Request, wish: tuple[int, int, str], *, measured: bool, as_json: bool) -> int:
    from provision.actions import fleet_fit as action
    from provision.capacity import estimate
    from provision.report import fleet_fit as report

    asked = estimate.Request(*wish)
    if measured:
        sizes = action.measure(request)
        report.show_measured(sizes, asked, as_json=as_json)
        return sizes.exit_code
    found = action.propose(request, asked)
    report.show_places(found, asked, as_json=as_json)
    return found.exit_code


def _fit(
    model: str,
    gpus: tuple[str, ...],
    wish: tuple[int, int, str],
    quantisation: str,
    *,
    in_table: bool,
    as_json: bool,
) -> int:
    from provision.actions import fit as action
    from provision.capacity import estimate
    from provision.errors import UsageError
    from provision.report import fit as report
    from provision.steps import engines

    request = estimate.Request(*wish)
    if in_table and (model or gpus or quantisation):
        raise UsageError("--table has every model and every card", "leave out --model, --gpu and --quantisation")
    if in_table:
        report.show_table(action.table(request), as_json=as_json)
        return 0
    if not (model and gpus):
        raise UsageError(
            "say --model and --gpu, or --table", 'such as `provision fit --model deepseek-r1:32b --gpu "RTX 4090"`'
        )
    found = action.fit(action.Wish(model, gpus, request, quantisation), engines.dimensions)
    report.show(found, as_json=as_json)
    return found.exit_code
