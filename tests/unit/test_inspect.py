"""The read of Docker, by a real shell and a Docker with arbitrary answers."""

import json
import os
import shlex
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from provision.command import Answer
from provision.plan.planner import host_facts
from provision.steps.base import BlockedError, UnreadableError
from provision.steps.docker import card_look, inspect
from provision.steps.docker.gpu_processes import Application
from provision.steps.facts import Attachment, HostFacts

DOCKER = """#!/bin/sh
echo "$*" >>"$ASKED"
case $1 in
  ps) eval "$PS" ;;
  inspect) [ -z "${GONE:-}" ] || exit 1 ;;
esac
"""


def ask(folder: Path, **says: str) -> tuple[Answer, list[str]]:
    """Return the answer of the script, and the calls of docker."""
    for name, text in {"docker": DOCKER, "systemctl": "#!/bin/sh\necho active\n"}.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    asked = folder / "asked"
    environment = {"PATH": f"{folder}:{os.environ['PATH']}", "ASKED": str(asked), **says}
    command = inspect.command()
    said = subprocess.run(
        command.words, input=command.stdin, capture_output=True, env=environment, check=False, timeout=60
    )
    return Answer(said.returncode, said.stdout, said.stderr), asked.read_text().splitlines()


def test_every_container_is_inspected(tmp_path: Path) -> None:
    answer, asked = ask(tmp_path, PS="printf '0a1b\\n2c3d\\n'")
    assert inspect.read(answer).containers == {}
    assert any(line.startswith("inspect") and line.endswith(" 0a1b 2c3d") for line in asked)


@pytest.mark.parametrize("ids", ["echo --help", "echo '/etc/*'", "yes '[loud]' | head -c 45000000"])
def test_a_malformed_id_is_not_passed_on(tmp_path: Path, ids: str) -> None:
    answer, asked = ask(tmp_path, PS=ids)
    assert {line.partition(" ")[0] for line in asked} == {"ps"}
    with pytest.raises(UnreadableError, match="no ids of containers"):
        inspect.read(answer)


@pytest.mark.parametrize("says", [{"PS": "exit 1"}, {"PS": "echo 0a1b", "GONE": "yes"}])
def test_a_failing_docker_proves_nothing(tmp_path: Path, says: dict[str, str]) -> None:
    answer, _ = ask(tmp_path, **says)
    with pytest.raises(BlockedError):
        inspect.read(answer)


SMI = """#!/bin/sh
printf '%s\\n' "$ROWS"
exit "${CODE:-0}"
"""


def applications(folder: Path, rows: str, program: str = SMI, **says: str) -> tuple[Application, ...] | None:
    """Return the processes on the cards, with given rows of nvidia-smi on a host without containers."""
    (folder / "nvidia-smi").write_text(program)
    (folder / "nvidia-smi").chmod(0o755)
    answer, _ = ask(folder, PS="", ROWS=rows, **says)
    return inspect.read(answer).applications


def test_a_process_on_a_card_is_looked_up_on_the_host(tmp_path: Path) -> None:
    me = os.getpid()
    (found,) = applications(tmp_path, f"GPU-1, {me}, 512, /usr/bin/train --name x, y\nGPU-1, 4194305, 5, gone") or ()
    assert (found.card, found.pid, found.program) == ("GPU-1", me, "train")
    assert (found.mib, found.user) == (512, Path("/proc/self").owner())
    (unnamed,) = applications(tmp_path, f"GPU-1, {me}, [N/A], [Not Found]") or ()
    assert unnamed.program == Path("/proc/self/comm").read_text().strip()


@pytest.mark.parametrize("rows", ["", "GPU-1, $(reboot), 5, x", "GPU-1, ../../etc, 5, x", "--help"])
def test_a_malformed_process_id_is_not_looked_up(tmp_path: Path, rows: str) -> None:
    assert applications(tmp_path, rows) == ()


