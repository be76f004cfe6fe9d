"""A rollback undoes a run on real hosts, without a registry or a mirror, and lists the changes that must stay."""

import contextlib

import pytest

from provision.lab import faults, paths
from provision.steps.nginx import upstream
from tests import nginx_series
from tests.bench.roll.load import Load

from .conftest import Fleet

pytestmark = pytest.mark.lab
OTHER = "ollama/ollama:0.33.0"
DAEMON = "/etc/docker/daemon.json"
UPSTREAM = "/etc/provision/nginx/upstream.conf"
STORE = "/var/lib/provision/store"


def rollback(fleet: Fleet, *words: str, code: int = 0):
    done = fleet.provision("rollback", "--yes", "--json", *words)
    assert done.code == code, done
    return done


def settled(fleet: Fleet) -> None:
    assert not any(fleet.changes().values())


def inspect(fleet: Fleet, host: str, name: str, what: str) -> str:
    return fleet.on(host, "docker", "inspect", "-f", f"{{{{{what}}}}}", name).strip()


def sha256(fleet: Fleet, host: str, path: str) -> str:
    return fleet.on(host, "sha256sum", path)[:64]


def nginx(fleet: Fleet) -> str:
    """The program that runs as the balancer."""
    return fleet.on("lb-01", "sh", "-c", "readlink /proc/$(cat /run/provision-nginx/nginx.pid)/exe").strip()


@contextlib.contextmanager
def offline(lab):
    """Neither packages nor images can be fetched."""
    for name in ("web-down", "registry-down"):
        faults.switch(lab, "site", name, on=True)
    try:
        yield
    finally:
        for name in ("web-down", "registry-down"):
            faults.switch(lab, "site", name, on=False)


def test_an_image_there_and_back_without_a_registry(fleet, lab):
    fleet.vars["ollama"]["image"] = OTHER
    done = fleet.deploy("--limit", "gpu-01")
    run, changed = done.doc["run"], done.host("gpu-01")["changed"]
    assert changed.index(f"image:{OTHER}") < changed.index("container:ollama1"), "pulled before the old container goes"
    assert "0.33.0" in fleet.on("gpu-01", "curl", "-sf", f"http://{fleet.address('gpu-01')}:3001/api/version")
    before = inspect(fleet, "gpu-02", "ollama1", ".State.StartedAt")
    with offline(lab):
        planned = fleet.provision("rollback", "--check", "--json")
        assert planned.code == 0, planned
        assert planned.doc["of"] == run, "the last run that changed something"
        assert {one["step"] for one in planned.doc["left"]} <= {f"image:{OTHER}"}
        assert inspect(fleet, "gpu-01", "ollama1", ".Config.Image") == OTHER, "only planned"
        with Load(fleet.address("lb-01"), 3, 40, "back") as load:
            back = rollback(fleet)
        assert load.answers
        assert load.failed == [], "a rollback rolls like a deploy: no client notices"
        assert inspect(fleet, "gpu-01", "ollama1", ".Config.Image") != OTHER
        assert "container:ollama2" in back.host("gpu-01")["changed"]
    assert inspect(fleet, "gpu-02", "ollama1", ".State.StartedAt") == before, "the run never was there"
    del fleet.vars["ollama"]["image"]
    settled(fleet)
    assert fleet.provision("verify", "--json", "--limit", "gpu-01").code == 0


@pytest.mark.matrix
def test_settings_of_a_container_and_its_secret_file_are_what_they_were(fleet):
    one = fleet.hosts("gpu")["gpu-02"]["ollama"]["instances"][0]
    one.update(memory="4g", https_proxy="http://user:canary-of-proxy@proxy.test:3128")
    fleet.deploy("--limit", "gpu-02")
    assert inspect(fleet, "gpu-02", "ollama1", ".HostConfig.Memory") == str(4 << 30)
    one["https_proxy"] = "http://user:canary-of-another@proxy.test:3128"
    secret = "/etc/provision/ollama/ollama1.env"
    before = sha256(fleet, "gpu-02", secret)
    fleet.deploy("--limit", "gpu-02")
    assert sha256(fleet, "gpu-02", secret) != before
    done = rollback(fleet)
    assert "canary" not in done.out + done.err
    assert sha256(fleet, "gpu-02", secret) == before
    first = fleet.provision("history", "--json").doc["runs"][2]["run"]
    rollback(fleet, first)
    assert inspect(fleet, "gpu-02", "ollama1", ".HostConfig.Memory") == "0"
    assert fleet.on("gpu-02", "sh", "-c", f"ls {secret} 2>/dev/null || :") == ""
    del one["memory"], one["https_proxy"]
    settled(fleet)


def listed(fleet: Fleet, lab, name: str) -> dict[str, str]:
    return nginx_series.entry(paths.site(lab.spec.release), fleet.vars["nginx"]["url"], name)


def header(fleet: Fleet) -> str:
    """The header by which the running nginx names itself."""
    said = fleet.on("lb-01", "curl", "-sI", "http://127.0.0.1:3008/")
    return next(line.strip() for line in said.splitlines() if line.startswith("Server:"))


