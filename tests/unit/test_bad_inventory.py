"""A bad inventory, through the command line and with the real roles: every problem at once, each with its file and
line, exit code 2, and no host is reached."""

import json
import re
from pathlib import Path

import pytest

from provision import cli, testing
from provision.cli.caller import Caller

BAD = """\
all:
  vars:
    ansible_user: ops
    docker:
      versoin: 29.1.3
      repository: ftp://mirror.test/docker
      key_fingerprint: 0EBFCD88
    ollama:
      image: "Ollama/Ollama:latest tag"
      models: ["deepseek r1"]
      context_length: "4096"
      environment: {OLLAMA_NUM_CTX: "1"}
    nginx:
      sha256: abc
      version: 1.26
    balancer: {port: 70000, queue: -1}
    olama: {}
  children:
    gpu:
      hosts:
        gpu-01:
          ollama:
            instances:
              - {gpus: [0], port: 3001}
              - {gpus: [0], port: 3001}
              - {gpus: []}
              - {port: 3009}
              - {gpus: [1], context_length: many}
        gpu-02:
          nvidia_toolkit: [1]
          ollama:
            instances:
              - {gpus: [zero], name: "-rf"}
    balancer:
      hosts:
        lb-01: {nginx: {configure_args: ["--prefix=/tmp"]}}
"""
# line, what it must say
PROBLEMS = [
    (5, "versoin: unknown; did you mean version?"),
    (6, "repository: must be an http:// or https:// URL"),
    (7, "key_fingerprint: must be a key fingerprint"),
    (9, "image: must be an image such as"),
    (10, r"models\[0\]: must be a model such as"),
    (11, "context_length: must be a whole number"),
    (12, "OLLAMA_NUM_CTX: Ollama reads no such variable"),
    (14, "sha256: must be a sha256"),
    (15, "version: must be text, not 1.26"),
    (16, "port: must be"),
    (16, "queue: must be"),
    (25, "port: port 3001 is already that of instances\\[0\\]"),
    (25, "gpus: card 0 is already that of instances\\[0\\]"),
    (26, "gpus: must name at least one card"),
    (27, "gpus: is required"),
    (28, "context_length: must be a whole number"),
    (30, "nvidia_toolkit: must be a mapping"),
    (33, r"gpus\[0\]: must be an index from 0 to 1023, or a UUID"),
    (33, "name: must be a name"),
    (36, r"configure_args\[0\]: must be --with-NAME"),
]
TWICE = """\
all:
  children:
    gpu:
      hosts:
        gpu-01:
          ollama:
            instances:
              - {gpus: [0], port: 3001}
              - {gpus: [0, 1], port: 3001}
              - {gpus: [1], name: ollama1}
        gpu-02: {}
"""


def execute(words):
    """Run the command line; a connection to any host fails the test."""
    unreachable = testing.setup("/nowhere", lambda *_: pytest.fail("a host was reached"))
    return cli.execute(words, Caller(unreachable))


@pytest.fixture
def write(tmp_path: Path):
    """A function that writes an inventory, and returns the path."""

    def make(text: str) -> str:
        path = tmp_path / "inventory.yaml"
        path.write_text(text)
        return str(path)

    return make


@pytest.mark.parametrize(
    "words",
    [
        ["plan"],
        ["plan", "--json"],
        ["deploy", "--yes"],
        ["deploy", "--yes", "--json"],
        ["verify"],
        ["inventory", "check"],
    ],
)
def test_every_problem_is_reported_at_once(words, write, capsys):
    path = write(BAD)
    assert execute([*words, "-i", path]) == 2
    shown = capsys.readouterr()
    lines = (shown.err or shown.out).splitlines()
    for number, pattern in PROBLEMS:
        assert [line for line in lines if line.startswith(f"{path}:{number}: ") and re.search(pattern, line)], (
            number,
            pattern,
            lines,
        )
    assert all(len(line) < 300 and line.isprintable() for line in lines)
    assert "Traceback" not in shown.err
    assert re.search(r"\d+ problems", lines[-1])


def test_conflicts_between_instances_are_reported(write, capsys):
    assert execute(["inventory", "check", "--json", "-i", write(TWICE)]) == 2
    document = json.loads(capsys.readouterr().out)
    said = {problem["message"]: problem["line"] for problem in document["problems"]}
    assert {text: line for text, line in said.items() if "already" in text} == {
        "port 3001 is already that of instances[0]": 9,
        "card 0 is already that of instances[0]": 9,
        "card 1 is already that of instances[1]": 10,
        "name ollama1 is already that of instances[0]": 10,
    }


