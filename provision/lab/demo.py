"""The README's first command: bare hosts become an endpoint, and answer."""

import json
import shlex
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Sequence

import click

from provision.errors import ProvisionError
from provision.lab.lab import Lab
from provision.lab.spec import Spec

PORT = 3008
QUESTION = "Why should a private model be served from one's own GPUs?"


def demo(spec: Spec) -> None:
    """Boot the lab, run plan, deploy and verify on it as an operator would, ask a question, say how it ends.

    Args:
        spec: the lab to boot, or to keep if it is there.

    Raises:
        ProvisionError: a command failed; its own words were shown.
    """
    begun = time.monotonic()
    click.secho("The GPUs and the model server of this lab are SIMULATED; everything else is real.", bold=True)
    lab = Lab.up(spec, install=True)
    inventory = str(lab.inventory)
    for words in (["plan", "-q"], ["deploy", "--yes"], ["verify"]):
        _command([*words, "--inventory", inventory])
    balancer = next(host for host in lab.hosts() if host.name.startswith("lb"))
    _chat(f"http://{balancer.address}:{PORT}", _model(inventory))
    click.echo(f"\nDone in {time.monotonic() - begun:.0f} s. The lab stays up:")
    click.echo(f"  look around    {_shown(['lab', 'status'])}")
    click.echo(f"  use it         provision plan --inventory {inventory}")
    click.echo(f"  take it down   {_shown(['lab', 'down', '--name', lab.name])}")


def _command(words: Sequence[str]) -> None:
    click.secho(f"\n$ provision {shlex.join(words)}", bold=True)
    done = subprocess.run([sys.executable, "-m", "provision", *words], check=False)
    if done.returncode:
        raise ProvisionError(f"provision {words[0]} ended with exit code {done.returncode}", "see above")


def _model(inventory: str) -> str:
    from provision import sequence

    return next(model for host in sequence.load(inventory).hosts for i in host.instances for model in i.models)


def _chat(url: str, model: str) -> None:
    """Stream one answer through the balancer, and say which instance gave it."""
    body = {"model": model, "messages": [{"role": "user", "content": QUESTION}], "options": {"num_predict": 60}}
    click.secho(f"\n$ curl -N {url}/api/chat -d {shlex.quote(json.dumps(body))}", bold=True)
    request = urllib.request.Request(f"{url}/api/chat", json.dumps(body).encode(), {"Content-Type": "application/json"})  # noqa: S310 - the lab's own address
    asked = time.monotonic()
    try:
        with urllib.request.urlopen(request, timeout=120) as answer:  # noqa: S310
            first, instance, frames, last = 0.0, answer.headers.get("X-Instance", "?"), 0, {}
            for line in answer:
                first = first or time.monotonic() - asked
                frames += 1
                last = json.loads(line)
                message = last.get("message", {})
                click.echo(message.get("thinking") or message.get("content") or "", nl=False)
    except urllib.error.URLError as error:
        raise ProvisionError(
            f"the balancer did not answer: {error}", "provision verify says where it is broken"
        ) from error
    if not last.get("done"):
        raise ProvisionError(f"the answer broke off: {last}", "provision verify says where it is broken")
    total = time.monotonic() - asked
    click.echo(
        f"\n\nserved by {instance}, {frames} frames, first after {first:.2f} s, last after {total:.2f} s (simulated)"
    )


def _shown(words: Sequence[str]) -> str:
    return shlex.join([sys.argv[0] if "/" in sys.argv[0] else "provision", *words])
