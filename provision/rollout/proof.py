"""The proof that an instance can serve, which it gives before it gets requests."""

from provision.command import Answer, Run
from provision.errors import CommandError
from provision.inventory import Host
from provision.runs.context import Context
from provision.steps.nginx.upstream import label
from provision.steps.ollama import readiness


def command(host: Host, instance: str, context: Context) -> Run:
    """The command that tests an instance, on its host.

    Args:
        host: its host.
        instance: its name.
        context: of the run: it says which models the instance must have.
    """
    models = next((declared.models for declared in host.instances if declared.name == instance), ())
    return readiness.command(instance, models, any_model=not context.brings_models)


def place(host: Host, instance: str, test: Run, answer: Answer) -> str:
    """`ADDRESS:PORT` where an instance proved itself.

    Args:
        host: its host.
        instance: its name.
        test: the command that tested it.
        answer: to the command.

    Raises:
        CommandError: it did not prove itself.
    """
    if answer.exit:
        raise CommandError(
            f"{label(host.name, instance)} is not fit to serve and stays out of the upstream: {_first(answer.error)}",
            "mend it, then deploy again: it gets back in when it passes its test",
            step=f"test:{instance}",
            command=str(test),
            exit_status=answer.exit,
            stderr=answer.error[-4000:],
        )
    return readiness.place(answer)


def _first(text: str) -> str:
    return (text.strip().splitlines() or ["it said nothing"])[0][:300]
