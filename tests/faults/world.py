"""The deployed fleet, and the actions of tests on the fleet."""

import contextlib
import re
import subprocess
import threading
from pathlib import Path

from provision.lab import faults
from provision.lab.lab import Lab
from tests.faults.mirror import How, Mirror
from tests.faults.watch import ask
from tests.fleet import DEPLOYED, Done, Fleet, settle, wait_for

GOOD, BAD, BALANCER = "gpu-01", "gpu-02", "lb-01"
# Names of files that a broken-off run may leave half-written. Commands write under such names and rename.
TEMPORARY = re.compile(r"/\.provision\.|provision-new|\.new$|/\.new\b")
REFUSED = (
    # a configuration that nginx -t refused stays here; only the next check reads the file
    "/var/lib/provision/nginx/.new/"
)
LISTED = "/etc /opt/provision /var/lib/provision /run/provision /var/tmp /tmp /usr/local"
ROUTES = "/etc/provision/nginx/models.conf"
NGINX = "/opt/provision/nginx/current/sbin/nginx"
EXPIRE = 'cd /run/provision 2>/dev/null && [ -s lock ] && sed -i "1s/^\\([^ ]*\\) [0-9]*/\\1 1/" lock || :'


class World:
    """The deployed fleet and the host with the fault.

    Args:
        fleet: the fleet, with an inventory of the test's own.
        lab: the lab.
        folder: folder for files of the test.
    """

    def __init__(self, fleet: Fleet, lab: Lab, folder: Path) -> None:
        self.fleet = fleet
        self.lab = lab
        self.folder = folder
        self.cable = threading.Lock()
        self._mirrors: list[Mirror] = []

    def sh(self, text: str, *args: str, host: str = BAD, timeout: float = 300) -> str:
        """Run a script as root, from the machine's side."""
        return self.lab.host(host).run(["sh", "-eu", "-c", text, "sh", *args], timeout=timeout).stdout

    def write(self, path: str, text: str, host: str = BAD, mode: int = 0o644) -> None:
        """Write a file of a host."""
        self.lab.host(host).write(path, text, mode)

    def set(self, role: str, host: str = BAD, **settings: object) -> None:
        """Add settings of one host to the inventory."""
        self.vars(host).setdefault(role, {}).update(settings)

    def unset(self, role: str, *names: str, host: str = BAD) -> None:
        """Take settings of one host out of the inventory again."""
        for name in names:
            self.vars(host)[role].pop(name, None)

    def vars(self, host: str = BAD) -> dict:
        """A host's entry of the inventory."""
        return self.fleet.hosts("balancer" if host == BALANCER else "gpu")[host]

    def instance(self, number: int = 0, host: str = BAD) -> dict:
        """An instance's entry of the inventory."""
        return self.vars(host)["ollama"]["instances"][number]

    def fault(self, name: str, state: str = "on", target: str = BAD, value: str = "") -> None:
        """Do as `provision lab fault`."""
        faults.switch(self.lab, target, name, on=state == "on", value=value)

    def full(self, path: str, host: str = BAD, room: int = 0) -> None:
        """Put this path on a file system of its own, with its content, and with exactly `room` kB left."""
        self.sh(
            'mkdir -p /mnt "$1"; mount -t tmpfs -o mode=$(stat -c %a "$1") tmpfs /mnt; cp -a "$1/." /mnt;'
            ' used=$(df -k --output=used /mnt | tail -n 1); [ "$used" -gt 0 ] || { echo >/mnt/.one-page; used=4; };'
            ' mount -o remount,size=$((used + $2))k /mnt; mount --bind /mnt "$1"; umount /mnt;'
            ' if [ "$2" = 0 ]; then if echo x 2>/dev/null >"$1/x"; then exit 1; fi; rm "$1/x"; fi',
            path,
            str(room),
            host=host,
        )

    def roomy(self, path: str, host: str = BAD) -> None:
        """Undo `full`, and drop the files written meanwhile."""
        self.sh('umount -l "$1"', path, host=host)

    def tamper(self, port: int, pattern: str, how: How, host: str = BAD) -> None:
        """From now on the host sees the site tampered with; see `mirror`."""
        self._mirrors.append(Mirror(self.lab, host, port, pattern, how))

    def true_site(self) -> None:
        """Undo `tamper`."""
        while self._mirrors:
            self._mirrors.pop().close()

    def unplug(self) -> None:
        """Take the cable between this machine and the lab away; `lab.network.connect` plugs a new cable in."""
        network = self.lab.network
        subprocess.run(["ip", "-netns", network.netns, "link", "delete", "up0"], check=True)
        subprocess.run(["ip", "link", "delete", network.link], check=False, stderr=subprocess.DEVNULL)

    def power_on(self, host: str = BAD) -> None:
        """Give a host its power back, and wait until it has booted."""
        self.fault("power-off", "off", host)
        units = "docker provision-instances" if host != BALANCER else "provision-nginx"
        self.sh(
            'for unit; do systemctl -q is-enabled "$unit" 2>/dev/null || continue;'
            ' for _ in $(seq 400); do systemctl -q is-active "$unit" && break; sleep 0.5; done; done',
            *units.split(),
            host=host,
        )

    def put_back(self, *hosts: str) -> None:
        """Restore hosts, and their settings, as deployed. A host with another model has given the balancer a route."""
        routed = self.sh('grep -cs nomic-embed-text "$1" || :', ROUTES, host=BALANCER).strip() not in ("", "0")
        for host in dict.fromkeys((*hosts, BALANCER)) if routed else hosts:
            self.lab.restore(host, DEPLOYED)
        settle(self.fleet)

    def plan(self, *words: str) -> Done:
        """`plan`."""
        return self.fleet.provision("plan", *words)

    def changes(self) -> dict[str, list[str]]:
        """Host -> ids of the steps that a plan would change; waits until every booted host can be read."""
        plans: list[Done] = []

        def read() -> bool:
            plans[:] = [self.plan("--json")]
            return plans[0].code == 0

        wait_for(read)
        return {host["host"]: [change["step"] for change in host["changes"]] for host in plans[0].doc["hosts"]}

    def down(self) -> frozenset[str]:
        """Labels of the instances to which the balancer sends nothing."""
        lines = self.sh("cat /etc/provision/nginx/upstream.conf", host=BALANCER).splitlines()
        return frozenset(line.rpartition("# ")[2] for line in lines if " down;" in line)

    def expire(self) -> None:
        """End the lease of a dead run now: the end of the lease is put into the past, so that nobody has to wait."""
        for host in self.lab.hosts():
            if host.running:
                host.run(["sh", "-c", EXPIRE])

    def locked(self) -> list[str]:
        """Hosts with a lease that has not ended."""
        text = "{ read -r _ until _; } </run/provision/lock 2>/dev/null || exit 0;"
        text += " echo $((until - $(cut -d. -f1 /proc/uptime)))"
        left = {host.name: self.sh(text, host=host.name) for host in self.lab.hosts() if host.running}
        return [name for name, seconds in left.items() if int(seconds or 0) > 0]

    def traces(self, host: str) -> dict[str, str]:
        """Every file that a deploy may write, with its hash."""
        if not self.lab.host(host).running:
            return {}
        text = f"find {LISTED} -type f -exec sha256sum {{}} + 2>/dev/null || :"
        return {line[66:]: line[:64] for line in self.sh(text, host=host).splitlines()}

    def half_written(self, *hosts: str) -> list[str]:
        """Files under temporary names; no such file may be left."""
        files = []
        for host in hosts:
            if self.lab.host(host).running:
                paths = self.sh(f"find {LISTED} -type f -path '*[.n]*' 2>/dev/null || :", host=host).splitlines()
                files += [f"{host}:{path}" for path in paths if TEMPORARY.search(path) and not path.startswith(REFUSED)]
        return files

    def answers(self) -> bool:
        """Whether the balancer answers."""
        with contextlib.suppress(OSError):
            ask(self.lab)
            return True
        return False

    def nginx_is_good(self) -> None:
        """nginx accepts the linked configuration, and answers through it."""
        self.sh(f"{NGINX} -t -q -c /etc/provision/nginx/nginx.conf", host=BALANCER)
        ask(self.lab)
