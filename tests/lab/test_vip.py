"""The common address of two balancers: deployed, drifted, switched, rolled back, removed, and refused."""

import http.client
import json
import signal
import subprocess
import threading
import time

import pytest

from provision.lab import faults
from provision.steps.keepalived import handover
from provision.steps.keepalived.layout import CONF, RULES, TABLE, UNIT
from tests.fleet import NAME, wait_for
from tests.pair import BALANCERS, PORT, Pair, made, taken_down
from tests.pair_faults import FAULTS, survives

pytestmark = pytest.mark.lab
CONFIG, SERVICE = "config:keepalived", "service:provision-keepalived"
LONG = (4, 40)  # tokens in a second, and tokens: a stream of ten seconds
STRANGER = "/root/stranger.py"
# A stranger's advertisements with the greatest priority, to the multicast group of VRRP and to a balancer. RFC 5798.
ADVERTISE = """
import socket, struct, sys, time
address, balancer = sys.argv[1:3]
head = struct.pack("!BBBBH", 0x31, 51, 255, 1, 50)
def total(data):
    value = sum(struct.unpack(f"!{len(data) // 2}H", data))
    return 0xFFFF & ~((value >> 16) + (value & 0xFFFF))
own = socket.socket(socket.AF_INET, socket.SOCK_RAW, 112)
own.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, 255)
own.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, 255)
probe = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
probe.connect((balancer, 9))
source = socket.inet_aton(probe.getsockname()[0])
for _ in range(60):
    for to in ("224.0.0.18", balancer):
        body = head + b"\\0\\0" + socket.inet_aton(address)
        pseudo = source + socket.inet_aton(to) + struct.pack("!BBH", 0, 112, len(body))
        own.sendto(head + struct.pack("!H", total(pseudo + body)) + socket.inet_aton(address), (to, 0))
    time.sleep(0.1)
"""


@pytest.fixture(scope="module")
def deployed(tmp_path_factory):
    pair = made(f"{NAME}-pair", tmp_path_factory.mktemp("pair"))
    yield pair
    taken_down(pair)


@pytest.fixture
def pair(deployed):
    """The pair as deployed: lb-01 has the address, streams are short."""
    vip = {"address": deployed.vip}
    yield deployed
    deployed.vars["balancer"] = {"vip": vip}
    deployed.speed(60, 16)
    for name in BALANCERS:
        host = deployed.lab.host(name)
        if not host.running:
            faults.switch(deployed.lab, name, "power-off", on=False)
        faults.switch(deployed.lab, name, "cut", on=False)
        host.run(["sh", "-c", f"nft delete table ip split 2>/dev/null; systemctl start provision-nginx {UNIT}"])
        host.run(["sh", "-c", f"systemctl stop {handover.UNDO_UNIT}; nft delete table ip {handover.TABLE} || :"])
    deployed.deploy()
    deployed.settled()


def failed(pair: Pair) -> set[str]:
    """Return the steps that fail in a verification."""
    done = pair.provision("verify", "--json")
    return {check["step"] for host in done.doc["hosts"] for check in host["checks"] if not check["passed"]}


def to_first(pair: Pair) -> None:
    """Have lb-01 hold the address."""
    assert pair.provision("switch", "lb-01", "--json").code == 0
    assert pair.holders() == ["lb-01"]


def test_one_balancer_has_the_address_and_drift_is_found_and_mended(pair):
    assert len(pair.holders()) == 1
    with pair.probing() as probe:
        assert pair.provision("plan", "--exit-code").code == 0
        assert failed(pair) == set()
        standby = pair.standby()
        pair.on(standby, "sed", "-i", "s/priority .*/priority 7/", CONF)
        pair.on(standby, "nft", "flush", "table", "ip", TABLE)
        assert pair.changes()[standby] == [CONFIG]
        assert failed(pair) == {CONFIG}
        pair.deploy()
        pair.on(standby, "systemctl", "disable", "--now", UNIT)
        assert pair.changes()[standby] == [SERVICE]
        assert SERVICE in failed(pair)
        pair.deploy()
        assert pair.provision("plan", "--exit-code").code == 0
        assert failed(pair) == set()
    assert probe.lost == 0


def test_a_switch_and_a_change_of_the_holder_cut_no_stream(pair):
    to_first(pair)
    pair.speed(*LONG)
    with pair.probing() as probe:
        old = pair.stream()
        switching = threading.Thread(target=pair.provision, args=("switch", "--timeout", "5m"))
        switching.start()
        wait_for_rules(pair, "lb-01")
        pair.speed(2, 40)
        new = pair.stream()
        assert old.ended() == "whole"
        switching.join()
        assert pair.holders() == ["lb-02"]
        assert new.outcome == "open", "the stream proves nothing if it ended before the address moved"
        assert new.ended() == "whole"
        pair.vars["balancer"]["read_timeout"] = "1700s"
        plan = next(host for host in pair.plan().doc["hosts"] if host["host"] == "lb-02")
        assert f"if this balancer has {pair.vip}, the address moves first" in plan["changes"][0]["impact"]
        run = pair.deploy().doc["run"]
        assert pair.holders() == ["lb-01"]
        pair.vars["balancer"]["queue"] = 30
        assert pair.deploy().host("lb-01")["changed"] == ["config:balancer"]
        assert pair.holders() == ["lb-01"], "members and marks need a reload, and no switch"
        assert pair.provision("rollback", run, "--yes", "--json").code == 0
        assert pair.holders() == ["lb-02"]
    assert probe.lost == 0


