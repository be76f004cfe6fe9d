"""An Ollama of the host's own, installed by Ollama's script, and its models.

Sources: Ollama's install script makes `ollama.service` with the user `ollama`, whose home is /usr/share/ollama; the
folder of the models is OLLAMA_MODELS, else `.ollama/models` in the home (docs/facts.md#ollama-files).
"""

import re
from typing import Any

from provision.command import Answer, Script, look
from provision.steps.base import Fact, State, UnreadableError
from provision.steps.docker import image_room
from provision.steps.ollama import server_state

UNIT = "ollama.service"
HOME = "/usr/share/ollama"
MOST = 200  # models

# Prints the unit's properties; the folder of the models; a line `model PATH MANIFEST` for each model.
LOOK = Script(
    "ollama/native",
    rf"""
shown=$(systemctl show -p LoadState -p ActiveState -p UnitFileState -p User -p Environment {UNIT} 2>/dev/null)
printf '%s\n' "$shown"
folder=$(printf '%s\n' "$shown" | sed -n 's/^Environment=.*OLLAMA_MODELS=\([^" ]*\).*/\1/p')
user=$(printf '%s\n' "$shown" | sed -n 's/^User=//p')
home=$(getent passwd "${{user:-ollama}}" | cut -d: -f6)
folder=${{folder:-${{home:-{HOME}}}/.ollama/models}}
echo "folder $folder"
find "$folder/manifests" -type f -printf '%P\n' 2>/dev/null | head -n {MOST} | while IFS= read -r path; do
  printf 'model %s ' "$path"; head -c 100000 -- "$folder/manifests/$path" | tr -d '\n'; echo
done
for place do
  find "$place/models/manifests" -type f -printf 'there %P\n' 2>/dev/null | head -n {MOST}
done
echo end
""",
)
_MODEL = re.compile(r"model ([A-Za-z0-9._/:-]{1,400}) (\{.*)")


def fact(storages: tuple[str, ...]) -> Fact:
    """Return the fact about a native server.

    Args:
        storages: the folders in which instances of the inventory keep their models.
    """
    return Fact(look(LOOK, *storages, title="look for a native server"), _state)


def _state(answer: Answer) -> State:
    lines = answer.text.splitlines()
    if "end" not in lines:
        raise UnreadableError(answer.complaint or "the answer ends early")
    shown = dict(line.partition("=")[::2] for line in lines if "=" in line.partition(" ")[0])
    folder = next((line.partition(" ")[2] for line in lines if line.startswith("folder ")), "")
    found = [match for line in lines if (match := _MODEL.fullmatch(line))]
    there = {line.partition(" ")[2] for line in lines if line.startswith("there ")}
    return {
        "unit": UNIT,
        "active": shown.get("ActiveState") in ("active", "activating", "reloading"),
        "enabled": shown.get("UnitFileState", "").startswith("enabled"),
        "folder": folder,
        "models": {_name(match[1]): size for match in found if (size := _size(match[2])) is not None},
        "there": sorted(_name(path) for path in there),
    }


def _name(path: str) -> str:
    """Return the name of a model by the path of its manifest."""
    parts = path.split("/")
    if len(parts) < 4:
        return path
    registry, space, name, tag = parts[0], "/".join(parts[1:-2]), parts[-2], parts[-1]
    return server_state.canonical(f"{registry}/{space}/{name}:{tag}")


def _size(text: str) -> int | None:
    """Return the bytes of a model by its manifest; None for a text that is no manifest."""
    layers: dict[str, Any] | None = image_room.layers(Answer(0, text.encode()))
    return sum(layers.values()) if layers is not None else None
