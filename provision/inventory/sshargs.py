"""The words of `ansible_ssh_common_args` and similar variables."""

import shlex
from collections.abc import Iterator

from provision.inventory.near import clip

_FLAGS = {"J": "proxyjump", "i": "identityfile", "p": "port", "l": "user", "F": "configfile"}
_TAKEN = frozenset(
    {
        "connecttimeout",
        "hostkeyalias",
        "identityfile",
        "port",
        "proxyjump",
        "user",
        "userknownhostsfile",
    }
)
# Options for the comfort of OpenSSH's own process, without effect on the address or on trust.
_IGNORED = frozenset(
    {
        "batchmode",
        "compression",
        "controlmaster",
        "controlpath",
        "controlpersist",
        "identitiesonly",
        "loglevel",
        "serveralivecountmax",
        "serveraliveinterval",
        "tcpkeepalive",
    }
)
_STRICT = "host keys are always checked: take {} away and run `provision trust`, which shows the fingerprints first"
_NO_COMMAND = "ProxyCommand is not supported; write -o ProxyJump=USER@HOST"


def parse(text: str) -> tuple[list[tuple[str, str]], list[str]]:
    """Parse words for ssh.

    Args:
        text: such as `-o ProxyJump=ops@bastion -o ConnectTimeout=5`.

    Returns:
        options by lower-case name (`configfile` for `-F`) in the order written, and a message for every unusable word.
    """
    options: list[tuple[str, str]] = []
    messages: list[str] = []
    try:
        words = shlex.split(text)
    except ValueError as error:
        return [], [f"cannot be split into words: {error}"]
    for written, argument in _pairs(iter(words), messages):
        name, value, wrong = _option(written, argument)
        messages += wrong
        if name and not wrong:
            options.append((name, value))
    return options, messages


def _pairs(words: Iterator[str], messages: list[str]) -> Iterator[tuple[str, str]]:
    """Yield option names and values, of `-o Name=value` and of ssh's letters."""
    for word in words:
        letter, value = word[1:2], word[2:]
        if word.startswith("-") and (letter == "o" or letter in _FLAGS):
            value = value or next(words, "")
            yield _split(value) if letter == "o" else (_FLAGS[letter], value)
        elif not (word.startswith("-") and word.strip("-") and set(word[1:]) <= set("qvTC46")):
            messages.append(f"the word {clip(word)} is not understood; known are -o, -J, -i, -p, -l and -F")


def _split(text: str) -> tuple[str, str]:
    name, _, value = text.strip().replace("=", " ", 1).partition(" ")
    return name.lower(), value.strip()


def _option(name: str, value: str) -> tuple[str, str, list[str]]:
    """Return an option's name (empty if harmless), its value, and its problems."""
    if name == "stricthostkeychecking":
        wrong = value.lower() not in ("yes", "ask")
        return "", "", [_STRICT.format(f"StrictHostKeyChecking={clip(value)}")] if wrong else []
    if name == "userknownhostsfile" and "/dev/null" in value.split():
        return "", "", [_STRICT.format("UserKnownHostsFile=/dev/null")]
    if name == "proxycommand":
        jump = jump_of_command(value)
        return "proxyjump", jump, [] if jump else [_NO_COMMAND]
    if name in _IGNORED:
        return "", "", []
    if name not in _TAKEN and name != "configfile":
        return "", "", [f"the ssh option {clip(name)} is not supported"]
    return name, value, [] if value else [f"the ssh option {name} has no value"]


def jump_of_command(command: str) -> str:
    """Return the hop in a ProxyCommand of the form `ssh [-q] [-p N] -W %h:%p HOST`, or an empty text."""
    try:
        words = [word for word in shlex.split(command) if word != "-q"]
    except ValueError:
        return ""
    port = ""
    if "-p" in words[:-1]:
        at = words.index("-p")
        port = f":{words[at + 1]}"
        del words[at : at + 2]
    if sorted(words[:-1]) == ["%h:%p", "-W", "ssh"] and words[0] == "ssh":
        return words[-1] + port
    if len(words) == 4 and [words[0], *words[2:]] == ["ssh", "-W", "%h:%p"]:
        return words[1] + port
    return ""
