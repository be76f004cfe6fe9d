"""Properties for every input: merging, ranges, patterns, and arbitrary files."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from provision.errors import InventoryError, UsageError
from provision.inventory import Connection, Host, Inventory, load
from provision.inventory.document import MAX_BYTES, parse
from provision.inventory.near import clip
from provision.inventory.ranges import expand
from provision.inventory.value import Value, layered, merge, plain
from tests.unit.inventory_roles import ROLES

SOME = settings(max_examples=150, suppress_health_check=[*HealthCheck])

scalars = st.none() | st.booleans() | st.integers() | st.text(max_size=5)
keys = st.sampled_from("abc")
trees = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3), max_leaves=12
)
mappings = st.dictionaries(keys, trees, max_size=3)


@pytest.fixture(autouse=True)
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))


def valued(data: Any) -> Value:
    if isinstance(data, dict):
        return Value({key: valued(item) for key, item in data.items()})
    if isinstance(data, list):
        return Value(tuple(valued(item) for item in data))
    return Value(data)


shaped = st.deferred(
    lambda: (
        st.dictionaries(keys, scalars | st.lists(scalars, max_size=2))
        | st.fixed_dictionaries({}, optional={"m": shaped, "n": shaped, "a": scalars})
    )
)


@SOME
@given(shaped, shaped, shaped)
def test_merging_is_associative(a: Any, b: Any, c: Any) -> None:
    a, b, c = valued(a), valued(b), valued(c)
    assert plain(merge(merge(a, b), c)) == plain(merge(a, merge(b, c)))


def test_a_scalar_between_two_mappings_drops_the_lower_mapping() -> None:
    levels = [{"role": valued(data)} for data in ({"x": {"a": 1}}, {"x": None}, {"x": {"b": 2}})]
    assert plain(layered(levels, ["role"])["role"]) == {"x": {"b": 2}}


@SOME
@given(mappings)
def test_merging_with_nothing_or_itself_changes_nothing(a: Any) -> None:
    value = valued(a)
    assert plain(merge(value, value)) == plain(merge(Value({}), value)) == plain(merge(value, Value({})))


@SOME
@given(mappings, mappings)
def test_the_upper_level_wins(below: Any, above: Any) -> None:
    merged = plain(merge(valued(below), valued(above)))
    assert merged.keys() == below.keys() | above.keys()
    for key, item in above.items():
        if not isinstance(item, dict) or not isinstance(below.get(key), dict):
            assert merged[key] == plain(valued(item))


@SOME
@given(st.lists(mappings, max_size=4))
def test_only_roles_merge(levels: list[Any]) -> None:
    values = [{key: valued(item) for key, item in level.items()} for level in levels]
    replaced = {key: plain(value) for level in values for key, value in level.items()}
    assert {key: plain(value) for key, value in layered(values, ()).items()} == replaced


@SOME
@given(st.integers(0, 300), st.integers(0, 300), st.integers(1, 7), st.integers(1, 4))
def test_a_range_of_numbers(first: int, length: int, step: int, width: int) -> None:
    last = first + length
    width = max(width, len(str(last)))
    names = expand(f"n[{first:0{width}}:{last:0{width}}:{step}]")
    assert [int(name[1:]) for name in names] == list(range(first, last + 1, step))
    assert first > 0 or width == 1 or all(len(name) == 1 + width for name in names)


def test_ranges_in_detail() -> None:
    assert expand("gpu-[08:11]") == ["gpu-08", "gpu-09", "gpu-10", "gpu-11"]
    assert expand("r[a:c]-[1:2].x") == ["ra-1.x", "ra-2.x", "rb-1.x", "rb-2.x", "rc-1.x", "rc-2.x"]
    assert expand("plain") == ["plain"]
    assert expand("[A:C:2]") == ["A", "C"]


@SOME
@given(st.text(alphabet="ab01[]:-9", max_size=14))
def test_any_range_gives_names_or_an_error(text: str) -> None:
    try:
        names = expand(text)
    except ValueError:
        return
    assert 1 <= len(names) <= 5000
    assert len(set(names)) == len(names)


def fleet() -> Inventory:
    groups = {
        "gpu-01": ("gpu", "rack1"),
        "gpu-02": ("gpu", "rack1"),
        "gpu-03": ("gpu", "rack2"),
        "lb-01": ("balancer",),
    }
    hosts = [Host(name=name, groups=of, connection=Connection(address=name)) for name, of in groups.items()]
    return Inventory(path="x", hosts=tuple(hosts))


@pytest.mark.parametrize(
    ("patterns", "expected"),
    [
        ([], "1 2 3 l"),
        (["all"], "1 2 3 l"),
        (["*"], "1 2 3 l"),
        (["gpu"], "1 2 3"),
        (["gpu:!gpu-02"], "1 3"),
        (["!gpu-02"], "1 3 l"),
        (["gpu,&rack1"], "1 2"),
        (["rack1:&gpu:!gpu-01"], "2"),
        (["lb-01", "gpu-01"], "1 l"),
        (["*-01"], "1 l"),
        (["rack?"], "1 2 3"),
        (["gpu-0[23]"], "2 3"),
        (["gpu-[01:02]"], "1 2"),
        (["gpu-[02:09]"], "2 3"),
        (["gpu[0]"], "1"),
        (["gpu[-1]"], "3"),
        (["gpu[0:1]"], "1 2"),
        (["gpu[1:]"], "2 3"),
        (["gpu[1:]:lb-01"], "2 3 l"),
        ([" gpu-01 , lb-01 "], "1 l"),
        (["~gpu-0[13]"], "1 3"),
        (["~.*-01"], "1 l"),
        (["~rack(1|2)"], "1 2 3"),
        (["~(gpu-03|lb),gpu-01"], "1 3 l"),
        (["~gpu-0{1,2}[12]:!~.*2"], "1"),
        (["gpu:!~gpu-0[23]"], "1"),
        (["gpu:&~rack1"], "1 2"),
    ],
)
def test_patterns(patterns: list[str], expected: str) -> None:
    names = {"1": "gpu-01", "2": "gpu-02", "3": "gpu-03", "l": "lb-01"}
    assert [host.name for host in fleet().select(patterns)] == [names[short] for short in expected.split()]


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("gpu-1", "no host or group matches gpu-1; did you mean gpu-01?"),
        ("!gpu-1", "no host or group matches gpu-1; did you mean gpu-01?"),
        ("gpus", "no host or group matches gpus; did you mean gpu?"),
        ("gpu:!gpu", "no host is selected by gpu,!gpu"),
        ("gpu[9]", "no host or group matches gpu[9]"),
        ("", "names no host: --limit ''"),
        ("!", "names no host: --limit !"),
        ("~gpu-1", "no host or group matches ~gpu-1; did you mean gpu-01?"),
        ("~gpu-(", "~gpu-( is not a regular expression: "),
        ("@/nothing/here", "--limit @/nothing/here cannot be read"),
    ],
)
def test_a_pattern_without_a_match_is_an_error(pattern: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        fleet().select([pattern])
    assert caught.value.message.startswith(message)


def test_patterns_may_come_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "failed"
    file.write_text("# of the last run\ngpu-01\n\nlb-01,gpu-03\n")
    assert [host.name for host in fleet().select([f"@{file}"])] == ["gpu-01", "gpu-03", "lb-01"]


@SOME
@given(st.text(max_size=30))
def test_any_pattern_selects_hosts_or_is_an_error(pattern: str) -> None:
    message = ""
    try:
        assert fleet().select([pattern])
    except UsageError as error:
        message = error.message
    assert len(message) < 300


def attempt(path: Path, **more: Any) -> None:
    """Load an inventory, which gives an Inventory or an InventoryError; any other outcome is a bug."""
    try:
        assert load(path, roles=ROLES, **more).hosts
    except InventoryError as error:
        problems = error.problems
    else:
        return
    assert problems
    assert all(len(str(problem)) < 1500 for problem in problems)


@SOME
@given(st.binary(max_size=200))
@example(b"\xff\xfe")
@example(b"a: \x00")
@example(b'"\\ud800": 1')
@example(b"? [a]\n: b")
@example(b"&a : 1\n*a : 2")
@example(b"gpu: {vars: {? !!binary x : 1}}")
@example(b"%YAML 9.9\n---\n")
@example(b"a: " + b"9" * 5000)
@example(b"a: !!int " + b"9" * 5000)
@example(b"a: 0x" + b"f" * 5000)
@example(b"a: !!float 1e999999")
@example(b"a: !file '\\0'")
@example(b'a: !file "\\0"')
@example(b"!<tag:yaml.org,2002:str> {}")
def test_any_bytes_load_or_are_reported(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "inventory.yaml"
    path.write_bytes(data)
    attempt(path)


WORDS = ["gpu", ":", " ", "\n", "hosts", "vars", "  ", "{", "}", "[", "]", "- ", "ollama", "nginx", "&a", "*a", "<<",
         "!env X", "!file x", "'", '"', "#", "1", "null", "children", "all", ",", "image", "instances", "gpu-[1:2]",
         "ansible_host", "ansible_ssh_common_args", "-o ProxyJump=", "~", "|", "\t", "? "]  # fmt: skip


@SOME
@given(st.lists(st.sampled_from(WORDS), max_size=40).map("".join))
def test_any_words_load_or_are_reported(tmp_path: Path, text: str) -> None:
    path = tmp_path / "inventory.yaml"
    path.write_text(text)
    attempt(path)


hostile = st.text(max_size=60) | st.sampled_from(
    ["$(reboot)", "`id`", "-rf", "--", "a\nb", "a\0b", "'", '"', "x" * 100_000, "{{ x }}", "\u202e", "%n", "../../etc"]
)
anything = st.recursive(
    hostile | st.booleans() | st.integers() | st.floats() | st.none(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(hostile, inner, max_size=3),
    max_leaves=6,
)
FIELDS = sorted({field for cls in ROLES.values() for field in cls.model_fields})


@SOME
@given(st.sampled_from([*FIELDS, "other"]), anything)
def test_any_value_of_a_setting_loads_or_is_reported(tmp_path: Path, field: str, value: Any) -> None:
    path = tmp_path / "inventory.yaml"
    role = {"ollama": {field: value}}
    path.write_text(yaml.safe_dump({"gpu": {"hosts": {"gpu-01": role}}}), encoding="utf-8", errors="replace")
    attempt(path)


@SOME
@given(st.sampled_from(["ansible_host", "ansible_port", "ansible_user", "ansible_ssh_common_args", "ansible_become",
                        "ansible_password", "ansible_ssh_private_key_file", "ansible_timeout"]), anything)  # fmt: skip
def test_any_value_of_a_connection_variable_loads_or_is_reported(tmp_path: Path, name: str, value: Any) -> None:
    path = tmp_path / "inventory.yaml"
    text = yaml.safe_dump({"gpu": {"hosts": {"gpu-01": {name: value}}}})
    path.write_text(text, encoding="utf-8", errors="replace")
    attempt(path)


@SOME
@given(st.text(max_size=40))
def test_any_override_loads_or_is_reported(tmp_path: Path, word: str) -> None:
    path = tmp_path / "inventory.yaml"
    path.write_text("gpu: {hosts: {gpu-01: }}")
    attempt(path, overrides=[word])
    attempt(path, overrides=[f"ollama.image={word}"])


LAUGHS = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 9)
)
DEEP = "b0: &b0 [1]\n" + "".join(f"b{n}: &b{n} [{'[' * 40}*b{n - 1}{']' * 40}]\n" for n in range(1, 9))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * 100_000, "nested more than 50 levels deep"),
        (DEEP, "nested more than 50 levels deep"),
        (LAUGHS, "values, with every alias counted in full"),
        ("x: [" + "1," * 300_000 + "]", "values, with every alias counted in full"),
    ],
    ids=["brackets", "deep aliases", "billion laughs", "many values"],
)
def test_yaml_bombs_are_refused(text: str, message: str) -> None:
    problems: list[Any] = []
    assert parse(text, "bomb.yaml", problems) is None
    assert message in problems[0].message


class Shallow(yaml.SafeLoader):
    """A parser with a depth limit far below ours, and a message of its own."""

    def fetch_flow_collection_start(self, token: Any) -> None:
        if self.flow_level == 20:
            raise yaml.scanner.ScannerError(None, None, "cannot go that deep", self.get_mark())
        super().fetch_flow_collection_start(token)


class Recursive(yaml.SafeLoader):
    """A parser that calls itself for every level."""

    def get_event(self) -> Any:
        raise RecursionError


@pytest.mark.parametrize("text", ["[" * 1001, "[" * 52 + "]" * 52, "a:\n  - " + "[{a: " * 600])
@pytest.mark.parametrize("parser", [getattr(yaml, "CSafeLoader", yaml.SafeLoader), yaml.SafeLoader, Recursive])
def test_a_too_deep_document_gets_the_same_message_with_every_parser(parser: type, text: str) -> None:
    problems: list[Any] = []
    assert parse(text, "bomb.yaml", problems, loader=parser) is None
    assert [problem.message for problem in problems] == ["is nested more than 50 levels deep"]
    assert problems[0].line == (2 if "\n" in text else 1)


def test_below_our_limit_the_message_of_a_stricter_parser_is_shown() -> None:
    problems: list[Any] = []
    assert parse("[" * 30 + "]" * 30, "deep.yaml", problems, loader=Shallow) is None
    assert "cannot go that deep" in problems[0].message


def test_a_too_large_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "inventory.yaml"
    path.write_bytes(b"#" * (MAX_BYTES + 1))
    with pytest.raises(InventoryError, match="larger than 4 MiB"):
        load(path, roles=ROLES)


def test_an_unreadable_path_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InventoryError, match="is a folder without a YAML file"):
        load(tmp_path, roles=ROLES)
    for path in (tmp_path / "missing", tmp_path / "a\0b", tmp_path / ("x" * 5000)):
        with pytest.raises(InventoryError, match="cannot be read"):
            load(path, roles=ROLES)


@SOME
@given(st.text(max_size=200))
def test_a_clipped_value_is_one_short_line(text: str) -> None:
    assert clip(text).isprintable()
    assert len(clip(text)) <= 80
