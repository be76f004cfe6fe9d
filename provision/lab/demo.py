"""`provision lab demo`: bare hosts become a verified endpoint, by the same commands that anyone would type."""

import json
import subprocess
import sys
import urllib.request

from provision.lab.lab import Lab
from provision.lab.shell import LabError
from provision.lab.spec import Spec

_PORT = 3008


def steps(lab: Lab) -> list[list[str]]:
    """The commands of the demo, as words."""
    inventory = ["--inventory", str(lab.inventory)]
    return [["deploy", "--yes", *inventory], ["verify", *inventory]]


def run(spec: Spec) -> list[str]:
    """Boot a lab, deploy to it, verify it, ask it one question, and return lines that say what to try next.

    Raises:
        LabError: a step failed; what it said is on the screen.
    """
    lab = Lab.up(spec, install=True, say=print)
    for words in steps(lab):
        print(f"\n$ provision {' '.join(words)}", flush=True)
        if code := subprocess.run([sys.executable, "-m", "provision", *words], check=False).returncode:
            raise LabError(
                f"`provision {words[0]}` ended with exit code {code}", f"the lab {lab.name} is left as it is"
            )
    return [*_ask(lab), *_next(lab)]


def _ask(lab: Lab) -> list[str]:
    balancer = next((host for host in lab.hosts() if host.spec.group == "balancer"), lab.hosts()[0])
    url = f"http://{balancer.address}:{_PORT}/v1/chat/completions"
    question = {"model": "deepseek-r1:1.5b", "messages": [{"role": "user", "content": "Who are you?"}]}
    request = urllib.request.Request(url, json.dumps(question).encode(), {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310 - our own balancer
            said = json.load(answer)["choices"][0]["message"]["content"]
    except (OSError, ValueError, KeyError) as error:
        raise LabError(f"{url} did not answer: {error}", f"the lab {lab.name} is left as it is") from error
    return ["", f"$ curl {url} ...", said]


def _next(lab: Lab) -> list[str]:
    here = f"--inventory {lab.inventory}"
    return [
        "",
        "Real here: systemd, sshd, apt, Docker, nginx. Simulated: the cards, NVIDIA's toolkit, the model server.",
        "",
        f"  provision plan {here}          nothing to change",
        f"  provision lab ssh --name {lab.name} gpu-01",
        f"  provision lab fault --name {lab.name} gpu-01/ollama1 answer-503",
        f"  provision verify {here}        finds it",
        f"  provision lab down --name {lab.name}",
    ]
