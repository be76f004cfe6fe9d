"""Uses ollama-python against a balancer: `python ollama_python.py URL CHAT EMBEDDING`."""

import sys
from collections.abc import Callable

import ollama
from report import report

url, CHAT, EMBEDDING = sys.argv[1:]
client = ollama.Client(host=url, timeout=120)
SAY = [{"role": "user", "content": "Say yes."}]
SHORT = {"num_predict": 8}


def list_() -> str:
    names = sorted(str(model.model) for model in client.list().models)
    assert {CHAT, EMBEDDING} <= set(names), names
    return ", ".join(names)


def ps() -> str:
    client.generate(CHAT, "1", options=SHORT)
    return f"{len(client.ps().models)} loaded on the instance that answers"


def show() -> str:
    details = client.show(CHAT).details
    assert details.family == "gemma3"
    return f"{details.family}, {details.quantization_level}"


def chat() -> str:
    answer = client.chat(CHAT, SAY, options=SHORT)
    assert answer.done
    assert answer.eval_count <= 8
    return f"{answer.eval_count} tokens"


def chat_stream() -> str:
    parts = list(client.chat(CHAT, SAY, stream=True, options=SHORT))
    assert parts[-1].done
    return f"{len(parts)} parts"


def generate() -> str:
    answer = client.generate(CHAT, "1 2 3", options=SHORT)
    assert answer.done
    return f"{answer.eval_count} tokens"


def generate_stream() -> str:
    parts = list(client.generate(CHAT, "1 2 3", stream=True, options=SHORT))
    assert parts[-1].done
    return f"{len(parts)} parts"


def embed() -> str:
    vectors = client.embed(EMBEDDING, ["a", "b"]).embeddings
    assert [len(vector) for vector in vectors] == [640, 640]
    return "2 vectors of 640 numbers"


def embeddings() -> str:
    assert len(client.embeddings(EMBEDDING, "a").embedding) == 640
    return "a vector of 640 numbers"


def refused(act: Callable[[], object], name: str) -> str:
    try:
        act()
    except ollama.ResponseError as caught:
        error = caught
    else:
        raise AssertionError(f"{name} is open to clients")
    assert error.status_code == 403, error
    assert "this path is not open here" in str(error)
    return f"ResponseError {error.status_code}: {error.error}"


def pull() -> str:
    return refused(lambda: client.pull(CHAT), "pull")


def delete() -> str:
    return refused(lambda: client.delete(CHAT), "delete")


report(
    {
        "list": list_,
        "ps": ps,
        "show": show,
        "chat": chat,
        "chat stream": chat_stream,
        "generate": generate,
        "generate stream": generate_stream,
        "embed": embed,
        "embeddings": embeddings,
        "pull is refused": pull,
        "delete is refused": delete,
    }
)
