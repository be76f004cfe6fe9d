"""Running instances are replaced without a client noticing; a failure meanwhile stops the roll."""

import json
import re
import signal
import subprocess
import sys
import threading
import time

import pytest
import yaml

from provision.lab import faults
from tests.bench.roll.load import Load

pytestmark = pytest.mark.lab
GPU = ("gpu-01", "gpu-02")
ALL = {f"{host}/ollama{number}" for host in GPU for number in (1, 2)}
KNOBS = "/etc/provision-lab/knobs.json"


@pytest.fixture(autouse=True)
def slow(fleet, lab):
    """Answers of two seconds."""
    for host in GPU:
        lab.host(host).write(KNOBS, json.dumps({"tokens_per_second": 20, "answer_tokens": 5000}))
    yield
    for host in GPU:
        lab.host(host).run(["rm", "-f", KNOBS])


def upstream(fleet) -> str:
    return fleet.on("lb-01", "cat", "/etc/provision/nginx/upstream.conf")


def down(fleet) -> set[str]:
    """The instances to which the balancer sends nothing."""
    return {line.rpartition("# ")[2] for line in upstream(fleet).splitlines() if " down;" in line}


def containers(lab) -> dict[str, str]:
    """Instance -> id of its container."""
    found = {}
    for host in GPU:
        said = lab.host(host).run(["docker", "ps", "--no-trunc", "--format", "{{.Names}} {{.ID}}"]).stdout
        found.update({f"{host}/{name}": number for name, number in map(str.split, said.splitlines())})
    return found


def replaced(before: dict[str, str], after: dict[str, str]) -> set[str]:
    return {name for name in before if before[name] != after.get(name)}


class Watch:
    """Records the most instances that the balancer had down at once."""

    def __init__(self, lab) -> None:
        self.most: set[str] = set()
        self._file = lab.host("lb-01").disk.root / "etc/provision/nginx"
        self._root = lab.host("lb-01").disk.root
        self._until = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._until.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._until.is_set():
            try:
                link = self._file.readlink()
                text = (self._root / str(link).lstrip("/") / "upstream.conf").read_text()
            except OSError:
                continue
            now = {line.rpartition("# ")[2] for line in text.splitlines() if " down;" in line}
            self.most = max(self.most, now, key=len)
            time.sleep(0.05)


def test_every_instance_is_replaced_and_back_and_nobody_notices(fleet, lab):
    """All instances are made anew, then the balancer's settings change, then everything goes back."""
    before = containers(lab)
    with Load(fleet.address("lb-01"), 3, 40, "roll") as load, Watch(lab) as watch:
        fleet.vars["ollama"]["log_max_file"] = 4
        done = fleet.deploy()
        middle = containers(lab)
        fleet.vars["balancer"] = {"retry_after": 7}
        fleet.deploy()
        del fleet.vars["balancer"], fleet.vars["ollama"]["log_max_file"]
        fleet.deploy()
    assert load.failed == []
    assert len(load.answers) > 10
    assert replaced(before, middle) == replaced(middle, containers(lab)) == ALL
    assert len(watch.most) == 1
    assert down(fleet) == set()
    assert {host: "container:ollama1" in done.host(host)["changed"] for host in GPU} == dict.fromkeys(GPU, True)
    assert not any(fleet.changes().values())


@pytest.mark.matrix
def test_ports_that_change_are_rolled_too(scratch, lab):
    """The balancers follow each instance to its new port, in turn."""
    with Load(scratch.address("lb-01"), 2, 20, "ports") as load, Watch(lab) as watch:
        for instance, port in zip(scratch.hosts("gpu")["gpu-01"]["ollama"]["instances"], (4001, 4002), strict=True):
            instance["port"] = port
        scratch.deploy()
    assert load.failed == []
    assert len(watch.most) == 1
    assert not any(scratch.changes().values())
    assert down(scratch) == set()


