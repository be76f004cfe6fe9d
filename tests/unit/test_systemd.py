"""The evidence of a service that does not start; and a unit that systemd would refuse never gets into place."""

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from provision.command import Put, Run
from provision.render import render
from provision.steps.system import unit_scan
from provision.steps.system.systemd import DropIn, Service, Unit

SYSTEMCTL = """#!/bin/sh
case $1 in
  start) echo 'Job for x.service failed.' >&2; exit 5 ;;
  status) echo 'Main PID: 7 (code=exited, status=219/CGROUP)'; exit 3 ;;
esac
"""
OURS, THEIRS = "provision-x.service", "docker.service"
needs_systemd = pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="asks systemd itself")


def test_the_evidence_has_the_reason_of_a_service_that_does_not_start(tmp_path: Path) -> None:
    (tmp_path / "systemctl").write_text(SYSTEMCTL)
    (tmp_path / "systemctl").chmod(0o755)
    have = {"enabled": True, "running": False, "masked": False}
    *_, start = Service(name="x").commands(have, {**have, "running": True})
    env = {"PATH": f"{tmp_path}:/usr/bin:/bin"}
    done = subprocess.run(start.words, input=start.stdin, env=env, capture_output=True, check=False)  # type: ignore[union-attr]
    assert done.returncode == 5
    assert done.stderr == b"Job for x.service failed.\nMain PID: 7 (code=exited, status=219/CGROUP)\n"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of units, with a unit and a drop-in of ours."""
    monkeypatch.setattr(unit_scan, "DIRECTORY", str(tmp_path))
    (tmp_path / OURS).write_text("before")
    (tmp_path / f"{THEIRS}.d").mkdir()
    (tmp_path / f"{THEIRS}.d" / "provision.conf").write_text("before")
    return tmp_path


def put_in_place(step: Unit) -> subprocess.CompletedProcess[str]:
    """Run the two commands that write the file."""
    have: dict[str, Any] = {"sha256": "0" * 64, "mode": "0644", "owner": "root:root", "loaded": True}
    _, put, place, _ = step.commands(have, step.want(None, have))  # type: ignore[arg-type]
    assert isinstance(put, Put)
    assert isinstance(place, Run)
    assert Path(put.path).name.startswith(".")  # the temporary file of a crashed run must not count as a unit of ours
    Path(put.path).write_bytes(put.content)
    text = place.stdin.decode()
    return subprocess.run(place.words, input=text, capture_output=True, text=True, check=False)


@needs_systemd
@pytest.mark.parametrize(
    ("step", "said"),
    [
        (Unit(name=OURS, content=b"[Service]\nExecStart=nothing\n"), "Command nothing is not executable"),
        (Unit(name=OURS, content=b"no unit \x01\n"), "Assignment outside of section"),
        (Unit(name=OURS, content=b"# nothing\n"), "bad unit file setting"),
        (Unit(name=OURS, content=b""), "is masked"),
        (Unit(name=OURS, content=b"[Unit\n[Service]\nExecStart=/bin/true\n"), "Invalid section header"),
        (Unit(name=OURS, content=b"[Service]\nExecStart=/bin/true\nKillSignal=SIGNONE\n"), "Failed to parse"),
        (DropIn(name=THEIRS, content=b"no addition"), "Assignment outside of section"),
        (DropIn(name=THEIRS, content=b"[Service]\nExecStart=/bin/false\n"), "more than one ExecStart="),
        (DropIn(name=THEIRS, content=b"[Service]\nExecStartPre=nothing\n"), "Command nothing is not executable"),
    ],
)
def test_a_unit_that_systemd_would_refuse_is_refused_and_the_old_file_stays(
    folder: Path, step: Unit, said: str
) -> None:
    before = sorted(folder.rglob("*"))
    done = put_in_place(step)
    assert done.returncode == 1
    assert said in done.stderr
    assert "/tmp/tmp." not in done.stderr  # the message names the final path, not the path of the check
    assert Path(step.path).read_text() == "before"
    assert sorted(folder.rglob("*")) == before


@needs_systemd
@pytest.mark.parametrize(
    "step",
    [
        Unit(name="provision-nginx.service", content=render("nginx/provision-nginx.service.j2", engine="x")),
        Unit(
            name="provision-certificate-check.service",
            content=render("balancer/provision-certificate-check.service.j2", path="/x.pem", days=30, seconds=2592000),
        ),
        Unit(
            name="provision-certificate-check.timer",
            content=render("balancer/provision-certificate-check.timer.j2"),
        ),
        Unit(name=OURS, content=render("instance/provision-firewall.service.j2", script="/not/yet/there", engine="x")),
        Unit(name=OURS, content=render("instance/provision-instances.service.j2", script="/not/yet/there", engine="x")),
        Unit(name=OURS, content=b"[Unit]\nRequires=not-there.service\n[Service]\nExecStart=/not/yet/there\n"),
        DropIn(name=THEIRS, content=render("docker/provision.conf.j2", proxy="/etc/provision/docker/proxy.env")),
    ],
)
def test_a_unit_may_name_files_and_units_that_do_not_exist_yet(folder: Path, step: Unit) -> None:
    (folder / "provision-nginx.service").write_text("before")
    done = put_in_place(step)
    assert (done.returncode, done.stderr) == (0, "")
    assert Path(step.path).read_bytes() == step.content
    assert list(folder.rglob("*provision-new")) == []
