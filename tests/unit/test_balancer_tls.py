"""TLS of the balancer, from the inventory to nginx: settings, plan, files, drift, rollback, removal and proofs."""

import base64
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from provision.certificates import authority
from provision.command import Answer, Run, describe
from provision.errors import InventoryError
from provision.inventory import Inventory, Mask
from provision.inventory import show as merged
from provision.plan import local_files, role_interface
from provision.plan.planner import HostPlan, make_change
from provision.plan.role_interface import Entry
from provision.report import plan as report_plan
from provision.rollout.outcome import Outcome
from provision.runs.journal import Journal
from provision.steps.base import RefusalError, converged
from provision.steps.facts import HostFacts
from provision.steps.nginx import generation, tls
from provision.steps.nginx.balancer_config import Balancing
from provision.steps.nginx.generation_scripts import CARRY
from provision.steps.nginx.listen import Listen
from provision.steps.nginx.member_update import MemberUpdate
from provision.steps.system.file_scan import Content
from tests.unit.nginx_config import Directive, find, parse
from tests.unit.pki import NOW, ROOT, issued, put, root
from tests.unit.tls_fleet import FACTS, GIVEN, MENDED, OWN, config, give, loaded, steps, texts


def site(step: Balancing, facts: HostFacts = FACTS) -> dict[str, tuple[str, ...]]:
    """Return the directives of the server for clients that nginx has once, with what `tls.conf` adds."""
    files = texts(step, facts)
    (server,) = find(parse(files["site.conf"]), "server")
    return {found.words[0]: found.words[1:] for found in flat(server, files)}


def flat(server: Directive, files: dict[str, str]) -> list[Directive]:
    inside: list[Directive] = []
    for found in server.block or ():
        inside += parse(files[found.words[1]]) if found.words[0] == "include" else [found]
    return inside


def found_on_host(step: Balancing, **how: Any) -> dict[str, Any]:
    """Return the state of a host with the configuration and a running nginx: of the key only the hash."""
    want = step.want(FACTS, None)
    assert want is not None
    files = {name: str(content) if name == tls.KEY else content for name, content in want["files"].items()}
    return {**want, "files": files, "exe": step.binary, "loaded": want["id"], "touched": [], **how}


GOLDEN = Path(__file__).parent / "tls"


@pytest.mark.parametrize(
    ("name", "nginx", "words"),
    [
        ("old-nginx", "", OWN),
        ("mended-nginx", MENDED, OWN),
        ("every-key", MENDED, "{authority: ca, hsts: 63072000, client_ca: ca/ca.pem, redirect_port: 3080}"),
    ],
)
def test_the_files_of_nginx_are_as_they_were(tmp_path: Path, name: str, nginx: str, words: str) -> None:
    """After an intended change: PROVISION_GOLDEN=write make unit, then read the diff."""
    files = texts(config(loaded(tmp_path, words, nginx)))
    shown = (each for each in ("nginx.conf", "site.conf", "redirect.conf", "tls.conf", "curl.conf") if each in files)
    text = "\n".join(f"### {each}\n{files[each]}" for each in shown)
    golden = GOLDEN / f"{name}.conf"
    if os.environ.get("PROVISION_GOLDEN") == "write":
        golden.write_text(text)
    assert text == golden.read_text()


def test_without_the_key_nothing_of_tls_is_in_any_file(tmp_path: Path) -> None:
    plain = config(loaded(tmp_path, "null"))
    assert set(plain.names) == {"nginx.conf", "site.conf", "status.conf", "upstream.conf", "models.conf"}
    assert (plain.url, plain.modes, plain.tls) == ("http://127.0.0.1:3008", {}, None)
    assert not [text for text in texts(plain).values() if "ssl" in text or "https" in text]