def test_a_failing_nvidia_smi_proves_nothing(tmp_path: Path) -> None:
    assert applications(tmp_path, "NVIDIA-SMI has failed", CODE="9") is None


# With a lost card the query fails, and a query for the other cards by index does not (tests/unit/nvidia_smi).
LOST = """#!/bin/sh
case $* in
  -L) printf 'GPU 0: L40S (UUID: GPU-0)\\nUnable to determine the device handle for gpu 1: GPU is lost\\n'; exit 15 ;;
  *' -i 0') echo "$ROWS" ;;
  *) echo 'Unable to determine the device handle for GPU1: GPU is lost'; exit 15 ;;
esac
"""


def test_the_processes_on_the_other_cards_are_known_beside_a_lost_card(tmp_path: Path) -> None:
    me = os.getpid()
    (found,) = applications(tmp_path, f"GPU-0, {me}, 512, x", LOST) or ()
    assert (found.card, found.pid) == ("GPU-0", me)


def test_the_processes_on_the_cards_are_known_without_docker(tmp_path: Path) -> None:
    me = os.getpid()
    shell = f'command() {{ [ "$2" != docker ]; }}\nls() {{ :; }}\n{inspect.command().stdin.decode()}'
    (tmp_path / "nvidia-smi").write_text(SMI)
    (tmp_path / "nvidia-smi").chmod(0o755)
    said = subprocess.run(
        ["sh", "-s"],
        input=shell.encode(),
        capture_output=True,
        env={"PATH": f"{tmp_path}:{os.environ['PATH']}", "ROWS": f"GPU-1, {me}, 5, x"},
        check=True,
        timeout=60,
    )
    found = inspect.read(Answer(0, said.stdout, said.stderr))
    assert [one.pid for one in found.applications or ()] == [me]
    assert found.containers == {}


ID = "0a1b" * 16
CARDS = "GPU 0: NVIDIA L40S (UUID: GPU-0)"
INSIDE = """
echo "inside $*" >>"$ASKED"
/usr/bin/env >"$ASKED.environment"
printf '%s\\n' "$DIRECTLY"
exit "${CODE:-0}"
"""
EXEC = """
echo "docker $*" >>"$ASKED"
echo "as Docker says"
"""
UNIFIED = f"0::/system.slice/docker-{ID}.scope"
HYBRID = f"9:cpu:/docker/{ID}\n3:devices:/docker/{ID}\n0::/elsewhere/{ID}"


@dataclass(frozen=True)
class Look:
    """A look into a container.

    Args:
        cards: the answer.
        asked: the programs that the look started.
        first: the words of the first program.
        joined: the text in `cgroup.procs` of the container's cgroup.
    """

    cards: str
    asked: tuple[str, ...]
    first: str
    joined: str


def sees(
    folder: Path,
    cgroup: str = UNIFIED,
    group: str = f"system.slice/docker-{ID}.scope",
    root: str = "rootfs",
    **says: str,
) -> Look:
    """Look into a container whose process 7 is in a cgroup; only the folder of one group can be joined.

    Args:
        folder: stands in for the root of the host.
        cgroup: the text of the process's `/proc/7/cgroup`.
        group: the path of the cgroup that can be joined.
        root: the container's root in its bundle, where the folder `rootfs` exists.
        says: variables for the stand-ins of nvidia-smi.
    """
    asked = folder / "asked"
    values = "".join(f"{name}={shlex.quote(value)}\n" for name, value in {**says, "ASKED": str(asked)}.items())
    for name, text in {"docker": EXEC, "setpriv": INSIDE}.items():
        (folder / name).write_text(f"#!/bin/sh\n{values}{text}")
        (folder / name).chmod(0o755)
    (folder / "proc/7").mkdir(parents=True)
    (folder / "proc/7/cgroup").write_text(cgroup + "\n")
    (folder / "sys" / group).mkdir(parents=True)
    (folder / "bundles" / ID / "rootfs").mkdir(parents=True)
    bundle = {"process": {"env": ['A="root":{"path":"/"']}, "root": {"path": root, "readonly": False}}
    (folder / "bundles" / ID / "config.json").write_text(json.dumps(bundle, separators=(",", ":")))
    script = card_look.SHELL.replace("/proc/$2", f"{folder}/proc/$2").replace("/sys/fs/cgroup", f"{folder}/sys")
    script = script.replace(card_look.BUNDLES, f"{folder}/bundles")
    environment = {"PATH": f"{folder}:{os.environ['PATH']}", "HTTPS_PROXY": "http://user:secret@proxy"}
    said = subprocess.run(
        ["sh", "-eus"], input=f"{script}\nsees {ID} 7", capture_output=True, env=environment, check=True, text=True
    )
    joined = folder / "sys" / group / "cgroup.procs"
    return Look(
        said.stdout.removeprefix(f"{ID} sees ").strip(),
        tuple(line.split()[0] for line in asked.read_text().splitlines()),
        asked.read_text().splitlines()[0],
        joined.read_text() if joined.exists() else "",
    )


