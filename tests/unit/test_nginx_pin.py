"""`provision nginx pin`: files of a server of the test, signed with keys of the test, and the edit of inventories."""

import contextlib
import dataclasses
import functools
import hashlib
import http.server
import io
import json
import subprocess
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from provision import cli
from provision.actions.nginx_pin import PATCHED, Wish, pin
from provision.errors import GuardError, InventoryError, UnreachableError, UsageError
from provision.inventory.edit import with_settings
from provision.roles import nginx

from .test_json_documents import checked

EXAMPLE = Path(__file__).parents[2] / "inventory/example.yaml"
INVENTORY = """\
# our fleet
all:
  vars:
    nginx:   # the balancers'
      version: 1.26.3  # as asked for
      accept_known_vulnerabilities: true
gpu: {hosts: {a: {ollama: {instances: [{gpus: [0]}]}}}}
"""
TARBALL, DSC = "nginx-1.30.7.tar.gz", "nginx_1.26.3-3+deb13u11.dsc"
ARCHIVE = "nginx_1.26.3-3+deb13u11.debian.tar.xz"


class Keys:
    """A home of GnuPG with keys of the test."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(mode=0o700)
        self.public: dict[str, Path] = {}

    def gpg(self, *words: str | Path, data: bytes = b"") -> bytes:
        line = ["gpg", "--homedir", self.folder, "--batch", "--quiet", "--yes", "--passphrase", "", *words]
        return subprocess.run(line, input=data, capture_output=True, check=True, timeout=60).stdout

    def make(self, name: str, *options: str, expires: str = "never") -> None:
        self.gpg(*options, "--quick-generate-key", f"{name} <{name}@example.test>", "ed25519", "sign", expires)
        self.public[name] = self.folder / f"{name}.asc"
        self.public[name].write_bytes(self.gpg("--armor", "--export", name))

    def detached(self, name: str, data: bytes, *options: str) -> bytes:
        return self.gpg(*options, "--local-user", name, "--armor", "--detach-sign", data=data)

    def clear(self, name: str, text: str) -> bytes:
        return self.gpg("--local-user", name, "--clearsign", data=text.encode())


LONG_AGO = "--faked-system-time=20200101T000000"


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Keys]:
    made = Keys(tmp_path_factory.mktemp("keys") / "home")
    made.make("maker")
    made.make("stranger")
    made.make("expired", LONG_AGO, expires="20200201T000000")
    yield made
    subprocess.run(["gpgconf", "--homedir", made.folder, "--kill", "all"], check=False, timeout=60)


class Site:
    """A web server on loopback: path -> bytes, a status, the text of a redirect's address, or None for silence."""

    def __init__(self) -> None:
        self.files: dict[str, bytes | int | str | None] = {}
        self.over = threading.Event()
        site = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                found = site.files.get(self.path.removeprefix("/"), 404)
                if found is None:
                    site.over.wait(30)
                    return
                status = found if isinstance(found, int) else 302 if isinstance(found, str) else 200
                self.send_response(status)
                if isinstance(found, str):
                    self.send_header("Location", found)
                self.end_headers()
                self.wfile.write(found if isinstance(found, bytes) else b"")

            def log_message(self, *words: Any) -> None:
                """Say nothing."""

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self.over.set()
        self.server.shutdown()
        self.server.server_close()


def archive(mode: str, **files: str) -> bytes:
    """Return a tarball; `__` in a name stands for `/`."""
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode=mode) as tar:  # type: ignore[call-overload]
        for name, text in files.items():
            member = tarfile.TarInfo(name.replace("__", "/"))
            member.size = len(text.encode())
            tar.addfile(member, io.BytesIO(text.encode()))
    return data.getvalue()


@functools.cache  # the head of a gzip file has the time
def source(version: str = "1.30.7") -> bytes:
    return archive("w:gz", **{f"nginx-{version}__configure": "#!/bin/sh\n"})


