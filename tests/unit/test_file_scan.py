"""The listing of files, by a real `find`: contents and hashes follow the records, and belong to the right files."""

import hashlib
import subprocess
from pathlib import Path

import pytest

from provision.command import Answer
from provision.steps.base import UnreadableError
from provision.steps.system import file_scan
from provision.steps.system.file_scan import Content

ODD = "a\nname\\with =contents 1"


def listing(*paths: Path) -> bytes:
    command = file_scan.command(*map(str, paths))
    return subprocess.run(command.words, input=command.stdin, capture_output=True, check=True).stdout


def test_contents_and_hashes_go_to_their_files(tmp_path: Path) -> None:
    shown = {"one": b"=contents 3\n", "two": b"", "three": b"\0/x\n\n=sums 1\n", ODD: b"odd\n"}
    hidden = {"secret": b"s3cret", f"{ODD}.secret": b"more", "large": b"x" * 70_000}
    for name, content in {**shown, **hidden}.items():
        (tmp_path / name).write_bytes(content)
        (tmp_path / name).chmod(0o600 if name in hidden and name != "large" else 0o644)
    (tmp_path / "link").symlink_to("one")
    (tmp_path / "folder").mkdir()
    text = listing(tmp_path)
    found = {path.rpartition("/")[2]: entry for path, entry in file_scan.parse(Answer(0, text)).items()}
    assert {name: entry.kind for name, entry in found.items() if entry.kind != "file"} == {
        tmp_path.name: "directory",
        "folder": "directory",
        "link": "link",
    }
    for name, content in {**shown, **hidden}.items():
        assert found[name].sha256 == hashlib.sha256(content).hexdigest(), name
        kept = found[name].sha256
        assert (kept.data if isinstance(kept, Content) else None) == shown.get(name)
    assert b"s3cret" not in text


def test_a_listing_of_many_files_needs_several_programs_and_misses_no_file(tmp_path: Path) -> None:
    folder = tmp_path / ("long" * 50)
    folder.mkdir()
    names = [f"{number:04}-{'x' * 180}" for number in range(900)]
    for name in names:
        (folder / name).write_text(name)
    text = listing(tmp_path)
    assert text.count(b"\n=contents ") + text.startswith(b"=contents ") > 1
    found = file_scan.parse(Answer(0, text))
    for name in names:
        content = found[f"{folder}/{name}"].sha256
        assert isinstance(content, Content)
        assert content.data == name.encode()


RECORD = b"/a\0f\x000644\0root:root\0\0later 3\n\n/b\0f\x000644\0root:root\0\0later 2\n\n"


@pytest.mark.parametrize(
    "behind",
    [
        b"",
        b"=contents 2\nab",
        b"=contents 2\nabcdefg",
        b"=contents 3\nabcde",
        b"=contents 1\nabc",
        b"=contents x\nabcde",
    ],
)
def test_a_file_changed_during_the_listing_makes_the_listing_unreadable(behind: bytes) -> None:
    assert [str(found.sha256) for found in file_scan.parse(Answer(0, RECORD + b"=contents 2\nabcde")).values()] == [
        Content(b"abc"),
        Content(b"de"),
    ]
    with pytest.raises(UnreadableError):
        file_scan.parse(Answer(0, RECORD + behind))
