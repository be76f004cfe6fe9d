"""The files of instances' models: manifests, our marks and the like with their contents, blobs with their sizes."""

from collections.abc import Sequence

from provision.steps.docker.probe import Probes, words


# `$ours` names the folders. A folder of models is the container's own to write: names in it may be anything.
# A program for each file, and a NUL after each content: a container that changes its files meanwhile must not shift the
# contents of another container's files.
def shell(probes: Probes) -> str:
    """The shell function `files`, whose output `parse` understands."""
    parts = dict.fromkeys(part for probe in probes for part in (*probe.files, *probe.blobs))
    sizes = "".join(rf"-path '*/{part}/*' -printf '%p\0%s\0\0' -o " for part in _blobs(probes))
    return rf"""
files() {{
  set --
  while read -r {words(probes)}; do
    [ -z "$folder" ] || set -- "$@" "$folder"
  done <<ours
$ours
ours
  for folder do
    for part in {" ".join(parts)}; do
      [ ! -d "$folder/$part" ] || set -- "$@" "$folder/$part"
    done
    shift
  done
  [ $# -eq 0 ] || find "$@" -type f \( {sizes}\
    -printf '%p\0%s\0' -exec cat -- {{}} \; -printf '\0' \) 2>/dev/null
}}
"""


def _blobs(probes: Probes) -> Sequence[str]:
    """The folders whose files are read without their contents."""
    return list(dict.fromkeys(part for probe in probes for part in probe.blobs))


def parse(data: bytes, probes: Probes) -> tuple[dict[str, bytes], dict[str, int]]:
    """The files with their contents, and the blobs with their sizes.

    Args:
        data: output of `files`.
        probes: the probes of `shell`.

    Raises:
        ValueError: a file changed while it was read, or the list ends early.
    """
    files: dict[str, bytes] = {}
    blobs: dict[str, int] = {}
    while data:
        name, size, rest = data.split(b"\0", 2)
        path, length = name.decode(errors="surrogateescape"), int(size)
        if any(f"/{part}/" in path for part in _blobs(probes)):
            blobs[path], length = length, 0
        else:
            files[path] = rest[:length]
        if rest[length : length + 1] != b"\0":
            raise ValueError("a file changed while it was read")
        data = rest[length + 1 :]
    return files, blobs
