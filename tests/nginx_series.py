"""A small series of patches for nginx, in the layout of Debian's: of our own, because no vendor's is to be had here.

The second patch applies only after the first, and both show in the answers of a running nginx.
"""

import io
import lzma
import tarfile
from pathlib import Path

from provision.artifacts.store import file_digest

SERIES = "lab-series.debian.tar.xz"
WRONG = "wrong.patch"
HEADER = "Server: nginx of the lab's series"
"""The header of an nginx with the whole series, in place of `Server: nginx`."""

_FILE = "src/http/ngx_http_header_filter_module.c"


def _patch(before: str, after: str) -> str:
    """Return a patch of the header that nginx sends without its version (`server_tokens off`)."""
    lines = (
        "Description: name the lab in the header Server",
        f"--- a/{_FILE}",
        f"+++ b/{_FILE}",
        "@@ -46,7 +46,7 @@",
        " };",
        " ",
        " ",
        f'-static u_char ngx_http_server_string[] = "{before}" CRLF;',
        f'+static u_char ngx_http_server_string[] = "{after}" CRLF;',
        ' static u_char ngx_http_server_full_string[] = "Server: " NGINX_VER CRLF;',
        ' static u_char ngx_http_server_build_string[] = "Server: " NGINX_VER_BUILD CRLF;',
        " ",
    )
    return "\n".join((*lines, ""))


def entry(site: Path, url: str, name: str) -> dict[str, str]:
    """Write the files into the site of a lab, and return an entry of `nginx.patches`.

    Args:
        site: the folder of the lab's site.
        url: address of nginx's tarball on the site.
        name: `SERIES` or `WRONG`.
    """
    folder = site / "nginx"
    _write(folder)
    return {"url": f"{url.rpartition('/')[0]}/{name}", "sha256": file_digest(folder / name)}


def _write(folder: Path) -> None:
    """Write the series, and a patch that applies to no nginx."""
    middle = "Server: nginx of the lab"
    files = {
        "series": "# the lab's own\nfirst.patch\nsecond.patch\n",
        "first.patch": _patch("Server: nginx", middle),
        "second.patch": _patch(middle, HEADER),
    }
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as tar:
        for name, text in files.items():
            member = tarfile.TarInfo(f"debian/patches/{name}")
            member.size = len(text.encode())
            tar.addfile(member, io.BytesIO(text.encode()))
    (folder / SERIES).write_bytes(lzma.compress(data.getvalue()))
    (folder / WRONG).write_text(_patch("Server: a program", "Server: another program"))
