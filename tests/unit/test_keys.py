"""`provision keys`: a key is on standard output alone, once; the file has its hash; what each command says."""

import dataclasses
import hashlib
import json
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from provision import actions, cli, testing
from provision.actions import keys
from provision.cli.caller import Caller
from provision.command import Put, describe
from provision.errors import UsageError
from provision.inventory import Inventory, client_file
from provision.inventory.client_file import Limits
from provision.plan import planner, role_interface
from provision.plan.planner import HostPlan
from provision.report import plan as report_plan
from provision.rollout.outcome import Outcome
from provision.runs.journal import Journal
from provision.runs.log import default_folder

from .test_hostile import FACTS
from .test_json_documents import checked
from .test_secrets import told

NOW = 1_796_083_200  # 2026-12-01 00:00 UTC
FILE = "clients.json"


class Terminal:
    """A command line at a time of the test's own."""

    def __init__(self, folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
        self.folder, self.capfd, self.now = folder, capfd, NOW
        self.out = self.err = ""

    def type(self, *words: str, code: int = 0) -> str:
        """Type a command, and return standard output."""
        setup = dataclasses.replace(testing.setup(self.folder), clock=lambda: float(self.now))
        line = ["keys", *words, "--clients", str(self.folder / FILE)]
        assert cli.execute(line, Caller(setup)) == code, self.capfd.readouterr()
        self.out, self.err = self.capfd.readouterr()
        return self.out

    def key(self, *words: str) -> str:
        """Type a command that makes a key, and return the key."""
        (line,) = self.type(*words).splitlines()
        return line

    def document(self, *words: str) -> Any:
        return checked(self.type(*words, "--json"))

    @property
    def file(self) -> str:
        return (self.folder / FILE).read_text()


@pytest.fixture
def terminal(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Terminal:
    return Terminal(tmp_path, capfd)


def hashed(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


def test_the_key_is_on_standard_output_alone_and_nowhere_else(terminal: Terminal) -> None:
    made = [terminal.key("add", "alice")]
    said = [terminal.err]
    made.append(terminal.key("rotate", "alice"))
    said.append(terminal.err)
    for words, code in ((["list"], 0), (["list", "--json"], 0), (["revoke", "alice"], 0), (["revoke", "alice"], 2)):
        terminal.type(*words, code=code)
        said.extend((terminal.out, terminal.err))
    assert all(key.startswith("sk-prov-") for key in made)
    assert not [key for key in made for text in (*said, terminal.file) if key in text]
    assert not [key for key in made for text in said if hashed(key) in text], "no hash is shown in full"
    assert [hashed(key) in terminal.file for key in made] == [True, True]
    assert not default_folder().exists(), "a command without hosts is no run and has no log"
    assert [path.name for path in terminal.folder.iterdir()] == [FILE]


def test_a_new_key_says_what_to_do_next(terminal: Terminal) -> None:
    key = terminal.key("add", "alice", "-i", "our prod.yaml", "--expires", "90d")
    assert f"key {hashed(key)[:8]} of alice, expires 2027-03-01 00:00 UTC" in terminal.err
    assert "after: provision deploy -i 'our prod.yaml'" in terminal.err
    terminal.type("revoke", "alice", "-i", "our prod.yaml")
    assert "refuse revoked keys after: provision deploy -i 'our prod.yaml'" in terminal.out


def test_a_client_has_the_limits_of_its_options(terminal: Terminal) -> None:
    limits = ["--concurrency", "4", "--rate", "60", "--tokens-per-day", "1000"]
    terminal.key("add", "alice", "--models", "DeepSeek-R1:32B, tiny", "--models", "tiny:latest", *limits)
    terminal.key("add", "bob")
    clients = client_file.load(terminal.folder / FILE).clients
    assert clients["alice"] == Limits(("deepseek-r1:32b", "tiny:latest"), 4, 60, 1000)
    assert clients["bob"] == Limits()
    shown = terminal.type("list")
    assert "alice  models deepseek-r1:32b, tiny:latest; 4 at once; 60 a minute; 1000 tokens a day" in shown
    assert "bob  all models" in shown


def test_both_keys_are_valid_for_a_while_after_a_rotation(terminal: Terminal) -> None:
    old = hashed(terminal.key("add", "alice"))[:8]
    new = hashed(terminal.key("rotate", "alice", "--overlap", "7d"))[:8]
    assert f"old key {old} stays valid until 2026-12-08 00:00 UTC" in terminal.err

    def states() -> dict[str, str]:
        (client,) = terminal.document("list")["clients"]
        return {key["id"]: key["state"] for key in client["keys"]}

    assert states() == {new: "valid", old: "old"}
    assert f"{old}  made 2026-12-01 00:00 UTC  old, valid until 2026-12-08 00:00 UTC" in terminal.type("list")
    terminal.now += 7 * 86400
    assert states() == {new: "valid", old: "expired"}
    terminal.type("revoke", new)
    assert states() == {new: "revoked", old: "expired"}
    assert f"{new}  made 2026-12-01 00:00 UTC  revoked 2026-12-08 00:00 UTC" in terminal.type("list")


def test_one_key_is_revoked_by_its_id_and_the_rest_stay(terminal: Terminal) -> None:
    old = hashed(terminal.key("add", "alice"))[:8]
    new = hashed(terminal.key("rotate", "alice"))[:8]
    found = terminal.document("revoke", old)
    assert (found["revoked"], found["left"]) == ([{"client": "alice", "id": old}], [{"client": "alice", "id": new}])
    terminal.key("add", "bob")
    assert f"key {new} of alice is revoked" in terminal.type("revoke", "alice")
    assert [key["state"] for client in terminal.document("list")["clients"] for key in client["keys"]] == [
        *("revoked", "revoked"),
        "valid",
    ]


def test_the_documents_of_new_keys(terminal: Terminal) -> None:
    first = terminal.document("add", "alice", "--expires", "2027-06-30")
    assert (first["expires"], first["old"]) == ("2027-06-30T00:00:00Z", [])
    second = terminal.document("rotate", "alice", "--overlap", "1h")
    assert (second["expires"], second["old"]) == (None, [{"id": first["id"], "expires": "2026-12-01T01:00:00Z"}])
    assert (second["client"], second["id"], second["key"]) == ("alice", hashed(second["key"])[:8], second["key"])
    assert (second["file"], second["next"]) == (
        str(terminal.folder / FILE),
        "provision deploy -i inventory.yaml",
    )


@pytest.mark.parametrize("command", ["add", "rotate", "revoke"])
def test_a_key_in_place_of_a_name_is_refused_and_not_repeated(terminal: Terminal, command: str) -> None:
    key = terminal.key("add", "alice")
    terminal.type(command, key, code=2)
    assert key[8:] not in terminal.out + terminal.err
    assert "no longer secret" in terminal.err
    assert "revoke this key by its id" in terminal.err
    assert key not in terminal.file


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["rotate", "nobody"], "there is no client or key 'nobody'"),
        (["add", "alice"], "`provision keys rotate alice` makes a new key"),
        (["add", "Bob"], "a name has a lower-case letter"),
        (["add", "b\x1b[2Jb"], "a name has a lower-case letter"),
        (["add", "bob", "--expires", "tomorrow"], "--expires must be a duration"),
        (["add", "bob", "--expires", "2027-13-01"], "--expires must be a moment"),
        (["add", "bob", "--expires", "2026-11-30"], "expire before its first use"),
        (["add", "bob", "--expires", "99999d"], "at most 3650 days"),
        (["rotate", "alice", "--overlap", "-1"], "--overlap must be a duration"),
        (["add", "bob", "--concurrency", "-1"], "concurrency must be a number from 0"),
        (["add", "bob", "--rate", "9999999"], "rate must be a number from 0 to 1000000"),
        (["add", "bob", "--models", "a b"], "models must be a list of canonical names"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_values_are_refused_and_change_nothing(terminal: Terminal, words: list[str], says: str) -> None:
    terminal.key("add", "alice")
    before = terminal.file
    terminal.type(*words, code=2)
    assert says in " ".join(terminal.err.split())
    assert "\x1b" not in terminal.err
    assert terminal.file == before


def test_no_client_may_use_no_model_by_mistake(terminal: Terminal) -> None:
    """An empty value of --models is no right to all models."""
    terminal.key("add", "alice", "--models", "")
    assert client_file.load(terminal.folder / FILE).clients["alice"].models == ()
    assert "alice  no model" in terminal.type("list")


def test_an_empty_file_lists_no_client(terminal: Terminal) -> None:
    assert "`provision keys add NAME` adds a client" in terminal.type("list")
    assert terminal.document("list")["clients"] == []


def test_a_file_that_others_can_read_is_refused(terminal: Terminal) -> None:
    terminal.key("add", "alice")
    (terminal.folder / FILE).chmod(0o644)
    terminal.type("add", "bob", code=2)
    assert f"type chmod 600 {terminal.folder / FILE}" in terminal.err


def test_the_library_returns_a_key_that_does_not_show_itself(tmp_path: Path) -> None:
    request = actions.Request("inventory.yaml")
    made = keys.add(request, "alice", file=str(tmp_path / FILE))
    assert made.key.reveal() not in f"{made} {made!r}"
    assert hashed(made.key.reveal()) not in repr(made)
    with pytest.raises(UsageError, match="cannot be opened"):
        keys.add(request, "bob", file=str(tmp_path / "no folder" / FILE))


def test_two_commands_at_once_lose_no_client(tmp_path: Path) -> None:
    request = actions.Request("inventory.yaml")
    names = [f"client-{number}" for number in range(12)]
    threads = [
        threading.Thread(target=keys.add, args=(request, name), kwargs={"file": str(tmp_path / FILE)}) for name in names
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(json.loads((tmp_path / FILE).read_text())["clients"]) == set(names)


def test_a_link_to_the_file_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "link.json").symlink_to(tmp_path / "elsewhere" / FILE)
    keys.add(actions.Request("inventory.yaml"), "alice", file=str(tmp_path / "link.json"))
    assert (tmp_path / "link.json").is_symlink()
    assert "alice" in (tmp_path / "elsewhere" / FILE).read_text()


def test_a_shell_variable_takes_the_key(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "provision", "keys", "add", "alice", "--clients", str(tmp_path / FILE)]
    done = subprocess.run(words, capture_output=True, text=True, check=True, timeout=60)
    assert hashed(done.stdout.removesuffix("\n")) in (tmp_path / FILE).read_text()


INVENTORY = """
all: {vars: {nginx: {accept_known_vulnerabilities: true}, balancer: {router: njs, clients: secrets/clients.json}}}
gpu: {hosts: {gpu-01: {ansible_host: 192.0.2.1, ollama: {models: [tiny], instances: [{gpus: [0]}]}}}}
balancer: {hosts: {lb-01: {ansible_host: 192.0.2.5}, lb-02: {ansible_host: 192.0.2.6BALANCER}}}
"""


def of_inventory(folder: Path, *words: str, balancer: str = "", text: str = INVENTORY) -> int:
    """Type a command with an inventory that names the file of clients."""
    (folder / "secrets").mkdir(exist_ok=True)
    (folder / "prod.yaml").write_text(text.replace("BALANCER", balancer))
    return cli.execute(["keys", *words, "-i", str(folder / "prod.yaml")])


def test_the_inventory_names_the_file_beside_itself(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert of_inventory(tmp_path, "add", "alice", "--models", "Tiny,other") == 0
    said = capsys.readouterr()
    assert hashed(said.out.strip()) in (tmp_path / "secrets" / FILE).read_text()
    assert "no instance of the inventory serves other:latest" in said.err
    assert "serves tiny" not in said.err
    assert of_inventory(tmp_path, "list") == 0
    assert "alice  models tiny:latest, other:latest" in capsys.readouterr().out


def test_an_inventory_without_a_file_or_with_two_files_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert of_inventory(tmp_path, "list", balancer=", balancer: {clients: other.json}") == 2
    assert "different files of clients: secrets/clients.json, other.json" in capsys.readouterr().err
    without = INVENTORY.replace(", clients: secrets/clients.json", "")
    assert of_inventory(tmp_path, "add", "alice", text=without) == 2
    assert "write `balancer: {router: njs, clients: clients.json}`" in capsys.readouterr().err


def test_a_wrong_file_is_a_problem_of_the_inventory(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / FILE).write_text("{}")
    (tmp_path / "secrets" / FILE).chmod(0o600)
    assert of_inventory(tmp_path, "add", "alice") == 2
    assert "must be an object with `clients` and `keys`" in capsys.readouterr().err


def test_no_plan_no_journal_and_no_word_of_a_command_shows_a_key_or_its_hash(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The balancer needs the hash, so one file for root alone has the hash."""
    assert of_inventory(tmp_path, "add", "alice") == 0
    key = capsys.readouterr().out.strip()
    inventory = role_interface.load(str(tmp_path / "prod.yaml"))
    balancer = next(host for host in inventory.hosts if host.name == "lb-01")
    shown, held = [], []
    for entry in role_interface.steps(balancer, inventory):
        want = entry.step.want(FACTS, None)
        change = planner.make_change(entry, None, want)
        outcome = Outcome("lb-01", HostPlan((change,), 1))
        report_plan.text([outcome], Inventory(path="", hosts=()), report_plan.Detail(steps=True))
        noted = Journal("run", "deploy").before(change)
        shown += [*capsys.readouterr(), repr(change), str(noted), told(noted.stdin)]
        shown.append(json.dumps(report_plan.document([outcome]), default=str))
        for command in entry.step.commands(None, want):
            shown.append(describe(command))
            if isinstance(command, Put) and hashed(key).encode() in command.content:
                held.append((command.path.rpartition("/")[2], command.mode, command.owner))
    assert key not in "".join(shown)
    assert hashed(key) not in "".join(shown)
    assert held == [("gateway_clients.json", 0o600, "root:root")]


def test_a_client_may_have_a_pool(terminal: Terminal) -> None:
    terminal.key("add", "line", "--pool", "research")
    assert [client["pool"] for client in terminal.document("list")["clients"]] == ["research"]
    assert "pool research" in terminal.type("list")
    terminal.type("add", "other", "--pool", "No Name", code=2)
    assert "pool must be a name" in terminal.err
