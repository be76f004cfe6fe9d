"""The section `proxy`: its values, the places without a proxy, the files on a host, and the advice of a failure."""

import json
import os
import shlex
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest

from provision import cli
from provision.apply import proxied
from provision.command import Put
from provision.errors import InventoryError
from provision.inventory import Inventory, Mask, Secret
from provision.inventory.direct import without_proxy
from provision.inventory.proxy import ProxyUrl, goes_direct, is_bypass
from provision.plan import role_interface
from provision.steps.apt_lines import AptLine
from provision.steps.base import RefusalError
from provision.steps.docker.daemon_state import PROXY, Dockerd
from provision.steps.docker.proxy import DockerProxy, proxy_state
from provision.steps.system.proxy import APT, ENVIRONMENT, OUTSIDE, apt_text
from tests.unit.test_hostile import FACTS

URL = "http://user:p%40ss-canary@proxy.test:3128"
FLEET = """
all:
  vars:
    proxy: {PROXY}
    nginx: {accept_known_vulnerabilities: true}
    docker: {registry_mirrors: ["http://lb-01:5000"], DOCKER}
    ollama: {models: [deepseek-r1:1.5b], OLLAMA}
  children:
    gpu: {hosts: {gpu-01: {ansible_host: 10.0.0.11, ollama: {instances: [{gpus: [0]}]}}}}
    balancer: {hosts: {lb-01: {ansible_host: 10.0.0.5}}}
"""
BOTH = f'{{http: "{URL}", https: "{URL}", no_proxy: [.corp.example, 10.9.0.0/16]}}'


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A function that reads the inventory of these tests with a section `proxy`."""
    monkeypatch.setenv("HOME", str(tmp_path))

    def read(proxy: str = BOTH, docker: str = "log_max_file: 3", ollama: str = "debug: 0") -> Inventory:
        path = tmp_path / "inventory.yaml"
        path.write_text(FLEET.replace("{PROXY}", proxy).replace("DOCKER", docker).replace("OLLAMA", ollama))
        return role_interface.load(str(path))

    return read


def steps(inventory: Inventory, host: str) -> dict:
    return {e.step.id: e.step for e in role_interface.steps(inventory.host(host), inventory)}


@pytest.mark.parametrize(
    "url",
    [
        "http://proxy.test:3128",
        "https://10.0.0.9:8080/",
        "http://[fd00::9]:3128",
        "http://user@proxy.test:1",
        "http://user:a%20b!*,=+~@proxy.test:65535",
    ],
)
def test_a_proxy_is_taken(load, url):
    assert load(f'{{http: "{url}", https: "{url}"}}').hosts[0].settings["proxy"].http.reveal() == url.rstrip("/")


@pytest.mark.parametrize(
    "url",
    [
        "proxy.test:3128",
        "http://proxy.test",
        "http://proxy.test:0",
        "http://proxy.test:65536",
        "socks5://proxy.test:1080",
        "http://user:canary pass@proxy.test:3128",
        "http://user:canary%0apass@proxy.test:3128",
        "http://user:canary%zz@proxy.test:3128",
        "http://user:can'ary@proxy.test:3128",
        "http://user:can$ary@proxy.test:3128",
        "http://u:canary@a@proxy.test:3128",
        "http://-x.test:3128",
        "http://0x7f.1:3128",
        "http://proxy.test:3128/canary",
        "http://proxy.test:3128?canary",
        "http://" + "a" * 1000 + ":3128",
        "",
    ],
)
def test_a_wrong_proxy_is_refused_with_its_key_and_without_its_value(load, url):
    with pytest.raises(InventoryError) as refused:
        load(f'{{https: "{url}"}}')
    [problem] = refused.value.problems
    assert problem.path == "all.vars.proxy.https"
    assert problem.message.startswith("must be http://HOST:PORT")
    assert "canary" not in str(problem)


@pytest.mark.parametrize("entry", ["*", "a b", "http://x", "10.0.0.0/33", "a" * 260, "", "x,y", ".", "-x", "host:80"])
def test_a_wrong_place_without_a_proxy_is_refused_with_its_key(load, entry):
    with pytest.raises(InventoryError) as refused:
        load(f'{{http: "http://p:1", https: "http://p:1", no_proxy: [ok.test, "{entry}"]}}')
    assert [problem.path for problem in refused.value.problems] == ["all.vars.proxy.no_proxy[1]"]


def test_too_many_places_are_refused(load):
    with pytest.raises(InventoryError, match="at most 200"):
        load(f"{{no_proxy: [{', '.join(f'h{n}' for n in range(201))}]}}")


@pytest.mark.parametrize(
    ("name", "entries", "direct"),
    [
        ("a.corp.example", [".corp.example"], True),
        ("corp.example", [".corp.example"], False),
        ("corp.example", ["Corp.Example"], True),
        ("x.corp.example", ["corp.example"], True),
        ("notcorp.example", ["corp.example"], False),
        ("10.9.1.2", ["10.9.0.0/16"], True),
        ("10.8.1.2", ["10.9.0.0/16", "10.8.1.20"], False),
        ("fd00::1", ["fd00::/8"], True),
        ("::1", ["127.0.0.1"], False),
    ],
)
def test_a_place_is_matched_as_go_does(name, entries, direct):
    assert all(map(is_bypass, entries))
    assert goes_direct(name, entries) is direct


def test_a_host_overrides_the_proxy_of_its_group(load, tmp_path):
    (tmp_path / "host_vars").mkdir()
    (tmp_path / "host_vars" / "lb-01.yml").write_text("proxy: {http: null, https: 'http://other.test:1'}\n")
    inventory = load()
    assert inventory.host("lb-01").settings["proxy"].http is None
    assert inventory.host("lb-01").settings["proxy"].https.reveal() == "http://other.test:1"
    assert inventory.host("gpu-01").settings["proxy"].http.reveal() == URL


def test_a_proxy_for_one_kind_of_address_is_mentioned(load):
    assert load('{https: "http://p.test:1"}').warnings == (
        "proxy.https is set and proxy.http is not: http:// addresses are asked directly",
    )
    assert load().warnings == ()


def test_a_url_shows_neither_user_nor_password_and_a_mask_hides_all_of_its_forms():
    url = ProxyUrl(URL)
    for shown in (str(url), repr(url), f"{url}", json.dumps([str(url)])):
        assert "http://[secret]@proxy.test:3128" in shown
        assert "canary" not in shown
    hide = Mask([url])
    for said in (URL, "p%40ss-canary", "p@ss-canary", "user:p@ss-canary", f"curl -x {URL}"):
        assert "canary" not in hide(said)
    assert Mask([ProxyUrl("http://proxy.test:3128")])("http://proxy.test:3128") == "http://proxy.test:3128"
    assert ProxyUrl("http://proxy.test:3128").shown == "http://proxy.test:3128"


def test_hosts_of_the_inventory_that_a_setting_names_go_without_the_proxy(load):
    inventory = load()
    ours = ("localhost", "127.0.0.1", "::1", ".corp.example", "10.9.0.0/16")
    assert without_proxy(inventory.host("gpu-01"), inventory) == (*ours, "lb-01")
    inventory = load(ollama='image: "10.0.0.5:5000/ollama/ollama:1"')
    assert without_proxy(inventory.host("gpu-01"), inventory) == (*ours, "10.0.0.5", "lb-01")
    inventory = load(docker='repository: "http://10.0.0.11/docker"')
    assert without_proxy(inventory.host("gpu-01"), inventory) == (*ours, "10.0.0.11", "lb-01")


def test_an_address_inside_a_network_stands_by_itself_for_a_curl_that_knows_no_networks(load):
    inventory = load(docker='repository: "http://10.9.3.4/docker"')
    assert without_proxy(inventory.host("gpu-01"), inventory)[-2:] == ("10.9.3.4", "lb-01")
    inventory = load(docker='repository: "http://10.8.3.4/docker"')
    assert without_proxy(inventory.host("gpu-01"), inventory)[-2:] == ("10.9.0.0/16", "lb-01")


def test_apts_file_is_closed_for_a_password_alone(load):
    """apt warns users about a closed file in the folder."""
    open_ = "{http: http://proxy.test:3128, https: http://proxy.test:3128}"
    half = f'{{http: http://proxy.test:3128, https: "{URL}"}}'
    for proxy, mode in ((open_, 0o644), (half, 0o600), (BOTH, 0o600)):
        step = steps(load(proxy), "lb-01")[f"proxy:{APT}"]
        assert step.mode == mode
        assert "canary" not in "\n".join(step.diff(None, step.want(FACTS, None)))
        assert steps(load(proxy), "lb-01")[f"proxy:{ENVIRONMENT}"].mode == 0o600


def test_every_program_gets_the_proxy_from_a_file_for_root_alone(load):
    inventory = load()
    found = steps(inventory, "gpu-01")
    puts = {
        command.path: command
        for step in found.values()
        if step.id.startswith(("proxy:", "docker_proxy:", "file:/etc/provision/ollama/ollama1.env"))
        for command in step.commands(None, step.want(FACTS, None))
        if isinstance(command, Put)
    }
    assert {path: (put.mode, put.owner) for path, put in puts.items()} == dict.fromkeys(
        (ENVIRONMENT, APT, PROXY, "/etc/provision/ollama/ollama1.env"), (0o600, "root:root")
    )
    places = "localhost,127.0.0.1,::1,.corp.example,10.9.0.0/16,lb-01"
    values = {path: variables(put.content) for path, put in puts.items() if path != APT}
    assert values[ENVIRONMENT] == {"http_proxy": URL, "https_proxy": URL, "no_proxy": places}
    assert values[PROXY] == {"HTTP_PROXY": URL, "HTTPS_PROXY": URL, "NO_PROXY": places}
    assert values["/etc/provision/ollama/ollama1.env"] == {"HTTPS_PROXY": URL, "NO_PROXY": places}
    assert b"EnvironmentFile=-" + PROXY.encode() in found["drop_in:docker.service"].content
    assert [step_id for step_id in steps(inventory, "lb-01") if "proxy" in step_id] == [
        f"proxy:{ENVIRONMENT}",
        f"proxy:{APT}",
    ]


def variables(content: bytes) -> dict[str, str]:
    """Return the variables of a file as a shell and systemd read the file."""
    lines = [shlex.split(line)[0] for line in content.decode().splitlines() if not line.startswith("#")]
    return dict(line.split("=", 1) for line in lines)


def test_without_a_proxy_nothing_is_written_and_the_drop_in_is_as_before(load):
    found = steps(load("{}"), "gpu-01")
    assert [step_id for step_id in found if "proxy" in step_id] == [f"docker_proxy:{PROXY}"]
    assert found[f"docker_proxy:{PROXY}"].want(FACTS, None) is None
    assert found[f"docker_proxy:{PROXY}"].want(FACTS, {"sha256": None}) == {"sha256": None}
    assert b"EnvironmentFile" not in found["drop_in:docker.service"].content
    assert "file:/etc/provision/ollama/ollama1.env" not in found


@pytest.mark.parametrize(
    ("ollama", "expected"),
    [
        ('https_proxy: "http://own.test:1"', {"HTTPS_PROXY": "http://own.test:1"}),
        ('https_proxy: ""', {}),
        ("no_proxy: mine.test", {"HTTPS_PROXY": URL, "NO_PROXY": "mine.test"}),
    ],
)
def test_the_proxy_for_models_is_a_default(load, ollama, expected):
    step = steps(load(ollama=ollama), "gpu-01").get("file:/etc/provision/ollama/ollama1.env")
    assert (variables(step.content) if step else {}) == expected


def test_a_second_proxy_of_docker_is_refused(load):
    with pytest.raises(InventoryError) as refused:
        load(docker="daemon: {proxies: {http-proxy: x}}")
    assert refused.value.problems[0].path == "all.vars.docker.daemon.proxies"
    step = DockerProxy(http=ProxyUrl(URL))
    with pytest.raises(RefusalError, match=r'daemon\.json has the key "proxies"'):
        step.want(FACTS, {"sha256": None, "foreign": True})


def test_a_plan_tells_the_restart_and_the_proxy_without_its_password():
    step = DockerProxy(http=ProxyUrl(URL), https=ProxyUrl(URL), direct=("localhost",))
    have = {"sha256": None, "running": True, "containers": True, "live_restore": True, "foreign": False}
    want = step.want(FACTS, have)
    assert step.impact(have, want) == "restarts Docker while containers run: they go on, by live-restore"
    assert step.impact({**have, "running": False}, want) == ""
    shown = "\n".join(step.diff(have, want))
    assert "https:// through http://[secret]@proxy.test:3128" in shown
    assert "canary" not in shown + repr(step)
    gone = DockerProxy()
    assert gone.diff(want, {"sha256": None}) == ["Docker asks registries directly"]
    assert gone.impact({**have, **want}, {"sha256": None}).startswith("restarts Docker")


@pytest.mark.parametrize("left", [False, True])
def test_without_a_proxy_verify_proves_that_no_file_of_ours_is_left(left):
    live = SimpleNamespace(file=lambda path: SimpleNamespace(exists=left and path == PROXY))
    (check,) = DockerProxy().check(live)
    assert (check.got == check.expected) is not left


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ('Environment="HTTP_PROXY=http://user:canary@p:1" NO_PROXY=.corp', True),
        ("Environment=https_proxy=http://p:1", True),
        ("# Environment=HTTP_PROXY=http://p:1", False),
        ("Environment=DOCKER_RAMDISK=1", False),
    ],
)
def test_an_operators_variables_for_docker_are_named_by_their_file(line, named):
    path = "/etc/systemd/system/docker.service.d/http-proxy.conf"
    state = proxy_state(Dockerd(installed=True, unit={}, texts={path: f"{path}\n[Service]\n{line}\n"}))
    assert state.get("theirs", []) == ([path] if named else [])
    assert "canary" not in str(state)


def test_apt_keeps_what_the_operator_wrote_and_asks_our_repositories_through_the_proxy():
    http, direct = ProxyUrl("http://p.test:1"), (".corp.example",)
    text = apt_text(http, None, direct, ["docker.test"], ["deb.test", "mirror.corp.example"]).decode()
    assert text.splitlines()[1:] == [
        'Acquire::http::Proxy "http://p.test:1";',
        'Acquire::https::Proxy "DIRECT";',
        'Acquire::http::Proxy::docker.test "http://p.test:1";',
        'Acquire::https::Proxy::docker.test "DIRECT";',
        'Acquire::http::Proxy::mirror.corp.example "DIRECT";',
        'Acquire::https::Proxy::mirror.corp.example "DIRECT";',
    ]


@pytest.mark.parametrize("operators", ["00aptproxy", "00-proxy", "00proxy", "01operator", "95proxies"])
def test_apt_reads_the_file_and_a_later_file_wins(tmp_path, operators):
    """The real apt: a line for a host comes before the default, and an operator's file before ours."""
    parts = tmp_path / "apt.conf.d"
    parts.mkdir()
    (parts / Path(APT).name).write_bytes(apt_text(ProxyUrl(URL), ProxyUrl(URL), (), ["docker.test"], []))
    (parts / operators).write_text('Acquire::http::Proxy "http://cache.corp:3142";\n')
    (tmp_path / "apt.conf").write_text(f'Dir::Etc::Parts "{parts}";\n')
    done = subprocess.run(
        ["apt-config", "dump", "--format", "%F=%v%n", "Acquire::http::Proxy"],
        env={"APT_CONFIG": str(tmp_path / "apt.conf"), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=True,
    )
    read = dict(line.split("=", 1) for line in done.stdout.splitlines() if line)
    assert read == {"Acquire::http::Proxy": "http://cache.corp:3142", "Acquire::http::Proxy::docker.test": URL}


def test_a_hostile_source_of_apt_writes_no_line(load):
    step = steps(load(), "gpu-01")[f"proxy:{APT}"]
    uris = ('http://x";evil "y/z', "mirror+file:/etc/x", "cdrom:[a]/", "http://[/x", "http://ok.corp.example/debian")
    facts = FACTS.__class__(
        **{**vars(FACTS), "sources_of_apt": tuple(AptLine("/etc/apt/sources.list", 1, True, uri, "x") for uri in uris)}
    )
    text = step.content(facts).decode()
    assert "evil" not in text
    assert 'Acquire::http::Proxy::ok.corp.example "DIRECT";' in text


def test_only_the_program_gets_the_variables(tmp_path):
    """The function of our scripts, with a file of this test: the shell itself keeps no password."""
    file = tmp_path / "proxy.env"
    file.write_text(f"http_proxy='{URL}'\n")
    function = OUTSIDE.replace(ENVIRONMENT, str(file))
    script = f'set -eu\n{function}\noutside sh -c \'echo "$http_proxy"\'\necho "after:${{http_proxy-none}}"\n'
    done = subprocess.run(["sh", "-s"], input=script, capture_output=True, text=True, check=True, env={"PATH": "/bin"})
    assert done.stdout == f"{URL}\nafter:none\n"
    file.unlink()
    done = subprocess.run(["sh", "-s"], input=script, capture_output=True, text=True, check=True, env={"PATH": "/bin"})
    assert done.stdout == "\nafter:none\n"


def test_a_file_of_another_user_is_not_run(tmp_path):
    file, proof = tmp_path / "proxy.env", tmp_path / "proof"
    file.write_text(f"touch {proof}\n")
    if os.geteuid() == 0:
        os.chown(file, 65534, 65534)
    else:
        file = Path("/etc/hostname")  # of root
    script = f"set -eu\n{OUTSIDE.replace(ENVIRONMENT, str(file))}\noutside true\n"
    subprocess.run(["sh", "-s"], input=script, text=True, check=True)
    assert not proof.exists()


ADVICE = [
    ("curl: (22) The requested URL returned error: 407", "demands another login (407)"),
    ("curl: (56) CONNECT tunnel failed, response 407", "demands another login (407)"),
    ("E: Failed to fetch http://x/y  407  Proxy Authentication Required [IP: 10.0.0.5 3128]", "another login"),
    ('Error response from daemon: Get "https://registry-1.docker.io/v2/": Proxy Authentication Required', "login"),
    ("curl: (7) Failed to connect to proxy.test port 3128 after 1 ms: Couldn't connect to server", "does not answer"),
    ("curl: (5) Could not resolve proxy: proxy.test", "does not answer"),
    ("Err:1 http://x: Could not connect to proxy.test:3128 (10.0.0.5). - connect (111: refused)", "does not answer"),
    ("proxyconnect tcp: dial tcp: lookup proxy.test on 10.0.0.1:53: no such host", "does not answer"),
    ("proxyconnect tcp: dial tcp proxy.test:3128: connect: connection refused", "does not answer"),
    ("the inventory pins X; found none: it is no OpenPGP key", "a web page came"),
    ("invalid character '<' looking for beginning of value", "a web page came"),
    ("Clearsigned file isn't valid, got 'NOSPLIT' (does the network require authentication?)", "a web page came"),
    ("curl: (56) CONNECT tunnel failed, response 403", "may have refused"),
    ("Err:4 http://x/y 403  Filtered [IP: 10.0.0.5 3128]", "may have refused"),
]


@pytest.mark.parametrize(("evidence", "what"), ADVICE)
def test_a_failure_of_the_proxy_names_proxy_host_and_cure(load, evidence, what):
    inventory = load()
    advice = proxied.advice(inventory.host("gpu-01"), evidence)
    assert advice.startswith("gpu-01 asked through the proxy http://[secret]@proxy.test:3128")
    assert what in advice
    assert "canary" not in advice
    assert proxied.advice(load("{}").host("gpu-01"), evidence) == ""


@pytest.mark.parametrize("evidence", ["", "E: no space left on device", "curl: (7) Failed to connect to other port 80"])
def test_another_failure_is_not_blamed_on_the_proxy(load, evidence):
    assert proxied.advice(load().host("gpu-01"), evidence) == ""


@pytest.mark.parametrize("words", [["show"], ["show", "--json"], ["check"]])
def test_an_inventory_is_shown_with_the_proxy_and_without_its_password(load, tmp_path, monkeypatch, capsys, words):
    monkeypatch.setenv("CANARY", URL)
    load("{http: !env CANARY, https: !env CANARY}")
    assert cli.execute(["inventory", *words, "-i", str(tmp_path / "inventory.yaml")]) == 0
    load()
    assert cli.execute(["inventory", *words, "-i", str(tmp_path / "inventory.yaml")]) == 0
    shown = capsys.readouterr()
    assert "canary" not in shown.out + shown.err
    assert words == ["check"] or "http://[secret]@proxy.test:3128" in shown.out


def test_a_secret_and_a_proxy_of_the_same_text_are_hidden_alike():
    assert Mask([Secret(URL)])(URL) == Mask([ProxyUrl(URL)])(URL) == "[secret]"