@pytest.mark.parametrize("words", [OWN, GIVEN], ids=["authority", "given"])
def test_nginx_gets_chain_and_key_and_mozillas_intermediate(tmp_path: Path, words: str) -> None:
    step = config(loaded(tmp_path, words, MENDED))
    said = site(step)
    assert said["listen"] == ("0.0.0.0:3008", "ssl")
    assert (said["ssl_certificate"], said["ssl_certificate_key"]) == (("tls.pem",), ("tls.key",))
    assert said["ssl_protocols"] == ("TLSv1.2", "TLSv1.3")
    assert said["ssl_ciphers"] == (":".join(tls.CIPHERS),)
    assert said["ssl_ecdh_curve"] == ("X25519MLKEM768:X25519:prime256v1:secp384r1",)
    assert (said["ssl_prefer_server_ciphers"], said["ssl_session_tickets"]) == (("off",), ("on",))
    assert "ssl_verify_client" not in said
    assert "http2" not in "".join(texts(step).values())
    assert step.modes == {"tls.key": 0o600}


@pytest.mark.parametrize(
    ("nginx", "protocols", "tickets", "advice"),
    [
        ("", "TLSv1.2", "off", True),
        (f"version: 1.30.6, sha256: {'0' * 64}", "TLSv1.2", "on", True),
        (MENDED, "TLSv1.2 TLSv1.3", "on", False),
        (f"patches: [{{url: 'http://x.test/a.patch', sha256: {'0' * 64}}}]", "TLSv1.2 TLSv1.3", "off", False),
        (f"version: 1.31.8, sha256: {'0' * 64}", "TLSv1.2", "on", True),
    ],
    ids=["1.26.3", "1.30.6", "1.30.7", "1.26.3 with patches", "1.31.8"],
)
def test_an_old_nginx_gets_tls_1_2_and_no_tickets_and_plan_says_so(
    tmp_path: Path, nginx: str, protocols: str, tickets: str, advice: bool
) -> None:
    inventory = loaded(tmp_path, OWN, nginx)
    said = site(config(inventory))
    assert (" ".join(said["ssl_protocols"]), *said["ssl_session_tickets"]) == (protocols, tickets)
    lines = [text for text in inventory.advice["balancer"] if "clients get TLS 1.2 only" in text]
    assert len(lines) == advice
    assert all("CVE-2026-118899" in line and "nginx.version 1.30.7" in line for line in lines)


@pytest.mark.parametrize(
    ("distribution", "version", "has"),
    [
        ("debian", "13", True),
        ("debian", "12", False),
        ("debian", "", False),
        ("ubuntu", "24.04", False),
        ("ubuntu", "25.10", True),
        ("ubuntu", "26.04", True),
        ("", "", False),
        ("other", "99", False),
        ("debian", "13; x", False),
    ],
)
def test_the_hybrid_group_is_only_for_hosts_whose_openssl_has_it(
    tmp_path: Path, distribution: str, version: str, has: bool
) -> None:
    step, facts = config(loaded(tmp_path, OWN, MENDED)), HostFacts(distribution=distribution, version=version)
    assert ("X25519MLKEM768" in site(step, facts)["ssl_ecdh_curve"][0]) == has
    old = config(loaded(tmp_path))
    assert "X25519MLKEM768" not in site(old, facts)["ssl_ecdh_curve"][0], "the group is of TLS 1.3"


def test_redirect_hsts_and_client_certificates_are_keys_of_their_own(tmp_path: Path) -> None:
    put(tmp_path / "clients.pem", ROOT.pem)
    words = "{authority: ca, redirect_port: 3080, hsts: 63072000, client_ca: clients.pem}"
    inventory = loaded(tmp_path, words)
    step, files = config(inventory), texts(config(inventory))
    said = site(step)
    assert 'add_header Strict-Transport-Security "max-age=63072000" always;' in files["tls.conf"].splitlines()
    assert (said["ssl_client_certificate"], said["ssl_verify_client"]) == (("clients.pem",), ("on",))
    assert files["clients.pem"].encode() == ROOT.pem
    (server,) = find(parse(files["redirect.conf"]), "server")
    assert [found.words[1:] for found in find((server,), "listen")] == [("0.0.0.0:3080",)]
    assert [found.words[1:] for found in find((server,), "return")] == [("308", "https://$host:3008$request_uri")]
    assert "include redirect.conf;" in files["nginx.conf"]
    (listen,) = (step for step in steps(inventory) if isinstance(step, Listen))
    assert listen.addresses == ("0.0.0.0:3008", "0.0.0.0:3080", "127.0.0.1:8080")


