"""The process of the simulated server: what it says at its start, and how it ends."""

import os
import signal
import sys
from pathlib import Path

from . import ollama_store as store
from .ollama_answers import now
from .ollama_api import Handler, listen
from .ollama_lab import cards, driver, fault, log
from .ollama_runner import context_by_memory


def _announce() -> None:
    settings = {key: value for key, value in sorted(os.environ.items()) if key.startswith("OLLAMA_")}
    log("server config", env=" ".join(f"{key}:{value}" for key, value in settings.items()) + " (simulated)")
    if driver() and int(driver().split(".")[0]) < 550:
        log("NVIDIA driver too old", "WARN", required_driver="550 or newer", driver=driver())
    visible = cards()
    for card in visible:
        total, free = (f"{card[key] / 1024:.1f} GiB" for key in ("memory_mib", "free_mib"))
        log(
            "inference compute",
            id=card["uuid"],
            library=fault("cpu-unsaid") or "CUDA",
            compute=card["compute_cap"],
            name=card["name"],
            driver=driver(),
            pci_id=card["pci_bus_id"][4:].lower(),
            total=total,
            available=free,
        )
    if not visible:
        log(
            "inference compute",
            id="cpu",
            library="cpu",
            compute='""',
            name="cpu",
            description="cpu",
            libdirs="ollama",
            total="24.0 GiB",
            available="20.0 GiB",
        )
    memory = f"{sum(card['memory_mib'] for card in visible) / 1024:.1f} GiB" if visible else "0 B"
    log("vram-based default context", total_vram=memory, default_num_ctx=context_by_memory())


def serve() -> int:
    """Serve until SIGTERM, which cuts running streams as in the real server."""
    host, _, port = os.environ.get("OLLAMA_HOST", "127.0.0.1:11434").rpartition("://")[2].rpartition(":")
    try:
        home = Path.home() / ".ollama"
        home.mkdir(parents=True, exist_ok=True)
        (home / "id_ed25519").touch()
        store.start()
    except OSError as error:
        print(f"Error: could not create directory {error.filename}: {error.strerror}", file=sys.stderr)
        return 1
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: os._exit(0))
    _announce()
    server = listen(host or "127.0.0.1", int(port), store.VERSION.read_text().strip())
    log(f"Listening on {host}:{port} (version {Handler.version}, SIMULATED) {now()}")
    server.serve_forever()
    return 0
