"""The proofs that a balancer balances: asked of nginx and the instances over HTTP, from the balancer itself."""

import base64
import json
import re
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any

from provision.steps.base import NOT_ASKED, Check, asked_once
from provision.steps.nginx import upstream
from provision.steps.nginx.build import CONFIG
from provision.steps.nginx.upstream import InstanceRef, Member
from provision.steps.ollama import server_state

REFUSED = (
    "POST /api/pull",
    "POST /api/push",
    "POST /api/create",
    "POST /api/copy",
    "DELETE /api/delete",
    "POST /api/blobs/sha256:0",
    "GET /api/me",
    "GET /debug/pprof/",
    "POST /v1/../api/pull",
    "POST /v1/%2e%2e/api/pull",
    "POST //api/pull",
)
DRAINED = "drained: "  # how the name of a check begins that only tells what an operator keeps out
_NAME = re.compile(r'"name" *: *"([^"]*)"')
# The limits are what a dead instance costs; a live one on a busy host may take long.
ASK = "--noproxy '*' --silent --path-as-is --output /dev/null --max-time 30"

QUIET = '--noproxy "*" --silent --max-time 30'

# $@ ADDRESS:PORT of every instance; sixteen are asked at a time.
DIRECT = f"""
printf '%s\\n' "$@" | xargs -r -P 16 -I @ curl {ASK} --write-out '@ %{{http_code}}\\n' http://@/api/version || :
"""
NAMES = r'grep -o "\"name\" *: *\"[^\"]*\""'

# $@ ADDRESS:PORT of instances; of each the names of the models in `/api/ps`, which says much more of each model, in a
# line that a pipe takes whole (PIPE_BUF is 4096).
LOADED = f"""
printf '%s\\n' "$@" | xargs -r -P 16 -I @ sh -c '
  printf "%s %s\\n" "$1" "$(curl {QUIET} "http://$1/api/ps" | {NAMES} | head -c 2900 | base64 -w 0)"' sh @ || :
"""

# METHOD URL pairs. One curl asks all of them, and says a status for each, in their order.
EDGE = f"""
for pair do
  set -- "$@" --next {ASK} --write-out '%{{http_code}}\\n' --request "${{pair%% *}}" "${{pair#* }}"
  shift
done
shift
curl "$@" || :
"""

# $1 url, $2 body. Every line with the time at which it came, in milliseconds. Told by what is no program of its own:
# where many hosts share a machine, one `date` for each line would be what is measured.
STREAM = """
curl --noproxy '*' --silent --no-buffer --max-time 300 --header 'Content-Type: application/json' --data "$2" \\
  "$1/api/generate" | while IFS= read -r line || [ -n "$line" ]; do
    read -r up rest </proc/uptime
    printf '%s0 %s\\n' "${up%.*}${up#*.}" "$line"
  done
"""
EMBED = "curl --noproxy '*' --silent --max-time 300 --header 'Content-Type: application/json' --data %s %s"
LENGTHS = (24, 96, 384)  # tokens; more are asked for where fewer did not tell
SHORT = 50.0  # milliseconds; what is made faster tells nothing


def members(
    live: Any, expected: Mapping[str, tuple[int, int, int]], settled: Mapping[str, str] = MappingProxyType({})
) -> Iterator[Check]:
    """The upstream names exactly these instances, all up but those that an operator drained, and each answers.

    Args:
        live: testinfra's host.
        expected: label -> port, weight, max_conns.
        settled: label -> its address, where the inventory alone says it.
    """
    text = _upstream(live)
    listed = upstream.members(text)
    got = {name: (one.port, one.weight, one.max_conns) for name, one in listed.items()}
    yield Check("upstream (port, weight, max_conns)", got, dict(expected))
    yield Check("servers that are no instance", upstream.strangers(text), [])
    drained = {name: one.drained for name, one in sorted(listed.items()) if one.drained and one.down}
    yield Check("instances marked down", sorted(n for n, one in listed.items() if one.down and n not in drained), [])
    for wish in drained.values():
        yield Check(f"{DRAINED}{wish.label} since {wish.since} by {wish.by}: {wish.why}", True, True)
    yield from _apart({name: one for name, one in listed.items() if not one.down}, settled)
    addresses = {name: one.at for name, one in listed.items() if name not in drained}
    if addresses:
        yield from _answering(live, addresses)


def _apart(up: Mapping[str, Member], settled: Mapping[str, str]) -> Iterator[Check]:
    """Each is at an address of its own, all of a host at one: whoever answers, an instance does not say which it is."""
    named = {name: address for name, address in settled.items() if name in up}
    yield Check("addresses that the inventory says", {name: up[name].address for name in named}, named)
    at: dict[str, list[str]] = {}
    hosts: dict[str, set[str]] = {}
    for name, member in up.items():
        at.setdefault(member.at, []).append(name)
        hosts.setdefault(InstanceRef.of(name).host, set()).add(member.address)
    yield Check(
        "instances at one address and port", {place: names for place, names in at.items() if len(names) > 1}, {}
    )
    torn = {host: sorted(found) for host, found in hosts.items() if len(found) > 1}
    yield Check("hosts with several addresses", torn, {})


def _answering(live: Any, addresses: Mapping[str, str]) -> Iterator[Check]:
    blanks = " ".join(["%s"] * len(addresses))
    said = live.run(f"sh -c %s sh {blanks}", DIRECT, *addresses.values()).stdout
    codes = dict(line.split(" ", 1) for line in said.splitlines() if " " in line)
    for name, address in addresses.items():
        yield Check(f"{name} answers at {address}", codes.get(address, "nothing"), "200")


