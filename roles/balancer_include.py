"""The operator's own files of nginx's configuration, in the settings of the role `balancer`."""

from collections.abc import Iterator, Mapping
from typing import Annotated

from pydantic import Field

from provision.inventory import Lines, Name, Settings
from provision.inventory.settings import KeyPath
from provision.steps.nginx import includes

Texts = Annotated[dict[Name, Lines], Field(max_length=16)]


class Include(Settings):
    """Files of yours in nginx's configuration: name -> text, by `!file PATH` or as a text of several lines."""

    http: Texts = {}  # noqa: RUF012 - pydantic copies defaults
    """Files in the http block, such as `limit_req_zone`, `map` or `log_format`."""
    server: Texts = {}  # noqa: RUF012 - pydantic copies defaults
    """Files in the server for clients, such as `limit_req`, `add_header` or a `location`."""

    def problems(self) -> Iterator[tuple[KeyPath, str]]:
        """Yield directives that contradict other settings, with the line in the file."""
        for place, texts in self._placed.items():
            for name, text in texts.items():
                yield from (((place, name), sentence) for sentence in includes.contradictions(text))

    @property
    def _placed(self) -> Mapping[str, Mapping[str, str]]:
        return {"http": self.http, "server": self.server}

    @property
    def files(self) -> dict[str, bytes]:
        """Name in a generation -> bytes of each file."""
        return {
            includes.file_name(place, name): includes.content(text)
            for place, texts in self._placed.items()
            for name, text in texts.items()
        }

    def names(self, place: str) -> list[str]:
        """Return the names of the files of a place, in the order in which nginx reads them: by name.

        Args:
            place: `http` or `server`.
        """
        return [includes.file_name(place, name) for name in sorted(self._placed[place])]
