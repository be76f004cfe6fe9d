"""The ollama role: settings, instances, access to instances, and hostile values that stay in their words."""

import base64
import csv
import hashlib
import io
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from provision.inventory import Connection, Host, Inventory
from provision.roles import docker as docker_role
from provision.roles import models as models_role
from provision.roles import ollama as role
from provision.steps.base import RefusalError
from provision.steps.docker import gpu_processes, image
from provision.steps.docker.firewall import Firewall
from provision.steps.facts import Card, HostFacts
from provision.steps.instance import boot, endpoint
from provision.steps.instance import scripts as instance_scripts
from provision.steps.instance.create_arguments import bind, create_words, gpus_word
from provision.steps.ollama import environment
from provision.steps.ollama import scripts as model_scripts
from provision.steps.ollama.engine import OLLAMA

TEXT = st.text(st.characters(exclude_categories=("C", "Z")) | st.sampled_from(" '\"$`\\;,=-"), max_size=40)
HOSTILE = ["$(touch /tmp/x)", "`id`", "a\"b,c'd", "--privileged", "x; rm -rf /", "a\\b", " lead"]


def settings_of(**said: Any) -> role.Settings:
    return role.Settings.model_validate(said)


def host(name: str = "gpu-01", *groups: str, address: str = "10.0.0.11", **said: Any) -> Host:
    said = said or {"instances": [{"gpus": [0]}, {"gpus": [1]}], "models": ["deepseek-r1:32b"]}
    ollama = settings_of(**said)
    return Host(
        name=name,
        groups=groups or ("gpu",),
        connection=Connection(address=address),
        settings={"docker": docker_role.Settings(), "ollama": ollama, "models": models_role.Settings()},
        instances=role.instances(name, ollama),
    )


def fleet(*hosts: Host) -> Inventory:
    return Inventory(path="x", hosts=hosts)


LB = host("lb-01", "balancer", address="10.0.0.5", models=[])
FACTS = HostFacts(
    addresses=("127.0.0.1", "10.0.0.11", "fe80::1"),
    sources={"10.0.0.5": "10.0.0.11", "10.0.0.6": "10.0.0.11"},
    resolved={"10.0.0.5": "10.0.0.5", "10.0.0.6": "10.0.0.6"},
    cards=(Card(0, "GPU-a", "x", "580.1", 8.9, 24000), Card(1, "GPU-b", "x", "580.1", 8.9, 24000)),
)


# -- instances


def test_defaults_of_instances() -> None:
    one, two = host().instances
    assert (one.name, one.port, one.gpus, one.models) == ("ollama1", 3001, (0,), ("deepseek-r1:32b",))
    assert (two.name, two.port) == ("ollama2", 3002)


def test_settings_of_an_instance_win() -> None:
    said = {"gpus": [0], "name": "big", "port": 4000, "models": [], "num_parallel": 4, "weight": 2}
    (one,) = role.instances("h", settings_of(models=["a"], instances=[said]))
    assert (one.name, one.port, one.models, one.parallel, one.weight) == ("big", 4000, (), 4, 2)


def test_a_model_in_two_spellings_is_served_once() -> None:
    (one,) = role.instances("h", settings_of(models=["a", "library/a:latest", "b:1"], instances=[{"gpus": [0]}]))
    assert one.models == ("library/a:latest", "b:1") or one.models == ("a", "b:1")


PROBLEMS = {
    "same card": ([{"gpus": [0]}, {"gpus": [0]}], ("instances", 1, "gpus")),
    "same port": ([{"gpus": [0], "port": 3002}, {"gpus": [1]}], ("instances", 1, "port")),
    "same name": ([{"gpus": [0], "name": "ollama2"}, {"gpus": [1]}], ("instances", 1, "name")),
    "no card": ([{"gpus": []}], ("instances", 0, "gpus")),
    "card twice": ([{"gpus": [0, 0]}], ("instances", 0, "gpus")),
    "sharers differ": (
        [{"gpus": [0], "storage": "/m"}, {"gpus": [1], "storage": "/m", "models": ["x"]}],
        ("instances", 1, "models"),
    ),
}


