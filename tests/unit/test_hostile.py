"""Hostile values. A setting refuses the value with a Problem, or carries the value as data, never unquoted to a shell.

A hostile answer of a host ends in a clear error. Printed text is bounded and has no command for a terminal.
"""

import base64
import contextlib
import functools
import io
import itertools
import json
import random
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_origin

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from pydantic.fields import FieldInfo

from provision.actions import documents
from provision.command import Answer, Command, Obtain, Put, Run
from provision.errors import CommandError, FactError, HostError
from provision.events import Event
from provision.inventory import Connection, Host, Inventory, Secret, Settings
from provision.inventory.check import validated
from provision.inventory.value import Value
from provision.plan import planner, role_interface
from provision.plan.planner import HostPlan, host_facts
from provision.plan.role_interface import Entry
from provision.report import console, progress
from provision.report import plan as report_plan
from provision.rollout.waves import Outcome
from provision.ssh import script
from provision.steps import facts as host_facts_read
from provision.steps.base import BlockedError, Owned, RefusalError, Step
from provision.steps.facts import Card, HostFacts
from provision.terminal_text import line, lines
from tests.unit.nginx_config import parse
from tests.unit.step_cases import cases, load, step_of
from tests.unit.test_facts import answer_of

SOME = settings(max_examples=150, suppress_health_check=[*HealthCheck])
CANARY = "/tmp/provision-canary"
MARK = "zq9x"  # ends every value, so that the tests find the value everywhere
HOSTILE = {
    "quotes": 'it\'s "quoted"',
    "command": f"$(touch {CANARY})",
    "backticks": f"`touch {CANARY}`",
    "end of word": f"'; touch {CANARY}; '",
    "end of line": f"a\ntouch {CANARY}",
    "carriage return": f"a\rtouch {CANARY}",
    "and": f"a&&touch {CANARY}",
    "option": "-rf",
    "long option": "--privileged",
    "only dashes": "--",
    "variable": "${IFS}$HOME$0",
    "glob": "*?[a-z]",
    "tilde": "~root",
    "comment": "# not a comment",
    "backslash": "a\\",
    "percent": "%s%n%%",
    "template": "{{ 7 * 7 }}{% raw %}",
    "comma": 'a,b="c"',
    "configuration": "a; } server { listen 1",
    "section": "[Service]",
    "climb": "../../etc/passwd",
    "blanks": " a  b ",
    "nothing": "",
    "nul": "a\0b",
    "escape": "\x1b[31mred\x1b]0;title\x07",
    "csi": "\x9b31m",
    "delete": "a\x7f",
    "turned": "\u202egnp.exe",
    "line separator": "a\u2028b",
    "zero width": "a\u200bb",
    "look-alike": "оllama",  # noqa: RUF001 - on purpose
    "wide": "ａ＄（ｉｄ）",  # noqa: RUF001
    "combining": "e\u0301" * 20,
    "emoji": "🦙" * 3,
    "surrogate": "\ud800",
    "4 kB": "x" * 4096,
    "10 MB": "x" * 10_000_000,
}
# Prefixes of a value, so that stricter types accept more values: paths, URLs, versions, images.
BEFORE = ("", "/", "/srv/", "http://h/", "1.2.3", "name:", "--with-x=", "https://u:")
FACTS = HostFacts(
    distribution="debian",
    version="13",
    codename="trixie",
    architecture="amd64",
    addresses=("10.0.0.1", "10.0.0.2", "127.0.0.1"),
    sources={"lb": "10.0.0.1", "gpu": "10.0.0.2"},
    resolved={"lb": "10.0.0.2", "gpu": "10.0.0.1"},
    cards=tuple(Card(n, f"GPU-{n}", "card", "590.48.01", 8.9, 24000) for n in (0, 1)),
)
REGISTRY = "registry.test:5000"  # key of every mapping of settings
MINIMAL: dict[str, dict[str, Any]] = {
    "balancer": {"router": "njs", "tls": {"authority": "ca"}, "vip": {"address": "10.0.0.100"}, "site": "east"},
    "docker": {"registries": {REGISTRY: {"username": "bot", "password": "secret"}}},
    "nginx": {
        "accept_known_vulnerabilities": True,
        "njs": {"url": "https://mirror.test/njs.tar.gz", "sha256": "a" * 64},
        "patches": [{"url": "https://mirror.test/a.patch", "sha256": "a" * 64}],
    },
    "ollama": {"instances": [{"gpus": [0]}], "models": ["deepseek-r1:1.5b"]},
}


