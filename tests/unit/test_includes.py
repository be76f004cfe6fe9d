"""The operator's own files of nginx's configuration."""

import dataclasses
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from provision.roles import balancer
from provision.steps.facts import HostFacts
from provision.steps.nginx import includes
from tests.unit.balancer_fleet import config, fleet
from tests.unit.nginx_config import Directive, find, parse

LIMITS, HEADERS = "limit_req_zone $remote_addr zone=each:1m rate=5r/s;\n", "add_header X-Site one;"
OURS = {"http": {"limits.conf": LIMITS}, "server": {"headers.conf": HEADERS, "b.conf": "limit_req zone=each;"}}
FACTS = HostFacts()


def wanted(**settings: Any) -> Any:
    """Return the wanted state of a balancer with some settings."""
    return config(fleet(balancer=settings)).want(FACTS, None)


def names(block: tuple[Directive, ...]) -> list[str]:
    return [found.words[1] for found in block if found.words[0] == "include"]


def test_nginx_reads_a_file_in_its_block_and_root_alone_may_read_the_file() -> None:
    want = wanted(include=OURS)
    files = {name: content.data.decode() for name, content in want["files"].items()}
    assert files["include-http-limits.conf"] == LIMITS
    assert files["include-server-headers.conf"] == f"{HEADERS}\n", "a line in the inventory is that line for nginx"
    [http] = find(parse(files["nginx.conf"]), "http")
    [server] = find(parse(files["site.conf"]), "server")
    assert names(http.block or ())[0] == "include-http-limits.conf"
    assert names(server.block or ())[:2] == ["include-server-b.conf", "include-server-headers.conf"]
    mine = [name for name in files if name.startswith("include-")]
    assert want["odd"] == dict.fromkeys(mine, "file 0600 root:root")
    assert not [name for name in wanted()["files"] if name.startswith("include-")]


def test_a_plan_tells_that_a_file_changes_and_shows_no_text() -> None:
    have = {**wanted(include=OURS), "exe": "", "loaded": ""}
    step = config(fleet(balancer={"include": {**OURS, "http": {"limits.conf": LIMITS.replace("5r", "9r")}}}))
    want = step.want(FACTS, have)
    hashed = {name: content if name == "nginx.conf" else str(content) for name, content in have["files"].items()}
    assert step.why({**have, "files": hashed}, want) == "other text in include-http-limits.conf"
    [line] = step.diff(have, want)
    assert line.startswith("include-http-limits.conf: sha256 ")
    assert "limit_req" not in line
    gone = config(fleet()).want(FACTS, have)
    assert "- include-server-b.conf" in "\n".join(config(fleet()).diff(have, gone))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("add_header A b;\nlisten 80;", "line 2 may not listen"),
        ("# listen 80;\nlocation /x {\n  'include' /etc/nginx/x;\n}", "line 3 may not include another file"),
        ("a b; server {\n return 200;\n}", "line 1 may not have a server of its own"),
    ],
)
def test_a_directive_that_contradicts_other_settings_is_refused_with_its_line(text: str, said: str) -> None:
    settings = balancer.Settings.model_validate({"include": {"server": {"x.conf": text}}})
    [(path, message)] = list(settings.include.problems())
    assert path == ("server", "x.conf")
    assert message.startswith(said)


def test_servers_of_an_upstream_and_words_that_only_look_alike_are_allowed() -> None:
    text = (
        'upstream x { server 10.0.0.1:80; }\nlog_format l "listen;{}"; # server {\nset $a \\;listen; set $b "${c}";\n'
    )
    assert list(includes.contradictions(text)) == []


@pytest.mark.parametrize("text", ["", " \n", "a\x00;", "a\x1b;", "a\r\n", "a\u202e;", "x" * 70_000])
def test_a_text_that_is_no_file_of_lines_is_refused(text: str) -> None:
    with pytest.raises(ValidationError):
        balancer.Settings.model_validate({"include": {"http": {"x.conf": text}}})
    with pytest.raises(ValidationError):
        balancer.Settings.model_validate({"include": {"http": {f"../{text[:5]}": "a b;"}}})


def flat(found: tuple[Directive, ...]) -> list[str]:
    """Return the names of all directives, in the order of the text."""
    listed = []
    for each in found:
        block = " {" if each.block is not None and len(each.words) == 1 else ""
        listed += [f"{each.words[0]}{block}"] if each.words else []
        listed += flat(each.block or ())
    return listed


PARTS = st.sampled_from([*' \n\t;{}#\\$"', "'", "listen", "server", "a", "${", "}x", "=", "include x;", "\\;", "b {"])


@given(st.lists(PARTS, max_size=30).map("".join))
def test_directives_are_those_that_nginx_reads(text: str) -> None:
    try:
        known = parse(text)
    except (ValueError, IndexError):
        assert isinstance(list(includes.directives(text)), list)
        return
    assert [name for _, name in includes.directives(text)] == flat(known)


def test_the_number_of_a_line_is_that_of_nginx() -> None:
    text = 'a "x\ny" {\n\n  b c;\n} # d\ne\n f;'
    assert list(includes.directives(text)) == [(1, "a"), (4, "b"), (6, "e")]


def test_the_modes_stay_with_the_files_of_another_generation() -> None:
    step = config(fleet(balancer={"include": OURS}))
    assert set(step.modes) == {name for name in step.files if name.startswith("include-")}
    assert dataclasses.replace(step, files={}).want(FACTS, None)["odd"] == {}  # type: ignore[index]
