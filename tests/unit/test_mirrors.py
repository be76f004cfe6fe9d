"""The section `mirrors`: which address wins, the presets, refused values, logins, and the list of all addresses."""

import subprocess
from pathlib import Path

import pytest

from provision.apply import diagnostics, mirror_advice
from provision.command import Answer, Put
from provision.errors import InventoryError
from provision.inventory import Inventory, Mask, Secret, masked
from provision.inventory.direct import LOOPBACK, without_proxy
from provision.inventory.mirrors import MirrorUrl
from provision.plan import mirrored, role_interface
from provision.plan.planner import make_change
from provision.roles import docker, mirrors
from provision.steps.docker.image_room import LOGINS
from provision.steps.system import file_scan
from provision.steps.system.file import OwnedFiles
from provision.steps.system.mirror_login import APT_LOGIN, LOGIN, NETRC
from tests.unit.test_hostile import FACTS

LOGGED_IN = "https://bot:p%40ss-canary@nexus.test:8443/docker"
FLEET = """
all:
  vars:
    mirrors: {MIRRORS}
    nginx: {accept_known_vulnerabilities: true}
    docker: {DOCKER}
    ollama: {models: [deepseek-r1:1.5b], image: "ollama/ollama:0.34.4"}
  children:
    gpu: {hosts: {gpu-01: {ansible_host: 10.0.0.11, ollama: {instances: [{gpus: [0]}]}}}}
    balancer: {hosts: {lb-01: {ansible_host: 10.0.0.5}}}
"""
TUNA = "https://mirrors.tuna.tsinghua.edu.cn/docker-ce"


@pytest.fixture
def load(tmp_path: Path):
    """A function that reads the inventory of these tests with a section `mirrors`."""

    def read(mirrors: str, docker: str = "{}", words: tuple[str, ...] = ()) -> Inventory:
        path = tmp_path / "inventory.yaml"
        path.write_text(FLEET.replace("{MIRRORS}", mirrors).replace("{DOCKER}", docker))
        return role_interface.load(str(path), words)

    return read


def settings(inventory: Inventory, role: str, host: str = "gpu-01"):
    return inventory.host(host).settings[role]


def steps(inventory: Inventory, host: str = "gpu-01") -> dict:
    return {entry.step.id: entry.step for entry in role_interface.steps(inventory.host(host), inventory)}


@pytest.mark.parametrize("mirrors", ["china", "{preset: china}"])
def test_a_preset_gives_every_address_that_the_inventory_leaves_unset(load, mirrors):
    inventory = load(mirrors)
    assert settings(inventory, "docker").repository == TUNA
    assert settings(inventory, "docker").registry_mirrors == ("https://docker.m.daocloud.io",)
    assert settings(inventory, "nvidia_toolkit").repository == "https://mirrors.ustc.edu.cn/libnvidia-container"
    assert settings(inventory, "nginx", "lb-01").url == "", "the preset has no mirror of nginx"


def test_the_command_line_takes_the_short_form_too(load):
    assert settings(load("none", words=("mirrors=china",)), "docker").repository == TUNA
    assert settings(load("china", words=("mirrors=none",)), "docker").repository == "https://download.docker.com"


def test_a_key_wins_over_the_preset_and_a_setting_of_the_role_wins_over_both(load):
    inventory = load('{preset: china, docker: "http://m.test/docker/", nvidia_toolkit: "", images: []}')
    assert settings(inventory, "docker").repository == "http://m.test/docker"
    assert settings(inventory, "docker").registry_mirrors == ()
    assert settings(inventory, "nvidia_toolkit").repository == "https://nvidia.github.io/libnvidia-container"
    inventory = load("china", docker='{repository: "http://own.test", registry_mirrors: []}')
    assert settings(inventory, "docker").repository == "http://own.test"
    assert settings(inventory, "docker").registry_mirrors == ()


def test_the_tarball_of_nginx_comes_from_the_mirror(load):
    inventory = load('{nginx: "http://m.test/nginx/"}')
    assert settings(inventory, "nginx", "lb-01").built(njs=False).url == "http://m.test/nginx/nginx-1.26.3.tar.gz"


def test_a_host_mixes_its_own_mirrors_with_those_of_its_group(load, tmp_path):
    (tmp_path / "host_vars").mkdir()
    (tmp_path / "host_vars" / "gpu-01.yml").write_text('mirrors: {docker: "http://near.test"}\n')
    inventory = load("china")
    assert settings(inventory, "docker").repository == "http://near.test"
    assert settings(inventory, "docker").registry_mirrors == ("https://docker.m.daocloud.io",)


def test_two_addresses_of_ipv6_are_two_machines_with_a_login_each(load):
    load('{docker: "http://a:canary@[fd00::1]/d", nvidia_toolkit: "http://b:canary@[fd00::2]/n"}')


