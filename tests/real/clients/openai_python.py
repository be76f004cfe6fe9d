"""Uses openai-python against a balancer: `python openai_python.py URL CHAT EMBEDDING`."""

import sys

import openai
from report import report

url, CHAT, EMBEDDING = sys.argv[1:]
client = openai.OpenAI(base_url=f"{url}/v1", api_key="unused", max_retries=0, timeout=120)
SAY = [{"role": "user", "content": "Say yes."}]


def models() -> str:
    names = sorted(model.id for model in client.models.list())
    assert {CHAT, EMBEDDING} <= set(names), names
    return ", ".join(names)


def one_model() -> str:
    assert client.models.retrieve(CHAT).id == CHAT
    return CHAT


def chat() -> str:
    answer = client.chat.completions.create(model=CHAT, messages=SAY, max_tokens=8)
    assert answer.usage.completion_tokens <= 8
    assert answer.choices[0].message.content is not None
    return f"{answer.usage.completion_tokens} tokens, finish_reason {answer.choices[0].finish_reason}"


def chat_stream() -> str:
    parts = list(
        client.chat.completions.create(
            model=CHAT, messages=SAY, max_tokens=8, stream=True, stream_options={"include_usage": True}
        )
    )
    assert parts[-1].usage.completion_tokens <= 8
    return f"{len(parts)} parts, the last with usage: {parts[-1].usage.completion_tokens} tokens"


def completions() -> str:
    answer = client.completions.create(model=CHAT, prompt="1 2 3", max_tokens=8)
    assert answer.usage.completion_tokens <= 8
    return f"{answer.usage.completion_tokens} tokens"


def embeddings() -> str:
    answer = client.embeddings.create(model=EMBEDDING, input=["a", "b"])
    sizes = {len(item.embedding) for item in answer.data}
    assert len(answer.data) == 2
    assert sizes == {640}, sizes
    return "2 vectors of 640 numbers"


def embeddings_of_a_chat_model() -> str:
    try:
        client.embeddings.create(model=CHAT, input="a")
    except openai.APIStatusError as caught:
        error = caught
    else:
        raise AssertionError("the server embeds with a chat model")
    assert error.status_code == 501, error
    return f"{type(error).__name__} {error.status_code}: {error.message}"[:200]


def responses() -> str:
    answer = client.responses.create(model=CHAT, input="Say yes.", max_output_tokens=8)
    assert answer.usage.output_tokens <= 8
    return f"{answer.usage.output_tokens} tokens, status {answer.status}"


def responses_stream() -> str:
    with client.responses.stream(model=CHAT, input="Say yes.", max_output_tokens=8) as stream:
        kinds = [event.type for event in stream]
    assert "response.output_text.delta" in kinds, kinds
    assert kinds[-1] in {"response.completed", "response.incomplete"}, kinds
    return f"{len(kinds)} events, the last {kinds[-1]}"


def unknown_model() -> str:
    try:
        client.chat.completions.create(model="nope", messages=SAY)
    except openai.NotFoundError as error:
        return f"NotFoundError {error.status_code}: {error.message}"[:200]
    raise AssertionError("an unknown model answers")


def max_completion_tokens_is_ignored() -> str:
    parts = 0
    counted = [{"role": "user", "content": "Count from 1 to 100: 1 2 3 4 5 6 7 8 9 10"}]
    with client.chat.completions.create(model=CHAT, messages=counted, max_completion_tokens=2, stream=True) as answer:
        for part in answer:
            parts += bool(part.choices and part.choices[0].delta.content)
            if parts > 4:
                return f"more than {parts - 1} tokens for max_completion_tokens=2: clients must send max_tokens"
    raise AssertionError(f"{parts} tokens: Ollama heeds max_completion_tokens by now, so mend the docs")


report(
    {
        "models": models,
        "one model": one_model,
        "chat": chat,
        "chat stream with usage": chat_stream,
        "completions": completions,
        "embeddings": embeddings,
        "embeddings of a chat model": embeddings_of_a_chat_model,
        "responses": responses,
        "responses stream": responses_stream,
        "unknown model": unknown_model,
        "max_completion_tokens is ignored": max_completion_tokens_is_ignored,
    }
)
