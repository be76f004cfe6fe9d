"""The page of a load test and Locust's own page, as a reader's browser shows them."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from provision.loadtest import page as report
from tests.browser import chromium
from tests.loadtest import results
from tests.unit.test_loadtest_drive import endpoint, fetched, unused_tcp_port, wait_for

__all__ = ["endpoint", "unused_tcp_port"]

PICTURES = os.environ.get("PROVISION_SCREENSHOTS", "")

# The contrast of every text with its background, as WCAG 2 counts contrast.
CONTRAST = """
(() => {
  const part = value => { value /= 255; return value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4; };
  const light = ([r, g, b]) => 0.2126 * part(r) + 0.7152 * part(g) + 0.0722 * part(b);
  const numbers = colour => colour.match(/[\\d.]+/g).map(Number);
  const behind = element => {
    for (let one = element; one; one = one.parentElement) {
      const colour = numbers(getComputedStyle(one).backgroundColor);
      if (colour.length < 4 || colour[3] > 0) return colour;
    }
  };
  const found = [];
  for (const element of document.querySelectorAll("h1, h2, p, strong, dt, dd, li, pre, td, figcaption, svg text")) {
    const style = getComputedStyle(element), drawn = element.namespaceURI.endsWith("svg");
    const ink = light(numbers(drawn ? style.fill : style.color)), paper = light(behind(element));
    const ratio = (Math.max(ink, paper) + 0.05) / (Math.min(ink, paper) + 0.05);
    if (ratio < 4.5) found.push(`${element.textContent.slice(0, 40)}: ${ratio.toFixed(2)}`);
  }
  return found;
})()
"""
TOO_WIDE = """
[...document.querySelectorAll("body *")].filter(one => !one.closest("svg, thead") &&
  one.getBoundingClientRect().right > document.documentElement.clientWidth + 0.5)
  .map(one => `${one.tagName}: ${one.textContent.slice(0, 40)}`)
"""
BROKEN_CELLS = """
[...document.querySelectorAll("td:not(.long), th")].filter(one => {
  const box = document.createRange(); box.selectNodeContents(one);
  return new Set([...box.getClientRects()].map(line => Math.round(line.top))).size > 1;
}).map(one => one.textContent)
"""
EMPTY_CELLS = """[...document.querySelectorAll("td")].filter(one => !one.innerText.trim()).length"""
CUT_TEXTS = """
[...document.querySelectorAll("svg text")].filter(one => {
  const own = one.getBoundingClientRect(), whole = one.closest("svg").getBoundingClientRect();
  const beside = own.left < whole.left - 1 || own.right > whole.right + 1;
  return beside || own.bottom > whole.bottom + 1 || own.top < whole.top - 1;
}).map(one => one.textContent)
"""
ADVERTISEMENTS = "document.querySelectorAll('a[href^=\"https://aka.ms/loadtesting\"]').length"
SMALL_TEXTS = """
[...document.querySelectorAll("svg text")].map(one => {
  const size = parseFloat(getComputedStyle(one).fontSize);
  return size * one.closest("svg").getBoundingClientRect().width / one.closest("svg").viewBox.baseVal.width;
}).filter(size => size < 8)
"""


@pytest.fixture(scope="module")
def browser() -> Iterator[chromium.Page]:
    with chromium.started() as page:
        yield page


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Write the page of every result."""
    folder = tmp_path_factory.mktemp("pages")
    for name, result in results.RESULTS.items():
        report.write(str(folder / f"{name}.html"), result(), results.ABOUT)
    return {name: folder / f"{name}.html" for name in results.RESULTS}


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [1440, 390])
@pytest.mark.parametrize("name", results.RESULTS)
def test_a_page_is_readable(browser, pages, name, width, dark):
    browser.open(pages[name].as_uri(), width, dark=dark)
    if PICTURES:
        browser.picture(Path(PICTURES, f"{name}-{width}-{'dark' if dark else 'light'}.png"))
    assert browser.console == []
    assert browser.asked == [pages[name].as_uri()], "one file, and nothing from outside"
    assert browser.run("innerWidth") == width
    assert browser.run("document.documentElement.scrollWidth") <= width
    assert browser.run(TOO_WIDE) == []
    assert browser.run(EMPTY_CELLS) == 0
    assert browser.run(CUT_TEXTS) == []
    assert browser.run(SMALL_TEXTS) == []
    assert browser.run(CONTRAST) == []
    if width > 1000:
        assert browser.run(BROKEN_CELLS) == []


def test_dark_is_dark_and_light_is_light(browser, pages):
    seen = []
    for dark in (False, True):
        browser.open(pages["good"].as_uri(), 1440, dark=dark)
        seen.append(browser.run("getComputedStyle(document.body).backgroundColor"))
    assert seen == ["rgb(255, 255, 255)", "rgb(21, 24, 28)"]


def test_locusts_page_has_our_figures_and_no_advertisement(browser, endpoint, unused_tcp_port):
    words = ["loadtest", "-i", "/nonexistent", "--target", endpoint("whole"), "--yes", "--model", "m:1b"]
    words += ["--web", "--web-port", str(unused_tcp_port), "--profile", "generate"]
    address = f"http://127.0.0.1:{unused_tcp_port}/?tab=tokens"
    argv = [sys.executable, "-m", "provision", *words]
    with subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            wait_for(lambda: fetched(unused_tcp_port, "/"))
            browser.open(address, 1440)
            browser.wait_for("document.body.innerText.includes('Start new load test')")
            start = browser.run("document.body.innerText")
            if PICTURES:
                browser.picture(Path(PICTURES, "locust-start.png"))
            assert browser.run(ADVERTISEMENTS) > 0, "the page still has one"
            browser.run("document.querySelector('button[type=submit]').click()")
            browser.wait_for("document.body.innerText.includes('gpu-01/ollama1')")
            shown = browser.run("document.body.innerText")
            if PICTURES:
                browser.picture(Path(PICTURES, "locust-run.png"))
            asked = {address.split("/")[2] for address in browser.asked if address.startswith("http")}
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(30)
    assert "Azure" not in start + shown
    assert "First token p95 (s)" in shown
    assert "Tokens/s of a stream p50" in shown
    assert asked == {f"127.0.0.1:{unused_tcp_port}"}
    assert browser.console == []
