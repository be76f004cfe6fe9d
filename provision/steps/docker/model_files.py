"""The files of instances' models: manifests and our marks with their contents, blobs with their sizes."""

MARKS = "provision-models"
"""The folder beside an instance's `models/`, with a file for each model that we pulled."""

_BLOBS = "/models/blobs/"  # of what is there, no content is read

# `$ours` names the folders. A folder of models is the container's own to write: names in it may be anything.
# A program for each file, with a NUL behind it: a container that changes its files meanwhile must not move the contents
# of another's.
SHELL = rf"""
files() {{
  set --
  while read -r status id pid at image folder; do
    [ -z "$folder" ] || set -- "$@" "$folder"
  done <<ours
$ours
ours
  for folder do
    for part in models/manifests {MARKS} models/blobs; do
      [ ! -d "$folder/$part" ] || set -- "$@" "$folder/$part"
    done
    shift
  done
  [ $# -eq 0 ] || find "$@" -type f \( -path '*{_BLOBS}*' -printf '%p\0%s\0\0' -o \
    -printf '%p\0%s\0' -exec cat -- {{}} \; -printf '\0' \) 2>/dev/null
}}
"""


def parse(data: bytes) -> tuple[dict[str, bytes], dict[str, int]]:
    """The files with their contents, and the blobs with their sizes.

    Args:
        data: what `files` printed.

    Raises:
        ValueError: a file changed while it was read, or the list ends early.
    """
    files: dict[str, bytes] = {}
    blobs: dict[str, int] = {}
    while data:
        name, size, rest = data.split(b"\0", 2)
        path, length = name.decode(errors="surrogateescape"), int(size)
        if _BLOBS in path:
            blobs[path], length = length, 0
        else:
            files[path] = rest[:length]
        if rest[length : length + 1] != b"\0":
            raise ValueError("a file changed while it was read")
        data = rest[length + 1 :]
    return files, blobs
