"""The floor: the least cost of one SSH connection per host, with paramiko and in threads. A whole program.

python floor.py FILE, where FILE is JSON: user, key, known_hosts, and for every host its address, command and stdin.
The program checks host keys, uses sudo, and sends small packets at once, as `provision` does.
"""

import json
import socket
import sys
import threading
from pathlib import Path

import paramiko


def ask(login: dict[str, str], host: dict[str, str], done: list[str]) -> None:
    """Run a command on a host and read its whole output.

    Args:
        login: user, key, known_hosts.
        host: address, command, stdin.
        done: takes the address if the command succeeded.
    """
    sock = socket.create_connection((host["address"], 22))
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    client = paramiko.SSHClient()
    client.load_system_host_keys(login["known_hosts"])
    client.connect(host["address"], username=login["user"], key_filename=login["key"], look_for_keys=False, sock=sock)
    with client:
        channel = client.get_transport().open_session()  # type: ignore[union-attr]
        channel.set_combine_stderr(True)
        channel.exec_command(host["command"])
        channel.sendall(host["stdin"].encode())
        channel.shutdown_write()
        while channel.recv(65536):
            pass
        if channel.recv_exit_status() == 0:
            done.append(host["address"])


def main(job: dict[str, object], hosts: list[dict[str, str]]) -> int:
    """Ask all hosts at once; exit 1 if a host did not answer well."""
    done: list[str] = []
    login = {key: str(job[key]) for key in ("user", "key", "known_hosts")}
    threads = [threading.Thread(target=ask, args=(login, host, done)) for host in hosts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return 0 if len(done) == len(hosts) else 1


if __name__ == "__main__":
    read = json.loads(Path(sys.argv[1]).read_text())
    sys.exit(main(read, read["hosts"]))
