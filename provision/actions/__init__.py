"""The commands without a screen: functions of values, for the command line and for programs.

    from provision import actions

    result = actions.deploy(actions.Request("inventory.yaml", limit=("gpu-01",)))

An action never prints, asks or exits. A question to the operator is a function handed in, and a listener
(`provision.events`) hears the progress. `docs/library.md` is the introduction. Importing this package imports nothing
heavy.
"""

from provision.actions import lock as lock
from provision.actions.deploy import deploy
from provision.actions.doctor import DoctorResult, doctor
from provision.actions.drain import drain, undrain
from provision.actions.history import History, RunStory, history, show
from provision.actions.pace import Pace
from provision.actions.plan import plan
from provision.actions.request import Request
from provision.actions.results import (
    Answers,
    DeployResult,
    DrainResult,
    Plan,
    RollbackPlan,
    RollbackResult,
    RunResult,
    VerifyResult,
)
from provision.actions.rollback import plan_rollback, rollback
from provision.actions.selection import Selected, selected
from provision.actions.switch import SwitchResult, switch
from provision.actions.trust import SeenKey, host_keys, write_keys
from provision.actions.verify import verify

__all__ = [
    "Answers",
    "DeployResult",
    "DoctorResult",
    "DrainResult",
    "History",
    "Pace",
    "Plan",
    "Request",
    "RollbackPlan",
    "RollbackResult",
    "RunResult",
    "RunStory",
    "SeenKey",
    "Selected",
    "SwitchResult",
    "VerifyResult",
    "deploy",
    "doctor",
    "drain",
    "history",
    "host_keys",
    "lock",
    "plan",
    "plan_rollback",
    "rollback",
    "selected",
    "show",
    "switch",
    "undrain",
    "verify",
    "write_keys",
]
