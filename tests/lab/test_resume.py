"""The controller is killed with SIGKILL, in a long job and in a short step: no run waits, nothing is done twice."""

import signal
import subprocess
import sys

import pytest
import yaml

from .conftest import DEPLOYED, Fleet, at_work, settle, wait_for

pytestmark = pytest.mark.lab
KNOBS = "/etc/provision-lab/knobs.json"
JOBS = "/run/provision/jobs"
LOADED = "resident:ollama1"
TWO = (("gpu-02", "ollama1"), ("gpu-02", "ollama2"))


class Running:
    """A deploy of gpu-01 that a test watches and kills.

    Args:
        fleet: the fleet.
        words: further words for `deploy`.
    """

    def __init__(self, fleet: Fleet, *words: str) -> None:
        path = fleet.folder / "inventory.yaml"
        path.write_text(yaml.safe_dump(fleet.data))
        argv = [sys.executable, "-m", "provision", "deploy", "--yes", "-v", "-i", str(path), *words]
        self.process = subprocess.Popen(
            argv,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=fleet.environment,
            stdin=subprocess.DEVNULL,
        )

    def until(self, word: str) -> None:
        """Read the output up to a word."""
        for line in self.process.stdout:
            if word in line:
                return
        pytest.fail(f"the run ended before its output had {word!r}")

    def kill(self) -> None:
        """Kill the deploy as the kernel does when memory is short."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def end(self) -> str:
        """Wait for the end of the deploy, and return the rest of its output."""
        output, _ = self.process.communicate(timeout=600)
        assert self.process.returncode == 0, output
        return output


@pytest.fixture
def loading(fleet, lab):
    """gpu-01 takes longer to load its models than any test, until `loaded`."""
    lab.host("gpu-01").write(KNOBS, '{"load_seconds": 3600}')
    yield fleet
    loaded(fleet)
    fleet.deploy()


def loaded(fleet):
    """gpu-01 takes no time to load its models from now on; a load that is under way ends."""
    fleet.on("gpu-01", "rm", "-f", KNOBS)


@pytest.fixture
def slow(loading):
    """gpu-01 has to make ollama1 anew, too."""
    loading.on("gpu-01", "docker", "rm", "-f", "ollama1")
    return loading


def jobs(fleet):
    """Process ids of the jobs of gpu-01."""
    return fleet.on("gpu-01", "sh", "-c", f"cat {JOBS}/*/pid 2>/dev/null || :").split()


def upstream(fleet):
    return fleet.on("lb-01", "cat", "/etc/provision/nginx/upstream.conf").splitlines()


def audit(fleet, run):
    """The lines of a run in the log of gpu-01."""
    lines = fleet.on("gpu-01", "journalctl", "-q", "-t", "provision", "-o", "cat").splitlines()
    return [line.partition(": ")[2] for line in lines if line.startswith(f"run {run} by ")]


def newest(fleet):
    return fleet.provision("history", "--json", "--limit", "gpu-01").doc["runs"][0]


def test_killed_in_a_long_job_the_next_deploy_attaches_to_it_at_once(slow):
    first = Running(slow, "-l", "gpu-01")
    first.until("changing  resident:ollama1")
    wait_for(lambda: jobs(slow))
    first.kill()
    [job] = jobs(slow)
    left = newest(slow)
    assert [(host["result"], host["step"]) for host in left["hosts"]] == [("unfinished", LOADED)], "the run is dead"
    again = Running(slow, "-l", "gpu-01")
    again.until("changing  resident:ollama1")
    assert jobs(slow) == [job], "a second load was begun"
    loaded(slow)
    assert "changed   resident:ollama1" in again.end()
    assert [entry["run"] for entry in slow.provision("history", "--json", "-l", "gpu-01").doc["runs"]][1] == left["run"]
    assert [one["result"] for one in newest(slow)["hosts"]] == ["changed"]


@pytest.mark.matrix
def test_killed_in_a_short_step_it_is_resumed_by_its_id_on_its_hosts_alone(slow):
    first = Running(slow, "--limit", "gpu-01", "--tags", "ollama,models")
    first.until("changing  container:ollama1")
    at_work(slow, "container:ollama1")
    first.kill()
    loaded(slow)
    left = newest(slow)
    assert [(one["result"], one["step"]) for one in left["hosts"]] == [("unfinished", "container:ollama1")]
    [change] = [
        one
        for one in slow.provision("show", left["run"], "--json").host("gpu-01")["changes"]
        if one["step"] == "container:ollama1"
    ]
    assert change["result"] == "unfinished"
    assert audit(slow, left["run"]) == ["deploy, begins"]
    refused = slow.provision("deploy", "--yes", "--resume", left["run"], "--limit", "gpu-02")
    assert refused.code == 2, refused
    assert "leave out --limit" in refused.err
    done = slow.provision("deploy", "--yes", "--json", "--resume", left["run"])
    assert done.code == 0, done
    assert done.doc["run"] == left["run"]
    assert [host["host"] for host in done.doc["hosts"]] == ["gpu-01"], "--limit and --tags of that run"
    assert (newest(slow)["run"], newest(slow)["hosts"][0]["result"]) == (left["run"], "changed")
    *_, begins, ended = audit(slow, left["run"])
    assert (begins, ended.rpartition(", ")[2]) == ("deploy, begins", "changed")
    over = slow.provision("deploy", "--yes", "--resume", left["run"])
    assert over.code == 2, over
    assert "nothing to resume" in over.err


@pytest.mark.matrix
def test_killed_before_the_balancers_learn_of_a_renamed_instance_the_next_run_tells_them(loading, lab):
    """The old instance is still in the upstream, and counts as out until the last wave lists the new instance."""
    instance = loading.hosts("gpu")["gpu-01"]["ollama"]["instances"][0]
    instance["name"] = "chat"
    first = Running(loading, "-l", "gpu-01")
    first.until("changing  resident:chat")
    first.kill()
    loaded(loading)
    lines = upstream(loading)
    assert [line for line in lines if "gpu-01/ollama1" in line and " down;" in line]
    assert not [line for line in lines if "gpu-01/chat" in line]
    loading.hosts("gpu")["gpu-02"]["ollama"]["log_max_file"] = 4
    done = loading.provision("deploy", "--yes", "--json")
    assert done.code == 7, done
    assert "gpu-01/ollama1 is out of the upstream already" in done.host("gpu-02")["why"]
    assert not [line for line in upstream(loading) if "gpu-01/ollama1" in line]
    done = loading.deploy()
    assert "container:ollama1" in done.host("gpu-02")["changed"]
    lines = upstream(loading)
    assert {line.rpartition("# ")[2] for line in lines if line.strip().startswith("server ")} == {
        f"{host}/{name}" for host, name in (("gpu-01", "chat"), ("gpu-01", "ollama2"), *TWO)
    }
    assert not [line for line in lines if " down;" in line]
    lab.restore(label=DEPLOYED)
    settle(loading)


@pytest.mark.matrix
def test_from_another_machine_a_dead_run_is_waited_for_or_its_lock_taken_away_and_then_resumed(slow, tmp_path):
    first = Running(slow, "-l", "gpu-01")
    first.until("changing  resident:ollama1")
    first.kill()
    loaded(slow)
    run = newest(slow)["run"]
    another = {"XDG_STATE_HOME": str(tmp_path / "another")}
    refused = slow.provision("deploy", "--yes", "--json", "-l", "gpu-01", env=another)
    assert refused.code == 6, refused
    assert run in refused.host("gpu-01")["why"]
    resume = ("deploy", "--yes", "--json", "-l", "gpu-01", "--resume", run)
    joined = slow.provision(*resume, env=another)
    assert joined.code == 6, "another machine cannot tell that the run is dead"
    assert slow.provision("lock", "release", "--force", "-l", "gpu-01", env=another).code == 0
    done = slow.provision(*resume, env=another)
    assert done.code == 0, done
    assert done.doc["run"] == run
    unknown = slow.provision("deploy", "--yes", "--resume", "20200101T000000Z-0000", env=another)
    assert unknown.code == 2, unknown
    assert "know a run" in unknown.err
