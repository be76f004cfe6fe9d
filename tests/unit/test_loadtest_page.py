"""The page of a load test: its circumstances, its tables and its plots, as a browser reads them."""

import re
import tempfile
from functools import cache
from html.parser import HTMLParser
from pathlib import Path

import click
import pytest

from provision.cli import loadtest as command
from provision.cli.options import given_words
from provision.loadtest import page
from provision.loadtest.about import masked
from provision.loadtest.capacity import search
from tests.loadtest import results

VOID = {"meta", "br", "hr"}


class Read(HTMLParser):
    """Reads a page: every element with its attributes and its text."""

    def __init__(self):
        super().__init__(convert_charrefs=True)
        self.elements = []
        self.open = []

    def handle_starttag(self, tag, attributes):
        element = {"tag": tag, "attributes": dict(attributes), "text": ""}
        self.elements.append(element)
        if tag not in VOID:
            self.open.append(element)

    def handle_startendtag(self, tag, attributes):
        self.elements.append({"tag": tag, "attributes": dict(attributes), "text": ""})

    def handle_endtag(self, tag):
        assert self.open.pop()["tag"] == tag, f"</{tag}> closes another element"

    def handle_data(self, data):
        for element in self.open:
            element["text"] += data

    def texts(self, tag):
        return [element["text"].strip() for element in self.elements if element["tag"] == tag]


@cache
def written(name):
    """Write the page of a result once; returns the text and the elements."""
    return read_page(results.RESULTS[name]())


def read_page(result):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "r.html"
        page.write(str(path), result, results.ABOUT)
        text = path.read_text()
    read = Read()
    read.feed(text)
    assert read.open == [], "every element is closed"
    return text, read


@pytest.fixture(params=results.RESULTS)
def shown(request):
    return written(request.param)


def test_no_cell_is_empty_and_every_row_has_all_cells(shown):
    text, read = shown
    assert all(read.texts("td"))
    for table in re.findall(r"<table>.*?</table>", text, re.DOTALL):
        heads = len(re.findall(r'<th scope="col"', table))
        rows = re.findall(r"<tr><td.*?</tr>", table)
        assert rows
        assert {len(re.findall(r"<td", row)) for row in rows} == {heads}
        for groups in re.findall(r'<tr class="group">(.*?)</tr>', table):
            spans = [re.search(r'colspan="(\d+)"', one) for one in re.findall(r"<th[^>]*>", groups)]
            assert sum(int(span[1]) if span else 1 for span in spans) == heads
    labels = [one["attributes"].get("data-label") for one in read.elements if one["tag"] == "td"]
    assert all(labels), "a narrow screen shows the heading in every cell"


def test_nothing_comes_from_outside(shown):
    text, read = shown
    assert not {one["tag"] for one in read.elements} & {"script", "link", "img", "iframe", "object", "image"}
    assert "default-src 'none'" in text
    assert "@import" not in text
    places = [
        value
        for one in read.elements
        for name, value in one["attributes"].items()
        if name in ("src", "href", "xlink:href")
    ]
    assert all(place.startswith("#") for place in [*places, *re.findall(r"url\(([^)]*)\)", text)])
    assert not [name for one in read.elements for name in one["attributes"] if name.startswith("on")]


def test_ids_are_unique_and_every_reference_has_its_id(shown):
    text, read = shown
    ids = [one["attributes"]["id"] for one in read.elements if "id" in one["attributes"]]
    assert len(ids) == len(set(ids))
    assert set(re.findall(r"(?:url\(|href=\")#([^)\"]+)", text)) <= set(ids)


def test_two_pages_can_be_told_apart_and_repeated(shown):
    text, read = shown
    values = dict(zip(read.texts("dt"), read.texts("dd"), strict=True))
    assert values["Date"] == "2026-11-30 10:20:00 UTC"
    assert values["Versions"] == "provision 0.1.0, Locust 2.47.0, Ollama 0.34.4"
    assert values["Fleet"] == "4 instances on 2 hosts, 4 answers at once"
    assert values["Simulated"] == "the model server and its cards, by the provision lab"
    assert "SIMULATED: the provision lab played the model server" in text
    assert read.texts("pre") == [results.ABOUT.command]
    assert set(results.ABOUT.notes) <= set(read.texts("li")), "the notes of the terminal"