SERIES = archive(
    "w:xz",
    debian__patches__series="# comment\nCVE-2026-42945.patch\nother.patch\n",
    **{
        "debian__patches__CVE-2026-42945.patch": "--- a/x\n+++ b/x\n",
        "debian__patches__other.patch": "Description: closes CVE-2026-118899\n",
    },
)


def dsc(**changes: str) -> str:
    """Return the text of a source package; `orig`, `archive`, `source` and `version` can be changed."""
    value = {
        "source": "nginx",
        "version": "1.26.3-3+deb13u11",
        "orig": nginx.KNOWN[PATCHED],
        "archive": hashlib.sha256(SERIES).hexdigest(),
        **changes,
    }
    return (
        f"Format: 3.0 (quilt)\nSource: {value['source']}\nVersion: {value['version']}\nChecksums-Sha256:\n"
        f" {value['orig']} 1260179 nginx_1.26.3.orig.tar.gz\n {value['archive']} {len(SERIES)} {ARCHIVE}\n"
    )


class Place:
    """The site, the keys, and an inventory to write into."""

    def __init__(self, folder: Path, site: Site, keys: Keys) -> None:
        self.site, self.keys = site, keys
        self.inventory = folder / "inventory.yaml"
        self.inventory.write_text(INVENTORY)
        self.site.files[TARBALL] = source()
        self.site.files[f"{TARBALL}.asc"] = keys.detached("maker", source())
        self.wish = Wish(
            str(self.inventory), "1.30.7", keys=str(keys.public["maker"]), url=f"{site.url}/{TARBALL}", silence=5
        )

    def debian(self, text: str | bytes, **changes: Any) -> Wish:
        self.site.files[DSC] = self.keys.clear("maker", text) if isinstance(text, str) else text
        self.site.files.setdefault(ARCHIVE, SERIES)
        return dataclasses.replace(self.wish, version="", url=f"{self.site.url}/{DSC}", **changes)

    @property
    def text(self) -> str:
        return self.inventory.read_text()


@pytest.fixture
def place(tmp_path: Path, keys: Keys) -> Iterator[Place]:
    site = Site()
    with contextlib.closing(site):
        yield Place(tmp_path, site, keys)


def test_a_version_with_a_good_signature_is_written_and_the_rest_of_the_file_stays(place: Place) -> None:
    pinned = pin(place.wish)
    assert pinned.signer.name == "maker <maker@example.test>"
    assert len(pinned.signer.fingerprint) == 40
    assert pinned.place == "all.vars.nginx"
    sha256 = hashlib.sha256(source()).hexdigest()
    assert place.text == INVENTORY.replace("version: 1.26.3", "version: 1.30.7").replace(
        "      accept_known_vulnerabilities: true\n",
        f'      accept_known_vulnerabilities: true\n      url: "{place.wish.url}"\n      sha256: "{sha256}"\n',
    )
    assert [path.name for path in place.inventory.parent.iterdir()] == ["inventory.yaml"]
    assert not pin(place.wish).diff, "a second pin changes nothing"


def test_the_file_keeps_its_ends_of_lines_its_mode_and_its_readers(place: Place) -> None:
    text = INVENTORY.replace("\n", "\r\n")
    place.inventory.write_bytes(text.encode())
    place.inventory.chmod(0o600)
    pin(place.wish)
    written = place.inventory.read_bytes().decode()
    assert written.replace("\r\n", "").count("\n") == 0
    assert written.startswith(text.partition("version")[0])
    assert place.inventory.stat().st_mode & 0o7777 == 0o600


def test_a_check_writes_nothing(place: Place) -> None:
    assert pin(dataclasses.replace(place.wish, write=False)).diff
    assert place.text == INVENTORY


def test_debians_patches_are_written_with_the_vulnerabilities_that_they_name(place: Place) -> None:
    pinned = pin(place.debian(dsc()))
    assert pinned.patches == ["CVE-2026-42945.patch", "other.patch"]
    assert pinned.named == ["CVE-2026-42945", "CVE-2026-118899"]
    assert "CVE-2026-93479" in pinned.unnamed
    settings = yaml.safe_load(place.text)["all"]["vars"]["nginx"]
    assert settings["patches"] == [{"url": f"{place.site.url}/{ARCHIVE}", "sha256": hashlib.sha256(SERIES).hexdigest()}]


