"""Every command of every runbook, run in the order of its page; the page's actions by hand are functions here."""

import copy
import hashlib
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from provision.lab import faults, models, paths
from tests import nginx_series

from .conftest import Fleet, serves_again

pytestmark = pytest.mark.lab
FOLDER = Path(__file__).parents[2] / "docs/runbooks"
# These pages have tests of their own: test_loadtest, test_proxy, test_mirrors, test_vip_runbooks. `size-a-model` needs
# no host, and has tests/unit/test_fit.py.
OTHERS = {"load-test", "behind-a-proxy", "behind-mirrors", "size-a-model"}
OTHERS |= {"second-balancer", "planned-switch", "balancer-died", "split-brain"}
PAGES = sorted(path.stem for path in FOLDER.glob("*.md") if path.stem not in OTHERS)
OFTEN = "first-hour"  # the page of every run
CARDS = "/etc/provision-lab/gpus.json"


class Operator:
    """A person with a page, a terminal and hands.

    Args:
        fleet: the fleet.
        folder: working directory, with `prod.yaml`.
    """

    def __init__(self, fleet: Fleet, folder: Path) -> None:
        self.fleet = fleet
        self.folder = folder
        self.run = "no-run-yet"
        self.keys: list[str] = []  # of clients, in the order of the commands that printed them
        self.declared = copy.deepcopy(fleet.data)

    @property
    def environment(self) -> dict[str, str]:
        return {**self.fleet.environment, "XDG_STATE_HOME": str(self.folder / "state")}

    def command(self, line: str) -> subprocess.CompletedProcess:
        """Type one line of the page; the exit code must be the page's."""
        line_typed, _, code = line.partition("# exit ")
        words = [self.run if word == "RUN" else word for word in shlex.split(line_typed)]
        assert words[0] == "provision", line
        self.fleet.command("plan")  # writes the present inventory
        (self.folder / "prod.yaml").write_text((self.fleet.folder / "inventory.yaml").read_text())
        argv = [sys.executable, "-m", *words]
        said = subprocess.run(
            argv, capture_output=True, text=True, check=False, cwd=self.folder, timeout=900, env=self.environment
        )
        assert said.returncode == int(code or 0), (line, said.stdout[-4000:], said.stderr[-4000:])
        self.keys += re.findall(r"^sk-prov-\w+$", said.stdout, re.MULTILINE)
        return said

    def fault(self, target: str, name: str, *, on: bool) -> None:
        faults.switch(self.fleet.lab, target, name, on=on)

    def deploy(self, code: int) -> None:
        done = self.fleet.provision("deploy", "--yes", "--json", env=self.environment)
        assert done.code == code, done
        self.run = done.doc["run"]


def instance_stops(operator: Operator) -> None:
    operator.fleet.on("gpu-01", "docker", "stop", "ollama1")


def another_image(operator: Operator) -> None:
    operator.fleet.vars["ollama"]["image"] = "ollama/ollama:0.33.0"


def reboot(operator: Operator) -> None:
    host = operator.fleet.lab.host("gpu-02")
    host.shutdown()
    host.start()
    host.wait()
    serves_again(operator.fleet, "gpu-02")


def into_the_inventory(operator: Operator) -> None:
    """gpu-02 was never there: the balancer has not heard of the host, and nothing is on it."""
    del operator.fleet.hosts("gpu")["gpu-02"]
    operator.fleet.deploy()
    operator.fleet.lab.restore("gpu-02")
    operator.fleet.data = copy.deepcopy(operator.declared)


def card_fails(operator: Operator) -> None:
    operator.fault("gpu-01/ollama2", "cpu", on=True)


def unsaid(operator: Operator) -> None:
    operator.fault("gpu-01/ollama1", "cpu-unsaid", on=True)
    body = '{"model": "deepseek-r1:1.5b", "keep_alive": %s}'
    for keep_alive in ("0", "-1"):
        text = f"curl -sf -o /dev/null -d '{body % keep_alive}' http://$(docker port ollama1 11434)/api/generate"
        operator.fleet.lab.host("gpu-01").run(["sh", "-euc", text])


def found_again(operator: Operator) -> None:
    operator.fault("gpu-01/ollama1", "cpu-unsaid", on=False)


def another_card(operator: Operator) -> None:
    operator.fault("gpu-01/ollama2", "cpu", on=False)
    host = operator.fleet.lab.host("gpu-01")
    text = host.run(["cat", CARDS]).stdout
    last = re.findall(r'"uuid": "(\S+)"', text)[-1]
    host.write(CARDS, text.replace(last, last[:-12] + "0123456789ab"))