def test_nvidia_smi_runs_in_cgroup_and_namespaces_of_the_container_without_rights(tmp_path: Path) -> None:
    look = sees(tmp_path, DIRECTLY=CARDS)
    assert (look.cards, look.asked, look.joined) == (CARDS, ("inside",), "0\n")
    assert "secret" not in (tmp_path / "asked.environment").read_text()
    assert look.first.startswith("inside --no-new-privs nsenter -t 7 -m -u -i -n -p -S 65534 -G 65534 nvidia-smi")


def test_the_cgroup_of_the_devices_controller_counts_on_a_hybrid_host(tmp_path: Path) -> None:
    look = sees(tmp_path, HYBRID, f"devices/docker/{ID}", DIRECTLY=CARDS)
    assert (look.cards, look.asked, look.joined) == (CARDS, ("inside",), "0\n")


@pytest.mark.parametrize(
    "says",
    [
        {"DIRECTLY": "Failed to initialize NVML: Unknown Error", "CODE": "255"},
        {"DIRECTLY": "Failed to initialize NVML: Unknown Error"},
        {"DIRECTLY": CARDS, "CODE": "1"},
        {"DIRECTLY": "", "CODE": "137"},
        {"DIRECTLY": "No devices were found"},
    ],
)
def test_docker_is_asked_if_the_namespaces_show_no_cards(tmp_path: Path, says: dict[str, str]) -> None:
    look = sees(tmp_path, **says)
    assert (look.cards, look.asked) == ("as Docker says", ("inside", "docker"))


@pytest.mark.parametrize(
    ("cgroup", "group"),
    [(f"0::/system.slice/docker-{'ff' * 32}.scope", f"system.slice/docker-{'ff' * 32}.scope"), (UNIFIED, "elsewhere")],
    ids=["the process is another's", "the cgroup cannot be joined"],
)
def test_nothing_runs_outside_the_cgroup_of_the_container(tmp_path: Path, cgroup: str, group: str) -> None:
    look = sees(tmp_path, cgroup, group, DIRECTLY=CARDS)
    assert (look.cards, look.asked, look.joined) == ("as Docker says", ("docker",), "")


@pytest.mark.parametrize("root", ["unmounted", "/nowhere/merged", ""])
def test_docker_is_asked_where_the_root_of_the_container_is_gone(tmp_path: Path, root: str) -> None:
    look = sees(tmp_path, root=root, DIRECTLY=CARDS)
    assert (look.cards, look.asked, look.joined) == ("as Docker says", ("docker",), "")


def test_the_root_of_a_container_may_be_an_absolute_path(tmp_path: Path) -> None:
    assert sees(tmp_path, root=str(tmp_path), DIRECTLY=CARDS).asked == ("inside",)


