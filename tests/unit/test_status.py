"""`provision status`: the findings of instances, cards and balancers, their order, the document, the repetition."""

import contextlib
import dataclasses
import json
import math
import os
import re
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from provision import cli
from provision.actions.status import Status, status, watch
from provision.cli.caller import Caller
from provision.command import Answer
from provision.errors import InventoryError
from provision.report import status as report
from provision.steps import card_load
from provision.steps.docker import glance
from provision.steps.keepalived import holder
from provision.steps.nginx import in_flight, recent_log
from tests.unit import pki
from tests.unit.status_fleet import DRAIN, INVENTORY, MODEL, NOW, FakeInstance, StatusFleet, docker, load, sick
from tests.unit.test_json_documents import checked
from tests.unit.test_screens import Terminal


@pytest.fixture
def fleet(tmp_path: Path) -> StatusFleet:
    return StatusFleet(tmp_path)


def states(found: Status) -> dict[str, list[str]]:
    """Return the states of each row that is not well."""
    rows = [("/".join(filter(None, (row.host, row.instance))), row) for row in found.rows]
    rows += [(row.host, row) for row in found.balancers]  # type: ignore[misc]
    return {name: [each.state for each in row.findings] for name, row in rows if row.state != "ok"}


def why(found: Status, state: str) -> str:
    """Return the evidence of the only finding with a state."""
    (text,) = [each.why for row in (*found.rows, *found.balancers) for each in row.findings if each.state == state]
    return text


def test_a_well_fleet_has_no_finding_and_costs_one_exec_for_each_host(fleet: StatusFleet) -> None:
    found = status(fleet.request)
    assert states(found) == {}
    assert (found.exit_code, found.is_well, len(found.rows)) == (0, True, 6)
    assert {name: host.execs for name, host in fleet.hosts.items()} == dict.fromkeys(fleet.hosts, 1)
    first = found.rows[0]
    assert (first.host, first.instance, first.on_gpu, first.in_flight) == ("gpu-01", "ollama1", "yes", 0)
    assert [(one.name, one.on_cards, one.context) for one in first.models or ()] == [("llama3.1:8b", 1.0, 8192)]
    assert (first.cards[0].uuid, first.cards[0].busy, first.cards[0].celsius) == (fleet.cards("gpu-01")[0], 37, 54)


