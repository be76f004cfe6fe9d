"""The documentation names only existing things, and every command."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import click
import pytest

from provision.cli import COMMANDS, group
from provision.plan import role_interface

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
PAGES = (ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md")))
INVENTED = (ROOT / "docs/facts.md", ROOT / "tests/unit/test_prose.py")  # pages of other projects, and of no project
FOLDERS = ("provision", "roles", "templates", "tests", "inventory", ".ci")
REFERENCE = re.compile(r"\b(docs/(?:[a-z/]+/)?(?![A-Z]+\.md)[\w.-]+\.md)\b(?:#([\w-]+))?")  # PAGE.md is any page
LINK = re.compile(r"\]\(([^)#:\s]*)(?:#([^)\s]*))?\)")
NOBODY_HAS = re.compile(r"\b(?:FACTS|DESIGN|SCALE|GATEWAY|PEERS)(?:\.md|,? \d)")


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, by the rules of GitHub."""
    headings = re.findall(
        r"^#+ +(.+)$", re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL), re.MULTILINE
    )
    return {re.sub(r"[^\w\- ]", "", heading.replace("`", "").lower()).strip().replace(" ", "-") for heading in headings}


def texts() -> Iterator[tuple[Path, str]]:
    """Yield every text file of the tree, with the text."""
    files = [*PAGES, ROOT / "Makefile", ROOT / "pyproject.toml"]
    for folder in FOLDERS:
        files += (path for path in sorted((ROOT / folder).rglob("*")) if path.is_file())
    for path in files:
        try:
            yield path, path.read_text()
        except UnicodeDecodeError:
            continue


def commands() -> list[tuple[str, click.Command]]:
    """Return every command with its subcommands, by the typed words."""
    context = click.Context(group)
    found = []
    for name in COMMANDS:
        command = group.get_command(context, name)
        assert command is not None
        found.append((name, command))
        if isinstance(command, click.Group):
            found += [(f"{name} {sub}", one) for sub, one in command.commands.items()]
    return found


@pytest.mark.parametrize(("name", "command"), commands(), ids=[name for name, _ in commands()])
def test_every_command_has_help_and_a_place_in_the_readme(name, command):
    assert command.help
    assert all(param.help for param in command.params if isinstance(param, click.Option)), name
    assert re.search(rf"`[^`\n]*\b{name.split()[-1]}\b[^`\n]*`", README), f"README does not name `{name}`"


def test_every_link_of_the_documentation_leads_somewhere():
    for page in PAGES:
        for target, anchor in LINK.findall(page.read_text()):
            linked = page.parent / target if target else page
            assert linked.exists(), f"{page.name} links to {target}"
            assert not anchor or anchor in anchors(linked), f"{page.name} links to {target}#{anchor}"


def test_every_reference_to_a_page_leads_to_a_heading():
    found = 0
    for path, text in texts():
        if path in INVENTED:
            continue
        for name, anchor in REFERENCE.findall(text):
            page = ROOT / name
            assert page.exists(), f"{path.relative_to(ROOT)} refers to {name}"
            assert not anchor or anchor in anchors(page), f"{path.relative_to(ROOT)} refers to {name}#{anchor}"
            found += bool(anchor)
    assert found > 40  # references from the code to docs/facts.md


def test_no_text_refers_to_a_missing_document():
    for path, text in texts():
        assert not (match := NOBODY_HAS.search(text)), f"{path.relative_to(ROOT)} refers to {match and match[0]}"


def is_setting(name: str) -> bool:
    """Whether `role.key` or `role.key.key` is a setting."""
    role, *keys = name.split(".")
    model: Any = role_interface.sections().get(role)
    for key in keys:
        fields = getattr(model, "model_fields", {})
        if key not in fields:
            return False
        model = next(iter(get_args(fields[key].annotation)), fields[key].annotation)
    return bool(keys)


def parse(words: list[str]) -> None:
    """Parse a command line as `provision` does, and run nothing."""
    context = click.Context(group)
    command: click.Command = group
    while isinstance(command, click.Group):
        name, found, words = command.resolve_command(context, words)
        assert name
        assert found
        command, context = found, click.Context(found, parent=context, info_name=name)
    command.make_context(command.name, words, parent=context)


def rows_of_the_guides() -> list[tuple[str, str, str]]:
    """Return the rows of the page: the advice of the guides, our counterpart, and the judgement."""
    lines = re.findall(r"^\| (.+) \|$", (ROOT / "docs/from-the-guides.md").read_text(), re.MULTILINE)
    cells = [re.split(r" \| ?", line) for line in lines]
    return [(row[0], row[1], row[2]) for row in cells if row[0] != "the guide"]


@pytest.mark.parametrize(("says", "here", "judgement"), rows_of_the_guides())
def test_the_page_about_the_guides_names_only_existing_commands_and_settings(
    says, here, judgement, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    assert judgement in ("yes", "otherwise", "not yet", "no"), says
    for words in (shlex.split(code) for code in re.findall(r"`([^`]+)`", here)):
        if words[0] == "provision":
            parse(words[1:])
        elif words[0].startswith("--"):
            assert any(words[0] in param.opts for _, command in commands() for param in command.params), words
        elif re.fullmatch(r"[a-z_]+(\.[a-z_]+)+", words[0]):
            assert is_setting(words[0]), words


def test_a_wrong_name_is_neither_a_setting_nor_a_command():
    assert is_setting("ollama.context_length")
    assert is_setting("loadtest.targets.max_fail")
    assert not is_setting("ollama.lazy_load")
    assert not is_setting("monitoring.port")
    for line in ("deploy --canry", "export compose", "deploy --serial"):
        with pytest.raises((click.UsageError, AssertionError)):
            parse(line.split())


def test_the_features_that_the_page_about_the_guides_calls_absent_are_absent():
    assert "export" not in COMMANDS
    assert "monitoring" not in role_interface.order()


def test_the_architecture_page_stays_short():
    lines = (ROOT / "docs/architecture.md").read_text().splitlines()
    assert len(lines) <= 200
    assert all(len(line) <= 130 for line in lines if not line.startswith("|"))  # longer lines would evade the bound


def test_a_heading_has_the_anchor_of_github(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("# The `gpus` option\n\n```\n# no heading\n```\n\n## MIG, and more: A-B\n")
    assert anchors(page) == {"the-gpus-option", "mig-and-more-a-b"}


def test_the_readme_says_early_that_the_lab_is_simulated():
    assert "simulated" in README.split("make test")[0]


def test_the_first_screen_of_the_readme_has_the_two_commands():
    screen = README.split("\n## ")[0].splitlines()
    assert len(screen) <= 25
    assert [line.split("#")[0].strip() for line in screen if line.startswith("    ")] == ["make demo", "make test"]
    assert all(f"**{word}:**" in "\n".join(screen) for word in ("For whom", "What"))
