"""Locust's user: asks, follows the stream, and writes a record.

Runs in Locust's processes only, as `locust -f` of this file: importing Locust patches the sockets of a process. The job
is in a file of ours, named by PROVISION_LOADTEST, because a key must not be in an argument.

Every request leaves a record, whatever its outcome: an uncounted failure would make a broken endpoint look good.
"""

import json
import os
import random
import select
import shutil
import signal
import ssl
import time
from pathlib import Path
from typing import Any

import gevent
import requests
import urllib3
from locust import User, constant, events, task

from provision.loadtest import locust_page
from provision.loadtest.profile import Profile
from provision.loadtest.record import TIMEOUT, Record, RecordFiles
from provision.loadtest.stream import Stream

JOB = Path(os.environ["PROVISION_LOADTEST"])
TASK: dict[str, Any] = json.loads(JOB.read_text())
PROFILE = Profile(**TASK["profile"])
BODIES = PROFILE.bodies()
CONNECT = 10.0  # seconds
BACK_OFF = 1.0  # seconds after a failure; without a pause a user would make a thousand failures of one
PIECE = 65536  # bytes read at a time, at most
REASON = 300  # bytes that we keep of an error's body


@events.init.add_listener  # type: ignore[untyped-decorator]
def watch_our_starter(**_: Any) -> None:
    """End with the process that started us, even when it was killed: else nothing would end the load or delete the
    key."""

    def watch() -> None:
        while not select.select([TASK["alive"]], [], [], 1.0)[0]:
            pass
        shutil.rmtree(JOB.parent, ignore_errors=True)
        os.killpg(os.getpgrp(), signal.SIGKILL)

    gevent.spawn(watch)


@events.init.add_listener  # type: ignore[untyped-decorator]
def extend_the_page(environment: Any, **_: Any) -> None:
    """Show first token and tokens per second on Locust's page; Locust's other processes have no page."""
    if environment.web_ui is None:
        return
    files, latest = RecordFiles(JOB.parent / "records"), locust_page.Latest(TASK["labels"], TASK["known"])

    def rows() -> list[dict[str, Any]]:
        for record in files.new():
            latest.add(record)
        return latest.rows()

    def begin(**_: Any) -> None:
        rows()
        latest.clear()

    locust_page.extend(environment.web_ui, rows)
    environment.events.test_start.add_listener(begin)
    environment.events.reset_stats.add_listener(begin)


class Client(User):
    """One user: asks, waits for the whole answer, asks again."""

    wait_time = constant(0)

    def on_start(self) -> None:
        """Choose the balancer by chance, because the users live in several processes."""
        self.target = random.choice(TASK["targets"])  # noqa: S311 - not a secret
        self.session = _session(self.target)

    @task
    def ask(self) -> None:
        """Send one request and write its record."""
        path, body = next(BODIES)
        stream = Stream(openai=path.startswith("/v1/"))
        at, begun = time.time(), time.perf_counter()
        outcome = self._ask(path, body, stream)
        ended = time.perf_counter()
        _write(Record(at, self.target, **outcome, **_figures(stream, begun, ended)))
        self.environment.events.request.fire(
            request_type=PROFILE.name,
            name=PROFILE.model,
            response_time=(ended - begun) * 1000,
            response_length=stream.size,  # Locust's page calls the mean "Average size (bytes)"
            exception=RuntimeError(outcome["problem"]) if outcome["problem"] else None,
            context={},
        )
        if outcome["problem"]:
            gevent.sleep(BACK_OFF)

    def _ask(self, path: str, body: dict[str, Any], stream: Stream) -> dict[str, Any]:
        """Status, instance and problem. The timeout covers the whole answer: a server may also send slowly."""
        outcome: dict[str, Any] = {"status": 0, "instance": "", "problem": "", "detail": ""}
        limit = gevent.Timeout(TASK["timeout"])
        limit.start()
        try:
            with self.session.post(
                self.target + path,
                json=body,
                stream=True,
                timeout=(CONNECT, TASK["timeout"]),
                allow_redirects=False,
            ) as answer:
                outcome |= {"status": answer.status_code, "instance": _clean(answer.headers.get("X-Instance", ""), 100)}
                outcome |= _followed(answer, stream)
        except gevent.Timeout:
            outcome |= {"problem": TIMEOUT, "detail": f"no end within {TASK['timeout']:g} s"}
        except Exception as error:  # noqa: BLE001 - whatever the server did, the request failed and is counted
            outcome |= _lost(error, stream)
        finally:
            limit.close()
        return outcome


