"""`provision usage`: the sums of all balancers, the screen and the document."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from provision import cli, testing
from provision.actions import Request
from provision.actions.usage import Used, usage
from provision.cli.caller import Caller
from provision.command import Answer, Put, Run
from provision.errors import UsageError
from provision.steps.nginx import access_log
from provision.testing import FakeHost

from .test_json_documents import checked

NOW = 1_796_126_400  # 2026-12-01 12:00 UTC
INVENTORY = """
all: {vars: {nginx: {accept_known_vulnerabilities: true}}}
gpu: {hosts: {gpu-01: {ansible_host: 192.0.2.1, ollama: {models: [tiny], instances: [{gpus: [0]}]}}}}
balancer: {hosts: {lb-01: {ansible_host: 192.0.2.5}, lb-02: {ansible_host: 192.0.2.6}}}
"""


def row(client: str, key: str, model: str, *numbers: float, kind: str = "", status: int = 0, reason: str = "") -> str:
    """Return a row of a balancer: requests, tokens in and out, seconds, estimated, uncounted."""
    return f"row {json.dumps([client, key, model, kind, status, reason, *numbers])}"


FIRST = [
    f"begins {NOW - 30 * 86400}",
    row("alice", "aaaa1111", "tiny:latest", 10, 100, 200, 12.5, 0, 0),
    row("alice", "aaaa1111", "big:latest", 1, 1000, 2000, 60, 0, 0),
    row("alice", "aaaa2222", "tiny:latest", 2, 20, 40, 2.5, 1, 0),
    row("alice", "aaaa1111", "tiny:latest", 1, 0, 0, 0.1, 0, 0, kind="failed"),
    row("bob", "bbbb1111", "", 7, 0, 0, 0.0, 0, 0, kind="refused", status=429),
    row("", "", "", 3, 0, 0, 0.0, 0, 0, kind="refused", status=401, reason="expired key"),
]
SECOND = [f"begins {NOW - 3600}", row("bob", "bbbb1111", "tiny:latest", 4, 40, 80, 5, 0, 0)]
QUIET = ["unread 0", "damaged 0", "end"]


class Balancers:
    """Two balancers with answers of the test.

    Args:
        lines: address -> the lines of the answer; a balancer without an entry cannot be reached.
    """

    def __init__(self, folder: Path, lines: Mapping[str, list[str]]) -> None:
        self.hosts = {
            address: FakeHost({"usage by the access log": "\n".join(told) + "\n"}) for address, told in lines.items()
        }
        (folder / "inventory.yaml").write_text(INVENTORY)
        setup = testing.setup(folder, self._connect)
        self.setup = dataclasses.replace(setup, clock=lambda: float(NOW))
        self.words = ["usage", "-i", str(folder / "inventory.yaml")]
        self.request = Request(str(folder / "inventory.yaml"), setup=self.setup)

    def _connect(self, connection: Any, password: str | None, paths: Any) -> testing.Transport:
        return self.hosts.get(connection.address, FakeHost(lost_at=frozenset({1})))

    def type(self, capsys: pytest.CaptureFixture[str], *words: str, code: int = 0) -> tuple[str, str]:
        """Type the command, and return standard output and standard error."""
        assert cli.execute([*self.words, *words], Caller(self.setup)) == code, capsys.readouterr()
        said = capsys.readouterr()
        return said.out, said.err

    @property
    def commands(self) -> list[Run | Put]:
        return [command for host in self.hosts.values() for command in host.commands]


@pytest.fixture
def both(tmp_path: Path) -> Balancers:
    return Balancers(tmp_path, {"192.0.2.5": [*FIRST, *QUIET], "192.0.2.6": [*SECOND, *QUIET]})


def test_the_sums_of_all_balancers_by_client_key_and_model(both: Balancers) -> None:
    found = usage(both.request, 0)
    assert [(used.client, used.key, used.model) for used in found.rows] == [
        ("alice", "aaaa1111", "big:latest"),
        ("alice", "aaaa1111", "tiny:latest"),
        ("bob", "bbbb1111", "tiny:latest"),
        ("alice", "aaaa2222", "tiny:latest"),
        ("bob", "bbbb1111", ""),
        ("", "", ""),
    ]
    assert found.rows[1] == Used("alice", "aaaa1111", "tiny:latest", 11, 100, 200, 12.6, 0, 1)
    assert found.rows[4].refused == {(429, "too many requests, or no tokens left"): 7}
    assert found.rows[5].refused == {(401, "expired key"): 3}


@pytest.mark.parametrize(
    ("by", "rows"),
    [
        (["client"], [("alice", 14, 1120), ("bob", 4, 40), ("", 0, 0)]),
        (["model"], [("big:latest", 1, 1000), ("tiny:latest", 17, 160), ("", 0, 0)]),
        (["key"], [("aaaa1111", 12, 1100), ("bbbb1111", 4, 40), ("aaaa2222", 2, 20), ("", 0, 0)]),
    ],
)
def test_the_sums_by_one_name(both: Balancers, by: list[str], rows: list[Any]) -> None:
    found = usage(both.request, 0, by)
    assert [(used.client or used.key or used.model, used.requests, used.tokens_in) for used in found.rows] == rows


def test_a_balancer_is_asked_by_one_exec_and_a_gpu_host_is_not_asked(both: Balancers) -> None:
    usage(both.request, 12345)
    assert [host.execs for host in both.hosts.values()] == [1, 1]
    assert both.commands == [access_log.command(12345)] * 2


def test_the_screen_names_estimates_refusals_and_the_begin_of_the_logs(
    both: Balancers, capsys: pytest.CaptureFixture[str]
) -> None:
    out, err = both.type(capsys, "--since", "2d")
    lines = [" ".join(line.split()) for line in out.splitlines()]
    assert lines[0] == "CLIENT KEY MODEL REQUESTS TOKENS IN TOKENS OUT SECONDS FAILED REFUSED"
    assert "alice aaaa2222 tiny:latest 2 ~20 ~40 2.5 0 0" in lines
    assert "- - - 0 0 0 0.0 0 3" in lines
    assert "all 18 ~1160 ~2320 80.1 1 10" in lines
    assert "refused: 7 with 429, too many requests, or no tokens left (bob 7)" in out
    assert "refused: 3 with 401, expired key (- 3)" in out
    assert "~ tokens of 1 request are estimated" in out
    assert "since 2026-11-29 12:00 UTC; the logs of lb-01 begin 2026-11-01 12:00 UTC" in out
    assert "the logs of lb-02 begin 2026-12-01 11:00 UTC: requests before that time are missing" in err
    assert both.commands[0] == access_log.command(NOW - 2 * 86400)


def test_the_document(both: Balancers, capsys: pytest.CaptureFixture[str]) -> None:
    found = checked(both.type(capsys, "--json", "--by", "key, model", "--since", "2026-11-30")[0])
    assert (found["since"], found["by"]) == ("2026-11-30T00:00:00Z", ["key", "model"])
    assert found["hosts"][0]["begins"] == "2026-11-01T12:00:00Z"
    assert found["rows"][1] == {
        "client": "",
        "key": "aaaa1111",
        "model": "tiny:latest",
        "requests": 11,
        "tokens_in": 100,
        "tokens_out": 200,
        "seconds": 12.6,
        "estimated": 0,
        "failed": 1,
        "refused": [],
    }
    assert found["rows"][-1]["refused"] == [{"status": 401, "reason": "expired key", "requests": 3}]
    assert any("lb-02 begin" in warning for warning in found["warnings"])


def test_a_lost_balancer_fails_and_the_rest_is_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    balancers = Balancers(tmp_path, {"192.0.2.5": [*FIRST, *QUIET]})
    out, _ = balancers.type(capsys, code=4)
    assert "alice" in out
    assert "lb-02" in out
    found = checked(balancers.type(capsys, "--json", code=4)[0])
    assert [host["result"] for host in found["hosts"]] == ["ok", "unreachable"]
    assert found["hosts"][1]["uncounted"] is None
    assert checked(balancers.type(capsys, "--json", "-l", "lb-01")[0])["hosts"][0]["host"] == "lb-01"


def test_oddities_of_the_logs_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = [row("", "", "", 5, 0, 0, 1.0, 0, 5), "unread 2", "damaged 1", "end"]
    out, err = Balancers(tmp_path, {"192.0.2.5": lines}).type(capsys, "-l", "lb-01")
    assert "tokens of 5 requests are unknown" in out
    assert "the logs of lb-01 have no request" in out
    assert "1 rotated log cannot be unpacked" in err
    assert "2 lines of the logs are no requests" in err


def test_a_hostile_answer_of_a_balancer_writes_no_escape_sequence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = "\x1b[2Jalice\u202e"
    lines = [
        row(name, name, name, 1, 1, 1, 1.0, 0, 0),
        row("", "", "", 1, 0, 0, 0.0, 0, 0, kind="refused", reason=name),
    ]
    out, err = Balancers(tmp_path, {"192.0.2.5": [*lines, *QUIET]}).type(capsys, "-l", "lb-01")
    assert not {"\x1b", "\u202e"} & set(out + err)
    broken = Balancers(tmp_path, {"192.0.2.5": ["row [\x1b[2J", "end"]})
    out, err = broken.type(capsys, "-l", "lb-01", code=3)
    assert "unreadable" in out
    assert "\x1b" not in out + err


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--by", "user"], "requests are grouped by client, key, model"),
        (["--by", ""], "requests are grouped by client, key, model"),
        (["--since", "yesterday"], "--since must be a duration"),
        (["-l", "gpu-01"], "none of these hosts is a balancer"),
    ],
)
def test_wrong_words_are_refused(
    both: Balancers, capsys: pytest.CaptureFixture[str], words: list[str], says: str
) -> None:
    assert says in both.type(capsys, *words, code=2)[1]
    assert both.commands == []


def test_a_machine_that_balances_itself_is_a_balancer(tmp_path: Path) -> None:
    balancers = Balancers(tmp_path, {"192.0.2.1": [*SECOND, *QUIET]})
    (tmp_path / "inventory.yaml").write_text(INVENTORY.partition("balancer:")[0])
    assert [used.client for used in usage(balancers.request, 0).rows] == ["bob"]
    with pytest.raises(UsageError):
        usage(balancers.request, 0, ["host"])


def test_an_answer_with_an_exit_code_is_a_failure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    balancers = Balancers(tmp_path, {"192.0.2.5": []})
    balancers.hosts["192.0.2.5"].answers["usage by the access log"] = Answer(124, b"", b"out of time")
    out, _ = balancers.type(capsys, "-l", "lb-01", code=3)
    assert "the access log cannot be read" in out
    assert "out of time" in out
