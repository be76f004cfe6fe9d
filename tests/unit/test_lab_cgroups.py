"""The last lab switches off what labs switched on in the machine's own cgroup. Plain files stand in for cgroups."""

from pathlib import Path

from provision.lab import cgroups


def hierarchy(folder: Path, controllers: str, on: str) -> Path:
    """A folder with the files of a cgroup of v2."""
    root = folder / "cgroup"
    root.mkdir()
    (root / "cgroup.controllers").write_text(controllers)
    (root / "cgroup.subtree_control").write_text(on)
    return root


def test_only_controllers_that_were_off_are_switched_on_and_named(tmp_path: Path) -> None:
    root = hierarchy(tmp_path, "cpuset cpu memory", "memory")
    assert cgroups.switch_on(root) == ["cpuset", "cpu"]
    assert (root / "cgroup.subtree_control").read_text() == "+cpu", "the last write"


def test_the_recorded_controllers_are_switched_off_once(tmp_path: Path) -> None:
    root, record = hierarchy(tmp_path, "cpuset cpu", "cpuset cpu"), tmp_path / "record"
    record.write_text("cpu")
    cgroups.switch_off(root, record)
    assert (root / "cgroup.subtree_control").read_text() == "-cpu"
    assert not record.exists()
    (root / "cgroup.subtree_control").write_text("cpuset cpu")
    cgroups.switch_off(root, record)
    assert (root / "cgroup.subtree_control").read_text() == "cpuset cpu"


def test_a_hierarchy_of_cgroup_v1_leaves_the_record_alone(tmp_path: Path) -> None:
    record = tmp_path / "record"
    record.write_text("cpu")
    (tmp_path / "v1").mkdir()
    cgroups.switch_off(tmp_path / "v1", record)
    assert record.read_text() == "cpu"