@pytest.mark.parametrize(
    ("mirrors", "path", "words"),
    [
        ("atlantis", "all.vars.mirrors", "must be one of 'none' or 'china'"),
        ("{preset: chima}", "all.vars.mirrors.preset", "did you mean china"),
        ("{doker: x}", "all.vars.mirrors.doker", "did you mean docker"),
        ('{docker: "m.test"}', "all.vars.mirrors.docker", "must be an http:// or https:// URL"),
        ('{docker: "http://m.test?canary=1"}', "all.vars.mirrors.docker", "must be an http:// or https:// URL"),
        ('{docker: "http://user@m.test"}', "all.vars.mirrors.docker", "must be an http:// or https:// URL"),
        ('{docker: "http://u:canary%20x@m.test"}', "all.vars.mirrors.docker", "must be an http:// or https:// URL"),
        ('{docker: "http://u:canary%zz@m.test"}', "all.vars.mirrors.docker", "must be an http:// or https:// URL"),
        ('{docker: "http://u:can%23ary@m.test"}', "all.vars.mirrors.docker", "must be an http:// or https:// URL"),
        ('{images: ["http://u:canary@m.test"]}', "all.vars.mirrors.images[0]", "without user, password"),
        ('{nginx: "http://u:canary@m.test"}', "all.vars.mirrors.nginx", "without user, password"),
        ("[china]", "all.vars.mirrors", "must be a mapping"),
        (
            '{docker: "http://a:canary@M.test/d", nvidia_toolkit: "http://b:canary@m.test/n"}',
            "all.vars.mirrors.nvidia_toolkit",
            "has another login",
        ),
    ],
)
def test_a_wrong_mirror_is_refused_with_its_key_and_without_a_password(load, mirrors, path, words):
    with pytest.raises(InventoryError) as refused:
        load(mirrors)
    assert [problem.path for problem in refused.value.problems] == [path]
    assert words in str(refused.value.problems[0])


def test_two_logins_at_one_host_are_refused(load):
    with pytest.raises(InventoryError) as refused:
        load('{docker: "https://a:b@m.test/d", nvidia_toolkit: "https://a:c@m.test:8443/n"}')
    assert [problem.path for problem in refused.value.problems] == ["all.vars.mirrors.nvidia_toolkit"]
    assert load('{docker: "https://a:b@m.test/d", nvidia_toolkit: "https://a:b@m.test:8443/n"}')


def test_a_url_shows_no_login_and_a_mask_hides_all_of_its_forms():
    url = MirrorUrl(LOGGED_IN)
    assert url.address == "https://nexus.test:8443/docker"
    assert url.login == ("bot", "p@ss-canary")
    for shown in (str(url), repr(url), f"{url}"):
        assert shown == "https://[secret]@nexus.test:8443/docker"
    hide = Mask([url])
    for said in (LOGGED_IN, "p%40ss-canary", "p@ss-canary"):
        assert "canary" not in hide(said)


def test_a_login_is_in_two_files_for_root_alone_and_nowhere_else(load, monkeypatch):
    monkeypatch.setenv("MIRROR", LOGGED_IN)
    inventory = load("{docker: !env MIRROR}")
    host = inventory.host("gpu-01")
    found = steps(inventory)
    apt, curl = (found[f"mirror_login:{path}"] for path in (APT_LOGIN, LOGIN))
    assert apt.content == b"machine https://nexus.test:8443/docker login bot password p@ss-canary\n"
    assert curl.content == b"machine nexus.test login bot password p@ss-canary\n"
    for step in (apt, curl):
        change = make_change(role_interface.Entry("mirrors", step), None, step.want(FACTS, None))
        assert [command.mode for command in change.commands if isinstance(command, Put)] == [0o600]
        shown = f"{step} {change.diff} {change.reason} {[str(command) for command in change.commands]}"
        assert "canary" not in shown
        assert "login for https://nexus.test:8443/docker" in change.diff
    others = [repr(step) for step_id, step in found.items() if not step_id.startswith("mirror_login:")]
    assert "canary" not in "".join(others) + str(masked.show(inventory)) + repr(host.settings)
    assert Secret(LOGGED_IN).reveal() in {secret.reveal() for secret in host.secrets()}
    assert not [step_id for step_id in steps(inventory, "lb-01") if "mirror_login" in step_id]


def test_without_a_login_there_is_no_file(load):
    assert not [step_id for step_id in steps(load("china")) if "mirror_login" in step_id]


def test_files_of_logins_are_found_when_the_keys_go():
    records = [f"{path}\x00f\x00600\x00root:root\x00\x00sum\n\n" for path in (APT_LOGIN, LOGIN, LOGINS)]
    listing = "".join(records).encode()
    sums = "".join(f"{'0' * 64}  {path}\n" for path in (APT_LOGIN, LOGIN, LOGINS)).encode()
    answer = Answer(0, listing + b"=sums 3\n" + sums)
    found = {step_id for role in (mirrors, docker) for finder in role.OWNED for step_id in _found(finder, answer)}
    assert found == {f"mirror_login:{APT_LOGIN}", f"mirror_login:{LOGIN}", f"registry_login:{LOGINS}"}
    assert all(map(file_scan.is_covered, (APT_LOGIN, LOGIN, LOGINS)))


