"""`provision loadtest`: parse, call, print."""

import os
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from provision.cli.options import (
    answered,
    colour_option,
    extra_vars_option,
    given_words,
    inventory_option,
    json_option,
    limit_option,
    seconds_of,
)

if TYPE_CHECKING:
    from provision.inventory import Secret, Targets
    from provision.loadtest.about import About
    from provision.loadtest.drive import Load, Web
    from provision.loadtest.measure import Tally
    from provision.loadtest.session import Result
    from provision.loadtest.target import Endpoint

STEP = "20s"  # default length of a step of --find-capacity
DURATION = "2m"


@dataclass(frozen=True)
class LoadTestOptions:
    """The options of the command line."""

    inventory: str
    limit: tuple[str, ...]
    extra_vars: tuple[str, ...]
    users: int
    spawn_rate: float
    duration: str
    model: str
    profile: str
    max_tokens: int
    timeout: str
    max_requests: int
    stop_at_failures: str
    processes: int
    target: str
    yes: bool
    api_key: str
    ca: str
    client_certificate: str
    max_ttft_p95: str | None
    max_fail: str | None
    max_queued: str | None
    min_tokens_per_second: str | None
    max_skew: str | None
    baseline: str
    margin: str
    find_capacity: bool
    users_wanted: int | None
    web: bool
    web_host: str
    web_port: int
    html: str
    csv: str
    as_json: bool


@click.command()
@inventory_option
@limit_option
@extra_vars_option
@click.option("-u", "--users", default=8, show_default=True, type=click.IntRange(1, 100_000), help="Users at once.")
@click.option(
    "-r", "--spawn-rate", default=10.0, show_default=True, type=click.FloatRange(0.01, 1000), help="Users a second."
)
@click.option(
    "--duration",
    default="",
    metavar="DURATION",
    help=f"How long users ask; of a step of --find-capacity.  [{DURATION}; {STEP}]",
)
@click.option("--model", default="", metavar="NAME", help="The model.  [default: the inventory's]")
@click.option(
    "--profile", default="chat", show_default=True, metavar="chat|generate|openai|FILE", help="What is asked."
)
@click.option("--max-tokens", default=128, show_default=True, type=click.IntRange(1, 100_000), help="Of an answer.")
@click.option(
    "--timeout",
    default="60s",
    show_default=True,
    metavar="DURATION",
    help="Longest time for an answer, waiting included.",
)
@click.option(
    "--max-requests", default=100_000, show_default=True, type=click.IntRange(1), help="End after so many (in a step)."
)
@click.option(
    "--stop-at-failures",
    default="50%",
    show_default=True,
    metavar="SHARE",
    help="End when more than this share of the latest requests fails; no step of --find-capacity is ended so.",
)
@click.option("--processes", default=1, show_default=True, type=click.IntRange(1, 256), help="Locust's; one a core.")
@click.option("--target", default="", metavar="URL", help="Another endpoint than the inventory's; needs --yes.")
@click.option("-y", "--yes", is_flag=True, help="Yes, put load on this --target.")
@click.option("--api-key", default="", metavar="env:NAME|file:PATH", help="Where the endpoint's key is.")
@click.option("--ca", default="", metavar="FILE", help="Authorities of an https:// endpoint.  [the inventory's]")
@click.option(
    "--client-certificate",
    default="",
    metavar="FILE",
    help="Certificate and key in PEM, for an endpoint that asks clients for a certificate.",
)
@click.option(
    "--max-ttft-p95",
    metavar="DURATION",
    help="Target: time to first token of 95 % of the answers, or `off`.  [default: the inventory's, else 2s]",
)
@click.option(
    "--max-queued",
    metavar="SHARE",
    help="Target: answers that wait in a queue, or `off`.  [default: the inventory's, else 10%]",
)
@click.option(
    "--max-fail", metavar="SHARE", help="Target: failed requests, or `off`.  [default: the inventory's, else 1%]"
)
@click.option("--min-tokens-per-second", metavar="N", help="Target: speed of 95 % of the answers.")
@click.option("--max-skew", metavar="SHARE", help="Target: how uneven instances share the requests.")
@click.option("--baseline", default="", metavar="FILE", help="Compare with what --json printed earlier.")
@click.option(
    "--margin", default="10%", show_default=True, metavar="SHARE", help="How much worse than the baseline is allowed."
)
@click.option("--find-capacity", is_flag=True, help="How many users it holds, up to --users.  [of 256]")
@click.option(
    "--users-wanted",
    type=click.IntRange(1, 1_000_000),
    metavar="N",
    help="With --find-capacity: how many instances so many users need.  [10, 50, 100 and 500]",
)
@click.option("--web", is_flag=True, help="Locust's own page, set up for this endpoint.")
@click.option("--web-host", default="127.0.0.1", show_default=True, metavar="ADDRESS", help="Address of that page.")
@click.option("--web-port", default=8089, show_default=True, type=click.IntRange(1, 65535), help="Its port.")
@click.option("--html", default="", metavar="FILE", help="Also write a page with plots.")
@click.option("--csv", default="", metavar="FILE", help="Also write every request.")
@colour_option
@json_option
def loadtest(**options: object) -> int:
    """Put load on the endpoint: are the targets met, is an instance slower, how many users are served in time?"""
    source = click.get_current_context().get_parameter_source("users")
    if options["find_capacity"] and source is click.core.ParameterSource.DEFAULT:
        options["users"] = 256
    parsed: Callable[..., LoadTestOptions] = LoadTestOptions  # click has checked the types
    typed = parsed(**options)
    return answered("loadtest", typed.as_json, lambda: _loadtest(typed))


