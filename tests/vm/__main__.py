"""Run the parts on virtual machines and write the page: `python -m tests.vm [PART ...]`."""

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

from provision.errors import ProvisionError
from provision.lab import acceleration, vm_image
from provision.lab import machine as lab_machine
from tests import results
from tests.results import Result
from tests.verdicts import Verdict
from tests.vm import carrier, demo, hosts, lab, page
from tests.vm.carrier import FOLDER, Carrier
from tests.vm.case import Case, Judged, NotRunError, played, unjudged

RESULTS = Path(__file__).parent / "results"
_DISKS, _DISK_GIB = Path("/var"), 16  # of images, overlays and carried parts


@dataclass(frozen=True)
class Part:
    """A part of the run.

    Attributes:
        about: sentences for the page: a docstring.
        judged: the judged program; a case fills in the version.
        release: release of the virtual machines.
        cases: returns the cases.
        memory: GiB of memory for the virtual machines.
        inside: whether the cases run in the carrier; else the part has machines of its own, and the carrier goes.
    """

    about: str
    judged: Judged
    release: str
    cases: Callable[[Carrier, Judged], Sequence[Case]]
    memory: float
    inside: bool = False


def parts() -> dict[str, Part]:
    """Return all parts by name, in the order of run and page."""
    gib = carrier.SHAPE.memory / 1024
    known = {
        "demo": Part(demo.__doc__ or "", Judged("Debian 12 on Linux"), carrier.RELEASE, demo.cases, gib, True),
        "lab": Part(lab.__doc__ or "", Judged("Debian 12 on Linux"), carrier.RELEASE, lab.cases, gib, True),
    }
    for release, number in (("bookworm", 12), ("trixie", 13)):
        about = f"Hosts of Debian {number}. {hosts.__doc__}"
        judged = Judged(f"Debian {number} on Linux")
        known[f"hosts-{release}"] = Part(about, judged, release, hosts.of(release), hosts.MEMORY)
    return known


def main(
    chosen: Sequence[str],
    known: Mapping[str, Part],
    *,
    require: Callable[[float], str],
    folder: Path = RESULTS,
    target: Path = page.PAGE,
    work: Path = FOLDER,
) -> int:
    """Run parts (all by default), keep the results, write the page, and return the exit code.

    Args:
        chosen: names of parts.
        known: all parts.
        require: makes sure that the machine has an amount of memory in GiB and everything else, and returns in words
            what does the work of the machines; raises `NotRunError` or `ProvisionError`.
        folder: the folder of the results.
        target: the page.
        work: the folder for the log.
    """
    if unknown := set(chosen) - set(known):
        print(f"no such part: {', '.join(sorted(unknown))}; there are {', '.join(known)}", file=sys.stderr)
        return 2
    work.mkdir(mode=0o700, parents=True, exist_ok=True)
    log = work / "output.log"
    log.write_text("")
    print(f"all output of the virtual machines: {log}")
    ran = []
    with closing(_Discarded(Carrier(log, _say))) as shared:
        for name in [name for name in known if name in (chosen or known)]:

            def keep(result: Result) -> None:
                result.save(folder)
                about = {part: each.about for part, each in known.items()}
                page.write(results.load(folder, list(known)), about, target)

            ran.append(_run(name, known[name], shared.carrier, require, keep))
    return 0 if all(result.passed for result in ran) else 1


class _Discarded:
    """The carrier of a run; discarded at the end of the run."""

    def __init__(self, shared: Carrier) -> None:
        self.carrier = shared

    def close(self) -> None:
        self.carrier.discard()


def _run(
    name: str,
    part: Part,
    shared: Carrier,
    require: Callable[[float], str],
    keep: Callable[[Result], None],
) -> Result:
    """Run a part, print a line for each case, and return the result.

    Args:
        name: the name of the part.
        part: the part.
        shared: the carrier of the run.
        require: as in `main`.
        keep: keeps a result; called after each case, so that a run that breaks off leaves its verdicts.
    """
    print(f"\n{name}", flush=True)
    if not part.inside:
        shared.discard()
    cases = part.cases(shared, part.judged)
    result = results.begun(name, results.machine("not known"))
    with result.timed():
        try:
            result.machine = results.machine(require(0 if shared.running else part.memory))
        except (NotRunError, ProvisionError) as reason:
            said = " ".join(map(str, reason.args))
            result.verdicts = unjudged(name, part.judged, cases, "not run", said)
            _show(result.verdicts)
        else:
            begun = time.monotonic()
            for number, verdicts in enumerate(played(name, part.judged, cases), 1):
                result.verdicts += verdicts
                _show(verdicts)
                open_cases = unjudged(name, part.judged, cases[number:], "failed", "the run broke off before this case")
                so_far = [*result.verdicts, *open_cases]
                keep(replace(result, verdicts=so_far, seconds=time.monotonic() - begun))
    keep(result)
    return result


def _show(verdicts: Sequence[Verdict]) -> None:
    for each in verdicts:
        print(f"{each.verdict:8} {each.case} ({each.seconds:.1f} s) {each.evidence[:600]}", flush=True)


def _say(line: str) -> None:
    print(f"         {line}", flush=True)


def _required(memory: float) -> str:
    """Make sure that this machine can run a part, and return KVM or emulation in words for the page.

    Raises:
        ProvisionError: the machine lacks root, QEMU, memory or room, or an image cannot be made.
    """
    board = vm_image.architecture()
    lab_machine.require_root()
    lab_machine.require_programs(install=True, emulator=(board.emulator, board.package))
    lab_machine.require_memory(int(memory * 1024))
    vm_image.require_room(_DISKS, _DISK_GIB)
    word = acceleration.acceleration(vm_image.ensure(carrier.RELEASE, _say))
    return acceleration.explained(word)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], parts(), require=_required))