def test_a_holder_without_power_loses_the_address_and_gets_nothing_back_at_its_return(pair):
    survives(pair, next(fault for fault in FAULTS if fault.name == "power off"))


def wait_for_rules(pair: Pair, host: str) -> None:
    """Wait until a balancer sends new connections ahead."""
    text = (
        f"for _ in $(seq 100); do nft list table ip {handover.TABLE} >/dev/null 2>&1 && exit; sleep 0.1; done; exit 1"
    )
    pair.on(host, "sh", "-c", text)


@pytest.mark.matrix
def test_a_switch_to_an_unfit_balancer_is_refused_and_changes_nothing(pair):
    to_first(pair)
    pair.on("lb-02", "systemctl", "stop", "provision-nginx")
    refused = pair.provision("switch", "lb-02", "--json")
    assert refused.code == 3
    assert "nginx does not answer its generation" in refused.out + refused.err
    pair.on("lb-02", "systemctl", "start", "provision-nginx")
    assert pair.provision("drain", "gpu-01/ollama1", "--force", "--json").code == 0
    pair.on("lb-02", "sed", "-i", "s/ down;/;/; /# drained/d", "/etc/provision/nginx/upstream.conf")
    marks = pair.provision("switch", "lb-02", "--json")
    assert marks.code == 3
    assert "do not send to the same instances (gpu-01/ollama1)" in marks.out
    pair.deploy()
    assert pair.provision("undrain", "gpu-01/ollama1", "--json").code == 0
    assert pair.holders() == ["lb-01"]
    for name in BALANCERS:
        assert handover.TABLE not in pair.on(name, "nft", "list", "tables")


@pytest.mark.matrix
def test_an_address_of_somebody_else_and_of_another_network_is_refused_before_any_change(pair):
    taken = pair.vip.rpartition(".")[0] + ".249"
    pair.on("gpu-01", "ip", "addr", "add", f"{taken}/32", "dev", "eth0")
    try:
        pair.vars["balancer"]["vip"] = {"address": taken}
        refused = pair.provision("deploy", "--yes", "--json")
        assert refused.code == 3
        assert f"answers for {taken}, and that is no balancer" in refused.out
        assert all(host["changed"] == [] for host in refused.doc["hosts"])
    finally:
        pair.on("gpu-01", "ip", "addr", "del", f"{taken}/32", "dev", "eth0")
    pair.vars["balancer"]["vip"] = {"address": "192.0.2.7"}
    elsewhere = pair.provision("plan", "--json")
    assert elsewhere.code == 3
    assert "192.0.2.7 is in no network of this host" in elsewhere.out
    assert len(pair.holders()) == 1


def on_the_screen(pair: Pair) -> set[str]:
    """Return the states of the balancers by `provision status`."""
    done = pair.provision("status", "--json")
    assert done.host("lb-01")["balancer"]["address"] == pair.vip
    return {done.host(name)["balancer"]["state"] for name in BALANCERS}


@pytest.mark.matrix
def test_two_holders_and_none_fail_the_verification(pair):
    for name in BALANCERS:
        pair.on(name, "nft", "add table ip split; add chain ip split input { type filter hook input priority -300; };"
                " add rule ip split input ip protocol 112 drop")  # fmt: skip
    both = threading.Event()
    for _ in range(100):
        if pair.holders() == list(BALANCERS):
            both.set()
            break
        time.sleep(0.1)
    assert both.is_set(), "without advertisements both balancers take the address"
    assert f"vip:{pair.vip}" in failed(pair)
    assert on_the_screen(pair) == {"two holders"}
    for name in BALANCERS:
        pair.on(name, "nft", "delete", "table", "ip", "split")
    pair.settled()
    assert failed(pair) == set()
    assert on_the_screen(pair) == {"ok"}
    for name in BALANCERS:
        pair.on(name, "systemctl", "stop", UNIT)
    assert pair.holders() == []
    assert on_the_screen(pair) == {"no holder"}
    done = pair.provision("verify", "--json")
    said = [check["got"] for host in done.doc["hosts"] for check in host["checks"] if check["step"].startswith("vip:")]
    assert any(str(text).startswith("nobody; keepalived on this host: ") for text in said), said


@pytest.mark.matrix
def test_a_stranger_with_the_same_router_id_is_not_heard(pair):
    to_first(pair)
    pair.lab.host("gpu-01").write(STRANGER, ADVERTISE)
    with pair.probing() as probe:
        for name in BALANCERS:
            pair.on("gpu-01", "python3", STRANGER, pair.vip, pair.address(name))
            assert pair.holders() == ["lb-01"]
    assert probe.lost == 0


