"""Files of the package: from the name and values of a template to bytes. The only module that imports jinja2."""

from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jinja2 import Environment


def render(name: str, /, **values: Any) -> bytes:
    """Return the bytes of a file.

    Only a page (`.html.j2`) escapes its values. Values for any other file must have validated types, or be quoted by
    the caller for the file's syntax.

    Args:
        name: the template below `templates/`, such as `balancer/upstream.conf.j2`.
        values: the values for the template. A missing value is an error.

    Raises:
        jinja2.TemplateError: no such template, or a missing value.
    """
    return _environment().get_template(name).render(values).encode()


def packaged(name: str) -> bytes:
    """Return the bytes of a file below `templates/` that has no values.

    Args:
        name: the file, such as `balancer/gateway.js`.

    Raises:
        FileNotFoundError: no such file.
    """
    return (files("provision.templates") / name).read_bytes()


@cache
def _environment() -> "Environment":
    from jinja2 import Environment, PackageLoader, StrictUndefined

    return Environment(
        loader=PackageLoader("provision.templates", ""),
        undefined=StrictUndefined,
        autoescape=lambda name: name is not None and name.endswith(".html.j2"),  # noqa: S701 - the rest is no HTML
        keep_trailing_newline=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
