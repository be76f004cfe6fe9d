"""The words of `docker create` for an instance. Pure.

Source: `--gpus` and `--mount` are CSV records, so several cards need quotes inside the word,
docs/facts.md#the-gpus-option.
"""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from provision.steps.docker import inspect
from provision.steps.docker.probe import LABEL, Probe
from provision.steps.facts import dumps
from provision.steps.instance_paths import env_file

PROXIES = ("HTTPS_PROXY", "NO_PROXY", "HTTP_PROXY", "ALL_PROXY")
BRIDGE = "bridge"  # Docker's network of every container without `--network`
NANO = 1_000_000_000


def fingerprint(value: str) -> str:
    """Return a stand-in for a secret in states, labels and plans: enough to see a change."""
    return f"sha256:{hashlib.sha256(value.encode()).hexdigest()[:16]}"


def volume(source: str, home: str) -> str:
    """Return the word for `--mount` that puts a volume at an engine's folder of models.

    Args:
        source: the volume.
        home: the folder inside the container.
    """
    return f"type=volume,{csv_field(f'source={source}')},target={home}"


def bind(source: str, home: str) -> str:
    """Return the word for `--mount` that puts a directory of the host at an engine's folder of models.

    Args:
        source: the directory.
        home: the folder inside the container.
    """
    return f"type=bind,{csv_field(f'source={source}')},target={home}"


def gpus_word(cards: Sequence[str]) -> str:
    """Return the word for `--gpus`, with quotes inside for several cards."""
    return csv_field(f"device={','.join(cards)}")


def create_words(name: str, want: Mapping[str, Any], probe: Probe) -> list[str]:
    """Return the words after `docker create --name NAME`.

    Args:
        name: the name of the container.
        want: a state.
        probe: of the engine.
    """
    words = ["--pull", "never", "--gpus", gpus_word(want["gpus"]), "--restart", want["restart"]]
    words += _each("--publish", (f"{at}:{probe.port}" for at in want["publish"]))
    words += _each("--env", (f"{key}={value}" for key, value in want["environment"].items() if key not in PROXIES))
    words += ["--env-file", env_file(name)] if set(PROXIES) & set(want["environment"]) else []
    words += _each("--mount", want["mounts"])
    words += ["--memory", str(want["memory"])] if want["memory"] else []
    words += ["--cpus", f"{want['cpus'] / NANO:.9f}"] if want["cpus"] else []
    words += ["--pids-limit", str(want["pids"])] if want["pids"] else []
    words += ["--log-driver", want["log"]["driver"]]
    words += _each("--log-opt", (f"{key}={value}" for key, value in want["log"].items() if key != "driver"))
    words += ["--privileged"] if want["privileged"] else []
    words += _each("--device", want["devices"])
    words += [] if want["network"] == BRIDGE else ["--network", want["network"]]
    engine = (f"{LABEL}={probe.label}",) if probe.label else ()
    labels = (f"{inspect.MANAGED}=1", f"provision.instance={name}", *engine, f"provision.run={want['run']}")
    return [*words, *_each("--label", labels), want["image"]]


def run_hash(name: str, wanted: Mapping[str, Any], probe: Probe) -> str:
    """Return a hash of the whole run line, which covers options that `docker inspect` is not asked for."""
    words = create_words(name, {**wanted, "run": ""}, probe)
    return hashlib.sha256(dumps([words, wanted["environment"]]).encode()).hexdigest()[:16]


def _each(option: str, values: Any) -> list[str]:
    return [word for value in values for word in (option, value)]


def csv_field(text: str) -> str:
    """Return one field of a CSV record, the form of `--gpus` and `--mount`."""
    return f'"{text.replace(chr(34), chr(34) * 2)}"' if "," in text or '"' in text else text
