"""`provision logs`, `exec` and `ssh` on real hosts. The model servers of the lab are simulated."""

import json
import shlex
import signal
import subprocess

import pytest

from tests.faults.running import Running

from .conftest import Done, wait_for

pytestmark = [pytest.mark.lab, pytest.mark.matrix]
MODEL = "deepseek-r1:1.5b"
FOLLOWERS = "pgrep -fa '[d]ocker logs|[t]ail -F|[s]ed -u' || :"


def ask(fleet, text: str) -> None:
    """Send a request through the balancer, with a text in its address."""
    fleet.on("lb-01", "sh", "-c", f"curl -s -o /dev/null http://127.0.0.1:3008/api/version?{text}")


def test_the_last_lines_of_instances_and_balancers(fleet):
    ask(fleet, "here")
    done = fleet.provision("logs", "-n", "5")
    assert done.code == 0, done
    names = {line.split()[0] for line in done.out.splitlines()}
    assert names >= {"gpu-01/ollama1", "gpu-01/ollama2", "gpu-02/ollama1", "gpu-02/ollama2", "lb-01/access"}
    found = fleet.provision("logs", "balancer/access", "--grep", "/api/v[e]rsion", "--since", "10m", "--json")
    (host,) = found.doc["hosts"]
    assert (found.code, host["host"], host["result"]) == (0, "lb-01", "ok")
    assert json.loads(host["lines"][-1]["text"])["uri"] == "/api/version"
    assert fleet.provision("logs", "gpu-01", "--grep", "(").code == 3
    assert fleet.provision("logs", "gpu-01/nothing").code == 2


def test_two_hosts_are_followed_at_once_and_nothing_is_left_on_a_host(fleet):
    running = Running(fleet, "logs", "-f", "-n", "0", "gpu/ollama1", "balancer/access")
    wanted = {"gpu-01/ollama1", "gpu-02/ollama1", "lb-01/access"}

    def all_come() -> bool:
        for host in ("gpu-01", "gpu-02"):
            fleet.on(host, "sh", "-c", "curl -s -o /dev/null http://$(docker port ollama1 11434)/api/version")
        ask(fleet, "here")
        return {line.split()[0] for line in running.printed} == wanted

    try:
        wait_for(all_come)
        assert all(fleet.on(host, "sh", "-c", FOLLOWERS) for host in ("gpu-01", "gpu-02", "lb-01"))
    finally:
        running.signal(signal.SIGINT)
        done = running.end()
    assert done.code == 130, done
    for host in ("gpu-01", "gpu-02", "lb-01"):
        wait_for(lambda host=host: not fleet.on(host, "sh", "-c", FOLLOWERS))


def test_a_follower_goes_on_in_a_restarted_container_and_ends_with_a_killed_client(fleet):
    running = Running(fleet, "logs", "-f", "-n", "0", "gpu-01/ollama1")
    try:
        wait_for(lambda: fleet.on("gpu-01", "sh", "-c", FOLLOWERS))
        fleet.on("gpu-01", "docker", "restart", "ollama1")
        wait_for(lambda: "docker logs" in fleet.on("gpu-01", "sh", "-c", FOLLOWERS))
    finally:
        running.kill()
    wait_for(lambda: not fleet.on("gpu-01", "sh", "-c", FOLLOWERS))
    fleet.deploy()


def test_a_command_in_the_container_of_an_instance(fleet):
    words = ("gpu-01/ollama1", "--")
    assert executed(fleet, "exec", *words, "ollama", "list").out.splitlines()[0].split()[0] == "NAME"
    odd = executed(fleet, "exec", *words, "printf", "%s|", "a b", "$HOME", "; exit 3", "'")
    assert (odd.code, odd.out) == (0, "a b|$HOME|; exit 3|'|")
    failed = executed(fleet, "exec", *words, "sh", "-c", "echo out; echo err >&2; exit 42")
    assert (failed.code, failed.out, failed.err) == (42, "out\n", "err\n")
    assert executed(fleet, "exec", "gpu-01/none", "--", "true").code == 2


def test_a_login_by_the_ssh_of_this_machine(fleet, tmp_path):
    done = executed(fleet, "ssh", "gpu-02", "--", "printf", "%s|", "a b", "$HOME", "'")
    assert (done.code, done.out) == (0, "a b|$HOME|'|"), done
    assert executed(fleet, "ssh", "gpu-02", "--", "sh", "-c", "exit 7").code == 7
    assert executed(fleet, "ssh", "gpu-02", "--", "hostname").out.strip() == fleet.on("gpu-02", "hostname").strip()
    known = fleet.vars["ansible_ssh_common_args"]
    (tmp_path / "known_hosts").write_text("")
    fleet.vars["ansible_ssh_common_args"] = f"-o UserKnownHostsFile={tmp_path}/known_hosts"
    try:
        refused = executed(fleet, "ssh", "gpu-02", "--", "true")
        assert (refused.code, "Host key verification failed" in refused.err) == (255, True), refused
    finally:
        fleet.vars["ansible_ssh_common_args"] = known


def executed(fleet, command: str, *words: str):
    """Run a command whose own words come last. The command may become another program, so it has a process."""
    plain = fleet.command(command)
    argv = [*plain, *words]
    done = subprocess.run(
        argv, capture_output=True, text=True, check=False, timeout=120, env=fleet.environment, stdin=subprocess.DEVNULL
    )
    return Done(done.returncode, done.stdout, done.stderr)


def test_a_word_is_quoted_for_the_shell_once(fleet):
    text = executed(fleet, "ssh", "gpu-01", "--", "sh", "-c", "printf '%s' \"$1\"", "sh", "x y").out
    assert text == "x y", shlex.quote(text)