@pytest.mark.matrix
def test_the_address_goes_with_its_key_and_comes_back_by_a_rollback(pair):
    del pair.vars["balancer"]["vip"]
    run = pair.deploy().doc["run"]
    assert pair.holders() == []
    for name in BALANCERS:
        assert TABLE not in pair.on(name, "nft", "list", "tables")
        assert pair.on(name, "sh", "-c", f"ls -d {CONF} {RULES} /etc/systemd/system/{UNIT} 2>/dev/null || :") == ""
    assert pair.provision("plan", "--exit-code").code == 0
    assert pair.provision("rollback", run, "--yes", "--json").code == 0
    pair.settled()


@pytest.mark.matrix
def test_a_switch_whose_controller_dies_is_undone_by_the_holder(pair):
    to_first(pair)
    pair.speed(1, 200)
    stream = pair.stream()
    process = switching(pair, "lb-02")
    ahead = pair.stream()
    process.send_signal(signal.SIGKILL)
    process.wait()
    with pair.probing() as probe:
        wait_for(lambda: handed_back(pair, "lb-01"), 100)
        assert pair.holders() == ["lb-01"]
    assert probe.lost == 0
    assert (stream.outcome, ahead.outcome) == ("open", "open")
    pair.speed(60, 16)
    assert (stream.ended(), ahead.ended()) == ("whole", "whole")


@pytest.mark.matrix
def test_ctrl_c_gives_new_connections_back_and_cuts_no_stream(pair):
    to_first(pair)
    pair.speed(1, 200)
    here = pair.stream()
    process = switching(pair, "lb-02")
    ahead = pair.stream()
    with pair.probing() as probe:
        process.send_signal(signal.SIGINT)
        process.communicate()
        assert process.returncode == 130
        assert handed_back(pair, "lb-01")
        assert pair.holders() == ["lb-01"]
        assert (here.outcome, ahead.outcome) == ("open", "open")
        pair.speed(60, 16)
        assert (here.ended(), ahead.ended()) == ("whole", "whole")
        pair.on("lb-02", "systemctl", "stop", "provision-nginx")
        assert pair.stream().ended() == "whole", "new connections go to the holder again"
        pair.on("lb-02", "systemctl", "start", "provision-nginx")
    assert probe.lost == 0


@pytest.mark.matrix
def test_a_next_balancer_without_power_ends_the_switch_and_the_holder_serves(pair):
    to_first(pair)
    pair.speed(1, 200)
    stream = pair.stream()
    process = switching(pair, "lb-02")
    faults.switch(pair.lab, "lb-02", "power-off", on=True)
    said, _ = process.communicate()
    assert process.returncode == 3
    assert b"lb-02 is not well any more" in said
    assert pair.holders() == ["lb-01"]
    assert handover.TABLE not in pair.on("lb-01", "nft", "list", "tables")
    with pair.probing() as probe:
        pair.speed(60, 16)
        assert stream.ended() == "whole"
    assert probe.lost == 0


@pytest.mark.matrix
def test_a_client_that_keeps_its_connection_moves_behind_an_answer(pair):
    to_first(pair)
    failures: list[str] = []
    served: list[str] = []
    over = threading.Event()

    def ask() -> None:
        connection = http.client.HTTPConnection(pair.vip, PORT, timeout=10)
        while not over.is_set():
            try:
                connection.request("POST", "/api/generate", json.dumps({"model": pair.model, "prompt": "Count."}))
                answer = connection.getresponse()
                answer.read()
                served.append(answer.headers.get("Connection", "keep-alive"))
            except (OSError, http.client.HTTPException) as error:
                failures.append(f"{type(error).__name__}: {error}")
                connection.close()

    clients = [threading.Thread(target=ask, daemon=True) for _ in range(4)]
    for client in clients:
        client.start()
    try:
        wait_for(lambda: len(served) > 8, 60)
        done = pair.provision("switch", "lb-02", "--timeout", "2m", "--json")
        count = len(served)
        wait_for(lambda: len(served) > count + 8, 60)
    finally:
        over.set()
        for client in clients:
            client.join()
    assert done.code == 0
    assert [host["cut"] for host in done.doc["hosts"]] == [0, 0]
    assert failures == []
    assert pair.holders() == ["lb-02"]


def switching(pair: Pair, to: str) -> subprocess.Popen[bytes]:
    """Begin a switch, and wait until new connections go ahead."""
    argv = pair.command("switch", to, "--timeout", "5m")
    process = subprocess.Popen(argv, env=pair.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    wait_for_rules(pair, pair.holders()[0])
    return process


def handed_back(pair: Pair, host: str) -> bool:
    """Whether no new connection goes ahead, while the connections of the next balancer still do."""
    begun = pair.on(host, "sh", "-c", f"nft list chain ip {handover.TABLE} begun 2>/dev/null || :")
    return "chain begun" in begun and "update" not in begun
