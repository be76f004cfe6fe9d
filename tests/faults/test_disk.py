"""No room: on the root file system, for Docker, for models; while a file is written, a model pulled or nginx built."""

import pytest

from provision.steps.nginx.generation import GENERATIONS
from tests.faults.case import Case, both, params, play
from tests.faults.common import (
    TOOLKIT,
    container_back,
    key_back,
    new_build,
    new_image,
    new_queue,
    no_package,
    old_build,
    old_image,
    old_queue,
    one_container,
    one_key,
)
from tests.faults.world import BALANCER

pytestmark = [pytest.mark.lab, pytest.mark.faults]
NO_ROOM = "[Nn]o space left on device|I/O error"
# The folders that deploys write to. Not all of /etc: systemd would take another file system there for other units.
BALANCERS = ("/etc/provision", "/opt", "/var/lib/provision", "/var/tmp", "/tmp")
ROOT = ("/etc/docker", *BALANCERS)
MORE = "nomic-embed-text:latest"


def full(*paths, host="gpu-02", room=0):
    return lambda world: [world.full(path, host, room) for path in paths]


def roomy(*paths, host="gpu-02"):
    return lambda world: [world.roomy(path, host) for path in paths]


def small_models(world):
    """The models of one instance are in a folder with room for a few bytes only."""
    world.sh("mkdir -p /srv/models; mountpoint -q /srv/models || mount -t tmpfs -o size=64k tmpfs /srv/models")
    world.instance(0).update(storage="/srv/models")


def large_models(world):
    world.sh("mount -o remount,size=2g /srv/models")


def docker_apart(world):
    """Docker's directory is a file system of its own; its containers run again."""
    world.sh(
        "systemctl stop docker.socket docker.service; mkdir -p /mnt; mount -t tmpfs -o size=320m,mode=710 tmpfs /mnt;"
        " cp -a /var/lib/docker/. /mnt; mount --bind /mnt /var/lib/docker; umount /mnt; systemctl start docker;"
        " for _ in $(seq 60); do curl -fs -m 1 -o /dev/null http://127.0.0.1:3001/api/version && break; sleep 0.5; done"
    )


def docker_full(world):
    world.sh(
        "! head -c 1G /dev/zero 2>/dev/null >/var/lib/docker/filler;"
        " if echo x 2>/dev/null >/var/lib/docker/x; then exit 1; fi; rm /var/lib/docker/x"
    )


def docker_roomy(world):
    world.sh("rm -f /var/lib/docker/filler")


