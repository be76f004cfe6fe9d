"""Paths as people write them."""

from pathlib import Path


def expanded(text: str) -> Path:
    """Return a path with `~` and `~USER` resolved. An unknown user's path stays as written."""
    try:
        return Path(text).expanduser()
    except RuntimeError:
        return Path(text)


def beside(text: str, file: str | Path) -> Path:
    """Return an absolute path: `~` is the user's home, and a relative path is beside the file with the path."""
    return (Path(file).parent / expanded(text)).absolute()
