"""The commands of the simulated ollama: serve, list, ps, pull, run, show, stop, --version.

Every command that talks to a server sends `HEAD /` first, as in the real program; --version does not.
"""

import json
import os
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def main(words: list[str]) -> int:
    """Run one command and return its exit code."""
    command, rest = (words or ["--help"])[0], words[1:]
    if command == "serve":
        from .ollama_server import serve

        if rest:
            print(f'Error: unknown command "{rest[0]}" for "ollama serve"', file=sys.stderr)
            return 1
        return serve()
    commands = {"list": show_list, "ps": show_running, "pull": pull, "run": run, "show": show, "stop": stop}
    if command in {"--version", "-v"}:
        return version()
    command = "list" if command == "ls" else command
    if command not in commands:
        print("Usage: ollama [serve|list|ps|pull|run|show|stop|--version]   (SIMULATED by the provision lab)")
        return 0 if command in {"--help", "-h"} else 1
    try:
        if not heartbeat():
            return 1
        return commands[command](rest)
    except urllib.error.HTTPError as error:
        print(f"Error: {json.loads(error.read() or b'{}').get('error', error)}", file=sys.stderr)
    except OSError:
        print("Error: could not connect to ollama server, run 'ollama serve' to start it", file=sys.stderr)
    return 1


def server() -> str:
    """The URL of the server."""
    host = os.environ.get("OLLAMA_HOST", "127.0.0.1:11434").replace("0.0.0.0", "127.0.0.1")  # noqa: S104
    return host if "://" in host else f"http://{host}"


def heartbeat() -> bool:
    """Ask the server whether it runs; print an error where the server refuses."""
    try:
        with urllib.request.urlopen(urllib.request.Request(f"{server()}/", method="HEAD"), timeout=600):  # noqa: S310
            return True
    except urllib.error.HTTPError:
        print("Error: something went wrong, please see the ollama server logs for details", file=sys.stderr)
        return False


def ask(path: str, body: dict[str, Any] | None = None) -> Iterator[dict[str, Any]]:
    """The frames of the server's answer."""
    data = None if body is None else json.dumps(body).encode()
    with urllib.request.urlopen(urllib.request.Request(server() + path, data=data), timeout=600) as answer:  # noqa: S310
        for line in answer:
            if line.strip():
                yield json.loads(line)


def version() -> int:
    try:
        print(f"ollama version is {next(ask('/api/version'))['version']}")
    except OSError:
        print("Warning: could not connect to a running Ollama instance")
        print(f"Warning: client version is {Path('/usr/lib/ollama-simulated/version').read_text().strip()}")
    return 0


def show_list(_: list[str]) -> int:
    print(f"{'NAME':<24}{'ID':<16}{'SIZE':<10}MODIFIED")
    for model in next(ask("/api/tags"))["models"]:
        print(
            f"{model['name']:<24}{model['digest'][:12]:<16}{model['size'] / 1e9:.1f} GB    {model['modified_at'][:19]}"
        )
    return 0


def show_running(_: list[str]) -> int:
    print(f"{'NAME':<24}{'ID':<16}{'SIZE':<10}{'PROCESSOR':<16}{'CONTEXT':<10}UNTIL")
    for model in next(ask("/api/ps"))["models"]:
        share = round(100 * model["size_vram"] / model["size"])
        where = {0: "100% CPU", 100: "100% GPU"}.get(share, f"{100 - share}%/{share}% CPU/GPU")
        size = f"{model['size'] / 1e9:.1f} GB"
        print(
            f"{model['name']:<24}{model['digest'][:12]:<16}{size:<10}{where:<16}{model['context_length']:<10}"
            f"{model['expires_at'][:19]}"
        )
    return 0


def pull(words: list[str]) -> int:
    for frame in ask("/api/pull", {"model": words[0]}):
        if "error" in frame:
            print(f"Error: {frame['error']}", file=sys.stderr)
            return 1
        print(frame["status"])
    return 0


def run(words: list[str]) -> int:
    """Answer one prompt; pull the model first where the server lacks it."""
    try:
        next(ask("/api/show", {"model": words[0]}))
    except urllib.error.HTTPError as error:
        if error.code != 404:
            raise
        if pull(words):
            return 1
    for frame in ask("/api/generate", {"model": words[0], "prompt": " ".join(words[1:])}):
        if "error" in frame:
            print(f"Error: {frame['error']}", file=sys.stderr)
            return 1
        print(frame.get("response", ""), end="", flush=True)
    print()
    return 0


def show(words: list[str]) -> int:
    print(json.dumps(next(ask("/api/show", {"model": words[0]})), indent=2))
    return 0


def stop(words: list[str]) -> int:
    next(ask("/api/generate", {"model": words[0], "keep_alive": 0, "stream": False}))
    return 0
