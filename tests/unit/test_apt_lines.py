"""The sources of apt on a host: the parser of the script's output, and the comparison with our repositories."""

import dataclasses
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provision.command import Answer
from provision.roles.docker import KEY, SOURCE
from provision.steps import apt_lines, facts
from provision.steps.apt_lines import AptLine
from provision.steps.base import RefusalError
from provision.steps.facts import HostFacts
from provision.steps.system.apt_repository import AptSource, Repository

LIST = r"""# deb http://commented x
deb [arch=amd64 signed-by=/k.asc] https://a/linux/debian trixie stable test # why
 deb-src http://b sid main
deb http://nosuite
rpm http://c x y
deb [ arch=amd64,arm64 ] http://d/$(ARCH) /
"""
STANZAS = """# a comment

Types: deb deb-src
URIs: http://c
 http://d
Suites: x y
Components: main
# in between
Signed-By:
 -----BEGIN PGP PUBLIC KEY BLOCK-----
 .
 abc

Types: deb
URIs: http://off
Suites: x
Enabled: no

types: deb-src
uris: http://last
suites: z
architectures: arm64
"""


@pytest.fixture
def read(tmp_path):
    """A function that writes files, and returns the sources that the script of the host facts reads in them."""

    def run(**files):
        parts = tmp_path / "sources.list.d"
        parts.mkdir()
        for name, text in files.items():
            (parts / name if name != "main" else tmp_path / "sources.list").write_text(text)
        script = apt_lines.READ.replace("/etc/apt", str(tmp_path))
        done = subprocess.run(["sh", "-s"], input="set -u\n" + script, capture_output=True, text=True, check=True)
        assert done.stderr == ""
        return apt_lines.parse(done.stdout.replace(str(tmp_path), "/etc/apt").splitlines())

    return run


def test_one_line_and_deb822_sources_are_read(read):
    found = read(**{"main": "deb http://z sid main\n", "b.list": LIST, "a.sources": STANZAS})
    parts = "/etc/apt/sources.list.d"
    block = "-----BEGIN PGP PUBLIC KEY BLOCK-----\n.\nabc"
    assert found == (
        AptLine("/etc/apt/sources.list", 1, True, "http://z", "sid", ("main",)),
        *(
            AptLine(f"{parts}/a.sources", 3, True, uri, suite, ("main",), signed_by=block)
            for uri in ("http://c", "http://d")
            for suite in ("x", "y")
        ),
        AptLine(f"{parts}/a.sources", 19, False, "http://last", "z", architectures=("arm64",)),
        AptLine(
            *(f"{parts}/b.list", 2, True, "https://a/linux/debian", "trixie", ("stable", "test")),
            architectures=("amd64",),
            signed_by="/k.asc",
        ),
        AptLine(f"{parts}/b.list", 3, False, "http://b", "sid", ("main",)),
        AptLine(f"{parts}/b.list", 6, True, "http://d/$(ARCH)", "/", architectures=("amd64", "arm64")),
    )


def test_files_that_apt_ignores_are_ignored(read):
    line = "deb http://a x y\n"
    assert read(**{"a.list.save": line, "b.bak": line, "with blank.list": line, "empty.list": ""}) == ()


def test_a_host_may_have_no_sources(read):
    assert read() == ()


def test_other_lines_are_dropped():
    said = ["/etc/shadow:1:deb http://a x y", "deb http://a x y", "/etc/apt/sources.list:one:deb http://a x y", ""]
    assert apt_lines.parse(said) == ()


def test_the_sources_of_apt_are_host_facts():
    command = facts.command(("127.0.0.1",))
    done = subprocess.run(command.words, input=command.stdin, capture_output=True, check=True)
    assert facts.parse(Answer(0, done.stdout).text).resolved == {"127.0.0.1": "127.0.0.1"}, (
        "the section of the peers is kept"
    )
    text = "# apt\n/etc/apt/sources.list:3:deb http://a x y\n# gpu\n# gpu-exit\n127\n"
    assert facts.parse(text).sources_of_apt == (AptLine("/etc/apt/sources.list", 3, True, "http://a", "x", ("y",)),)


