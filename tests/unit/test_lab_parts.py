"""Parts of the lab that need no root: sizes and names, the inventory, repositories, the proxy, the delay line."""

import contextlib
import http.client
import http.server
import importlib.util
import socket
import threading
import time
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import pytest
from click.testing import CliRunner

from provision.errors import UsageError
from provision.lab import cli, debs, delay, faults, machine, paths, repository, sheet, site
from provision.lab.network import Network
from provision.lab.shell import LabError, output, run
from provision.lab.spec import Spec


@pytest.mark.parametrize(
    "values",
    [{"name": "Up"}, {"name": "a/b"}, {"name": "_cache"}, {"gpus": 17}, {"gpu_hosts": 0, "balancers": 0}, {"rtt": -1}],
)
def test_an_impossible_spec_is_refused(values):
    with pytest.raises(UsageError):
        Spec(**values)


def test_hosts_have_names_groups_and_numbers_of_their_own():
    hosts = Spec(gpu_hosts=180, balancers=50).hosts()
    numbers = [host.number for host in hosts]
    assert (hosts[0].name, hosts[0].group, hosts[-1].name) == ("gpu-01", "gpu", "lb-50")
    assert len(set(numbers)) == 230
    assert max(numbers) < 254


def test_two_labs_share_no_kernel_name():
    one, other = Network("a", 1), Network("a-b", 2)
    assert one.cidr != other.cidr
    assert one.link != other.link
    assert not other.netns.startswith(f"{one.netns}.")
    assert not one.host_netns("gpu-01").startswith(f"{other.netns}.")


def test_inventory_points_at_the_site(monkeypatch):
    settings = {"nginx": {"url": "http://10.213.7.1/nginx"}}
    monkeypatch.setattr(site, "settings", lambda network, release, packages: settings)
    spec, network = Spec(name="x", gpu_hosts=1, gpus=2), Network("x", 7)
    hosts = [SimpleNamespace(name=h.name, spec=h, address=network.address(h.number), patience=1) for h in spec.hosts()]
    document = sheet.inventory(Path("/lab"), spec, network, hosts)["all"]
    assert document["vars"]["ansible_user"] == "ops"
    assert document["vars"]["nginx"]["url"] == "http://10.213.7.1/nginx"
    assert document["children"]["gpu"]["hosts"]["gpu-01"] == {
        "ansible_host": "10.213.7.11",
        "ollama": {"instances": [{"gpus": [0]}, {"gpus": [1]}]},
    }
    assert document["children"]["balancer"]["hosts"] == {"lb-01": {"ansible_host": "10.213.7.201"}}


@pytest.mark.parametrize("vm", [False, True])
@pytest.mark.parametrize(("patience", "seconds"), [(1, None), (12, 120)])
def test_an_emulated_host_gets_more_time_to_answer(monkeypatch, patience, seconds, vm):
    monkeypatch.setattr(site, "settings", lambda *_: {"nvidia_toolkit": {}})
    spec, network = Spec(name="x", gpu_hosts=1, balancers=0, vm=vm), Network("x", 7)
    hosts = [SimpleNamespace(name=h.name, spec=h, address="10.213.7.11", patience=patience) for h in spec.hosts()]
    variables = sheet.inventory(Path("/lab"), spec, network, hosts)["all"]["vars"]
    assert variables.get("ansible_timeout") == seconds
    assert variables.get("timeout_factor") == (patience if seconds else None)


def test_a_repository_has_the_hashes_of_its_packages(tmp_path, monkeypatch):
    monkeypatch.setattr(repository.keys, "sign", lambda release, fingerprint: None)
    debs.build(debs.Package("thing", "1.0-1", "SIMULATED thing", files={"usr/bin/thing": Path("/bin/true")}), tmp_path)
    repository.flat(tmp_path, "0" * 40, "lab")
    stanza = (tmp_path / "Packages").read_text()
    assert "Package: thing\nVersion: 1.0-1\n" in stanza
    assert "SIMULATED thing" in stanza
    (package,) = tmp_path.glob("*.deb")
    assert f"Filename: {package.name}\nSize: {package.stat().st_size}\n" in stanza
    assert (tmp_path / "Release").read_text().count(" Packages") == 2


def test_every_toolkit_package_is_labelled_simulated_and_its_files_exist():
    for package in debs.toolkit("1.20.0"):
        assert "SIMULATED" in package.summary
        assert package.version == "1.20.0-1"
        assert all(file.exists() for file in package.files.values())


@pytest.fixture
def proxy(tmp_path):
    """The caching proxies of two labs, in front of a server that counts the requests."""
    spec = importlib.util.spec_from_file_location("serve", Path(paths.__file__).with_name("serve.py"))
    serve = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(serve)
    asked = []
    answers = {}  # path -> a function that answers in place of the file

    class Origin(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args):
            super().__init__(*args, directory=str(tmp_path / "origin"))

        def do_GET(self):
            asked.append(self.path)
            if self.path in answers:
                answers[self.path](self)
            else:
                super().do_GET()

        def log_message(self, *args):
            pass

    class Proxy(serve._Proxy):
        cache = tmp_path / "cache"

        def log_message(self, *args):
            pass

    class Beside(Proxy):
        locks: ClassVar = defaultdict(threading.Lock)  # in place of the locks of another process

    (tmp_path / "origin").mkdir()
    (tmp_path / "cache").mkdir()
    servers = [http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) for handler in (Origin, Proxy, Beside)]
    for server in servers:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()

    def get(name, headers=None, lab=1):
        connection = http.client.HTTPConnection("127.0.0.1", servers[lab].server_port, timeout=60)
        connection.request("GET", f"http://127.0.0.1:{servers[0].server_port}/{name}", headers=headers or {})
        answer = connection.getresponse()
        return answer.status, answer.read(), answer.headers.get("Last-Modified")

    yield SimpleNamespace(get=get, asked=asked, answers=answers, origin=tmp_path / "origin", stop=servers[0])
    for server in servers:
        server.shutdown()
        server.server_close()


