"""Host facts, from the real script with stand-ins for the programs of a host."""

import os
import subprocess
from pathlib import Path

import pytest

from provision.steps import facts, nvidia_smi

# A resolver that, like glibc's, names IPv6 addresses first.
GETENT = """#!/bin/sh
case $1 in
  ahosts) printf '2001:db8::7 STREAM %s\\n' "$2"; [ "$2" = six ] || printf '192.0.2.7 STREAM %s\\n' "$2" ;;
  ahostsv4) [ "$2" != six ] || exit 2; printf '192.0.2.7 STREAM %s\\n' "$2" ;;
esac
"""


@pytest.mark.parametrize(("peer", "address"), [("dual", "192.0.2.7"), ("six", "2001:db8::7")])
def test_a_name_with_ipv4_and_ipv6_resolves_to_ipv4(tmp_path: Path, peer: str, address: str) -> None:
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
def test_host_facts_list_the_published_addresses_of_our_containers(
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


def test_the_bridges_of_our_containers_follow_from_the_addresses_of_their_networks() -> None:
    places = ["/ollama1 172.17.0.2 172.17.0.1", "/ollama1 10.66.0.2 10.66.0.1", "/ollama2  ", "/ollama3 invalid IP"]
    own = ["127.0.0.1/8 lo", "10.0.0.11/24 eth0@if7", "172.17.0.1/16 docker0", "10.66.0.1/24 br-1a"]
    text = ["# addresses", *own, "# published", "10.0.0.11 3001", *places, "# end"]
    found = facts.parse("\n".join(text))
    assert (found.published, found.bridges) == (("10.0.0.11:3001",), ("br-1a", "docker0"))
    assert found.addresses == ("127.0.0.1", "10.0.0.11", "172.17.0.1", "10.66.0.1")
    assert found.interfaces["10.0.0.11"] == "eth0"
    assert found.attached[1] == facts.Attachment("ollama1", "172.17.0.2", "172.17.0.1")


def test_without_docker_nothing_is_published() -> None:
    assert facts.parse("# gpu\n# gpu-exit\n127\n# published\n").published == ()


IP = """#!/bin/sh
case "$*" in
  *'route get 10.0.0.5') echo '10.0.0.5 dev eth0 src 10.0.0.11 uid 0 \\    cache' ;;
  *'route get 192.0.2.7') echo '192.0.2.7 via 10.0.0.1 dev eth0 src 10.0.0.12 uid 0' ;;
  *) exit 2 ;;
esac
"""


@pytest.mark.parametrize(
    ("peer", "address", "source", "looked_up"),
    [
        ("10.0.0.5", "10.0.0.5", "10.0.0.11", False),
        ("lb", "192.0.2.7", "10.0.0.12", True),
        ("10.5", "192.0.2.7", "10.0.0.12", True),  # only the resolver knows the meaning
        ("10.0.0.05", "192.0.2.7", "10.0.0.12", True),
        ("1.2.3.4.5", "192.0.2.7", "10.0.0.12", True),
        ("10.0.0.300", "192.0.2.7", "10.0.0.12", True),
    ],
)
def test_a_canonical_address_is_not_looked_up(
    tmp_path: Path, peer: str, address: str, source: str, looked_up: bool
) -> None:
    getent = GETENT.replace("#!/bin/sh", f"#!/bin/sh\necho asked >>{tmp_path}/asked")
    for name, text in {"getent": getent, "ip": IP}.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    command = facts.command((peer,), parts=frozenset())
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    said = subprocess.run(command.words, input=command.stdin, capture_output=True, env=environment, check=True)
    found = facts.parse(said.stdout.decode())
    assert (found.resolved, found.sources) == ({peer: address}, {peer: source})
    assert (tmp_path / "asked").exists() is looked_up


def test_unread_parts_keep_their_earlier_values() -> None:
    before = facts.HostFacts(driver_error="no driver", remembered={0: "GPU-0"}, published=("10.0.0.11:3001",), cgroup=1)
    found = facts.parse("# cgroup\n2\n# end\n", before)
    assert (found.driver_error, found.remembered, found.published) == ("no driver", {0: "GPU-0"}, ("10.0.0.11:3001",))
    assert found.cgroup == 2


@pytest.mark.parametrize("text", ["# cgroup\n2\n", "# gpu-all\n# gpu-all-exit\n2\n", "# gpu-all\n# gpu-all-exit\n0\n"])
def test_a_truncated_answer_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="ends early"):
        facts.parse(text)


@pytest.mark.parametrize(("record", "published"), [("0 GPU-0\n", None), ("", ())])
def test_a_guard_asks_docker_for_published_addresses_only_without_a_record(
    tmp_path: Path, record: str, published: tuple[str, ...] | None
) -> None:
    (tmp_path / "cards").write_text(record)
    (tmp_path / "docker").write_text("#!/bin/sh\n")
    (tmp_path / "docker").chmod(0o755)
    command = facts.command((), parts=frozenset({facts.CARDS, facts.AT_FIRST}))
    script = command.stdin.decode().replace(nvidia_smi.RECORD, str(tmp_path / "cards"))
    script = script.replace("/run/systemd/system", str(tmp_path / "none")).replace("nvidia-smi", "no-such-nvidia-smi")
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    said = subprocess.run(command.words, input=script, capture_output=True, env=environment, check=True, text=True)
    assert facts.parse(said.stdout).published == published
