"""Why a step cannot go on: a state that nobody can read, a state known later, and a host that a step refuses."""


class UnreadableError(Exception):
    """A parser has neither a state nor a proof of absence. Stops the host."""


class BlockedError(Exception):
    """The state stays unknown until another step has changed (Docker is stopped, and deploy will start Docker).

    Args:
        by: id of the blocking step. If that step is not about to change, the fact is unreadable instead.
        evidence: the host's answer.
    """

    def __init__(self, by: str, evidence: str = "") -> None:
        super().__init__(f"known after {by}")
        self.by = by
        self.evidence = evidence


class RefusalError(Exception):
    """A step's `want` refuses this host: a guard, raised before anything is changed. The message gives the reason."""
