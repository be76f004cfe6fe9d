"""Write docs/vm.md from the results of all parts of `make test-vm`."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from tests import verdict_page
from tests.results import Result
from tests.verdict_page import clock

PAGE = Path(__file__).parents[2] / "docs" / "vm.md"
_OPENING = """\
`make test-vm` boots virtual machines with kernels of their own, keeps the verdicts of each part in `tests/vm/results/`,
and writes this page from these files. `make test-vm PARTS="demo lab"` runs some parts again, and the other parts keep
their verdicts. The run needs root, QEMU (installed where it is missing), 7 GiB of memory and 16 GiB on the disk, and is
no part of CI.

Real are the kernels, systemd, sshd, apt, Docker, AppArmor and nginx. SIMULATED are the cards, NVIDIA's toolkit and the
model server, as in every lab. A time on this page is a time of the machine in the table, where other programs may have
run too. Without KVM a virtual machine is emulated, and everything takes several times longer."""
_MEANING = """\
**holds**: the sentence is true, and the evidence shows it. **differs**: the sentence is not true. **failed**: the case
could not be judged. **not run**: the case was left out, and the evidence says why."""


def write(results: Sequence[Result], parts: Mapping[str, str], path: Path = PAGE) -> None:
    """Write the page of the results."""
    path.write_text(render(results, parts))


def render(results: Sequence[Result], parts: Mapping[str, str]) -> str:
    """Return the page of the results, in Markdown.

    Args:
        results: the results of the parts that ran.
        parts: all parts in the order of the page, with sentences about each.
    """
    verdicts = [verdict for result in results for verdict in result.verdicts]
    notes = {result.part: result.note for result in results}
    total = sum(result.seconds for result in results)
    sections = [
        "# Virtual machines with kernels of their own",
        _OPENING,
        verdict_page.runs(results, list(parts), "make test-vm"),
        f"In all {verdict_page.counted(verdicts) or 'no verdict'}, in {clock(total)}.",
        _MEANING,
        *verdict_page.broken(results),
        "## Every case",
    ]
    for part in verdict_page.groups(verdicts):
        sections += verdict_page.group(part, verdicts, filter(None, [parts.get(part, ""), notes.get(part, "")]))
    return "\n\n".join(sections) + "\n"
