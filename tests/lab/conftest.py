"""What tests of the lab import from here."""

from tests.fleet import DEPLOYED, Done, Fleet, settle, wait_for

__all__ = ["DEPLOYED", "Done", "Fleet", "settle", "wait_for"]
