"""requirements.lock holds a whole development install, and a failed install prints advice."""

import re
import sys
import venv
import zipfile
from hashlib import sha256

import pytest
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.version import Version

from tests import requirements

PYPROJECT = requirements.pyproject()
TEXT = (requirements.ROOT / requirements.LOCK).read_text()
BUILD = PYPROJECT["build-system"]["requires"]
DEV = PYPROJECT["project"]["optional-dependencies"]["dev"]
ASKED = [Requirement(text) for text in (*PYPROJECT["project"]["dependencies"], *DEV, *BUILD)]


def entries() -> list[tuple[Requirement, str]]:
    """Return every requirement of the lock file, and the rest of the entry."""
    found = re.findall(r"^([a-z0-9][^\\\n]*?) \\\n((?:[ ]+[^\n]*\n)*)", TEXT, re.MULTILINE)
    return [(Requirement(requirement), rest) for requirement, rest in found]


def locked(python: str, machine: str) -> dict[str, Version]:
    """Return the versions of the lock file for a Python on Linux."""
    here = {**default_environment(), "python_version": python, "python_full_version": f"{python}.0"}
    here |= {"sys_platform": "linux", "os_name": "posix", "platform_machine": machine}
    chosen = [one for one, _ in entries() if one.marker is None or one.marker.evaluate(here)]
    names = [one.name for one in chosen]
    assert len(set(names)) == len(names), "a package has two versions"
    return {one.name: Version(str(one.specifier).removeprefix("==")) for one in chosen}


def test_every_requirement_has_one_version_and_hashes():
    assert len(entries()) == len(re.findall(r"^[^#\s]", TEXT, re.MULTILINE))
    for requirement, rest in entries():
        assert re.fullmatch(r"==[^,*]+", str(requirement.specifier)), requirement
        assert re.search(r"--hash=sha256:[0-9a-f]{64}\b", rest), requirement


def test_the_lock_file_names_no_index_and_no_address():
    assert "://" not in TEXT
    assert [line for line in TEXT.splitlines() if line.startswith("-")] == []
    assert " @ " not in TEXT


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
@pytest.mark.parametrize("python", ["3.11", "3.12", "3.13"])
def test_every_requirement_of_pyproject_is_locked_within_its_range(python, machine):
    have = locked(python, machine)
    for asked in ASKED:
        assert asked.specifier.contains(have[requirements.canonical(asked.name)]), asked


@pytest.mark.parametrize("asked", ASKED, ids=lambda asked: asked.name)
def test_every_upper_bound_is_the_release_after_the_tested_release(asked):
    bounds = [bound.version for bound in asked.specifier if bound.operator == "<"]
    assert len(bounds) == 1, f"{asked} has no upper bound"
    *same, last = map(int, bounds[0].split("."))
    have = locked("3.11", "x86_64")[requirements.canonical(asked.name)]
    assert have.release[: len(same) + 1] == (*same, last - 1), f"{have} is not of the last series before {bounds[0]}"


@pytest.fixture(scope="module")
def env(tmp_path_factory):
    home = tmp_path_factory.mktemp("env")
    venv.create(home, with_pip=False)
    return [sys.executable, "-m", "pip", "--python", str(home / "bin/python")]


@pytest.fixture
def index(tmp_path, monkeypatch):
    """A folder of packages in place of the index, with `thing` 1.0; returns the hash of the wheel."""
    folder = tmp_path / "index"
    folder.mkdir()
    for name, value in {"NO_INDEX": "1", "FIND_LINKS": str(folder), "NO_CACHE_DIR": "1"}.items():
        monkeypatch.setenv(f"PIP_{name}", value)
    wheel = folder / "thing-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as packed:
        packed.writestr("thing-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: thing\nVersion: 1.0\n")
        packed.writestr("thing-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        packed.writestr("thing-1.0.dist-info/RECORD", "")
    return sha256(wheel.read_bytes()).hexdigest()


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("thing==1.1 --hash=sha256:HASH", "The index has no thing==1.1 for this Python"),
        ("gone==1.0 --hash=sha256:HASH", "The index has no file of gone==1.0: the package disappeared"),
        ("thing==1.0 --hash=sha256:" + "0" * 64, "The index serves another file of thing==1.0 than requirements.lock"),
        ("thing==1.0", "requirements.lock does not resolve"),
        ("thing>=1.0 --hash=sha256:HASH", "requirements.lock does not resolve"),
        ("<<<<<<< HEAD", "requirements.lock does not resolve"),
    ],
)
def test_a_lock_file_that_cannot_be_installed_leads_to_advice(env, index, tmp_path, line, says):
    (tmp_path / requirements.LOCK).write_text(line.replace("HASH", index) + "\n")
    with pytest.raises(requirements.RequirementsError, match=re.escape(says)) as caught:
        requirements.install(env, tmp_path)
    assert "`make update`" in str(caught.value)


