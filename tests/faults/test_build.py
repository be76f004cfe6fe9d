"""nginx cannot be built: a wrong tarball, half a tarball, none, a source that does not compile, a dying compiler."""

import pytest

from tests.faults.case import Case, both, params, play
from tests.faults.common import compiler, new_build, old_build
from tests.faults.mirror import WEB, half, missing
from tests.faults.world import BALANCER

pytestmark = [pytest.mark.lab, pytest.mark.faults]
LB = {"step": "build:nginx", "host": BALANCER}


def tampered(how):
    return both(new_build, lambda world: world.tamper(WEB, r"/nginx-[0-9.]+\.tar\.gz", how, BALANCER))


def mended(world):
    world.true_site()
    old_build(world)


def kill_compiler(world):
    """Kill the first compiler after `configure`, as the kernel does when memory is short."""
    world.sh(
        "systemd-run --quiet --collect --unit=killer sh -c 'for n in $(seq 9000); do"
        " pid=$(pgrep -nf [c]c1.*src/http/) && kill -9 $pid && exit; sleep 0.1; done'",
        host=BALANCER,
    )


CASES = {
    "a tarball that is another file": Case(
        lambda w: w.set("nginx", BALANCER, sha256="f" * 64),
        ("has sha256 69ee2b23", "f{64} is expected", "tampered"),
        lambda w: w.unset("nginx", "sha256", host=BALANCER),
        ready=compiler,
        leaves=("/var/lib/provision/artifacts",),
        **LB,
    ),
    "half a tarball": Case(tampered(half), ("curl|transfer closed",), mended, **LB),
    "no tarball": Case(tampered(missing), ("404",), mended, **LB),
    "a module that does not exist": Case(
        lambda w: w.set("nginx", BALANCER, configure_args=["--with-http_no_such_module"]),
        ('invalid option "--with-http_no_such_module"',),
        lambda w: w.unset("nginx", "configure_args", host=BALANCER),
        ready=compiler,
        leaves=("/var/lib/provision/artifacts",),  # the source, where this host never had it
        **LB,
    ),
    "the compiler is killed": Case(
        kill_compiler,
        ("Killed|[Ee]rror",),
        old_build,
        at="build:nginx",
        ready=new_build,
        **LB,
    ),
}


@pytest.mark.parametrize("case", params(CASES, "a module that does not exist"))
def test_build(world, seen, case):
    play(world, case, seen)
