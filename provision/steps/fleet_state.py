"""The state of the fleet: a run's knowledge of the gpu hosts when the last wave begins.

A host's facts tell of that host alone. A step of the last wave gets the state of the fleet beside them, by
`Step.in_fleet`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class FleetState:
    """A run's knowledge of the gpu hosts.

    Args:
        addresses: host -> the address on which its instances listen, for hosts that the run brought to their end.
        failed: hosts that failed or were unreachable.
        unaffected: failed hosts with all, or all other, instances known to be as before: their marks stay.
        not_ready: labels (`HOST/INSTANCE`) of instances that failed their test.
        drained: label -> an operator's drain, from the balancers read in this run.
        parallel: label -> requests answered at once, of instances of such hosts that take the number from the estimate.
    """

    addresses: Mapping[str, str] = field(default_factory=dict)
    failed: frozenset[str] = frozenset()
    unaffected: frozenset[str] = frozenset()
    not_ready: frozenset[str] = frozenset()
    drained: Mapping[str, Any] = field(default_factory=dict)
    parallel: Mapping[str, int] = field(default_factory=dict)
