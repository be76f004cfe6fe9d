"""Changes that an inventory goes through in its life: each leaves the right state, and no orphan.

Each test deploys its own change over the state that the test before left, and the last test goes all the way back: so
every change is also tested in reverse.
"""

import pytest

from .conftest import Fleet

pytestmark = pytest.mark.lab


def containers(fleet: Fleet, host: str) -> dict[str, list[str]]:
    """Container -> the cards that the container sees."""
    names = fleet.on(host, "docker", "ps", "-a", "--format", "{{.Names}}").split()
    return {
        name: fleet.on(host, "docker", "exec", name, "nvidia-smi", "-L").split("UUID: ")[1:] for name in sorted(names)
    }


def cards(fleet: Fleet, host: str) -> list[str]:
    return [line.split("UUID: ")[1] for line in fleet.on(host, "nvidia-smi", "-L").splitlines()]


def instances(fleet: Fleet, host: str) -> list[dict]:
    return fleet.hosts("gpu")[host]["ollama"]["instances"]


def settled(fleet: Fleet) -> None:
    """Plan has nothing to change."""
    assert not any(fleet.changes().values())


def ours(fleet: Fleet, host: str) -> str:
    """Our files on a host."""
    places = "/etc/provision/* /opt/provision/* /etc/systemd/system/provision-*"
    return fleet.on(host, "sh", "-c", f"ls -d {places} 2>/dev/null || :").strip()


def upstream(fleet: Fleet) -> list[str]:
    """host/instance of every server line."""
    text = fleet.on("lb-01", "cat", "/etc/provision/nginx/upstream.conf")
    return [line.split("#")[1].strip() for line in text.splitlines() if line.strip().startswith("server ")]


def started(fleet: Fleet, host: str, name: str) -> str:
    return fleet.on(host, "docker", "inspect", "-f", "{{.State.StartedAt}}", name)


def test_a_changed_setting_recreates_just_that_container(fleet):
    before = started(fleet, "gpu-01", "ollama1")
    instances(fleet, "gpu-01")[1]["memory"] = "4g"
    done = fleet.deploy()
    assert "container:ollama1" not in done.host("gpu-01")["changed"]
    assert "container:ollama2" in done.host("gpu-01")["changed"]
    assert started(fleet, "gpu-01", "ollama1") == before
    assert containers(fleet, "gpu-01").keys() == {"ollama1", "ollama2"}, "the old container is gone after the test"
    assert fleet.on("gpu-01", "docker", "inspect", "-f", "{{.HostConfig.Memory}}", "ollama2").strip() == str(4 << 30)
    settled(fleet)


def test_cards_moved_between_instances(fleet):
    one, two = instances(fleet, "gpu-01")
    one["gpus"], two["gpus"] = two["gpus"], one["gpus"]
    uuids = cards(fleet, "gpu-01")
    done = fleet.deploy()
    assert {"container:ollama1", "container:ollama2"} <= set(done.host("gpu-01")["changed"])
    assert done.host("gpu-02")["result"] == "ok"
    seen = containers(fleet, "gpu-01")
    assert [uuid in seen[name][0] for name, uuid in (("ollama1", uuids[1]), ("ollama2", uuids[0]))] == [True, True]
    settled(fleet)


def test_two_cards_in_one_instance(fleet):
    fleet.hosts("gpu")["gpu-02"]["ollama"]["instances"] = [{"gpus": [0, 1]}]
    fleet.deploy()
    assert {name: len(seen) for name, seen in containers(fleet, "gpu-02").items()} == {"ollama1": 2}
    assert upstream(fleet) == ["gpu-01/ollama1", "gpu-01/ollama2", "gpu-02/ollama1"]
    settled(fleet)


def test_models_come_and_go_and_those_pulled_by_hand_stay(fleet):
    fleet.deploy()
    port = f"{fleet.address('gpu-01')}:3001"
    fleet.on("gpu-01", "curl", "-sf", f"http://{port}/api/pull", "-d", '{"model": "qwen3:8b"}')
    fleet.vars["ollama"]["models"] = ["deepseek-r1:7b"]
    fleet.deploy()
    tags = fleet.on("gpu-01", "curl", "-sf", f"http://{port}/api/tags")
    assert ("deepseek-r1:7b" in tags, "deepseek-r1:1.5b" in tags, "qwen3:8b" in tags) == (True, False, True)
    settled(fleet)


def test_a_host_dropped_leaves_the_upstream(fleet):
    del fleet.hosts("gpu")["gpu-02"]
    done = fleet.deploy()
    assert done.host("lb-01")["changed"] == ["config:balancer"]
    assert upstream(fleet) == ["gpu-01/ollama1", "gpu-01/ollama2"]
    settled(fleet)


def test_a_host_that_leaves_its_groups_is_cleaned(fleet):
    fleet.data["all"]["children"]["retired"] = {"hosts": {"gpu-02": fleet.hosts("gpu").pop("gpu-02")}}
    del fleet.data["all"]["children"]["retired"]["hosts"]["gpu-02"]["ollama"]
    fleet.deploy()
    assert containers(fleet, "gpu-02") == {}
    left = fleet.on(
        "gpu-02", "sh", "-c", "ls -d /etc/provision/* /opt/provision/* /etc/systemd/system/provision-* 2>/dev/null || :"
    )
    assert left.strip() == ""
    settled(fleet)


@pytest.mark.matrix
def test_without_a_balancer_group_every_gpu_host_balances_over_its_own(fleet):
    retired = fleet.data["all"]["children"].pop("balancer")
    fleet.data["all"]["children"]["retired"] = retired
    fleet.deploy()
    assert "inactive" in fleet.on("lb-01", "sh", "-c", "systemctl is-active provision-nginx || :")
    ours = "/etc/provision/* /opt/provision/* /etc/systemd/system/provision-* /usr/local/sbin/nginx"
    assert fleet.on("lb-01", "sh", "-c", f"ls -d {ours} 2>/dev/null || :").strip() == ""
    for host in ("gpu-01", "gpu-02"):
        text = fleet.on(host, "cat", "/etc/provision/nginx/upstream.conf")
        assert [f"127.0.0.1:{port}" in text for port in (3001, 3002)] == [True, True]
        assert "127.0.0.1:3001" in fleet.on(host, "docker", "port", "ollama1")
    fleet.vars["balancer"] = {"queue": 30}
    said = fleet.provision("deploy", "--yes", "-v", "-t", "balancer").err.splitlines()
    order = [line.split()[:2] for line in said if " config:balancer " in line and " command " not in line]
    one, other = order[0][0], order[-1][0]
    assert order == [[one, "changing"], [one, "changed"], [other, "changing"], [other, "changed"]], "one at a time"
    settled(fleet)


def test_and_all_the_way_back(fleet):
    fleet.deploy()
    settled(fleet)
    assert sorted(containers(fleet, "gpu-02")) == ["ollama1", "ollama2"]
    assert len(upstream(fleet)) == 4
    done = fleet.provision("verify", "--json")
    assert done.code == 0, done
