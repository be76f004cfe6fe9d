"""TLS on the balancer of the lab: given files and client certificates, then an authority of our own; renewal under a
stream, drift, rollback and removal."""

import datetime as dt
import http.client
import json
import socket
import ssl
import threading
from dataclasses import dataclass

import pytest

from provision.certificates import authority
from provision.steps.facts import HostFacts
from provision.steps.nginx import tls
from tests.unit.pki import issued, put, root

pytestmark = pytest.mark.lab

HOST, PORT, REDIRECT = "lb-01", 3008, 3080
NAME, MODEL = "llm.example", "deepseek-r1:1.5b"
LIMIT = ("--limit", HOST)
FOLDER, KNOBS = "/etc/provision/nginx", "/etc/provision-lab/knobs.json"
CHECK = "provision-certificate-check"
OFF = ("--max-ttft-p95", "off", "--max-fail", "off", "--max-queued", "off")
SHORT = 20  # days; a certificate has 90

# Another certificate by hand, which nginx has loaded, and no timer.
BY_HAND = f"""
cd {FOLDER}
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=x -days 9 \\
  -keyout new.key -out tls.pem 2>&1
cat new.key >tls.key
rm new.key
systemctl reload provision-nginx
systemctl disable --now {CHECK}.timer
sleep 1
"""
# A second nginx with the balancer's files, but for tls.conf: $1 folder.
SECOND = f"""
cp -L {FOLDER}/[!t]*.conf {FOLDER}/tls.pem {FOLDER}/tls.key "$1"
sed -i 's/:{PORT}/:3443/; s/:{REDIRECT}/:3444/; s/:8080/:8081/; s#^pid .*#pid '"$1"'/pid;#' "$1"/*.conf
nginx -c "$1/nginx.conf"
"""
# The files with a text of standard input, with mode and owner.
WITH_TEXT = """
grep -rlsF --devices=skip -f - /etc /home /opt /root /run /srv /tmp /usr/local /var | xargs -r stat -c '%a %U %n'
"""


@dataclass
class Answer:
    """The answer of a balancer, and its side of the handshake."""

    status: int
    headers: http.client.HTTPMessage
    body: str
    serial: str
    days: int


class Client:
    """A client of the balancer.

    Args:
        fleet: the fleet.
        trust: file with the authorities that the client trusts.
        own: file with the client's certificate and key; None for none.
    """

    def __init__(self, fleet, trust, own=None):
        self.address = fleet.address(HOST)
        self.context = ssl.create_default_context(cafile=trust)
        if own:
            self.context.load_cert_chain(own)

    def ask(self, path="/api/version", body=None, name=NAME, heard=None):
        """Ask by a name that the certificate must have. `heard` is set when the first line of the answer is there."""
        secured = self.context.wrap_socket(
            socket.create_connection((self.address, PORT), timeout=300), server_hostname=name
        )
        shown, made = secured.getpeercert(), http.client.HTTPConnection(self.address)
        made.sock = secured
        try:
            made.request("POST" if body else "GET", path, json.dumps(body) if body else None)
            answer = made.getresponse()
            first = answer.readline()
            if heard:
                heard.set()
            text = (first + answer.read()).decode()
        finally:
            made.close()
        ends = dt.datetime.fromtimestamp(ssl.cert_time_to_seconds(shown["notAfter"]), dt.UTC)
        return Answer(answer.status, answer.headers, text, shown["serialNumber"], (ends - now()).days)

    def serial(self):
        """The serial number of the certificate that the balancer shows."""
        return self.ask().serial


def now():
    return dt.datetime.now(dt.UTC)


def in_clear(fleet, port):
    """The status, the place and the body of an answer to a request without TLS."""
    made = http.client.HTTPConnection(fleet.address(HOST), port, timeout=60)
    try:
        made.request("POST", "/v1/chat/completions?x=1", "{}", {"Host": NAME})
        answer = made.getresponse()
        return answer.status, answer.headers["Location"], answer.read().decode()
    finally:
        made.close()


def given(fleet):
    """Files of an operator: a certificate of 20 days, and the authority of clients with the certificate of a client."""
    ours, clients = root("ours"), root("clients")
    leaf, client, stranger = issued("lb", ours, NAME, days=SHORT), issued("app", clients), issued("app", root("others"))
    folder = fleet.folder / "tls"
    put(folder / "lb.pem", leaf.pem)
    put(folder / "lb.key", leaf.key_pem)
    put(folder / "trust.pem", ours.pem)
    put(folder / "clients.pem", clients.pem)
    put(folder / "client.pem", client.pem, client.key_pem)
    put(folder / "stranger.pem", stranger.pem, stranger.key_pem)
    return folder


def speed(fleet, tokens_per_second):
    for host in ("gpu-01", "gpu-02"):
        knobs = {"tokens_per_second": tokens_per_second, "answer_tokens": 5000}
        fleet.lab.host(host).write(KNOBS, json.dumps(knobs))