# ---- settings --------------------------------------------------------------------------------------------------------


def fields() -> Iterator[tuple[str, tuple[str | int, ...], FieldInfo]]:
    """Yield every field of every role: role, path, and the field of pydantic."""
    for name in role_interface.order():
        yield from ((name, path, field) for path, field in within(role_interface.role(name).Settings, ()))


def within(cls: type[Settings], path: tuple[str | int, ...]) -> Iterator[tuple[tuple[str | int, ...], FieldInfo]]:
    for name, field in cls.model_fields.items():
        yield (*path, name), field
        for inner in get_args(field.annotation):
            if isinstance(inner, type) and issubclass(inner, Settings):
                of_kind = {dict: (REGISTRY,), UnionType: ()}
                yield from within(inner, (*path, name, *of_kind.get(get_origin(field.annotation), (0,))))


def shapes(field: FieldInfo, value: str) -> Iterator[Any]:
    """Yield a value in every shape that a field may accept."""
    yield value
    kind = str(field.annotation)
    if "tuple" in kind:
        yield [value]
    if "dict" in kind:
        yield {value: "value"}
        yield from ({key: value} for key in ("OLLAMA_REMOTES", "LLAMA_ARG_FIT", "labels", "deepseek-r1:1.5b"))
        yield {"labels": [value], "nested": {value: {"deep": value}}}


FIELDS = {f"{role}.{'.'.join(map(str, path))}": (role, path, field) for role, path, field in fields()}


def data(role: str, path: tuple[str | int, ...], value: Any) -> dict[str, Any]:
    """Return the settings of a role in an inventory: the minimum, and a value at a path."""
    found: Any = json.loads(json.dumps(MINIMAL.get(role, {})))
    inner = found
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    return found


def valued(found: Any, path: tuple[str | int, ...] = ()) -> Value:
    """Return data in the form of the inventory's reader, with a place for every value."""
    if isinstance(found, dict):
        return Value({key: valued(item, (*path, key)) for key, item in found.items()}, "f", 1, path)
    if isinstance(found, list):
        return Value(tuple(valued(item, (*path, n)) for n, item in enumerate(found)), "f", 1, path)
    return Value(found, "f", 1, path, str(found))


def accepted(role: str, found: Any) -> Settings | None:
    """Return the settings, or None after a refusal with short, printable problems."""
    problems: list[Any] = []
    checked = validated(role_interface.role(role).Settings, valued(found, (role,)), problems)
    assert (checked is None) == bool(problems)
    for problem in problems:
        assert str(problem).isprintable(), problem
        assert len(str(problem)) < 500
    return checked


def commands_of(role: str, chosen: Settings) -> list[Command]:
    """Return every command of any step of a gpu host and a balancer with some settings."""
    found: dict[str, Command] = {}
    for step in all_steps(role, chosen):
        found.update({repr(command): command for command in (step.fact().command, *changes(step))})
    return list(found.values())


def all_steps(role: str, chosen: Settings) -> list[Step]:
    hosts = []
    for name, address in (("gpu", "gpu"), ("lb", "lb")):
        given = {
            other: chosen
            if other == role
            else role_interface.role(other).Settings.model_validate(MINIMAL.get(other, {}))
            for other in role_interface.order()
        }
        group = "gpu" if name == "gpu" else "balancer"
        host = Host(name=name, groups=(group,), connection=Connection(address=address), settings=given)
        hosts.append(role_interface.with_instances(host))
    inventory = Inventory(path="", hosts=tuple(hosts))
    return [entry.step for host in hosts for entry in role_interface.steps(host, inventory)]


