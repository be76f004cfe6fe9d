"""`provision status` on real hosts. Cards and model servers of the lab are simulated; all else is real."""

import os
import pty
import signal
import subprocess
import time

import pytest

from provision.lab import faults

from .conftest import serves_again

pytestmark = [pytest.mark.lab, pytest.mark.matrix]
MODEL = "deepseek-r1:1.5b"


def rows(done) -> dict[str, dict]:
    """Instance -> its entry of the document."""
    return {f"{host['host']}/{one['instance']}": one for host in done.doc["hosts"] for one in host["instances"]}


def ask(fleet, number: int) -> None:
    """Send streamed requests through the balancer."""
    body = f'{{"model": "{MODEL}", "prompt": "hello"}}'
    for _ in range(number):
        fleet.on("lb-01", "sh", "-c", f"curl -sf -o /dev/null -d '{body}' http://127.0.0.1:3008/api/generate")


def test_a_fleet_that_is_well_with_requests_and_their_times(fleet):
    before = sum(one["requests"] for one in rows(fleet.provision("status", "--json")).values())
    ask(fleet, 6)
    done = fleet.provision("status", "--json")
    assert done.code == 0, done
    found = rows(done)
    assert sum(one["requests"] for one in found.values()) == before + 6
    assert {one["state"] for one in found.values()} == {"ok"}
    assert {one["on_gpu"] for one in found.values()} == {"yes"}
    assert any(one["ttft_p95"] for one in found.values())
    assert len({uuid for one in found.values() for uuid in one["cards"]}) == 4
    assert done.host("lb-01")["balancer"]["generation"]
    assert {host["run"]["command"].split()[0] for host in done.doc["hosts"]} <= {"deploy", "drain", "undrain"}
    text = fleet.provision("status")
    assert "all is well" in text.out


def test_a_request_under_way_is_counted_until_its_end(fleet):
    fleet.lab.host("gpu-01").write("/etc/provision-lab/knobs.json", '{"tokens_per_second": 4}')
    fleet.lab.host("gpu-02").write("/etc/provision-lab/knobs.json", '{"tokens_per_second": 4}')
    try:
        body = f'{{"model": "{MODEL}", "prompt": "hello", "options": {{"num_predict": 120}}}}'
        line = f"curl -s -o /dev/null -m 25 -d '{body}' http://127.0.0.1:3008/api/generate"
        fleet.on("lb-01", "sh", "-c", f"for n in 1 2 3; do {line} >/dev/null 2>&1 & done; sleep 3")
        found = rows(fleet.provision("status", "--json"))
        assert sum(one["in_flight"] for one in found.values()) == 3
    finally:
        for host in ("gpu-01", "gpu-02"):
            fleet.on(host, "rm", "-f", "/etc/provision-lab/knobs.json")
    fleet.on("lb-01", "sh", "-c", "while pgrep -x curl >/dev/null; do sleep 0.5; done; sleep 3")
    found = rows(fleet.provision("status", "--json"))
    assert sum(one["in_flight"] for one in found.values()) == 0


def test_a_bad_day_names_all_the_worst_first(fleet, lab):
    assert fleet.provision("drain", "gpu-01/ollama2", "-m", "a new fan", "--json").code == 0
    fleet.on("gpu-01", "docker", "stop", "ollama1")
    faults.switch(lab, "gpu-02", "power-off", on=True)
    try:
        done = fleet.provision("status")
        assert done.code == 4, done
        lines = [line.split()[:2] for line in done.out.splitlines() if line and not line.startswith(" ")]
        assert lines[1:4] == [["gpu-02", "unreachable"], ["gpu-01/ollama1", "down"], ["gpu-01/ollama2", "drained"]]
        assert "the container is exited" in done.out
        assert "a new fan" in done.out
        assert "10 s" in done.out or "No route" in done.out, done
        found = fleet.provision("status", "--json").doc
        assert found["summary"]["states"] == {"unreachable": 1, "down": 1, "drained": 1, "ok": 1}
    finally:
        faults.switch(lab, "gpu-02", "power-off", on=False)
        serves_again(fleet, "gpu-02")
        fleet.deploy()
        fleet.provision("undrain", "gpu-01", "--json")
    assert fleet.provision("status").code == 0


def test_a_model_that_its_server_wrongly_calls_on_the_card(fleet, lab):
    faults.switch(lab, "gpu-01/ollama1", "cpu-unsaid", on=True)
    try:
        body = f'{{"model": "{MODEL}", "keep_alive": %s}}'
        for keep_alive in ("0", "-1"):
            text = f"curl -sf -o /dev/null -d '{body % keep_alive}' http://$(docker port ollama1 11434)/api/generate"
            fleet.on("gpu-01", "sh", "-euc", text)
        done = fleet.provision("status", "--json")
        one = rows(done)["gpu-01/ollama1"]
        assert (done.code, one["state"], one["on_gpu"]) == (5, "on cpu", "no"), done
        assert one["models"][0]["on_cards"] == 1.0, "the server itself says that the model is on its card"
    finally:
        faults.switch(lab, "gpu-01/ollama1", "cpu-unsaid", on=False)
    fleet.deploy()


def test_a_card_that_needs_a_reset_and_a_lost_card(fleet, lab):
    for fault in ("card-broken", "gpu-lost"):
        faults.switch(lab, "gpu-01", fault, on=True)
        try:
            done = fleet.provision("status", "--json")
            found = [each["state"] for one in rows(done).values() for each in one["findings"]]
            assert (done.code, "lost card" in found) == (5, True), (fault, done)
        finally:
            faults.switch(lab, "gpu-01", fault, on=False)


def test_a_watch_on_a_terminal_keeps_one_login_and_a_silent_host_keeps_its_row(fleet, lab):
    def logins() -> int:
        return int(fleet.on("gpu-01", "sh", "-c", "journalctl -q -b | grep -c 'Accepted publickey' || :") or 0)

    before = logins()
    parent, child = pty.openpty()
    words = fleet.command("status", "-w", "--every", "1s")
    environment = {**fleet.environment, "COLUMNS": "80", "LINES": "50", "NO_COLOR": "1"}
    with subprocess.Popen(words, stdout=child, stderr=child, stdin=subprocess.DEVNULL, env=environment) as process:
        os.close(child)
        try:
            read_until(parent, "all is well", times=3)
            lab.cut("gpu-02")
            text = read_until(parent, "gpu-02         unreachable")
            text += read_until(parent, "the last answer is")
        finally:
            lab.uncut("gpu-02")
            process.send_signal(signal.SIGINT)
        assert process.wait(30) == 130
    os.close(parent)
    assert "\x1b[H\x1b[J" in text
    assert logins() - before == 1


def read_until(terminal: int, word: str, times: int = 1) -> str:
    """Read a terminal until a text came some times."""
    text, until = "", time.monotonic() + 120
    while text.count(word) < times:
        assert time.monotonic() < until, text[-3000:]
        text += os.read(terminal, 65536).decode(errors="replace")
    return text
