"""What the documentation names exists, and what exists is named."""

import re
from pathlib import Path

import click
import pytest

from provision.cli import COMMANDS, group

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


def commands() -> list[tuple[str, click.Command]]:
    """Every command with its subcommands, by what is typed."""
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
def test_every_command_has_help_and_stands_in_the_readme(name, command):
    assert command.help
    assert all(param.help for param in command.params if isinstance(param, click.Option)), name
    assert re.search(rf"`[^`\n]*\b{name.split()[-1]}\b[^`\n]*`", README), f"README does not name `{name}`"


def test_every_link_of_the_documentation_leads_somewhere():
    for page in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")):
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_the_readme_says_what_is_simulated():
    assert "simulated" in README.split("make test")[0]
