"""The endpoints of the APIs of OpenAI and Anthropic, each with an answer in terms of Ollama's own."""

from contextlib import closing

from . import ollama_anthropic as anthropic
from . import ollama_documents as documents
from . import ollama_openai as openai
from . import ollama_responses as responses
from . import ollama_store as store
from .ollama_checks import known
from .ollama_errors import RefusedError
from .ollama_http import EVENTS, PLAIN_JSON, Client
from .ollama_names import full_name
from .ollama_requests import Body

_NO_CACHE = [("Cache-Control", "no-cache"), ("Connection", "keep-alive")]


def openai_chat(client: Client, body: Body, _: str) -> None:
    _openai(client, body, openai.chat_request(body), chat=True)


def openai_completion(client: Client, body: Body, _: str) -> None:
    _openai(client, body, openai.completion_request(body), chat=False)


def _openai(client: Client, body: Body, asked: Body, *, chat: bool) -> None:
    with closing(client.answers.generate(asked, client.alive, chat=chat)) as frames:
        if body.get("stream"):
            client.send_stream(openai.stream(frames, body, chat=chat), EVENTS)
        else:
            client.send_json(openai.whole(frames, body, chat=chat), kind=PLAIN_JSON)


def openai_embeddings(client: Client, body: Body, _: str) -> None:
    own = client.answers.embed(openai.embedding_request(body), client.alive)
    client.send_json(openai.embeddings(own, body), kind=PLAIN_JSON)


def openai_models(client: Client, _: Body, __: str) -> None:
    data = [documents.openai_model(model) for model in store.everything()]
    client.send_json({"object": "list", "data": data}, kind=PLAIN_JSON)


def openai_model(client: Client, _: Body, name: str) -> None:
    model = known(name, RefusedError(404, ""), f"model '{full_name(name)}' not found")
    client.send_json(documents.openai_model(model), kind=PLAIN_JSON)


def messages(client: Client, body: Body, _: str) -> None:
    asked = anthropic.request(body)
    with closing(client.answers.generate(asked, client.alive, chat=True)) as frames:
        if body.get("stream"):
            client.send_stream(anthropic.stream(frames, body, asked), EVENTS, _NO_CACHE)
        else:
            client.send_json(anthropic.whole(frames, body), kind=PLAIN_JSON)


def response(client: Client, body: Body, _: str) -> None:
    with closing(client.answers.generate(responses.request(body), client.alive, chat=True)) as frames:
        if body.get("stream"):
            client.send_stream(responses.stream(frames, body), EVENTS, _NO_CACHE)
        else:
            client.send_json(responses.whole(frames, body), kind=PLAIN_JSON)
