"""A program with a password on a lab host, and a fleet whose inventory knows the password by a variable.

For the tests of the sections `proxy`, `mirrors` and `docker.registries`. The programs are beside this file.
"""

from collections.abc import Callable, Mapping
from pathlib import Path

from .conftest import Done, Fleet, wait_for
from .test_runbooks import Operator, items

HOST, ON = "gpu-02", "lb-01"
"""The host that asks, and the host with the program."""
CANARY = "zq7canary"
LIMIT = ("--limit", HOST)


class Guarded:
    """A program on a host, and everything that commands of ours said meanwhile.

    Args:
        fleet: the fleet.
        program: name of a file beside this one; has the arguments port, folder and `words`.
        port: the port of the program.
        login: user and password, with a colon between.
        words: further arguments.
    """

    environment: Mapping[str, str] = {}

    def __init__(self, fleet: Fleet, program: str, port: int, login: str, *words: str) -> None:
        self.fleet, self.unit, self.port, self.words = fleet, program.replace("_", "-"), port, words
        self.program, self.folder = f"/root/{program}.py", f"/run/{self.unit}"
        self.endpoint = f"{fleet.address(ON)}:{port}"
        self.said: list[str] = []
        fleet.lab.host(ON).write(self.program, Path(__file__).with_name(f"{program}.py").read_text())
        fleet.on(ON, "mkdir", "-p", self.folder)
        self.login(login)
        self.start()

    def start(self) -> None:
        words = ["systemd-run", "--collect", f"--unit={self.unit}", "python3", self.program]
        self.fleet.on(ON, *words, str(self.port), self.folder, *self.words)
        wait_for(lambda: f":{self.port} " in self.fleet.on(ON, "ss", "-Hltn"))

    def stop(self) -> None:
        self.fleet.lab.host(ON).run(["systemctl", "stop", f"{self.unit}.service"], check=False)

    def login(self, login: str) -> None:
        """Have the program want another login."""
        self.fleet.lab.host(ON).write(f"{self.folder}/login", login)

    def page(self, *, on: bool) -> None:
        """Have the program send a web page in place of every answer."""
        file = f"{self.folder}/page"
        self.fleet.on(ON, "sh", "-c", f"echo '<html>log in here</html>' >{file}" if on else f"rm {file}")

    def log(self) -> str:
        return self.fleet.on(ON, "cat", f"{self.folder}/log")

    def run(self, *words: str, code: int = 0) -> Done:
        """Run a command of ours, which must end with a code."""
        done = self.fleet.provision(*words, env=dict(self.environment))
        self.said.append(done.out + done.err)
        assert done.code == code, done
        return done

    def fetch_again(self, key: str) -> None:
        """Have the next deploy fetch a key and a package of NVIDIA's."""
        script = f"rm {key}; dpkg --remove --force-depends libnvidia-container-tools; apt-get clean"
        self.fleet.on(HOST, "sh", "-euc", script)

    def read(self, page: str, folder: Path, hands: Mapping[str, Callable[[Mapping[str, str]], None]]) -> None:
        """Type every command of a runbook.

        Args:
            page: name of the page.
            folder: working directory.
            hands: action by hand -> a function of what the commands said until then, by command.
        """
        reader = Reader(self.fleet, folder)
        reader.variables = self.environment
        typed: dict[str, str] = {}
        for kind, what in items(page):
            if kind == "hand":
                hands[what](typed)
                continue
            done = reader.command(what)
            typed[what] = done.stdout + done.stderr
            self.said.append(typed[what])

    def told_nobody(self, *words: str) -> None:
        """No word is in what our commands said, or in the journal of either host."""
        texts = [*self.said, *(self.fleet.on(host, "journalctl", "--no-pager") for host in (HOST, ON))]
        for word in (CANARY, *words):
            assert not [text for text in texts if word in text]


class Reader(Operator):
    """An operator with a page, and variables of the environment."""

    variables: Mapping[str, str]

    @property
    def environment(self) -> dict[str, str]:
        return {**super().environment, **self.variables}