def memory(operator: Operator, size: str) -> None:
    """Another limit for an instance of every host, so that the deploy replaces the instance."""
    for host in operator.fleet.hosts("gpu").values():
        host["ollama"]["instances"][0]["memory"] = size


def deploy_fails(operator: Operator) -> None:
    operator.fault("gpu-02", "driver-broken", on=True)
    memory(operator, "4g")
    operator.deploy(3)


def too_little_memory(operator: Operator) -> None:
    """The server of one instance is killed at its start, and the roll is halted."""
    operator.fleet.hosts("gpu")["gpu-01"]["ollama"]["instances"][0]["memory"] = "6m"
    operator.deploy(7)


def enough_memory(operator: Operator) -> None:
    operator.fleet.hosts("gpu")["gpu-01"]["ollama"]["instances"][0]["memory"] = "4g"


def mended(operator: Operator) -> None:
    operator.fault("gpu-02", "driver-broken", on=False)


def damaged(operator: Operator) -> None:
    """Other bytes of the same size in the middle of the largest blob."""
    script = (
        "cd /var/lib/docker/volumes/ollama1/_data/models/blobs; blob=$(ls -S | head -n 1); size=$(stat -c %s $blob);"
        " printf nonsense | dd of=$blob bs=1 seek=$((size / 2)) conv=notrunc status=none"
    )
    operator.fleet.on("gpu-01", "sh", "-euc", script)


def killed(operator: Operator) -> None:
    """The run dies at its first change."""
    memory(operator, "5g")
    words = operator.fleet.command("deploy", "--yes", "--verbose")
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True, env=operator.environment) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if "container:ollama1" in line:
                process.kill()
                break
    operator.run = max(path.stem for path in (operator.folder / "state/provision/runs").glob("*.running"))


def no_good_idea(operator: Operator) -> None:
    memory(operator, "6g")
    operator.fleet.vars["balancer"] = {"max_fails": 5}
    operator.deploy(0)


def patched(operator: Operator) -> None:
    """A series of the tests' own, from the site."""
    site, settings = paths.site(operator.fleet.lab.spec.release), operator.fleet.vars["nginx"]
    settings["patches"] = [nginx_series.entry(site, settings["url"], nginx_series.SERIES)]


def as_its_owner_left_it(operator: Operator) -> None:
    """A native server and a snap of Docker on gpu-02, by the files that tell of both; a registry of the site's own."""
    registry = f"{operator.fleet.lab.network.site}:{models.PORT}"
    operator.fleet.vars.update(mirrors={"model_registry": registry}, models={"insecure": True})
    unit = "[Service]\nExecStart=/bin/sleep infinity\n[Install]\nWantedBy=multi-user.target\n"
    script = "mkdir -p /var/snap/docker; systemctl daemon-reload; systemctl enable --now ollama.service"
    host = operator.fleet.lab.host("gpu-02")
    host.write("/etc/systemd/system/ollama.service", unit)
    host.run(["sh", "-euc", script])


def cured(operator: Operator) -> None:
    """The command that doctor prints for the native server; snap is no program of the lab, so its folder goes."""
    done = operator.fleet.provision("doctor", "--json", "--limit", "gpu-02")
    cures = {check["check"]: check["cure"] for check in done.host("gpu-02")["checks"] if check["verdict"] == "fail"}
    assert cures["docker kinds"] == "snap remove docker", done
    operator.fleet.on("gpu-02", "sh", "-euc", cures["native server"])
    operator.fleet.on("gpu-02", "rm", "-r", "/var/snap/docker")


NATIVE, FOLDERS = "/usr/share/ollama/.ollama/models", "/srv/models"
# $1 instance, $2 folder of the native server's models, $3 folder of the instance.
SAME = """
curl -sf "http://$(docker port "$1" 11434)/api/tags" | grep -q '"deepseek-r1:1.5b"'
docker inspect "$1" --format '{{range .Mounts}}{{.Source}}{{end}}' | grep -qx "$3"
ls "$2/blobs" | grep -q sha256
for blob in "$2"/blobs/sha256-*; do test "$blob" -ef "$3/models/blobs/${blob##*/}"; done
"""


def models_of_its_own(operator: Operator) -> None:
    """A native server of gpu-02 has the model of the instances, and the instances keep their models in a folder."""
    script = f"mkdir -p {NATIVE}; cp -a /var/lib/docker/volumes/ollama1/_data/models/. {NATIVE}/"
    operator.fleet.on("gpu-02", "sh", "-euc", script)
    operator.fleet.hosts("gpu")["gpu-02"]["ollama"]["storage"] = FOLDERS


