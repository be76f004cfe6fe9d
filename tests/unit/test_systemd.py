"""What is said of a service that does not start."""

import subprocess
from pathlib import Path

from provision.steps.systemd import Service

SYSTEMCTL = """#!/bin/sh
case $1 in
  start) echo 'Job for x.service failed.' >&2; exit 5 ;;
  status) echo 'Main PID: 7 (code=exited, status=219/CGROUP)'; exit 3 ;;
esac
"""


def test_why_a_service_does_not_start_is_part_of_the_evidence(tmp_path: Path) -> None:
    (tmp_path / "systemctl").write_text(SYSTEMCTL)
    (tmp_path / "systemctl").chmod(0o755)
    have = {"enabled": True, "running": False, "masked": False}
    *_, start = Service(name="x").commands(have, {**have, "running": True})
    env = {"PATH": f"{tmp_path}:/usr/bin:/bin"}
    done = subprocess.run(start.words, input=start.stdin, env=env, capture_output=True, check=False)  # type: ignore[union-attr]
    assert done.returncode == 5
    assert done.stderr == b"Job for x.service failed.\nMain PID: 7 (code=exited, status=219/CGROUP)\n"