def answered(*sections: str) -> Answer:
    probes = "# probes\nhost applications\n# end\n"
    return Answer(0, "\n".join([*sections, "# pulled", "# listening", "# files", "", probes]).encode())


def container(**fields: object) -> str:
    known = {"id": ID, "name": "/ollama1", "labels": {"provision.managed": "1"}, "image_id": "sha256:1", "ports": {}}
    return json.dumps({**known, **fields}, ensure_ascii=False)


def test_images_and_volumes_are_read_from_the_api_of_docker() -> None:
    image = {"Id": "sha256:1", "RepoTags": ["a/b:1", "<none>:<none>"], "RepoDigests": ["a/b@sha256:2"]}
    bare = {"Id": "sha256:3", "RepoTags": None, "RepoDigests": []}
    volumes = {"Volumes": [{"Name": "one", "Labels": {"x": "1,2"}}, {"Name": "two", "Labels": None}], "Warnings": None}
    config = {"Id": "sha256:1", "Config": {"Env": ["A=b"]}}
    lines = [json.dumps(one) for one in ([image, bare], volumes, config)]
    engine = inspect.read(answered("# containers", container(), "# api", *lines))
    assert engine.images == {"a/b:1": "sha256:1", "a/b@sha256:2": "sha256:1"}
    assert engine.volumes == {"one": {"x": "1,2"}, "two": {}}
    assert engine.containers["ollama1"]["image_config"] == {"Env": ["A=b"]}


@pytest.mark.parametrize("ending", ["\x85", "\u2028", "\x1c"])
def test_a_label_with_another_line_end_makes_no_section(ending: str) -> None:
    labels = {"provision.managed": "1", "x": f"{ending}# absent{ending}# end"}
    line = container(labels=labels).replace("\x1c", "\\u001c")
    assert set(inspect.read(answered("# containers", line, "# images", "# volumes")).containers) == {"ollama1"}


def test_the_places_of_our_containers_are_read_too() -> None:
    bound = {
        "11434/tcp": [{"HostIp": "10.0.0.11", "HostPort": "3001"}, {"HostIp": "", "HostPort": "3003"}],
        "1/udp": None,
    }
    foreign = container(
        id="ff" * 32, name="/other", labels=None, ports={"1/tcp": [{"HostIp": "192.0.2.1", "HostPort": "9"}]}
    )
    networks = [["172.17.0.2", "172.17.0.1"], ["", ""], None]
    answer = answered("# containers", container(ports=bound, attached=networks), foreign, "# images", "# volumes")
    assert inspect.places(answer) == (("10.0.0.11:3001",), (Attachment("ollama1", "172.17.0.2", "172.17.0.1"),))
    assert inspect.places(Answer(0, b"# absent\n# probes\nhost applications\n# end\n")) == ((), ())
    assert inspect.places(Answer(1, b"", b"what?")) == (None, ())
    with pytest.raises(BlockedError, match="service:docker"):
        inspect.places(Answer(75, b"", b"docker.service is not running"))


@pytest.mark.parametrize(("code", "known"), [("0", True), ("9", False)])
def test_a_nvidia_smi_without_an_answer_leaves_the_other_users_unknown(tmp_path: Path, code: str, known: bool) -> None:
    (tmp_path / "nvidia-smi").write_text(SMI)
    (tmp_path / "nvidia-smi").chmod(0o755)
    answer, _ = ask(tmp_path, PS="", ROWS=f"GPU-1, {os.getpid()}, 512, train", CODE=code)
    facts = host_facts({inspect.command(): answer}, HostFacts())
    assert (facts.foreign, facts.foreign_known) == ({"GPU-1": 512} if known else {}, known)


def test_without_curl_the_published_addresses_are_known_after_its_package() -> None:
    answers = {inspect.command(): Answer(inspect.NO_CURL, b"", b"curl is not there to ask with")}
    facts = host_facts(answers, HostFacts())
    assert (facts.published, facts.asked_after) == (None, "packages:apt-tools")
