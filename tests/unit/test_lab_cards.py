"""The simulated nvidia-smi answers as the real one does, in health and in every fault."""

import importlib.machinery
import importlib.util
import json
import runpy
import subprocess

import pytest

from provision.lab import paths, sheet
from provision.lab.spec import HostSpec, Spec
from provision.steps import nvidia_smi
from provision.steps.instance import container_state


def load(name):
    """Load a program of the lab without .py in its name as a module."""
    loader = importlib.machinery.SourceFileLoader(name.replace("-", "_"), str(paths.SIMULATED / name))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader(loader.name, loader))
    loader.exec_module(module)
    return module


@pytest.fixture
def smi(tmp_path, monkeypatch, capsys):
    """A function that runs nvidia-smi on a host with two cards, and returns exit code and output."""
    module = load("nvidia-smi")
    files = sheet.card_files(Spec(name="x", gpus=2), HostSpec("gpu-01", "gpu", 11))
    (tmp_path / "faults").mkdir()
    (tmp_path / "gpus.json").write_text(files["etc/provision-lab/gpus.json"])
    monkeypatch.setattr(module, "LAB", tmp_path)
    monkeypatch.setattr(module, "CONTAINER", tmp_path / "container.json")
    monkeypatch.setattr(module, "USAGE", tmp_path / "usage")

    def run(*words):
        code = module.main([*words])
        return code, capsys.readouterr().out

    run.home = tmp_path
    return run


# docs/facts.md#nvidia-smi: the fields the project asks for
FIELDS = (
    "index,uuid,name,pci.bus_id,driver_version,compute_cap,memory.total,memory.used,memory.free,mig.mode.current,"
    "ecc.mode.current,persistence_mode,compute_mode,utilization.gpu,temperature.gpu,power.draw,power.limit"
)


def test_query_without_units(smi):
    code, said = smi(f"--query-gpu={FIELDS}", "--format=csv,noheader,nounits")
    rows = [line.split(", ") for line in said.splitlines()]
    assert code == 0
    assert [row[0] for row in rows] == ["0", "1"]
    assert rows[0][2:9] == [
        "NVIDIA RTX A6000 (simulated)",
        "00000000:01:00.0",
        "590.48.01",
        "8.6",
        "49140",
        "0",
        "48628",
    ]


def test_query_with_units_and_header(smi):
    _, said = smi("--query-gpu=index,memory.total,mig.mode.current", "--format=csv", "-i", "1")
    assert said == "index, memory.total [MiB], mig.mode.current\n1, 49140 MiB, [N/A]\n"


def test_an_unknown_field_fails_the_whole_call(smi):
    assert smi("--query-gpu=index,nonsense", "--format=csv") == (
        2,
        'Field "nonsense" is not a valid field to query.\n\n',
    )


def test_list_and_version(smi):
    _, said = smi("-L")
    assert said.startswith("GPU 0: NVIDIA RTX A6000 (simulated) (UUID: GPU-")
    assert len(smi("--version")[1].splitlines()) == 4


def test_uuids_are_the_same_each_time_and_differ_between_hosts():
    spec = Spec(name="x")
    one = sheet.card_files(spec, HostSpec("gpu-01", "gpu", 11))
    assert one == sheet.card_files(spec, HostSpec("gpu-01", "gpu", 11))
    assert one != sheet.card_files(spec, HostSpec("gpu-02", "gpu", 12))
    assert sheet.card_files(spec, HostSpec("lb-01", "balancer", 201)) == {}


@pytest.mark.parametrize(
    ("fault", "code", "text"),
    [
        ("driver-broken", 9, "couldn't communicate with the NVIDIA driver"),
        ("driver-old", 0, "535.309.01"),
        ("gpu-lost", 0, "590.48.01"),
    ],
)
def test_faults_of_the_host(smi, fault, code, text):
    (smi.home / "faults" / fault).touch()
    found, said = smi("--query-gpu=driver_version", "--format=csv,noheader")
    assert (found, text in said) == (code, True)


def test_rows_come_before_a_warning(smi):
    (smi.home / "faults/inforom-corrupt").touch()
    end = "WARNING: infoROM is corrupted at gpu 0000:01:00.0\n"
    found, said = smi("--query-gpu=index,uuid", "--format=csv,noheader")
    assert (found, said.endswith(end)) == (14, True)
    assert [line.split(", ")[0] for line in said.removesuffix(end).splitlines()] == ["0", "1"]


