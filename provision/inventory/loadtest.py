"""Targets of `provision loadtest` for an endpoint. A section of its own, because no step of a host depends on it."""

from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import Field, ValidationError, field_validator

from provision.errors import UsageError
from provision.inventory.settings import KeyPath, Settings
from provision.inventory.types import Duration, Share, duration_seconds, share_of

OFF = "off"


class Targets(Settings):
    """Targets of a load test; an option of the command line wins over each. `off` or null: no such target."""

    max_fail: Share | None = "1%"
    """Share of requests that may fail."""
    max_ttft_p95: Duration | None = "2s"  # docs/runbooks/load-test.md has the reasons for this and the next figure
    """Longest time to the first token for 95 % of the answers."""
    max_queued: Share | None = "10%"
    """Share of answers that may wait in an instance's queue until another answer ends."""
    min_tokens_per_second: float | None = Field(default=None, gt=0, le=1e6)
    """Least speed after the first token for 95 % of the answers."""
    max_skew: Share | None = None
    """Largest distance between an instance's share of the requests and the share that its weight promises, as a part of
    the promised share."""

    @field_validator("*", mode="before")
    @classmethod
    def _switched_off(cls, value: Any) -> Any:
        """YAML reads a plain `off` as false."""
        return None if value is False or value == OFF else value

    def problems(self) -> Iterator[tuple[KeyPath, str]]:
        """Yield shares above the whole, and times without end."""
        for name, share in (("max_fail", self.max_fail), ("max_queued", self.max_queued)):
            if share is not None and share_of(share) > 1:
                yield (name,), "must be at most 100%"
        if self.max_ttft_p95 is not None and not 0 < duration_seconds(self.max_ttft_p95) <= 86400:
            yield ("max_ttft_p95",), "must be longer than nothing and at most a day"

    def replaced(self, options: Mapping[str, Any]) -> "Targets":
        """Return these targets with some replaced.

        Args:
            options: field -> value on the command line, `off` to switch a target off.

        Raises:
            UsageError: a value is no target.
        """
        try:
            targets = Targets(**{**self.model_dump(exclude_unset=True), **options})
        except ValidationError as error:
            first = error.errors()[0]
            raise UsageError(f"{_option(first['loc'][0])}: {first['msg'].removeprefix('Value error, ')}") from None
        for path, problem in targets.problems():
            raise UsageError(f"{_option(path[0])}: {problem}")
        return targets

    def is_default(self, field: str) -> bool:
        """Return whether neither the inventory nor the command line sets a field."""
        return field not in self.model_fields_set


def _option(field: object) -> str:
    return "--" + str(field).replace("_", "-")


class LoadTest(Settings):
    """Targets of `provision loadtest`. Declare them once for the endpoint, best in `all.vars`."""

    targets: Targets = Targets()
    """The command ends with exit code 5 if a target is missed. `off` or null: no such target."""
