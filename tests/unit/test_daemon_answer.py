"""The look at Docker's daemon tells an answer from empty fields beside an error, in the words of real clients."""

import subprocess
from pathlib import Path

import pytest

from provision.steps.docker import daemon_state

EMPTY = '{"live_restore":false,"driver":"","version":"","running":0,"swarm":""}'
FULL = '{"live_restore":true,"driver":"cgroupfs","version":"28.5.2","running":2,"swarm":"inactive"}'
TOO_OLD = (
    "Error response from daemon: client version 1.51 is too old. Minimum supported API version is 1.52, please upgrade"
    " your client to a newer version"
)
GONE = "Cannot connect to the Docker daemon at unix:///var/run/docker.sock. Is the docker daemon running?"


@pytest.mark.parametrize(
    ("prints", "exit_code", "said"),
    [
        (f"echo '{FULL}'", 0, f"info={FULL}"),
        (f"echo '{TOO_OLD}' >&2; echo '{EMPTY}'", 0, f"silent={TOO_OLD}"),
        (f"echo '{EMPTY}'; echo '{TOO_OLD}' >&2", 0, f"silent={TOO_OLD}"),
        (f"echo '{EMPTY}'; echo '{GONE}' >&2", 1, f"silent={GONE}"),
        (f"echo; echo '{GONE}' >&2", 1, f"silent={GONE}"),
        (":", 124, "silent=nothing came within 15 s"),
    ],
)
def test_an_answer_of_docker_info(tmp_path: Path, prints: str, exit_code: int, said: str) -> None:
    """Docker 28.5.2's client prints empty fields beside an error, and exits 0 where the daemon refuses the client."""
    program = tmp_path / "docker"
    program.write_text(f"#!/bin/sh\n{prints}\nexit {exit_code}\n")
    program.chmod(0o755)
    path = {"PATH": f"{tmp_path}:/usr/bin:/bin"}
    done = subprocess.run(
        ["sh", "-eu", "-c", f"export LC_ALL=C\n{daemon_state.ASKED}"],
        env=path,
        text=True,
        capture_output=True,
        check=True,
    )
    assert done.stdout == f"{said}\n"
