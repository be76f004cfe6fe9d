"""Obstacles between sshd and a root shell: sudo, banners, shells, locales, SFTP, /tmp."""

import pytest

from tests.faults.case import Case, both, params, play
from tests.faults.common import container_back, key_back, new_build, old_build, one_container, one_key
from tests.faults.world import BALANCER

pytestmark = [pytest.mark.lab, pytest.mark.faults]
ASKED = """
id asked >/dev/null 2>&1 || useradd -m -s /bin/bash asked; echo asked:right | chpasswd
cp -r /home/ops/.ssh /home/asked/; chown -R asked:asked /home/asked/.ssh
echo 'asked ALL=(ALL) ALL' >/etc/sudoers.d/asked; chmod 0440 /etc/sudoers.d/asked
"""
NOISE = "echo Welcome; echo noise on stderr >&2; printf '\\033[31mred\\033[0m\\n'; yes hello | head -n 2000\n"
RC = ("/home/ops/.bashrc", "/home/ops/.profile", "/etc/ssh/sshrc")


def sudo_asks(password=None):
    """Connect as a user whom sudo asks for a password, with the given password or none."""

    def change(world):
        world.sh(ASKED)
        world.vars()["ansible_user"] = "asked"
        if password is not None:
            world.vars()["ansible_become_password"] = password

    return change


def sudo_as_before(world):
    for name in ("ansible_user", "ansible_become_password"):
        world.vars().pop(name, None)
    world.sh("rm -f /etc/sudoers.d/asked; userdel -rf asked 2>/dev/null || :")


def sudo_asks_from_now_on(world):
    world.sh("echo 'ops ALL=(ALL) ALL' >/etc/sudoers.d/zz-asked; chmod 0440 /etc/sudoers.d/zz-asked")


def sudo_asks_no_more(world):
    world.sh("rm -f /etc/sudoers.d/zz-asked")


def noise(world):
    for path in RC:
        world.sh(f'[ ! -e {path} ] || cp -p {path} {path}.kept; printf %s "$1" >{path}', NOISE)
    world.sh("echo 'Authorized use only!' >/etc/issue.net; echo 'Banner /etc/issue.net' >/etc/ssh/sshd_config.d/b.conf")
    world.sh("systemctl restart ssh")


def quiet(world):
    for path in RC:
        world.sh(f"rm -f {path}; [ ! -e {path}.kept ] || mv {path}.kept {path}")
    world.sh("rm -f /etc/ssh/sshd_config.d/b.conf; systemctl restart ssh")


def shell(path, package=""):
    install = f"[ -x {path} ] || apt-get install -qy {package} >/dev/null 2>&1;" if package else ""
    return lambda world: world.sh(f"{install} usermod -s {path} ops")


def bash(world):
    world.sh("usermod -s /bin/bash ops")


def german(world):
    world.sh(
        "apt-get install -qy locales >/dev/null 2>&1; localedef -i de_DE -f UTF-8 de_DE.UTF-8;"
        " cp -p /etc/environment /root/environment 2>/dev/null || :;"
        " printf 'LANG=de_DE.UTF-8\\nLC_ALL=de_DE.UTF-8\\nLANGUAGE=de\\n' >>/etc/environment;"
        " printf 'LANG=de_DE.UTF-8\\n' >/etc/default/locale; su -l ops -c 'locale' | grep -q de_DE",
    )


def english(world):
    world.sh("cd /etc; rm -f environment default/locale; [ ! -e /root/environment ] || mv /root/environment .")


def no_sftp(world):
    world.sh(
        "sed -i 's/^Subsystem.*sftp/#&/' /etc/ssh/sshd_config; systemctl restart ssh; rm -r /opt/provision/nginx/*-*/",
        host=BALANCER,
    )


def sftp(world):
    world.sh("sed -i 's/^#\\(Subsystem\\)/\\1/' /etc/ssh/sshd_config; systemctl restart ssh", host=BALANCER)


def noexec(host="gpu-02"):
    def change(world):
        for path in ("/tmp", "/var/tmp", "/dev/shm"):
            world.sh('mount -t tmpfs -o mode=1777,noexec,nosuid,nodev tmpfs "$1"', path, host=host)

    return change


def executable(host="gpu-02"):
    def change(world):
        for path in ("/tmp", "/var/tmp", "/dev/shm"):
            world.sh('umount -l "$1"', path, host=host)

    return change


WORK = {"ready": both(one_key, one_container), "code": 0, "keep": False}
DONE = both(key_back, container_back)
CASES = {
    "the sudo password is wrong": Case(
        sudo_asks("wrong"),
        ("sudo password is wrong", "-K"),
        sudo_as_before,
        leaves=(),
    ),
    "sudo asks, and no password was given": Case(
        sudo_asks(),
        ("sudo asks for a password", "-K"),
        sudo_as_before,
        leaves=(),
    ),
    "sudo asks from the middle of the run on": Case(
        sudo_asks_from_now_on,
        ("sudo asks for a password", "-K"),
        both(sudo_asks_no_more, DONE),
        r"\S+",
        at="docker_config:daemon.json",
        ready=WORK["ready"],
        keep=False,
        stays_locked=True,
    ),
    "the sudo password is wrong, in German": Case(
        both(german, sudo_asks("wrong")), ("sudo password is wrong", "-K"), both(sudo_as_before, english)
    ),
    "sudo asks in German, and no password was given": Case(
        both(german, sudo_asks()), ("sudo asks for a password", "-K"), both(sudo_as_before, english)
    ),
    "a banner, and noise on both streams": Case(noise, mend=both(quiet, DONE), **WORK),
    "the shell is sh": Case(shell("/bin/sh"), mend=both(bash, DONE), **WORK),
    "the shell is tcsh": Case(shell("/bin/tcsh", "tcsh"), mend=both(bash, DONE), **WORK),
    "the shell is fish": Case(shell("/usr/bin/fish", "fish"), mend=both(bash, DONE), **WORK),
    "the locale is German": Case(german, mend=both(english, DONE), **WORK),
    "SFTP is off": Case(no_sftp, mend=sftp, host=BALANCER, code=0),
    "/tmp is noexec": Case(noexec(), mend=both(executable(), DONE), **WORK),
    "/tmp is noexec where nginx is built": Case(
        noexec(BALANCER), mend=both(executable(BALANCER), old_build), ready=new_build, host=BALANCER, code=0
    ),
    "the login is refused": Case(
        lambda w: w.vars().update(ansible_user="nobody-of-this-name"),
        ("nobody-of-this-name@.* refused to log us in", "authorized_keys"),
        lambda w: w.vars().pop("ansible_user"),
        code=4,
        result="unreachable",
        leaves=(),
    ),
}


@pytest.mark.parametrize("case", params(CASES, "a banner, and noise on both streams"))
def test_login(world, seen, case):
    play(world, case, seen)
