"""A wheel, installed alone, is a working `provision` with its roles and templates, from any directory."""

import importlib.metadata
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    out = tmp_path_factory.mktemp("wheel")
    words = [sys.executable, "-m", "build", "-q", "--no-isolation", "--wheel", "-o", str(out), str(ROOT)]
    subprocess.run(words, check=True, timeout=300)
    return next(out.glob("*.whl"))


def test_the_wheel_holds_every_module_role_and_template(wheel):
    packed = set(zipfile.ZipFile(wheel).namelist())
    for folder, inside, pattern in (
        ("provision", "provision", "**/*.py"),
        ("provision/lab/simulated", "provision/lab/simulated", "*"),
        ("provision/report", "provision/report", "*.json"),
        ("roles", "provision/roles", "*.py"),
        ("templates", "provision/templates", "**/*.j2"),
        ("templates", "provision/templates", "**/*.js"),
        ("inventory", "provision/examples", "*.yaml"),
    ):
        for path in (ROOT / folder).glob(pattern):
            if path.is_file() and "__pycache__" not in path.parts:
                assert f"{inside}/{path.relative_to(ROOT / folder)}" in packed


def test_the_installed_wheel_works_from_another_directory(wheel, tmp_path):
    home = tmp_path / "env"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(home)], check=True, timeout=300)
    pip = [sys.executable, "-m", "pip", "--python", str(home / "bin/python")]
    here = {found.name: found.version for found in importlib.metadata.distributions() if found.name != "provision"}
    constraints = tmp_path / "constraints.txt"  # `make test-newest` tests newer releases
    constraints.write_text("".join(f"{name}=={version}\n" for name, version in here.items()))
    subprocess.run([*pip, "install", "-q", "--no-compile", "-c", constraints, str(wheel)], check=True, timeout=600)
    env = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}

    def provision(*words):
        argv = [str(home / "bin/provision"), *words]
        return subprocess.run(argv, cwd=tmp_path, env=env, capture_output=True, text=True, check=False, timeout=120)

    assert provision("init", "inventory.yaml").returncode == 0
    checked = provision("inventory", "check", "-i", "inventory.yaml")
    assert checked.returncode == 0, checked.stderr
    probe = "from provision.render import render; from provision.plan import role_interface as s; "
    probe += "print(s.order(), s.role('ollama'))"
    done = subprocess.run(
        [str(home / "bin/python"), "-c", probe], cwd=tmp_path, env=env, capture_output=True, text=True
    )
    assert "ollama" in done.stdout, done.stderr
