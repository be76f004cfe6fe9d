"""The description of a command in tests, golden plans and `-v`: everything that decides the effect."""

import importlib
import pkgutil
from dataclasses import replace

import pytest

import provision
from provision.command import Obtain, Put, Run, Script, describe, look, run, sh
from provision.inventory.secret import Mask, Secret
from tests.unit.step_cases import cases, load

COPY = Script("tests/copy", 'cp -- "$1" "$2"')


@pytest.mark.parametrize(
    ("command", "described"),
    [
        (run("rm", "-f", "--", "a b"), "$ rm -f -- 'a b'"),
        (run("true", title="do nothing"), "do nothing $ true"),
        (run("groupdel", "a", ok=(0, 6)), "$ groupdel a [exit 0, 6]"),
        (run("true", ok=(), timeout=7.5), "$ true [7.5 s; exit any]"),
        (sh(COPY, "a", "$b", title="copy a"), "copy a $ sh -s -- a '$b' < tests/copy"),
        (sh(COPY, "a", title="copy a", job=True, timeout=600), "copy a $ sh -s -- a < tests/copy [job; 600 s]"),
        (look(COPY, title="look"), "look $ sh -s -- < tests/copy [20 s]"),
        (Run(("cat",), b"some bytes"), "$ cat < 10 bytes"),
        (
            Put("/etc/a", b"text\n", 0o640, "root:adm"),
            "write /etc/a (5 bytes, sha256 b9e68e1bea3e, mode 0640) root:adm",
        ),
        (
            Obtain("key", "/a.tar", (run("make"), run("tar", "a")), host="lb-01", title="nginx"),
            "nginx: obtain key at /a.tar, made on lb-01 by\n  $ make\n  $ tar a",
        ),
    ],
)
def test_a_description_has_every_part_of_a_command(command, described):
    assert describe(command) == described


def test_a_description_masks_secrets():
    mask = Mask([Secret("hunter2-hunter2")])
    assert describe(run("curl", "http://hunter2-hunter2@proxy"), mask) == "$ curl http://[secret]@proxy"


CREATE = sh(COPY, "ollama1", "--gpus", "all", title="create container ollama1")


@pytest.mark.parametrize(
    "other",
    [
        replace(CREATE, words=(*CREATE.words, "--privileged")),
        replace(CREATE, words=CREATE.words[:-1]),
        replace(CREATE, words=tuple("2" if word == "all" else word for word in CREATE.words)),
        replace(CREATE, words=tuple("--gpus all" if word == "--gpus" else word for word in CREATE.words)),
        replace(CREATE, title="create"),
        replace(CREATE, script="tests/move"),
        replace(CREATE, ok=(0, 1)),
        replace(CREATE, timeout=5.0),
        replace(CREATE, job=True),
    ],
)
def test_different_commands_have_different_descriptions(other):
    assert describe(other) != describe(CREATE)


def test_the_case_files_name_every_script():
    pinned = [
        line for case in cases("steps") for key in ("commands", "undo") for line in load(case.values[0]).get(key, ())
    ]
    assert len([line for line in pinned if " < " in line]) > 100
    assert not [line for line in pinned if " bytes" in line.partition(" < ")[2]]


OTHERS = ("provision.__main__", "provision.lab", "provision.loadtest")  # programs of their own


def test_no_two_scripts_share_a_name():
    names = [module.name for module in pkgutil.walk_packages(provision.__path__, "provision.")]
    modules = [importlib.import_module(name) for name in names if not name.startswith(OTHERS)]
    scripts = {str(thing): thing for module in modules for thing in vars(module).values() if isinstance(thing, Script)}
    assert len(scripts) > 40
    assert len({script.name for script in scripts.values()}) == len(scripts)
