"""Prints the hosts of `--list-hosts` and the steps of `--list-steps`."""

from typing import Any

from provision.actions.selection import Selected, SelectedHost
from provision.report import console
from provision.report.console import say
from provision.report.layout import paint
from provision.terminal_text import line


def show(command: str, selected: Selected, *, as_json: bool, steps: bool) -> None:
    """Print a line for each selected host, with a line for each step if steps are wanted; or the JSON document.

    Args:
        command: the command with these options, such as `plan`.
        selected: the selected hosts and steps.
        as_json: whether the document is wanted.
        steps: whether steps are wanted too.
    """
    if as_json:
        option = "--list-steps" if steps else "--list-hosts"
        hosts = [_host(item, steps=steps) for item in selected.hosts]
        console.document(f"{command} {option}", 0, selected.inventory.warnings, hosts=hosts)
        return
    for item in selected.hosts:
        name = paint(item.host.name, "bold") if steps else item.host.name
        say(name if item.is_chosen else f"{name}  only {', '.join(item.roles)}")
        for entry in item.entries if steps else ():
            say(f"    {entry.role:16} {line(entry.step.id)}")


def _host(item: SelectedHost, *, steps: bool) -> dict[str, Any]:
    about: dict[str, Any] = {
        "host": item.host.name,
        "groups": list(item.host.groups),
        "chosen": item.is_chosen,
        "roles": list(item.roles),
    }
    return about | ({"steps": [{"step": entry.step.id, "role": entry.role} for entry in item.entries]} if steps else {})
