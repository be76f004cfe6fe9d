"""Uses Anthropic's SDK against the gateway: `python gateway_anthropic.py URL KEYS`; KEYS is JSON, client -> key."""

import json
import sys
from typing import Any

import anthropic
from refusals import cases
from report import report

url, keys = sys.argv[1], json.loads(sys.argv[2])
MODEL = "gemma3:270m"
SAY: Any = [{"role": "user", "content": "Say yes."}]
KINDS = {
    401: anthropic.AuthenticationError,
    403: anthropic.PermissionDeniedError,
    404: anthropic.NotFoundError,
    413: anthropic.RequestTooLargeError,
    415: anthropic.APIStatusError,
    429: anthropic.RateLimitError,
    503: anthropic.InternalServerError,
}


def make(key: str, limit: int) -> anthropic.Anthropic:
    return anthropic.Anthropic(base_url=url, api_key=key, timeout=limit, max_retries=1)


def ask(client: anthropic.Anthropic, model: str, stream: bool, text: str, headers: dict[str, str]) -> object:
    said: Any = [{"role": "user", "content": text}]
    answer = client.messages.create(model=model, messages=said, max_tokens=8, stream=stream, extra_headers=headers)
    return list(answer) if stream else answer


alice = make(keys["alice"], 120)


def message() -> str:
    answer = alice.messages.create(model=MODEL, messages=SAY, max_tokens=8)
    assert answer.content[0].text
    return f"{answer.usage.output_tokens} tokens, {answer.stop_reason}"


def message_stream() -> str:
    with alice.messages.stream(model=MODEL, messages=SAY, max_tokens=8) as stream:
        text = "".join(stream.text_stream)
        usage = stream.get_final_message().usage
    assert text
    assert usage.output_tokens <= 8
    return f"{usage.output_tokens} tokens"


def key_as_bearer() -> str:
    client = anthropic.Anthropic(base_url=url, auth_token=keys["alice"], max_retries=0, timeout=120)
    client.messages.create(model=MODEL, messages=SAY, max_tokens=8)
    return "answered"


report(
    {
        "message": message,
        "message stream": message_stream,
        "key as bearer": key_as_bearer,
        **cases(make, ask, KINDS, keys),
    }
)