LOST = "GPU is lost.  Reboot the system to recover this GPU\n\n\n"


def test_a_lost_card_takes_the_rows_of_the_others_as_in_the_recording_of_the_real_program(smi):
    (smi.home / "faults/card-lost").write_text("0")
    query = ("--query-gpu=index,name", "--format=csv,noheader")
    other = json.loads((smi.home / "gpus.json").read_text())["cards"][1]["uuid"]
    name = "NVIDIA RTX A6000 (simulated)"
    assert smi(*query) == (15, f"Unable to determine the device handle for GPU0: {LOST}")
    assert smi("--query-compute-apps=pid", "--format=csv,noheader")[0] == 15
    assert smi(*query, "-i", "1") == (0, f"1, {name}\n")
    assert smi(*query, "-i", other) == (255, f"Problem with GPU 0: {LOST}")
    listed = f"Unable to determine the device handle for gpu 0: {LOST}GPU 1: {name} (UUID: {other})\n"
    assert smi("-L") == (15, listed)


def test_the_container_of_a_lost_card_gets_only_the_error(smi):
    uuid = json.loads((smi.home / "gpus.json").read_text())["cards"][1]["uuid"]
    (smi.home / "container.json").write_text(json.dumps({"visible": [uuid], "name": "ollama2"}))
    (smi.home / "faults/card-lost").touch()
    assert smi("-L") == (15, f"Unable to determine the device handle for gpu 0: {LOST}")


def test_the_driver_is_not_kept_loaded(smi):
    (smi.home / "faults/persistence-off").touch()
    assert smi("--query-gpu=persistence_mode", "--format=csv,noheader", "-i", "0") == (0, "Disabled\n")


def test_a_broken_card_is_listed_without_its_values(smi):
    (smi.home / "faults/card-broken").write_text("1")
    code, said = smi("--query-gpu=index,memory.total,name", "--format=csv,noheader,nounits")
    assert code == 0
    assert said.splitlines()[1] == "1, [GPU requires reset], NVIDIA RTX A6000 (simulated)"


def test_a_card_in_mig_mode_is_listed_with_its_devices_as_in_the_recording_of_the_real_program(smi):
    (smi.home / "faults/mig").write_text("1")
    first, second = (card["uuid"] for card in json.loads((smi.home / "gpus.json").read_text())["cards"])
    devices = [f"MIG-{second[4:-1]}{number}" for number in range(2)]
    name = "NVIDIA RTX A6000 (simulated)"
    assert smi("-L")[1].splitlines() == [
        f"GPU 0: {name} (UUID: {first})",
        f"GPU 1: {name} (UUID: {second})",
        f"  MIG 1g.10gb     Device  0: (UUID: {devices[0]})",
        f"  MIG 1g.10gb     Device  1: (UUID: {devices[1]})",
    ]
    query = "--query-gpu=index,mig.mode.current,mig.mode.pending,utilization.gpu"
    assert smi(query, "--format=csv,noheader") == (0, "0, [N/A], [N/A], 0 %\n1, Enabled, Enabled, [N/A]\n")
    listed = nvidia_smi.mig_devices(smi("-L")[1].splitlines())
    assert {card: [each.uuid for each in found] for card, found in listed.items()} == {second: devices}

    (smi.home / "container.json").write_text(json.dumps({"visible": devices[1:], "name": "ollama2"}))
    assert smi("-L")[1].count("UUID: GPU-") == 1
    assert container_state.listed(smi("-L")[1]) == devices[1:]


def test_the_hook_gives_a_mig_device_by_its_uuid(tmp_path, capsys):
    (tmp_path / "faults").mkdir()
    program = (paths.SIMULATED / "nvidia-container-runtime-hook").read_text()
    (tmp_path / "hook").write_text(program.replace('Path("/etc/provision-lab")', f"Path({str(tmp_path)!r})"))
    hook = runpy.run_path(str(tmp_path / "hook"))
    files = sheet.card_files(Spec(name="x", gpus=2), HostSpec("gpu-01", "gpu", 11))
    (tmp_path / "gpus.json").write_text(files["etc/provision-lab/gpus.json"])
    first, second = hook["present"]()
    device = f"MIG-{first[4:-1]}1"
    with pytest.raises(SystemExit):
        hook["visible"](device)
    assert f"{device}: unknown device" in capsys.readouterr().err
    (tmp_path / "faults/mig").write_text("0")
    assert hook["visible"](device) == [device]
    assert hook["visible"]("1") == [second]
    assert hook["visible"]("all") == [first, second, f"MIG-{first[4:-1]}0", device]


