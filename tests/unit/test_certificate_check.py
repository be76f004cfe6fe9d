"""The timer on a balancer: its units, and the warning that the service writes."""

import subprocess
from pathlib import Path

import pytest

from provision.steps.system.systemd import Service, Timer, Unit
from tests.unit.pki import ROOT, issued, put
from tests.unit.tls_fleet import loaded, steps


def test_the_timer_runs_and_its_service_ends_by_itself(tmp_path: Path) -> None:
    made = {step.id: step for step in steps(loaded(tmp_path))}
    service, timer = (made[f"unit:provision-certificate-check.{kind}"] for kind in ("service", "timer"))
    assert isinstance(service, Unit)
    assert service.brings() == ()
    assert timer.brings() == (Timer(name="provision-certificate-check"),)
    assert made["timer:provision-certificate-check"].unit == "provision-certificate-check.timer"
    assert Unit(name="provision-nginx.service", content=b"").brings() == (Service(name="provision-nginx"),)


@pytest.mark.parametrize(("days", "warns"), [(40, False), (20, True), (-1, True)])
def test_the_service_of_the_timer_warns_of_an_early_end_alone(tmp_path: Path, days: float, warns: bool) -> None:
    step = next(step for step in steps(loaded(tmp_path)) if step.id == "unit:provision-certificate-check.service")
    path = put(tmp_path / "tls.pem", issued("lb", ROOT, days=days).pem)
    (line,) = (text for text in step.content.decode().splitlines() if text.startswith("ExecStart="))
    script = line.split("'")[1].replace("$$", "$").replace("/etc/provision/nginx/tls.pem", str(path))
    said = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True)
    assert bool(said.stdout) == warns
    assert not warns or said.stdout.startswith(
        "<4>the certificate of the balancer has less than 30 days left (notAfter="
    )
    assert said.stderr == ""