@pytest.mark.parametrize("name", PROBLEMS)
def test_contradictory_instances_are_reported(name: str) -> None:
    instances, path = PROBLEMS[name]
    assert [where for where, _ in settings_of(instances=instances).problems()] == [path]


@pytest.mark.parametrize(
    "said",
    [
        {"instances": [{}]},
        {"instances": [{"gpus": [-1]}]},
        {"models": ["no model!"]},
        {"instances": [{"gpus": [0], "storage": "relative"}]},
        {"admit": ["10.0.0.0/99"]},
        {"admit": ["fe80::/64"]},
        {"listen_address": "host.example"},
        {"image": "Not An Image"},
        {"keep_alive": "for ever"},
        {"num_parallel": 0},
        {"kv_cache_type": "q2"},
        {"tolerate": "dcgm-exporter"},
        {"tolerate": [" "]},
        {"tolerate": ["two\nlines"]},
        {"tolerate": ["x" * 129]},
        {"tolerate": ["x"] * 65},
    ],
)
def test_bad_settings_are_refused(said: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        settings_of(**said)


@pytest.mark.parametrize(
    "shown", ["VLLM::EngineCore_0", "tmux: server", "[Not Found]", "/opt/x\t/y", "a\x1bb", "é" * 300, "/x/ y", "-c"]
)
@pytest.mark.parametrize("comm", ["tmux: server", "", "a\x07b"])
def test_every_program_named_by_a_refusal_can_be_tolerated(shown: str, comm: str) -> None:
    rows = f"GPU-1, 7, 512, {shown}\n(exit code 0)\n/proc/7/cgroup:0::/x\n/proc/7/comm:{comm}\n"
    listing = gpu_processes.parse(base64.b64encode(rows.encode()).decode(), {})
    assert listing is not None
    (one,) = listing.applications
    assert settings_of(tolerate=[one.program]).tolerate == (one.program,)


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("OLLAMA_NUM_PARALLEL", "ollama.num_parallel"),
        ("OLLAMA_NUM_GPU_LAYERS", "num_gpu"),
        ("OLLAMA_HOST", "listen_address"),
        ("OLLAMA_LLM_LIBARY", "did you mean OLLAMA_LLM_LIBRARY"),
        ("PATH", "no such variable"),
    ],
)
def test_variables_that_ollama_does_not_read_are_reported(name: str, part: str) -> None:
    ((path, said),) = settings_of(environment={name: "1"}).problems()
    assert path == ("environment", name)
    assert part in said


def test_contradictory_settings_are_reported() -> None:
    said = settings_of(kv_cache_type="q8_0", flash_attention=False, listen_address="fe80::1", https_proxy="a\nb")
    assert sorted(path[0] for path, _ in said.problems()) == ["https_proxy", "kv_cache_type", "listen_address"]


def test_environment() -> None:
    said = settings_of(
        models=["a", "b"],
        flash_attention=True,
        gpu_overhead="1g",
        origins=["http://a", "http://b"],
        environment={"LLAMA_ARG_FIT_TARGET": "2048"},
        https_proxy="http://u:p@x",
        instances=[{"gpus": [0, 1], "context_length": 4096, "storage": "/m"}, {"gpus": [2], "storage": "/m"}],
    )
    one = role.instances("h", said)[0]
    assert role.environment(said, one, said.instances[0]) == {
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
        "OLLAMA_CONTEXT_LENGTH": "4096",
        "OLLAMA_NUM_PARALLEL": "1",
        "OLLAMA_KEEP_ALIVE": "-1",
        "OLLAMA_MAX_LOADED_MODELS": "2",
        "OLLAMA_NO_CLOUD": "1",
        "OLLAMA_NOPRUNE": "1",
        "OLLAMA_FLASH_ATTENTION": "1",
        "OLLAMA_GPU_OVERHEAD": str(2**30),
        "OLLAMA_ORIGINS": "http://a,http://b",
        "LLAMA_ARG_FIT_TARGET": "2048",
    }