def _loadtest(options: LoadTestOptions) -> int:
    from provision.loadtest import files, session, stop, target, trust, verdict
    from provision.loadtest.about import about
    from provision.report.console import warn

    endpoint, targets = _endpoint(options)
    endpoint = replace(endpoint, trust=trust.with_files(endpoint.trust, options.ca, options.client_certificate))
    endpoint, load = _load(options, endpoint)
    web = _web(options)
    margin = _share(options.margin, "--margin")
    before = session.baseline(options.baseline, load) if options.baseline else None
    files.check(*filter(None, (options.html, options.csv)))
    found = target.probe(endpoint, load.profile.model, load.key)
    for note in found.notes if not options.as_json else ():
        warn(note)
    circumstances = about(["loadtest", *given_words(click.get_current_context())], time.time(), found, endpoint.members)
    show = _Progress()
    with stop.noted() as wish:
        if options.find_capacity:
            result = session.find_capacity(load, endpoint, targets, show.step, wish, options.users_wanted)
        else:
            result = session.once(load, endpoint, targets, show, wish, web)
    show.end()
    if before is not None:
        result.verdicts += verdict.compare(session.document(result)["overall"], before, margin)
    _report(options, result, circumstances)
    return result.exit_code


def _endpoint(options: LoadTestOptions) -> "tuple[Endpoint, Targets]":
    """The endpoint and its targets: from the inventory, from the command line, or both."""
    from provision.errors import UsageError
    from provision.inventory import LoadTest
    from provision.loadtest import target
    from provision.plan import role_interface

    if options.target and not os.path.exists(options.inventory):  # noqa: PTH110 - which says no where it may not look
        return _foreign(options), _targets(options, LoadTest().targets)
    inventory = role_interface.load(options.inventory, options.extra_vars)
    hosts = inventory.select(options.limit)
    targets = _targets(options, hosts[0].of(LoadTest).targets)
    try:
        endpoint = target.of_inventory(inventory, hosts)
    except UsageError:
        if not options.target:
            raise
        return _foreign(options), targets
    if options.target:
        url = target.of_url(options.target).urls[0]
        endpoint = replace(endpoint, urls=(url,)) if url in endpoint.urls else _foreign(options)
    return endpoint, targets


def _foreign(options: LoadTestOptions) -> "Endpoint":
    """An endpoint outside of the inventory: load on somebody else's machine needs a second word."""
    from provision.errors import UsageError
    from provision.loadtest import target

    endpoint = target.of_url(options.target)
    if not options.yes:
        raise UsageError(f"{endpoint.urls[0]} is not in the inventory", "to put load on it, say --yes")
    return endpoint


def _targets(options: LoadTestOptions, ours: "Targets") -> "Targets":
    """The targets of the inventory, replaced by targets of the command line."""
    from provision.inventory import Targets

    given: dict[str, object] = {name: getattr(options, name) for name in Targets.model_fields}
    with suppress(TypeError, ValueError):
        given["min_tokens_per_second"] = float(str(options.min_tokens_per_second))
    return ours.replaced({name: value for name, value in given.items() if value is not None})


