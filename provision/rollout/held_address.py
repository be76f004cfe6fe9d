"""The common address of the balancers during a roll: standbys change first, and the holder gives the address away
before a change that concerns more than members."""

import contextlib
from collections.abc import Sequence

from provision.errors import HostError, RefusedError
from provision.plan.planner import Change
from provision.rollout.address_switch import AddressSwitch, patience
from provision.rollout.host_part import HostPart
from provision.runs.context import Context


class HeldAddress:
    """The common address during a roll; does nothing where the balancers have none.

    Args:
        context: of the run.
        become_password: sudo's password for the balancers (`-K`), or None for the password in the inventory.
    """

    def __init__(self, context: Context, become_password: str | None) -> None:
        self._switch = AddressSwitch(context, become_password)
        self._asked = False

    def standby_first(self, balancers: Sequence[HostPart]) -> list[HostPart]:
        """Return balancers with the holder of the address last, in their order otherwise.

        Args:
            balancers: the balancers that change.
        """
        if not balancers:
            return []
        held: list[str] = []
        with contextlib.suppress(HostError):  # the part of that balancer tells the error
            held = self._switch.holders()
        return sorted(balancers, key=lambda host: host.name in held)

    def leave(self, host: HostPart, changes: Sequence[Change]) -> None:
        """Move the address away from a balancer before its changes, if it has the address and the changes need this.

        Args:
            host: the balancer.
            changes: the changes to come.

        Raises:
            Stopped: the operator stopped the wait for streams.
            HostError: the address could not be moved.
        """
        if not any(change.step.gives_address_away(change.have, change.want) for change in changes):
            return
        if self._switch.holders() != [host.name]:
            return
        holder = self._switch.seats()[host.name]
        try:
            to = self._switch.next_of(holder)
        except RefusedError as error:
            host.run.say(
                "progress", "switch", f"{error.message}: the change is made while this balancer has the address"
            )
            return

        def say(text: str) -> None:
            host.run.say("progress", "switch", text)

        try:
            with self._switch.locked(holder, to):
                moved = self._switch.move(holder, to, patience(host.run.host), say)
        except HostError as error:
            error.hint = error.hint or "provision verify names the holder of the address"
            raise
        cut = f"; {moved.cut} requests cut" if moved.cut else ""
        say(f"{holder.step.address} moved to {moved.to}{cut}")

    def close(self) -> None:
        """Close the connections."""
        self._switch.close()