def _copies(operator: Operator) -> list[str]:
    """The commands by which doctor gives the models of a native server to the instances."""
    done = operator.fleet.provision("doctor", "--json", "--limit", "gpu-02")
    return [check["cure"] for check in done.host("gpu-02")["checks"] if "without a download" in check["says"]]


def copied(operator: Operator) -> None:
    """The command that doctor prints. From now on the registry sends no bytes of a model."""
    (copy_models,) = _copies(operator)
    operator.fleet.on("gpu-02", "sh", "-euc", copy_models)
    faults.switch(operator.fleet.lab, "site", "models-blob", on=True, value="500")


def nothing_came(operator: Operator) -> None:
    """Each instance serves the model from the bytes of the native server: a hard link is the same file."""
    faults.switch(operator.fleet.lab, "site", "models-blob", on=False)
    assert _copies(operator) == []
    for instance in ("ollama1", "ollama2"):
        operator.fleet.on("gpu-02", "sh", "-euc", SAME, "sh", instance, NATIVE, f"{FOLDERS}/{instance}")


def another_model(operator: Operator) -> None:
    operator.fleet.hosts("gpu")["gpu-02"]["ollama"]["models"] = ["llama3.1:8b"]


def _traffic(operator: Operator, old: int) -> None:
    model = operator.fleet.vars["ollama"]["models"][0]
    operator.fleet.vars["ollama"]["traffic"] = {model: {model: old, "llama3.1:8b": 100 - old}}


def a_tenth(operator: Operator) -> None:
    _traffic(operator, 90)


def half(operator: Operator) -> None:
    _traffic(operator, 50)


def one_version(operator: Operator) -> None:
    del operator.fleet.vars["ollama"]["traffic"]
    one_model(operator)


def one_model(operator: Operator) -> None:
    del operator.fleet.hosts("gpu")["gpu-02"]["ollama"]["models"]


def as_it_was(operator: Operator) -> None:
    operator.fleet.data = copy.deepcopy(operator.declared)


def _held(operator: Operator, seconds: int) -> None:
    """Somebody else's run has the lock of gpu-01, where there is something to do."""
    text = (
        "chmod 0644 /opt/provision/lib/docker-notes; umask 077; mkdir -p /run/provision; "
        'now=$(cut -d. -f1 /proc/uptime); echo "20990101T000000Z-b0b0 $((now + $1)) $now bob@desk" >/run/provision/lock'
    )
    operator.fleet.lab.host("gpu-01").run(["sh", "-euc", text, "sh", str(seconds)])


def soon_over(operator: Operator) -> None:
    _held(operator, 12)


def dead_for_sure(operator: Operator) -> None:
    _held(operator, 1000)


def sites(operator: Operator) -> None:
    operator.fleet.vars["balancer"] = {"router": "njs"}
    gpu, (balancer,) = operator.fleet.hosts("gpu"), operator.fleet.hosts("balancer").values()
    gpu["gpu-01"]["ollama"]["site"], gpu["gpu-02"]["ollama"]["site"] = "east", "west"
    balancer["balancer"] = {**balancer.get("balancer", {}), "site": "east"}


def from_west(operator: Operator) -> None:
    """The header of an answer names the other site."""
    url = f"http://{operator.fleet.address('lb-01')}:3008/api/generate"
    body = '{"model":"deepseek-r1:1.5b","prompt":"1","stream":false}'
    said = operator.fleet.on("gpu-01", "curl", "-s", "-o", "/dev/null", "-D", "-", "-d", body, url)
    assert re.search(r"^X-Site: west\r?$", said, re.MULTILINE), said


def with_tls(operator: Operator) -> None:
    operator.fleet.vars["balancer"] = {"tls": {"authority": "ca", "names": ["llm.example"]}}


def clients_in_the_inventory(operator: Operator) -> None:
    file = str(operator.folder / "clients.json")
    operator.fleet.vars["balancer"] = {"router": "njs", "clients": file}


# $1 address of a balancer; then keys. Prints the status of a request with each key.
STATUSES = """
url=http://$1:3008/v1/chat/completions; shift
for key do
  curl -s -o /dev/null -w '%{http_code}\\n' -H "Authorization: Bearer $key" "$url" \
    -d '{"model":"deepseek-r1:1.5b","messages":[{"role":"user","content":"1"}]}'
done
"""


def _statuses(operator: Operator, *keys: str) -> list[int]:
    """The statuses of requests with keys."""
    said = operator.fleet.on("gpu-01", "sh", "-euc", STATUSES, "sh", operator.fleet.lab.host("lb-01").address, *keys)
    return [int(word) for word in said.split()]


