"""Two hundred hosts, played by a single one."""

import copy
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from provision.lab import keys, paths
from provision.lab.lab import Lab
from tests.bench.fleet import Fleet

_MARK = re.compile(rb"provision-[0-9a-f]{32}")
_ANSWERS = "/usr/local/lib/bench-many"
_HANGS = "/run/bench-hangs"
# the real host's name in the inventory: as long as its doubles' names, which stand in answers of known size
NAME = "gpu-000"


class Crowd:
    """Hosts at 127.0.0.1 and following of one host of the lab, in that host's network namespace.

    Args:
        fleet: the lab, deployed.
        recorded: the execs of our no-op read, with their answers.
    """

    def __init__(self, fleet: Fleet, recorded: Sequence[Mapping[str, bytes]]) -> None:
        self._fleet = fleet
        self._host = fleet.lab.hosts()[0]
        for number, exchange in enumerate(recorded):
            self._keep(f"{_ANSWERS}/{number}", exchange)
        self._host_key = keys.known_host(self._host.key, [""]).lstrip()
        self._key = fleet.forced("many-key", Path(__file__).with_name("answer.sh").read_text())

    def _keep(self, folder: str, exchange: Mapping[str, bytes]) -> None:
        found = _MARK.search(exchange["stdin"])
        mark = found.group() if found else b"-"
        texts = {**exchange, "stdin": exchange["stdin"].replace(mark, b"")}
        for name, content in texts.items():
            template = content.replace(mark, b"@MARK@").replace(NAME.encode(), b"@NAME@")
            self._host.write(f"{folder}/{name}", template.decode())

    def hang(self, *, on: bool) -> None:
        """Make every host take an hour for its answer, or answer at once again."""
        self._host.run(["touch", _HANGS] if on else ["sh", "-c", f"rm -f {_HANGS}; pkill -x sleep || :"])

    def inventory(self, count: int) -> Path:
        """Write an inventory of `count` hosts, and their known_hosts."""
        names = {f"gpu-{number:03}": f"127.0.0.{number}" for number in range(1, count + 1)}
        known_hosts = self._fleet.folder / f"known_hosts-{count}"
        known_hosts.write_text("".join(f"{address} {self._host_key}" for address in names.values()))
        document = copy.deepcopy(self._fleet.document)
        gpu = document["all"]["children"]["gpu"]
        gpu["hosts"] = {name: {**gpu["hosts"][NAME], "ansible_host": address} for name, address in names.items()}
        document["all"]["vars"] |= {
            "ansible_ssh_private_key_file": str(self._key),
            "ansible_ssh_common_args": f"-o UserKnownHostsFile={known_hosts}",
        }
        return self._fleet.write(f"crowd-{count}", document)

    def provision(self, count: int, *words: str) -> list[str]:
        """The words of a command of ours on `count` hosts."""
        return [
            *_inside(self._fleet.lab, self._host.name),
            *self._fleet.provision(*words, inventory=self.inventory(count)),
        ]


def _inside(lab: Lab, host: str) -> list[str]:
    """Words that run a program in the network namespace of a host, without any other change."""
    return ["nsenter", f"--net={paths.NETNS / lab.network.host_netns(host)}", "--"]
