"""Scripts that a test writes itself, in place of a named constant of `provision`."""

from typing import Any

from provision import command


def sh(text: str, *args: str, **more: Any) -> command.Run:
    """A script of a test, with its data as `$1`, `$2`, ...

    Args:
        text: the script.
        args: its arguments.
        more: see `provision.command.sh`.
    """
    return command.sh(command.Script("tests/inline", text), *args, **more)