def test_packages_are_fetched_once(proxy):
    (proxy.origin / "a.deb").write_bytes(b"package")
    assert [proxy.get("a.deb")[:2] for _ in range(3)] == [(200, b"package")] * 3
    assert proxy.asked == ["/a.deb"]


def test_indexes_are_fetched_anew_and_served_from_the_cache_without_a_mirror(proxy):
    (proxy.origin / "Release").write_text("one")
    status, _, modified = proxy.get("Release")
    assert status == 200
    assert proxy.get("Release", {"If-Modified-Since": modified})[0] == 304
    assert len(proxy.asked) == 2
    proxy.stop.shutdown()
    proxy.stop.server_close()
    assert proxy.get("Release")[:2] == (200, b"one")


def test_a_refusal_of_the_mirror_is_passed_on_and_not_cached(proxy):
    assert proxy.get("none.deb")[0] == 404
    (proxy.origin / "none.deb").write_bytes(b"now")
    assert proxy.get("none.deb")[:2] == (200, b"now")


def test_two_labs_may_fetch_the_same_file_at_once(proxy):
    half, second, done = b"x" * 600_000, threading.Event(), threading.Event()

    def answer(request):
        request.send_response(200)
        request.send_header("Content-Length", str(2 * len(half)))
        request.end_headers()
        if len(proxy.asked) == 1:
            request.wfile.write(half)
            second.wait(60)
            time.sleep(0.1)  # by now the second request has its file open
            request.wfile.write(half)
        else:
            second.set()
            done.wait(60)
            request.wfile.write(2 * half)

    proxy.answers["/a.deb"] = answer
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(proxy.get, "a.deb")
        first.add_done_callback(lambda _: done.set())
        while not proxy.asked:
            time.sleep(0.01)
        other = pool.submit(proxy.get, "a.deb", lab=2)
    assert [future.result()[1] == 2 * half for future in (first, other)] == [True, True]
    assert proxy.get("a.deb")[1] == 2 * half


def test_the_delay_line_delays_both_ways_and_keeps_the_order():
    near, machine = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    far, lab = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    machine.setblocking(False)
    lab.setblocking(False)

    def carry():
        with contextlib.suppress(EOFError):
            delay.carry(machine.fileno(), lab.fileno(), 0.05)

    line = threading.Thread(target=carry)
    line.start()
    started = time.monotonic()
    for number in range(100):
        near.send(b"%d" % number)
    assert [far.recv(10) for _ in range(100)] == [b"%d" % number for number in range(100)]
    far.send(b"back")
    assert near.recv(10) == b"back"
    assert 0.1 <= time.monotonic() - started < 100 * 0.05, "the delays of packets pass side by side"
    near.close()
    line.join(60)
    assert not line.is_alive()


def test_every_fault_is_listed():
    result = CliRunner().invoke(cli.lab, ["fault", "--list"])
    assert result.exit_code == 0
    assert len(result.output.splitlines()) == len(faults.FAULTS)


def test_a_fault_for_the_wrong_kind_of_target_is_refused():
    with pytest.raises(UsageError, match="cannot have the fault"):
        faults.switch(SimpleNamespace(), "gpu-01/ollama1", "driver-broken", on=True)


def test_the_lab_names_no_mirror():
    for file in Path(paths.__file__).parent.rglob("*"):
        if file.is_file() and "__pycache__" not in file.parts:
            text = file.read_text()
            assert "deb." + "debian" not in text
            assert "archive." + "ubuntu" not in text


@pytest.mark.parametrize(
    ("servers", "expected"), [("127.0.0.53", "nameserver 192.0.2.1\n"), ("192.0.2.9", "nameserver 192.0.2.9\n")]
)
def test_a_resolver_on_loopback_is_replaced_by_its_upstream(tmp_path, servers, expected):
    (tmp_path / "etc").write_text(f"nameserver {servers}\n")
    (tmp_path / "upstream").write_text("nameserver 192.0.2.1\n")
    assert machine.resolv_conf(tmp_path / "etc", tmp_path / "upstream") == expected


def test_a_folder_of_packages_gets_a_site_of_its_own(tmp_path):
    folder = str(tmp_path)
    assert paths.site("trixie", folder) != paths.site("trixie")
    with pytest.raises(LabError, match=r"has no \.deb file"):
        site.ensure("trixie", lambda _: None, folder)


def test_a_package_is_built_again_with_other_programs(tmp_path):
    program = tmp_path / "program"
    program.write_text("new")
    work = tmp_path / "work"
    work.mkdir()
    old = debs.Package("docker-ce", "5:26.1.5-1", "Old", "iptables", {"usr/sbin/dockerd": Path("/bin/true")})
    debs.build(old, work)
    (package,) = work.glob("*.deb")
    made = debs.upgraded(package, "5:29.8.1-1", {"usr/sbin/dockerd": program}, "Built here.", work)
    fields = output(["dpkg-deb", "--field", made])
    assert "Version: 5:29.8.1-1" in fields
    assert "Depends: iptables" in fields
    assert "Built here." in fields
    run(["dpkg-deb", "--extract", made, tmp_path / "tree"])
    assert (tmp_path / "tree/usr/sbin/dockerd").read_text() == "new"
    with pytest.raises(LabError, match="has no usr/bin/dockerd to replace"):
        debs.upgraded(package, "5:29.8.1-1", {"usr/bin/dockerd": program}, "Built here.", work)