BAD = {
    "tampered": ({TARBALL: source() + b"x"}, {}, GuardError, "the signature is wrong"),
    "a web page": ({TARBALL: b"<!DOCTYPE html><html>"}, {}, GuardError, "is not a tarball: the file begins with"),
    "a web page as the signature": ({f"{TARBALL}.asc": b"<html>"}, {}, GuardError, "is not a signature"),
    "absent": ({TARBALL: 404}, {}, UnreachableError, "answers 404"),
    "no signature": ({f"{TARBALL}.asc": 404}, {}, UnreachableError, "answers 404"),
    "silent": ({TARBALL: None}, {"silence": 0.2}, UnreachableError, "cannot be fetched: timed out"),
    "no server": ({}, {"url": "http://127.0.0.1:9/x"}, UnreachableError, "cannot be fetched"),
    "no gpg": ({}, {"gpg": "no-such-gpg"}, UsageError, "no-such-gpg, which is not installed"),
    "no file of keys": ({}, {"keys": "/nonexistent/keys"}, UsageError, "no file of keys"),
    "no keys": ({}, {"keys": __file__}, UsageError, "holds no OpenPGP key"),
    "keys not named": ({}, {"keys": ""}, UsageError, "--keys is missing"),
    "a wrong version": ({}, {"version": "1.30.7; rm"}, UsageError, "no version of nginx"),
    "a file": ({}, {"url": "file:///etc/passwd"}, UsageError, "must be an http:// or https:// URL"),
    "a redirect to no address": ({TARBALL: "http://a..b/"}, {}, UnreachableError, "cannot be fetched"),
    "another inventory": ({}, {"inventory": "/nonexistent/i.yaml"}, UsageError, "cannot be read"),
}


@pytest.mark.parametrize(("files", "changes", "error", "says"), BAD.values(), ids=BAD)
def test_nothing_is_written_after_a_failure(
    place: Place, files: dict[str, Any], changes: dict[str, Any], error: type[Exception], says: str
) -> None:
    place.site.files |= files
    with pytest.raises(error, match=says):
        pin(dataclasses.replace(place.wish, **changes))
    assert place.text == INVENTORY
    assert [path.name for path in place.inventory.parent.iterdir()] == ["inventory.yaml"]


def test_a_signature_by_another_key_is_refused(place: Place) -> None:
    place.site.files[f"{TARBALL}.asc"] = place.keys.detached("stranger", source())
    with pytest.raises(GuardError, match="signed with a key that is not among the given keys"):
        pin(place.wish)


def test_an_expired_key_is_refused(place: Place) -> None:
    place.site.files[f"{TARBALL}.asc"] = place.keys.detached("expired", source(), LONG_AGO)
    with pytest.raises(GuardError, match="the key of the signature has expired"):
        pin(dataclasses.replace(place.wish, keys=str(place.keys.public["expired"])))


def test_a_signed_tarball_of_an_older_version_is_refused(place: Place) -> None:
    place.site.files |= {TARBALL: source("1.30.5"), f"{TARBALL}.asc": place.keys.detached("maker", source("1.30.5"))}
    with pytest.raises(GuardError, match=r"is a signed tarball of 'nginx-1.30.5', and not of nginx-1.30.7"):
        pin(place.wish)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"archive": "0" * 64}, "and the signed .dsc says 0000"),
        ({"orig": "0" * 64}, "is not the published nginx 1.26.3"),
        ({"version": "1.22.1-9+deb12u11"}, "is of nginx 1.22.1-9"),
        ({"source": "other"}, "is of other 1.26.3-3"),
        ({"orig": "x"}, "no list of sha256 sums"),
    ],
)
def test_a_source_package_that_does_not_fit_is_refused(place: Place, changes: dict[str, str], says: str) -> None:
    with pytest.raises(GuardError, match=says):
        pin(place.debian(dsc(**changes)))
    assert place.text == INVENTORY


