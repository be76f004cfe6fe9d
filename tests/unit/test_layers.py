"""The rules of the house: allowed imports, places for the words of a program, and loose modules."""

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# Highest first. A room imports itself and rooms of lower rows.
ROWS = [
    {"fabfile", "testing"},
    {"cli", "lab"},
    {"report"},
    {"actions"},
    {"verify", "loadtest", "doctor"},
    {"rollout"},
    {"apply"},
    {"runs"},
    {"plan"},
    {"roles"},
    {"steps"},
    {"artifacts", "certificates"},
    {"ssh"},
    {"inventory", "render"},
    {"command", "events", "terminal_text"},
    {"capacity"},
    {"errors"},
]
STEPS = [
    {"engines"},
    {"ollama"},
    {"instance"},
    {"docker", "keepalived", "nginx"},
    {"system"},
    {
        *(
            "base",
            "card_details",
            "card_load",
            "card_memory",
            "facts",
            "nvidia_smi",
            "apt_lines",
            "fleet_state",
            "instance_paths",
            "live",
        ),
        *("loading", "nginx_paths", "obstacles", "proof", "room", "speed", "wording"),
    },
]
HOMES = {
    "cryptography": {"certificates"},
    "fabric": {"ssh", "fabfile"},
    "paramiko": {"ssh", "inventory"},
    "gevent": {"loadtest"},
    "jinja2": {"render"},
    "locust": {"loadtest"},
    "matplotlib": {"loadtest"},
    "yaml": {"inventory", "lab"},
    "pydantic": {"inventory", "roles"},
    "pydantic_core": {"inventory", "roles"},
    "click": {"cli", "lab"},
    "rich": {"report", "lab"},
    "testinfra": {"verify"},
    "pytest": {"verify"},
}


def files() -> Iterator[tuple[str, str, Path]]:
    """Return every module of ours with the room, and the room inside `steps`."""
    for folder, unit in (("provision", ""), ("roles", "roles")):
        for path in sorted((ROOT / folder).rglob("*.py")):
            parts = path.relative_to(ROOT / folder).with_suffix("").parts
            room = unit or parts[0]
            if room not in ("__init__", "__main__") and "simulated" not in parts:
                yield room, parts[1] if room == "steps" else "", path


def row_of(name: str, rows: list[set[str]]) -> int:
    return next(number for number, row in enumerate(rows) if name in row)


def goes_down(name: str, target: str, rows: list[set[str]]) -> bool:
    return name == target or row_of(name, rows) < row_of(target, rows)


