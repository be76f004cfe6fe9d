"""Install a development environment from requirements.lock, and write that file: `python -m tests.requirements`.

Runs before anything is installed: it uses the standard library alone.
"""

import os
import re
import shlex
import subprocess
import sys
import tempfile
import tomllib
import venv
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).parents[1]
LOCK = "requirements.lock"
UV = "uv==0.13.9"  # resolves for every Python and machine at once, which pip cannot
COMPILE = (
    "pip compile --quiet --no-config --universal --python-version 3.11 --extra dev --upgrade --generate-hashes "
    "--no-emit-index-url --no-header"
)
HEAD = """\
# Every package of a development install, with the hashes of its files, for every Python from 3.11 on and any machine.
# `make update` writes this file.
"""

# Patterns of the errors of pip and uv, each with advice for the reader. The first match counts.
ADVICE = {
    r"connection broken by|Max retries exceeded|error sending request|[Ff]ailed to fetch": """
        No package index answers. The index is that of pip's configuration (`pip config list`, PIP_INDEX_URL):
        let this machine reach it, or name a mirror there, and run the same command again.""",
    r"DO NOT MATCH THE HASHES[^\n]*\n\s+(\S+) from": """
        The index serves another file of {0} than requirements.lock names. Do not install that file: ask who runs the
        index. If its file is the right one, `make update` writes the new hash.""",
    r"from versions: none\)\n[^\n]*No matching distribution found for ([^\s;]+)": """
        The index has no file of {0}: the package disappeared, or the index does not answer or is an incomplete mirror.
        Look at `pip config list` first. A package that is gone must be replaced in pyproject.toml, then `make update`
        writes requirements.lock without it.""",
    r"No matching distribution found for ([^\s;]+)": """
        The index has no {0} for this Python on this machine: the version was withdrawn, or the index is an incomplete
        mirror. `make update` writes requirements.lock from the versions that the index has.""",
    r"[Bb]ecause (\S+) was not found in the package registry": """
        The index has no package {0}. Where pyproject.toml asks for it, replace it there; where another package asks for
        it, lower that package's upper bound in pyproject.toml. Then run `make update` again.
        requirements.lock is unchanged.""",
    r"No solution found when resolving": """
        No versions of the packages named above fit together. Change their ranges in pyproject.toml and run
        `make update` again. requirements.lock is unchanged.""",
    r"versions pinned with ==|Hashes are required|Invalid requirement|conflicting dependencies|"
    r"has requirement|which is not installed": """
        requirements.lock does not resolve: it was edited by hand or merged, or pyproject.toml asks for more.
        `git checkout requirements.lock` undoes an edit, `make update` writes the file anew.""",
}
OTHERWISE = "The output above says why. Run the same command again when that is mended."


class RequirementsError(Exception):
    """Packages cannot be installed or resolved; the text gives advice."""


def advice(said: str) -> str:
    """Return advice about the output of a failed tool."""
    for pattern, text in ADVICE.items():
        found = re.search(pattern, said)
        if found:
            return " ".join(text.split()).format(*found.groups())
    return OTHERWISE


def install(pip: list[str], root: Path = ROOT) -> None:
    """Install the lock file and then the project itself, editable.

    Args:
        pip: the words that start pip.
        root: the folder of pyproject.toml and the lock file.
    """
    _run([*pip, "install", "--quiet", "--require-hashes", "-r", str(root / LOCK)])
    _run([*pip, "install", "--quiet", "--no-deps", "--no-build-isolation", "--editable", str(root)])
    _run([*pip, "check"])


def newest(pip: list[str], root: Path = ROOT) -> None:
    """Install the project with the newest versions allowed by pyproject.toml, and print how the lock file differs."""
    build = pyproject(root)["build-system"]["requires"]
    _run([*pip, "install", "--quiet", "--upgrade", *build, "--editable", f"{root}[dev]"])
    found = subprocess.run([*pip, "list", "--format=freeze"], capture_output=True, text=True, check=True).stdout
    have = dict(line.split("==", 1) for line in found.splitlines() if "==" in line)
    moved = differing(have, (root / LOCK).read_text())
    for name, locked in sorted(moved.items()):
        print(f"{name} {have[name]}: {LOCK} has {', '.join(locked)}")
    print(f"{len(moved)} packages differ from {LOCK}")