def changes(step: Step) -> list[Command]:
    """Return the commands that create and remove a step; none after a refusal."""
    try:
        want = step.want(FACTS, None)
    except (RefusalError, BlockedError):
        return []
    made = [*step.commands(None, want), *(step.commands(want, None) if want else ())]
    inner = [command for one in made if isinstance(one, Obtain) for command in one.make]
    return [one for one in (*made, *inner) if not isinstance(one, Obtain)]


@functools.cache
def taken() -> list[tuple[str, str, str, Settings]]:
    """Return every accepted hostile value: field, name of the value, the value, the settings."""
    found = []
    for (name, (role, path, field)), (what, value) in itertools.product(FIELDS.items(), HOSTILE.items()):
        done: set[int] = set()
        for before in BEFORE if len(value) < 10_000 else ("",):
            for number, shape in enumerate(shapes(field, before + value + MARK)):
                chosen = accepted(role, data(role, path, shape)) if number not in done else None
                if chosen is not None:
                    done.add(number)
                    found.append((name, what, before + value + MARK, chosen))
    return found


@functools.cache
def carried() -> list[tuple[str, str, str, Command]]:
    """Return every command with an accepted value: field, name of the value, the value, the command."""
    return [
        (name, what, value, command)
        for name, what, value, chosen in taken()
        for command in commands_of(name.split(".")[0], chosen)
        if MARK in flat(command)
    ]


def test_every_field_meets_every_hostile_value_and_most_are_refused() -> None:
    assert len(FIELDS) > 80
    fields_that_take = {name for name, _, _, _ in taken()}
    assert {"ollama.https_proxy", "ollama.no_proxy", "docker.daemon", "ollama.storage"} <= fields_that_take
    refused = {"nul", "10 MB", "end of line", "carriage return", "escape", "csi", "delete", "turned", "surrogate"}
    open_fields = {"docker.daemon"}  # JSON, which escapes every such character
    assert {name for name, what, _, _ in taken() if what in refused} - open_fields == set()


def test_an_accepted_value_reaches_a_shell_as_one_word_or_as_bytes() -> None:
    """A real `sh` runs the scripts of all steps, with stubs that record words and input in place of programs."""
    scripts: dict[str, Command] = {}
    for name, what, value, command in carried():
        assert_data(command, value, f"{name}: {what}")
        scripts.setdefault(f"{command!r}{flat(command)}", command)
    seen = {name for name, _, _, _ in carried()}
    assert {"ollama.no_proxy", "ollama.https_proxy", "ollama.origins", "ollama.environment", "docker.daemon"} <= seen
    assert len(scripts) > 200
    every = list(scripts.values())
    for start in range(0, len(every), 50):
        batch = every[start : start + 50]
        assert shell_saw(batch) == [expected(command) for command in batch]
    assert not Path(CANARY).exists()


def flat(command: Command) -> str:
    if isinstance(command, Put):
        return f"{command.path}\n{command.content.decode(errors='surrogateescape')}"
    assert isinstance(command, Run)
    return "\n".join((*command.words, command.stdin.decode(errors="surrogateescape")))


def assert_data(command: Command, value: str, what: str) -> None:
    """Assert that a value is in no shell code, is no option of a program, and arrives unchanged."""
    forms = {value, json.dumps(value)[1:-1], json.dumps(value, ensure_ascii=False)[1:-1], value.replace('"', '""')}
    if what.endswith("models"):
        forms.add(value.lower())  # a balancer compares names of models in lower case
    assert any(form in flat(command) for form in forms), f"{what}: mangled in {command}: {flat(command)[:300]}"
    if isinstance(command, Put):
        return
    assert isinstance(command, Run)
    assert MARK not in command.stdin.decode(errors="surrogateescape"), f"{what}: pasted into a script: {command}"
    if command.words[:2] == ("sh", "-c"):
        assert MARK not in command.words[2], f"{what}: pasted into shell text: {command}"
    for place, word in enumerate(command.words if command.words[0] != "sh" else ()):
        if MARK in word and word.startswith("-"):
            assert "--" in command.words[:place], f"{what}: may be taken for an option: {command}"


