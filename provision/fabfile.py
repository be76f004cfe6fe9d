"""The stages of the fixed sequence as Fabric tasks: one stage on one host, through the code that `deploy` uses.

    fab -r "$(python -m provision.fabfile)" -H gpu-01 docker --inventory prod.yaml
    fab -r "$(python -m provision.fabfile)" -H lb-01 nginx --inventory prod.yaml --check

`-H` takes host names of the inventory; how to reach them, and with which key, the inventory says.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fabric import Connection, task

from provision.cli import execute
from provision.plan.role_order import order


def _stage(role: str) -> Callable[..., None]:
    def stage(connection: Connection, inventory: str = "inventory.yaml", check: bool = False) -> None:
        verb = ["plan"] if check else ["deploy", "--yes"]
        code = execute([*verb, "--inventory", inventory, "--limit", connection.original_host, "--tags", role])
        if code:
            sys.exit(code)

    stage.__name__ = role
    stage.__doc__ = f"The {role} stage on the hosts of -H; --check only plans."
    return stage


def _tasks() -> dict[str, Any]:
    return {
        role: task(help={"inventory": "the inventory file", "check": "only plan"})(_stage(role)) for role in order()
    }


globals().update(_tasks())

if __name__ == "__main__":
    print(Path(__file__).parent)
