"""The proof that a balancer passes on an answer of Ollama while it is made. The balancer's host asks the balancer and
the instances over HTTP.
"""

import base64
import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from provision.steps.base import NOT_ASKED, Check
from provision.steps.ollama.server_state import canonical
from provision.terminal_text import ending

QUIET = '--noproxy "*" --silent --max-time 30'
_NAME = re.compile(r'"name" *: *"([^"]*)"')
NAMES = r'grep -o "\"name\" *: *\"[^\"]*\""'

# $@ ADDRESS:PORT of instances. Prints for each the names of the models in `/api/ps`, without the rest of the answer, in
# a line that a pipe takes whole (PIPE_BUF is 4096).
LOADED = f"""
printf '%s\\n' "$@" | xargs -r -P 16 -I @ sh -c '
  printf "%s %s\\n" "$1" "$(curl {QUIET} "http://$1/api/ps" | {NAMES} | head -c 2900 | base64 -w 0)"' sh @ || :
"""

# $1 url, $2 file with options of curl or empty, $3 body. Prints every line with the time of its arrival in
# milliseconds. The shell reads the time itself: on hosts that share a machine, a `date` for each line would be slower
# than the stream.
STREAM = """
curl ${2:+--config "$2"} --noproxy '*' --silent --no-buffer --max-time 300 --data "$3" \\
  --header 'Content-Type: application/json' "$1/api/generate" | while IFS= read -r line || [ -n "$line" ]; do
    read -r up rest </proc/uptime
    printf '%s0 %s\\n' "${up%.*}${up#*.}" "$line"
  done
"""
EMBED = "curl --noproxy '*' --silent --max-time 300 --header 'Content-Type: application/json' --data %s %s"
LENGTHS = (24, 96, 384)  # tokens; a longer answer is asked for if a shorter one does not tell
SHORT = 50.0  # milliseconds; a faster answer tells nothing


def stream(
    live: Any,
    url: str,
    model: str,
    serving: Mapping[str, str],
    config: str = "",
    versions: Sequence[str] = (),
) -> Iterator[Check]:
    """A streamed answer comes through unbuffered: its lines are spread over the time in which they were made.

    A busy host may take all lines of a short answer at once, however they came. Then a longer answer is asked for: the
    host would have to be busy at the end of each, and a balancer that holds answers back fails all of them.

    Args:
        live: testinfra's host.
        url: of the balancer, perhaps with the path of a model.
        model: a model that every instance with requests serves.
        serving: label -> `ADDRESS:PORT`, of the instances with requests.
        config: file on the host with options of curl for requests to the balancer; empty for none.
        versions: the models that carry the name `model`; empty where the name is a model's own. Names with the same
            bytes share a loaded model (docs/facts.md#ollama-api).
    """
    without = _without(live, {canonical(name) for name in (model, *versions)}, serving)
    if without:
        places = f"{', '.join(without[:4])}{' and others' if len(without) > 4 else ''}"
        why = f"{model} is not loaded on {places}, and a question would load it"
        yield Check(f"{NOT_ASKED}a streamed answer through the balancer: {why}", True, True)
        return
    for tokens in LENGTHS:
        frames = _streamed(live, url, config, model, tokens)
        errors = [frame["error"] for _, frame in frames if "error" in frame]
        if any("does not support generate" in str(error) for error in errors):
            yield from _embedding(live, url, config, model)
            return
        done = bool(frames) and frames[-1][1].get("done") is True
        if errors or not done or (_duration(frames) >= SHORT and is_spread(frames)):
            break
    yield Check("a streamed answer ends well", errors or done, True)
    if done and not errors:
        yield Check("lines of the answer come as they are made", is_spread(frames), True)


def _without(live: Any, names: Collection[str], serving: Mapping[str, str]) -> list[str]:
    """Return the labels of instances with requests that have none of some models loaded."""
    blanks = " ".join(["%s"] * len(serving))
    lines = live.run(f"sh -c %s sh {blanks}", LOADED, *serving.values()).stdout if serving else ""
    bodies = dict(line.split(" ", 1) for line in lines.splitlines() if " " in line)
    return [label for label, at in serving.items() if _names(bodies.get(at, "")).isdisjoint(names)]


def _names(body: str) -> set[str]:
    """Return the models in an instance's encoded answer to `LOADED`; none for garbled text."""
    try:
        text = base64.b64decode(body).decode(errors="replace")
    except ValueError:
        return set()
    return {canonical(name) for name in _NAME.findall(text)}


def _embedding(live: Any, url: str, config: str, model: str) -> Iterator[Check]:
    """A model that only embeds answers with a vector; there is no stream to look at."""
    words = (json.dumps({"model": model, "input": "."}), f"{url}/api/embed")
    ask, options = (f"{EMBED} --config %s", (config,)) if config else (EMBED, ())
    answer = live.run(ask, *words, *options).stdout
    good = '"embeddings":' in answer.replace(" ", "")
    yield Check("an embedding through the balancer", good or ending(answer, 300), True)


Frames = list[tuple[int, dict[str, Any]]]
"""Arrival in milliseconds and content; the last frame has `eval_duration` in nanoseconds."""


def is_spread(frames: Frames) -> bool:
    """Whether the frames came over at least half of the time in which the instance made them.

    Args:
        frames: of a whole answer.
    """
    duration = _duration(frames)
    return len(frames) < 3 or duration < SHORT or frames[-1][0] - frames[0][0] >= duration / 2


def _duration(frames: Frames) -> float:
    """Return the milliseconds in which the answer was made."""
    return float(frames[-1][1].get("eval_duration", 0) / 1e6)


def _streamed(live: Any, url: str, config: str, model: str, tokens: int) -> Frames:
    body = {"model": model, "prompt": "Count to a thousand.", "options": {"num_predict": tokens}, "stream": True}
    output = live.run("sh -c %s sh %s %s %s", STREAM, url, config, json.dumps(body)).stdout
    return [_frame(line) for line in output.splitlines()]


def _frame(line: str) -> tuple[int, dict[str, Any]]:
    time, _, text = line.partition(" ")
    try:
        frame = json.loads(text)
    except ValueError:
        frame = {"error": text[:300]}
    return int(time), frame if isinstance(frame, dict) else {"error": text[:300]}
