"""Files of other projects, fetched on this machine, with signatures that GnuPG judges by keys of the operator.

No key is trusted because a file was signed with the key: the operator names a file of keys.
"""

import http.client
import shutil
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from provision.errors import GuardError, UnreachableError, UsageError

SECONDS = 300.0
"""Longest time of a download, in seconds."""
_SILENCE = 20.0
_PART = 1 << 16
_PATIENCE = 120  # seconds for GnuPG, which takes tens of seconds for all keys of Debian's developers


@dataclass(frozen=True)
class Signer:
    """The maker of a good signature.

    Args:
        name: name and address in the key.
        fingerprint: fingerprint of the primary key.
    """

    name: str
    fingerprint: str


def fetch(url: str, most: int, begins: bytes, kind: str, seconds: float = SECONDS, silence: float = _SILENCE) -> bytes:
    """Return the bytes at an address.

    Args:
        url: the address, http or https.
        most: the largest size, in bytes.
        begins: the first bytes of every file of the kind.
        kind: the kind of the file, in words.
        seconds: the longest time of the download, in seconds.
        silence: the longest time without an answer, in seconds.

    Raises:
        UnreachableError: no answer, a refusal, or an answer that takes too long.
        GuardError: the answer is another kind of file, such as a web page, or too large.
    """
    hint = "look at the address in a browser; a proxy is taken from https_proxy"
    deadline = time.monotonic() + seconds
    data = bytearray()
    try:
        with urllib.request.urlopen(url, timeout=silence) as answer:  # noqa: S310 - http and https alone
            while part := answer.read1(_PART):
                data += part
                if len(data) > most:
                    raise GuardError(f"{url} is larger than {most} bytes: another file than {kind}", hint)
                if time.monotonic() > deadline:
                    raise UnreachableError(f"{url} takes longer than {seconds:.0f} s", hint)
    except urllib.error.HTTPError as error:
        raise UnreachableError(f"{url} answers {error.code} {error.reason}", hint) from None
    except (OSError, ValueError, http.client.HTTPException) as error:  # ValueError: a redirect to no address
        reason = getattr(error, "reason", None) or error
        raise UnreachableError(f"{url} cannot be fetched: {reason}", hint) from None
    if not data.startswith(begins):
        first = bytes(data[:40]).decode("ascii", "replace")
        raise GuardError(f"{url} is not {kind}: the file begins with {first!r}", "is a portal or a proxy in between?")
    return bytes(data)


def detached(data: bytes, signature: bytes, keys: Path, program: str = "gpg") -> Signer:
    """Verify a file by the signature beside the file.

    Args:
        data: the file.
        signature: the signature, armored or not.
        keys: file of the keys that may sign, armored or not.
        program: GnuPG.

    Raises:
        UsageError: GnuPG is missing, or the file holds no keys.
        GuardError: the signature is wrong, expired, or by a key outside the file.
    """
    with tempfile.TemporaryDirectory(prefix="provision-gpg-") as name:
        folder = Path(name)
        (folder / "data").write_bytes(data)
        (folder / "signature").write_bytes(signature)
        gpg = _Gpg(program, folder, keys)
        return gpg.judged(["--verify", str(folder / "signature"), str(folder / "data")])


def clear(text: bytes, keys: Path, program: str = "gpg") -> tuple[bytes, Signer]:
    """Verify a text that carries its signature, and return the signed part alone.

    Args:
        text: the whole text.
        keys: file of the keys that may sign, armored or not.
        program: GnuPG.

    Raises:
        UsageError, GuardError: as `detached`.
    """
    with tempfile.TemporaryDirectory(prefix="provision-gpg-") as name:
        folder = Path(name)
        (folder / "text").write_bytes(text)
        gpg = _Gpg(program, folder, keys)
        signer = gpg.judged(["--output", str(folder / "signed"), "--decrypt", str(folder / "text")])
        return (folder / "signed").read_bytes(), signer


_BAD = {
    "BADSIG": "the signature is wrong: the file or the signature was changed",
    "EXPSIG": "the signature has expired",
    "EXPKEYSIG": "the key of the signature has expired",
    "REVKEYSIG": "the key of the signature was revoked",
    "NO_PUBKEY": "the file is signed with a key that is not among the given keys",
    "ERRSIG": "the signature cannot be checked",
}


class _Gpg:
    """GnuPG in a folder of its own, with the keys of a file and no others."""

    def __init__(self, program: str, folder: Path, keys: Path) -> None:
        self._keys = keys
        self._folder = folder
        found = shutil.which(program)
        if found is None:
            raise UsageError(f"a signature needs {program}, which is not installed", "apt-get install gnupg")
        home = folder / "home"
        home.mkdir(mode=0o700)
        options = ["--homedir", str(home), "--batch", "--no-tty", "--no-options", "--no-autostart"]
        self._words = [found, *options, "--no-auto-key-retrieve", "--trust-model", "always"]
        if not keys.is_file():
            raise UsageError(f"there is no file of keys {keys}", "get the keys from their makers, and compare them")
        status, said = self._run(["--import", str(keys.resolve())])
        if not any(words[0] == "IMPORT_OK" for words in status):
            raise UsageError(f"{keys} holds no OpenPGP key: {said[-300:]}", "give a file such as gpg --export writes")

    def judged(self, words: list[str]) -> Signer:
        """Verify a signature, and return who made the signature."""
        status, said = self._run(words)
        codes = {line[0]: line[1:] for line in status}
        for code, meaning in _BAD.items():
            if code in codes:
                key = f" (key {codes[code][0]})" if codes[code] else ""
                raise GuardError(f"{meaning}{key}", f"the keys are those of {self._keys}; nothing was written")
        if "GOODSIG" not in codes or "VALIDSIG" not in codes:
            raise GuardError(f"there is no good signature: {said[-300:]}", "nothing was written")
        return Signer(" ".join(codes["GOODSIG"][1:]), codes["VALIDSIG"][-1])

    def _run(self, words: list[str]) -> tuple[list[list[str]], str]:
        """Return the status lines of GnuPG, as words, and the text for people."""
        status = self._folder / "status"
        status.unlink(missing_ok=True)
        line = [*self._words, "--status-file", str(status), *words]
        try:
            done = subprocess.run(line, capture_output=True, timeout=_PATIENCE, check=False, stdin=subprocess.DEVNULL)
        except subprocess.TimeoutExpired:
            hint = "give a file with the keys of the maker alone: gpg --export FINGERPRINT >FILE"
            raise UsageError(f"{words[0]} of gpg takes longer than {_PATIENCE} s, with {self._keys}", hint) from None
        text = status.read_text(errors="replace") if status.exists() else ""
        marked = (one.removeprefix("[GNUPG:] ").split() for one in text.splitlines() if one.startswith("[GNUPG:] "))
        return [words for words in marked if words], " ".join(done.stderr.decode(errors="replace").split())
