"""What `provision loadtest` demands of an endpoint. A section of its own: no step of any host comes from it."""

from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import Field, ValidationError

from provision.errors import UsageError
from provision.inventory.settings import KeyPath, Settings
from provision.inventory.types import Duration, Share, duration_seconds, share_of


class Targets(Settings):
    """What a load test has to reach; each may be given on the command line too."""

    max_fail: Share | None = "1%"
    """Share of requests that may fail."""
    max_ttft_p95: Duration | None = None
    """Longest time to the first token of 95 % of the answers."""
    min_tokens_per_second: float | None = Field(default=None, gt=0, le=1e6)
    """Least speed, after its first token, of 95 % of the answers."""
    max_skew: Share | None = None
    """How far an instance's share of the requests may be from what its weight promises, as a part of that."""

    def problems(self) -> Iterator[tuple[KeyPath, str]]:
        """Shares above the whole, times without end."""
        if self.max_fail is not None and share_of(self.max_fail) > 1:
            yield ("max_fail",), "must be at most 100%"
        if self.max_ttft_p95 is not None and not 0 < duration_seconds(self.max_ttft_p95) <= 86400:
            yield ("max_ttft_p95",), "must be longer than nothing and at most a day"

    def replaced(self, said: Mapping[str, Any]) -> "Targets":
        """Return these targets with others in place of some.

        Args:
            said: field -> what the command line says.

        Raises:
            UsageError: that is no such target.
        """
        try:
            found = Targets(**{**self.model_dump(), **said})
        except ValidationError as error:
            first = error.errors()[0]
            raise UsageError(f"{_option(first['loc'][0])}: {first['msg'].removeprefix('Value error, ')}") from None
        for path, problem in found.problems():
            raise UsageError(f"{_option(path[0])}: {problem}")
        return found


def _option(field: object) -> str:
    return "--" + str(field).replace("_", "-")


class LoadTest(Settings):
    """What `provision loadtest` demands. Said once for the endpoint, best in `all.vars`."""

    targets: Targets = Targets()
    """What has to be reached, or the command ends with exit code 5."""