UNSOLVED = "error: No solution found when resolving dependencies\n  cause: Because "


@pytest.mark.parametrize(
    ("said", "advice"),
    [
        (
            f"{UNSOLVED}gone was not found in the package registry and provision depends on gone, we can conclude",
            "The index has no package gone. Where pyproject.toml asks for it, replace it there",
        ),
        (
            f"{UNSOLVED}only click<=8.5.1 is available and provision depends on click>=99, we can conclude",
            "Change their ranges in pyproject.toml and run `make update` again. requirements.lock is unchanged.",
        ),
        ("error: Failed to fetch: `http://127.0.0.1:9/simple/click/`\n", "No package index answers."),
        (
            "WARNING: Retrying after connection broken by 'X'\nERROR: No matching distribution found for thing==1.0\n",
            "No package index answers.",
        ),
        ("provision 0.1.0 requires thing, which is not installed.\n", "requirements.lock does not resolve"),
        ("provision 0.1.0 has requirement click<9, but you have click 9.1.\n", "requirements.lock does not resolve"),
        ("ERROR: No space left on device\n", "The output above says why."),
    ],
)
def test_errors_of_pip_and_uv_become_advice(said, advice):
    assert advice in requirements.advice(said)


def test_uv_gets_the_indexes_of_pips_configuration():
    config = (
        "global.cert='/etc/ssl/ca.pem'\nglobal.extra-index-url='\\nhttps://a.example/x\\nhttps://b.example/'\n"
        "global.index-url='https://c.example/'\n:env:.index-url='https://d.example/'\nglobal.timeout='60'\n"
    )
    assert requirements.indexes(config) == {
        "SSL_CERT_FILE": "/etc/ssl/ca.pem",
        "UV_INDEX": "https://a.example/x https://b.example/",
        "UV_DEFAULT_INDEX": "https://d.example/",
    }


UV = """
import pathlib, sys
target = pathlib.Path(sys.argv[sys.argv.index("--output-file") + 1])
target.write_text("half")
if pathlib.Path("gone").exists():
    sys.exit("error: No solution found when resolving dependencies")
target.write_text(sys.stdin.read() + "==84.2.1\\n")
"""


@pytest.fixture
def project(tmp_path):
    """A project with a lock file, and a `uv` that locks the package named on standard input."""
    (tmp_path / requirements.LOCK).write_text("as it was\n")
    (tmp_path / "pyproject.toml").write_text('[build-system]\nrequires = ["setuptools"]\n')
    (tmp_path / "uv.py").write_text(UV)
    return tmp_path


def test_an_update_locks_the_build_backend_too(project, capfd):
    requirements.resolve([sys.executable, "uv.py"], {}, project)
    assert (project / requirements.LOCK).read_text() == f"{requirements.HEAD}setuptools==84.2.1\n"
    assert capfd.readouterr().out == "requirements.lock: 1 packages\n"


def test_a_failed_update_leaves_the_lock_file_unchanged(project):
    (project / "gone").touch()
    with pytest.raises(requirements.RequirementsError, match=r"requirements\.lock is unchanged"):
        requirements.resolve([sys.executable, "uv.py"], {}, project)
    assert sorted(path.name for path in project.iterdir()) == ["gone", "pyproject.toml", requirements.LOCK, "uv.py"]
    assert (project / requirements.LOCK).read_text() == "as it was\n"


def test_newest_names_the_packages_with_another_version_in_the_lock_file():
    text = "thing==0.9 \\\n    --hash=sha256:0\nby-python==1 ; x \\\nby-python==2 ; y \\\n"
    have = {"Thing": "1.0", "by_python": "2", "not-locked": "3"}
    assert requirements.differing(have, text) == {"Thing": ["0.9"]}