def test_a_patch_that_does_not_apply_is_named_and_the_running_nginx_stays(fleet, lab):
    before = nginx(fleet), header(fleet)
    fleet.vars["nginx"]["patches"] = [listed(fleet, lab, nginx_series.WRONG)]
    failed = fleet.provision("deploy", "--yes", "--limit", "lb-01")
    assert failed.code == 3, failed
    words = (
        f"nginx/{nginx_series.WRONG} does not apply to the source of nginx: src/http/ngx_http_header_filter_module.c"
    )
    assert words in failed.err + failed.out
    assert "Hunk #1 FAILED at 46" in failed.err + failed.out
    assert (nginx(fleet), header(fleet)) == before
    del fleet.vars["nginx"]["patches"]
    settled(fleet)


@pytest.mark.matrix
def test_a_patched_nginx_goes_back_to_the_build_before_and_forth_again_without_compiling(fleet, lab):
    before = nginx(fleet)
    fleet.vars["nginx"]["patches"] = [listed(fleet, lab, nginx_series.SERIES)]
    planned = fleet.provision("plan", "--limit", "lb-01").out
    assert "compiles nginx 1.26.3 with patches" in planned
    run = fleet.deploy("--limit", "lb-01").doc["run"]
    after = nginx(fleet)
    assert after != before
    assert header(fleet) == nginx_series.HEADER
    settled(fleet)
    stamp = f"{after.removesuffix('/sbin/nginx')}/.provision"
    kept = fleet.on("lb-01", "sed", "-i.kept", "/^patch /d", stamp)
    assert fleet.changes("--limit", "lb-01")["lb-01"][0] == "build:nginx", kept
    damaged = fleet.provision("verify", "--limit", "lb-01", "--tags", "nginx")
    assert (damaged.code, "built with other patches" in damaged.out) == (5, True)
    fleet.on("lb-01", "mv", f"{stamp}.kept", stamp)
    assert "is built with nginx.patches" in fleet.provision("verify", "--limit", "lb-01", "--tags", "nginx").err
    with offline(lab):
        back = rollback(fleet)
        assert (nginx(fleet), header(fleet)) == (before, "Server: nginx")
        assert {one["step"] for one in back.doc["left"]} >= {"build:nginx"}
        rollback(fleet, back.doc["run"])
        assert (nginx(fleet), header(fleet)) == (after, nginx_series.HEADER)
        rollback(fleet, run)
    assert nginx(fleet) == before
    del fleet.vars["nginx"]["patches"]
    settled(fleet)


def test_a_configuration_goes_back_and_what_was_drained_meanwhile_stays_out(fleet):
    one = fleet.hosts("gpu")["gpu-01"]["ollama"]["instances"][0]
    one["weight"] = 9
    fleet.vars["balancer"] = {"status_port": 9080}  # the inventory keeps this setting
    fleet.deploy()
    assert fleet.provision("drain", "gpu-02/ollama2", "-m", "a new card").code == 0
    assert "weight=9 " in fleet.on("lb-01", "cat", UPSTREAM)
    done = rollback(fleet)
    assert done.host("lb-01")["changed"] == ["config:balancer"], "a rollback leaves the drain alone"
    text = fleet.on("lb-01", "cat", UPSTREAM)
    assert "weight=9 " not in text
    linked = fleet.on("lb-01", "readlink", "/etc/provision/nginx").strip()
    assert fleet.on("lb-01", "curl", "-sf", "http://127.0.0.1:8080/generation") == linked.rpartition("/")[2]
    assert [line.split("# ")[-1] for line in text.splitlines() if " down;" in line] == ["gpu-02/ollama2"]
    assert "a new card" in text
    drained = fleet.provision("history", "--json").doc["runs"][1]
    assert drained["command"].startswith("drain")
    refused = fleet.provision("rollback", "--yes", drained["run"])
    assert refused.code == 2, refused
    assert "undrain" in refused.err
    assert fleet.provision("undrain", "gpu-02/ollama2").code == 0
    del one["weight"], fleet.vars["balancer"]
    settled(fleet)


@pytest.mark.matrix
def test_an_unreachable_host_is_reported_and_restored_later(fleet, lab):
    before = {host: sha256(fleet, host, DAEMON) for host in ("gpu-01", "gpu-02")}
    fleet.vars.setdefault("docker", {})["log_max_file"] = 5
    moved = fleet.hosts("gpu")["gpu-02"]["ollama"]["instances"][0]
    moved["port"] = 4001
    run = fleet.deploy().doc["run"]
    assert all(sha256(fleet, host, DAEMON) != before[host] for host in before)
    faults.switch(lab, "gpu-02", "ssh-reset", on=True)
    done = fleet.provision("rollback", run, "--yes")
    faults.switch(lab, "gpu-02", "ssh-reset", on=False)
    assert done.code == 4, done
    assert "UNREACHABLE" in done.out
    assert upstream.members(fleet.on("lb-01", "cat", UPSTREAM))["gpu-02/ollama1"].port == 4001, (
        "the instance serves there"
    )
    assert f"rollback {run}" in done.out
    assert "-l gpu-02" in done.out
    assert sha256(fleet, "gpu-01", DAEMON) == before["gpu-01"]
    assert "log_max_file" not in done.err
    rollback(fleet, run, "--limit", "gpu-02")
    assert sha256(fleet, "gpu-02", DAEMON) == before["gpu-02"]
    assert upstream.members(fleet.on("lb-01", "cat", UPSTREAM))["gpu-02/ollama1"].port == 3001
    del fleet.vars["docker"]["log_max_file"], moved["port"]
    settled(fleet)
    assert rollback(fleet, run).doc["summary"]["changed"] == 0, "an unchanged step is not touched"


