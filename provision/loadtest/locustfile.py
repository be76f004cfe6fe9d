"""Locust's user: asks, follows the stream, and writes a record.

Runs in Locust's processes only, as `locust -f` of this file: importing Locust patches the sockets of a process. What to
do stands in a file of ours, named by PROVISION_LOADTEST, because a key must be in no argument.
"""

import itertools
import json
import os
import time
from pathlib import Path
from typing import Any

import gevent
import requests
from locust import HttpUser, constant, task

from provision.loadtest.profile import Profile
from provision.loadtest.record import Record
from provision.loadtest.stream import Stream

TASK: dict[str, Any] = json.loads(Path(os.environ["PROVISION_LOADTEST"]).read_text())
PROFILE = Profile(**TASK["profile"])
BODIES = PROFILE.bodies()
TARGETS = itertools.cycle(TASK["targets"])
KINDS = {401: "401", 403: "403", 404: "404", 429: "429", 503: "503"}
CONNECT = 10.0  # seconds
BACK_OFF = 1.0  # seconds after a failure; a user who asks again at once would make a thousand failures of one


class Client(HttpUser):
    """One user: asks, waits for the whole answer, asks again."""

    wait_time = constant(0)

    def on_start(self) -> None:
        """Choose the balancer; users are dealt out over them."""
        self.target = next(TARGETS)
        self.client.trust_env = False  # neither a proxy nor a netrc: prompts go to the endpoint and nowhere else
        if TASK["key"]:
            self.client.headers["Authorization"] = f"Bearer {TASK['key']}"

    @task
    def ask(self) -> None:
        """Send one request and write down what became of it."""
        path, body = next(BODIES)
        begun = time.perf_counter()
        record = {"at": time.time(), "target": self.target}
        stream = Stream(openai=path.startswith("/v1/"))
        with self.client.post(
            self.target + path,
            json=body,
            stream=True,
            timeout=(CONNECT, TASK["timeout"]),
            allow_redirects=False,
            catch_response=True,
            name=path,
        ) as answer:
            said = self._follow(answer, stream, begun)
            if said.get("problem"):
                answer.failure(said["problem"])
        ended = time.perf_counter()
        said |= _figures(stream, begun, ended)
        _write(Record(**record, **said))
        self._tell(PROFILE.name, said, ended - begun)
        if said["problem"]:
            gevent.sleep(BACK_OFF)

    def _follow(self, answer: Any, stream: Stream, begun: float) -> dict[str, Any]:
        """Read the answer to its end; status, instance, and what went wrong."""
        said: dict[str, Any] = {
            "status": answer.status_code or 0,
            "instance": _clean((answer.headers or {}).get("X-Instance", ""), 100),
        }
        if answer.error or not answer.status_code:
            return said | _refusal(answer.error)
        if answer.status_code != 200:
            problem = KINDS.get(answer.status_code, f"HTTP {answer.status_code}")
            return said | {"problem": problem, "detail": _clean(_start_of(answer))}
        left = TASK["timeout"] - (time.perf_counter() - begun)
        try:
            with gevent.Timeout(max(0.01, left)):
                for data in answer.iter_content(chunk_size=None):
                    stream.feed(data, time.perf_counter())
        except gevent.Timeout:
            return said | {"problem": "timeout", "detail": f"no end within {TASK['timeout']:g} s"}
        except requests.RequestException as error:
            stream.end(time.perf_counter())
            problem = "timeout" if "timed out" in str(error) else stream.problem or "cut stream"
            return said | {"problem": problem, "detail": _clean(error)}
        return said | {"problem": stream.end(time.perf_counter()), "detail": _clean(stream.detail)}

    def _tell(self, name: str, said: dict[str, Any], seconds: float) -> None:
        """Locust's own page shows time to headers; here it gets a row for the whole answer."""
        error = RuntimeError(said["problem"]) if said["problem"] else None
        self.environment.events.request.fire(
            request_type="LLM",
            name=f"{name}: whole answer",
            response_time=seconds * 1000,
            response_length=said["tokens"],
            exception=error,
            context={},
        )


def _figures(stream: Stream, begun: float, ended: float) -> dict[str, Any]:
    ttft = None if stream.first is None else stream.first - begun
    queued = None
    if ttft is not None and stream.prefill is not None:
        queued = max(0.0, ttft - stream.load - stream.prefill)
    return {"ttft": ttft, "total": ended - begun, "tokens": stream.tokens, "queued": queued, "gaps": stream.gaps}


def _refusal(error: Any) -> dict[str, str]:
    """Why there is no answer at all."""
    text = str(error)
    if isinstance(error, requests.Timeout):
        problem = "timeout"
    elif "refused" in text:
        problem = "refused"
    else:
        problem = "no answer"
    return {"problem": problem, "detail": _clean(text)}


def _start_of(answer: Any) -> str:
    """The first bytes of an error's body; a server may send one without end."""
    with gevent.Timeout(5, False):
        data: bytes = next(answer.iter_content(chunk_size=300), b"")
        return data.decode(errors="replace")
    return ""


def _clean(value: Any, longest: int = 200) -> str:
    """What a server said, of a length that can be kept, and without our key."""
    text = str(value)
    return (text.replace(TASK["key"], "***") if TASK["key"] else text)[:longest]


def _write(record: Record) -> None:
    """Append to this process's own file, in one write: it is read while it grows."""
    path = Path(TASK["folder"]) / f"records-{os.getpid()}"
    with path.open("a") as file:
        file.write(record.line() + "\n")
