"""The manifest and the first bytes of a model, from its registry to this machine.

The protocol is that of image registries; the blobs may be at another host (docs/facts.md#ollama-pull).
"""

import http.client
import re
import urllib.error
import urllib.request
from collections.abc import Mapping

from provision.errors import GuardError, UnreachableError

_ACCEPT = "application/vnd.docker.distribution.manifest.v2+json"
_LARGEST_MANIFEST = 4_000_000
_SILENCE = 10.0
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


def manifest(repository: str, tag: str, silence: float = _SILENCE) -> bytes:
    """Return the manifest of a model.

    Args:
        repository: address of the model in its registry, http or https.
        tag: of the model.
        silence: the longest time without an answer, in seconds.

    Raises:
        UnreachableError: no answer, or a refusal.
        GuardError: the answer is larger than a manifest.
    """
    data = _bytes(f"{repository}/manifests/{tag}", {"Accept": _ACCEPT}, _LARGEST_MANIFEST + 1, silence)
    if len(data) > _LARGEST_MANIFEST:
        raise GuardError(f"{repository}/manifests/{tag} is larger than {_LARGEST_MANIFEST} bytes: no manifest")
    return data


def begin(repository: str, digest: str, count: int, silence: float = _SILENCE) -> bytes:
    """Return the first bytes of a blob. Of a registry that sends the whole blob, no more is read.

    Args:
        repository: as for `manifest`.
        digest: digest of the blob.
        count: number of bytes.
        silence: as for `manifest`.

    Raises:
        UnreachableError: no answer, or a refusal.
        GuardError: the text is no digest.
    """
    if not _DIGEST.fullmatch(digest):
        raise GuardError(f"the manifest of {repository} names a blob {digest[:80]!r}, which is no digest")
    return _bytes(f"{repository}/blobs/{digest}", {"Range": f"bytes=0-{count - 1}"}, count, silence)


def _bytes(url: str, headers: Mapping[str, str], most: int, silence: float) -> bytes:
    """Return at most so many bytes at an address."""
    hint = "look at the address in a browser; a proxy is taken from https_proxy"
    request = urllib.request.Request(url, headers=dict(headers))  # noqa: S310 - http and https alone
    try:
        with urllib.request.urlopen(request, timeout=silence) as answer:  # noqa: S310 - http and https alone
            data: bytes = answer.read(most)
            return data
    except urllib.error.HTTPError as error:
        raise UnreachableError(f"{url} answers {error.code} {error.reason}", hint) from None
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise UnreachableError(f"{url} cannot be fetched: {getattr(error, 'reason', None) or error}", hint) from None
