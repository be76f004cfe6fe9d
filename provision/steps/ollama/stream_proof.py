"""The proof that a balancer passes an answer of Ollama on as it is made. The balancer and the instances are asked over
HTTP, from the balancer itself.
"""

import base64
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from provision.steps.base import NOT_ASKED, Check
from provision.steps.ollama.server_state import canonical

QUIET = '--noproxy "*" --silent --max-time 30'
_NAME = re.compile(r'"name" *: *"([^"]*)"')
NAMES = r'grep -o "\"name\" *: *\"[^\"]*\""'

# $@ ADDRESS:PORT of instances; of each the names of the models in `/api/ps`, which says much more of each model, in a
# line that a pipe takes whole (PIPE_BUF is 4096).
LOADED = f"""
printf '%s\\n' "$@" | xargs -r -P 16 -I @ sh -c '
  printf "%s %s\\n" "$1" "$(curl {QUIET} "http://$1/api/ps" | {NAMES} | head -c 2900 | base64 -w 0)"' sh @ || :
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


def stream(live: Any, url: str, model: str, serving: Mapping[str, str]) -> Iterator[Check]:
    """A streamed answer comes through unbuffered: its lines are spread over the time it took to make them.

    A busy host may take the lines of a short answer in one go, however they came. So a longer one is asked for then: it
    would have to be busy at the end of each, and a balancer that holds answers back fails all of them.

    Args:
        live: testinfra's host.
        url: of the balancer.
        model: one that every instance serves.
        serving: label -> `ADDRESS:PORT`, of the instances that get requests.
    """
    without = _without(live, model, serving)
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


def _without(live: Any, model: str, serving: Mapping[str, str]) -> list[str]:
    """Labels of the instances that get requests and do not have a model loaded."""
    blanks = " ".join(["%s"] * len(serving))
    said = live.run(f"sh -c %s sh {blanks}", LOADED, *serving.values()).stdout if serving else ""
    bodies = dict(line.split(" ", 1) for line in said.splitlines() if " " in line)
    return [label for label, at in serving.items() if canonical(model) not in _names(bodies.get(at, ""))]


def _names(body: str) -> set[str]:
    """The models that `LOADED` found on an instance, of its encoded answer; none where it makes no sense."""
    try:
        text = base64.b64decode(body).decode(errors="replace")
    except ValueError:
        return set()
    return {canonical(name) for name in _NAME.findall(text)}


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
