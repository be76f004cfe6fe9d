"""`provision ca`, and the deploy that keeps a new certificate: files of this machine, and no host is needed."""

import json
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from provision import actions, cli, testing
from provision.certificates import authority, chain
from provision.plan import role_interface
from provision.plan.role_interface import Entry

from .test_host_run import Note

INVENTORY = """
all: {vars: {nginx: {accept_known_vulnerabilities: true}, balancer: {tls: {authority: ca}}}}
gpu: {hosts: {gpu-01: {ansible_host: 192.0.2.1, ollama: {instances: [{gpus: [0]}]}}}}
balancer: {hosts: {lb-01: {ansible_host: 192.0.2.5}, lb-02: {ansible_host: 192.0.2.6}}}
"""


@pytest.fixture
def place(tmp_path, monkeypatch):
    (tmp_path / "inventory.yaml").write_text(INVENTORY)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*words: str) -> int:
    return cli.execute(["ca", *words])


def kept(place: Path) -> list[str]:
    return sorted(path.name for path in (place / "ca" / "balancers").glob("*"))


def test_an_authority_is_made_once_beside_the_inventory(place, capsys):
    assert run("init", "--name", "lab authority") == 0
    shown = capsys.readouterr().out
    made = authority.certificate_of(place / "ca")
    assert (chain.subject(made), chain.fingerprint(made) in shown) == ("CN=lab authority", True)
    assert "next: write balancer: {tls: {authority: ca}} into the inventory" in shown
    assert stat.S_IMODE((place / "ca" / "ca.key").stat().st_mode) == 0o600
    key = (place / "ca" / "ca.key").read_text()
    assert run("init") == 2
    assert "exists already, and nothing overwrites an authority" in capsys.readouterr().err
    assert (place / "ca" / "ca.key").read_text() == key
    assert key.splitlines()[1] not in shown


def test_an_authority_needs_no_inventory_yet(tmp_path, capsys):
    assert run("init", "-i", str(tmp_path / "to-come.yaml"), "--folder", "pki", "--json") == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["command"], document["certificate"]) == ("ca init", str(tmp_path / "pki" / "ca.pem"))


@pytest.mark.parametrize("name", ["x" * 65, "ü" * 33, " ", "a\nb"])
def test_a_name_that_no_certificate_can_have_is_refused(place, capsys, name):
    assert run("init", "--name", name) == 2
    assert "--name must be printable text of at most 64 bytes" in capsys.readouterr().err
    assert not (place / "ca").exists()


def test_a_renewal_issues_new_certificates_for_the_chosen_balancers_alone(place, capsys):
    run("init")
    assert run("renew", "--limit", "lb-01") == 0
    assert kept(place) == ["lb-01.key", "lb-01.pem"]
    first = (place / "ca" / "balancers" / "lb-01.pem").read_bytes()
    capsys.readouterr()
    assert run("renew", "--json") == 0
    document = json.loads(capsys.readouterr().out)
    assert [host["host"] for host in document["hosts"]] == ["lb-01", "lb-02"]
    assert (place / "ca" / "balancers" / "lb-01.pem").read_bytes() != first, "however long the old one lasts"
    (leaf,) = chain.certificates((place / "ca" / "balancers" / "lb-02.pem").read_bytes())
    assert chain.names(leaf) == ("192.0.2.6", "lb-02")


def test_a_renewal_without_an_authority_is_refused_with_the_way(place, capsys):
    assert run("renew") == 2
    assert "has no authority" in capsys.readouterr().err
    (place / "inventory.yaml").write_text(INVENTORY.replace("{tls: {authority: ca}}", "{}"))
    assert run("renew") == 2
    assert "make one by `provision ca init`" in capsys.readouterr().err


def test_a_renewal_without_the_key_of_the_authority_names_the_file(place, capsys):
    run("init")
    run("renew")
    (place / "ca" / "ca.key").unlink()
    before = (place / "ca" / "balancers" / "lb-01.pem").read_bytes()
    assert run("renew") == 2
    assert "nothing was renewed: " in capsys.readouterr().err
    assert (place / "ca" / "balancers" / "lb-01.pem").read_bytes() == before


def test_a_folder_that_cannot_be_made_is_named(place, capsys):
    (place / "ca").write_text("a file of the operator\n")
    assert run("init") == 2
    assert f"{place / 'ca'} cannot be written" in capsys.readouterr().err


def test_a_deploy_keeps_a_new_certificate_and_a_plan_or_a_declined_plan_keeps_none(place):
    run("init")

    def steps(host, inventory):
        return (Entry("balancer", Note(str(place / f"{host.name}.note"))),) if host.balancer else ()

    request = actions.Request(
        "inventory.yaml", tags=("balancer",), limit=("lb-01",), setup=testing.setup(place, None, steps=steps, owned=())
    )
    assert actions.plan(request).changes
    actions.deploy(request, confirm=lambda plan: False)
    actions.verify(request)
    assert kept(place) == []
    seen = []
    actions.deploy(request, confirm=lambda plan: bool(seen.append(plan.inventory) or True))
    assert kept(place) == ["lb-01.key", "lb-01.pem"]
    agreed = seen[0].host("lb-01").files["balancer"].certificate.chain
    assert (place / "ca" / "balancers" / "lb-01.pem").read_bytes() == agreed, "the certificate of the plan"
    again = role_interface.load("inventory.yaml", renew_within=30).host("lb-01").files["balancer"].certificate
    assert (again.chain, again.is_new) == (agreed, False)


def test_nothing_imports_cryptography_without_tls(place):
    (place / "inventory.yaml").write_text(INVENTORY.replace("{tls: {authority: ca}}", "{}"))
    program = (
        "import sys; from provision.plan import role_interface;"
        "role_interface.load('inventory.yaml'); print('cryptography' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
