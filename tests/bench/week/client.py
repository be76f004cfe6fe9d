"""Steady streamed requests of a real client: `python client.py KIND URL MODEL PER_SECOND`, until standard input ends.

Runs in the clients' own environment (tests/real/pins/clients.txt). Prints a line of JSON for each request, with times
of the monotonic clock. The client tries no request again, so that each lost request counts. A fresh client makes a new
connection for each request; a reusing client keeps its connections.
"""

import json
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

LIMIT = 10  # seconds without a byte, after which a client gives up
SAY = [{"role": "user", "content": "Count."}]
Stream = Callable[[Any], bool]


def openai_client(url: str) -> Any:
    """Return a client of openai-python."""
    import openai

    return openai.OpenAI(base_url=f"{url}/v1", api_key="unused", max_retries=0, timeout=LIMIT)


def openai_stream(client: Any, model: str) -> bool:
    """Return whether a streamed answer came whole."""
    reasons = [
        choice.finish_reason
        for chunk in client.chat.completions.create(model=model, messages=SAY, stream=True)
        for choice in chunk.choices
    ]
    return bool(reasons) and reasons[-1] is not None


def openai_close(client: Any) -> None:
    """Close the connections of a client."""
    client.close()


def ollama_client(url: str) -> Any:
    """Return a client of ollama-python."""
    import ollama

    return ollama.Client(host=url, timeout=LIMIT)


def ollama_stream(client: Any, model: str) -> bool:
    """Return whether a streamed answer came whole."""
    return any(part.done for part in client.chat(model, SAY, stream=True))


def ollama_close(client: Any) -> None:
    """Close the connections of a client; ollama-python 0.6 has no name for this."""
    client._client.close()


CLIENTS = {
    "openai": (openai_client, openai_stream, openai_close),
    "ollama": (ollama_client, ollama_stream, ollama_close),
}


class Load:
    """Requests of a client at a steady rate. A slow request delays no other request.

    Args:
        kind: `openai-reuse`, `openai-fresh`, `ollama-reuse` or `ollama-fresh`.
        url: the common address.
        model: the model.
    """

    def __init__(self, kind: str, url: str, model: str) -> None:
        program, _, connections = kind.partition("-")
        self.kind = kind
        self.url = url
        self.model = model
        self._make, self._stream, self._close = CLIENTS[program]
        self._kept = self._make(url) if connections == "reuse" else None
        self._printing = threading.Lock()

    def ask(self) -> None:
        """Send a request, and print its line."""
        begun, error, whole = time.monotonic(), "", False
        client = self._kept or self._make(self.url)
        try:
            whole = self._stream(client, self.model)
            error = "" if whole else "the stream ended early"
        except Exception as caught:  # noqa: BLE001 - every error of a client is a lost request
            error = f"{type(caught).__name__}: {caught}"[:200]
        finally:
            if client is not self._kept:
                self._close(client)
        line = {"kind": self.kind, "begun": begun, "ended": time.monotonic(), "whole": whole, "error": error}
        with self._printing:
            print(json.dumps(line), flush=True)

    def run(self, per_second: float) -> None:
        """Send requests until standard input ends."""
        over = threading.Event()
        threading.Thread(target=lambda: (sys.stdin.read(), over.set()), daemon=True).start()
        with ThreadPoolExecutor(max_workers=64) as requests:
            while not over.wait(1 / per_second):
                requests.submit(self.ask)


if __name__ == "__main__":
    Load(*sys.argv[1:4]).run(float(sys.argv[4]))
