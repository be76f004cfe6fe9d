"""Write the complete example inventory to stdout: `make example`."""

import sys

from provision.inventory.example import render
from provision.plan import role_registry


def text() -> str:
    """What `inventory/example.yaml` has to be."""
    return render(role_registry.sections())


if __name__ == "__main__":
    sys.stdout.write(text())
