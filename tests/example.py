"""Write the complete example inventory to stdout: `make example`."""

import sys

from provision import sequence
from provision.inventory.example import render


def text() -> str:
    """What `inventory/example.yaml` has to be."""
    return render(sequence.sections())


if __name__ == "__main__":
    sys.stdout.write(text())
