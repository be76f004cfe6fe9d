"""The proof that a balancer refuses requests without a key, where the balancer's own address may need none."""

from pathlib import Path

import pytest

from provision.inventory.client_file import ClientFile, Limits, save

from .balancer_fleet import config, texts
from .test_balancer_router import CLIENTS, KNOWN, Live
from .test_balancer_router import load as inventory


class Asked(Live):
    """A balancer that answers its own address as `status`, and a stranger with 401."""

    def run(self, words: str, *arguments: str) -> "Live":
        super().run(words, *arguments)
        if "127.0.0.2" in arguments:
            self.stdout = self.stdout.replace(self.status, "401")
        return self


@pytest.mark.parametrize(
    ("networks", "status", "proofs"),
    [
        (("10.0.0.0/8",), "401", {"refused without a key": True}),
        (("10.0.0.0/8",), "200", {"refused without a key": False}),
        (
            ("127.0.0.1/32",),
            "200",
            {
                "answers 127.0.0.1 without a key, as a client of 127.0.0.1/32": True,
                "refused without a key": True,
            },
        ),
        (
            ("127.0.0.1/32",),
            "429",
            {
                "answers 127.0.0.1 without a key, as a client of 127.0.0.1/32": True,
                "refused without a key": True,
            },
        ),
        (
            ("127.0.0.1/32",),
            "401",
            {
                "answers 127.0.0.1 without a key, as a client of 127.0.0.1/32": False,
                "refused without a key": True,
            },
        ),
        (
            ("127.0.0.0/8",),
            "200",
            {
                "answers 127.0.0.1 without a key, as a client of 127.0.0.0/8": True,
                "not asked: whether requests without a key are refused: 127.0.0.1 is in 127.0.0.0/8, and this host has"
                " no address outside of the networks without a key": True,
            },
        ),
    ],
)
def test_verify_asks_from_an_address_that_needs_a_key(
    tmp_path: Path, networks: tuple[str, ...], status: str, proofs: dict[str, bool]
) -> None:
    save(tmp_path / "clients.json", ClientFile({"cli": Limits(networks=networks)}))
    step = config(inventory(tmp_path, CLIENTS)).in_fleet(KNOWN)
    live = Asked(texts(step, KNOWN)["upstream.conf"], status)
    found = {check.name: check.passed for check in step.check(live) if "without a key" in check.name}
    assert found == proofs