NO_GPU = "all: {children: {gpu: {hosts: {gpu-01: {}}}}}\n"
OFTEN = {
    "no instance": (NO_GPU, "gpu-01 is in the group gpu and has no instance"),
    "no group": ("all: {hosts: {a: {}}}\n", r"has no groups, only the hosts a; .*`gpu: \{hosts: \{a: \}\}`"),
    "no yaml": ("all: [\n", "line|expected|YAML"),
    "no mapping": ("- a\n", "mapping"),
    "nothing": ("", "."),
    "tabs": ("all:\n\tvars: {}\n", "tab|character"),
    "a secret that is not set": (
        "all: {vars: {ansible_password: !env NO_SUCH}}\n",
        "NO_SUCH: the environment variable",
    ),
    "a file that is not there": ("all: {vars: {ansible_password: !file no/such}}\n", "there is no such file"),
    "an object": ("all: !!python/object/apply:os.system ['id']\n", "the YAML tag .* cannot be used here"),
    "10 MB": ("all: {vars: {a: '" + "x" * 10_000_000 + "'}}\n", "larger|MiB"),
    "a billion laughs": (
        "a: &a [x,x,x,x,x,x,x,x,x]\n"
        + "".join(f"{b}: &{b} [{','.join(['*' + a] * 9)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)),
        ".",
    ),
    "an escape": ('all: {vars: {"\\e[31mred": 1, ollama: {"\\e]0;t\\a": 1}}}\n', "."),
    "a surrogate": ('all: {vars: {ollama: {"\\ud800": 1}}}\n', "."),
    "a hostile host": ('all: {children: {gpu: {hosts: {"$(id)": {ollama: {instances: [{gpus: [0]}]}}}}}}\n', "."),
    "an option for a host": ('all: {children: {gpu: {hosts: {"-oProxyCommand=id": {}}}}}\n', "."),
    "an option for an address": (
        "all: {children: {gpu: {hosts: {a: {ansible_host: -oProxyCommand=id, ollama: {instances: [{gpus: [0]}]}}}}}}\n",
        "ansible_host",
    ),
    "a command for ssh": (
        "all: {children: {gpu: {hosts: {a: {ansible_ssh_common_args: -o ProxyCommand=id}}}}}\n",
        "ProxyCommand|proxycommand",
    ),
}


@pytest.mark.parametrize(("text", "pattern"), OFTEN.values(), ids=OFTEN)
def test_hostile_files_are_refused_in_bounded_words(text, pattern, write, capsys):
    assert execute(["plan", "-i", write(text)]) == 2
    shown = capsys.readouterr().err
    assert re.search(pattern, shown), shown
    assert "Traceback" not in shown
    assert "bug of provision" not in shown
    assert len(shown) < 5000
    assert all(character.isprintable() or character == "\n" for character in shown)


@pytest.mark.parametrize(
    ("words", "pattern"),
    [
        (["plan", "--limit", "gpu-9"], "did you mean"),
        (["plan", "--tags", "ngin"], "no such role: ngin"),
        (["plan", "-e", "ollama.imge=x"], "did you mean image"),
        (["depoly"], "did you mean deploy"),
        (["deploy"], "say --yes"),
        (["plan", "-i", "no-such-file.yaml"], "no-such-file.yaml"),
        (["plan", "--limit", "\x1b[31m$(id)"], "."),
        (["plan", "--tags", "\x1b[31m"], "no such role"),
    ],
)
def test_words_for_missing_things_are_usage_errors(words, pattern, write, capsys):
    path = write(
        "all: {vars: {nginx: {accept_known_vulnerabilities: true}},"
        " children: {gpu: {hosts: {gpu-01: {ollama: {instances: [{gpus: [0]}]}}}}}}\n"
    )
    where = [] if "-i" in words or words == ["depoly"] else ["-i", path]
    assert execute([*words, *where]) == 2
    shown = capsys.readouterr().err
    assert re.search(pattern, shown), shown
    assert "Traceback" not in shown
    assert "\x1b" not in shown


@pytest.mark.parametrize(
    ("length", "words"),
    [
        ("many", "must be a whole number or must be 'auto', not \"many\""),
        ("Auto", "must be a whole number or must be 'auto', not \"Auto\""),
        ("12", "must be at least 256 or must be 'auto', not 12"),
    ],
)
def test_a_wrong_context_is_refused_by_its_path_beside_all_other_problems(length, words, write, capsys):
    """A union of two types reports its place twice, and the problems of other instances must not be lost for that."""
    path = write(TWICE.replace("{gpus: [1], name: ollama1}", f"{{gpus: [2], context_length: {length}}}"))
    assert execute(["inventory", "check", "-i", path]) == 2
    shown = capsys.readouterr()
    text = shown.err or shown.out
    assert f"instances[2].context_length: {words}" in text
    assert "instances[1].port: port 3001 is already that of instances[0]" in text
