"""The room that a model needs: its size by the manifest of its registry, less the bytes that are on the disk already.

Where the registry is silent, the manifest on the host tells the size of a model that the host has, or had. A stopped
server's model, whole on the disk, is not pulled, even after the registry moved the tag.

Sources: the names of manifests and blobs, docs/facts.md#ollama-files; a pull that was cut off leaves a sparse file
`sha256-...-partial` of the whole size, and goes on there (docs/facts.md#ollama-pull).
"""

import re
from collections.abc import Mapping, Sequence
from functools import partial

from provision.command import Answer, Script, look
from provision.steps import room
from provision.steps.docker import image_room
from provision.steps.instance import storage
from provision.steps.ollama import server_state
from provision.steps.room import Filling, Room
from provision.steps.system.proxy import OUTSIDE

# $1 address of the manifest. `--proto`: a registry cannot send the host to another kind of address.
SIZE = Script(
    "ollama/model-size",
    OUTSIDE
    + r"""
body=$(mktemp) why=$(mktemp); trap 'rm -f "$body" "$why"' EXIT
code=$(outside curl -sS -L --proto '=http,https' --connect-timeout 5 -m 10 --max-filesize 4000000 -o "$body" \
  -w '%{http_code}' -H 'Accept: application/vnd.docker.distribution.manifest.v2+json' "$1" 2>"$why") || code=
case $code in
  200) cat "$body" ;;
  '') tail -n 1 "$why" >&2; exit 1 ;;
  *) echo "HTTP $code from $1" >&2; exit 1 ;;
esac
""",
)

# Sets `folder` to the folder of an instance's models. $1 the folder, or empty for a volume; $2 name of the volume;
# $3 Docker's declared folder, or empty.
FOLDER = rf"""
folder=$1
if [ -z "$folder" ]; then
  root=$3
  [ "$root" ] || root=$(timeout 15 docker info --format '{{{{.DockerRootDir}}}}' 2>/dev/null) || root=
  folder=${{root:-{image_room.DATA_ROOT}}}/volumes/$2/_data
fi
"""

# $1 to $3 as of FOLDER; $4 manifest below models/manifests, printed if the host has the manifest. A partial blob counts
# by its allocated blocks.
PLACE = Script(
    "ollama/model-place",
    room.FREE
    + FOLDER
    + r"""
free "$folder"
[ ! -f "$folder/models/manifests/$4" ] ||
  { printf 'manifest '; head -c 1000000 -- "$folder/models/manifests/$4" | tr -d '\n'; echo; }
[ ! -d "$folder/models/blobs" ] ||
  find "$folder/models/blobs" -maxdepth 1 -type f -name 'sha256-*' -printf 'blob %f %s %b\n'
""",
)


def filling(
    name: str,
    instance: str,
    at: str,
    data_root: str,
    *,
    insecure: bool,
    usual: int | None,
    kept: bool = False,
    smaller: Sequence[tuple[str, int]] = (),
) -> Filling:
    """Return what the pull of a model brings.

    Args:
        name: of the model.
        instance: name of the instance.
        at: storage of the instance's models: `volume`, or a directory of the host.
        data_root: Docker's declared folder; empty for Docker's own.
        insecure: whether the registry is asked over plain http.
        usual: bytes, where the registry does not tell the size; None if unknown.
        kept: whether a whole model on the disk stays, without a pull.
        smaller: models that can take the place of the model, each with its bytes; the largest first.
    """
    repository, tag = address(name, insecure=insecure)
    words = place_words(name, instance, at, data_root)
    folder, volume, *_ = words
    return Filling(
        f"model {name}",
        look(SIZE, f"{repository}/manifests/{tag}", title=f"ask for the size of {name}", timeout=25),
        look(
            PLACE,
            *words,
            title=f"look at the room for the models of {instance}" if volume else f"look at the room in {folder}",
            timeout=45,
        ),
        partial(_room, usual=usual, kept=kept),
        "docker.data_root or ollama.storage" if volume else "ollama.storage",
        smaller,
    )


def address(name: str, *, insecure: bool) -> tuple[str, str]:
    """Return the address of a model in its registry, and the tag.

    Args:
        name: of the model.
        insecure: whether the registry is asked over plain http.
    """
    registry, space, model, tag = server_state.parts(name)
    scheme = "http" if insecure and registry != server_state.DEFAULT_REGISTRY else "https"
    return f"{scheme}://{registry}/v2/{space}/{model}", tag


def place_words(name: str, instance: str, at: str, data_root: str) -> tuple[str, str, str, str]:
    """Return the arguments of `FOLDER`, and the path of a model's manifest.

    Args:
        name, instance, at, data_root: as for `filling`.
    """
    folder, volume = ("", instance) if at == storage.VOLUME else (at, "")
    return folder, volume, data_root, server_state.manifest_path(name)


BLOB_LINE = re.compile(r"^blob (sha256-[0-9a-f]{64})(-partial)? (\d{1,18}) (\d{1,18})$", re.MULTILINE)
BLOCK = 512  # bytes of a block in find's %b


def _room(size: Answer, place: Answer, *, usual: int | None, kept: bool) -> Room:
    local = _local(place)
    if kept and local and not _missing(local, place):
        return room.of(place, 0)
    layers = image_room.layers(size) or local
    if layers is None:
        return room.of(place, usual, "" if usual else room.unanswered(size))
    return room.of(place, _missing(layers, place))


def _missing(layers: Mapping[str, int], place: Answer) -> int:
    """Return how many bytes of some layers are missing on the disk."""
    there: dict[str, int] = {}
    for name, is_partial, length, blocks in BLOB_LINE.findall(place.text):
        bytes_ = min(int(length), int(blocks) * BLOCK) if is_partial else int(length)
        there[name] = max(there.get(name, 0), bytes_)
    return sum(max(0, bytes_ - there.get(digest.replace(":", "-"), 0)) for digest, bytes_ in layers.items())


def _local(place: Answer) -> dict[str, int] | None:
    """Return the layers by the host's own manifest: of a model that the host has, or had."""
    lines = (line.partition(" ") for line in place.text.splitlines())
    manifest = next((rest for word, _, rest in lines if word == "manifest"), None)
    return None if manifest is None else image_room.layers(Answer(0, manifest.encode()))
