"""Prints the result of `provision nginx pin`."""

from provision.actions.nginx_pin import Pinned, Wish
from provision.report import console
from provision.report.console import say, say_command
from provision.terminal_text import line


def show(wish: Wish, pinned: Pinned, *, as_json: bool) -> None:
    """Print a pin, or its JSON document.

    Args:
        wish: the wish.
        pinned: the result.
        as_json: whether the document is wanted.
    """
    if as_json:
        _document(wish, pinned)
        return
    for remark in pinned.remarks:
        console.warn(remark)
    say(f"good signature by {line(pinned.signer.name, 200)}")
    say(f"  key {line(pinned.signer.fingerprint)}: is this fingerprint known to you?", hang=4)
    if pinned.patches:
        known = len(pinned.named) + len(pinned.unnamed)
        say(f"{len(pinned.patches)} patches, which name {len(pinned.named)} of the {known} known vulnerabilities")
        say(f"  not named: {', '.join(pinned.unnamed) or 'none'}", hang=4)
    for text in pinned.diff:
        say(f"  {line(text, 400)}")
    if not pinned.diff:
        say(f"{wish.inventory}: {pinned.place} has these values already")
        return
    say(f"{wish.inventory}: {pinned.place} {'written' if wish.write else 'would be written (--check)'}")
    say_command("next", f"provision plan -i {wish.inventory} --tags nginx")


def _document(wish: Wish, pinned: Pinned) -> None:
    signer = {"name": pinned.signer.name, "fingerprint": pinned.signer.fingerprint}
    console.document(
        "nginx pin",
        0,
        pinned.remarks,
        inventory=wish.inventory,
        place=pinned.place,
        written=bool(wish.write and pinned.diff),
        settings=dict(pinned.values),
        signer=signer,
        patches=list(pinned.patches),
        named=list(pinned.named),
        unnamed=list(pinned.unnamed),
    )