SICK: list[Any] = [
    ({"status": "exited"}, "down", "the container is exited"),
    ({"models": None}, "no answer", "connection refused"),
    ({"held": 0}, "on cpu", "hold 0 MiB on the cards"),
    ({"models": [{**MODEL, "size_vram": 0}]}, "on cpu", "on the cards"),
    ({"models": [{**MODEL, "size_vram": MODEL["size"] // 2}]}, "on cpu", "llama3.1:8b 50 %"),
    ({"models": []}, "not loaded", "no model is in memory, of llama3.1:8b"),
    ({"sees": "Failed to initialize NVML: Unknown Error"}, "lost card", "Unknown Error"),
    ({"cards": ("GPU-gone",)}, "lost card", "does not list the card (gone)"),
]


@pytest.mark.parametrize(("differs", "state", "text"), SICK, ids=[f"{one[1]}: {one[2]}" for one in SICK])
def test_a_sick_instance(fleet: StatusFleet, differs: dict[str, Any], state: str, text: str) -> None:
    given = dict(differs)
    if cards := given.pop("cards", None):
        first, second = fleet.cards("gpu-02")
        del first
        two = (FakeInstance("ollama1", cards), FakeInstance("ollama2", (second,)))
        fleet.hosts["gpu-02"].answers[glance.TITLE] = docker(*two)
    else:
        fleet.instances("gpu-02", **given)
    found = status(fleet.request)
    assert states(found) == {"gpu-02/ollama1": [state]}
    assert text in why(found, state)
    assert (found.rows[0].host, found.exit_code) == ("gpu-02", 5)


def test_no_thread_and_no_connection_is_left(fleet: StatusFleet) -> None:
    before = set(threading.enumerate())
    status(fleet.request)
    for thread in set(threading.enumerate()) - before:
        thread.join(20)
        assert not thread.is_alive()
    assert all(host.closes for host in fleet.hosts.values())


def test_a_model_that_may_be_unloaded_is_not_missed(fleet: StatusFleet) -> None:
    fleet.instances("gpu-02", models=[], environment=("OLLAMA_KEEP_ALIVE=5m",))
    assert states(status(fleet.request)) == {}


def test_a_host_that_hides_its_processes_proves_nothing_and_is_no_finding(fleet: StatusFleet) -> None:
    text = fleet.hosts["gpu-01"].answers[glance.TITLE]
    assert isinstance(text, str)
    lines = [line for line in text.splitlines() if not line.startswith("host applications")]
    fleet.hosts["gpu-01"].answers[glance.TITLE] = "\n".join([*lines[:-1], "host applications ", lines[-1]]) + "\n"
    found = status(fleet.request)
    assert states(found) == {}
    assert {row.on_gpu for row in found.rows if row.host == "gpu-01"} == {"unproved"}


@pytest.mark.parametrize(
    ("values", "state", "text"),
    [
        ({"clocks": "0x0000000000000040"}, "hot", "runs slower at 54 C: too hot (hardware)"),
        ({"errors": "3"}, "ecc errors", "3 uncorrected memory errors"),
        ({"used": "[GPU requires reset]"}, "lost card", "GPU requires reset"),
        ({"clocks": "0x0000000000000001", "temperature": "85"}, "", ""),
    ],
)
def test_a_sick_card(fleet: StatusFleet, values: dict[str, str], state: str, text: str) -> None:
    fleet.hosts["gpu-02"].answers[card_load.TITLE] = load(*fleet.cards("gpu-02"), **values)
    found = status(fleet.request)
    assert states(found) == ({"gpu-02/ollama1": [state]} if state else {})
    assert not state or text in why(found, state)


def test_a_sick_card_without_an_instance_has_a_row_of_its_host(fleet: StatusFleet) -> None:
    fleet.hosts["gpu-02"].answers[card_load.TITLE] = load("GPU-spare", *fleet.cards("gpu-02"), errors="1")
    found = status(fleet.request)
    assert states(found) == {"gpu-02": ["ecc errors"]}
    assert found.rows[0].cards[0].uuid == "GPU-spare"


def test_a_docker_without_an_answer_is_told_for_each_instance(fleet: StatusFleet) -> None:
    fleet.hosts["gpu-03"].answers[glance.TITLE] = Answer(75, b"", b"docker.service is not running")
    found = status(fleet.request)
    assert states(found) == {"gpu-03/ollama1": ["no answer"], "gpu-03/ollama2": ["no answer"]}
    assert found.rows[0].findings[0].why == "Docker: docker.service is not running"


def test_drained_and_cordoned_instances_are_told_and_a_drain_alone_is_no_finding(fleet: StatusFleet) -> None:
    fleet.balancer.mark(drain={"gpu-01/ollama1": DRAIN})
    found = status(fleet.request)
    assert states(found) == {"gpu-01/ollama1": ["drained"]}
    assert why(found, "drained") == "since 2026-12-01T11:00:00+00:00 by ops@desk: a new driver"
    assert found.exit_code == 0
    fleet.balancer.mark(down=("gpu-01/ollama2",))
    found = status(fleet.request)
    assert states(found) == {"gpu-01/ollama2": ["cordoned"], "gpu-01/ollama1": ["drained"]}
    assert "on lb-01: a run left the instance out" in why(found, "cordoned")
    assert found.exit_code == 5


def test_a_cordoned_instance_names_the_failed_run(fleet: StatusFleet) -> None:
    records: list[dict[str, Any]] = [
        {"record": "begin", "time": "2026-12-01T10:00:00+00:00", "who": "ops@desk", "command": "deploy"},
        {"record": "failed", "step": "container:ollama2", "exit": 1, "why": "no such image"},
        {"record": "end", "result": "failed", "changes": 1},
    ]
    lines = ["# 1 20261201T100000Z-5e1f", *map(json.dumps, records)]
    fleet.hosts["gpu-01"].answers["read the journals"] = "\n".join(lines) + "\n"
    fleet.balancer.mark(down=("gpu-01/ollama2",))
    found = status(fleet.request)
    assert "run 20261201T100000Z-5e1f failed at container:ollama2: no such image" in why(found, "cordoned")
    fleet.hosts["gpu-01"].answers["read the lock"] = "20261201T110000Z-5e1f 900 100 200 no ops@desk\n\n"
    assert "by run 20261201T110000Z-5e1f of ops@desk, which is at work" in why(status(fleet.request), "cordoned")


def test_an_instance_that_no_balancer_lists(fleet: StatusFleet) -> None:
    text = fleet.balancer.upstream.replace("# gpu-03/ollama2", "# gpu-09/ollama2")
    fleet.balancer.config["upstream.conf"] = text.encode()
    found = status(fleet.request)
    assert states(found) == {"gpu-03/ollama2": ["not listed"]}


def test_an_unreachable_host_is_a_row_with_its_reason_and_the_worst_row(fleet: StatusFleet) -> None:
    fleet.lost.add("gpu-02")
    fleet.instances("gpu-01", status="exited")
    names = ("gpu-02/ollama1", "gpu-02/ollama2")
    fleet.balancer.mark(drain={name: dataclasses.replace(DRAIN, label=name) for name in names})
    found = status(fleet.request)
    assert states(found) == {"gpu-02": ["unreachable", "drained"], "gpu-01/ollama1": ["down"]}
    assert why(found, "unreachable").startswith("the connection was lost")
    assert found.exit_code == 4
    assert [row.state for row in found.rows] == ["unreachable", "down", *["ok"] * 3]


def test_the_requests_of_all_balancers_are_added_up(tmp_path: Path) -> None:
    text = INVENTORY.replace("lb-01: {ansible_host: 192.0.2.5}", "lb-01: {ansible_host: 192.0.2.5}, lb-02: {}")
    fleet = StatusFleet(tmp_path, text)
    at = fleet.balancer.place("gpu-01/ollama1")
    rows = [f'instance ["{at}",40,6,40,3000,80.5]', f'time ["{at}",50,19]', f'time ["{at}",70,1]', QUIET_TAIL]
    for name, flights in (("lb-01", 2), ("lb-02", 3)):
        fleet.hosts[name].answers |= {recent_log.TITLE: "\n".join(rows), in_flight.TITLE: f"{at} {flights}\nend\n"}
    found = status(fleet.request)
    row = next(row for row in found.rows if row.instance == "ollama1" and row.host == "gpu-01")
    assert (row.recent.requests, row.recent.failed, row.in_flight, row.per_second) == (80, 12, 5, 20.0)
    assert row.recent.quantile(0.95) == pytest.approx(0.001 * 1.1**50)
    assert row.recent.quantile(0.99) == pytest.approx(0.001 * 1.1**70)
    assert states(found) == {"gpu-01/ollama1": ["failing"]}
    assert why(found, "failing") == "12 of the last 80 requests failed"


QUIET_TAIL = "refused 7\nunserved 0\nunread 0\ncovered 300\nend\n"


def test_a_balancer_without_its_server_and_one_with_an_older_generation(fleet: StatusFleet) -> None:
    fleet.balancer.runs = False
    assert states(status(fleet.request)) == {"lb-01": ["down"]}
    fleet.balancer.runs = True
    loaded = fleet.balancer._read
    fleet.balancer._read = lambda: loaded().replace(b"loaded 000000000000", b"loaded 111111111111")  # type: ignore[method-assign]
    found = status(fleet.request)
    assert states(found) == {"lb-01": ["stale"]}
    assert "has not loaded generation 000000000000" in why(found, "stale")


@pytest.mark.parametrize(
    ("days", "state", "text"),
    [
        (60.5, "", ""),
        (12.5, "ends soon", "the certificate ends in 12 days"),
        (-1.5, "ended", "the certificate has ended"),
    ],
)
def test_the_end_of_the_certificate_on_the_balancer(fleet: StatusFleet, days: float, state: str, text: str) -> None:
    made = pki.issued("lb-01", days=days, begin=-90)
    fleet.balancer.config["tls.pem"] = made.pem
    fleet.now = pki.NOW.timestamp()
    found = status(fleet.request)
    assert states(found) == ({"lb-01": [state]} if state else {})
    assert found.balancers[0].days == math.floor(days)
    assert not state or text in why(found, state)


def test_a_file_that_is_no_certificate_has_no_end(fleet: StatusFleet) -> None:
    fleet.balancer.config["tls.pem"] = b"-----BEGIN CERTIFICATE-----\nnonsense\n"
    assert status(fleet.request).balancers[0].days is None


def test_all_instances_out_and_requests_without_an_instance(fleet: StatusFleet) -> None:
    names = [f"gpu-0{host}/ollama{number}" for host in (1, 2, 3) for number in (1, 2)]
    fleet.balancer.mark(drain={name: dataclasses.replace(DRAIN, label=name) for name in names})
    fleet.balancer.answers[recent_log.TITLE] = "refused 9\nunserved 9\nunread 0\ncovered 300\nend\n"
    found = status(fleet.request)
    assert states(found)["lb-01"] == ["down", "failing"]
    assert found.exit_code == 5


PAIR = """
all: {vars: {nginx: {accept_known_vulnerabilities: true}}}
gpu:
  hosts: {gpu-01: {ansible_host: 192.0.2.1}}
  vars: {ollama: {models: ["llama3.1:8b"], instances: [{gpus: [0]}, {gpus: [1]}]}}
balancer:
  hosts: {lb-01: {ansible_host: 10.0.0.5}, lb-02: {ansible_host: 10.0.0.6}}
  vars: {balancer: {vip: {address: 10.0.0.100}}}
"""


@pytest.mark.parametrize(
    ("holders", "expected"),
    [
        (("lb-01",), {}),
        ((), {"lb-01": ["no holder"], "lb-02": ["no holder"]}),
        (("lb-01", "lb-02"), {"lb-01": ["two holders"], "lb-02": ["two holders"]}),
    ],
)
def test_the_common_address_has_one_holder(
    tmp_path: Path, holders: tuple[str, ...], expected: dict[str, list[str]]
) -> None:
    fleet = StatusFleet(tmp_path, PAIR)
    for name in holders:
        fleet.hosts[name].answers[holder.TITLE] = "10.0.0.5/24\n10.0.0.100/32\nend\n"
    assert states(status(fleet.request)) == expected


def test_an_address_without_a_known_holder_is_no_finding_while_a_balancer_is_unreachable(tmp_path: Path) -> None:
    fleet = StatusFleet(tmp_path, PAIR)
    fleet.lost.add("lb-01")
    assert states(status(fleet.request)) == {"lb-01": ["unreachable"]}


HOSTILE = "\x1b[2J\x07\u202eevil\nsecond"


def test_hostile_words_of_hosts_reach_no_terminal(fleet: StatusFleet, capsys: pytest.CaptureFixture[str]) -> None:
    fleet.instances("gpu-01", models=[{**MODEL, "name": f"{HOSTILE}:x"}])
    fleet.instances("gpu-02", sees=HOSTILE.replace("\n", " "))
    fleet.hosts["gpu-03"].answers[glance.TITLE] = Answer(75, b"", HOSTILE.encode())
    fleet.hosts["gpu-03"].answers[card_load.TITLE] = load("GPU-1", used=HOSTILE.replace("\n", " "))
    fleet.balancer.answers[recent_log.TITLE] = f'instance ["{HOSTILE}",1,1,1,1,1]\n{QUIET_TAIL}'
    fleet.balancer.answers[in_flight.TITLE] = f"{HOSTILE}\nend\n"
    assert cli.execute(["status", *fleet.words, "--no-color"], Caller(fleet.setup)) in (3, 5)
    said = capsys.readouterr()
    text = said.out + said.err
    assert all(letter.isprintable() or letter == "\n" for letter in text), text
    assert all(line.strip() != "second" for line in text.splitlines())


@pytest.mark.parametrize("title", [glance.TITLE, card_load.TITLE, "read the journals", "read the lock"])
@pytest.mark.parametrize(
    "text", ["", "# end\n", "[1, {", "\x00\xff\n# containers\nnull\n# end", "# containers\n{}\n# end"]
)
def test_a_garbled_answer_of_a_gpu_host_is_no_bug(fleet: StatusFleet, title: str, text: str) -> None:
    fleet.hosts["gpu-01"].answers[title] = text
    assert status(fleet.request).exit_code in (0, 5)


@pytest.mark.parametrize("title", [recent_log.TITLE, in_flight.TITLE, "read nginx's configuration", holder.TITLE])
@pytest.mark.parametrize(
    "text", ["", "end\n", 'instance ["x"]\nend\n', "time [1,2,3]\nend", "instance {}\nend", "kind x"]
)
def test_a_garbled_answer_of_a_balancer_is_no_bug(tmp_path: Path, title: str, text: str) -> None:
    fleet = StatusFleet(tmp_path, PAIR)
    fleet.hosts["lb-01"].answers[title] = text
    assert status(fleet.request).exit_code in (0, 5)


def test_the_document(fleet: StatusFleet, capsys: pytest.CaptureFixture[str]) -> None:
    fleet.lost.add("gpu-03")
    fleet.instances("gpu-02", held=0)
    fleet.balancer.mark(drain={"gpu-01/ollama1": DRAIN})
    assert cli.execute(["status", *fleet.words, "--json"], Caller(fleet.setup)) == 4
    found = checked(capsys.readouterr().out)
    one, two, three, balancer = found["hosts"]
    assert [each["state"] for host in (one, two) for each in host["instances"]] == ["drained", "ok", "on cpu", "ok"]
    assert one["instances"][0]["drained"]["why"] == "a new driver"
    assert (two["instances"][0]["on_gpu"], two["instances"][0]["proof"]) == ("no", "0 MiB")
    assert (three["result"], three["instances"], three["findings"][0]["state"]) == ("unreachable", [], "unreachable")
    assert (balancer["balancer"]["generation"], balancer["balancer"]["state"]) == ("0" * 12, "ok")
    assert found["summary"]["states"] == {"unreachable": 1, "on cpu": 1, "drained": 1, "ok": 3}


def test_a_repetition_keeps_connections_and_the_last_row_of_a_host_that_goes_silent(fleet: StatusFleet) -> None:
    screens = watch(fleet.request, every=0.0, sleep=lambda seconds: None)
    first = next(found for found in screens if not any(row.state == "asking" for row in found.rows))
    assert first.is_well
    before = len(fleet.connections)
    fleet.lost.add("gpu-02")
    fleet.now = NOW + 60
    second = next(found for found in screens if any(row.state == "unreachable" for row in found.rows))
    (row,) = [row for row in second.rows if row.host == "gpu-02"]
    assert (row.state, row.age) == ("unreachable", 60.0)
    fleet.lost.clear()
    third = next(found for found in screens if found.is_well)
    assert {row.age for row in third.rows if row.host == "gpu-02"} == {0.0}
    screens.close()  # type: ignore[attr-defined]
    assert before == len(fleet.connections) == 4, "each host has one transport for all screens"
    assert all(host.closes for host in fleet.hosts.values())


def test_a_repetition_ends_on_ctrl_c_and_writes_no_escapes_into_a_pipe() -> None:
    path = Path("dead.yaml").resolve()  # below the folder of the test
    path.write_text(
        "all: {vars: {nginx: {accept_known_vulnerabilities: true}}}\n"
        "gpu: {hosts: {box: {ansible_host: 127.0.0.1, ansible_port: 1}}}\n"
    )
    words = [sys.executable, "-m", "provision", "status", "-w", "--every", "1s", "-i", str(path)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(8)]
        process.send_signal(2)
        out, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert sum("connection refused" in line for line in lines) >= 2
    assert "\x1b" not in "".join(lines) + out
    assert "Traceback" not in err


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_a_low_terminal_keeps_the_worst_rows_and_the_verdict(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LINES", "12")
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("NO_COLOR", "1")
    terminal = Terminal()
    with contextlib.redirect_stdout(terminal):
        report.refresh(status(sick(tmp_path).request))
    lines = terminal.getvalue().split("\n")
    assert lines[0].startswith("\x1b[H\x1b[JINSTANCE")
    assert len(lines) == 12, "eleven lines and the end of the last line"
    assert lines[1].split()[:2] == ["gpu-03", "unreachable"]
    assert "more lines: a larger screen, or --limit" in lines[8]
    assert lines[9].startswith("2 findings, the worst first")


def test_a_colour_repeats_the_word_of_the_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("FORCE_COLOR", "1")
    terminal = Terminal()
    with contextlib.redirect_stdout(terminal):
        report.show(status(sick(tmp_path).request), as_json=False)
    painted = dict(re.findall(r"\x1b\[(31|32|33)m([a-z ]+?) *\x1b\[0m", terminal.getvalue())[::-1])
    assert painted["31"] == "unreachable"
    assert painted["33"] == "drained"
    assert painted["32"] == "ok"


def test_a_wide_screen_has_more_columns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    terminal = Terminal()
    with contextlib.redirect_stdout(terminal):
        report.show(status(sick(tmp_path).request), as_json=False)
    head = terminal.getvalue().splitlines()[0]
    assert {"TEMP", "CTX", "AGE", "REQUESTS", "FAILED"} <= set(head.split())
    assert "54C" in terminal.getvalue()


def test_a_repetition_prints_no_document(fleet: StatusFleet, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.execute(["status", "-w", "--json", *fleet.words], Caller(fleet.setup)) == 2
    assert json.loads(capsys.readouterr().out)["error"]["message"].startswith("--watch does not go with --json")


def test_an_inventory_with_faults(tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text("gpu: {hosts: {box: {ollama: {instnaces: []}}}}\n")
    fleet = StatusFleet(tmp_path)
    with pytest.raises(InventoryError):
        status(type(fleet.request)(str(tmp_path / "bad.yaml"), setup=fleet.setup))


MEASURE = """
import re, sys
from pathlib import Path
from provision.actions.status import status
from provision.report import status as report
from tests.unit.status_fleet import StatusFleet
text = '''
all: {vars: {nginx: {accept_known_vulnerabilities: true}}}
gpu:
  hosts: {"gpu-[001:200]": {}}
  vars: {ollama: {models: ["llama3.1:8b"], instances: [{gpus: [0]}, {gpus: [1]}]}}
balancer: {hosts: {lb-01: {}}}
'''
fleet = StatusFleet(Path(sys.argv[1]), text)
found = status(fleet.request)
report.show(found, as_json=False)
assert len(found.rows) == 400 and {host.execs for host in fleet.hosts.values()} == {1}
# A new program begins with the ru_maxrss of the program that started it; VmHWM is the program's own.
print("MiB", int(re.search("VmHWM:[ \\t]+([0-9]+) kB", Path("/proc/self/status").read_text())[1]) // 1024)
"""


def test_two_hundred_hosts_take_less_than_300_mb(tmp_path: Path) -> None:
    root = Path(__file__).parents[2]
    words = [sys.executable, "-c", MEASURE, str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    done = subprocess.run(words, capture_output=True, text=True, check=False, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    assert int(done.stdout.splitlines()[-1].split()[1]) < 300
