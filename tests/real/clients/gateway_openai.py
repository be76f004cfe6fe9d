"""Uses openai-python against the gateway: `python gateway_openai.py URL KEYS`; KEYS is JSON, client -> key."""

import json
import sys
from typing import Any

import openai
from refusals import cases
from report import report

url, keys = sys.argv[1], json.loads(sys.argv[2])
MODEL = "gemma3:270m"
SAY = [{"role": "user", "content": "Say yes."}]
KINDS = {
    401: openai.AuthenticationError,
    403: openai.PermissionDeniedError,
    404: openai.NotFoundError,
    413: openai.APIStatusError,
    415: openai.APIStatusError,
    429: openai.RateLimitError,
    503: openai.InternalServerError,
}


def make(key: str, limit: int) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{url}/v1", api_key=key, timeout=limit, max_retries=1)


def ask(client: openai.OpenAI, model: str, stream: bool, text: str, headers: dict[str, str]) -> object:
    said: Any = [{"role": "user", "content": text}]
    answer = client.chat.completions.create(
        model=model, messages=said, max_tokens=8, stream=stream, extra_headers=headers
    )
    return list(answer) if stream else answer


alice = make(keys["alice"], 120)


def models() -> str:
    names = sorted(model.id for model in alice.models.list())
    assert names == ["busy:latest", "embed:latest", MODEL], names
    assert [model.id for model in make(keys["bob"], 120).models.list()] == ["embed:latest"]
    return ", ".join(names)


def chat() -> str:
    answer = alice.chat.completions.create(model=MODEL, messages=SAY, max_tokens=8)
    assert answer.choices[0].message.content
    return f"{answer.usage.completion_tokens} tokens"


def chat_stream() -> str:
    parts = list(
        alice.chat.completions.create(
            model=MODEL, messages=SAY, max_tokens=8, stream=True, stream_options={"include_usage": True}
        )
    )
    assert parts[-1].usage.completion_tokens <= 8
    return f"{len(parts)} parts"


def embeddings() -> str:
    assert len(alice.embeddings.create(model="embed", input=["a", "b"]).data) == 2
    return "2 vectors"


def responses_stream() -> str:
    with alice.responses.stream(model=MODEL, input="Say yes.", max_output_tokens=8) as stream:
        kinds = [event.type for event in stream]
    assert "response.output_text.delta" in kinds, kinds
    return f"{len(kinds)} events"


def invalid_body() -> str:
    try:
        alice.chat.completions.create(model=MODEL, messages=SAY, extra_body={"Model": "other"})
    except openai.BadRequestError as error:
        return f"BadRequestError: {error}"[:200]
    raise AssertionError("a body with two models is answered")


report(
    {
        "models": models,
        "chat": chat,
        "chat stream": chat_stream,
        "embeddings": embeddings,
        "responses stream": responses_stream,
        "invalid body": invalid_body,
        **cases(make, ask, KINDS, keys),
    }
)
