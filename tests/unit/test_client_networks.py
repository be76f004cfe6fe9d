"""The networks that may use the listeners of a balancer."""

from typing import Any

import pytest
from pydantic import ValidationError

from provision.roles import balancer
from provision.steps.base import NOT_ASKED
from provision.steps.facts import HostFacts
from provision.steps.nginx import client_networks
from provision.steps.nginx.client_networks import Door
from tests.unit.balancer_fleet import config, fleet, texts
from tests.unit.nginx_config import Directive, find, parse

FACTS = HostFacts()
LISTENERS = {"allow": ["10.0.0.0/8", "fd00::/64"], "status_listen": ["10.9.0.5"], "status_allow": ["10.9.0.0/24"]}


def networks(found: Directive) -> dict[str, str]:
    return {inner.words[0]: inner.words[1] for inner in found.block or ()}


def test_a_stranger_is_refused_before_a_location_is_chosen() -> None:
    rendered = texts(config(fleet(balancer={**LISTENERS, "listen": ["10.0.0.5", "::"]})))
    [geo] = find(parse(rendered["allow.conf"]), "geo")
    own = ("127.0.0.1/32", "::1/128", "10.0.0.5/32")
    assert networks(geo) == {"default": "1", **dict.fromkeys(("10.0.0.0/8", "fd00::/64", *own), "0")}
    assert ("include", "allow.conf") in [found.words for found in find(parse(rendered["nginx.conf"]), "include")]
    for name, variable in (("site.conf", "($refused_client)"), ("status.conf", "($refused_status)")):
        [server] = find(parse(rendered[name]), "server")
        [refusal] = [found for found in server.block or () if found.words == ("if", variable)]
        [answer] = refusal.block or ()
        assert answer.words[:2] == ("return", "403"), "in the server itself: no location has answered yet"
    [status] = find(parse(rendered["status.conf"]), "server")
    listens = [found.words[1] for found in status.block or () if found.words[0] == "listen"]
    assert listens == ["127.0.0.1:8080", "10.9.0.5:8080"]
    [geo] = find(parse(rendered["status.conf"]), "geo")
    assert networks(geo)["10.9.0.5/32"] == "0", "the host itself, for the proofs"


def test_without_the_keys_nothing_changes() -> None:
    rendered = texts(config(fleet()))
    assert "allow.conf" not in rendered
    assert not [name for name, text in rendered.items() if find(parse(text), "geo") + find(parse(text), "if")]
    [status] = find(parse(rendered["status.conf"]), "server")
    assert [found.words for found in status.block or ()][2:4] == [("allow", "127.0.0.1"), ("deny", "all")]


@pytest.mark.parametrize(
    ("settings", "path", "said"),
    [
        ({"status_listen": ["10.9.0.5"]}, ("status_allow",), "must name the networks"),
        ({"status_allow": ["10.9.0.5"]}, ("status_listen",), "must name an address"),
        ({"status_listen": ["::"], "status_allow": ["10.0.0.1"]}, ("status_listen", 0), "must be an address"),
        ({"status_listen": ["127.0.0.1"], "status_allow": ["10.0.0.1"]}, ("status_listen", 0), "must be an address"),
        (
            {"status_listen": ["FD00:0::1", "fd00::1"], "status_allow": ["10.0.0.1"]},
            ("status_listen", 1),
            "names an address twice",
        ),
    ],
)
def test_addresses_and_networks_of_the_status_port_belong_together(settings: Any, path: Any, said: str) -> None:
    [(found, message)] = list(balancer.Settings.model_validate(settings).problems())
    assert found == path
    assert message.startswith(said)


@pytest.mark.parametrize("network", ["10.0.0.1/8", "fe80::1%eth0", "all", "10.0.0.0/33", "", "10.0.0.0/8 0; x"])
def test_a_text_that_is_no_network_is_refused(network: str) -> None:
    with pytest.raises(ValidationError, match="an IP address or network"):
        balancer.Settings.model_validate({"allow": [network]})


def test_a_plan_says_which_clients_lose_access() -> None:
    def cost(before: list[str], after: list[str]) -> str:
        have, want = (config(fleet(balancer={"allow": allow})).want(FACTS, None) for allow in (before, after))
        return client_networks.cost(have, want)

    assert cost([], ["10.0.0.0/8"]) == "clients outside of 10.0.0.0/8 get 403"
    assert cost(["10.0.0.0/8", "10.1.0.0/16"], ["10.0.0.0/8"]) == "clients outside of 10.0.0.0/8 get 403"
    assert cost(["10.0.0.0/8"], ["10.0.0.0/8", "fd00::/64"]) == ""
    assert cost(["10.0.0.0/8"], []) == ""


class Live:
    """A balancer that answers each pair of source and URL with a status."""

    def __init__(self, **statuses: str) -> None:
        self.statuses, self.stdout = statuses, ""

    def run(self, _: str, *arguments: str) -> "Live":
        sources = ["own" if pair.startswith("- ") else "stranger" for pair in arguments[1:]]
        self.stdout = "".join(f"{self.statuses[source]}\n" for source in sources if source in self.statuses)
        return self


@pytest.mark.parametrize(
    ("statuses", "failed"),
    [
        ({"own": "200", "stranger": "403"}, []),
        ({"own": "200", "stranger": "200"}, ["http://127.0.0.1:3008/x refuses 127.0.0.2, which is outside of a key"]),
        ({"own": "403", "stranger": "403"}, ["http://127.0.0.1:3008/x answers the host itself"]),
        ({"own": "401", "stranger": "403"}, ["http://127.0.0.1:3008/x answers the host itself"]),
    ],
)
def test_verify_asks_from_an_allowed_and_from_a_refused_address(statuses: Any, failed: list[str]) -> None:
    door = Door("a key", ("10.0.0.0/8",), ("http://127.0.0.1:3008/x",))
    checks = list(door.check(Live(**statuses)))
    assert [check.name for check in checks if not check.passed] == failed
    assert len(checks) == 2


def test_without_a_key_a_refusal_that_asks_for_the_key_shows_an_allowed_address() -> None:
    for own, is_right in (("401", True), ("200", True), ("403", False)):
        [answer, refusal] = Door("a key", ("10.0.0.0/8",), ("http://127.0.0.1:1/",), ("401", "200")).check(
            Live(own=own, stranger="403")
        )
        assert (answer.passed, refusal.passed) == (is_right, True)


@pytest.mark.parametrize(
    ("network", "url", "why"),
    [("127.0.0.0/8", "http://127.0.0.1:1/", "a key has 127.0.0.2"), ("10.0.0.0/8", "http://[::1]:1/", "an IPv6 host")],
)
def test_a_refused_source_that_the_host_does_not_have_is_said(network: str, url: str, why: str) -> None:
    [own, unasked] = Door("a key", (network,), (url,)).check(Live(own="200"))
    assert (own.passed, unasked.name.startswith(NOT_ASKED), why in unasked.name) == (True, True, True)


def test_no_answer_fails_every_proof() -> None:
    assert not any(check.passed for check in Door("a key", ("10.0.0.0/8",), ("http://127.0.0.1:1/",)).check(Live()))
