"""Write the complete example inventory to stdout: `make example`."""

import sys

from provision.inventory.example import render
from provision.plan import role_interface


def text() -> str:
    """The text that `inventory/example.yaml` must have."""
    return render(role_interface.sections())


if __name__ == "__main__":
    sys.stdout.write(text())
