"""Python reads this module at its start where its folder is on PYTHONPATH: the named template renders garbage.

PROVISION_GARBAGE is NAME=TEXT: the template, and the text to render.
"""

import os

import provision.render

_NAME, _, _TEXT = os.environ["PROVISION_GARBAGE"].partition("=")
_render = provision.render.render


def render(name: str, **values: object) -> bytes:
    """Render as the product does, except for one template."""
    return _TEXT.encode() if name == _NAME else _render(name, **values)


provision.render.render = render
