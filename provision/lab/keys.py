"""Keys of the lab: the one that logs in, the hosts' own, and the one that signs the lab's package repositories."""

import os
from pathlib import Path

from provision.lab import paths
from provision.lab.shell import output, run


def ssh_key(path: Path, comment: str) -> str:
    """Return the public key of `path`; make the ed25519 pair first if it is not there."""
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
    """Return the fingerprint (40 hex digits) of the lab's signing key of that owner; make it the first time."""
    listed = _gpg("--with-colons", "--list-keys") if (paths.CACHE / "gpg/pubring.kbx").exists() else ""
    name = f"provision lab, simulated {owner}"
    if name not in listed:
        _gpg("--passphrase", "", "--quick-generate-key", name, "rsa3072", "sign", "never")
    shown = _gpg("--with-colons", "--fingerprint", name)
    return next(line.split(":")[9] for line in shown.splitlines() if line.startswith("fpr:"))


def public_key(fingerprint: str) -> str:
    """The armored public key of a fingerprint."""
    return _gpg("--armor", "--export", fingerprint)


def sign(release: Path, fingerprint: str) -> None:
    """Sign a repository's Release file: InRelease and Release.gpg beside it."""
    chosen = ("--local-user", fingerprint, "--digest-algo", "SHA256")
    _gpg(*chosen, "--clearsign", "--output", release.with_name("InRelease"), release)
    _gpg(*chosen, "--armor", "--detach-sign", "--output", release.with_name("Release.gpg"), release)


def known_host(private: Path, names: list[str]) -> str:
    """One line of known_hosts for the host that owns this key."""
    words = output(["ssh-keygen", "-y", "-f", private]).split()
    return f"{','.join(names)} {words[0]} {words[1]}\n"