def edge(live: Any, url: str, status_port: int) -> Iterator[Check]:
    """The balancer answers, refuses what is not open, and shows its status on the loopback address.

    Args:
        live: testinfra's host.
        url: of the balancer, without a path.
        status_port: where the status is.
    """
    pairs = [f"GET {url}/", f"GET {url}/api/version", f"GET http://127.0.0.1:{status_port}/stub_status"]
    pairs += [f"{method} {url}{path}" for method, _, path in (pair.partition(" ") for pair in REFUSED)]
    blanks = " ".join(["%s"] * len(pairs))
    said = live.run(f"sh -c %s sh {blanks}", EDGE, *pairs).stdout.split()
    root, version, status, *refused = said if len(said) == len(pairs) else ["nothing"] * len(pairs)
    yield Check("GET / through the balancer", root, "200")
    yield Check("GET /api/version through the balancer", version, "200")
    yield Check("stub_status on the loopback address", status, "200")
    yield Check("refused", dict(zip(REFUSED, refused, strict=True)), dict.fromkeys(REFUSED, "403"))


def models(scattered: Mapping[str, str]) -> Iterator[Check]:
    """Every instance has every model: a request goes to any of them, whatever model it asks for.

    Args:
        scattered: models that only some of the instances are to have -> how many.
    """
    what = "models that some instances lack (clients get 404 by chance: give all instances the same models)"
    yield Check(what if scattered else "every instance has every model", dict(scattered), {})


def stream(live: Any, url: str, model: str) -> Iterator[Check]:
    """A streamed answer comes through unbuffered: its lines are spread over the time it took to make them.

    A busy host may take the lines of a short answer in one go, however they came. So a longer one is asked for then: it
    would have to be busy at the end of each, and a balancer that holds answers back fails all of them.

    Args:
        live: testinfra's host.
        url: of the balancer.
        model: one that every instance serves.
    """
    without = _without(live, model)
    if without:
        places = f"{', '.join(without[:4])}{' and others' if len(without) > 4 else ''}"
        said = f"{model} is not loaded on {places}, and a question would load it"
        yield Check(f"{NOT_ASKED}a streamed answer through the balancer: {said}", True, True)
        return
    for tokens in LENGTHS:
        frames = _streamed(live, url, model, tokens)
        errors = [frame["error"] for _, frame in frames if "error" in frame]
        if any("does not support generate" in str(error) for error in errors):
            yield from _embedding(live, url, model)
            return
        done = bool(frames) and frames[-1][1].get("done") is True
        if errors or not done or (_made(frames) >= SHORT and is_spread(frames)):
            break
    yield Check("a streamed answer ends well", errors or done, True)
    if done and not errors:
        yield Check("lines of the answer come as they are made", is_spread(frames), True)


def _upstream(live: Any) -> str:
    """The text of the upstream, read once for all proofs."""
    return str(asked_once(live, "cat -- %s", f"{CONFIG}/{upstream.FILE}").stdout)


def _without(live: Any, model: str) -> list[str]:
    """Labels of the instances that get requests and do not have a model loaded."""
    serving = {name: one.at for name, one in upstream.members(_upstream(live)).items() if not one.down}
    blanks = " ".join(["%s"] * len(serving))
    said = live.run(f"sh -c %s sh {blanks}", LOADED, *serving.values()).stdout if serving else ""
    bodies = dict(line.split(" ", 1) for line in said.splitlines() if " " in line)
    return [label for label, at in serving.items() if server_state.canonical(model) not in _names(bodies.get(at, ""))]


def _names(body: str) -> set[str]:
    """The models that `LOADED` found on an instance, of its encoded answer; none where it makes no sense."""
    try:
        text = base64.b64decode(body).decode(errors="replace")
    except ValueError:
        return set()
    return {server_state.canonical(name) for name in _NAME.findall(text)}


def _embedding(live: Any, url: str, model: str) -> Iterator[Check]:
    """A model that only embeds answers with a vector; there is no stream to look at."""
    said = live.run(EMBED, json.dumps({"model": model, "input": "."}), f"{url}/api/embed").stdout
    yield Check("an embedding through the balancer", '"embeddings":' in said.replace(" ", "") or said[-300:], True)


Frames = list[tuple[int, dict[str, Any]]]
"""Arrival in milliseconds and content; the last one tells `eval_duration` in nanoseconds."""


def is_spread(frames: Frames) -> bool:
    """Whether the frames came over at least half of the time that the instance says it took to make them.

    Args:
        frames: of a whole answer.
    """
    made = _made(frames)
    return len(frames) < 3 or made < SHORT or frames[-1][0] - frames[0][0] >= made / 2


def _made(frames: Frames) -> float:
    """Milliseconds that the answer took to be made."""
    return float(frames[-1][1].get("eval_duration", 0) / 1e6)


def _streamed(live: Any, url: str, model: str, tokens: int) -> Frames:
    body = {"model": model, "prompt": "Count to a thousand.", "options": {"num_predict": tokens}, "stream": True}
    said = live.run("sh -c %s sh %s %s", STREAM, url, json.dumps(body)).stdout
    return [_frame(line) for line in said.splitlines()]


def _frame(line: str) -> tuple[int, dict[str, Any]]:
    time, _, text = line.partition(" ")
    try:
        frame = json.loads(text)
    except ValueError:
        frame = {"error": text[:300]}
    return int(time), frame if isinstance(frame, dict) else {"error": text[:300]}