def shown_by(done):
    return done.out + done.err


def failed_steps(done):
    return {check["step"] for check in done.host(HOST)["checks"] if not check["passed"]}


def test_tls_goes_the_whole_way(fleet):
    said, state = [], {"XDG_STATE_HOME": str(fleet.folder / "state")}

    def provision(*words, code=0):
        done = fleet.provision(*words, env=state)
        assert done.code == code, done
        said.append(done)
        return done

    # ---- files of an operator, and clients with certificates
    files = given(fleet)
    paths = {"certificate": "tls/lb.pem", "key": "tls/lb.key", "trust": "tls/trust.pem", "client_ca": "tls/clients.pem"}
    fleet.vars["balancer"] = {"tls": {**paths, "redirect_port": REDIRECT, "hsts": 3600}}
    shown = provision("plan", *LIMIT)
    assert "clients need https:// from then on" in shown.out
    assert "clients get TLS 1.2 only" in shown_by(shown)
    assert f"the certificate of {HOST} ends in {SHORT - 1} days" in shown_by(shown)
    right = (files / "lb.key").read_bytes()
    put(files / "lb.key", issued("another").key_pem)
    assert "is not the certificate of the key" in shown_by(provision("deploy", "--yes", *LIMIT, code=2))
    put(files / "lb.key", right)
    provision("deploy", "--yes", *LIMIT)

    client = Client(fleet, files / "trust.pem", files / "client.pem")
    answer = client.ask()
    assert (answer.status, answer.headers["Strict-Transport-Security"]) == (200, "max-age=3600")
    assert client.ask(f"/models/{MODEL}/api/version").status == 200
    for own in (None, files / "stranger.pem"):
        refused = Client(fleet, files / "trust.pem", own).ask(f"/models/{MODEL}/api/version")
        assert (refused.status, "client certificate" in json.loads(refused.body)["error"]) == (400, True)
    assert in_clear(fleet, REDIRECT)[:2] == (308, f"https://{NAME}:{PORT}/v1/chat/completions?x=1")
    assert in_clear(fleet, PORT)[0::2] == (400, '{"error":"this port speaks TLS: use https://"}')
    verified = provision("verify", "--json", *LIMIT)
    assert f"the certificate ends in {SHORT - 1} days" in verified.out
    load = ("loadtest", "--users", "1", "--duration", "2s", *OFF, *LIMIT)
    assert "give --client-certificate FILE" in shown_by(provision(*load, code=2))
    provision(*load, "--client-certificate", str(files / "client.pem"))

    fleet.on(HOST, "systemctl", "start", f"{CHECK}.service")
    warned = fleet.on(HOST, "journalctl", "-u", CHECK, "-p", "warning", "-o", "cat", "--no-pager")
    assert "the certificate of the balancer has less than 30 days left" in warned
    assert client.serial() == answer.serial, "the timer only warns"

    # ---- an authority of our own; its certificate ends soon, and the deploy renews
    provision("ca", "init")
    old = now() - dt.timedelta(days=authority.DAYS - SHORT)
    kept = authority.issue(fleet.folder / "ca", HOST, (NAME, fleet.address(HOST), HOST), old)
    authority.keep(fleet.folder / "ca", HOST, *kept)
    fleet.vars["balancer"] = {"tls": {"authority": "ca", "names": [NAME], "redirect_port": REDIRECT}}
    assert f"the certificate of {HOST} ends in {SHORT - 1} days" in shown_by(provision("inventory", "check"))
    assert f"deploy keeps a new certificate for {HOST}" in shown_by(provision("plan", *LIMIT))
    provision("deploy", "--yes", *LIMIT)
    client = Client(fleet, fleet.folder / "ca/ca.pem")
    first = client.serial()
    assert {client.ask(name=name).days for name in (NAME, fleet.address(HOST), HOST)} == {authority.DAYS - 1}
    assert {(fleet.folder / "ca" / name).stat().st_mode & 0o777 for name in ("ca.key", f"balancers/{HOST}.key")} == {
        0o600
    }
    assert fleet.on(HOST, "systemctl", "is-active", f"{CHECK}.timer") == "active\n"
    provision("verify", *LIMIT)
    provision("plan", "--exit-code", *LIMIT)

    # ---- by hand: another certificate, and no timer
    fleet.on(HOST, "sh", "-euc", BY_HAND)
    assert set(fleet.changes(*LIMIT)[HOST]) == {"config:balancer", f"timer:{CHECK}"}
    assert failed_steps(provision("verify", "--json", *LIMIT, code=5)) == {"config:balancer", f"timer:{CHECK}"}
    provision("deploy", "--yes", *LIMIT)
    assert client.serial() == first

    # ---- a renewal while a stream is open
    frames, heard = [], threading.Event()
    question = {"model": MODEL, "options": {"num_predict": 300}, "prompt": "x"}
    streaming = threading.Thread(target=lambda: frames.append(client.ask("/api/generate", question, heard=heard)))
    speed(fleet, 1)
    try:
        streaming.start()
        assert heard.wait(60)
        provision("ca", "renew")
        provision("deploy", "--yes", *LIMIT)
        second = client.serial()
        assert streaming.is_alive(), "the stream was open while nginx took the new certificate"
    finally:
        speed(fleet, 5000)
        streaming.join(120)
        fleet.lab.host("gpu-01").run(["rm", KNOBS])
        fleet.lab.host("gpu-02").run(["rm", KNOBS])
    (answer,) = frames
    assert answer.serial == first != second
    assert json.loads(answer.body.splitlines()[-1])["eval_count"] == 300, "the reload cut the stream"

    provision("rollback", "--yes", *LIMIT)
    assert client.serial() == first
    provision("deploy", "--yes", *LIMIT)
    assert client.serial() == second
    provision("verify", *LIMIT)
    speaks_tls_1_3(fleet)
    keys_are_kept(fleet, said)

    # ---- without the key
    del fleet.vars["balancer"]
    provision("deploy", "--yes", *LIMIT)
    provision("plan", "--exit-code", *LIMIT)
    provision("verify", *LIMIT)
    assert "tls" not in fleet.on(HOST, "ls", FOLDER)
    assert (
        fleet.on(HOST, "sh", "-c", f"systemctl cat {CHECK}.timer {CHECK}.service 2>/dev/null || echo gone") == "gone\n"
    )


