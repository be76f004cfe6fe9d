"""`provision lab demo`: bare hosts become a verified endpoint, by the commands that an operator would type."""

import json
import shlex
import subprocess
import sys
import time
import urllib.request

from provision.lab.emulation import machine_factor
from provision.lab.lab import Lab
from provision.lab.shell import LabError
from provision.lab.spec import Spec

_PORT = 3008
_QUESTION = "Why should a private model be served from one's own GPUs?"


def steps(lab: Lab) -> list[list[str]]:
    """The commands of the demo, as words."""
    inventory = ["--inventory", str(lab.inventory)]
    return [["plan", "--no-diff", *inventory], ["deploy", "--yes", *inventory], ["verify", *inventory]]


def run(spec: Spec) -> list[str]:
    """Boot a lab; plan, deploy and verify there; stream one answer; return lines with commands to try next.

    Raises:
        LabError: a command failed; its output is on the screen.
    """
    begun = time.monotonic()
    print("Real here: systemd, sshd, apt, Docker, nginx. SIMULATED: the cards, NVIDIA's toolkit, the model server.")
    lab = Lab.up(spec, install=True, say=print)
    for words in steps(lab):
        print(f"\n$ provision {' '.join(words)}", flush=True)
        if code := subprocess.run([sys.executable, "-m", "provision", *words], check=False).returncode:
            hint = f"the lab {lab.name} is left as it is"
            raise LabError(f"`provision {words[0]}` ended with exit code {code}", hint)
    _ask(lab)
    return [*_next(lab), f"Done in {time.monotonic() - begun:.0f} s."]


def _ask(lab: Lab) -> None:
    """Stream one chat through the balancer, printing tokens as they come, then the instance's name."""
    balancer = next((host for host in lab.hosts() if host.spec.group == "balancer"), lab.hosts()[0])
    url = f"http://{balancer.address}:{_PORT}/api/chat"
    messages = [{"role": "user", "content": _QUESTION}]
    body = json.dumps({"model": "deepseek-r1:1.5b", "messages": messages, "options": {"num_predict": 60}})
    print(f"\n$ curl -N {url} -d {shlex.quote(body)}", flush=True)
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # a host of the lab is never behind a proxy
    request = urllib.request.Request(url, body.encode(), {"Content-Type": "application/json"})
    begun, first, last = time.monotonic(), 0.0, {}
    try:
        with direct.open(request, timeout=60 * machine_factor()) as answer:
            instance = answer.headers.get("X-Instance", "an unnamed instance")
            for line in answer:
                first = first or time.monotonic() - begun
                last = json.loads(line)
                message = last.get("message", {})
                print(message.get("thinking") or message.get("content") or "", end="", flush=True)
    except (OSError, ValueError) as error:
        raise LabError(f"{url} did not answer: {error}", f"the lab {lab.name} is left as it is") from error
    if not last.get("done"):
        raise LabError(f"the answer of {url} broke off: {last}", f"the lab {lab.name} is left as it is")
    total = time.monotonic() - begun
    print(f"\n\nAnswered by {instance} (simulated): first token after {first:.2f} s, the last after {total:.2f} s.")


def _next(lab: Lab) -> list[str]:
    here = f"--inventory {lab.inventory}"
    command = sys.argv[0] if "/" in sys.argv[0] else "provision"
    return [
        "",
        "The lab stays up. Try:",
        f"  {command} plan {here}                nothing to change",
        f"  {command} lab ssh --name {lab.name} gpu-01",
        f"  {command} lab fault --name {lab.name} gpu-01/ollama1 answer-503",
        f"  {command} verify {here}              finds it",
        "Take it down:",
        f"  {command} lab down --name {lab.name}",
        "",
    ]
