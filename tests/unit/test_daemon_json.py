"""daemon.json is merged: our keys win, the operator's keys stay, and keys that we drop disappear."""

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from provision.steps.base import RefusalError, converged
from provision.steps.docker.daemon_json import DockerConfig, merge
from provision.steps.docker.daemon_state import parse_config
from provision.steps.facts import HostFacts
from provision.steps.system.file_scan import Content

scalars = st.none() | st.booleans() | st.integers(-(10**9), 10**9) | st.text(max_size=20)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, min_size=1, max_size=3),
    max_leaves=8,
)
keys = st.sampled_from(("exec-opts", "log-opts", "log-driver", "runtimes", "debug", "hosts")) | st.text(max_size=8)
configs = st.dictionaries(keys, values, max_size=5)
ours = st.fixed_dictionaries(
    {},
    optional={
        "live-restore": st.booleans(),
        "log-opts": st.dictionaries(st.text(max_size=5), st.text(max_size=5), min_size=1, max_size=3),
        "exec-opts": st.lists(
            st.sampled_from(("native.cgroupdriver=cgroupfs", "native.cgroupdriver=systemd")), max_size=1
        ),
        "registry-mirrors": st.lists(st.text(max_size=9), max_size=3),
    },
)


def contains(have: Any, want: Any) -> bool:
    if isinstance(want, dict):
        return isinstance(have, dict) and all(contains(have.get(key), value) for key, value in want.items())
    return bool(have == want)


@given(configs, ours, ours)
def test_a_merged_file_has_our_keys(config: dict[str, Any], before: dict[str, Any], now: dict[str, Any]) -> None:
    merged = merge(config, before, now)
    options = now.pop("exec-opts", [])
    assert not options or set(options) <= set(merged["exec-opts"])
    assert contains(merged, now)


@given(configs, ours)
def test_merging_again_changes_nothing(config: dict[str, Any], now: dict[str, Any]) -> None:
    merged = merge(config, {}, now)
    assert merge(merged, now, now) == merged


@given(configs, ours)
def test_other_keys_stay(config: dict[str, Any], now: dict[str, Any]) -> None:
    merged = merge(config, {}, now)
    for key in set(config) - set(now) - {"log-opts", "exec-opts"}:
        assert merged[key] == config[key]


@given(configs, ours)
def test_dropping_our_keys_restores_the_earlier_file(config: dict[str, Any], now: dict[str, Any]) -> None:
    others = {key: value for key, value in config.items() if key not in now}
    assert merge(merge(others, {}, now), now, {}) == others


@given(configs, ours)
def test_merging_does_not_change_its_arguments(config: dict[str, Any], now: dict[str, Any]) -> None:
    copies = json.dumps(config), json.dumps(now)
    merge(config, now, now)
    assert copies == (json.dumps(config), json.dumps(now))


class Live:
    """A host with a given daemon.json."""

    def __init__(self, text: str) -> None:
        self.stdout = text

    def run(self, *words: str) -> "Live":
        return self


PROXIES = {"https-proxy": "http://me:hun@ter2@proxy:1", "http-proxy": "me:hunter2@proxy:1", "no-proxy": "a,b"}


def test_a_check_shows_no_password_and_still_notices_a_changed_password() -> None:
    step = DockerConfig(keys={"proxies": PROXIES, "registry-mirrors": ["https://me:hunter2@mirror"]})
    (same, mirrors) = step.check(Live(json.dumps(dict(step.keys))))
    assert (same.passed, mirrors.passed) == (True, True)
    changed = {"proxies": {**PROXIES, "http-proxy": "me:hunter3@proxy:1"}, "registry-mirrors": ["https://you@other"]}
    found = list(step.check(Live(json.dumps(changed))))
    assert [check.passed for check in found] == [False, False]
    assert not [check for check in (same, mirrors, *found) if "hun" in str(check) or "ter2" in str(check)]


def test_a_diff_shows_no_password_in_any_form() -> None:
    text = json.dumps({"proxies": {**PROXIES, "ftp-proxy": 'ftp://me:hun"ter2@proxy'}}, indent=1).encode()
    have = {"sha256": Content(text), "mode": "0600", "ours": None, "driver": "", "version": "", "flags": {}}
    lines = "\n".join(DockerConfig().diff(None, have))
    assert "[secret]@proxy" in lines
    assert not [part for part in ("hun", "ter2") if part in lines]


@given(st.binary(max_size=200))
def test_any_file_is_merged_or_refused(data: bytes) -> None:
    step = DockerConfig(keys={"live-restore": True})
    have: dict[str, Any] = {
        "sha256": Content(data),
        "mode": "0644",
        "ours": None,
        "driver": "",
        "version": "",
        "flags": {},
    }
    try:
        want = step.want(HostFacts(), have)
    except RefusalError:
        return
    assert want is not None
    assert parse_config(want["sha256"].data)["live-restore"] is True
    assert converged(step.want(HostFacts(), dict(want)), want)