# A shell prefers functions to programs. Each function records words and standard input, so that no program runs.
STUBS = r"""
note() { kind=$1; shift; printf '%s\0' "$kind" "$#" "$@" >&3; base64 -w0 >&3; printf '\0' >&3; }
timeout() { note run "$@"; }
put() { note put "$@"; }
main() {
"""


Seen = tuple[str, tuple[str, ...], bytes]


def shell_saw(commands: list[Command]) -> list[Seen]:
    """Return the words and the input that a real shell gives to the programs of an assembled script."""
    text = script.assemble(commands, "mark", stop=True)
    subprocess.run(["sh", "-n"], input=text, check=True, timeout=60)
    stubbed = text.replace(b"\nmain() {\n", STUBS.encode(), 1)
    done = subprocess.run(
        ["sh", "-c", "exec 3>&1 >/dev/null; exec sh -s"], input=stubbed, capture_output=True, check=True, timeout=60
    )
    notes = iter(done.stdout.decode().split("\0")[:-1])
    seen = []
    for kind in notes:
        words = tuple(itertools.islice(notes, int(next(notes))))
        seen.append((kind, words, base64.b64decode(next(notes))))
    return seen


def expected(command: Command) -> Seen:
    if isinstance(command, Put):
        return "put", (command.path, f"{command.mode:04o}", command.owner), command.content
    assert isinstance(command, Run)
    return "run", ("-k", "5", f"{command.timeout:g}", *command.words), command.stdin


def test_an_accepted_value_is_whole_in_every_file() -> None:
    """A line of a file stays a line, and JSON stays JSON: no value breaks out of its place."""
    plain = dict(files("ollama", {}) + files("docker", {}))
    for name, what, value, command in carried():
        if not isinstance(command, Put) or MARK.encode() not in command.content:
            continue
        text = command.content.decode()
        if command.path.startswith("/etc/docker") or command.path.endswith(".json"):
            json.loads(text)
        elif command.path.endswith("/models.conf"):  # a name without a tag has the locations of two forms
            assert {found.words[0] for found in parse(text)} == {"location"}, f"{name}: {what}: {text}"
        elif command.path in plain:
            same = len(plain[command.path].splitlines())
            assert len(text.splitlines()) <= same + 1, f"{name}: {what}: {text}"
        else:
            assert "\n" not in value, f"{name}: {what}: {command.path}"


def files(role: str, found: Any) -> list[tuple[str, str]]:
    chosen = accepted(role, {**MINIMAL.get(role, {}), **found})
    assert chosen is not None
    puts = (command for command in commands_of(role, chosen) if isinstance(command, Put))
    return [(put.path, put.content.decode()) for put in puts]


texts = st.text(st.characters(), max_size=80)


@SOME
@given(st.sampled_from(sorted(FIELDS)), st.sampled_from(BEFORE), texts)
@example("ollama.no_proxy", "", "$(x)")
@example("ollama.instances.0.models", "", "A")
def test_any_text_in_any_field_is_refused_or_carried(name: str, before: str, text: str) -> None:
    role, path, field = FIELDS[name]
    value = before + text + MARK
    for shape in shapes(field, value):
        chosen = accepted(role, data(role, path, shape))
        if chosen is None:
            continue
        found = [one for one in commands_of(role, chosen) if MARK in flat(one)]
        for command in found:
            assert_data(command, value, name)
        if found:
            assert shell_saw(found) == [expected(command) for command in found]


def test_secrets_accept_hostile_values_and_show_none() -> None:
    for value in HOSTILE.values():
        for shown in (str(Secret(value)), repr(Secret(value)), f"{Secret(value)}"):
            assert shown == "[secret]"
    with pytest.raises(ValidationError) as error:
        role_interface.role("ollama").Settings.model_validate({"https_proxy": ["hunter2"]})
    assert "hunter2" not in str(error.value)