def keys_work(operator: Operator) -> None:
    alice, bob = operator.keys
    assert _statuses(operator, alice, bob, "sk-prov-nobody") == [200, 200, 401]


def both_keys_work(operator: Operator) -> None:
    old, _, new = operator.keys
    assert _statuses(operator, old, new) == [200, 200]


def one_client_is_refused(operator: Operator) -> None:
    old, bob, new = operator.keys
    assert _statuses(operator, old, bob, new) == [200, 401, 200]


def accounts(operator: Operator) -> None:
    """The requests of the hands above: five of alice with two keys, one of bob, and one with bob's revoked key."""
    done = operator.fleet.provision("usage", "--json", "--by", "client,key")
    ids = [hashlib.sha256(key.encode()).hexdigest()[:8] for key in operator.keys]
    rows = {(row["client"], row["key"]): row for row in done.doc["rows"]}
    old, bob, new = (rows[name, id_] for name, id_ in zip(("alice", "bob", "alice"), ids, strict=True))
    assert [row["requests"] for row in (old, bob, new)] == [3, 1, 2], done
    assert all(row["tokens_in"] and row["tokens_out"] and row["seconds"] for row in (old, bob, new)), done
    refused = {name: {why["reason"]: why["requests"] for why in row["refused"]} for name, row in rows.items()}
    assert (refused["", ids[1]], refused["", ""]) == ({"revoked key": 1}, {"unknown key": 1}), done


HANDS: dict[str, Callable[[Operator], None]] = {
    "an instance stops": instance_stops,
    "another image": another_image,
    "the work on gpu-02, and a reboot": reboot,
    "gpu-02 into the inventory": into_the_inventory,
    "a card of gpu-01 fails": card_fails,
    "another card in gpu-01": another_card,
    "an instance of gpu-01 falls to the CPU and reports its card": unsaid,
    "the server finds its card again": found_again,
    "a deploy that fails on gpu-02": deploy_fails,
    "the fault is mended": mended,
    "a deploy that gives an instance too little memory": too_little_memory,
    "enough memory again": enough_memory,
    "a deploy whose controller is killed": killed,
    "damage in the middle of a blob of gpu-01": damaged,
    "a deploy that was no good idea": no_good_idea,
    "gpu-02 as its owner left the host": as_its_owner_left_it,
    "the cures of doctor on gpu-02": cured,
    "models of a native server on gpu-02, and ollama.storage for the host": models_of_its_own,
    "the copy that doctor names": copied,
    "each instance has the model, and no byte came": nothing_came,
    "another model on gpu-02 in the inventory": another_model,
    "one model in the inventory again": one_model,
    "a tenth of the requests for the new version": a_tenth,
    "half of the requests for the new version": half,
    "one version in the inventory again": one_version,
    "the inventory as it was": as_it_was,
    "TLS in the inventory": with_tls,
    "the sites into the inventory": sites,
    "answers come from west": from_west,
    "no sites in the inventory": as_it_was,
    "patches of nginx in the inventory": patched,
    "clients.json in the inventory": clients_in_the_inventory,
    "alice and bob send a request with their keys, and somebody without a key": keys_work,
    "both keys of alice work": both_keys_work,
    "the key of bob is refused, and the keys of alice work": one_client_is_refused,
    "the accounts have the requests of alice and bob": accounts,
    "somebody's run on gpu-01, which will soon be over": soon_over,
    "somebody's run on gpu-01, which is dead for sure": dead_for_sure,
}


def items(page: str) -> Iterator[tuple[str, str]]:
    """The actions of a page, in order: `hand` and its name, or `type` and a line."""
    text = (FOLDER / f"{page}.md").read_text()
    for hand, block in re.findall(r"<!-- by hand: (.*?) -->|```sh\n(.*?)```", text, re.DOTALL):
        if hand:
            yield "hand", hand
        yield from (("type", line) for line in block.splitlines() if line.strip())


@pytest.mark.parametrize(
    "page", [pytest.param(page, marks=[] if page == OFTEN else [pytest.mark.matrix]) for page in PAGES]
)
def test_every_command_of_a_runbook(scratch, tmp_path, page):
    operator = Operator(scratch, tmp_path)
    typed = 0
    for kind, what in items(page):
        if kind == "hand":
            HANDS[what](operator)
        else:
            operator.command(what)
            typed += 1
    assert typed >= 3


def test_no_hand_is_left_over():
    named = {what for page in PAGES for kind, what in items(page) if kind == "hand"}
    assert named == set(HANDS)
