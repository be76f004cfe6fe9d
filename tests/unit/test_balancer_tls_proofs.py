"""The proofs of verify on a balancer with TLS: chain, name, end and versions, and requests by name."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from provision.steps.base import Check
from provision.steps.nginx import tls
from provision.steps.nginx.balancer_checks import EDGE
from provision.steps.nginx.balancer_config import Balancing
from provision.steps.ollama.engine import OLLAMA
from tests.unit.pki import ROOT, put
from tests.unit.tls_fleet import config, loaded, texts


class Live:
    """A balancer's host: OpenSSL's answer, and a status for each request of curl."""

    def __init__(self, said: dict[str, str], statuses: dict[str, str]) -> None:
        self.said, self.statuses = said, statuses
        self.asked: list[tuple[str, ...]] = []
        self.stdout, self.rc = "", 0

    def run(self, words: str, *arguments: str) -> "Live":
        self.asked.append(arguments)
        self.stdout = ""
        if arguments and arguments[0] == tls.PROOF:
            self.stdout = "".join(f"{name} {value}\n" for name, value in self.said.items())
        elif arguments and arguments[0] == EDGE:
            self.stdout = "".join(f"{self.status(pair)}\n" for pair in arguments[3:])
        return self

    def status(self, pair: str) -> str:
        return next((code for part, code in self.statuses.items() if part in pair), "200")


WELL = {"verified": "OK", "left": "7776000", "TLSv1.1": "(NONE)", "TLSv1.2": "ECDHE-X", "TLSv1.3": "(NONE)"}
UNKNOWN = "https://10.0.0.5:3008/models/-/v1/chat/completions"
CODES = {"GET http://127.0.0.1:3008/": "400", "GET http://127.0.0.1:3080/": "308", "/models/-/": "404"}


def checks(step: Balancing, said: dict[str, str], statuses: dict[str, str]) -> tuple[dict[str, bool], Live]:
    """Return the proofs by TLS and by requests, by name, and the host."""
    assert step.tls is not None
    live = Live({"sha256": tls.sha256(step.tls.certificate), **said}, statuses)
    return {check.name: check.passed for check in step._through(live)}, live


@pytest.mark.parametrize(
    ("changes", "failed"),
    [
        ({}, ""),
        ({"verified": "certificate has expired"}, "accepts the certificate of llm.example"),
        ({"verified": ""}, "accepts the certificate of llm.example"),
        ({"sha256": "0" * 64}, "sha256 of the certificate on the wire"),
        ({"TLSv1.1": "X"}, "versions of TLS"),
        ({"TLSv1.3": "X"}, "versions of TLS"),
        ({"TLSv1.2": "(NONE)"}, "versions of TLS"),
        ({"left": "-5"}, "the certificate has not ended"),
        ({"left": "soon"}, "the certificate has not ended"),
    ],
)
def test_verify_judges_chain_name_end_and_versions(tmp_path: Path, changes: dict[str, str], failed: str) -> None:
    step = config(loaded(tmp_path))
    refused = dict.fromkeys(step.engine.refused, "403")
    passed, live = checks(step, {**WELL, **changes}, {**CODES, **refused_by(step), **refused})
    wrong = [name for name, well in passed.items() if not well]
    assert [failed in name for name in wrong] == [True] * bool(failed), wrong
    (words,) = (arguments[1:] for arguments in live.asked if arguments[0] == tls.PROOF)
    assert words[:5] == ("127.0.0.1:3008", "-servername", "llm.example", "-verify_hostname", "llm.example")
    assert words[5:] == ("-CAfile", "/etc/provision/nginx/trust.pem", "-no-CApath", "-no-CAstore")


def refused_by(step: Balancing) -> dict[str, str]:
    """Return the statuses of closed paths, by the request of verify."""
    return {
        f"{method} {step.url}{path}": "403" for method, _, path in (pair.partition(" ") for pair in step.engine.refused)
    }


def test_verify_asks_by_name_with_the_authorities(tmp_path: Path) -> None:
    step = config(loaded(tmp_path, "{authority: ca, redirect_port: 3080}"))
    _, live = checks(step, WELL, {**CODES, **refused_by(step)})
    edges = [arguments[1:] for arguments in live.asked if arguments[0] == EDGE]
    assert edges[0] == ("", "", "GET http://127.0.0.1:3008/", "GET http://127.0.0.1:3080/")
    assert edges[1][0] == "/etc/provision/nginx/curl.conf"
    assert {"GET https://10.0.0.5:3008/api/version", f"POST {UNKNOWN}"} <= set(edges[1])
    options = texts(step)["curl.conf"].splitlines()
    assert options == ['connect-to = "10.0.0.5:3008:127.0.0.1:3008"', 'cacert = "/etc/provision/nginx/trust.pem"']


def test_each_model_is_asked_for_and_streamed_by_tls(tmp_path: Path) -> None:
    streams: list[tuple[str, str, str]] = []

    def stream(live: Any, url: str, model: str, serving: Any, config: str, versions: Any) -> Iterator[Check]:
        streams.append((url, model, config))
        yield Check("a streamed answer", True, True)

    step = config(loaded(tmp_path, two_models=True))
    assert step.tls is not None
    step = replace(step, engine=replace(OLLAMA, stream=stream))
    passed, live = checks(step, WELL, {**CODES, **refused_by(step)})
    assert all(passed.values()), passed
    at = [f"https://llm.example:3008/models/{name}" for name in ("phi4:latest", "gemma3:latest")]
    asked = [arguments[1:] for arguments in live.asked if arguments[0] == EDGE][1]
    assert {f"GET {url}/api/version" for url in at} <= set(asked)
    options = "/etc/provision/nginx/curl.conf"
    assert (asked[0], streams) == (options, [(at[0], "phi4", options), (at[1], "gemma3", options)])


def test_an_early_end_is_a_warning_and_no_failure(tmp_path: Path) -> None:
    step = config(loaded(tmp_path))
    passed, _ = checks(step, {**WELL, "left": str(12 * 86400 + 5)}, {**CODES, **refused_by(step)})
    assert passed["warning: the certificate ends in 12 days (docs/runbooks/renew-certificates.md)"]
    assert all(passed.values())


def test_of_a_balancer_that_asks_for_certificates_verify_proves_the_refusal(tmp_path: Path) -> None:
    put(tmp_path / "clients.pem", ROOT.pem)
    step = config(loaded(tmp_path, "{authority: ca, client_ca: clients.pem}"))
    passed, live = checks(step, WELL, {**CODES, "GET https://10.0.0.5:3008/": "400"})
    assert all(passed.values())
    assert "refused without a client certificate" in passed
    assert [name for name in passed if name.startswith("not asked: paths and a streamed answer")]
    open_to_all, _ = checks(step, WELL, CODES)
    assert not open_to_all["refused without a client certificate"]
    assert not [arguments for arguments in live.asked if "api/generate" in str(arguments)]


def test_without_given_authorities_the_host_trusts_its_own(tmp_path: Path) -> None:
    loaded(tmp_path)
    step = config(loaded(tmp_path, "{certificate: tls/chain.pem, key: tls/lb.key}"))
    _, live = checks(step, WELL, CODES)
    (words,) = (arguments[1:] for arguments in live.asked if arguments[0] == tls.PROOF)
    assert "-CAfile" not in words
    assert "cacert" not in texts(step)["curl.conf"]
    assert "trust.pem" not in step.names