def test_an_overloaded_endpoint_is_called_overloaded():
    text, read = written("overloaded")
    assert "<title>Load test of gpt-oss:20b: OVERLOADED</title>" in text
    assert re.search(r'class="outcome"><strong>OVERLOADED</strong>: \d+ of \d+ answers waited in a queue', text)
    assert "queued answers" in read.texts("td")
    assert re.search(r"\d+ of \d+ answers with figures of the server waited in a queue", text)
    assert "at most 2.00 s (default)" in read.texts("td")
    assert "55.50 s" in read.texts("td"), "a request that timed out after its first token"


def test_a_good_run_is_a_pass():
    text, _ = written("good")
    assert 'class="outcome good"><strong>PASS</strong>: every target was reached' in text


def plots_of(text):
    """Return the texts inside each plot."""
    found = {}
    for title, svg in re.findall(r"<figcaption>(.*?)</figcaption>\s*(<svg.*?</svg>)", text, re.DOTALL):
        found[title] = re.findall(r"<text[^>]*>([^<]*)</text>", svg)
    return found


def test_plots_have_axes_with_units_ticks_and_a_legend():
    drawn = plots_of(written("overloaded")[0])
    assert list(drawn) == [
        "Time to first token",
        "Answers with a first token within a time",
        "Tokens per second of all streams",
        "Waiting in a queue",
    ]
    assert {"start of the request (s)", "time to first token (s)", "target: 2.00 s", "gpu-01/ollama1, timed out"} <= {
        said.strip() for said in drawn["Time to first token"]
    }
    assert {"answers (%)", "95 %", "10 s", "target: 2.00 s"} <= set(drawn["Answers with a first token within a time"])
    for said in drawn.values():
        ticks = [one for one in said if re.fullmatch(r"[\d.]+( m?s)?", one.strip())]
        assert len(ticks) >= 6, said


def test_a_search_shows_steps_knee_and_instances():
    text, read = written("searched")
    assert "<strong>HOLDS</strong>: 4 users" in text
    assert "By the knee: 4 users on 4 instances. Assumed: the same model" in text
    assert "Users and instances" in read.texts("h2")
    drawn = plots_of(text)
    assert {"users", "tokens per second", "knee: 4 users", "missed a target"} <= set(
        drawn["Tokens per second by users"]
    )
    assert "target: 2.00 s" in drawn["Time to first token by users"]


def test_a_search_interrupted_at_once_still_writes_a_page():
    found = results.good()
    found.capacity = search(lambda users: None, 100)
    assert "No step was completed." in read_page(found)[0]


def test_hostile_names_stay_text():
    text, read = written("hostile")
    assert "<script>alert(1)</script>" in read.texts("td")
    assert "<script" not in text
    assert "<b>" not in text
    assert not re.search(r"[\x00-\x08\x1b\u202e]", text)
    assert max(map(len, read.texts("td"))) <= 200
    assert any("_hidden$" in said for said in plots_of(text)["Time to first token"]), "no formula, and in the legend"


def test_values_of_extra_vars_are_masked():
    words = ["loadtest", "--extra-vars", "ollama.key=zq9canary", "--extra-vars", "@vars.yaml", "--users", "3"]
    assert masked(words) == [
        "loadtest",
        "--extra-vars",
        "ollama.key=***",
        "--extra-vars",
        "@vars.yaml",
        "--users",
        "3",
    ]
    assert masked(["--extra-vars", '{"password": "zq9canary=x"}'])[1] == "***"


def test_the_command_names_every_option_that_differs_from_its_default():
    words = ["-i", "p.yaml", "-l", "a", "-l", "b", "-u", "8", "--duration", "4s", "--json", "--api-key", "env:KEY"]
    with click.Context(command.loadtest) as context:
        command.loadtest.parse_args(context, list(words))
        assert given_words(context) == [
            *("--inventory", "p.yaml", "--limit", "a", "--limit", "b"),
            *("--duration", "4s", "--api-key", "env:KEY", "--json"),
        ]
