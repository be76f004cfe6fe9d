"""A real Docker daemon in namespaces of its own: mounts, network and processes. Its network has no bridge."""

import json
import subprocess
import tarfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

from provision.lab import registry

REGISTRY = "127.0.0.1:5000"
_CGROUP = "provision-engine"
# The folders are of this machine, so that the daemon has its usual paths. $1 folder of the test.
_WORLD = """
mount --make-rprivate /
mount -t proc proc /proc
mount -t tmpfs tmpfs /run
for name in docker containerd provision; do
  mkdir -p "$1/$name" "/var/lib/$name"
  mount --bind "$1/$name" "/var/lib/$name"
done
ip link set lo up
mkdir /run/containerd
containerd >"$1/containerd.log" 2>&1 &
"$2" serve "$1/registry.json" >"$1/registry.log" 2>&1 &
echo ready
wait
"""
# $1 folder of the test. Containers of a daemon with live-restore go on.
_DAEMON = """
if [ -f /run/docker.pid ]; then
  kill "$(cat /run/docker.pid)"
  for _ in $(seq 100); do [ -f /run/docker.pid ] || break; sleep 0.2; done
fi
dockerd --config-file "$1/daemon.json" --containerd /run/containerd/containerd.sock >>"$1/dockerd.log" 2>&1 </dev/null &
for _ in $(seq 100); do docker version >/dev/null 2>&1 && exit 0; sleep 0.3; done
tail -n 5 "$1/dockerd.log"; exit 1
"""


class Engine:
    """A daemon with a containerd and a registry; all end with the block.

    Args:
        programs: the folder of Docker's and containerd's programs.
        folder: the folder of the test.
        features: the key `features` of daemon.json.
    """

    def __init__(self, programs: Path, folder: Path, features: dict[str, bool]) -> None:
        self.folder = folder
        self._path = f"{programs}:/usr/sbin:/usr/bin:/sbin:/bin"
        config: dict[str, Any] = {
            "features": features,
            "iptables": False,
            "ip6tables": False,
            "bridge": "none",
            "live-restore": True,
        }
        config["cgroup-parent"] = _CGROUP
        self.config: dict[str, Any] = {**config, "registry-mirrors": ["http://127.0.0.1:5999"]}
        storage = {"filesystem": {"rootdirectory": str(folder / "registry")}}
        served = {"version": 0.1, "log": {"level": "warn"}, "storage": storage, "http": {"addr": REGISTRY}}
        (folder / "registry.json").write_text(json.dumps(served))

    def __enter__(self) -> Self:
        words = ["unshare", "--mount", "--net", "--pid", "--fork", "--kill-child", "sh", "-eu", "-c", _WORLD, "sh"]
        self._world = subprocess.Popen(
            [*words, str(self.folder), str(registry.ensure())],
            stdout=subprocess.PIPE,
            env={"PATH": self._path},
            text=True,
        )
        assert self._world.stdout is not None
        assert self._world.stdout.readline() == "ready\n"
        self._init = Path(f"/proc/{self._world.pid}/task/{self._world.pid}/children").read_text().split()[0]
        self.restart()
        return self

    def __exit__(self, *_: object) -> None:
        self.run(["sh", "-c", "docker ps -aq | xargs -r docker rm -f"])
        self._world.kill()
        self._world.wait()
        ours = [*Path("/sys/fs/cgroup").glob(f"*/{_CGROUP}"), Path("/sys/fs/cgroup", _CGROUP)]
        for path in [*ours, *(Path("/var/lib", name) for name in ("docker", "containerd", "provision"))]:
            with suppress(OSError):  # a folder with files is the machine's own
                path.rmdir()

    def run(self, words: Sequence[str], **environment: str) -> subprocess.CompletedProcess[str]:
        """Run a program beside the daemon, and return its end."""
        enter = ["nsenter", "--target", self._init, "--mount", "--net", "--pid", "--"]
        settings = {"PATH": self._path, "LC_ALL": "C", **environment}
        return subprocess.run([*enter, *words], env=settings, capture_output=True, text=True, check=False, timeout=120)

    def script(self, text: str, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run a script as a host does."""
        return self.run(["sh", "-eu", "-c", text, "sh", *words], **environment)

    def docker(self, *words: str) -> str:
        """Run the client, which must succeed, and return its output."""
        done = self.run(["docker", *words])
        assert done.returncode == 0, done
        return done.stdout.strip()

    def restart(self) -> None:
        """Start the daemon, or start it again, with the configuration as it is."""
        (self.folder / "daemon.json").write_text(json.dumps(self.config))
        done = self.script(_DAEMON, str(self.folder))
        assert done.returncode == 0, done

    @property
    def log(self) -> str:
        """The daemon's log."""
        return (self.folder / "dockerd.log").read_text()

    def publish(self, tag: str) -> str:
        """Give the registry an image whose container sleeps, and return the reference."""
        tree = self.folder / f"image-{tag}.tar"
        libraries = subprocess.run(["ldd", "/bin/sleep"], capture_output=True, text=True, check=True).stdout.split()
        with tarfile.open(tree, "w") as files:
            for path in ["/bin/sleep", *(word for word in libraries if word.startswith("/"))]:
                files.add(Path(path).resolve(), arcname=path)
            (self.folder / "tag").write_text(tag)
            files.add(self.folder / "tag", arcname="tag")
        reference = f"{REGISTRY}/lab/sleeper:{tag}"
        self.docker("import", "-c", 'CMD ["/bin/sleep", "1000"]', str(tree), reference)
        self.docker("push", "-q", reference)
        self.docker("image", "rm", reference)
        return reference
