"""`provision help`."""

import click


@click.command(add_help_option=False)
@click.argument("words", nargs=-1, metavar="[COMMAND]...")
@click.pass_context
def help(context: click.Context, words: tuple[str, ...]) -> int:  # noqa: A001 - the name of the command
    """Show the help of a command, as in `provision help lock status`; without COMMAND the list of commands."""
    root = context.find_root()
    command, shown = root.command, root
    for word in words:
        inner = command.get_command(shown, word) if isinstance(command, click.Group) else None
        if inner is None:
            raise click.UsageError(f"no such command: {' '.join(words)}", shown)
        command, shown = inner, click.Context(inner, parent=shown, info_name=word)
    click.echo(command.get_help(shown))
    return 0