def test_the_usual_port_is_in_no_redirect(tmp_path: Path) -> None:
    step = config(loaded(tmp_path, "{authority: ca, redirect_port: 80}", balancer="port: 443"))
    assert "return 308 https://$host$request_uri;" in texts(step)["redirect.conf"]


@pytest.mark.parametrize(("allow", "refused"), [("", 0), ("allow: [10.0.0.0/8]", 1)])
def test_a_client_that_may_not_ask_gets_no_redirect_either(tmp_path: Path, allow: str, refused: int) -> None:
    step = config(loaded(tmp_path, "{authority: ca, redirect_port: 3080}", balancer=allow))
    assert texts(step)["redirect.conf"].count("if ($refused_client) {") == refused


def test_the_certificate_has_the_names_and_addresses_of_its_balancer(tmp_path: Path) -> None:
    inventory = loaded(tmp_path, OWN, balancer="listen: [10.0.0.6, fd00::6]")
    found = inventory.host("lb-01").files["balancer"].certificate
    assert found.names == ("llm.example", "10.0.0.5", "lb-01", "10.0.0.6", "fd00::6")
    assert config(inventory).url == "https://llm.example:3008"
    assert inventory.host("gpu-01").files == {}, "no balancer"


def test_a_name_in_another_spelling_needs_no_new_certificate_each_time(tmp_path: Path) -> None:
    words = "{authority: ca, names: ['FD00:0::5', llm.example., LLM.example.net]}"
    inventory = loaded(tmp_path, words)
    found = inventory.host("lb-01").files["balancer"].certificate
    assert found.names == ("fd00::5", "llm.example", "LLM.example.net", "10.0.0.5", "lb-01")
    assert local_files.keep(inventory, {"lb-01"}, role_interface.order())
    again = loaded(tmp_path, words, renew_within=30).host("lb-01").files["balancer"].certificate
    assert (again.is_new, again.chain) == (False, found.chain)


def test_a_load_writes_nothing_and_a_deploy_keeps_the_certificate_of_its_balancers(tmp_path: Path) -> None:
    inventory = loaded(tmp_path)
    assert not (tmp_path / "ca" / "balancers").exists()
    assert [text for text in inventory.advice["balancer"] if text.startswith("deploy keeps a new certificate")]
    assert local_files.keep(inventory, {"gpu-01"}, role_interface.order()) == ()
    assert local_files.keep(inventory, {"lb-01"}, {"nginx"}) == ()
    (path,) = local_files.keep(inventory, {"lb-01"}, role_interface.order())
    assert Path(path) == tmp_path / "ca" / "balancers" / "lb-01.pem"
    again = loaded(tmp_path, renew_within=30)
    assert texts(config(again)) == texts(config(inventory)), "the next deploy has nothing to change"
    assert local_files.keep(again, {"lb-01"}, role_interface.order()) == ()
    assert not [text for text in again.advice["balancer"] if "deploy keeps" in text]


