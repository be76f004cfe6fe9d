"""The known vulnerabilities of nginx's releases: the only table of the project, with sources and date.

A release is judged by its number and by the modules that `configure` gets. The table knows nothing of patches.

Sources, read on 2026-11-29: nginx.org `security_advisories.xml`; Debian's changelog of nginx 1.26.3-3+deb13u11;
ALSA-2026:100744; MGASA-2026-0590 and MGASA-2026-0605. docs/facts.md#nginx-versions has the same list.
"""

from collections.abc import Sequence
from dataclasses import dataclass

READ = "2026-11-29"
"""The day of the last look into the sources. Later advisories are missing."""

MENDED = "1.30.7"
"""The oldest stable release without a vulnerability of the table."""

Release = tuple[int, ...]

_LAST_STABLE: Release = (1, 31, 0)
"""From here on a release is a mainline release, after the last stable line of the table."""


@dataclass(frozen=True)
class Vulnerability:
    """A known vulnerability.

    Args:
        cve: the number: `CVE-2026-42533`.
        fixed: the first stable release with the fix, or a later one where the sources do not name the first.
        needs: what the vulnerability needs of a build or a configuration, in words.
        module: the argument of `configure` that decides: with `--with-NAME` only a build with the argument has the
            vulnerability, with `--without-NAME` every other build. Empty for every build.
        mainline: the first release of 1.31 with the fix; empty where the sources name none.
    """

    cve: str
    fixed: Release
    needs: str
    module: str = ""
    mainline: Release = ()

    def is_open(self, release: Release, arguments: Sequence[str]) -> bool:
        """Whether a build has the vulnerability.

        Args:
            release: nginx's version, as numbers.
            arguments: the arguments of `configure`.
        """
        fixed = self.mainline if release >= _LAST_STABLE else self.fixed
        given = any(argument.partition("=")[0].startswith(self.module) for argument in arguments)
        built = not self.module or given != self.module.startswith("--without-")
        return release < fixed and built


_SSL, _HTTP2, _HTTP3 = "--with-http_ssl_module", "--with-http_v2_module", "--with-http_v3_module"
_NEWEST: Release = (1, 31, 9)

TABLE = (
    Vulnerability("CVE-2025-23419", (1, 26, 3), "TLS session reuse", _SSL),
    Vulnerability("CVE-2025-53859", (1, 30, 4), "mail", "--with-mail"),
    Vulnerability("CVE-2026-1642", (1, 28, 2), "a backend by TLS", _SSL),
    Vulnerability("CVE-2026-9256", (1, 30, 2), "`rewrite`, `set` or `if` with captures"),
    Vulnerability("CVE-2026-27651", (1, 30, 4), "mail", "--with-mail"),
    Vulnerability("CVE-2026-27654", (1, 30, 4), "dav", "--with-http_dav_module"),
    Vulnerability("CVE-2026-27784", (1, 30, 4), "mp4", "--with-http_mp4_module"),
    Vulnerability("CVE-2026-28753", (1, 30, 4), "mail", "--with-mail"),
    Vulnerability("CVE-2026-32647", (1, 30, 4), "mp4", "--with-http_mp4_module"),
    Vulnerability("CVE-2026-40460", (1, 30, 4), "HTTP/3", _HTTP3),
    Vulnerability("CVE-2026-40701", (1, 30, 1), "`ssl_ocsp` with a `resolver`", _SSL),
    Vulnerability("CVE-2026-42055", (1, 30, 3), "gRPC", "--without-http_grpc_module"),
    Vulnerability("CVE-2026-42530", (1, 30, 4), "HTTP/3", _HTTP3),
    Vulnerability("CVE-2026-42533", (1, 30, 4), "a `map` with a regular expression, and its variable after a capture"),
    Vulnerability("CVE-2026-42934", (1, 30, 1), "`charset_map`", "--without-http_charset_module"),
    Vulnerability("CVE-2026-42945", (1, 30, 1), "`rewrite`, `set` or `if` with captures"),
    Vulnerability("CVE-2026-42946", (1, 30, 1), "scgi", "--without-http_scgi_module"),
    Vulnerability("CVE-2026-48142", (1, 30, 3), "`charset_map`", "--without-http_charset_module"),
    Vulnerability("CVE-2026-56434", (1, 30, 4), "SSI", "--without-http_ssi_module"),
    Vulnerability("CVE-2026-60005", (1, 30, 4), "slice", "--with-http_slice_module"),
    Vulnerability("CVE-2026-15176", (1, 30, 6), "`alias` after a `rewrite`"),
    Vulnerability("CVE-2026-93479", (1, 30, 6), "string expressions with variables"),
    Vulnerability("CVE-2026-95101", (1, 30, 6), "HTTP/3", _HTTP3),
    Vulnerability("CVE-2026-97205", (1, 30, 6), "the counter of asynchronous operations"),
    Vulnerability("CVE-2026-97629", (1, 30, 6), "shared session ticket keys that rotate", _SSL),
    Vulnerability("CVE-2026-113425", (1, 30, 7), "mail", "--with-mail", _NEWEST),
    Vulnerability("CVE-2026-118899", (1, 30, 7), "request bodies over TLS 1.3", _SSL, _NEWEST),
    Vulnerability("CVE-2026-120967", (1, 30, 7), "stream with TLS", "--with-stream", _NEWEST),
    Vulnerability("CVE-2026-121810", (1, 30, 7), "QUIC", _HTTP3, _NEWEST),
    Vulnerability("CVE-2026-123007", (1, 30, 7), "`http2 on`", _HTTP2, _NEWEST),
    Vulnerability("CVE-2026-123633", (1, 30, 7), "`http2 on`", _HTTP2, _NEWEST),
    Vulnerability("CVE-2026-123634", (1, 30, 7), "a `resolver`", "", _NEWEST),
    Vulnerability("CVE-2026-123640", (1, 30, 7), "stream with TLS", "--with-stream", _NEWEST),
    Vulnerability("CVE-2026-125283", (1, 30, 7), "`alias` and `try_files`", "", _NEWEST),
)


def release(version: str) -> Release:
    """Return a version as numbers."""
    return tuple(int(part) for part in version.split("."))


def known(version: str, arguments: Sequence[str]) -> list[str]:
    """Return the numbers of all known vulnerabilities of a build, oldest first.

    Args:
        version: nginx's version: `1.26.3`.
        arguments: the arguments of `configure`.
    """
    number = release(version)
    return [entry.cve for entry in TABLE if entry.is_open(number, arguments)]
