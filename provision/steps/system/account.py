"""Our system users: no password, no shell, no home; a group of the same name."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from provision.command import READ_TIMEOUT, Command, Script, run, sh
from provision.steps.base import Answer, Check, Fact, Owned, State, Step, UnreadableError, differing
from provision.steps.facts import HostFacts
from provision.steps.wording import Vocabulary, Words

HOME = "/nonexistent"
SHELL = "/usr/sbin/nologin"
NOTE = "Managed by provision"
ABSENT: Mapping[str, Any] = {"user": False, "group": False}

# The local files, not getent: a directory service must neither be asked for all its users nor stand in for our users.
SCRIPT = Script(
    "account/read",
    """
[ -r /etc/passwd ] && [ -r /etc/group ] || { echo 'no /etc/passwd or /etc/group' >&2; exit 1; }
sed -n 's/^provision-/passwd:provision-/p' /etc/passwd
sed -n 's/^provision-/group:provision-/p' /etc/group
""",
)
READ = sh(SCRIPT, title="list our users", timeout=READ_TIMEOUT)


@dataclass(frozen=True, kw_only=True)
class Account(Step):
    """A system user and its group.

    Args:
        name: `provision-*`.
    """

    words: ClassVar[Vocabulary] = {
        "user": Words("no such user"),
        "group": Words("no such group"),
        "primary": Words("its group is not the user's main group", unless=("user", "group")),
        "home": Words("other home", "home", unless=("user",)),
        "shell": Words("other shell", "shell", unless=("user",)),
    }

    name: str

    @property
    def id(self) -> str:
        """`user:NAME`."""
        return f"user:{self.name}"

    def fact(self) -> Fact:
        """Reads all our users."""
        return Fact(READ, lambda answer: accounts(answer).get(self.name))

    def want(self, facts: HostFacts, have: State) -> State:
        """The user with its group, unable to log in."""
        return {"user": True, "group": True, "primary": True, "home": HOME, "shell": SHELL}

    def commands(self, have: State, want: State) -> Sequence[Command]:
        """Adds, mends or removes the user with its group."""
        present = have or ABSENT
        if want is None:
            return _remove(self.name, present)
        if not want["user"]:
            return [*_remove(self.name, {**present, "group": False}), _add_group(self.name)]
        return self._mend(dict(differing(have, want))) if present["user"] else [self._add(present, want)]

    def _add(self, have: Mapping[str, Any], want: Mapping[str, Any]) -> Command:
        group = ("--gid", self.name) if have["group"] else ("--user-group",)
        words = ("--no-create-home", "--home-dir", want["home"], "--shell", want["shell"], "--comment", NOTE)
        return run("useradd", "--system", *group, *words, "--", self.name)

    def _mend(self, changes: Mapping[str, Any]) -> list[Command]:
        words = [word for key in ("home", "shell") if key in changes for word in (f"--{key}", changes[key])]
        words += ["--gid", self.name] if changes.get("primary") else []
        group: list[Command] = [_add_group(self.name)] if changes.get("group") else []
        return [*group, run("usermod", *words, "--", self.name)] if words else group

    def check(self, live: Any) -> Iterator[Check]:
        """The system resolves the name, to a user that cannot log in."""
        fields = live.run("getent passwd %s", self.name).stdout.strip().split(":")
        yield Check("shell", fields[6] if len(fields) == 7 else "no such user", SHELL)
        yield Check("group", live.run("id -gn -- %s", self.name).stdout.strip(), self.name)


def _remove(name: str, have: Mapping[str, Any]) -> list[Command]:
    """Commands that remove the user and the group. A group may exist without its user, or the user without its
    group."""
    user: list[Command] = [run("userdel", "--", name)] if have["user"] else []
    return [*user, run("groupdel", "--", name, ok=(0, 6))] if have["group"] else user  # 6: the group went with its user


def _add_group(name: str) -> Command:
    return run("groupadd", "--system", "--", name, ok=(0, 9))  # 9: the group exists


def accounts(answer: Answer) -> dict[str, dict[str, Any]]:
    """Name -> state, of every user or group of ours."""
    if answer.exit:
        raise UnreadableError(answer.complaint or f"exited {answer.exit}")
    lines = [line.split(":") for line in answer.text.splitlines()]
    users = {fields[1]: fields for fields in lines if fields[0] == "passwd" and len(fields) == 8}
    groups = {fields[1]: fields for fields in lines if fields[0] == "group" and len(fields) == 5}
    return {name: _state(users.get(name), groups.get(name)) for name in sorted(users.keys() | groups.keys())}


def _state(user: list[str] | None, group: list[str] | None) -> dict[str, Any]:
    return {
        "user": user is not None,
        "group": group is not None,
        "primary": user is not None and group is not None and user[4] == group[3],
        "home": user[6] if user else "",
        "shell": user[7] if user else "",
    }


@dataclass(frozen=True, kw_only=True)
class OwnedAccounts(Owned):
    """Finds our users: names that begin with `provision-`."""

    def fact(self) -> Fact:
        """Reads all our users."""
        return Fact(READ, lambda answer: {f"user:{name}": state for name, state in accounts(answer).items()})

    def step(self, step_id: str) -> Step:
        """The user, to be removed."""
        return Account(name=step_id.partition(":")[2])
