"""A source package of Debian: the signed list of files (.dsc), and the series of patches in a debian.tar.xz."""

import io
import re
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass

from provision.errors import GuardError

MOST = 20 << 20  # bytes of all patches together
_FIELD = re.compile(r"^([A-Za-z0-9-]+):[ \t]*(.*)$")
_CVE = re.compile(r"CVE-20\d\d-\d{4,6}")


@dataclass(frozen=True)
class SourcePackage:
    """The part of a .dsc that says what belongs to the package.

    Args:
        source: name of the package.
        version: the version, with Debian's revision.
        sha256: file -> the hash of the file.
    """

    source: str
    version: str
    sha256: Mapping[str, str]

    def file(self, ending: str) -> str:
        """Return the only file whose name ends so.

        Raises:
            GuardError: the package has no such file, or several.
        """
        names = [name for name in self.sha256 if name.endswith(ending)]
        if len(names) != 1:
            raise GuardError(f"the source package {self.source} {self.version} has {len(names)} files *{ending}")
        return names[0]


def parse(text: str) -> SourcePackage:
    """Return the source package that the signed part of a .dsc describes.

    Raises:
        GuardError: a field is missing or has another form.
    """
    fields: dict[str, list[str]] = {}
    name = ""
    for line in text.splitlines():
        if match := _FIELD.match(line):
            name = match[1].lower()
            fields[name] = [match[2].strip()]
        elif line.startswith((" ", "\t")) and name:
            fields[name].append(line.strip())
    sums = [line.split() for line in fields.get("checksums-sha256", []) if line]
    wrong = [words for words in sums if len(words) != 3 or not re.fullmatch(r"[0-9a-f]{64}", words[0])]
    named = [words[2] for words in sums if len(words) == 3]
    if not sums or wrong or any(not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9.+~_-]*", each) for each in named):
        raise GuardError("the .dsc has no list of sha256 sums in the form of Debian's")
    (source,), (version,) = (fields.get(key, [""])[:1] for key in ("source", "version"))
    return SourcePackage(source, version, {words[2]: words[0] for words in sums})


def patches(data: bytes) -> tuple[list[str], frozenset[str]]:
    """Return the patches of a debian.tar.xz in their order, and the CVEs that the patches name.

    Args:
        data: the tarball.

    Raises:
        GuardError: the tarball cannot be read, or has no series.
    """
    try:
        with tarfile.open(fileobj=io.BytesIO(data)) as tar:
            members = {member.name.removeprefix("./"): member for member in tar.getmembers() if member.isfile()}
            series = members.get("debian/patches/series")
            listed = _text(tar, series).splitlines() if series else []
            names = [line.split()[0] for line in listed if line.strip() and not line.startswith("#")]
            absent = [name for name in names if f"debian/patches/{name}" not in members]
            if not names or absent:
                raise GuardError(f"the tarball has no debian/patches/series, or lacks patches of it: {absent[:3]}")
            chosen = [members[f"debian/patches/{name}"] for name in names]
            if sum(member.size for member in chosen) > MOST:
                raise GuardError(f"the patches of the tarball take more than {MOST} bytes")
            text = "\n".join([*names, *(_text(tar, member) for member in chosen)])
    except (tarfile.TarError, EOFError, OSError) as error:
        raise GuardError(f"the tarball cannot be read: {error}") from None
    return names, frozenset(_CVE.findall(text))


def _text(tar: tarfile.TarFile, member: tarfile.TarInfo) -> str:
    file = tar.extractfile(member)
    return file.read(MOST).decode(errors="replace") if file else ""
