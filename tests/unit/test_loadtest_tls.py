"""Load tests of endpoints with TLS: real handshakes on loopback. Nothing switches the check of a certificate off."""

import itertools
import json
import ssl
import threading
from collections.abc import Callable, Iterator
from http.server import ThreadingHTTPServer
from pathlib import Path

import pytest

from provision import cli
from provision.errors import UsageError
from provision.loadtest import drive, target, trust
from provision.loadtest.drive import Load
from provision.loadtest.measure import Tally
from provision.loadtest.profile import Profile
from provision.loadtest.target import Endpoint
from provision.loadtest.trust import Trust
from tests.unit.pki import ROOT, Pair, issued, pem_of, put, root
from tests.unit.test_loadtest_drive import Fake
from tests.unit.tls_fleet import GIVEN, loaded

CLIENT = issued("client", ROOT)
TRUSTED = ROOT.pem.decode()
Start = Callable[..., str]


class Quiet(ThreadingHTTPServer):
    """A server that says nothing of refused handshakes."""

    daemon_threads = True

    def handle_error(self, *_: object) -> None:
        pass


@pytest.fixture
def endpoint(tmp_path: Path) -> Iterator[Start]:
    """Start a server with a certificate; returns the URL by address."""
    servers: list[Quiet] = []

    def start(leaf: Pair, clients: Pair | None = None) -> str:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(put(tmp_path / "server.pem", leaf.pem, leaf.key_pem))
        if clients:
            context.load_verify_locations(cadata=clients.pem.decode())
            context.verify_mode = ssl.CERT_REQUIRED
        server = Quiet(("127.0.0.1", 0), type("Handler", (Fake,), {"endings": itertools.cycle(["whole"])}))
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        servers.append(server)
        return f"https://127.0.0.1:{server.server_port}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def probed(url: str, how: Trust) -> str:
    """Return the version that the endpoint names."""
    return target.probe(Endpoint((url,), trust=how), "m:1b", None).version


def driven(url: str, how: Trust) -> set[str]:
    """Return the problems of the requests of a short load by real Locust; an empty text is a good answer."""
    tally = Tally()
    load = Load((url,), Profile("generate", "m", 8), users=1, spawn_rate=1, seconds=8, most_requests=2, trust=how)
    drive.run(load, tally, lambda _: None, threading.Event())
    assert tally.count
    return {record.problem for record in tally.records}


BY_ADDRESS, BY_NAME = issued("lb", ROOT, "127.0.0.1"), issued("lb", ROOT, "llm.example")


def test_an_endpoint_is_trusted_by_its_authority_and_its_name_at_the_root_and_at_the_path_of_a_model(
    endpoint: Start,
) -> None:
    url = endpoint(BY_NAME)
    at_model = f"{url}/models/m:1b"
    named = Trust(TRUSTED, ((url, "llm.example"),))
    assert (probed(url, named), probed(at_model, named)) == ("1", "1")
    assert driven(at_model, named) == {""}


@pytest.mark.parametrize(
    ("leaf", "how"),
    [
        (BY_ADDRESS, lambda url: Trust()),
        (BY_ADDRESS, lambda url: Trust(root("another").pem.decode())),
        (BY_NAME, lambda url: Trust(TRUSTED)),
        (BY_NAME, lambda url: Trust(TRUSTED, ((url, "other.example"),))),
        (issued("lb", ROOT, "127.0.0.1", days=-1), lambda url: Trust(TRUSTED)),
    ],
    ids=["unknown authority", "another authority", "no such address", "another name", "ended"],
)
def test_an_endpoint_that_a_client_refuses_gets_no_load(
    endpoint: Start, leaf: Pair, how: Callable[[str], Trust]
) -> None:
    url = endpoint(leaf)
    with pytest.raises(UsageError, match="does not speak TLS as it should") as error:
        probed(url, how(url))
    assert "--ca FILE" in error.value.hint


def test_locust_refuses_what_the_questions_before_refuse(endpoint: Start) -> None:
    assert driven(endpoint(BY_NAME), Trust(TRUSTED)) == {"no answer"}


def test_a_client_certificate_is_shown_where_the_endpoint_asks(endpoint: Start, tmp_path: Path) -> None:
    url = endpoint(BY_ADDRESS, ROOT)
    client = put(tmp_path / "client.pem", CLIENT.pem, CLIENT.key_pem)
    how = trust.with_files(Trust(TRUSTED), "", str(client))
    assert probed(url, how) == "1"
    assert driven(url, how) == {""}
    with pytest.raises(Exception, match=r"TLS|cannot be reached"):
        probed(url, Trust(TRUSTED))