# ---- answers of hosts ------------------------------------------------------------------------------------------------

NOISE = [
    "\x1b[2J\x1b[31m[bold red]x[/]",
    "\x1b]0;title\x07",
    "null",
    "[]",
    "{}",
    "-1",
    "9" * 400,
    "9" * 5000,
    "NaN",
    "'\"",
    "# gpu-exit",
    "# end",
    "\0",
    "\ud800".encode(errors="surrogatepass").decode(errors="replace"),
    "٣",
    "[" * 3000,
    "x" * 100_000,
    ", , , , , , ,",
]


def spoiled(answer: Answer, chance: random.Random) -> Answer:
    """Return the answer with random damage."""
    tokens = re.split(r"(\s+|[,:{}\[\]\"=]+)", answer.text)
    for _ in range(chance.randint(1, 4)):
        place = chance.randrange(len(tokens))
        match chance.randint(0, 3):
            case 0:
                tokens[place] = chance.choice(NOISE)
            case 1:
                tokens = tokens[:place] or [""]
            case 2:
                del tokens[place : place + chance.randint(1, 6)]
                tokens = tokens or [""]
            case 3:
                tokens.insert(place, chance.choice(tokens))
    text = "".join(tokens).encode(errors="surrogatepass")
    return Answer(chance.choice([answer.exit, answer.exit, 0, 1, 75, 124, 255]), text, answer.stderr)


@pytest.mark.parametrize("path", cases("facts"))
def test_a_garbled_answer_stops_the_host_with_a_clear_error_and_nothing_else(path: Path) -> None:
    case = load(path)
    thing, good = step_of(path, case), answer_of(case)
    chance = random.Random(path.name)  # noqa: S311 - repeatable
    for _ in range(60):
        answer = spoiled(good, chance)
        answers = {thing.fact().command: answer}
        entries = [] if isinstance(thing, Owned) else [Entry("role", thing)]
        finders = [("role", thing)] if isinstance(thing, Owned) else []
        try:
            planned = planner.plan_host(entries, frozenset(), finders, FACTS, answers)
        except HostError as error:
            assert_screen(console.error_text(error))
        else:
            assert_plan_can_be_shown(planned)


def assert_plan_can_be_shown(planned: HostPlan) -> None:
    outcome = Outcome("host", planned)
    json.dumps(report_plan.document([outcome]), default=str)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        report_plan.text([outcome], Inventory(path="", hosts=()))
    assert all(character.isprintable() or character == "\n" for character in printed.getvalue())
    assert all(len(text) < 2000 for text in printed.getvalue().splitlines())


GOOD_FACTS = """# os
ID=debian
VERSION_ID="13"
VERSION_CODENAME=trixie
# arch
amd64
# cgroup
2
# systemd
yes
# addresses
127.0.0.1/8
10.0.0.1/24
# peer
lb
10.0.0.2
10.0.0.1
# docker
29.1.3
# gpu
0, GPU-6506c7fb-0468-e2f5-1691-2db0f8554bf0, NVIDIA RTX A6000, 590.48.01, 8.6, 49140, [N/A]
1, GPU-7506c7fb-0468-e2f5-1691-2db0f8554bf0, NVIDIA RTX A6000, 590.48.01, 8.6, 49140, Disabled
# gpu-exit
0
"""


def test_garbled_host_facts_stop_the_host_or_suit_every_step() -> None:
    chance = random.Random(1)  # noqa: S311
    chosen = role_interface.role("ollama").Settings.model_validate(MINIMAL["ollama"])
    steps = all_steps("ollama", chosen)
    for _ in range(1500):
        answer = spoiled(Answer(0, GOOD_FACTS.encode()), chance)
        try:
            facts = host_facts({host_facts_read.command(()): answer})
        except FactError as error:
            assert_screen(console.error_text(error))
            continue
        for step in steps if chance.random() < 0.1 else ():
            with contextlib.suppress(HostError, BlockedError):
                planner.wanted(role_interface.Entry("ollama", step), facts, None)