def imported(path: Path) -> Iterator[str]:
    """Return the modules that a file imports, by full name."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"relative import in {path}"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


MODULES = [pytest.param(*found, id=str(found[2].relative_to(ROOT))) for found in files()]


@pytest.mark.parametrize(("room", "part", "path"), MODULES)
def test_imports_go_down(room: str, part: str, path: Path) -> None:
    for module in imported(path):
        top, target, inner = (*module.split("."), "", "")[:3]
        if top == "provision" and room == target == "steps":
            wrong = not goes_down(part, inner, STEPS) and not {part, inner} <= STEPS[-1]
            assert not wrong, f"steps/{part} must not import {module}"
        elif top == "provision":
            of_another = room == target == "roles" and inner.split("_")[0] != path.stem.split("_")[0]
            wrong = not goes_down(room, target, ROWS) or of_another
            assert not wrong, f"{room} must not import {module}"
        elif top in HOMES:
            assert room in HOMES[top], f"{top} belongs to {HOMES[top]}, not to {room}"


@pytest.mark.parametrize(("room", "part", "path"), MODULES)
def test_every_module_has_a_row(room: str, part: str, path: Path) -> None:
    assert any(room in row for row in ROWS)
    assert room != "steps" or part == "__init__" or any(part in row for row in STEPS)


def test_the_architecture_page_shows_these_rows() -> None:
    text = " ".join((ROOT / "docs/architecture.md").read_text().split())
    rooms, steps = re.findall(r"fabfile[^.`]* errors|(?<=inside steps: )[^.`]*?(?= Every)", text)
    assert [set(row.split(", ")) for row in rooms.split(" > ")] == ROWS
    assert [set(row.split(", ")) for row in steps.split(" > ")] == STEPS


def test_a_loose_module_is_used_by_three_rooms() -> None:
    users = defaultdict(set)
    for room, _, path in files():
        for module in imported(path):
            users[module.split(".")[1] if module.startswith("provision.") else ""].add(room)
    loose = {path.stem for path in (ROOT / "provision").glob("*.py")} - {"__init__", "__main__", "fabfile", "testing"}
    assert {name: users[name] for name in loose if len(users[name] - {name}) < 3} == {}


def called(path: Path) -> set[str]:
    """Return the functions that a file calls by plain name."""
    calls = (node.func for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call))
    return {call.id for call in calls if isinstance(call, ast.Name)}


# These print beside `report`: programs of the lab, the fabfile, and the answer to a signal.
PRINTS = {"report", "lab", "fabfile"}
ANSWERS_SIGNALS = ROOT / "provision" / "runs" / "interrupt.py"


@pytest.mark.parametrize(("room", "part", "path"), MODULES)
def test_report_alone_prints(room: str, part: str, path: Path) -> None:
    assert room in PRINTS or path == ANSWERS_SIGNALS or not called(path) & {"print", "input"}


@pytest.mark.parametrize("path", sorted((ROOT / "provision" / "cli").glob("*.py")), ids=lambda path: path.name)
def test_the_command_line_knows_its_types(path: Path) -> None:
    names = (node.id for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Name))
    assert "Any" not in names
    assert "typing.Any" not in imported(path)


@pytest.mark.parametrize("room", ["actions", "rollout", "apply"])
def test_actions_rollout_and_apply_know_no_screen(room: str) -> None:
    for path in sorted((ROOT / "provision" / room).rglob("*.py")):
        tops = {tuple(module.split(".")[:2]) for module in imported(path)}
        assert not {top for top in tops if top[0] == "click" or top == ("provision", "report")}, path
        assert not called(path) & {"print", "input"}, path


def test_no_command_imports_another() -> None:
    shared = {"caller", "moments", "options", "output"}
    for path in sorted((ROOT / "provision" / "cli").glob("*.py")):
        targets = {module.split(".")[2] for module in imported(path) if module.startswith("provision.cli.")}
        assert targets <= shared, path


# The places for the words of a program. The rows above bound imports, and docstrings and comments may name a program
# to explain. The test reads all other text and every identifier.
WORDS = {
    "ollama": r"ollama|/api/|11434",
    "nginx": r"nginx",
}
PLACES = {
    "ollama": (
        "provision/steps/ollama/",
        "provision/steps/engines.py",
        "provision/steps/instance_paths.py",  # the shared folder of all engines has the name of the first engine
        "provision/lab/",
        "provision/loadtest/",
        "provision/inventory/example.py",  # shows the inventory of an operator
        "roles/__init__.py",
        "roles/ollama.py",
        "roles/ollama_settings.py",
        "roles/ollama_settings_traffic.py",
        "roles/models.py",
    ),
    "nginx": (
        "provision/steps/nginx/",
        "provision/steps/keepalived/",
        "provision/steps/nginx_paths.py",  # the paths that are also in the shared reads
        "provision/lab/",
        "provision/loadtest/",
        "provision/inventory/shared_settings.py",  # shared settings of the role, under the name of the role
        "provision/cli/__init__.py",  # the command `provision nginx pin`
        "provision/cli/nginx.py",
        "provision/actions/nginx_pin.py",
        "provision/report/nginx_pin.py",
        "roles/__init__.py",
        "roles/mirrors.py",
        "roles/nginx.py",
        "roles/balancer.py",
        "roles/balancer_access.py",
        "roles/balancer_gateway.py",
        "roles/balancer_include.py",
        "roles/balancer_tls.py",
        "templates/nginx/",
        "templates/keepalived/",
        "templates/balancer/",
    ),
}


def texts_of(source: str) -> Iterator[str]:
    """Yield constants and identifiers of Python source, without docstrings, comments and imported modules."""
    nodes = list(ast.walk(ast.parse(source)))
    explained = {id(node.value) for node in nodes if isinstance(node, ast.Expr)}
    for node in nodes:
        if isinstance(node, ast.Constant) and id(node) not in explained:
            yield str(node.value)
        names = (getattr(node, name, None) for name in ("id", "attr", "arg", "name", "asname"))
        yield from (name for name in names if isinstance(name, str) and not isinstance(node, ast.alias))


def test_docstrings_and_comments_alone_may_name_a_program() -> None:
    source = (
        '"""Ollama."""\nimport ollama\ndef f(nginx: int):  # nginx\n    """See /api/ps."""\n    return f"{nginx} a"\n'
    )
    assert set(texts_of(source)) == {"f", "nginx", "int", " a"}
    assert {"b'/api/'", "11434", "key"} <= set(texts_of("x = b'/api/', 11434, f(key=1)"))


def files_with(word: str) -> Iterator[str]:
    """Yield the files with words of a program outside the places."""
    for path in sorted(path for folder in ("provision", "roles", "templates") for path in (ROOT / folder).rglob("*.*")):
        name = str(path.relative_to(ROOT))
        if path.suffix in (".py", ".j2") and not name.startswith(PLACES[word]):
            texts = texts_of(path.read_text()) if path.suffix == ".py" else [path.read_text()]
            if any(re.search(WORDS[word], text, re.IGNORECASE) for text in texts):
                yield name


@pytest.mark.parametrize("word", WORDS)
def test_words_of_a_program_stand_where_they_belong(word: str) -> None:
    assert set(files_with(word)) == set(), f"words of {word} belong to {', '.join(PLACES[word])}"


@pytest.mark.parametrize("word", WORDS)
def test_every_place_of_a_word_exists(word: str) -> None:
    assert [place for place in PLACES[word] if not (ROOT / place).exists()] == []


def kinds_of_steps() -> tuple[set[str], set[str]]:
    """Return the classes of steps and finders, and the prefixes of ids, by the docstrings of `id`."""
    trees = [ast.parse(path.read_text()) for room, _, path in files() if room == "steps"]
    nodes = [node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    classes = {"Step", "Owned"}
    while more := {node.name for node in nodes if classes & set(map(ast.unparse, node.bases))} - classes:
        classes |= more
    methods = [method for node in nodes for method in node.body if isinstance(method, ast.FunctionDef)]
    texts = [ast.get_docstring(method) or "" for method in methods if method.name == "id"]
    return classes - {"Step", "Owned"}, {kind for text in texts for kind in re.findall("`([a-z_]+):", text)}


CLASSES, PREFIXES = kinds_of_steps()


def test_kinds_of_steps_are_known_to_the_next_test() -> None:
    assert {"Container", "MarkedModel", "OwnedGenerations"} <= CLASSES
    assert {"container", "model", "config", "unit", "file"} <= PREFIXES


def asks_for_a_kind(node: ast.AST) -> bool:
    """Whether code compares a class with a kind of step, or spells the beginning of a step's id."""
    if isinstance(node, ast.Constant):
        kind, colon, rest = node.value.partition(":") if isinstance(node.value, str) else ("", "", "")
        return bool(colon) and kind in PREFIXES and not re.search(r"\s", rest)
    if isinstance(node, ast.Call) and ast.unparse(node.func) in ("isinstance", "issubclass"):
        asked: list[ast.expr] = node.args[1:]
    elif isinstance(node, ast.Compare):
        asked = [node.left, *node.comparators]
    else:
        asked = [node.cls] if isinstance(node, ast.MatchClass) else []
    names = {ast.unparse(part).rpartition(".")[2] for expression in asked for part in ast.walk(expression)}
    return bool(names & CLASSES)


@pytest.mark.parametrize(("room", "part", "path"), MODULES)
def test_only_steps_and_roles_ask_for_the_kind_of_a_step_or_spell_an_id(room: str, part: str, path: Path) -> None:
    if room not in ("steps", "roles"):
        nodes = [node for node in ast.walk(ast.parse(path.read_text())) if asks_for_a_kind(node)]
        assert [ast.unparse(node) for node in nodes] == [], "make the knowledge a member of Step"
