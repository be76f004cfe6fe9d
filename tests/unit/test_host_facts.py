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