@pytest.mark.parametrize(
    ("ca", "client", "message"),
    [
        ("none.pem", "", "--ca .*none.pem cannot be read: FileNotFoundError"),
        ("empty.pem", "", "--ca .*empty.pem holds no certificate in PEM"),
        ("garbled.pem", "", "the authorities of the endpoint cannot be used"),
        ("", "none.pem", "--client-certificate .*none.pem cannot be used: No such file"),
        ("", "root.pem", "--client-certificate .*root.pem cannot be used"),
        ("", "encrypted.pem", "--client-certificate .*encrypted.pem cannot be used: its key is encrypted"),
    ],
)
def test_files_beyond_use_are_named_before_any_request(tmp_path: Path, ca: str, client: str, message: str) -> None:
    put(tmp_path / "empty.pem")
    put(tmp_path / "garbled.pem", ROOT.pem[:60] + b"\n-----END CERTIFICATE-----\n")
    put(tmp_path / "root.pem", ROOT.pem)
    put(tmp_path / "encrypted.pem", CLIENT.pem, pem_of(CLIENT.key, b"pass"))
    with pytest.raises(UsageError, match=message):
        trust.with_files(Trust(), ca and str(tmp_path / ca), client and str(tmp_path / client))


def test_authorities_may_stand_in_a_bundle_with_comments_of_any_language(tmp_path: Path) -> None:
    bundle = put(tmp_path / "bundle.pem", "# Főtanúsítvány\n".encode(), ROOT.pem, "# Müller\n".encode("latin-1"))
    assert trust.with_files(Trust(), str(bundle), "").context().get_ca_certs()[0]["serialNumber"]
    put(bundle, ROOT.pem * (trust.LARGEST // len(ROOT.pem) + 1))
    with pytest.raises(UsageError, match=r"bundle.pem is larger than 1 MiB"):
        trust.with_files(Trust(), str(bundle), "")


def test_the_inventory_gives_scheme_authorities_and_names(tmp_path: Path) -> None:
    plain = loaded(tmp_path, "null")
    assert target.of_inventory(plain, plain.hosts).trust == Trust()
    own = loaded(tmp_path)
    found = target.of_inventory(own, own.hosts)
    assert found.urls == ("https://10.0.0.5:3008",)
    assert found.trust == Trust((tmp_path / "ca" / "ca.pem").read_text()), "the address is in the certificate"
    given = loaded(tmp_path, GIVEN)
    by_name = target.of_inventory(given, given.hosts).trust
    assert by_name == Trust(TRUSTED, (("https://10.0.0.5:3008", "llm.example"),))
    system = loaded(tmp_path, "{certificate: tls/chain.pem, key: tls/lb.key}")
    assert target.of_inventory(system, system.hosts).trust.authorities == ""


def test_the_load_of_a_model_goes_to_the_path_of_the_model_and_expects_the_name_of_the_balancer(tmp_path: Path) -> None:
    inventory = loaded(tmp_path, GIVEN, two_models=True)
    found = target.of_model(target.of_inventory(inventory, inventory.hosts), "gemma3")
    (url,) = found.urls
    assert url == "https://10.0.0.5:3008/models/gemma3:latest"
    assert found.trust.document(found.urls)["names"] == {url: "llm.example"}


def test_balancers_that_ask_for_a_certificate_get_no_request_without(tmp_path: Path) -> None:
    put(tmp_path / "clients.pem", ROOT.pem)
    inventory = loaded(tmp_path, "{authority: ca, client_ca: clients.pem}")
    asking = target.of_inventory(inventory, inventory.hosts).trust
    with pytest.raises(UsageError, match="the balancers ask clients for a certificate") as error:
        trust.with_files(asking, "", "")
    assert "--client-certificate FILE" in error.value.hint
    client = put(tmp_path / "client.pem", CLIENT.pem, CLIENT.key_pem)
    assert trust.with_files(asking, "", str(client)).client == str(client)


def test_the_command_asks_an_endpoint_with_its_authority(
    endpoint: Start, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    url, ca = endpoint(BY_ADDRESS), put(tmp_path / "ca.pem", ROOT.pem)
    words = ["loadtest", "-i", "none.yaml", "--target", url, "--yes", "--users", "1", "--max-requests", "2"]
    words += ["--model", "m:1b", "--profile", "generate", "--json", "--max-fail", "off", "--max-ttft-p95", "off"]
    assert cli.execute(words) == 2
    assert "does not speak TLS as it should" in capsys.readouterr().err
    assert cli.execute([*words, "--ca", str(ca)]) in (0, 5)
    overall = json.loads(capsys.readouterr().out)["overall"]
    assert overall["requests"] >= 2
    assert overall["fail_share"] == 0