def test_a_tampered_source_package_and_its_unsigned_parts_are_refused(place: Place) -> None:
    text = place.keys.clear("maker", dsc()).replace(b"deb13u11", b"deb13u99", 1)
    with pytest.raises(GuardError, match="the signature is wrong"):
        pin(place.debian(text))
    place.site.files[ARCHIVE] = b"\xfd7zXZ\x00 not the archive"
    with pytest.raises(GuardError, match=r"and the signed .dsc says"):
        pin(place.debian(dsc()))
    assert place.text == INVENTORY


def test_patches_are_not_pinned_for_another_version(place: Place) -> None:
    text = INVENTORY.replace("1.26.3", "1.28.3")
    place.inventory.write_text(text)
    with pytest.raises(UsageError, match=r"builds another version than 1.26.3"):
        pin(place.debian(dsc()))
    assert place.text == text


def test_a_balancer_with_settings_from_elsewhere_is_named(place: Place) -> None:
    folder = place.inventory.parent / "host_vars"
    folder.mkdir()
    (folder / "a.yml").write_text("nginx: {version: 1.26.3}\n")
    with pytest.raises(UsageError, match="a would keep settings of another file or group"):
        pin(place.wish)
    assert place.text == INVENTORY


def test_an_inventory_with_other_problems_stays(place: Place) -> None:
    text = INVENTORY.replace("gpus: [0]", "gpus: []")
    place.inventory.write_text(text)
    with pytest.raises(InventoryError) as refused:
        pin(place.wish)
    assert {problem.file for problem in refused.value.problems} == {str(place.inventory)}
    assert place.text == text


def test_patches_that_stay_beside_a_new_version_are_named(place: Place) -> None:
    pin(place.debian(dsc()))
    [remark] = pin(place.wish).remarks
    assert remark.startswith("nginx.patches of a stays")


@pytest.mark.parametrize(
    ("words", "files", "code"),
    [
        ([], {}, 0),
        (["--check"], {}, 0),
        ([], {TARBALL: source() + b"x"}, 7),
        ([], {TARBALL: 404}, 4),
        (["--debian-patches"], {}, 2),
        (["--keys", "/nonexistent"], {}, 2),
    ],
)
def test_the_command_line_has_the_exit_codes_of_all_commands(
    place: Place, capsys: pytest.CaptureFixture[str], words: list[str], files: dict[str, Any], code: int
) -> None:
    place.site.files |= files
    given = ["nginx", "pin", "1.30.7", "-i", str(place.inventory), "--keys", place.wish.keys, "--url", place.wish.url]
    assert cli.execute([*given, *words]) == code
    said = capsys.readouterr()
    assert ("good signature by maker" in said.out) is (code == 0)
    assert (place.text != INVENTORY) is (code == 0 and not words)
    assert cli.execute([*given, *words, "--json"]) == code
    document = json.loads(capsys.readouterr().out)
    checked(json.dumps(document))
    assert (document["command"], document["exit"]) == ("nginx pin", code)


# -- the edit


VALUES = {"version": "1.30.7", "sha256": "a" * 64}


def test_the_example_inventory_keeps_every_other_line() -> None:
    old = EXAMPLE.read_text()
    edit = with_settings(old, "nginx", {**VALUES, "patches": [{"url": "http://m/1+2.patch", "sha256": "b" * 64}]})
    changed = [(a, b) for a, b in zip(old.splitlines(), edit.text.splitlines(), strict=True) if a != b]
    assert changed == [
        ("      version: 1.26.3", "      version: 1.30.7"),
        ("      sha256: null", f'      sha256: "{"a" * 64}"'),
        ("      patches: []", f'      patches: [{{url: "http://m/1+2.patch", sha256: "{"b" * 64}"}}]'),
    ]


