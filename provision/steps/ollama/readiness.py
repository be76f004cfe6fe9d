"""The readiness test: the instance answers, generates to the end, and uses its cards.

The host asks the instance itself. Sources: a stream that breaks off has status 200 too, only its last frame has
`"done":true`, docs/facts.md#ollama-api; a model partly off the cards answers without an error,
docs/facts.md#model-memory.
"""

import re
from collections.abc import Sequence

from provision.command import Answer, Run, Script, sh
from provision.steps.ollama.measured_speed import IN_FLIGHT, PROMPT, TOKENS, rate_of
from provision.steps.ollama.scripts import LOADING, PLACE, WHOLE
from provision.steps.ollama.server_state import canonical
from provision.steps.speed import Speed, cards_in_words

TIMEOUT = 1800  # seconds: the model may have to be loaded first

REQUEST = rf"""
request() {{ printf '{{"model":"%s","prompt":"{PROMPT}","options":{{"num_predict":{TOKENS}}}}}' "$1"; }}
"""

# $1 container, $2 seconds, $3 model or empty, then models: the first of these on the instance is tested in place of $3,
# or any model if none of these is there. A hanging Docker would use up the time for loading a model.
SCRIPT = Script(
    "ollama/readiness",
    """docker() { timeout -k 5 60 docker "$@"; }"""
    + PLACE
    + LOADING
    + WHOLE
    + IN_FLIGHT
    + REQUEST
    + r"""
name=$1 limit=$2 model=$3; shift 3
answer=$(mktemp); trap 'rm -f "$answer"' EXIT
no() { echo "$name $1" >&2; evidence "$name" >&2; exit 1; }
there() { # models
  curl --noproxy '*' -fsS -m 60 "http://$at/api/tags" >"$answer" 2>&1 || no "does not list its models: $(cat "$answer")"
  listed=$(tr ',{' '\n\n' <"$answer" | sed -n 's/^ *"name" *: *"\([^"\\]*\)".*/\1/p')
  for one do
    if printf '%s\n' "$listed" | grep -qxF -e "$one"; then echo "$one"; return; fi
  done
  printf '%s\n' "$listed" | head -n 1
}
at=$(at "$name")
tries=0
until curl --noproxy '*' -fsS -m 5 -o /dev/null "http://$at/api/version" 2>/dev/null; do
  tries=$((tries + 1)); [ "$tries" -lt $((20 * ${patience:-1})) ] || no 'does not answer /api/version'
  sleep 0.5
done
tries=0
until docker exec "$name" nvidia-smi -L >"$answer" 2>&1 || grep -q 'UUID: GPU-' "$answer"; do # else only a warning
  tries=$((tries + 1)) # that nothing could be run inside is no word of the cards, and passes on a busy host
  { [ "$tries" -lt 3 ] && grep -q 'OCI runtime exec failed' "$answer"; } || no "sees no card: $(head -c 300 "$answer")"
  sleep 2
done
cards=$(sed -n 's/^GPU [0-9]*: \(.*\) (UUID: GPU-.*/\1/p' "$answer")
[ $# -eq 0 ] || model=$(there "$@")
[ -n "$model" ] || { echo "at $at"; exit 0; }
stream=$(request "$model")
embedding="{\"model\":\"$model\",\"input\":\".\"}"
await_quiet "$name"
code=$(post "$stream" "$answer" "$limit" "http://$at/api/generate") || code="$code, then it broke off"
if [ "$code" = 400 ] && grep -q 'does not support generate' "$answer"; then
  code=$(post "$embedding" "$answer" "$limit" "http://$at/api/embed") || code="$code, then it broke off"
  { [ "$code" = 200 ] && grep -q '"embeddings" *:' "$answer"; } ||
    no "does not embed with $model (status $code): $(tail -c 300 "$answer")"
elif [ "$code" != 200 ] || ! tail -n 1 "$answer" | tr -d ' ' | grep -q '"done":true'; then
  no "did not end a streamed answer of $model well (status $code): $(tail -c 300 "$answer")"
fi
last=$(tail -n 1 "$answer" | tr -d ' ')
still_quiet "$name"
if docker inspect --type container --format '{{json .Config.Env}}' "$name" | grep -q '"OLLAMA_KEEP_ALIVE=-'; then
  curl --noproxy '*' -fsS -m 20 "http://$at/api/ps" | grep -q '"name"' || no "has $model not loaded"
fi
whole "$name" "$at"
number() { printf '%s\n' "$last" | sed -n 's/.*"'"$1"'":\([0-9]\{1,18\}\)[^0-9].*/\1/p'; }
count=$(number eval_count) took=$(number eval_duration)
if [ -z "$took" ]; then : # a vector has no speed
elif [ "$quiet" != yes ]; then echo "not asked: the speed of $model: $quiet"
else printf '%s\n' "$cards" | sed 's/^/card /'; echo "speed ${count:-0} $took $model"
fi
echo "at $at"
""",
)


def command(instance: str, models: Sequence[str], *, any_model: bool = False) -> Run:
    """Return the test.

    Args:
        instance: name of the container.
        models: the declared models; the first is tested. Empty for a test without a model.
        any_model: whether to test the first declared model on the instance, or any model there. In a run that pulls no
            models, a missing model must not keep an instance from requests for its other models; without any model the
            instance only has to answer and to see its cards.
    """
    which = ["", *map(canonical, models)] if any_model and models else [*models, ""][:1]
    title = f"test {instance}: version, one streamed answer, cards"
    return sh(SCRIPT, instance, str(TIMEOUT), *which, title=title, timeout=TIMEOUT + 60)


def speed(answer: Answer) -> Speed | None:
    """Return the speed of an instance's answer; None where the test could not measure a speed.

    Args:
        answer: to the passed test.
    """
    measured = re.search(r"^speed (\d{1,18}) (\d{1,18}) (\S{1,300})$", answer.text, re.MULTILINE)
    cards = cards_in_words(re.findall(r"^card (.{1,100})$", answer.text, re.MULTILINE))
    rate = rate_of({"eval_count": int(measured[1]), "eval_duration": int(measured[2])}) if measured else 0.0
    return Speed(f"{canonical(measured[3])} on {cards}", rate) if measured and rate and cards else None