# ---- what is printed -------------------------------------------------------------------------------------------------


def assert_screen(text: str) -> None:
    """Assert that a text fits a screen and has no command for a terminal."""
    assert all(character.isprintable() or character == "\n" for character in text)
    assert len(text.splitlines()) <= 40
    assert len(text) < 20_000


@SOME
@given(texts, texts)
@example("\x1b[31mred\x1b[0m", "\x1b]8;;http://x\x07link\x1b]8;;\x07")
@example("a\x9b2Jb", "\x1bPq#0\x1b\\")
@example("\r\x1b[Aoverwritten", "\u202e")
def test_printed_text_has_no_command_for_a_terminal(message: str, evidence: str) -> None:
    error = CommandError(message, evidence, step=message, command=evidence, exit_status=1, stderr=evidence * 500)
    assert_screen(console.error_text(error))
    assert line(message).isprintable()
    assert all(one.isprintable() for one in lines(evidence))


def test_escape_sequences_are_removed_whole_and_the_rest_stays() -> None:
    assert line("\x1b[1;31mfail\x1b[0m: x") == "fail: x"
    assert line("\x1b]0;pwned\x07ok") == "ok"
    assert line("\x1b]8;;http://evil\x1b\\click\x1b]8;;\x1b\\") == "click"
    assert line("ü 好 🦙 [bold]x[/bold]") == "ü 好 🦙 [bold]x[/bold]"
    assert line("x" * 1000, 10) == "xxxxxxxxx…"
    assert lines("a\r\nb\rc\n") == ["a", "b", "c", ""]
    assert lines("\n".join(map(str, range(30))), most=3, last=True) == ["... 27 more lines", "27", "28", "29"]


def test_huge_output_is_bounded_and_quick() -> None:
    error = CommandError("x" * 10_000_000, stderr="\x1b[31m" * 5_000_000 + "\n" * 1_000_000 + "the reason")
    text = console.error_text(error)
    assert_screen(text)
    assert "the reason" in text
    assert len(json.dumps(documents.deployed([Outcome("h", error=error)], "run", ""))) < 20_000


def test_markup_in_the_output_of_a_host_is_shown_as_text(monkeypatch: pytest.MonkeyPatch) -> None:
    from rich.console import Console

    live = progress.Live(["host [red]"])
    said = "[bold red]x[/bold red] [/] [link=http://x]y[/link] \\"
    live(Event("host [red]", "progress", "[blink]step[/blink]", f"{said}\x1b]0;t\x07"))
    out = io.StringIO()
    Console(file=out, force_terminal=True, width=200).print(live._progress.get_renderable())
    assert "[bold red]x[/bold red] [/] [link=http://x]y[/link] \\" in out.getvalue()
    assert "[blink]step[/blink]" in out.getvalue()
    assert "host [red]" in out.getvalue()
    assert "\x1b]" not in out.getvalue()


def test_progress_on_an_unselected_balancer_is_shown() -> None:
    from rich.console import Console

    live = progress.Live(["gpu-01"])
    for kind in ("changing", "progress", "changed", "done"):
        live(Event("lb-01", kind, "config:nginx", "gpu-01/ollama1 down"))
    live(Event("lb-02", "waiting", "lock"))
    out = io.StringIO()
    Console(file=out, force_terminal=True, width=200).print(live._progress.get_renderable())
    assert "lb-02" in out.getvalue()


def test_lines_of_progress_are_clean_and_bounded(capsys: pytest.CaptureFixture[str]) -> None:
    show = progress.Lines(4, verbose=True)
    show(Event("host", "progress", "step:\x1b[31m", "\x1b[2Jx" + "y" * 10_000))
    err = capsys.readouterr().err
    assert "\x1b" not in err
    assert len(err) < 500
