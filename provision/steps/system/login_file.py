"""A file with logins, for root alone. A plan names the places with a login, and never the text of the file."""

from collections.abc import Sequence
from dataclasses import dataclass

from provision.steps.base import State
from provision.steps.system.file import File

MODE = 0o600


@dataclass(frozen=True, kw_only=True)
class LoginFile(File):
    """A file with logins.

    Args:
        places: the places with a login, without logins.
    """

    mode: int = MODE
    places: tuple[str, ...] = ()

    def diff(self, have: State, want: State) -> Sequence[str]:
        """The places; the text of the file is not shown."""
        lines = [f"login for {place}" for place in dict.fromkeys(self.places)]
        return [*super().diff(have, want), *(lines if want else ())]
