"""Keys of the lab: the login key, the hosts' own keys, and the signing keys of the lab's package repositories."""

import os
from pathlib import Path

from provision.lab import paths
from provision.lab.shell import output, run


def ssh_key(path: Path, comment: str) -> str:
    """Return the public key of `path`; make the ed25519 pair first where the file is missing."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", comment, "-f", path])
    return path.with_name(path.name + ".pub").read_text().strip()


def _gpg(*words: str | Path) -> str:
    home = paths.CACHE / "gpg"
    home.mkdir(parents=True, exist_ok=True, mode=0o700)
    home.chmod(0o700)
    env = {**os.environ, "GNUPGHOME": str(home)}
    try:
        return run(["gpg", "--batch", "--quiet", "--yes", *words], env=env).stdout
    finally:
        run(["gpgconf", "--kill", "all"], env=env, check=False)


def signing_key(owner: str) -> str:
    """Return the fingerprint (40 hex digits) of the lab's signing key for an owner; make the key the first time."""
    keys = _gpg("--with-colons", "--list-keys") if (paths.CACHE / "gpg/pubring.kbx").exists() else ""
    name = f"provision lab, simulated {owner}"
    if name not in keys:
        _gpg("--passphrase", "", "--quick-generate-key", name, "rsa3072", "sign", "never")
    listing = _gpg("--with-colons", "--fingerprint", name)
    return next(line.split(":")[9] for line in listing.splitlines() if line.startswith("fpr:"))


def public_key(fingerprint: str) -> str:
    """The armored public key of a fingerprint."""
    return _gpg("--armor", "--export", fingerprint)


def sign(release: Path, fingerprint: str) -> None:
    """Sign a repository's Release file: InRelease and Release.gpg beside it."""
    options = ("--local-user", fingerprint, "--digest-algo", "SHA256")
    _gpg(*options, "--clearsign", "--output", release.with_name("InRelease"), release)
    _gpg(*options, "--armor", "--detach-sign", "--output", release.with_name("Release.gpg"), release)


def known_host(private: Path, names: list[str]) -> str:
    """Return the line of known_hosts for the host with a private key."""
    words = output(["ssh-keygen", "-y", "-f", private]).split()
    return f"{','.join(names)} {words[0]} {words[1]}\n"
