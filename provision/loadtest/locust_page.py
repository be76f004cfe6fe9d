"""Our part of Locust's own page: a tab with first token and tokens per second, and no advertisement.

Uses what Locust documents for extending the page: `template_args` with `extended_tabs` and `extended_tables`, rows as
`extended_stats` of `/stats/requests`, and hooks of the page's Flask app
(https://docs.locust.io/en/stable/extending-locust.html). Runs in Locust's process.
"""

import json
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from provision.loadtest.measure import Figures, Tally, summary
from provision.loadtest.record import Record

TAB = "tokens"
LATEST = 1000  # requests in the figures: figures of a whole day would keep Locust from its users
ADVERTISED = "https://aka.ms/loadtesting/"  # begins the address of the advertisement, on the start page and the form
HIDDEN = f'<style>a[href^="{ADVERTISED}"] {{ display: none !important }}</style>'
COLUMNS = (
    ("instance", "Instance"),
    ("requests", f"Requests (of the latest {LATEST})"),
    ("failed", "Failed"),
    ("queued", "Waited in a queue"),
    ("firsta", "First token p50 (s)"),
    ("firstb", "First token p95 (s)"),
    ("ratea", "Tokens/s of a stream p50"),
    ("rateb", "Tokens/s of a stream p95"),
    ("all", "Tokens/s of all streams"),
)


class Latest:
    """The latest requests, as rows of the tab.

    Args:
        labels: see `Tally`.
        known: see `Tally`.
    """

    def __init__(self, labels: Mapping[str, str], known: Iterable[str]) -> None:
        self._labels, self._known = labels, frozenset(known)
        self._records: deque[Record] = deque(maxlen=LATEST)

    def add(self, record: Record) -> None:
        """Take a request."""
        self._records.append(record)

    def clear(self) -> None:
        """Forget all requests: a new run began."""
        self._records.clear()

    def rows(self) -> list[dict[str, Any]]:
        """Return a row for each instance, and a row for all; no row without requests."""
        tally = Tally(self._labels, self._known)
        for record in self._records:
            tally.add(record)
        if not tally.count:
            return []
        found = summary(tally, {})
        return [_row(name, own) for name, own in (*found.instances.items(), ("all", found.overall))]


def _row(name: str, own: Figures) -> dict[str, Any]:
    return {
        "instance": name,
        "requests": own.requests,
        "failed": own.failed,
        "queued": "-" if own.waited is None else f"{own.waited} of {own.timed}",
        "firsta": _rounded(own.ttft.p50, 3),
        "firstb": _rounded(own.ttft.p95, 3),
        "ratea": _rounded(own.rate.p50, 1),
        "rateb": _rounded(own.rate.p95, 1),
        "all": round(own.tokens_per_second, 1),
    }


def _rounded(value: float | None, digits: int) -> float | str:
    return "-" if value is None else round(value, digits)


def extend(web_ui: Any, rows: Callable[[], Sequence[Mapping[str, Any]]]) -> None:
    """Add the tab to Locust's page, and hide the advertisement.

    Args:
        web_ui: Locust's `WebUI`.
        rows: the rows of the tab; asked for every two seconds while a browser shows the page.
    """
    structure = [{"key": key, "title": title} for key, title in COLUMNS]
    web_ui.template_args["extended_tabs"] = [{"title": "First token and tokens/s", "key": TAB}]
    web_ui.template_args["extended_tables"] = [{"key": TAB, "structure": structure}]

    @web_ui.app.after_request  # type: ignore[untyped-decorator]
    def ours(answer: Any) -> Any:
        if answer.mimetype == "application/json" and not answer.direct_passthrough:
            document = answer.get_json(silent=True)
            if isinstance(document, dict) and "total_rps" in document:
                document["extended_stats"] = [{"key": TAB, "data": list(rows())}]
                answer.set_data(json.dumps(document))
        elif answer.mimetype == "text/html" and not answer.direct_passthrough:
            answer.set_data(answer.get_data(as_text=True).replace("</head>", HIDDEN + "</head>", 1))
        return answer
