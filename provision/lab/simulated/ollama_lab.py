"""The lab as the simulated Ollama server sees it: the server's name, its cards, and the faults switched on.

Every call reads everything again, so that a person can change the lab while the server runs.
"""

import fcntl
import json
import os
import sys
import threading
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TextIO

LAB = Path("/etc/provision-lab")
CONTAINER = Path("/etc/provision-lab-container.json")
USAGE = Path("/run/provision-lab/usage")
MIB = 1 << 20
MIG_MIB = 9728  # of a MIG device with the profile 1g.10gb

_held: dict[str, TextIO] = {}
_guard = threading.Lock()


def log(message: str, level: str = "INFO", **fields: Any) -> None:
    """One line as Ollama's own log writes it."""
    stamp = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"
    rest = "".join(f" {key}={json.dumps(value) if ' ' in str(value) else value}" for key, value in fields.items())
    print(f'time={stamp} level={level} source=simulated msg="{message}"{rest}', file=sys.stderr, flush=True)


def _container() -> dict[str, Any]:
    try:
        result: dict[str, Any] = json.loads(CONTAINER.read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return {"visible": [], "name": ""}
    return result


def fault(name: str) -> str | None:
    """The text of a fault of this instance (`faults/ollama1.NAME` on the host); None while the fault is off."""
    with suppress(OSError):
        return (LAB / "faults" / f"{_container()['name']}.{name}").read_text().strip()
    return None


def _host_fault(name: str) -> bool:
    return (LAB / "faults" / name).exists()


def knob(name: str, default: float) -> float:
    """A number, from the host's /etc/provision-lab/knobs.json, else OLLAMA_SIMULATED_NAME, else `default`."""
    with suppress(OSError, ValueError, KeyError):
        return float(json.loads((LAB / "knobs.json").read_text())[name])
    return float(os.environ.get(f"OLLAMA_SIMULATED_{name.upper()}", default))


def switched_on(name: str) -> bool:
    """Whether a variable of the environment is on, as Go reads one: anything but an empty value, 0 and false."""
    return os.environ.get(name, "").lower() not in {"", "0", "f", "false"}


def driver() -> str:
    """Version of the host's (simulated) driver; empty without a driver."""
    with suppress(OSError, ValueError, KeyError):
        version = str(json.loads((LAB / "gpus.json").read_text())["driver_version"])
        return "535.309.01" if _host_fault("driver-old") else version
    return ""


def cards() -> list[dict[str, Any]]:
    """The cards and MIG devices that this server can use now, each with its free memory in MiB."""
    if fault("cpu") is not None or any(map(_host_fault, ("gpu-lost", "driver-broken", "driver-old"))):
        return []
    visible = _container()["visible"]
    if not visible:
        return []
    known = json.loads((LAB / "gpus.json").read_text())["cards"]
    parts = [part for card in known for part in _parts(card, visible)]
    gone = {_of_fault(name, known) for name in ("card-missing", "card-lost", "card-broken") if _host_fault(name)}
    used = _used_by_others()
    return [
        {**card, "free_mib": card["memory_mib"] - card["reserved_mib"] - used.get(card["uuid"], 0)}
        for card in (*known, *parts)
        if card["uuid"] in visible and card["uuid"] not in gone
    ]


def _parts(card: dict[str, Any], visible: list[str]) -> list[dict[str, Any]]:
    """The visible MIG devices of a card, as cards. Their UUIDs follow from the card's, as in the lab's nvidia-smi."""
    if not _host_fault("mig"):
        return []
    devices = [uuid for uuid in visible if uuid.startswith("MIG-") and uuid[4:-1] == card["uuid"][4:-1]]
    return [{**card, "uuid": uuid, "memory_mib": MIG_MIB, "reserved_mib": 0} for uuid in devices]


def _of_fault(name: str, known: list[dict[str, Any]]) -> str:
    """UUID of a fault's card: the fault's text is the card's index, and an empty text means the last card."""
    text = (LAB / "faults" / name).read_text().strip()
    return str(known[int(text) if text else -1]["uuid"])


def _used_by_others() -> dict[str, int]:
    used: dict[str, int] = {}
    for path in USAGE.glob("*.json"):
        if path.name in _held:
            continue
        with path.open() as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                for item in json.loads(file.read() or "[]"):
                    used[item["uuid"]] = used.get(item["uuid"], 0) + item["mib"]
    return used


def hold(model: str, shares: dict[str, int]) -> None:
    """Record on the host how many MiB of each card (by UUID) a model takes; no record without a share.

    We lock the file as long as we live: a process that can lock it knows that its owner is gone.
    """
    name = f"{os.uname().nodename}-{model.replace('/', '_')}.json"
    with _guard:
        if (old := _held.pop(name, None)) is not None:
            old.truncate(0)
            old.close()
        if not shares or not USAGE.exists():
            return
        file = (USAGE / name).open("w")
        fcntl.flock(file, fcntl.LOCK_EX)
        items = [
            {"uuid": uuid, "mib": mib, "pid": os.getpid(), "name": "/usr/bin/ollama (simulated)"}
            for uuid, mib in shares.items()
        ]
        file.write(json.dumps(items))
        file.flush()
        _held[name] = file
