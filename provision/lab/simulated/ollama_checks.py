"""What a request asks of a model, and whether the model can answer: the order and the words of the real server."""

from typing import Any

from . import ollama_words as words
from .ollama_errors import RefusedError
from .ollama_names import is_valid, whole_name
from .ollama_requests import Body
from .ollama_store import Model, NotFoundError, find


def known(name: str, empty: RefusedError, absent: str) -> Model:
    """The model of a name.

    Args:
        name: the name, as the request has it.
        empty: the answer to an empty name.
        absent: the error of a name that no model on disk has.

    Raises:
        RefusedError: there is no such model.
    """
    if not name:
        raise empty
    if not is_valid(name):
        raise RefusedError(400, "invalid model name")
    try:
        return find(name)
    except NotFoundError as error:
        raise RefusedError(404, absent) from error


def check_abilities(body: Body, model: Model, abilities: tuple[str, ...], chat: bool) -> None:
    """Refuse a request that the model cannot answer, in the order and with the words of the real server.

    Raises:
        RefusedError: the model lacks an ability (400).
    """
    name = body["model"]
    if body.get("think") and "thinking" not in abilities:
        raise RefusedError(400, f'"{name}" does not support thinking')
    if "completion" not in abilities:
        raise RefusedError(400, f'"{name}" does not support {"chat" if chat else "generate"}')
    if body.get("suffix") and "insert" not in abilities:
        raise RefusedError(400, f"{whole_name(model.name)} does not support insert")
    if body.get("tools") and "tools" not in abilities:
        raise RefusedError(400, f"{whole_name(model.name)} does not support tools")


def prompt_of(body: Body, chat: bool) -> tuple[str | None, int]:
    """The text to answer (None where the request only loads or unloads the model), and the tokens never dropped.

    A chat drops old messages, but neither the last message nor those of the system.
    """
    if not chat:
        return body.get("prompt") or None, 0
    messages = [message or {} for message in body.get("messages") or []]
    if not messages:
        return None, 0
    texts = [str(message.get("content") or "") for message in messages]
    keeps_all = body.get("truncate") is False
    kept = [text for text, one in zip(texts, messages, strict=True) if keeps_all or one.get("role") == "system"]
    return " ".join(texts), words.tokens(" ".join(kept if keeps_all else [*kept, texts[-1]]))


def texts_of(given: Any) -> list[str]:
    """The texts to embed.

    Raises:
        RefusedError: the input is neither a text nor a list of texts (400).
    """
    if given is None or given == "":
        return []
    texts = [given] if isinstance(given, str) else given
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise RefusedError(400, "invalid input type")
    return texts