@pytest.mark.matrix
def test_models_stay_as_they_are_until_the_next_deploy(fleet):
    at = f"http://{fleet.address('gpu-01')}:3001/api/tags"
    one = fleet.hosts("gpu")["gpu-01"]["ollama"]["instances"][0]
    one["models"] = ["deepseek-r1:1.5b", "deepseek-r1:7b"]
    fleet.deploy("--limit", "gpu-01", "--tags", "ollama,models")
    done = rollback(fleet)
    left = {each["step"]: each["why"] for each in done.doc["left"]}
    assert "the next deploy deletes deepseek-r1:7b unless it is declared" in left["model:ollama1/deepseek-r1:7b"]
    assert "deepseek-r1:7b" in fleet.on("gpu-01", "curl", "-sf", at)
    one["models"] = ["deepseek-r1:7b"]
    fleet.deploy("--limit", "gpu-01", "--tags", "ollama,models")
    done = rollback(fleet)
    left = {one["step"]: one["why"] for one in done.doc["left"]}
    assert "must be pulled again" in left["model:ollama1/deepseek-r1:1.5b"]
    assert "deepseek-r1:7b" in fleet.on("gpu-01", "curl", "-sf", at), "and the instance goes on to serve it"
    del one["models"]
    fleet.deploy()
    assert "deepseek-r1:7b" not in fleet.on("gpu-01", "curl", "-sf", at), "nobody declares it"
    settled(fleet)


@pytest.mark.matrix
def test_an_instance_that_was_taken_away_comes_back_and_goes_again(fleet):
    whole = fleet.hosts("gpu")["gpu-02"]["ollama"]["instances"]
    fleet.hosts("gpu")["gpu-02"]["ollama"]["instances"] = whole[:1]
    fleet.deploy()
    back = rollback(fleet)
    assert {one["step"] for one in back.doc["left"]} == {"model:ollama2/deepseek-r1:1.5b"}
    assert inspect(fleet, "gpu-02", "ollama2", ".State.Status") == "running"
    mark = fleet.on("gpu-02", "docker", "volume", "inspect", "-f", "{{json .Labels}}", "ollama2")
    assert "provision.managed" in mark
    assert " down; # gpu-02/ollama2" in fleet.on("lb-01", "cat", UPSTREAM), "the instance has no model"
    again = rollback(fleet)
    assert again.doc["of"] == back.doc["run"], "a rollback is a run like any other"
    assert "ollama2" not in fleet.on("gpu-02", "docker", "ps", "-a", "--format", "{{.Names}}")
    assert "# gpu-02/ollama2" not in fleet.on("lb-01", "cat", UPSTREAM)
    settled(fleet)
    fleet.hosts("gpu")["gpu-02"]["ollama"]["instances"] = whole
    fleet.deploy()
    settled(fleet)


def test_lost_parts_are_listed_and_the_rest_is_restored(fleet, lab):
    one = fleet.hosts("gpu")["gpu-01"]["ollama"]["instances"][0]
    one["weight"] = 4
    run = fleet.deploy().doc["run"]
    lab.host("lb-01").run(["sh", "-c", f"mv {STORE} {STORE}.away; mkdir -m 0700 {STORE}"])
    done = rollback(fleet, run)
    assert [entry["step"] for entry in done.doc["left"]] == ["config:balancer"]
    assert "not kept" in done.doc["left"][0]["why"]
    assert done.doc["summary"]["changed"] == 0
    lab.host("lb-01").run(["sh", "-c", f"rm -rf {STORE}; mv {STORE}.away {STORE}"])
    rollback(fleet, run)
    del one["weight"]
    settled(fleet)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("20200101T000000Z-0000",), "knows a run"),
        (("nonsense",), "is not the id of a run"),
        (("../../../etc/passwd",), "is not the id of a run"),
    ],
)
def test_a_run_that_nobody_knows_changes_nothing(fleet, words, said):
    done = fleet.provision("rollback", "--yes", *words)
    assert done.code == 2, done
    assert said in done.err


def test_a_rollback_without_a_terminal_does_not_ask(fleet):
    done = fleet.provision("rollback")
    assert done.code == 2, done
    assert "--yes" in done.err
