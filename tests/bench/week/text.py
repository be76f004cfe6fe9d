"""The page of the week: the tables and the sentences of docs/reliability.md."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from tests.bench.page import table
from tests.bench.week.arithmetic import WEEK, Cost, Fault, Request, availability, costs, losses

GOAL = 99.95  # percent
NAMED = 3  # classes that cost most
HEAD = (
    *("fault or change", "made", "lost seconds, mean", "worst", "seconds with a lost request, mean"),
    *("assumed in a week", "lost seconds in a week", "why this number"),
)
HELPS = {
    "instance-killed": "an instance that loads its models faster; a client that tries again",
    "instance-hangs": "an alert that drains the instance sooner, or a client that gives up sooner and tries again",
    "host-off": "a shorter `balancer.connect_timeout`",
    "nginx-killed": "a lower `keepalived.fall`, at the price of switches without a cause",
    "balancer-off": "a shorter `keepalived.advertise`",
    "balancer-cut": "a shorter `keepalived.advertise`",
    "disk-full": "an alert before the disk is full",
}


def page(
    about: str,
    minutes: float,
    requests: Sequence[Request],
    faults: Sequence[Fault],
    assumed: Mapping[str, Mapping[str, Any]],
) -> str:
    """Return the text of the page.

    Args:
        about: the machine.
        minutes: of the run.
        requests: all requests.
        faults: all faults and changes, in the order of their begin.
        assumed: class -> `title`, `per_week` and `why`.
    """
    lost = losses(requests, faults)
    classes = costs(lost, {key: float(value["per_week"]) for key, value in assumed.items()})
    rows = [_row(cost, assumed[cost.key]) for cost in classes]
    figure = availability(classes)
    total = sum(cost.week for cost in classes)
    met = "met" if figure >= GOAL else "**lost**"
    how = (
        f"Measured {about} `make bench-week`, {minutes:.0f} minutes: two balancers with a common address and TLS, two"
        " gpu hosts with two instances each, in a lab. The cards and the model servers are SIMULATED; openai-python and"
        " ollama-python are real, each with kept connections and with a connection for each request, a streamed answer"
        " of 30 tokens in 1.5 seconds, begun each second by each client, no second try, and ten seconds of patience"
        " without a byte. A second is lost"
        " by the share of its requests that were lost."
    )
    result = (
        f"Availability with these numbers: **{figure:.4f} %** ({total:.1f} of {WEEK:,} seconds lost), goal {GOAL} %:"
        f" {met}. {_most(classes, assumed)}"
    )
    return "\n\n".join([how, table(HEAD, rows), result, _unstretched(requests, lost)])


def _row(cost: Cost, about: Mapping[str, Any]) -> Sequence[str]:
    figures = (f"{cost.mean:.2f}", f"{cost.worst:.2f}", f"{cost.touched:.1f}", f"{cost.per_week:g}", f"{cost.week:.2f}")
    return (str(about["title"]), str(cost.made), *figures, str(about["why"]))


def _most(classes: Sequence[Cost], assumed: Mapping[str, Mapping[str, Any]]) -> str:
    """Name the classes that cost most, and a help where we know any."""
    dear = sorted((cost for cost in classes if cost.week), key=lambda cost: -cost.week)[:NAMED]
    if not dear:
        return "No class cost anything."
    said = [
        f"{assumed[cost.key]['title']} ({cost.week:.1f} s a week"
        + (f"; {HELPS[cost.key]} would help)" if cost.key in HELPS else ")")
        for cost in dear
    ]
    return f"Most of this is: {'; '.join(said)}."


def _unstretched(requests: Sequence[Request], lost: Sequence[Any]) -> str:
    """Say the lost requests of the run itself."""
    kinds = Counter(request.kind for request in requests)
    bad = Counter(request.kind for request in requests if not request.whole)
    rows = [
        (kind, str(kinds[kind]), str(bad[kind]), f"{100 * (1 - bad[kind] / kinds[kind]):.3f}") for kind in sorted(kinds)
    ]
    errors = Counter(request.error.partition(":")[0] for request in requests if not request.whole).most_common(5)
    words = ", ".join(f"{name} {count}" for name, count in errors) or "none"
    stray = sum(loss.requests for loss in lost if not loss.key)
    share = 100 * (1 - sum(bad.values()) / len(requests))
    return (
        f"The run itself, unstretched, had {len(requests)} requests and lost {sum(bad.values())} ({share:.3f} % were"
        f" answered), {stray} of them before the first fault. Errors as clients name them: {words}.\n\n"
        + table(("client", "requests", "lost", "answered, %"), rows)
    )