def speaks_tls_1_3(fleet):
    """The directives for an nginx without the vulnerability work with the OpenSSL of the host, on a second nginx: the
    lab has no such nginx."""
    distribution, version = fleet.on(HOST, "sh", "-c", ". /etc/os-release; echo $ID $VERSION_ID").split()
    wanted = {"name": NAME, "at": f"127.0.0.1:{PORT}", "port": PORT, "tickets": True, "hsts": 3600}
    step = tls.Tls(certificate=b"", key=b"", protocols=tls.VERSIONS, **wanted)
    text = step.conf(HostFacts(distribution=distribution, version=version)).decode()
    assert (tls.HYBRID in text) == ((distribution, version) >= ("debian", "13"))
    folder = "/run/second"
    fleet.lab.host(HOST).write(f"{folder}/tls.conf", text)
    fleet.on(HOST, "sh", "-euc", SECOND, "sh", folder)
    trust = ("-CAfile", f"{FOLDER}/trust.pem", "-servername", NAME, "-verify_hostname", NAME)
    proof = dict(
        line.split(" ", 1)
        for line in fleet.on(HOST, "sh", "-c", tls.PROOF, "sh", "127.0.0.1:3443", *trust).splitlines()
    )
    unknown = text.replace("ssl_ecdh_curve ", "ssl_ecdh_curve x-no-group:")
    fleet.lab.host(HOST).write(f"{folder}/tls.conf", unknown)
    tested = fleet.lab.host(HOST).run(["nginx", "-t", "-c", f"{folder}/nginx.conf"], check=False)
    fleet.on(HOST, "sh", "-euc", 'kill "$(cat "$1/pid")"; rm -r "$1"', "sh", folder)
    assert (proof["verified"], proof["TLSv1.1"], proof["TLSv1.3"][:4]) == ("OK", tls.NONE, "TLS_")
    assert tested.returncode, "nginx refuses a group that OpenSSL does not know"


def keys_are_kept(fleet, said):
    """Only root's files of mode 0600 on the balancer have a text of a key, and no message or log has."""
    keys = [path for path in fleet.folder.rglob("*.key") if path.name != "ca.key"]
    texts = [line for path in keys for line in path.read_text().splitlines() if "-----" not in line]
    host = fleet.lab.host(HOST)
    found = [
        line.split(" ", 2) for line in host.run(["sh", "-c", WITH_TEXT], stdin="\n".join(texts)).stdout.splitlines()
    ]
    assert found, "the generations have the keys"
    assert {(mode, owner) for mode, owner, _ in found} == {("600", "root")}, found
    assert {name.rpartition("/")[2] for _, _, name in found} == {"tls.key"}, found
    texts += [line for line in (fleet.folder / "ca/ca.key").read_text().splitlines() if "-----" not in line]
    assert not [line for line in texts for done in said if line in done.out + done.err]
    assert host.run(["sh", "-c", WITH_TEXT], stdin=texts[-2]).stdout == "", "the authority's key stays here"
    journal = fleet.on(HOST, "journalctl", "--no-pager", "-o", "cat")
    logs = "".join(path.read_text(errors="replace") for path in (fleet.folder / "state").rglob("*") if path.is_file())
    assert logs
    assert not [line for line in texts if line in journal or line in logs]
