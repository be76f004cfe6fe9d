"""`python -m provision.lab` is `provision lab`."""

import sys

from provision.errors import ProvisionError
from provision.lab.cli import lab

if __name__ == "__main__":
    try:
        lab(prog_name="provision lab")
    except ProvisionError as error:
        print(f"error: {error.message}\n{error.hint}".strip(), file=sys.stderr)
        sys.exit(error.exit_code)