def test_every_tuning_setting_reaches_a_variable_or_the_container() -> None:
    elsewhere = {"memory", "cpus", "pids_limit", "environment", "pool"}
    assert set(role.Tuning.model_fields) - elsewhere == set(environment.SETTINGS.values())


# -- steps


def test_one_machine_has_a_firewall_too() -> None:
    """A neighbour reaches a port published on 127.0.0.1 by the container's own address."""
    alone = host()
    ids = [step.id for step in role.steps(alone, fleet(alone))]
    assert ids == [
        "guard:instances",
        "image:ollama/ollama:0.34.4",
        "file:/opt/provision/lib/ollama-firewall",
        "file:/etc/provision/ollama/firewall.rules",
        "unit:provision-firewall.service",
        "service:provision-firewall",
        "firewall:DOCKER-USER",
        "file:/opt/provision/lib/ollama-instances",
        "file:/etc/provision/ollama/instances",
        "unit:provision-instances.service",
        "service:provision-instances",
        "file:/etc/provision/ollama/cards",
        "volume:ollama1",
        "volume:ollama2",
        "container:ollama1",
        "container:ollama2",
    ]


def test_in_a_fleet_the_firewall_comes_before_the_first_container() -> None:
    gpu = host()
    ids = [step.id for step in role.steps(gpu, fleet(gpu, LB))]
    assert ids.index("firewall:DOCKER-USER") < ids.index("container:ollama1")
    assert "unit:provision-firewall.service" in ids


def test_balancers_get_no_step_of_the_role() -> None:
    assert not list(role.steps(LB, fleet(host(), LB)))
    assert not list(models_role.steps(LB, fleet(host(), LB)))


def test_secrets_are_in_a_file_for_root_alone() -> None:
    gpu = host(instances=[{"gpus": [0]}], https_proxy="http://u:hunter2@x:1")
    steps = {step.id: step for step in role.steps(gpu, fleet(gpu))}
    file, container = steps["file:/etc/provision/ollama/ollama1.env"], steps["container:ollama1"]
    assert file.mode == 0o600  # type: ignore[attr-defined]
    want = container.want(FACTS, None)
    shown = [repr(container), repr(want), *container.diff(None, want), *map(repr, container.commands(None, want))]
    assert not [text for text in shown if "hunter2" in text]


def test_the_boot_file_names_the_models_that_stay_loaded() -> None:
    gpu = host(
        models=["a:1", "b:2"], instances=[{"gpus": [0], "max_loaded_models": 1}, {"gpus": [1], "keep_alive": "5m"}]
    )
    steps = {step.id: step for step in role.steps(gpu, fleet(gpu, LB))}
    content = steps["file:/etc/provision/ollama/instances"].content(FACTS)  # type: ignore[attr-defined]
    assert content.decode().splitlines()[2:] == ["ollama1 10.0.0.11 3001 a:1", "ollama2 10.0.0.11 3002"]


@pytest.mark.parametrize(
    ("common", "own", "expected"),
    [
        ({}, {}, "volume"),
        ({}, {"storage": "/m/"}, "/m"),
        ({"storage": "/data/m/"}, {}, "/data/m/ollama1"),
        ({"storage": "/data/m"}, {"name": "big"}, "/data/m/big"),
        ({"storage": "/data/m"}, {"storage": "volume"}, "volume"),
        ({"storage": "/data/m"}, {"storage": "/srv//one"}, "/srv/one"),
    ],
)
def test_the_storage_of_an_instance(common: dict[str, Any], own: dict[str, Any], expected: str) -> None:
    (one,) = host(instances=[{"gpus": [0], **own}], **common).instances
    assert one.storage == expected


# -- access to instances


def test_listen_addresses() -> None:
    alone, gpu = host(), host()
    assert endpoint.listen_address(alone, fleet(alone), FACTS) == "127.0.0.1"
    assert endpoint.listen_address(gpu, fleet(gpu, LB), FACTS) == "10.0.0.11"
    both = host("gpu-01", "gpu", "balancer")
    assert endpoint.listen_address(both, fleet(both, host("gpu-02")), FACTS) == "127.0.0.1"


