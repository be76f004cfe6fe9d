"""The host itself: distribution, clock, and memory.

Sources: timedatectl(1) `show`; proc(5) for /proc/meminfo. How far a clock may be off is the decision of
`provision.rollout.clock`.
"""

import re
import shlex
from collections.abc import Iterator, Sequence

from provision.command import Answer, Run, Script, look
from provision.doctor import sizes
from provision.doctor.check import Check, Look, Subject, alone
from provision.doctor.finding import Finding, bad, good, risk
from provision.inventory import Host, Inventory
from provision.rollout import clock
from provision.steps.base import RefusalError, State, UnreadableError
from provision.steps.system.content import gigabytes
from provision.steps.system.preflight import SupportedHost

TIME = Script(
    "doctor/time",
    """
timedatectl show -p CanNTP -p NTP -p NTPSynchronized || echo unknown
""",
)
MEMORY = Run(("grep", "-E", "^(MemTotal|MemAvailable):", "/proc/meminfo"), title="look at the memory")
UPGRADE = {
    "ubuntu": "do-release-upgrade",
    "debian": "sed -i s/CODENAME/bookworm/ /etc/apt/sources.list && apt-get update && apt-get full-upgrade",
}
"""The upgrade to a supported release; CODENAME stands for the codename of the host's release."""
INSTALL_NTP = "apt-get install systemd-timesyncd && timedatectl set-ntp true"


def _supported(state: State, subject: Subject) -> Iterator[Finding]:
    facts = subject.facts
    try:
        SupportedHost(docker=False).want(facts, None)
    except RefusalError as error:
        cure = UPGRADE.get(facts.distribution, "").replace("CODENAME", facts.codename)
        if cure and facts.systemd and re.fullmatch("[a-z]{0,40}", facts.codename):
            yield bad(str(error), cure)
        else:
            words = shlex.join(["provision", "plan", "-i", subject.inventory.path, "-l", f"all:!{subject.host.name}"])
            yield bad(str(error), words, "a plan without this host goes on", here=True)
        return
    yield good(f"{facts.distribution} {facts.version} on {facts.architecture} is supported")


def _time(answer: Answer) -> State:
    pairs = dict(line.partition("=")[::2] for line in answer.text.splitlines() if "=" in line)
    known = {"yes": True, "no": False}
    return {name: known.get(pairs.get(key, "")) for name, key in _TIMES.items()}


_TIMES = {"possible": "CanNTP", "on": "NTP", "synchronised": "NTPSynchronized"}


def _clock(state: State, subject: Subject) -> Iterator[Finding]:
    state = state or {}
    cure = INSTALL_NTP if state["possible"] is False else "timedatectl set-ntp true"
    evidence = ", ".join(f"{key}={'unknown' if state[name] is None else state[name]}" for name, key in _TIMES.items())
    off = clock.warning(subject.host.name, subject.facts.clock, subject.asked, subject.answered)
    if off:
        says = off.removeprefix(f"{subject.host.name}: ").partition(";")[0]
        wrong_here = state["synchronised"] is True
        says += ": certificates and signatures of packages look too new or too old"
        yield bad(says, "timedatectl set-ntp true" if wrong_here else cure, evidence, here=wrong_here)
    elif state["synchronised"]:
        yield good("the clock agrees with this machine's, and is synchronised", evidence)
    else:
        yield risk("the clock agrees with this machine's, but no service keeps it right", cure, evidence)


def _memory(answer: Answer) -> dict[str, int]:
    found = dict(re.findall(r"^(MemTotal|MemAvailable): +(\d{1,15}) kB$", answer.text, re.MULTILINE))
    if "MemTotal" not in found:
        raise UnreadableError(answer.complaint or "no MemTotal in /proc/meminfo")
    return {name: int(kib) * 1024 for name, kib in found.items()}


def _look_at_memory(host: Host, inventory: Inventory) -> Look | None:
    models = sizes.of_models(host, inventory)
    if not host.gpu:
        return None

    def parse(answers: Sequence[Answer]) -> State:
        told = {thing.what: thing.size(answer) for thing, answer in zip(models, answers[1:], strict=True)}
        return {**_memory(answers[0]), "models": {name: size for name, size in told.items() if size}}

    return Look((MEMORY, *(thing.asked for thing in models)), parse)


def _room_for_pages(state: State, subject: Subject) -> Iterator[Finding]:
    state = state or {}
    total, models = state["MemTotal"], state["models"]
    evidence = f"MemTotal {gigabytes(total)}" + "".join(f", {name} {gigabytes(size)}" for name, size in models.items())
    largest = max(models, key=models.__getitem__, default="")
    if not largest:
        yield good(f"{gigabytes(total)} of memory; no size of a model is known to compare", evidence)
        return
    if models[largest] <= total:
        yield good(f"{gigabytes(total)} of memory hold {largest} in the page cache", evidence)
        return
    says = f"{largest} ({gigabytes(models[largest])}) is larger than the memory: each load reads the disk again"
    yield risk(says, "free -h", evidence)


CHECKS = (
    Check("distribution", lambda host, inventory: Look(), _supported),
    Check("time", lambda host, inventory: alone(look(TIME, title="look at the clock's service"), _time), _clock),
)
MEMORY_CHECK = Check("memory", _look_at_memory, _room_for_pages)
