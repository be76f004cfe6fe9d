"""The listening TCP sockets of a host, as `ss -Hltnp` lists them (ss(8))."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Listener:
    """A listening TCP socket.

    Args:
        address: address of the socket, such as `0.0.0.0` or `[::]`.
        port: port of the socket.
        program: name of the program, or empty.
    """

    address: str
    port: int
    program: str


def parse(line: str) -> Listener:
    """Return the socket of a line.

    Args:
        line: a line of the list.

    Raises:
        ValueError: the port of the socket is no number.
        IndexError: the line has too few words.
    """
    words = line.split()
    address, _, port = words[3].rpartition(":")
    program = words[5].partition('("')[2].partition('"')[0] if len(words) > 5 else ""
    return Listener(address.partition("%")[0], int(port), program)
