"""Programs of the operator before and after a run."""

import contextlib
import io
import json

import pytest

from provision.errors import GuardError, UsageError
from provision.runs.hooks import Hooks

DOCUMENT = {"hosts": ["gpu-01"]}


@pytest.fixture
def place(tmp_path):
    (tmp_path / "hooks").mkdir()
    (tmp_path / "prod.yaml").write_text("")
    return tmp_path


def hooks(place):
    return Hooks(str(place / "prod.yaml"), "run-1", "deploy")


def write(place, name, text, mode=0o755):
    path = place / "hooks" / name
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(mode)


def test_without_hooks_nothing_happens(tmp_path):
    found = hooks(tmp_path)
    found.check()
    found.before(DOCUMENT)
    assert found.after(DOCUMENT, failed=True) == ""


def test_each_hook_gets_the_run_as_json_and_runs_beside_the_inventory(place):
    for name in ("pre-deploy", "post-deploy", "on-failure"):
        write(place, name, 'cat >"$PROVISION_EVENT.json"; echo "$PROVISION_COMMAND" >>commands')
    found = hooks(place)
    found.before(DOCUMENT)
    assert found.after({**DOCUMENT, "exit": 0}, failed=False) == ""
    assert found.after({**DOCUMENT, "exit": 3}, failed=True) == ""
    for name in ("pre-deploy", "post-deploy", "on-failure"):
        said = json.loads((place / f"{name}.json").read_text())
        assert (said["schema"], said["event"], said["run"], said["hosts"]) == (1, name, "run-1", ["gpu-01"])
        assert said["command"] == "deploy"
    assert (place / "commands").read_text() == "deploy\n" * 3


def test_the_output_of_a_hook_is_not_on_our_standard_output(place, capfd):
    write(place, "pre-deploy", "echo from the hook")
    hooks(place).before(DOCUMENT)
    said = capfd.readouterr()
    assert (said.out, said.err) == ("", "from the hook\n")


def test_a_hook_runs_in_a_program_whose_standard_error_is_no_file(place, capfd):
    write(place, "pre-deploy", "echo from the hook")
    with contextlib.redirect_stderr(io.StringIO()):
        hooks(place).before(DOCUMENT)
    assert capfd.readouterr() == ("", "from the hook\n")


def test_a_failed_pre_deploy_stops_the_run_with_exit_7(place):
    write(place, "pre-deploy", "exit 9")
    with pytest.raises(GuardError, match="exit code 9: nothing was touched") as caught:
        hooks(place).before(DOCUMENT)
    assert caught.value.exit_code == 7


def test_a_failed_hook_after_the_run_is_reported_and_changes_nothing(place):
    write(place, "post-deploy", "exit 4")
    (place / "hooks/on-failure").write_bytes(b"\x7fELF no program")
    (place / "hooks/on-failure").chmod(0o755)
    assert hooks(place).after(DOCUMENT, failed=False) == "post-deploy ended with exit code 4"
    assert "could not be started" in hooks(place).after(DOCUMENT, failed=True)


def test_a_hook_that_reads_nothing_is_fine(place):
    write(place, "pre-deploy", "exit 0")
    hooks(place).before({"hosts": ["x" * 100] * 10_000})


@pytest.mark.parametrize(
    ("mode", "said"), [(0o644, "no program"), (0o775, "written by others"), (0o757, "written by others")]
)
def test_an_unsafe_hook_is_refused_before_any_work(place, mode, said):
    write(place, "post-deploy", "touch ran", mode)
    with pytest.raises(UsageError, match=said):
        hooks(place).check()
    assert said in hooks(place).after(DOCUMENT, failed=False)
    assert not (place / "ran").exists()


def test_a_directory_in_place_of_a_hook_is_refused(place):
    (place / "hooks/pre-deploy").mkdir()
    with pytest.raises(UsageError, match="no program"):
        hooks(place).before(DOCUMENT)