def _found(finder, answer) -> list[str]:
    return list(finder.fact().parse(answer)) if isinstance(finder, OwnedFiles) else []


def test_a_mirror_that_is_a_host_of_the_inventory_is_asked_without_the_proxy(load):
    inventory = load('{docker: "http://a:b@10.0.0.5:81/docker", model_registry: "lb-01:5001"}')
    direct = without_proxy(inventory.host("gpu-01"), inventory)
    assert {"10.0.0.5", "lb-01"} <= set(direct)
    assert without_proxy(load("china").host("gpu-01"), inventory) == LOOPBACK


def test_curl_is_told_of_the_file_only_where_the_file_is(tmp_path):
    file = tmp_path / "netrc"

    def said() -> str:
        script = NETRC.replace(LOGIN, str(file)) + 'echo "$netrc"'
        return subprocess.run(["sh", "-euc", script], capture_output=True, text=True, check=True).stdout.strip()

    assert said() == ""
    file.write_text("machine m.test login a password b\n")
    assert said() == f"--netrc-optional --netrc-file {file}"


def test_all_addresses_are_in_one_list_with_their_keys(load):
    inventory = load('{preset: china, nginx: "http://m.test/nginx"}')
    gpu = mirrored.outside(inventory.host("gpu-01"), inventory)
    assert [(found.address, found.purpose, found.key) for found in gpu[:3]] == [
        (TUNA, "packages", "mirrors.docker"),
        ("https://docker.m.daocloud.io", "images", "mirrors.images[0]"),
        ("https://registry-1.docker.io", "images", "ollama.image"),
    ]
    assert ("https://mirrors.ustc.edu.cn/libnvidia-container", "mirrors.nvidia_toolkit") in [
        (found.address, found.key) for found in gpu
    ]
    [tarball] = mirrored.outside(inventory.host("lb-01"), inventory)
    assert (tarball.address, tarball.key) == ("http://m.test/nginx/nginx-1.26.3.tar.gz", "mirrors.nginx")
    own = load("china", docker='{repository: "http://own.test"}')
    assert mirrored.outside(own.host("gpu-01"), own)[0].key == "docker.repository"


def test_a_list_of_addresses_has_no_password(load):
    inventory = load(f'{{docker: "{LOGGED_IN}"}}')
    assert "canary" not in repr(mirrored.outside(inventory.host("gpu-01"), inventory))


@pytest.mark.parametrize(
    ("evidence", "said"),
    [
        ("the key at http://m.test:81/docker/gpg does not match:\nnone: it is no OpenPGP key", "web page"),
        ("E: Failed to fetch http://m.test:81/docker  401  Unauthorized", "demands another login (401)"),
        (
            "curl: (22) The requested URL returned error: 401\nthe key could not be fetched from http://m.test:81/x",
            "401",
        ),
        ("Err:1 http://m.test:81/docker x\n  404  Not Found", "does not have the file"),
        ("E: Failed to fetch http://other.test/docker  401  Unauthorized", ""),
        ("the key could not be fetched from http://m.test:81/x", ""),
    ],
)
def test_an_error_names_the_mirror_and_its_key_and_no_password(load, evidence, said):
    host = load('{docker: "http://bot:canary@m.test:81/docker"}').host("gpu-01")
    advice = mirror_advice.advice(host, evidence)
    assert said in advice
    assert bool(said) == ("gpu-01 asked the mirror http://m.test:81/docker (mirrors.docker)" in advice)
    assert "canary" not in advice


def test_the_advice_names_the_key_of_the_whole_address_and_no_login_where_the_key_takes_none(load):
    host = load(
        "{docker: 'http://m.test/docker', nvidia_toolkit: 'http://m.test/docker-nvidia', nginx: 'http://m.test/nginx'}"
    ).host("lb-01")
    said = mirror_advice.advice(host, "Failed to fetch http://m.test/docker-nvidia/InRelease  401  Unauthorized")
    assert "into mirrors.nvidia_toolkit" in said
    said = mirror_advice.advice(host, "curl: (22) error: 401 http://m.test/nginx/nginx-1.26.3.tar.gz")
    assert "mirrors.nginx takes none" in said


def test_the_error_of_a_command_has_the_advice(load):
    host = load('{docker: "http://m.test:81/docker"}').host("gpu-01")
    step = next(step for step_id, step in steps(load("none")).items() if step_id.startswith("apt_key:"))
    change = make_change(role_interface.Entry("docker", step), None, step.want(FACTS, None))
    answer = Answer(1, b"", b"the key at http://m.test:81/gpg does not match: it is no OpenPGP key")
    assert "asked the mirror" in diagnostics.command_failed(change, change.commands[0], answer, host).hint


def test_a_site_without_mirrors_gets_no_advice(load):
    assert mirror_advice.advice(load("none").host("gpu-01"), "401 Unauthorized <html>") == ""