BAD: dict[str, tuple[str, str, str]] = {
    "neither": ("{names: [a.test]}", "tls", "needs `authority`, which `provision ca init` makes, or both"),
    "both": (f"{{authority: ca, {GIVEN[1:]}", "tls.authority", "does not go with certificate"),
    "no key": ("{certificate: tls/chain.pem}", "tls", "or both `certificate` and `key`"),
    "a wrong name": ("{authority: ca, names: ['a b']}", r"tls.names[0]", "must be a DNS name or an IP address"),
    "no authority": ("{authority: elsewhere}", "tls.authority", "has no authority"),
    "a missing name": (f"{{names: [x.test], {GIVEN[1:]}", "tls.certificate", "has not the name x.test"),
    "a missing file": ("{certificate: no.pem, key: tls/lb.key}", "tls.certificate", "no.pem is not there"),
    "a missing authority of clients": ("{authority: ca, client_ca: no.pem}", "tls.client_ca", "no.pem is not there"),
    "the port of clients": ("{authority: ca, redirect_port: 3008}", "tls.redirect_port", "must differ from port"),
    "an endless hsts": ("{authority: ca, hsts: 400000000}", "tls.hsts", "must be at most"),
    "control characters": ('{authority: "a\\nb"}', "tls.authority", "without control characters"),
    "unknown": ("{authority: ca, insecure: true}", "tls.insecure", "unknown"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_refused_with_the_path_of_the_key_before_any_host_is_reached(tmp_path: Path, case: str) -> None:
    words, path, message = BAD[case]
    with pytest.raises(InventoryError) as error:
        loaded(tmp_path, words)
    problems = {problem.path.removeprefix("all.vars.balancer."): problem.message for problem in error.value.problems}
    assert message in problems.get(path, ""), problems
    assert all(problem.line for problem in error.value.problems)


def test_the_port_of_an_instance_is_no_port_of_the_redirect(tmp_path: Path) -> None:
    path = tmp_path / "inventory.yaml"
    authority.make(tmp_path / "ca", "ours", NOW)
    path.write_text(
        "all: {vars: {nginx: {accept_known_vulnerabilities: true}}}\n"
        "gpu: {hosts: {box: {ansible_host: 10.0.0.1, ollama: {instances: [{gpus: [0]}]},"
        " balancer: {tls: {authority: ca, redirect_port: 3001}}}}}\n"
    )
    with pytest.raises(InventoryError, match=r"balancer.tls.redirect_port: is the port of ollama1 on this host"):
        role_interface.load(str(path))


@pytest.mark.parametrize(
    ("days", "warns", "refused"), [(90, "", False), (20, "ends in 19 days", False), (-2, "has ended on", True)]
)
def test_the_end_of_a_given_certificate_is_warned_of_and_then_refused_on_the_balancer(
    tmp_path: Path, days: float, warns: str, refused: bool
) -> None:
    loaded(tmp_path)
    give(tmp_path, issued("lb", ROOT, "llm.example", days=days))
    inventory = loaded(tmp_path, GIVEN)
    told = [text for text in inventory.warnings if "certificate of lb-01" in text]
    assert bool(told) == bool(warns)
    assert all(warns in text and "get a new one for balancer.tls.certificate" in text for text in told)
    step = config(inventory)
    if refused:
        with pytest.raises(RefusalError, match=r"has ended on \d{4}-\d\d-\d\d: every client refuses"):
            step.want(FACTS, None)
    else:
        assert step.want(FACTS, None) is not None


@pytest.mark.parametrize(
    ("days", "warns", "refused"), [(90, "", False), (20, "end in 19 days", False), (-2, "have ended", True)]
)
def test_the_end_of_the_authorities_of_clients_is_warned_of_and_then_refused_on_the_balancer(
    tmp_path: Path, days: float, warns: str, refused: bool
) -> None:
    put(tmp_path / "clients.pem", root("clients", days=days).pem)
    inventory = loaded(tmp_path, "{authority: ca, client_ca: clients.pem}")
    told = [text for text in inventory.warnings if "authorities of clients.pem" in text]
    assert [f"{warns}, and no client of lb-01 is served after that" in text for text in told] == [True] * bool(warns)
    step = config(inventory)
    if refused:
        with pytest.raises(RefusalError, match=r"all authorities of balancer.tls.client_ca have ended"):
            step.want(FACTS, None)
    else:
        assert step.want(FACTS, None) is not None


def test_the_end_of_the_authority_is_warned_of_in_time(tmp_path: Path) -> None:
    (tmp_path / "ca").mkdir()
    short = root("ours", days=100)
    put(tmp_path / "ca" / "ca.pem", short.pem)
    put(tmp_path / "ca" / "ca.key", short.key_pem)
    (text,) = (text for text in loaded(tmp_path).warnings if "authority" in text)
    assert text.startswith("the authority ca ends in 99 days: make another one by `provision ca init --folder`")


def test_the_plan_says_what_a_change_of_tls_costs(tmp_path: Path) -> None:
    plain, secured = config(loaded(tmp_path, "null")), config(loaded(tmp_path))
    assert "port 3008 with TLS until " in secured.impact(None, secured.want(FACTS, None))
    have = found_on_host(plain)
    on = secured.impact(have, secured.want(FACTS, have))
    assert on == "reloads nginx (open streams finish); clients need https:// from then on"
    have = found_on_host(secured)
    off = plain.impact(have, plain.want(FACTS, have))
    assert off.endswith("clients need http:// from then on, and requests go in clear")
    renewed = config(loaded(tmp_path))
    want = renewed.want(FACTS, have)
    assert renewed.impact(have, want) == "reloads nginx (open streams finish)"
    (line,) = (line for line in renewed.diff(have, want) if line.startswith("certificate: "))
    assert line.count("until 20") == 2


def test_a_certificate_that_was_replaced_by_hand_is_a_change(tmp_path: Path) -> None:
    step = config(loaded(tmp_path))
    have = found_on_host(step)
    assert converged(have, step.want(FACTS, have))
    for name, content in {
        tls.CERTIFICATE: Content(issued("x").pem),
        tls.KEY: str(Content(issued("x").key_pem)),
        tls.TRUST: Content(b"x"),
        tls.CONF: Content(b"ssl_protocols TLSv1;\n"),
    }.items():
        edited = {**have, "files": {**have["files"], name: content}}
        want = step.want(FACTS, edited)
        assert want is not None
        assert not converged(edited, want)
        assert name in step.why(edited, want)
    readable = {**have, "odd": {}}
    assert step.why(readable, step.want(FACTS, readable) or {}) == "mode or owner of tls.key"


def test_a_rollback_brings_the_certificate_back_and_takes_the_key_from_the_host(tmp_path: Path) -> None:
    before, after = config(loaded(tmp_path)), config(loaded(tmp_path))
    past, now = found_on_host(before), found_on_host(after)
    want = after.restore(FACTS, now, past)
    assert want is not None
    assert want["files"][tls.CERTIFICATE] == past["files"][tls.CERTIFICATE] != now["files"][tls.CERTIFICATE]
    carried = [run for run in after.commands(now, want) if isinstance(run, Run) and run.script == CARRY.name]
    assert [run.words[-3:] for run in carried] == [(tls.KEY, past["files"][tls.KEY], "0600")]
    plain = config(loaded(tmp_path, "null"))
    undone = plain.restore(FACTS, now, found_on_host(plain))
    assert undone is not None
    assert not {tls.KEY, tls.CERTIFICATE, tls.CONF} & set(undone["files"])
    assert undone["odd"] == {}


def test_a_rollback_to_a_certificate_that_has_ended_is_refused(tmp_path: Path) -> None:
    step = config(loaded(tmp_path))
    past = found_on_host(step)
    past["files"][tls.CERTIFICATE] = Content(issued("old", days=-1).pem)
    late = replace(FACTS, clock=int(NOW.timestamp()))
    with pytest.raises(RefusalError, match="the certificate of that time has ended on"):
        step.restore(late, found_on_host(step), past)


def test_without_the_key_of_the_inventory_everything_goes(tmp_path: Path) -> None:
    secured, plain = loaded(tmp_path), loaded(tmp_path, "null")
    have = found_on_host(config(secured))
    want = config(plain).want(FACTS, have)
    assert want is not None
    assert set(want["files"]) == {*config(plain).names, "generation.conf"}
    ids = {step.id for step in steps(secured)} - {step.id for step in steps(plain)}
    units = {step_id for step_id in ids if step_id.startswith("unit:")}
    assert ids - units == {"timer:provision-certificate-check"}
    assert units == {"unit:provision-certificate-check.service", "unit:provision-certificate-check.timer"}
    finders = [finder for role, finder in role_interface.owned() if role == "balancer"]
    removed = {finder.step(step_id).id for finder in finders for step_id in units if step_id.startswith("unit:")}
    assert units <= removed, "a finder removes the units"


def secrets_of(inventory: Inventory) -> list[str]:
    """Return the lines of the key without its frame."""
    key = inventory.host("lb-01").files["balancer"].certificate.key.reveal()
    return [line for line in key.splitlines() if "-----" not in line]


@pytest.mark.parametrize("words", [OWN, GIVEN], ids=["authority", "given"])
@pytest.mark.parametrize("before", ["nothing", "plain", "another key", "readable"])
def test_the_key_is_in_no_plan_command_line_journal_or_document(
    tmp_path: Path, words: str, before: str, capsys: pytest.CaptureFixture[str]
) -> None:
    inventory = loaded(tmp_path, words)
    step, hidden = config(inventory), secrets_of(inventory)
    assert hidden
    have: Any = {
        "nothing": None,
        "plain": found_on_host(config(loaded(tmp_path, "null"))),
        "another key": found_on_host(config(loaded(tmp_path, OWN))),
        "readable": found_on_host(step, odd={}),
    }[before]
    change = make_change(Entry("balancer", step), have, step.want(FACTS, have))
    outcome = Outcome("lb-01", HostPlan((change,), 1))
    report_plan.text([outcome], inventory, report_plan.Detail(steps=True))
    kept = Journal("run", "deploy").before(change).stdin.decode().splitlines()
    shown = [
        capsys.readouterr().out,
        json.dumps(report_plan.document([outcome]), default=str),
        *(describe(command) + repr(command) for command in change.commands),
        *kept,
        *(base64.b64decode(line.split(" ")[1]).decode() for line in kept if not line.startswith("{")),
        repr(inventory),
        repr(step),
        json.dumps(merged(inventory)),
        *inventory.warnings,
    ]
    assert [text for text in shown for line in hidden if line in text] == []
    words_of = [command.words for command in change.commands if isinstance(command, Run)]
    assert not [word for words in words_of for word in words for line in hidden if line in word]


def test_what_a_host_prints_of_the_key_is_masked(tmp_path: Path) -> None:
    inventory = loaded(tmp_path)
    hide = Mask(inventory.host("lb-01").secrets())
    for line in secrets_of(inventory):
        assert line not in hide(f"error near {line}: x")


def test_other_marks_carry_the_certificate_along(tmp_path: Path) -> None:
    step = config(loaded(tmp_path))
    have = found_on_host(step)
    update = MemberUpdate(name="balancer", files={}, binary="", status_port=8080, down=frozenset({"gpu-01/ollama1"}))
    want = update.want(FACTS, have)
    assert want is not None
    assert {name: want["files"][name] for name in (tls.KEY, tls.CERTIFICATE, tls.CONF)} == {
        name: have["files"][name] for name in (tls.KEY, tls.CERTIFICATE, tls.CONF)
    }
    assert want["odd"] == {"tls.key": "file 0600 root:root"}


def test_a_reload_is_enough_between_http_and_tls(tmp_path: Path) -> None:
    plain, secured = config(loaded(tmp_path, "null")), config(loaded(tmp_path))
    have = found_on_host(plain)
    assert not generation.rebinds(have, secured.want(FACTS, have))


def test_the_answer_of_a_host_names_the_key_by_its_hash_alone(tmp_path: Path) -> None:
    inventory = loaded(tmp_path)
    step = config(inventory)
    assert step.tls is not None
    key = step.tls.key
    head = f"/etc/provision/nginx/tls.key\0f\x00644\0root:root\0\0later {len(key)}\n\n"
    said = f"kind link\ntarget /var/lib/provision/nginx/0123456789ab\n# files\n{head}=contents 1\n".encode() + key
    state = step.fact().parse(Answer(0, said))
    assert state is not None
    assert not isinstance(state["files"][tls.KEY], Content), "even where somebody opened the file to all"