@pytest.mark.parametrize(
    ("faults", "modes"), [(["mig-half"], "Disabled, Enabled"), (["mig", "mig-half"], "Enabled, Disabled")]
)
def test_mig_mode_is_half_switched_until_a_reset(smi, faults, modes):
    for fault in faults:
        (smi.home / "faults" / fault).write_text("0")
    _, said = smi("--query-gpu=mig.mode.current,mig.mode.pending", "--format=csv,noheader")
    assert said.splitlines() == [modes, "[N/A], [N/A]"]


def test_an_ancient_driver_lacks_a_field(smi):
    (smi.home / "faults/driver-ancient").touch()
    assert smi("--query-gpu=index,compute_cap", "--format=csv") == (
        2,
        'Field "compute_cap" is not a valid field to query.\n\n',
    )
    assert smi("--query-gpu=driver_version", "--format=csv,noheader") == (0, "470.256.02\n470.256.02\n")


def test_a_missing_card_leaves_the_remaining_cards_with_new_indices(smi):
    before = smi("-L")[1].splitlines()
    (smi.home / "faults/card-missing").write_text("0")
    (left,) = smi("-L")[1].splitlines()
    assert left == before[1].replace("GPU 1:", "GPU 0:")


def test_a_container_sees_its_own_cards_from_index_0(smi):
    uuid = json.loads((smi.home / "gpus.json").read_text())["cards"][1]["uuid"]
    (smi.home / "container.json").write_text(json.dumps({"visible": [uuid], "name": "ollama2"}))
    assert smi("--query-gpu=index,uuid", "--format=csv,noheader") == (0, f"0, {uuid}\n")
    (smi.home / "faults/gpu-lost").touch()
    assert smi("-L") == (255, "Failed to initialize NVML: Unknown Error\n")


def test_applications_of_stopped_servers_are_not_shown(smi):
    uuid = json.loads((smi.home / "gpus.json").read_text())["cards"][0]["uuid"]
    (smi.home / "usage").mkdir()
    (smi.home / "usage/a.json").write_text(json.dumps([{"uuid": uuid, "mib": 100, "pid": 1, "name": "x"}]))
    assert smi("--query-compute-apps=pid,used_gpu_memory", "--format=csv,noheader") == (0, "")
    assert smi("--query-compute-apps=pid,used_gpu_memory", "--format=csv") == (0, "pid, used_gpu_memory [MiB]\n")


@pytest.mark.parametrize(
    ("item", "row"),
    [
        ({"mib": 512, "name": "/usr/bin/python3"}, "512, /usr/bin/python3"),
        ({"mib": 512, "shown": "[N/A]", "name": "[Not Found]"}, "[N/A], [Not Found]"),
    ],
)
def test_an_application_is_shown_with_the_process_that_holds_its_file(smi, item, row):
    uuid = json.loads((smi.home / "gpus.json").read_text())["cards"][1]["uuid"]
    (smi.home / "usage").mkdir()
    path = smi.home / "usage/training.json"
    path.write_text(json.dumps([{"uuid": uuid, **item}]))
    words = ("--query-compute-apps=gpu_uuid,pid,used_gpu_memory,process_name", "--format=csv,noheader,nounits")
    with subprocess.Popen(["flock", "-F", str(path), "sh", "-c", "echo held; exec sleep 60"], stdout=-1) as holder:
        holder.stdout.readline()
        assert smi(*words) == (0, f"{uuid}, {holder.pid}, {row}\n")
        assert smi(*words, "-i", "0") == (0, "")
        (smi.home / "container.json").write_text(json.dumps({"visible": [uuid], "name": "ollama2"}))
        assert smi(*words) == (0, "")
        holder.kill()


def test_the_hook_refuses_missing_cards(smi, monkeypatch, capsys):
    hook = load("nvidia-container-runtime-hook")
    monkeypatch.setattr(hook, "LAB", smi.home)
    uuids = hook.present()
    assert hook.visible("all") == uuids
    assert hook.visible(f"1,{uuids[0]}") == [uuids[1], uuids[0]]
    with pytest.raises(SystemExit):
        hook.visible("GPU-x")
    assert "nvidia-container-cli: device error: GPU-x: unknown device" in capsys.readouterr().err
