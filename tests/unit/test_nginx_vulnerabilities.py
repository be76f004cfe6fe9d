"""Versions of nginx with known vulnerabilities: refused, or accepted by the operator and named in one line."""

import json
import re
from pathlib import Path

import pytest

from provision import cli
from provision.cli.caller import Caller
from provision.errors import InventoryError
from provision.plan import role_interface
from provision.roles import nginx
from provision.steps.nginx import vulnerabilities

from . import test_actions

noting = test_actions.noting  # a fixture: two hosts on the shell of the machine, in ./inventory.yaml
FACTS = Path(__file__).parents[2] / "docs/facts.md"
FLEET = """\
all:
  vars: {nginx: {SETTINGS}}
  children:
    gpu: {hosts: {gpu-01: {ollama: {instances: [{gpus: [0]}]}}, gpu-02: {ollama: {instances: [{gpus: [0]}]}}}}
"""
BALANCERS = "    balancer: {hosts: {lb-01: , lb-02: , lb-03: {nginx: {accept_known_vulnerabilities: true}}}}\n"
NEWEST = f"version: 1.30.7, sha256: {'a' * 64}"


@pytest.fixture
def inventory(tmp_path):
    """A function that writes an inventory with settings of nginx, and returns the path."""

    def write(settings, more=""):
        path = tmp_path / "inventory.yaml"
        path.write_text(FLEET.replace("SETTINGS", settings) + more)
        return str(path)

    return write


@pytest.mark.parametrize(
    ("version", "named", "other"),
    [
        ("1.26.2", "CVE-2025-23419", "CVE-2026-42946"),
        ("1.26.3", "CVE-2026-42533", "CVE-2025-23419"),
        ("1.28.3", "CVE-2026-9256", "CVE-2026-1642"),
        ("1.30.4", "CVE-2026-93479", "CVE-2026-42533"),
        ("1.30.6", "CVE-2026-118899", "CVE-2026-93479"),
        ("1.31.8", "CVE-2026-123007", "CVE-2026-42533"),
    ],
)
def test_a_version_has_the_vulnerabilities_that_later_releases_closed(version, named, other):
    found = vulnerabilities.known(version, nginx.LEAN)
    assert named in found
    assert other not in found


@pytest.mark.parametrize("version", ["1.30.7", "1.30.12", "1.31.9", "1.32.0"])
def test_releases_after_the_last_fix_have_none(version):
    assert vulnerabilities.known(version, ("--with-http_v3_module", "--with-mail", "--with-stream")) == []


@pytest.mark.parametrize(
    ("argument", "cve"),
    [
        ("--with-http_mp4_module", "CVE-2026-27784"),
        ("--with-mail=dynamic", "CVE-2026-113425"),
        ("--with-http_v3_module", "CVE-2026-121810"),
        ("--with-stream_ssl_preread_module", "CVE-2026-123640"),
    ],
)
def test_a_module_brings_its_vulnerabilities(argument, cve):
    assert cve not in vulnerabilities.known("1.26.3", nginx.LEAN)
    assert cve in vulnerabilities.known("1.26.3", (*nginx.LEAN, argument))


def test_a_module_that_is_built_unless_left_out_brings_its_vulnerabilities():
    assert "CVE-2026-42934" not in vulnerabilities.known("1.26.3", nginx.LEAN)
    assert "CVE-2026-42934" in vulnerabilities.known("1.26.3", ())


def test_the_page_of_facts_has_every_vulnerability_of_the_table():
    page = FACTS.read_text().partition("### nginx versions")[2].partition("\n### ")[0]
    named = set(re.findall(r"20\d\d-\d{4,6}", page))
    assert {entry.cve.removeprefix("CVE-") for entry in vulnerabilities.TABLE} <= named
    assert vulnerabilities.READ in page


def test_the_default_version_is_refused_with_names_and_three_ways_out(inventory, capsys):
    path = inventory("log_days: 3")
    assert cli.execute(["inventory", "check", "-i", path]) == 2
    said = capsys.readouterr().err
    assert "2 problems" not in said, "the balancers with the same source share a problem"
    assert f"{path}:2: " in said
    assert "nginx.version: nginx 1.26.3 on gpu-01 and on 1 more has known vulnerabilities: CVE-2026-1642" in said
    assert "CVE-2026-118899" in said
    for way in ("nginx.version 1.30.7", "nginx.patches", "nginx.accept_known_vulnerabilities: true"):
        assert way in said


@pytest.mark.parametrize(
    "words", [["plan"], ["deploy", "--yes"], ["verify"], ["rollback", "--yes"], ["drain", "gpu-01"], ["history"]]
)
def test_every_command_refuses_before_it_reaches_a_host(inventory, words, capsys):
    assert cli.execute([*words, "-i", inventory("log_days: 3")]) == 2
    assert "accept_known_vulnerabilities" in capsys.readouterr().err


def test_the_operator_may_accept_for_one_command(inventory, capsys):
    words = ["inventory", "check", "-i", inventory(""), "-e", "nginx.accept_known_vulnerabilities=true"]
    assert cli.execute(words) == 0
    assert "accepted by nginx.accept_known_vulnerabilities" in capsys.readouterr().err


def test_only_balancers_are_judged_and_each_by_its_own_settings(inventory):
    with pytest.raises(InventoryError) as refused:
        role_interface.load(inventory("", BALANCERS))
    [problem] = refused.value.problems
    assert "lb-01 and on 1 more" in problem.message, "lb-02, and not lb-03 or the gpu hosts"


def test_an_accepted_version_is_named_in_one_line(inventory):
    [text] = role_interface.load(inventory("accept_known_vulnerabilities: true")).accepted["nginx"]
    assert text.startswith("nginx 1.26.3 has 14 known vulnerabilities (CVE-2026-125283,")
    assert "accepted by nginx.accept_known_vulnerabilities" in text
    assert "\n" not in text


def test_nothing_is_said_of_a_version_without_known_vulnerabilities(inventory):
    assert not role_interface.load(inventory(f"{NEWEST}, accept_known_vulnerabilities: true")).accepted
    assert not role_interface.load(inventory(NEWEST)).accepted


@pytest.mark.parametrize("command", ["plan", "verify"])
def test_plan_and_verify_name_the_accepted_vulnerabilities_in_one_line(noting, command, capsys):
    words = [command, "-i", "inventory.yaml", "-t", "docker,nginx"]
    cli.execute(words, Caller(noting()))
    said = [line for line in capsys.readouterr().err.splitlines() if "accepted by nginx.accept" in line]
    assert len(said) == 1
    assert said[0].startswith("warning: nginx 1.26.3 has 14 known vulnerabilities")
    cli.execute([*words, "--json"], Caller(noting()))
    warnings = json.loads(capsys.readouterr().out)["warnings"]
    assert [text for text in warnings if "accepted by" in text] == [said[0].removeprefix("warning: ")]
    cli.execute([command, "-i", "inventory.yaml", "-t", "docker"], Caller(noting()))
    assert "accepted by" not in capsys.readouterr().err, "a run without the role says nothing"
