"""The test that an instance has to pass before it gets requests: it answers, generates to the end, and on its cards.

Asked of the instance itself, on its host. Sources: a stream that broke off has status 200 too, only its last frame says
`"done":true`, FACTS 4.3; a model that is partly off the cards answers without an error, FACTS 5.
"""

import json

from provision.command import Run, sh
from provision.steps.model_shell import LOADING, PLACE, WHOLE

TIMEOUT = 1800  # seconds: it may have to load its model first

# $1 container, $2 model or empty, $3 a request for a stream, $4 the request for a model that only embeds, $5 seconds.
# A Docker that hangs would take all the time that a model may take to load.
SCRIPT = (
    """docker() { timeout -k 5 60 docker "$@"; }"""
    + PLACE
    + LOADING
    + WHOLE
    + r"""
name=$1 model=$2 stream=$3 embedding=$4 limit=$5
answer=$(mktemp); trap 'rm -f "$answer"' EXIT
no() { echo "$name $1" >&2; docker logs --tail 15 "$name" >&2 2>&1 || :; exit 1; }
at=$(at "$name")
tries=0
until curl --noproxy '*' -fsS -m 5 -o /dev/null "http://$at/api/version" 2>/dev/null; do
  tries=$((tries + 1)); [ "$tries" -lt 20 ] || no 'does not answer /api/version'
  sleep 0.5
done
docker exec "$name" nvidia-smi -L >"$answer" 2>&1 || no "sees no card: $(head -c 300 "$answer")"
[ -n "$model" ] || exit 0
code=$(post "$stream" "$answer" "$limit" "http://$at/api/generate") || code="$code, then it broke off"
if [ "$code" = 400 ] && grep -q 'does not support generate' "$answer"; then
  load "$at" '' "$embedding" "$answer" "$limit" || no "does not embed with $model: $(tail -c 300 "$answer")"
elif [ "$code" != 200 ] || ! tail -n 1 "$answer" | tr -d ' ' | grep -q '"done":true'; then
  no "did not end a streamed answer of $model well (status $code): $(tail -c 300 "$answer")"
fi
if docker inspect --type container --format '{{json .Config.Env}}' "$name" | grep -q '"OLLAMA_KEEP_ALIVE=-'; then
  curl --noproxy '*' -fsS -m 20 "http://$at/api/ps" | grep -q '"name"' || no "has $model not loaded"
fi
whole "$name" "$at"
"""
)


def command(instance: str, model: str) -> Run:
    """The test.

    Args:
        instance: name of the container.
        model: one of its models, or empty where it has none.
    """
    stream = {"model": model, "prompt": "Say yes.", "options": {"num_predict": 8}}
    embedding = {"model": model, "input": "."}
    words = (instance, model, json.dumps(stream), json.dumps(embedding), str(TIMEOUT))
    return sh(SCRIPT, *words, title=f"test {instance}: version, one streamed answer, cards", timeout=TIMEOUT + 60)