@pytest.mark.matrix
def test_no_more_instances_are_renamed_at_once_than_may_be_out(scratch, lab):
    """A renamed instance is out until the end of its run: the balancers learn its new name in the last wave."""
    before = containers(lab)
    instances = scratch.hosts("gpu")["gpu-02"]["ollama"]["instances"]
    instances[0]["name"], instances[1]["name"] = "chat", "code"
    said = (
        "this run would rename 2 instances of deepseek-r1:1.5b, and ollama.max_unavailable allows 1 of them to be out"
    )
    for command in (["plan"], ["deploy", "--yes"]):
        done = scratch.provision(*command, "--json")
        assert done.code == 3, done
        assert said in json.dumps(done.doc)
    assert containers(lab) == before
    del instances[1]["name"]
    with Load(scratch.address("lb-01"), 2, 20, "names") as load, Watch(lab) as watch:
        scratch.deploy()
        instances[1]["name"] = "code"
        scratch.deploy()
    assert load.failed == []
    assert len(watch.most) == 1
    assert not any(scratch.changes().values())
    assert containers(lab).keys() == {"gpu-01/ollama1", "gpu-01/ollama2", "gpu-02/chat", "gpu-02/code"}
    assert down(scratch) == set()
    volumes = lab.host("gpu-02").run(["docker", "volume", "ls", "-q"]).stdout.split()
    assert [name for name in volumes if "ollama" in name] == []


@pytest.mark.matrix
def test_cards_that_change_hands_are_one_outage(fleet, lab):
    instances = fleet.hosts("gpu")["gpu-01"]["ollama"]["instances"]
    with Load(fleet.address("lb-01"), 2, 20, "cards") as load, Watch(lab) as watch:
        for swap in ([[1], [0]], [[0], [1]]):
            for instance, cards in zip(instances, swap, strict=True):
                instance["gpus"] = cards
            fleet.deploy()
    assert load.failed == []
    assert watch.most == {"gpu-01/ollama1", "gpu-01/ollama2"}
    assert down(fleet) == set()


def test_an_instance_that_fails_its_test_stays_out_and_stops_the_roll(fleet, lab):
    before = containers(lab)
    for host in GPU:
        faults.switch(lab, f"{host}/ollama1", "stream-fails", on=True)
    fleet.vars["ollama"]["log_max_file"] = 4
    done = fleet.provision("deploy", "--yes", "--json")
    assert done.code == 7, done
    (bad,) = down(fleet)
    host, other = bad.partition("/")[0], next(host for host in GPU if not bad.startswith(host))
    assert bad.endswith("/ollama1")
    assert done.host(host)["result"] == "failed"
    assert done.host(host)["failed"]["step"] == "test:ollama1"
    assert "stays out of the upstream" in done.host(host)["why"]
    assert done.host(other)["result"] == "stopped"
    assert replaced(before, containers(lab)) == {bad}
    # Nothing else was to change, and the instance still does not come back without a test.
    del fleet.vars["ollama"]["log_max_file"]
    again = fleet.provision("deploy", "--yes", "--json")
    assert again.code in (3, 7), again
    assert down(fleet) == {bad}
    for name in GPU:
        faults.switch(lab, f"{name}/ollama1", "stream-fails", on=False)
    fleet.deploy()
    assert down(fleet) == set()
    assert not any(fleet.changes().values())


@pytest.mark.matrix
def test_no_instance_is_replaced_while_its_balancer_cannot_be_told(fleet, lab):
    before = containers(lab)
    fleet.vars["ollama"]["log_max_file"] = 4
    lab.cut("lb-01")
    try:
        done = fleet.provision("deploy", "--yes", "--json")
    finally:
        lab.uncut("lb-01")
    assert done.code == 3, done
    assert {host["host"]: host["result"] for host in done.doc["hosts"]} == {
        "gpu-01": "failed",
        "gpu-02": "failed",
        "lb-01": "unreachable",
    }
    assert "lb-01 cannot be reached, and may send to" in done.host("gpu-01")["why"]
    assert replaced(before, containers(lab)) == set()