def differing(have: Mapping[str, str], text: str) -> dict[str, list[str]]:
    """Return the packages whose installed version is not in a lock file, with the file's versions."""
    pinned: dict[str, list[str]] = {}
    for name, version in pins(text):
        pinned.setdefault(name, []).append(version)
    locked = {name: pinned.get(canonical(name), [version]) for name, version in have.items()}
    return {name: versions for name, versions in locked.items() if have[name] not in versions}


def update(root: Path = ROOT) -> None:
    """Write the lock file from the newest versions allowed by pyproject.toml, by a tool that is deleted afterwards."""
    with tempfile.TemporaryDirectory() as folder:
        venv.create(folder, with_pip=True)
        pip = [f"{folder}/bin/python", "-m", "pip"]
        _run([*pip, "install", "--quiet", UV])
        config = subprocess.run([*pip, "config", "list"], capture_output=True, text=True, check=True).stdout
        resolve([f"{folder}/bin/uv"], indexes(config), root)


def resolve(uv: list[str], environment: dict[str, str], root: Path) -> None:
    """Write the lock file. A failure leaves the file as it was.

    Args:
        uv: the words that start uv.
        environment: variables for uv.
        root: the folder of pyproject.toml and the lock file.
    """
    new = root / f"{LOCK}.new"
    try:
        words = [*uv, *shlex.split(COMPILE), "--output-file", str(new), "pyproject.toml", "-"]
        _run(words, folder=root, given="\n".join(pyproject(root)["build-system"]["requires"]), environment=environment)
        new.write_text(HEAD + new.read_text())
        new.replace(root / LOCK)
    finally:
        new.unlink(missing_ok=True)
    print(f"{LOCK}: {len(set(pins((root / LOCK).read_text())))} packages")


def indexes(config: str) -> dict[str, str]:
    """Return variables for uv from `pip config list`, because uv does not read pip's configuration."""
    names = {"index-url": "UV_DEFAULT_INDEX", "extra-index-url": "UV_INDEX", "cert": "SSL_CERT_FILE"}
    told = {}
    for line in config.splitlines():
        key, _, value = line.partition("=")
        name = names.get(key.rpartition(".")[2])
        if name:
            told[name] = " ".join(shlex.split(value)).replace("\\n", " ").strip()
    return told


def pyproject(root: Path = ROOT) -> dict[str, dict]:
    """Return pyproject.toml."""
    return tomllib.loads((root / "pyproject.toml").read_text())


def pins(text: str) -> list[tuple[str, str]]:
    """Return the names and versions of a lock file; a package may have several, by Python."""
    return [(canonical(name), version) for name, version in re.findall(r"^([\w.-]+)==([^\s;\\]+)", text, re.MULTILINE)]


def canonical(name: str) -> str:
    """Return a package's name as an index writes it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _run(
    words: list[str], *, folder: Path | None = None, given: str = "", environment: Mapping[str, str] | None = None
) -> None:
    """Run a command and pass its output on; a failure comes with advice."""
    with subprocess.Popen(
        words,
        cwd=folder,
        env={**(environment or {}), **os.environ},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        assert process.stdin
        assert process.stdout
        process.stdin.write(given)
        process.stdin.close()
        said = []
        for line in process.stdout:
            print(line, end="", flush=True)
            said.append(line)
    if process.returncode:
        raise RequirementsError(advice("".join(said)))


def main(words: list[str]) -> int:
    """`install FOLDER`, `newest FOLDER` (of a virtual environment), or `update`."""
    try:
        match words:
            case ["install", folder]:
                install([f"{folder}/bin/python", "-m", "pip"])
            case ["newest", folder]:
                newest([f"{folder}/bin/python", "-m", "pip"])
            case ["update"]:
                update()
            case _:
                print(main.__doc__, file=sys.stderr)
                return 2
    except RequirementsError as error:
        print(f"\n{error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
