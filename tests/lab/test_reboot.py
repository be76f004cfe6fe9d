"""After a boot a host serves again by itself: containers, nginx, models on their cards; what was drained stays out."""

import time

import pytest

from provision.lab import faults

from .conftest import wait_for
from .test_rolling import ALL, down
from .test_serve import generate

pytestmark = pytest.mark.lab


def test_everything_comes_back_by_itself(fleet, lab):
    assert fleet.provision("drain", "gpu-01/ollama2", "-m", "it hums", "--json").code == 0
    for host in ("gpu-01", "gpu-02", "lb-01"):
        faults.switch(lab, host, "power-off", on=True)
    for host in ("gpu-01", "gpu-02", "lb-01"):
        faults.switch(lab, host, "power-off", on=False)
    # A plan reads everything and changes nothing: containers, their cards, models in their memory, nginx.
    wait_for(lambda: not any(fleet.changes().values()))
    assert down(fleet) == {"gpu-01/ollama2"}
    assert {generate(fleet, time.monotonic())[0] for _ in range(12)} == ALL - {"gpu-01/ollama2"}
    assert fleet.provision("undrain", "gpu-01/ollama2", "--json").code == 0
    assert fleet.provision("verify", "--json").code == 0