@pytest.mark.parametrize(("name", "text"), [("a.list", LIST), ("a.sources", STANZAS)])
def test_the_advised_command_switches_off_one_repository(tmp_path: Path, read, name, text):
    first, *others = read(**{name: text})
    path = tmp_path / "sources.list.d" / name
    command = first.switch_off.removeprefix("sudo ").replace("/etc/apt", str(tmp_path))
    subprocess.run(["sh", "-euc", command], check=True)
    numbered = enumerate(path.read_text().splitlines(), 1)
    left = apt_lines.parse(f"/etc/apt/sources.list.d/{name}:{n}:{one}" for n, one in numbered if one[:1] != "#")
    assert [line.uri for line in left] == [line.uri for line in others if line.number != first.number]


REPOSITORY = Repository(
    name="docker", uri="https://a/linux/{distribution}", suite="{codename}", component="stable", source=SOURCE, key=KEY
)
LINE = AptLine("/etc/apt/sources.list.d/docker.list", 1, True, "https://a/linux/debian/", "trixie", ("stable",))


def test_a_rollback_leaves_our_source_unchanged_beside_a_newer_foreign_line():
    step = AptSource(path=SOURCE, content=b"x", repository=REPOSITORY)
    past = {"kind": "file", "sha256": "ab" * 32, "mode": "0644", "owner": "root:root"}
    there = HostFacts(distribution="debian", codename="trixie", sources_of_apt=(LINE,))
    assert step.restore(there, None, past) is None
    assert step.restore(there, {**past, "mode": "0600"}, past) == {**past, "mode": "0600"}
    assert step.restore(HostFacts(distribution="debian", codename="trixie"), None, past) == past


@pytest.mark.parametrize(("count", "end"), [(3, "docker3.list"), (5, "then run provision again, which names 2 more")])
def test_a_refusal_counts_the_contrary_lines_beyond_the_named(count, end):
    folder = "/etc/apt/sources.list.d"
    lines = [
        dataclasses.replace(LINE, path=f"{folder}/docker{n}.list", signed_by=f"/{n}.asc") for n in range(count + 1)
    ]
    with pytest.raises(RefusalError) as refusal:
        REPOSITORY.refuse(HostFacts(distribution="debian", codename="trixie", sources_of_apt=tuple(lines)))
    assert str(refusal.value).endswith(end)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("http://mirror.test:3142/debian/dists/trixie-updates", "http://mirror.test:3142/debian/dists/trixie-updates"),
        ("https://mirror.test/t0k3n/debian/dists/trixie", "https://mirror.test/.../debian/dists/trixie"),
        ("https://mirror.test/a/b/ubuntu/", "https://mirror.test/.../ubuntu/"),
        ("https://mirror.test/debian?key=a", "https://mirror.test/..."),
        ("https://mirror.test?key=a/b", "https://mirror.test/..."),
        ("https://user:word@mirror.test/debian", "https://[secret]@mirror.test/debian"),
        ("from https to 'http://mirror.test/x' is forbidden", "from https to 'http://mirror.test/...' is forbidden"),
        (
            "Malformed entry 1 in list file /etc/apt/sources.list",
            "Malformed entry 1 in list file /etc/apt/sources.list",
        ),
        ("https://[::1]:80/x/deb", "https://[::1]:80/.../deb"),
        ("http://mirror.test", "http://mirror.test"),
    ],
)
def test_an_address_of_a_repository_is_shown_without_what_may_be_secret(text: str, said: str) -> None:
    assert apt_lines.shown(text) == said


WORD = st.text(st.sampled_from("abc019-_%~=&."), max_size=12).map("canary{}".format)


@given(st.lists(WORD, min_size=1, max_size=4), WORD, st.sampled_from(["/", "?", "&k=", "/debian/"]), st.booleans())
def test_no_part_of_a_path_or_a_login_is_ever_shown(names: list[str], word: str, between: str, login: bool) -> None:
    place = f"{word}:{word}@mirror.test" if login else "mirror.test"
    address = f"https://{place}/{between.join(names)}/dists/trixie/InRelease"
    for text in (address, f"E: Failed to fetch {address}  403", f"source '{address}' trixie: x != y"):
        assert "canary" not in apt_lines.shown(text)
        assert "mirror.test/" in apt_lines.shown(text)