BUILD = {"step": "build:nginx", "at": "build:nginx", "ready": new_build, "host": BALANCER}
CASES = {
    "root, before a key of daemon.json is written": Case(
        both(one_key, full(*ROOT)), (NO_ROOM,), both(roomy(*ROOT), key_back), r"\S+"
    ),
    "root, while a key of daemon.json is written": Case(
        full(*ROOT),
        (NO_ROOM,),
        both(roomy(*ROOT), key_back),
        "docker_config:daemon.json",
        at="docker_config:daemon.json",
        ready=one_key,
    ),
    "root, before a container is made anew": Case(
        both(one_container, full(*ROOT)),
        (NO_ROOM,),
        both(roomy(*ROOT), container_back),
        r"\S+",
        keep=False,
        stops=True,
    ),
    "root of the balancer, before its configuration is written": Case(
        both(new_queue, full(*BALANCERS, host=BALANCER)),
        (NO_ROOM,),
        both(roomy(*BALANCERS, host=BALANCER), old_queue),
        "config:balancer",
        host=BALANCER,
    ),
    "root of the balancer, while its configuration is written": Case(
        full(*BALANCERS, host=BALANCER),
        (NO_ROOM,),
        both(roomy(*BALANCERS, host=BALANCER), old_queue),
        "config:balancer",
        at="config:balancer",
        ready=new_queue,
        host=BALANCER,
    ),
    "root of the balancer, while nginx is built": Case(
        full(*BALANCERS, host=BALANCER),
        (NO_ROOM,),
        both(roomy(*BALANCERS, host=BALANCER), old_build),
        "build:nginx",
        at="build:nginx",
        ready=new_build,
        host=BALANCER,
    ),
    "/opt, before nginx is built": Case(
        full("/opt", host=BALANCER),
        ("compile nginx \\S+ exited 23", "full disk: /opt/provision/nginx has 0 MB left"),
        both(roomy("/opt", host=BALANCER), old_build),
        **BUILD,
    ),
    "/opt, while nginx is compiled": Case(
        full("/opt", host=BALANCER, room=16000),
        ("compile nginx", NO_ROOM),
        both(roomy("/opt", host=BALANCER), old_build),
        **BUILD,
    ),
    "where generations are, while one is written": Case(
        full(GENERATIONS, host=BALANCER, room=8),
        (rf"write {GENERATIONS}/\.new/\S+ .* exited 1", NO_ROOM),
        both(roomy(GENERATIONS, host=BALANCER), old_queue),
        "config:balancer",
        at="config:balancer",
        ready=new_queue,
        host=BALANCER,
    ),
    "our state": Case(
        both(one_key, full("/var/lib/provision")),
        (NO_ROOM,),
        both(roomy("/var/lib/provision"), key_back),
        "docker_config:daemon.json",
        leaves=(),
    ),
    "beside daemon.json": Case(
        both(one_key, full("/etc/docker")),
        (NO_ROOM,),
        both(roomy("/etc/docker"), key_back),
        "docker_config:daemon.json",
        leaves=(),
    ),
    "our configuration": Case(
        both(
            lambda w: w.set("ollama", https_proxy="http://proxy.test:3128"),
            full("/etc/provision/ollama"),
        ),
        (NO_ROOM,),
        both(roomy("/etc/provision/ollama"), lambda w: w.unset("ollama", "https_proxy")),
        "file:/etc/provision/ollama/ollama1.env",
        leaves=(),
        stops=True,
    ),
    "the lock": Case(
        both(one_key, full("/run/provision")),
        ("the lock could not be taken", "/run/provision: .*(I/O error|No space left)", "is there room in /run"),
        both(roomy("/run/provision"), key_back),
        leaves=(),
    ),
    "packages": Case(
        both(no_package, full("/var/cache/apt/archives")),
        ("space|full disk", "full disk: /var/cache/apt/archives has 0 MB left"),
        roomy("/var/cache/apt/archives"),
        TOOLKIT,
    ),
    "/var/lib/docker/tmp, before an image is pulled": Case(
        both(new_image, full("/var/lib/docker/tmp")),
        (NO_ROOM,),
        both(roomy("/var/lib/docker/tmp"), old_image),
        "image:ollama/ollama:0.33.0",
    ),
    "/var/lib/docker, before an image is pulled": Case(
        both(new_image, docker_full),
        (r"no room: /var/lib/docker has 0\.0 MB free and needs \S+ MB: image:ollama/ollama:0.33.0",),
        both(docker_roomy, old_image),
        "image:ollama/ollama:0.33.0",
        ready=docker_apart,
        put_back=True,
        leaves=(),
        code=7,
    ),
    "/var/lib/docker, while an image is pulled": Case(
        docker_full,
        (NO_ROOM,),
        both(docker_roomy, old_image),
        "image:ollama/ollama:0.33.0",
        at="image:ollama/ollama:0.33.0",
        ready=both(docker_apart, new_image),
        put_back=True,
    ),
    "/var/lib/docker, while a container is made": Case(
        docker_full,
        ("ollama1", NO_ROOM),
        both(docker_roomy, container_back),
        "container:ollama1",
        at="container:ollama1",
        ready=both(docker_apart, one_container),
        put_back=True,
        stops=True,
    ),
    "the models folder": Case(
        small_models,
        (r"no room: /srv/models has \S+ MB free and needs 1\.2 GB: model:ollama1/\S+ 1\.1 GB", "df -h /srv/models"),
        large_models,
        "model:ollama1/.*",
        put_back=True,
        leaves=(),
        code=7,
    ),
    "the models folder, as the server says it after status 200": Case(
        both(
            lambda w: w.instance().update(models=["deepseek-r1:1.5b", MORE]),
            lambda w: w.fault("pull-fails", target="gpu-02/ollama1", value="write: no space left on device"),
        ),
        (f"ollama1 could not pull {MORE}: .*no space left on device",),
        both(
            lambda w: w.fault("pull-fails", "off", target="gpu-02/ollama1"),
            lambda w: w.instance().pop("models"),
        ),
        f"model:ollama1/{MORE}",
        stops=True,
        keep=False,
    ),
}


@pytest.mark.parametrize("case", params(CASES, "where generations are, while one is written"))
def test_no_room(world, seen, case):
    play(world, case, seen)