@pytest.mark.parametrize(
    ("said", "facts", "part"),
    [
        ({"listen_address": "10.9.9.9"}, FACTS, "no address of this host"),
        ({"listen_address": "127.0.0.1"}, FACTS, "cannot reach"),
        ({}, HostFacts(), "no route to lb-01 (10.0.0.5)"),
        ({}, HostFacts(sources={"10.0.0.5": "fe80::1"}, addresses=("fe80::1",)), "only IPv4"),
    ],
)
def test_unusable_listen_addresses_are_refused(said: dict[str, Any], facts: HostFacts, part: str) -> None:
    gpu = host(instances=[{"gpus": [0]}], **said)
    with pytest.raises(RefusalError, match=part.replace("(", r"\(").replace(")", r"\)")):
        endpoint.listen_address(gpu, fleet(gpu, LB), facts)


def test_balancers_in_two_networks_are_refused() -> None:
    other = host("lb-02", "balancer", address="10.0.0.6", models=[])
    facts = HostFacts(sources={"10.0.0.5": "10.0.0.11", "10.0.0.6": "192.168.0.1"})
    gpu = host()
    with pytest.raises(RefusalError, match="several addresses"):
        endpoint.listen_address(gpu, fleet(gpu, LB, other), facts)


def test_balancers_and_admitted_networks_may_reach_an_instance() -> None:
    gpu = host(instances=[{"gpus": [0]}], admit=["10.1.0.0/16", "10.0.0.5"])
    assert endpoint.admitted(gpu, fleet(gpu, LB), FACTS) == ("10.0.0.5/32", "10.1.0.0/16")


def test_the_rules_file_has_the_rules_that_the_step_wants() -> None:
    wall = Firewall(ports=(3001,), inside=11434, address="10.0.0.11", admit=("10.0.0.5/32",))
    text = wall.content(FACTS).decode()
    wanted = wall.want(FACTS, None)
    assert wanted is not None
    assert [line.split(" ", 2)[2] for line in text.splitlines() if line.startswith("-A")] == wanted["rules"]
    assert text.endswith("COMMIT\n")


@pytest.mark.parametrize("path", ["/etc/provision/ollama/firewall.rules", "/etc/provision/ollama/instances"])
def test_files_that_depend_on_the_host_are_proved_by_their_bytes(path: str) -> None:
    gpu = host()
    step = next(step for step in role.steps(gpu, fleet(gpu, LB)) if step.id == f"file:{path}")
    digest = hashlib.sha256(step.content(FACTS)).hexdigest()  # type: ignore[attr-defined]

    def checks(facts: HostFacts, digest: str) -> list[str]:
        def run(command: str, *words: str) -> SimpleNamespace:
            return SimpleNamespace(rc=0, stdout=f"644 root:root\n{digest}  -\n", stderr="")

        live = SimpleNamespace(run=run, backend=SimpleNamespace(facts=facts))
        return [check.name for check in step.check(live) if not check.passed]

    assert checks(FACTS, digest) == []
    assert checks(FACTS, "0" * 64) == ["sha256"]
    assert checks(HostFacts(), digest) == ["bytes for this host"]


# -- hostile values stay in their words


@settings(max_examples=200)
@given(TEXT)
def test_mounts_are_one_csv_record(path: str) -> None:
    (fields,) = csv.reader(io.StringIO(bind("/" + path, "/models")))
    assert fields == ["type=bind", f"source=/{path}", "target=/models"]


def test_cards_are_one_csv_field() -> None:
    assert gpus_word(["GPU-a"]) == "device=GPU-a"
    assert gpus_word(["GPU-a", "GPU-b"]) == '"device=GPU-a,GPU-b"'


