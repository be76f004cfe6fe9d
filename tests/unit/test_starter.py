"""The starter of commands for lab tests: a command gets its words, and the test gets the output."""

import os
import subprocess
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.starter import Starter


@pytest.fixture(scope="module")
def starter():
    made = Starter()
    yield made
    made.close()


def test_every_command_has_words_a_folder_streams_and_an_exit_code_of_its_own(starter, tmp_path):
    (tmp_path / "inventory.yaml").write_text("gpu: {hosts: {gpu-01: {ansible_host: 192.0.2.1, ansible_port: 0}}}")
    refused = starter.run(["inventory", "check"], os.environ, 60, tmp_path)
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "ansible_port" in refused.stderr
    named = starter.run(["--version"], os.environ, 60)
    assert (named.returncode, named.stderr) == (0, "")
    assert named.stdout.startswith("provision, version")


def test_a_command_gets_the_given_environment_and_the_next_command_does_not(starter, tmp_path):
    (tmp_path / "inventory.yaml").write_text(
        "all: {vars: {ansible_user: !env WHO, nginx: {accept_known_vulnerabilities: true}}, "
        "children: {balancer: {hosts: {lb-01: {ansible_host: 192.0.2.1}}}}}"
    )

    def show(env):
        return starter.run(["inventory", "show"], env, 60, tmp_path)

    given = {"PATH": os.environ["PATH"], "WHO": "somebody"}
    assert "somebody" in show(given).stdout
    assert show({"PATH": os.environ["PATH"]}).returncode == 2


def test_several_commands_run_at_once(starter):
    with ThreadPoolExecutor(6) as pool:
        done = list(pool.map(lambda word: starter.run([word], os.environ, 60), ["--version", "nonsense"] * 6))
    assert [one.returncode for one in done] == [0, 2] * 6
    assert all("nonsense" in one.stderr for one in done[1::2])


def test_a_command_that_takes_too_long_is_killed(starter, tmp_path):
    os.mkfifo(tmp_path / "inventory.yaml")
    with pytest.raises(subprocess.TimeoutExpired):
        starter.run(["inventory", "check"], os.environ, 0.5, tmp_path)
