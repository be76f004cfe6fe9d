"""The directives of the configuration for any settings; no setting can add a directive."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from provision.inventory import Connection, Host, Instance, Inventory
from provision.roles import balancer, nginx
from provision.steps.nginx.generation import rebinds
from provision.steps.ollama.engine import OLLAMA
from provision.steps.ollama.stream_proof import is_spread
from tests.unit.balancer_fleet import config, fleet, host, state, texts
from tests.unit.nginx_config import Directive, find, parse

EVERY = "0.0.0.0"  # noqa: S104 - a setting, not bound
NASTY = st.text(st.sampled_from("a1.:/- ;{}\"'$#\\\n\r\t`()\0é")) | st.text()


def site(**settings: Any) -> tuple[Directive, ...]:
    """Return the site of a balancer with some settings."""
    return parse(texts(config(fleet(balancer=settings)))["site.conf"])


def one(directives: tuple[Directive, ...], name: str) -> tuple[str, ...]:
    """Return the words of the only directive of a name."""
    [found] = find(directives, name)
    return found.words[1:]


def test_long_streams_come_through() -> None:
    said = site()
    assert one(said, "proxy_buffering") == ("off",)
    assert one(said, "proxy_request_buffering") == ("on",)
    assert one(said, "proxy_read_timeout") == ("1800s",)
    assert one(said, "proxy_connect_timeout") == ("3s",)
    assert one(said, "proxy_http_version") == ("1.1",)
    headers = {found.words[1]: found.words[2] for found in find(said, "proxy_set_header")}
    assert headers["Connection"] == ""
    assert headers["Authorization"] == ""


def test_a_request_that_could_not_begin_is_retried_and_a_slow_request_is_not() -> None:
    said = site(read_timeout="20m")
    assert one(said, "proxy_next_upstream") == ("error", "timeout", "http_502", "http_503", "non_idempotent")
    assert one(said, "proxy_next_upstream_timeout") == one(said, "proxy_read_timeout") == ("1200s",)


def test_a_request_outlives_a_whole_host() -> None:
    inventory = fleet()
    most = max(len(host.instances) for host in inventory.hosts)
    assert one(parse(texts(config(inventory))["site.conf"]), "proxy_next_upstream_tries") == (str(most + 1),)


def test_only_the_listed_paths_are_open() -> None:
    locations = {found.words[1:]: found.block or () for found in find(site(), "location")}
    passed = {words for words, block in locations.items() if find(block, "proxy_pass")}
    assert passed == {("=", path) for path in OLLAMA.client_paths} | {("/v1/",)}
    assert find(locations[("/",)], "return")[0].words[1] == "403"
    assert not {path.split(" ")[1] for path in OLLAMA.refused} & {path for _, path in passed - {("/v1/",)}}


def test_the_normalised_path_is_passed_on() -> None:
    for found in find(site(), "location"):
        for target in find(found.block or (), "proxy_pass"):
            assert target.words[1] == f"http://ollama{found.words[-1]}"


@pytest.mark.parametrize("name", ["rewrite", "if", "set", "charset"])
def test_no_directive_is_used_that_the_open_holes_of_old_versions_need(name: str) -> None:
    for text in texts(config(fleet())).values():
        directives = parse(text)
        assert not find(directives, name)
        patterns = [words for words in _all(directives) if any(word.startswith("~") for word in words)]
        assert patterns in ([], [("location", "~", "/api/")]), "a pattern without captures, and no other"


def _all(directives: tuple[Directive, ...]) -> list[tuple[str, ...]]:
    return [words for one in directives for words in (one.words, *_all(one.block or ()))]


def test_the_status_is_for_the_host_alone() -> None:
    said = parse(texts(config(fleet(balancer={"status_port": 8099})))["status.conf"])
    assert one(said, "listen") == ("127.0.0.1:8099",)
    assert one(said, "deny") == ("all",)


def test_directives_of_newer_versions_are_used_only_there() -> None:
    old, new = (config(fleet(nginx={"version": version})) for version in ("1.26.3", "1.30.5"))
    before, after = (parse(texts(found)["site.conf"]) for found in (old, new))
    assert not find(before, "keepalive_min_timeout")
    assert one(before, "keepalive_timeout") == ("0",)
    assert one(after, "keepalive_min_timeout") == ("10s",)
    assert not find(after, "keepalive_timeout")


@pytest.mark.parametrize(
    ("before", "after", "restart"),
    [
        ((EVERY,), ("10.0.0.5",), True),
        (("10.0.0.5",), (EVERY,), True),
        (("::", EVERY), (EVERY,), False),
        (("10.0.0.5",), ("10.0.0.6",), False),
    ],
)
def test_only_a_move_between_all_addresses_and_single_addresses_restarts(
    before: Any, after: Any, restart: bool
) -> None:
    old, new = (config(fleet(balancer={"listen": listen})) for listen in (before, after))
    have = {**state(old), "exe": old.binary}
    assert rebinds(have, state(new)) is restart
    assert ("restarts" in new.impact(have, state(new))) is restart


def test_a_stopped_nginx_needs_no_restart() -> None:
    old, new = (config(fleet(balancer={"listen": listen})) for listen in ((EVERY,), ("10.0.0.5",)))
    assert not rebinds(state(old), state(new))


@pytest.mark.parametrize(
    ("settings", "path"),
    [
        ({"status_port": 3008}, ("status_port",)),
        ({"listen": ("10.0.0.1", "10.0.0.1")}, ("listen",)),
        ({"listen": (EVERY, "10.0.0.1")}, ("listen",)),
        ({"read_timeout": "-1"}, ("read_timeout",)),
        ({"read_timeout": "0"}, ("read_timeout",)),
        ({"max_body": "0"}, ("max_body",)),
        ({"worker_processes": 0}, ("worker_processes",)),
    ],
)
def test_impossible_settings_are_reported(settings: dict[str, Any], path: tuple[str, ...]) -> None:
    assert [where for where, _ in balancer.Settings(**settings).problems()] == [path]


def test_the_defaults_have_no_problem() -> None:
    assert not list(balancer.Settings().problems())


@given(field=st.sampled_from(sorted(balancer.Settings.model_fields)), value=NASTY | st.lists(NASTY) | st.integers())
def test_no_setting_breaks_out_of_the_configuration(field: str, value: Any) -> None:
    try:
        settings = balancer.Settings(**{field: value})
    except ValidationError:
        return
    if list(settings.problems()):
        return
    assert _shape(fleet(balancer={field: value})) == _shape(fleet(balancer={"method": settings.method}))


def _shape(inventory: Inventory) -> list[Any]:
    """Return the names of the directives with the number of their words; `listen` may occur repeatedly."""
    files = texts(config(inventory))
    return [_names(parse(text)) for name, text in sorted(files.items())]


def _names(directives: tuple[Directive, ...]) -> list[Any]:
    named = [(d.words[0], len(d.words), _names(d.block or ())) for d in directives if d.words[0] != "listen"]
    return [*named, "listen"] if len(named) < len(directives) else named


@given(name=NASTY, container=NASTY, address=NASTY)
def test_no_name_or_address_breaks_out_of_the_upstream(name: str, container: str, address: str) -> None:
    gpu = Host(
        name=name,
        groups=("gpu",),
        connection=Connection(address=address),
        settings={"nginx": nginx.Settings(), "balancer": balancer.Settings()},
        instances=(Instance(host=name, name=container, gpus=(0,), port=3001),),
    )
    said = parse(texts(config(Inventory(path="x", hosts=(gpu, host("lb-01", "balancer")))))["upstream.conf"])
    [server] = find(said, "server")
    assert server.words[1].endswith(":3001")
    assert [found.words[0] for found in said] == ["upstream", "map"]


def test_lines_that_arrive_in_a_lump_are_no_stream() -> None:
    last = {"done": True, "eval_duration": 1_000_000_000}
    assert is_spread([(0, {}), (500, {}), (1000, last)])
    assert not is_spread([(1000, {}), (1001, {}), (1002, last)])
    assert is_spread([(0, {}), (1, last)]), "too few lines to tell"