STUB = """#!/bin/sh
case $1 in
  create) shift 3; for word do printf '%s\\0' "$word"; done >"$OUT" ;;
  inspect) exit 1 ;;
esac
"""


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(st.sampled_from(sorted(environment.OTHERS)), TEXT, max_size=3), TEXT)
@example(dict(zip(sorted(environment.OTHERS), HOSTILE, strict=False)), "a\"b, '$(id)'")
def test_words_reach_docker_unchanged(tmp_path: Path, environment: dict[str, str], path: str) -> None:
    stub = tmp_path / "docker"
    stub.write_text(STUB)
    stub.chmod(0o755)
    gpu = host(instances=[{"gpus": [0], "storage": f"/x{path}".replace("..", "")}], environment=environment)
    container = next(step for step in role.steps(gpu, fleet(gpu)) if step.id == "container:ollama1")
    want = container.want(FACTS, None)
    assert want is not None
    command = container.commands(None, want)[0]
    out = tmp_path / "words"
    env = {"PATH": f"{tmp_path}:/usr/bin:/bin", "OUT": str(out)}
    subprocess.run(command.words, input=command.stdin, env=env, check=True)  # type: ignore[union-attr]
    assert out.read_bytes().decode().split("\0")[:-1] == create_words("ollama1", want, OLLAMA.probe)


@pytest.mark.parametrize(
    "text",
    [
        *(value for name, value in vars(instance_scripts).items() if name.isupper()),
        *(value for name, value in vars(model_scripts).items() if name.isupper() and isinstance(value, str)),
        instance_scripts.start("/health", 10),
        instance_scripts.restart("/health", 10),
        boot.firewall_script().decode(),
        boot.instances_script(OLLAMA).decode(),
    ],
)
def test_scripts_have_no_syntax_error(text: str) -> None:
    done = subprocess.run(["sh", "-n"], input=text.encode(), capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()


@pytest.mark.parametrize(
    ("logged", "said"),
    [
        (
            r'level=info msg="Attempting next endpoint for pull after error: manifest unknown" spanID=1',
            "manifest unknown",
        ),
        (
            r'msg="Attempting next endpoint for pull after error: HTTP 404 response body: \"<p class=\\\"x\\\">"',
            r'HTTP 404 response body: "<p class=\"x\">',
        ),
        (
            r'level=info msg="Download failed, retrying (1/5): unexpected EOF" spanID=1',
            "unexpected EOF",
        ),
        (
            r'level=info msg="trying next host" error="failed to do request: Head \"http://m:5000/v2\": EOF" host=m',
            'failed to do request: Head "http://m:5000/v2": EOF',
        ),
        (
            r'level=info msg="fetch failed" error="failed to do request: Head \"https://r.io/v2/a\": EOF" host=r.io',
            'the last registry said: failed to do request: Head "https://r.io/v2/a": EOF',
        ),
        (
            r'level=info msg="trying next host after status: 500 Internal Server Error" host="m:5000"',
            "500 Internal Server Error from m:5000",
        ),
        (r'level=info msg="Layer sha256:aa cleaned up"', ""),
    ],
)
def test_the_answer_of_a_mirror_is_found_in_the_log_of_the_daemon(logged: str, said: str) -> None:
    done = subprocess.run(
        ["sh", "-c", image.MIRROR], input=f"{logged}\n{logged}\n", text=True, capture_output=True, check=True
    )
    words = said if said.startswith("the last registry") else f"a mirror said: {said}"
    assert done.stdout == (f"{words}\n" if said else "")


def test_a_clock_that_jumps_does_not_end_the_wait_for_an_instance(tmp_path: Path) -> None:
    count = f'echo >>{tmp_path}/$0; [ "$(wc -l <{tmp_path}/$0)" -gt 2 ]'
    for name, text in {"curl": count, "docker": "echo running 0", "date": f"{count} && echo 99999 || echo 1"}.items():
        (tmp_path / f"{name}.sh").write_text(f"{name}() {{ set -- {name}; {text.replace('$0', '$1')}; }}\n")
    text = "".join(path.read_text() for path in tmp_path.glob("*.sh")) + instance_scripts.ready("/")
    text += "ready one a:1 120\n"
    subprocess.run(["sh", "-eu", "-c", text], check=True, capture_output=True, timeout=30)
