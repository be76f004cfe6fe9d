"""Uses ollama-python against the gateway: `python gateway_ollama.py URL KEYS`; KEYS is JSON, client -> key."""

import json
import sys
from typing import Any

import ollama
from refusals import cases
from report import report

url, keys = sys.argv[1], json.loads(sys.argv[2])
MODEL = "gemma3:270m"
SAY = [{"role": "user", "content": "Say yes."}]
KINDS = dict.fromkeys((403, 404, 413, 415, 429, 503), ollama.ResponseError)


def make(key: str, limit: int) -> ollama.Client:
    return ollama.Client(host=url, timeout=limit, headers={"Authorization": f"Bearer {key}"})


def ask(client: ollama.Client, model: str, stream: bool, text: str, headers: dict[str, str]) -> object:
    client._client.headers.update(headers)
    said: Any = [{"role": "user", "content": text}]
    answer = client.chat(model, said, stream=stream, options={"num_predict": 8})
    return list(answer) if stream else answer


alice = make(keys["alice"], 120)


def list_() -> str:
    names = sorted(str(model.model) for model in alice.list().models)
    assert names == ["busy:latest", "embed:latest", MODEL], names
    return ", ".join(names)


def chat() -> str:
    answer = alice.chat(MODEL, SAY, options={"num_predict": 8})
    assert answer.done
    return f"{answer.eval_count} tokens"


def generate_stream() -> str:
    parts = list(alice.generate(MODEL, "1 2 3", stream=True, options={"num_predict": 8}))
    assert parts[-1].done
    return f"{len(parts)} parts"


def embed() -> str:
    assert len(alice.embed("embed", ["a", "b"]).embeddings) == 2
    return "2 vectors"


def unload() -> str:
    alice.generate(MODEL, "", keep_alive=0)
    return "answered, and the gateway has dropped keep_alive"


def without_a_key() -> str:
    try:
        ollama.Client(host=url).chat(MODEL, SAY)
    except ollama.ResponseError as caught:
        error = caught
    else:
        raise AssertionError("a client without a key is answered")
    assert error.status_code == 403, error
    return f"ResponseError 403: {error.error}"


report(
    {
        "list": list_,
        "chat": chat,
        "generate stream": generate_stream,
        "embed": embed,
        "unload": unload,
        "without a key": without_a_key,
        **cases(make, ask, KINDS, keys),
    }
)
