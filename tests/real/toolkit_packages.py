"""The toolkit's packages for a lab, with real programs, and a CDI file of made-up cards."""

import shutil
from dataclasses import replace
from pathlib import Path

from provision.lab import debs
from tests.real.install.toolkit import Built
from tests.real.install.workshop import Workshop

_ORIGIN = "NVIDIA Container Toolkit, its programs built from the Go module"


def folder(shop: Workshop, build: Built, further: Path | None = None) -> Path:
    """Return a folder with the four packages of the toolkit. nvidia-container-cli and the C library stay simulated.

    Args:
        shop: the workshop.
        build: the built programs.
        further: a folder of more packages to put beside.
    """
    target = shop.folder / "toolkit-packages"
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    for package in debs.toolkit(build.version):
        programs = {path: Path(build.folder) / Path(path).name for path in package.files}
        real = {path: program for path, program in programs.items() if program.is_file()}
        summary = f"{_ORIGIN}: {', '.join(sorted(path.name for path in real.values()))}" if real else package.summary
        debs.build(replace(package, files={**package.files, **real}, summary=summary), target)
    for path in further.glob("*.deb") if further else ():
        shutil.copyfile(path, target / path.name)
    return target


CDI_FILE = """\
cdiVersion: 0.5.0
kind: nvidia.com/gpu
devices:
{devices}
containerEdits:
    env:
        - NVIDIA_VISIBLE_DEVICES=void
    deviceNodes:
        - path: /dev/nvidiactl
          hostPath: /dev/nvidiactl
    hooks:
        - hookName: createContainer
          path: /usr/bin/nvidia-cdi-hook
          args:
            - nvidia-cdi-hook
            - create-symlinks
            - --link
            - libcuda.so.1::/usr/lib/libcuda.so
"""
"""The form of nvidia-container-toolkit v1.20.2 `cmd/nvidia-ctk/cdi/generate/generate_test.go`, without the hooks that
ask NVIDIA's driver."""
_DEVICE = """\
    - name: "{name}"
      containerEdits:
        deviceNodes:
{nodes}"""
_NODE = """\
            - path: /dev/nvidia{index}
              hostPath: /dev/nvidia{index}
"""


def cdi_file(uuids: list[str]) -> str:
    """Return the CDI file of some cards: each by index and by UUID, and all together.

    Args:
        uuids: the UUIDs in the order of the indices.
    """
    every = {str(index): [index] for index in range(len(uuids))}
    every |= {uuid: [index] for index, uuid in enumerate(uuids)}
    every["all"] = list(range(len(uuids)))
    devices = (
        _DEVICE.format(name=name, nodes="".join(_NODE.format(index=index) for index in indices))
        for name, indices in every.items()
    )
    return CDI_FILE.format(devices="".join(devices).rstrip())