class _Expecting(requests.adapters.HTTPAdapter):
    """Expects a name in the certificate of an address.

    Args:
        name: the name; empty for the name in the URL.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        super().__init__()

    def init_poolmanager(self, connections: int, maxsize: int, block: bool = False, **how: Any) -> None:
        named: dict[str, Any] = {"server_hostname": self._name, "assert_hostname": self._name} if self._name else {}
        super().init_poolmanager(connections, maxsize, block, **how, **named)


def _authorities() -> str | bool:
    """The file with the authorities of the endpoint: the given ones, else those that the machine trusts."""
    if not TASK["trust"]["authorities"]:
        paths = ssl.get_default_verify_paths()
        return paths.cafile or paths.capath or True
    file = JOB.parent / "authorities.pem"
    if not file.exists():
        aside = file.with_suffix(f".{os.getpid()}")
        aside.write_text(TASK["trust"]["authorities"])
        aside.replace(file)  # several processes may write the same bytes at once
    return str(file)


def _session(target: str) -> requests.Session:
    session = requests.Session()
    session.trust_env = False  # neither a proxy nor a netrc: prompts go only to the endpoint
    session.verify = _authorities()
    session.cert = TASK["trust"]["client"] or None
    session.mount("https://", _Expecting(TASK["trust"]["names"].get(target, "")))
    session.headers["Accept-Encoding"] = "identity"
    # requests follows a Location header even to read the answer behind it, also where redirects are off.
    session.hooks["response"].append(lambda answer, **_: answer.headers.pop("Location", None) and None)
    if TASK["key"]:
        session.headers["Authorization"] = f"Bearer {TASK['key']}"
    return session


def _followed(answer: requests.Response, stream: Stream) -> dict[str, str]:
    """Read the answer to its end, as it comes."""
    if answer.status_code != 200:
        kind = (
            str(answer.status_code) if answer.status_code in (401, 403, 404, 429, 503) else f"HTTP {answer.status_code}"
        )
        reason = answer.raw.read1(REASON + len(TASK["key"]), decode_content=False)
        return {"problem": kind, "detail": _clean(reason.decode(errors="replace"))}
    while not stream.problem and (data := answer.raw.read1(PIECE, decode_content=False)):
        stream.feed(data, time.perf_counter())
    return {"problem": stream.end(time.perf_counter()), "detail": _clean(stream.detail)}


def _lost(error: Exception, stream: Stream) -> dict[str, str]:
    """The problem that an exception is for a client."""
    stream.end(time.perf_counter())
    text = str(error)
    if isinstance(error, requests.ReadTimeout | urllib3.exceptions.ReadTimeoutError):
        problem = TIMEOUT
    elif isinstance(error, requests.ConnectionError) and "refused" in text:
        problem = "refused"
    elif stream.frames or isinstance(error, urllib3.exceptions.ProtocolError):
        problem = "cut stream"
    else:
        problem = "no answer"
    return {"problem": problem, "detail": _clean(f"{type(error).__name__}: {text}")}


def _figures(stream: Stream, begun: float, ended: float) -> dict[str, Any]:
    ttft = None if stream.first is None else stream.first - begun
    queued = None
    if ttft is not None and stream.prefill is not None:
        queued = max(0.0, ttft - stream.load - stream.prefill)
    return {
        "ttft": ttft,
        "total": ended - begun,
        "tokens": stream.tokens,
        "arrivals": stream.arrivals,
        "decode": stream.decode,
        "queued": queued,
        "gaps": stream.gaps,
    }


def _clean(value: Any, longest: int = 200) -> str:
    """A server's text, without our key and cut to a length."""
    text = str(value)
    return (text.replace(TASK["key"], "***") if TASK["key"] else text)[:longest]


def _write(record: Record) -> None:
    """Append to this process's own file, in one write, because another process reads the file meanwhile."""
    with (JOB.parent / "records" / str(os.getpid())).open("a") as file:
        file.write(record.line() + "\n")
