"""`provision fit`."""

from __future__ import annotations

import click

from provision.cli.options import answered, colour_option, json_option


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
    as_json: bool,
) -> int:
    """Estimate whether a model fits into cards, and what fits instead. Connects to no host, needs no inventory.

    Of a model outside of the table, the first bytes come from its registry.

    A model that does not fit runs on the CPU without an error, at a fraction of the speed. The command adds weights,
    cache of the context, compute buffer, process and margin, and compares with the memory of the cards.

    Exit code 0: all of the wish fits. Exit code 5: less fits, or nothing.
    """
    wish = (context, parallel, cache_type)
    return answered("fit", as_json, lambda: _fit(model, gpus, wish, quantisation, in_table=table, as_json=as_json))


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
    from provision.capacity.estimate import Request
    from provision.errors import UsageError
    from provision.report import fit as report
    from provision.steps import engines

    request = Request(*wish)
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
