"""Time limits of commands for a slow host: an emulated machine, a host at load 400, a long way. Pure.

`timeout_factor` of the inventory multiplies every limit: of a whole command, of each `timeout` inside of a script, and
of the waits that a script counts by `${patience:-1}`. A proof of verify is a line for `sh -c`, and counts as a script,
but a shell within the line does not. curl's own limits of single requests stay. A script for a host
with the factor 1 has no word about limits.
"""

import dataclasses
from typing import TypeVar

from provision.command import Put, Run

C = TypeVar("C", Run, Run | Put)

# `timeout` stands before the program of the same name in a script. A limit that is no whole number stays as it is: such
# a limit is an operator's own, such as nvidia_toolkit.smi_timeout. The names of the variables are taken nowhere else.
_PATIENT = """patience={factor}
timeout() {{
  provision_kill=0
  if [ "$1" = -k ]; then provision_kill=$2; shift 2; fi
  provision_limit=$1; shift
  case $provision_limit in '' | *[!0-9]*) ;; *) provision_limit=$((provision_limit * patience)) ;; esac
  command timeout -k "$provision_kill" "$provision_limit" "$@"
}}
"""


def stretched(command: C, factor: int) -> C:
    """Return the same command with longer limits.

    Args:
        command: the command. The writing of a file has no limit on the host.
        factor: by how much every limit is longer; 1 changes nothing.
    """
    if factor == 1 or not isinstance(command, Run):
        return command
    patient = _PATIENT.format(factor=factor)
    words: tuple[str, ...] = command.words
    stdin: bytes = command.stdin
    if words[:2] == ("sh", "-s"):
        stdin = patient.encode() + stdin
    elif words[:2] == ("sh", "-c") and "timeout " in words[2]:
        words = ("sh", "-c", patient + words[2], *words[3:])
    return dataclasses.replace(command, words=words, timeout=command.timeout * factor, stdin=stdin)
