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

from provision import actions
from provision.cli import in_words
from provision.plan.role_interface import order
from provision.report import plan, recap
from provision.report.progress import Progress


def _stage(role: str) -> Callable[..., None]:
    def stage(connection: Connection, inventory: str = "inventory.yaml", check: bool = False) -> None:
        request = actions.Request(inventory, limit=(connection.original_host,), tags=(role,))
        code = in_words(lambda: _plan(request) if check else _deploy(request))
        if code:
            sys.exit(code)

    stage.__name__ = role
    stage.__doc__ = f"The {role} stage on the hosts of -H; --check only plans."
    return stage


def _plan(request: actions.Request) -> int:
    planned = actions.plan(request, listen=Progress(as_json=False, verbose=False))
    plan.show(planned, planned.exit_code, as_json=False, detail=plan.Detail())
    return planned.exit_code


def _deploy(request: actions.Request) -> int:
    def tell(result: actions.DeployResult) -> None:
        recap.show(result, as_json=False, warned=False)

    return actions.deploy(request, listen=Progress(as_json=False, verbose=False), tell=tell).exit_code


def _tasks() -> dict[str, Any]:
    return {
        role: task(help={"inventory": "the inventory file", "check": "only plan"})(_stage(role)) for role in order()
    }


globals().update(_tasks())

if __name__ == "__main__":
    print(Path(__file__).parent)
