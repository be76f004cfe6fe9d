"""Apt: versions in the order of dpkg, keys with the fingerprints of gpg, and the script that waits for locks."""

import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from provision.command import Run
from provision.steps.system import apt, apt_repository
from provision.steps.system.debian_version import compare
from provision.steps.system.openpgp import fingerprints

needs_dpkg = pytest.mark.skipif(not shutil.which("dpkg"), reason="asks dpkg itself")
needs_gpg = pytest.mark.skipif(not shutil.which("gpg"), reason="asks gpg itself")

parts = st.text("0123456789abz.+~", min_size=1, max_size=8).map(lambda text: "1" + text)
versions = st.builds(
    lambda epoch, upstream, revision: epoch + upstream + revision,
    st.sampled_from(("", "5:", "0:")),
    parts,
    st.one_of(st.just(""), parts.map(lambda text: "-" + text)),
)


@needs_dpkg
@settings(max_examples=60)
@given(versions, versions)
def test_versions_have_the_order_of_dpkg(left: str, right: str) -> None:
    words = ["dpkg", "--compare-versions", left, "lt", right]
    assert (compare(left, right) < 0) == (subprocess.run(words, check=False).returncode == 0)


@needs_gpg
@pytest.mark.parametrize("path", sorted(Path("/usr/share/keyrings").glob("*.gpg")), ids=lambda path: path.name)
def test_fingerprints_are_equal_to_those_of_gpg(path: Path) -> None:
    shown = subprocess.run(["gpg", "--with-colons", "--show-keys", path], capture_output=True, text=True, check=True)
    awaited, primary = False, set()
    for kind, *fields in (line.split(":") for line in shown.stdout.splitlines()):
        if kind == "fpr" and awaited:
            primary.add(fields[8])
        awaited = kind == "pub" or (awaited and kind not in ("sub", "fpr"))
    assert list(fingerprints(path.read_bytes())) == sorted(primary)


@given(st.binary(max_size=300))
def test_random_bytes_have_no_fingerprint_and_raise_no_error(data: bytes) -> None:
    assert all(len(found) == 40 for found in fingerprints(data))


@pytest.mark.parametrize("text", [apt.SCRIPT, apt_repository.FETCH], ids=["apt", "fetch"])
def test_scripts_have_no_syntax_error(text: str) -> None:
    assert subprocess.run(["sh", "-n"], input=text, text=True, check=False).returncode == 0


def test_options_and_packages_reach_apt_as_words_of_their_own() -> None:
    step = apt.Packages(name="x", packages={"a b; $(c)": "1 2"}, lock_timeout=7)
    (command,) = step.commands(None, {"a b; $(c)": "1 2"})
    assert isinstance(command, Run)
    assert command.words == ("sh", "-s", "--", "7", "", "", "a b; $(c)=1 2")
    assert b"a b" not in command.stdin


def test_progress_shows_waiting_and_no_chatter() -> None:
    assert apt.progress("waiting: apt is locked by process 1 (x), 0 of at most 600 s\n")
    assert apt.progress("Reading package lists...") is None
