"""TLS on the balancer of the lab: authority, plan, deploy, drift, renewal under a stream, rollback, removal."""

import http.client
import json
import ssl
import threading

import pytest

pytestmark = pytest.mark.lab

HOST, PORT, KEY = "lb-01", 3008, "/etc/provision/nginx/tls.key"
TIMER = "provision-certificate-check.timer"
LIMIT = ("--limit", HOST)
MODEL = "deepseek-r1:1.5b"


class Client:
    """A client that trusts the authority of the fleet.

    Args:
        fleet: the fleet, with an authority beside the inventory.
    """

    def __init__(self, fleet):
        self.address = fleet.address(HOST)
        self.context = ssl.create_default_context(cafile=fleet.folder / "ca" / "ca.pem")

    def connection(self):
        made = http.client.HTTPSConnection(self.address, PORT, timeout=60, context=self.context)
        made.connect()
        return made

    def serial(self):
        """The serial number of the certificate that the balancer shows."""
        made = self.connection()
        try:
            return made.sock.getpeercert()["serialNumber"]
        finally:
            made.close()

    def version(self):
        made = self.connection()
        try:
            made.request("GET", "/api/version")
            return made.getresponse().status
        finally:
            made.close()

    def stream(self, tokens):
        """The frames of a streamed answer."""
        made = self.connection()
        made.request(
            "POST", "/api/generate", json.dumps({"model": MODEL, "options": {"num_predict": tokens}, "prompt": "x"})
        )
        answer = made.getresponse()
        return [json.loads(line) for line in answer]


def journal_and_store(fleet, texts):
    """The files with a text of a key on the balancer, outside of generations."""
    places = ["/etc", "/opt", "/run", "/tmp", "/root", "/home", "/var/log", "/var/lib/provision/journal"]
    places += ["/var/lib/provision/store"]
    words = [word for text in texts for word in ("-e", text)]
    done = fleet.lab.host(HOST).run(["grep", "-rls", "--devices=skip", *words, *places], check=False)
    return sorted(path for path in done.stdout.splitlines() if "/etc/provision/nginx" not in path)


def test_tls_goes_the_whole_way(scratch):
    fleet, said = scratch, []

    def provision(*words, code=0):
        done = fleet.provision(*words)
        assert done.code == code, done
        said.append(done)
        return done

    provision("ca", "init")
    fleet.vars["balancer"] = {"tls": {"authority": "ca", "names": ["llm.example"], "redirect_port": 3080}}
    shown = provision("plan", *LIMIT)
    assert "clients need https:// from then on" in shown.out
    assert "clients get TLS 1.2 only" in shown.out + shown.err
    provision("deploy", "--yes", *LIMIT)
    client = Client(fleet)
    first = client.serial()
    assert client.version() == 200
    assert fleet.on(HOST, "stat", "-Lc", "%a %U:%G", KEY) == "600 root:root\n"
    assert fleet.on(HOST, "systemctl", "is-active", TIMER) == "active\n"
    provision("verify", *LIMIT)
    provision("plan", "--exit-code", *LIMIT)

    off = [word for target in ("--max-ttft-p95", "--max-fail", "--max-queued") for word in (target, "off")]
    provision("loadtest", "--users", "1", "--duration", "2s", *off, *LIMIT)

    # by hand: another certificate, which nginx has loaded
    fleet.on(HOST, "sh", "-euc", BY_HAND)
    assert "config:balancer" in fleet.changes(*LIMIT)[HOST]
    failed = fleet.provision("verify", "--json", *LIMIT)
    assert failed.code == 5
    steps = {check["step"] for check in failed.host(HOST)["checks"] if not check["passed"]}
    assert steps == {"config:balancer"}
    said.append(failed)
    provision("deploy", "--yes", *LIMIT)
    assert client.serial() == first

    frames = []
    streaming = threading.Thread(target=lambda: frames.extend(client.stream(400)))
    streaming.start()
    provision("ca", "renew")
    provision("deploy", "--yes", *LIMIT)
    second = client.serial()
    streaming.join(120)
    assert second != first
    assert frames[-1]["done"] is True, "the reload cut a stream"

    provision("rollback", "--yes", *LIMIT)
    assert client.serial() == first
    provision("deploy", "--yes", *LIMIT)
    assert client.serial() == second
    provision("verify", *LIMIT)

    keys = [*(fleet.folder / "ca").rglob("*.key")]
    bodies = [line for path in keys for line in path.read_text().splitlines() if "-----" not in line]
    assert not [line for line in bodies for done in said if line in done.out + done.err]
    assert journal_and_store(fleet, bodies) == []
    assert not [line for line in bodies if line in fleet.on(HOST, "journalctl", "--no-pager")]

    del fleet.vars["balancer"]
    provision("deploy", "--yes", *LIMIT)
    provision("plan", "--exit-code", *LIMIT)
    provision("verify", *LIMIT)
    assert "tls" not in fleet.on(HOST, "ls", "/etc/provision/nginx/")
    assert fleet.on(HOST, "sh", "-c", f"systemctl cat {TIMER} 2>/dev/null || echo gone") == "gone\n"


BY_HAND = """
cd /etc/provision/nginx
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=x -days 9 \\
  -keyout new.key -out tls.pem 2>&1
cat new.key >tls.key
rm new.key
systemctl reload provision-nginx
sleep 1
"""
