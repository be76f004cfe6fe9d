"""Changes that an inventory goes through in its life: each leaves what it should, and no orphan."""

import pytest

from .conftest import Fleet

pytestmark = pytest.mark.lab


def containers(fleet: Fleet, host: str) -> dict[str, list[str]]:
    """Container -> the cards it sees."""
    names = fleet.ssh(host, "docker", "ps", "-a", "--format", "{{.Names}}").split()
    return {
        name: fleet.ssh(host, "docker", "exec", name, "nvidia-smi", "-L").split("UUID: ")[1:] for name in sorted(names)
    }


def cards(fleet: Fleet, host: str) -> list[str]:
    return [line.split("UUID: ")[1] for line in fleet.ssh(host, "nvidia-smi", "-L").splitlines()]


def instances(fleet: Fleet, host: str) -> list[dict]:
    return fleet.hosts("gpu")[host]["ollama"]["instances"]


def settled(fleet: Fleet) -> None:
    """Nothing is left to change, and everything is proved."""
    assert not any(fleet.changes().values())
    done = fleet.provision("verify", "--json")
    assert done.code == 0, done


def upstream(fleet: Fleet) -> list[str]:
    """host/instance of every server line."""
    text = fleet.ssh("lb-01", "cat", "/etc/provision/nginx/upstream.conf")
    return [line.split("#")[1].strip() for line in text.splitlines() if line.strip().startswith("server ")]


def started(fleet: Fleet, host: str, name: str) -> str:
    return fleet.ssh(host, "docker", "inspect", "-f", "{{.State.StartedAt}}", name)


def test_cards_moved_between_instances(scratch):
    one, two = instances(scratch, "gpu-01")
    one["gpus"], two["gpus"] = two["gpus"], one["gpus"]
    uuids = cards(scratch, "gpu-01")
    done = scratch.deploy()
    assert {"container:ollama1", "container:ollama2"} <= set(done.host("gpu-01")["changed"])
    assert done.host("gpu-02")["result"] == "ok"
    seen = containers(scratch, "gpu-01")
    assert [uuid in seen[name][0] for name, uuid in (("ollama1", uuids[1]), ("ollama2", uuids[0]))] == [True, True]
    settled(scratch)


def test_two_cards_in_one_instance(scratch):
    scratch.hosts("gpu")["gpu-02"]["ollama"]["instances"] = [{"gpus": [0, 1]}]
    scratch.deploy()
    assert {name: len(seen) for name, seen in containers(scratch, "gpu-02").items()} == {"ollama1": 2}
    assert upstream(scratch) == ["gpu-01/ollama1", "gpu-01/ollama2", "gpu-02/ollama1"]
    settled(scratch)


def test_an_instance_renamed_is_one_gone_and_one_new(scratch):
    before = started(scratch, "gpu-01", "ollama2")
    instances(scratch, "gpu-01")[0].update(name="chat", port=3001)
    scratch.deploy()
    assert list(containers(scratch, "gpu-01")) == ["chat", "ollama2"]
    assert started(scratch, "gpu-01", "ollama2") == before
    volumes = scratch.ssh("gpu-01", "docker", "volume", "ls", "-q").split()
    assert not [name for name in volumes if "ollama1" in name]
    assert "gpu-01/chat" in upstream(scratch)
    settled(scratch)


def test_a_changed_setting_recreates_just_that_container(scratch):
    before = started(scratch, "gpu-01", "ollama1")
    instances(scratch, "gpu-01")[1]["memory"] = "4g"
    done = scratch.deploy()
    assert "container:ollama1" not in done.host("gpu-01")["changed"]
    assert "container:ollama2" in done.host("gpu-01")["changed"]
    assert started(scratch, "gpu-01", "ollama1") == before
    assert scratch.ssh("gpu-01", "docker", "inspect", "-f", "{{.HostConfig.Memory}}", "ollama2").strip() == str(4 << 30)
    settled(scratch)


def test_models_come_and_go_and_those_pulled_by_hand_stay(scratch):
    port = f"{scratch.address('gpu-01')}:3001"
    scratch.ssh("gpu-01", "curl", "-sf", f"http://{port}/api/pull", "-d", '{"model": "qwen3:8b"}')
    scratch.vars["ollama"]["models"] = ["deepseek-r1:7b"]
    scratch.deploy()
    tags = scratch.ssh("gpu-01", "curl", "-sf", f"http://{port}/api/tags")
    assert ("deepseek-r1:7b" in tags, "deepseek-r1:1.5b" in tags, "qwen3:8b" in tags) == (True, False, True)
    settled(scratch)


def test_another_image_is_pulled_before_the_old_container_goes(scratch):
    scratch.vars["ollama"]["image"] = "ollama/ollama:0.33.0"
    changed = scratch.deploy("--limit", "gpu-01").host("gpu-01")["changed"]
    assert changed.index("image:ollama/ollama:0.33.0") < changed.index("container:ollama1")
    assert "0.33.0" in scratch.ssh("gpu-01", "curl", "-sf", f"http://{scratch.address('gpu-01')}:3001/api/version")
    del scratch.vars["ollama"]["image"]


def test_a_host_dropped_leaves_the_upstream(scratch):
    del scratch.hosts("gpu")["gpu-02"]
    done = scratch.deploy()
    assert done.host("lb-01")["changed"] == ["config:balancer"]
    assert upstream(scratch) == ["gpu-01/ollama1", "gpu-01/ollama2"]
    settled(scratch)


def test_a_host_that_leaves_its_groups_is_cleaned(scratch):
    scratch.data["all"]["children"]["retired"] = {"hosts": {"gpu-02": scratch.hosts("gpu").pop("gpu-02")}}
    del scratch.data["all"]["children"]["retired"]["hosts"]["gpu-02"]["ollama"]
    scratch.deploy()
    assert containers(scratch, "gpu-02") == {}
    left = scratch.ssh(
        "gpu-02", "sh", "-c", "ls -d /etc/provision/* /opt/provision/* /etc/systemd/system/provision-* 2>/dev/null || :"
    )
    assert left.strip() == ""
    settled(scratch)


def test_without_a_balancer_group_every_gpu_host_balances_over_its_own(scratch):
    retired = scratch.data["all"]["children"].pop("balancer")
    scratch.data["all"]["children"]["retired"] = retired
    scratch.deploy()
    assert "inactive" in scratch.ssh("lb-01", "sh", "-c", "systemctl is-active provision-nginx || :")
    left = scratch.ssh(
        "lb-01", "sh", "-c", "ls -d /etc/provision/* /opt/provision/* /etc/systemd/system/provision-* 2>/dev/null || :"
    )
    assert left.strip() == ""
    for host in ("gpu-01", "gpu-02"):
        text = scratch.ssh(host, "cat", "/etc/provision/nginx/upstream.conf")
        assert [f"127.0.0.1:{port}" in text for port in (3001, 3002)] == [True, True]
        assert "127.0.0.1:3001" in scratch.ssh(host, "docker", "port", "ollama1")
    settled(scratch)


def test_a_reboot_brings_everything_back_by_itself(scratch, lab):
    from .conftest import settle

    lab.host("gpu-01").shutdown()
    lab.host("gpu-01").start()
    lab.host("gpu-01").wait()
    settle(scratch)
    settled(scratch)