def _load(options: LoadTestOptions, endpoint: "Endpoint") -> "tuple[Endpoint, Load]":
    """The load, and the endpoint for the model of the load."""
    from provision.loadtest import profile, target
    from provision.loadtest.drive import Load

    model = target.chosen_model(endpoint, options.model)
    requests = profile.load(options.profile, model, options.max_tokens)
    endpoint = target.of_model(endpoint, requests.model)
    length = options.duration or (STEP if options.find_capacity else DURATION)
    load = Load(
        targets=endpoint.urls,
        profile=requests,
        users=options.users,
        spawn_rate=options.spawn_rate,
        seconds=seconds_of(length, "--duration", least=1),
        timeout=seconds_of(options.timeout, "--timeout", least=1),
        processes=options.processes,
        most_requests=options.max_requests,
        most_failures=_share(options.stop_at_failures, "--stop-at-failures"),
        key=_key(options.api_key),
        trust=endpoint.trust,
    )
    return endpoint, load


def _web(options: LoadTestOptions) -> "Web | None":
    from provision.errors import UsageError
    from provision.inventory import is_address
    from provision.loadtest.drive import Web

    chosen = [f"--{name}" for name in ("web", "find-capacity", "baseline") if getattr(options, name.replace("-", "_"))]
    if options.users_wanted and not options.find_capacity:
        raise UsageError("--users-wanted needs --find-capacity", "the number of instances comes from a search")
    if len(chosen) > 1:
        raise UsageError(f"{' and '.join(chosen)} do not go together", "choose one")
    if not is_address(options.web_host):
        raise UsageError("--web-host must be an IP address", "127.0.0.1 is this machine alone")
    if not options.web:
        return None
    at = f"[{options.web_host}]" if ":" in options.web_host else options.web_host
    click.echo(
        f"Locust's page: http://{at}:{options.web_port}/?tab=tokens  (Ctrl-C ends it and shows the figures)", err=True
    )
    return Web(options.web_host, options.web_port)


def _share(text: str, option: str) -> float:
    from provision.errors import UsageError
    from provision.inventory import share_of

    try:
        share = share_of(text)
    except ValueError:
        share = -1.0
    if not 0 <= share <= 1:
        raise UsageError(f"{option} must be a share between 0% and 100%, such as 5%")
    return share


def _key(place: str) -> "Secret | None":
    """The key from its variable or file. The error repeats no word of the operator's: the word may be the key."""
    from provision.errors import UsageError
    from provision.inventory import Secret

    if not place:
        return None
    kind, _, name = place.partition(":")
    if kind not in ("env", "file") or not name:
        raise UsageError("--api-key takes env:NAME or file:PATH, not a key", "arguments are seen by everybody")
    try:
        value = os.environ.get(name, "") if kind == "env" else Path(name).expanduser().read_text()
    except (OSError, UnicodeError) as error:
        raise UsageError(f"--api-key: {name} cannot be read: {type(error).__name__}") from None
    key = value.strip()
    if not key or len(key) > 4096 or not key.isascii() or not key.isprintable():
        raise UsageError(f"--api-key: {name} holds no key", "one line of printable text is wanted")
    return Secret(key)


def _report(options: LoadTestOptions, result: "Result", circumstances: "About") -> None:
    from provision.loadtest import files, page, session, text
    from provision.report import console

    if options.as_json:
        console.document("loadtest", result.exit_code, circumstances.notes, **session.document(result))
    else:
        for line in text.whole(result):
            console.say(line)
    if options.csv:
        files.write_csv(options.csv, result.tally)
    if options.html:
        page.write(options.html, result, circumstances)


class _Progress:
    """Progress on stderr: a line that is written anew on a terminal, a line every ten seconds elsewhere."""

    def __init__(self) -> None:
        self._begun = self._shown = time.monotonic()
        self._every = 0.5 if sys.stderr.isatty() else 10.0

    def __call__(self, tally: "Tally") -> None:
        self._say("", tally)

    def step(self, users: int, tally: "Tally") -> None:
        """A step of the search for the capacity."""
        self._say(f"{users} users  ", tally)

    def _say(self, head: str, tally: "Tally") -> None:
        from provision.loadtest.text import progress

        now = time.monotonic()
        if now - self._shown >= self._every:
            self._shown = now
            line = head + progress(tally, now - self._begun)
            click.echo(f"\r\x1b[K{line}" if sys.stderr.isatty() else line, err=True, nl=not sys.stderr.isatty())

    def end(self) -> None:
        """Leave the terminal's line."""
        if sys.stderr.isatty():
            click.echo("\r\x1b[K", err=True, nl=False)
