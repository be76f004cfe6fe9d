"""`verify --deep`: the hash of files on a host, the record of damaged files, and the way to the next deploy."""

import hashlib
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from provision import actions, cli, testing
from provision.cli.caller import Caller
from provision.command import Script, look
from provision.events import Event
from provision.plan.role_interface import Entry
from provision.ssh.host_paths import HostPaths
from provision.steps.base import Check, Content
from provision.steps.system import content
from provision.testing import ShellHost

from .test_actions import INVENTORY
from .test_verification import Proved, failed, verified

__all__ = ["verified"]


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def wanted(path: Path, data: bytes) -> Content:
    return Content(str(path), sha(data), len(data), path.name)


class Disk:
    """A folder with files and the record of damaged files.

    Args:
        folder: the folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.record = folder / "state/damaged"

    def file(self, name: str, data: bytes) -> Path:
        path = self.folder / name
        path.write_bytes(data)
        return path

    def hash(self, *contents: Content, path: str = "") -> tuple[content.Hashes, list[str]]:
        """Return the hashes, and the lines of the job."""
        run = content.command(contents, str(self.record))
        environment = {**os.environ, "PATH": path or os.environ["PATH"]}
        done = subprocess.run(run.words, input=run.stdin, capture_output=True, check=False, env=environment)
        assert done.returncode == 0, done.stderr
        hashes = content.Hashes(contents)
        lines = done.stdout.decode().splitlines()
        for line in lines:
            hashes.take(line)
        return hashes, lines

    def damaged(self) -> dict[str, str]:
        """Return the entries of the record that still hold, as the read of Docker gets them."""
        shell = content.STILL_DAMAGED.replace(content.RECORD, str(self.record))
        run = look(Script("test/damaged", f"{shell}\ndamaged"), title="look")
        said = subprocess.run(run.words, input=run.stdin, capture_output=True, check=True)
        assert not said.stderr
        return dict(content.parse_record(said.stdout.decode().splitlines()))


@pytest.fixture
def disk(tmp_path: Path) -> Disk:
    return Disk(tmp_path)


def test_damage_that_keeps_the_size_is_found_and_remembered(disk: Disk) -> None:
    good, bad = disk.file("a b", b"whole"), disk.file("bad", b"wrong")
    hashes, _ = disk.hash(wanted(good, b"whole"), wanted(bad, b"right"))
    assert hashes.found == {str(good): sha(b"whole"), str(bad): sha(b"wrong")}
    assert disk.damaged() == {str(bad): sha(b"wrong")}


def test_a_host_without_damage_has_no_record(disk: Disk) -> None:
    disk.hash(wanted(disk.file("good", b"whole"), b"whole"))
    assert not disk.record.parent.exists()
    assert disk.damaged() == {}


@pytest.mark.parametrize("replaced", [True, False], ids=["replaced", "written to"])
def test_an_entry_holds_until_the_file_is_written_to_or_replaced(disk: Disk, replaced: bool) -> None:
    bad, odd = disk.file("a b", b"wrong"), disk.file("other", b"odd")
    disk.hash(wanted(bad, b"right"), wanted(odd, b"even"))
    if replaced:
        disk.file("new", b"right").rename(bad)
    else:
        bad.write_bytes(b"right")
    assert disk.damaged() == {str(odd): sha(b"odd")}


def test_the_next_hash_forgets_a_file_that_is_whole_again(disk: Disk) -> None:
    bad, odd = disk.file("bad", b"wrong"), disk.file("odd", b"odd")
    disk.hash(wanted(bad, b"right"), wanted(odd, b"even"))
    bad.write_bytes(b"right")
    disk.hash(wanted(bad, b"right"))
    assert str(bad) not in disk.record.read_text()
    assert disk.damaged() == {str(odd): sha(b"odd")}
    odd.write_bytes(b"even")
    disk.hash(wanted(odd, b"even"))
    assert not disk.record.exists()


def test_a_file_with_several_paths_is_hashed_once(disk: Disk) -> None:
    first = disk.file("first", b"wrong")
    second = disk.folder / "second"
    second.hardlink_to(first)
    (disk.folder / "linked").symlink_to(disk.folder)
    third = disk.folder / "linked/first"
    counting = disk.folder / "bin"
    counting.mkdir()
    (counting / "sha256sum").write_text(f'#!/bin/sh\necho once >>{disk.folder}/counted\nexec /usr/bin/sha256sum "$@"\n')
    (counting / "sha256sum").chmod(0o755)
    every = [wanted(path, b"right") for path in (first, second, third)]
    hashes, _ = disk.hash(*every, path=f"{counting}:{os.environ['PATH']}")
    assert (disk.folder / "counted").read_text() == "once\n"
    assert set(hashes.found.values()) == {sha(b"wrong")}
    assert set(disk.damaged()) == {str(path) for path in (first, second, third)}


def test_a_missing_file_and_a_link_have_no_hash(disk: Disk) -> None:
    target, link = disk.file("target", b"secret"), disk.folder / "link"
    link.symlink_to(target)
    hashes, _ = disk.hash(wanted(disk.folder / "gone", b"x"), wanted(link, b"secret"))
    assert hashes.found == {}
    assert hashes.problems == dict.fromkeys([str(disk.folder / "gone"), str(link)], "the file is gone")


def test_a_file_with_a_read_error_counts_as_damaged(disk: Disk) -> None:
    broken = disk.folder / "bin"
    broken.mkdir()
    (broken / "sha256sum").write_text("#!/bin/sh\necho 'sha256sum: -: Input/output error' >&2; exit 1\n")
    (broken / "sha256sum").chmod(0o755)
    bad = disk.file("bad", b"right")
    hashes, _ = disk.hash(wanted(bad, b"right"), path=f"{broken}:{os.environ['PATH']}")
    assert hashes.found[str(bad)] == "unreadable: sha256sum: -: Input/output error"
    assert disk.damaged() == {str(bad): "unreadable:"} or "unreadable" in disk.damaged()[str(bad)]


def test_a_file_that_changes_meanwhile_is_no_finding(disk: Disk) -> None:
    busy = disk.folder / "bin"
    busy.mkdir()
    bad = disk.file("bad", b"wrong")
    (busy / "sha256sum").write_text(f"#!/bin/sh\necho x >>{bad}\nexec /usr/bin/sha256sum\n")
    (busy / "sha256sum").chmod(0o755)
    hashes, _ = disk.hash(wanted(bad, b"right"), path=f"{busy}:{os.environ['PATH']}")
    assert hashes.problems == {str(bad): "the file changed while it was hashed"}
    assert not disk.record.exists()


def test_the_hash_has_the_lowest_priority(disk: Disk) -> None:
    folder = disk.folder / "bin"
    folder.mkdir()
    (folder / "sha256sum").write_text(f"#!/bin/sh\n{{ nice; ionice; }} >{disk.folder}/rank\nexec /usr/bin/sha256sum\n")
    (folder / "sha256sum").chmod(0o755)
    disk.hash(wanted(disk.file("file", b"x"), b"x"), path=f"{folder}:{os.environ['PATH']}")
    nice, ionice = (disk.folder / "rank").read_text().split()
    assert (int(nice) > os.nice(0) or os.nice(0) == 19, ionice) == (True, "idle")


def test_a_hash_says_how_far_it_is(disk: Disk) -> None:
    _, lines = disk.hash(wanted(disk.file("a", b"12345"), b"12345"), wanted(disk.file("b", b"123"), b"123"))
    assert lines[0] == "at 0 of 8 0"
    assert lines[-1].startswith("at 8 of 8 ")


def test_progress_names_the_rest_of_the_time() -> None:
    assert content.progress("at 10000000000 of 40000000000 20") == "hashed 10.0 GB of 40.0 GB, about 61 s left"
    assert content.progress("at 0 of 404000000000 0") == "hashed 0.0 MB of 404.0 GB, about 14 min left"
    assert content.progress("at 5 of 5 1") is None
    assert content.progress("is 1 " + "a" * 64) is None


def test_the_limit_of_a_hash_grows_with_the_files() -> None:
    few, many = (content.command([Content("/x", "a" * 64, size, "x")]).timeout for size in (10, 404 * 10**9))
    assert (few, many) == (600, 600 + 80800)


@pytest.mark.parametrize("line", ["is 3 " + "a" * 64, "is 0 " + "a" * 64, "is 1 /etc/shadow", "at 1", "is x y", ""])
def test_a_line_of_another_form_says_nothing(line: str) -> None:
    hashes = content.Hashes([Content("/a", "b" * 64, 1, "a"), Content("/c", "d" * 64, 1, "c")])
    hashes.take(line)
    assert str(line).startswith("is 1") or not hashes.problems
    assert not hashes.found


# -- in a verification


@dataclass(frozen=True)
class Vouches(Proved):
    """A step that vouches for the bytes of two files."""

    right: str = "right"

    def contents(self, live):
        for name in ("one", "two"):
            path = Path(self.path).parent / name
            if path.exists():
                yield Content(str(path), sha(self.right.encode()), path.stat().st_size, name)

    def check(self, live):
        yield Check("size", 5, 5)


@dataclass(frozen=True)
class Other(Vouches):
    """Another step with the same files."""

    id = "note:other"


@pytest.fixture
def files(tmp_path):
    (tmp_path / "one").write_text("right")
    (tmp_path / "two").write_text("wrong")
    return tmp_path


def test_a_deep_verification_fails_by_file_and_names_both_digests(verified, files):
    result = verified(Vouches(str(files / "x")), deep=True)
    assert result.result == "failed"
    [[found]] = failed(result).values()
    assert found == ("bytes of two", sha(b"wrong"), sha(b"right"))
    [step] = result.steps
    assert step.drifted
    assert (files / "state/damaged").read_text().endswith(f" {sha(b'wrong')} {files}/two\n")


def test_a_plain_verification_hashes_nothing(verified, files):
    assert verified(Vouches(str(files / "x"))).result == "passed"
    assert not (files / "state/damaged").exists()


def test_files_of_several_steps_are_hashed_once_and_fail_every_step(verified, files):
    result = verified(Vouches(str(files / "x")), Other(str(files / "x")), deep=True)
    assert [step.passed for step in result.steps] == [False, False]
    [job] = [text for text in result.scripts if b"setsid" in text]
    assert job.count(str(files / "two").encode()) == 1


def test_a_job_that_ends_early_fails_by_file(verified, files):
    (files / "state").write_text("no folder")
    (files / "one").write_text("wrong too")
    result = verified(Vouches(str(files / "x")), deep=True)
    [found] = failed(result).values()
    assert [got.partition(": the job exited 1: ")[0] for _, got, _ in found] == ["not hashed"] * 2
    assert not result.steps[0].drifted, "an unfinished hash proves no damage"


@pytest.fixture
def inventory(files, monkeypatch):
    """A setup with a host that vouches for two files, one of them damaged."""
    (files / "inventory.yaml").write_text(INVENTORY)
    monkeypatch.chdir(files)

    def steps(host, inventory):
        return (Entry("docker", Vouches(str(files / "x"))),)

    paths = HostPaths(run=f"{files}/run", state=f"{files}/state")
    return testing.setup(files, lambda *_: ShellHost(paths), steps=steps, owned=())


HERE = ["-i", "inventory.yaml", "-l", "gpu-01", "-t", "docker"]


def test_the_command_names_file_digests_and_the_next_command(inventory, files, capsys):
    assert cli.execute(["verify", *HERE], Caller(inventory)) == 0
    assert cli.execute(["verify", "--deep", *HERE], Caller(inventory)) == 5
    said = capsys.readouterr().out
    assert "the next deploy replaces the file" in said
    for line in ("bytes of two", f"expected {sha(b'right')}", f"got      {sha(b'wrong')}"):
        assert line in said
    assert "next: provision deploy -i inventory.yaml" in said
    (files / "two").write_text("right")
    assert cli.execute(["verify", "--deep", *HERE], Caller(inventory)) == 0


def test_a_long_hash_is_seen_to_be_alive(inventory):
    events: list[Event] = []
    request = actions.Request("inventory.yaml", limit=("gpu-01",), tags=("docker",), setup=inventory)
    assert actions.verify(request, deep=True, listen=events.append).exit_code == 5
    texts = [event.text for event in events if event.kind == "progress"]
    assert texts[0] == "waiting for the hashes of 2 files, 0.0 MB: about 1 s at 500 MB/s"
    assert any(text.startswith("hashed 0.0 MB of 0.0 MB, about") for text in texts[1:])
