"""Debian's chromium without a screen, by the protocol of its developer tools."""

import base64
import itertools
import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import websocket

PROGRAM = "chromium"
LOADED = 120.0  # seconds until a page has loaded, at most


class Page:
    """A page in the browser; notes what the page says on the console and which addresses the page asks for.

    Attributes:
        console: lines of the console, and errors.
        asked: addresses.
    """

    def __init__(self, address: str) -> None:
        self._socket = websocket.create_connection(address, timeout=LOADED, suppress_origin=True)
        self._numbers = itertools.count(1)
        self.console: list[str] = []
        self.asked: list[str] = []
        for domain in ("Page", "Runtime", "Log", "Network"):
            self._call(f"{domain}.enable")

    def close(self) -> None:
        """Close the connection to the page."""
        self._socket.close()

    def open(self, url: str, width: int, *, dark: bool = False) -> None:
        """Load an address.

        Args:
            url: the address.
            width: pixels of the screen from left to right.
            dark: whether the reader prefers a dark page.
        """
        self.console.clear()
        self.asked.clear()
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
        self._call("Emulation.setDeviceMetricsOverride", **size)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self._call("Emulation.setEmulatedMedia", features=[scheme])
        self._call("Page.navigate", url=url)
        while self._heard()["method"] != "Page.loadEventFired":
            pass

    def run(self, script: str) -> object:
        """Return the value of a script in the page."""
        answer = self._call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def wait_for(self, script: str) -> None:
        """Wait until the value of a script is true."""
        deadline = time.monotonic() + LOADED
        while not self.run(script):
            assert time.monotonic() < deadline, f"never true: {script}"
            time.sleep(0.2)

    def picture(self, path: Path) -> None:
        """Write a picture of the whole page."""
        answer = self._call("Page.captureScreenshot", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(answer["data"]))

    def _call(self, method: str, **parameters: object) -> dict:
        number = next(self._numbers)
        self._socket.send(json.dumps({"id": number, "method": method, "params": parameters}))
        while (message := self._heard()).get("id") != number:
            pass
        assert "error" not in message, message
        return message["result"]

    def _heard(self) -> dict:
        """The next message; answers get an empty method."""
        message = {"method": "", **json.loads(self._socket.recv())}
        parameters = message.get("params", {})
        match message["method"]:
            case "Runtime.consoleAPICalled":
                self.console.append(str(parameters["args"]))
            case "Runtime.exceptionThrown":
                self.console.append(str(parameters["exceptionDetails"]))
            case "Log.entryAdded":
                self.console.append(str(parameters["entry"]["text"]))
            case "Network.requestWillBeSent":
                self.asked.append(str(parameters["request"]["url"]))
        return message


@contextmanager
def started() -> Iterator[Page]:
    """Start the browser with an empty page."""
    assert shutil.which(PROGRAM), f"there is no {PROGRAM} on this machine: `make test-browser` installs the program"
    with tempfile.TemporaryDirectory(prefix="provision-browser-", ignore_cleanup_errors=True) as folder:
        words = [
            PROGRAM,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--hide-scrollbars",
            "--remote-debugging-port=0",
        ]
        process = subprocess.Popen(
            [*words, f"--user-data-dir={folder}", "about:blank"],
            env={**os.environ, "HOME": folder},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            page = Page(_address(Path(folder, "DevToolsActivePort"), process))
            yield page
            page.close()
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _address(file: Path, process: subprocess.Popen[bytes]) -> str:
    """The address of the empty page; the browser writes its port into a file."""
    deadline = time.monotonic() + LOADED
    while not (file.exists() and file.read_text().strip()):
        assert process.poll() is None, f"{PROGRAM} ended with exit code {process.returncode}"
        assert time.monotonic() < deadline, f"{PROGRAM} does not start"
        time.sleep(0.1)
    port = file.read_text().splitlines()[0]
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/json/list", timeout=LOADED) as answer:
        return next(page["webSocketDebuggerUrl"] for page in json.load(answer) if page["type"] == "page")
