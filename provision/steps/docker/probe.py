"""The questions of the look at Docker to an instance, by the instance's engine: port and paths of the server, and the
files of its models. Pure.

With a single engine the shell names no engine. With several engines Docker tells the engine of a container.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

LABEL = "provision.engine"
Labels = Mapping[str, str] | None


@dataclass(frozen=True, kw_only=True)
class Probe:
    """The questions to an instance of one engine.

    Args:
        label: value of the label `provision.engine` on its containers; empty for the engine whose containers are older
            than the label.
        port: port of the server inside a container.
        home: folder inside a container at which the storage of its models is mounted.
        health: path that a serving server answers with status 200.
        asks: further paths, whose answers the engine reads: the instance's models, and its loaded models.
        files: folders below `home` whose files are read with their contents.
        blobs: folders below `home` whose files are read by their sizes alone.
    """

    label: str = ""
    port: int
    home: str
    health: str
    asks: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    blobs: tuple[str, ...] = ()

    def is_of(self, labels: Labels) -> bool:
        """Whether a container belongs to this engine.

        Args:
            labels: labels of the container, from Docker.
        """
        return (labels or {}).get(LABEL, "") == self.label

    def bindings(self, ports: Mapping[str, Any] | None) -> Sequence[Mapping[str, str]]:
        """The bindings at which a container publishes the server's port.

        Args:
            ports: port bindings of the container, from Docker.
        """
        return (ports or {}).get(f"{self.port}/tcp") or ()


Probes = tuple[Probe, ...]
"""The probes of every engine that an instance may have; at least one."""


def words(probes: Probes) -> str:
    """The shell's variables for the words that `place` prints about a container."""
    return f"status id pid at image {'engine ' if len(probes) > 1 else ''}folder"


def place(probes: Probes) -> str:
    """The template for `docker inspect` that prints, in one line, the words for asking an instance; see `words`."""
    at = "nowhere"
    for probe in reversed(probes):
        bound = f'{{{{with index .HostConfig.PortBindings "{probe.port}/tcp"}}}}'
        at = f"{bound}{{{{with index . 0}}}}{{{{.HostIp}}}}:{{{{.HostPort}}}}{{{{end}}}}{{{{else}}}}{at}{{{{end}}}}"
    engine = f"{_engine_word(probes)} " if len(probes) > 1 else ""
    homes = " ".join(f'"{probe.home}"' for probe in probes)
    return (
        '{{if index .Config.Labels "provision.instance"}}{{println}}@ {{.State.Status}} {{.Id}} {{.State.Pid}} '
        f"{at} {{{{.Image}}}} {engine}"
        f"{{{{range .Mounts}}}}{{{{if eq .Destination {homes}}}}}{{{{.Source}}}}{{{{end}}}}{{{{end}}}}{{{{end}}}}"
    )


def _engine_word(probes: Probes) -> str:
    """The part of the template for a container's engine: a dash, and the label of a known engine."""
    labels = (probe.label for probe in probes if probe.label)
    label = f'(index .Config.Labels "{LABEL}")'
    return "-" + "".join(f'{{{{if eq {label} "{name}"}}}}{name}{{{{end}}}}' for name in labels)


# An instance's answers come in pieces, each written whole (a pipe takes up to 4096 bytes at once), because all
# instances answer into one pipe.
def answers(probes: Probes) -> str:
    """The shell function that asks an instance: $1 id, $2 address and port, and with several engines $3 the engine."""
    urls = [_urls(probe) for probe in probes]
    chosen, requests, own = "", urls[0], "$1"
    if len(probes) > 1:
        cases = "".join(f"    -{p.label}) set -- {text} ;;\n" for p, text in zip(probes, urls, strict=True))
        chosen, requests, own = f"  id=$1\n  case $3 in\n{cases}  esac\n", '"$@"', "$id"
    return (
        f"answers() {{\n{chosen}"
        "  curl --noproxy '*' -sf --fail-early -m 15 -w '\\n%{exitcode} %{http_code} %{errormsg}\\n' \\\n"
        f"    {requests} |\n"
        f'    base64 -w 3000 | while read -r part; do printf \'%s api %s\\n\' "{own}" "$part"; done\n'
        "}"
    )


def _urls(probe: Probe) -> str:
    """curl's arguments for an instance. The body of the first answer has no meaning."""
    bodies = "".join(f' -o - "http://$2{path}"' for path in probe.asks)
    return f'-o /dev/null "http://$2{probe.health}"{bodies}'