SUM = f'"{"a" * 64}"'


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("gpu: {hosts: {a: }}\n", "gpu: {hosts: {a: }}\nall: {vars: {nginx: {version: 1.30.7}}}\n"),
        ("all:\n  children: {gpu: }\n", "all:\n  children: {gpu: }\n  vars: {nginx: {version: 1.30.7}}\n"),
        (
            "all:\n  vars:\n    a: 1 # one\n# end\n",
            "all:\n  vars:\n    a: 1 # one\n    nginx: {version: 1.30.7}\n# end\n",
        ),
        ("all: {vars: {}}", "all: {vars: {nginx: {version: 1.30.7}}}"),
        ("all: {vars: {nginx: }}", "all: {vars: {nginx: {version: 1.30.7} }}"),
        ("all:\n  vars:\n    nginx:\n", "all:\n  vars:\n    nginx: {version: 1.30.7}\n"),
        ("all: {vars: {nginx: {log_days: 3}}}", "all: {vars: {nginx: {log_days: 3, version: 1.30.7}}}"),
        ("g: {hosts: {a: {nginx: {version: '1.2.3' }}}}", "g: {hosts: {a: {nginx: {version: 1.30.7 }}}}"),
        ("all:\n  vars:\n    nginx: {log_days: 3}", "all:\n  vars:\n    nginx: {log_days: 3, version: 1.30.7}"),
        (
            "all:\n  vars:\n    nginx:\n      version: |-\n        1.2.3\n      # days\n      log_days: 3\n",
            "all:\n  vars:\n    nginx:\n      version: 1.30.7\n      # days\n      log_days: 3\n",
        ),
        (
            "x: &n {log_days: 3}\nall:\n  vars:\n    nginx:\n      <<: *n\n",
            "x: &n {log_days: 3}\nall:\n  vars:\n    nginx:\n      <<: *n\n      version: 1.30.7\n",
        ),
        (
            "---\r\nall:\r\n  vars:\r\n    a: 1",
            "---\r\nall:\r\n  vars:\r\n    a: 1\r\n    nginx: {version: 1.30.7}\r\n",
        ),
        (
            "all:\n  vars:\n    nginx:\n      log_days: 3",
            "all:\n  vars:\n    nginx:\n      log_days: 3\n      version: 1.30.7\n",
        ),
    ],
)
def test_the_least_edit(old: str, new: str) -> None:
    assert with_settings(old, "nginx", {"version": "1.30.7"}).text == new
    assert with_settings(new, "nginx", {"version": "1.30.7"}).text == new


def test_a_list_in_lines_is_replaced_and_what_follows_stays() -> None:
    old = (
        "all:\n  vars:\n    nginx:\n      patches:\n        - url: http://m/1\n          sha256: abc  # old\n"
        "\n      # days\n      log_days: 3\n"
    )
    edit = with_settings(old, "nginx", {"patches": [{"url": "http://m/2", "sha256": "a" * 64}]})
    assert edit.text == (
        f'all:\n  vars:\n    nginx:\n      patches: [{{url: "http://m/2", sha256: {SUM}}}]  # old\n'
        "\n      # days\n      log_days: 3\n"
    )


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (
            "all: {vars: {nginx: {}}}\ngpu: {hosts: {a: {nginx: {}}}}",
            "several places: all.vars.nginx, gpu.hosts.a.nginx",
        ),
        ("[gpu]\na ansible_host=1\n", "no YAML"),
        ("- a\n", "no YAML mapping"),
        ("x: &n {log_days: 3}\nall: {vars: {nginx: *n}}", "alias"),
        ("x: &n {nginx: {log_days: 3}}\nall:\n  vars:\n    <<: *n\n", "`<<` at line 4"),
        ("all: {vars: {}}\n---\nall: {vars: {}}\n", "no YAML: expected a single document"),
        ("all: {vars: {nginx: {version: &v 1.2.3, url: *v}}}", "no YAML|beyond an edit|alias"),
    ],
)
def test_an_inventory_beyond_an_edit_is_refused(text: str, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        with_settings(text, "nginx", VALUES)
