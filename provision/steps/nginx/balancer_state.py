"""A balancer at this moment, by its configuration and its nginx, for a screen. Pure."""

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass, field

from provision.certificates import chain
from provision.steps.base import State
from provision.steps.nginx import tls, upstream
from provision.steps.nginx.upstream import Member
from provision.steps.system.file_scan import Content


@dataclass(frozen=True)
class BalancerState:
    """A balancer.

    Args:
        down: why nginx does not serve; empty while nginx runs.
        generation: id of the present configuration; empty without a configuration.
        stale: why nginx works with another configuration than the files have; empty for the same.
        members: label -> member of the upstream.
        ends: when the certificate ends; None without a certificate.
    """

    down: str = ""
    generation: str = ""
    stale: str = ""
    members: Mapping[str, Member] = field(default_factory=dict)
    ends: dt.datetime | None = None


def of(have: State) -> BalancerState:
    """Return the balancer with a configuration.

    Args:
        have: state of the step of the configuration.
    """
    if have is None:
        return BalancerState(down="there is no configuration of provision: `provision deploy` makes a balancer")
    now = have["id"]
    touched = have.get("touched") or []
    stale = ""
    if have["exe"] and have["loaded"] != now:
        stale = f"nginx has not loaded generation {now}: `provision deploy` reloads nginx"
    elif touched:
        stale = touched[0]
    certificate = have["files"].get(tls.CERTIFICATE)
    return BalancerState(
        down="" if have["exe"] else "nginx of provision does not run",
        generation=now,
        stale=stale,
        members=upstream.members(upstream.text_of(have)),
        ends=chain.ends_of(certificate.data) if isinstance(certificate, Content) else None,
    )
