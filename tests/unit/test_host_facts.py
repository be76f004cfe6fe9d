"""Host facts, as their script reads them."""

import os
import subprocess
from pathlib import Path

import pytest

from provision.steps import facts

# A resolver that, like glibc's, names IPv6 addresses first.
GETENT = """#!/bin/sh
case $1 in
  ahosts) printf '2001:db8::7 STREAM %s\\n' "$2"; [ "$2" = six ] || printf '192.0.2.7 STREAM %s\\n' "$2" ;;
  ahostsv4) [ "$2" != six ] || exit 2; printf '192.0.2.7 STREAM %s\\n' "$2" ;;
esac
"""


@pytest.mark.parametrize(("peer", "address"), [("dual", "192.0.2.7"), ("six", "2001:db8::7")])
def test_a_name_with_both_kinds_of_address_means_its_ipv4_one(tmp_path: Path, peer: str, address: str) -> None:
    for name, text in {"getent": GETENT, "systemctl": "#!/bin/sh\nexit 3\n", "ip": "#!/bin/sh\n"}.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    command = facts.command((peer,))
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    said = subprocess.run(command.words, input=command.stdin, capture_output=True, env=environment, check=True)
    assert facts.parse(said.stdout.decode()).resolved == {peer: address}


DOCKER = """#!/bin/sh
[ -z "${SILENT:-}" ] || exit 1
case "$*" in
  'ps -aq --no-trunc --filter label=provision.managed=1') echo "$IDS" | tr ' ' '\n' ;;
  inspect*' 0a1b 2c3d') printf '10.0.0.11 3002\\n10.0.0.11 3001\\n 3003\\n\\n10.0.0.11 3001\\n' ;;
  *) exit 1 ;;
esac
"""


@pytest.mark.parametrize(
    ("silent", "active", "ids", "published"),
    [
        ("", "active", "0a1b 2c3d", ("10.0.0.11:3001", "10.0.0.11:3002")),
        ("yes", "active", "0a1b 2c3d", None),
        ("", "inactive", "0a1b 2c3d", None),
        ("", "active", "0a1b --help", None),
    ],
)
def test_what_our_containers_are_published_on(
    tmp_path: Path, silent: str, active: str, ids: str, published: tuple[str, ...] | None
) -> None:
    programs = {"docker": DOCKER, "systemctl": f"#!/bin/sh\necho {active}\n", "nvidia-smi": "#!/bin/sh\nexit 9\n"}
    for name, text in programs.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    command = facts.command(())
    script = command.stdin.decode().replace("/run/systemd/system", str(tmp_path))
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "SILENT": silent, "IDS": ids}
    said = subprocess.run(command.words, input=script, capture_output=True, env=environment, check=True, text=True)
    assert facts.parse(said.stdout).published == published


def test_without_docker_nothing_is_published() -> None:
    assert facts.parse("# gpu\n# gpu-exit\n127\n# published\n").published == ()
