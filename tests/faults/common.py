"""Helpers of several classes of faults: work for the run, and places where a fault shows."""

from provision.roles.nginx import LEAN
from provision.steps.nginx.build import TOOLS
from tests.faults.world import BAD, BALANCER, World

IMAGE, NEWER = "ollama/ollama:0.34.4", "ollama/ollama:0.33.0"
DAEMON = "/etc/docker/daemon.json"
TOOLKIT = "packages:nvidia_toolkit"


def one_key(world: World) -> None:
    """Change a key of daemon.json: the smallest change there is."""
    world.set("docker", log_max_file=4)


def key_back(world: World) -> None:
    """Undo `one_key`."""
    world.unset("docker", "log_max_file")


def one_container(world: World) -> None:
    """Change a setting of one instance: its container is made anew."""
    world.instance(0).update(context_length=2048)


def container_back(world: World) -> None:
    """Undo `one_container`."""
    world.instance(0).pop("context_length", None)


def no_package(world: World) -> None:
    """Remove a package, which apt must then fetch."""
    world.sh("apt-get clean; dpkg --force-depends -r libnvidia-container-tools >/dev/null 2>&1")


def new_image(world: World) -> None:
    """Declare another image, which the host does not have."""
    world.sh(f"docker image rm -f {NEWER} >/dev/null 2>&1 || :")
    world.set("ollama", image=NEWER)


def old_image(world: World) -> None:
    """Undo `new_image`."""
    world.unset("ollama", "image")


def new_queue(world: World) -> None:
    """Declare another generation of the balancer's configuration."""
    world.set("balancer", BALANCER, queue=30)


def old_queue(world: World) -> None:
    """Undo `new_queue`."""
    world.unset("balancer", "queue", host=BALANCER)


OTHERS = 'for one in /opt/provision/nginx/*-*; do [ "$one" -ef /opt/provision/nginx/current ] || rm -rf "$one"; done'


def new_build(world: World) -> None:
    """Declare another build of nginx, made on the balancer itself, even if an earlier case left this build there."""
    world.sh(OTHERS, host=BALANCER)
    world.set("nginx", BALANCER, build="each", configure_args=[*LEAN, "--with-http_sub_module"])


def old_build(world: World) -> None:
    """Undo `new_build`."""
    world.unset("nginx", "build", "configure_args", host=BALANCER)


def compiler(world: World) -> None:
    """Give the balancer the tools of a build, even if its nginx came from another lab."""
    world.sh(
        'export DEBIAN_FRONTEND=noninteractive; apt-get -qq update; apt-get -qqy install "$@" >/dev/null 2>&1',
        *TOOLS.packages,
        host=BALANCER,
        timeout=300,
    )


def drop_in(folder: str, name: str, text: str, host: str = BAD):
    """Two actions: write a file into a folder, and remove the file."""
    path = f"{folder}/{name}"
    return (
        lambda world: world.write(path, text, host),
        lambda world: world.sh('rm -f "$1"', path, host=host),
    )
