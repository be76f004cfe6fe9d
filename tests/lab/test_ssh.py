"""The connection, against a real sshd and a real sudo. Its effects on a deploy are in tests/faults/test_login.py."""

import dataclasses
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from provision.command import run
from provision.errors import RefusedError, UnreachableError
from provision.inventory import Connection
from provision.ssh.session import Session
from tests.shell import sh

pytestmark = pytest.mark.lab
HOST = "gpu-01"
PASSWORD = 'it\'s a $(secret) "word"'


@pytest.fixture
def connection(lab):
    return Connection(
        address=lab.host(HOST).address,
        user="ops",
        become=True,
        key_files=(str(lab.key),),
        known_hosts=(str(lab.known_hosts),),
    )


@pytest.fixture
def session(connection):
    made = Session(connection)
    yield made
    made.close()


@pytest.fixture
def asking(lab, connection):
    """A user whom sudo asks for a password."""
    host = lab.host(HOST)
    host.run(["useradd", "-m", "-s", "/bin/bash", "asked"])
    host.run(["chpasswd"], stdin=f"asked:{PASSWORD}\n")
    host.run(["cp", "-r", "/home/ops/.ssh", "/home/asked/"])
    host.run(["chown", "-R", "asked:asked", "/home/asked/.ssh"])
    host.write("/etc/sudoers.d/asked", "asked ALL=(ALL) ALL\n", 0o440)
    yield dataclasses.replace(connection, user="asked")
    host.run(["rm", "/etc/sudoers.d/asked"])
    host.run(["userdel", "-rf", "asked"], check=False)


def restart_sshd(host):
    """Restart sshd, which waits until sshd listens; a reload does not. Systemd counts restarts, and refuses a sixth."""
    host.run(["systemctl", "reset-failed", "ssh"], check=False)
    host.run(["systemctl", "restart", "ssh"])


def who(session):
    return session.batch([run("id", "-un")], stop=True)[0].text


def test_many_commands_are_one_connection_and_one_exec(session):
    answers = session.batch([run("id", "-un"), sh("exit 3", title="x"), run("true")], stop=False)
    assert [(a.exit, a.text) for a in answers] == [(0, "root\n"), (3, ""), (0, "")]
    assert (session.connects, session.execs) == (1, 1)


def test_sudo_with_a_password(asking):
    session = Session(asking, PASSWORD)
    assert who(session) == "root\n"
    session.close()


def test_a_password_that_sudo_does_not_ask_for_is_nowhere(lab, connection):
    session = Session(connection, PASSWORD)
    [answer] = session.batch([sh("cat", title="x")], stop=True)
    assert (who(session), answer.text) == ("root\n", "")
    session.close()
    assert PASSWORD not in lab.host(HOST).run(["journalctl", "--no-pager", "-n", "200"]).stdout


@pytest.mark.parametrize(("password", "message"), [("wrong", "is wrong"), (None, "asks for a password")])
def test_sudo_that_refuses_is_one_clear_sentence(asking, password, message):
    with pytest.raises(RefusedError, match=message):
        who(Session(asking, password))


def test_a_user_without_sudo(lab, asking):
    lab.host(HOST).write("/etc/sudoers.d/asked", "", 0o440)
    with pytest.raises(RefusedError, match="sudo"):
        who(Session(asking, PASSWORD))


def test_a_closed_port_and_a_silent_address(lab, connection):
    with pytest.raises(UnreachableError, match="connection refused"):
        who(Session(dataclasses.replace(connection, port=2299)))
    lab.cut(HOST)
    try:
        with pytest.raises(UnreachableError, match="does not answer within 1 s"):
            who(Session(dataclasses.replace(connection, connect_timeout=1.0)))
    finally:
        lab.uncut(HOST)


def test_sftp_is_not_needed(lab, session, tmp_path):
    import io

    host = lab.host(HOST)
    host.run(["sed", "-i", "s/^Subsystem.*sftp/#&/", "/etc/ssh/sshd_config"])
    restart_sshd(host)
    content = bytes(range(256)) * 4096
    session.upload(io.BytesIO(content), "/root/large file")
    back = io.BytesIO()
    session.download("/root/large file", back)
    host.run(["rm", "/root/large file"])
    host.run(["sed", "-i", "s/^#\\(Subsystem\\)/\\1/", "/etc/ssh/sshd_config"])
    assert back.getvalue() == content


def test_a_job_survives_its_connection_and_is_followed_over_a_new_one(session):
    lines, long = [], "of a job " * 10  # the last 64 bytes wait for more, because a mark may begin in them

    def heard(line):
        lines.append(line)
        if len(lines) == 2:
            threading.Thread(target=session.close).start()

    job = sh(f"for i in 1 2 3 4 5 6; do echo '{long}'$i; sleep 2; done; exit 7", title="a job", job=True)
    answer = session.job(job, heard)
    assert answer.exit == 7
    assert lines == [f"{long}{i}" for i in range(1, 7)]
    assert session.connects == 2


def test_a_command_that_hangs_is_ended_on_the_host(session):
    begun = time.monotonic()
    [answer] = session.batch([run("sleep", "314", timeout=1)], stop=False)
    assert answer.exit == 124
    assert time.monotonic() - begun < 200
    assert session.batch([run("pgrep", "-f", "[s]leep 314", ok=(0, 1))], stop=True)[0].exit == 1


@pytest.mark.parametrize("most", [1, 3])
def test_where_sshd_allows_few_channels_one_waits_for_another(lab, session, most):
    host = lab.host(HOST)
    host.write("/etc/ssh/sshd_config.d/few.conf", f"MaxSessions {most}\n")
    restart_sshd(host)
    try:
        with ThreadPoolExecutor(8) as pool:
            said = list(pool.map(lambda _: who(session), range(16)))
    finally:
        host.run(["rm", "/etc/ssh/sshd_config.d/few.conf"])
        restart_sshd(host)
    assert (said, session.connects, session.execs) == (["root\n"] * 16, 1, 16)