@pytest.mark.matrix
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_ctrl_c_while_streams_are_waited_for_gives_the_instance_back(fleet, lab, tmp_path, number):
    before = containers(lab)
    fleet.vars["ollama"]["log_max_file"] = 4
    path = tmp_path / "interrupted.yaml"
    path.write_text(yaml.safe_dump(fleet.data))
    argv = [sys.executable, "-m", "provision", "deploy", "--yes", "-v", "-l", "gpu-01", "-i", str(path)]
    with Load(fleet.address("lb-01"), 4, 600, "interrupted") as load:
        time.sleep(1)
        process = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        waited = set()
        for line in process.stdout:
            # streams of the first instance that take so long
            if found := re.search(r"streams? of (.*) still run", line):
                process.send_signal(number)
                waited = set(found[1].split(", "))
                break
        said, _ = process.communicate(timeout=600)
    assert process.returncode == 130, said
    assert load.end()
    assert load.failed == []
    assert waited
    assert not waited & replaced(before, containers(lab)), said
    assert down(fleet) == set()
    del fleet.vars["ollama"]["log_max_file"]
    fleet.deploy()


@pytest.mark.matrix
def test_streams_that_do_not_end_in_time_are_cut_and_told_of(scratch, lab):
    scratch.vars["ollama"] |= {"log_max_file": 4, "drain_timeout": "1s"}
    # no stream ends by itself before its instance is out, however long the run takes to get there
    with Load(scratch.address("lb-01"), 4, 5000, "cut") as load:
        time.sleep(1)
        done = scratch.provision("deploy", "--yes", "--limit", "gpu-01")
        for host in GPU:
            lab.host(host).write(KNOBS, json.dumps({"tokens_per_second": 5000, "answer_tokens": 5000}))
    assert done.code == 0, done
    assert "streams through lb-01 are cut (after 1 s)" in done.err
    assert {answer.failure for answer in load.failed} == {"cut"}


@pytest.mark.matrix
def test_a_restart_of_docker_that_stops_containers_takes_the_host_out_for_it(fleet, lab):
    before = containers(lab)
    fleet.hosts("gpu")["gpu-02"]["docker"] = {"live_restore": False, "log_max_size": "51m"}
    with Load(fleet.address("lb-01"), 2, 20, "docker") as load, Watch(lab) as watch:
        done = fleet.deploy("--limit", "gpu-02")
    assert load.failed == []
    assert watch.most == {"gpu-02/ollama1", "gpu-02/ollama2"}
    assert "service:docker" in done.host("gpu-02")["changed"]
    assert replaced(before, containers(lab)) == set()
    assert down(fleet) == set()
    del fleet.hosts("gpu")["gpu-02"]["docker"]
    fleet.deploy("--limit", "gpu-02")
    assert not any(fleet.changes().values())


def test_every_instance_proves_its_cards_after_any_change_on_its_host(fleet, lab):
    """Also where the run is limited to another role."""
    fleet.on("gpu-01", "rm", "/opt/provision/lib/docker-notes")
    faults.switch(lab, "gpu-01", "gpu-lost", on=True)
    try:
        done = fleet.provision("deploy", "--yes", "--json", "--tags", "docker", "--limit", "gpu-01")
    finally:
        faults.switch(lab, "gpu-01", "gpu-lost", on=False)
    assert done.code == 3, done
    assert done.host("gpu-01")["changed"] == ["file:/opt/provision/lib/docker-notes"]
    assert "does not see its cards any more" in done.host("gpu-01")["why"]
    fleet.deploy()


@pytest.mark.matrix
def test_an_instance_left_out_by_an_earlier_run_counts_as_out_and_comes_back_when_well(scratch, lab):
    fleet = scratch
    before, bad = containers(lab), "gpu-01/ollama1"
    fleet.vars["ollama"]["log_max_file"] = 4
    faults.switch(lab, bad, "stream-fails", on=True)
    try:
        first = fleet.provision("deploy", "--yes", "--json", "--limit", "gpu-01")
        second = fleet.provision("deploy", "--yes", "--json", "--limit", "gpu-02")
    finally:
        faults.switch(lab, bad, "stream-fails", on=False)
    assert (first.code, second.code) == (7, 7)
    assert f"{bad} is out of the upstream already" in second.host("gpu-02")["why"]
    assert replaced(before, containers(lab)) == {bad}
    assert down(fleet) == {bad}
    # The instance proves itself when it is in the way, also in a run without the last wave.
    with Watch(lab) as watch:
        fleet.deploy("--tags", "ollama")
    assert replaced(before, containers(lab)) == ALL
    assert len(watch.most) == 1
    assert down(fleet) == set()
