"""The networks that may use a listener of nginx: the file for clients, the cost of a change, and the proofs.

nginx looks at the address in the server's rewrite phase, before a location is chosen: `return` in a location comes
before `allow` and `deny`, and would tell strangers the names of models (ngx_http_core_module.h, ngx_http_phases). The
`geo` block takes the most specific network, and `if` has neither a pattern nor captures.
"""

import ipaddress
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from provision.render import render
from provision.steps.base import NOT_ASKED, Check, State
from provision.steps.system.file_scan import Content

FILE = "allow.conf"
OWN = ("127.0.0.1", "::1")
"""Addresses of a host itself, which every listener takes: the proofs ask from there."""
ANSWERS = ("200",)
STRANGER = "127.0.0.2"
"""An address of every Linux host that no client has: a proof asks from there, to be refused."""
_NETWORK = re.compile(r"^    ([0-9a-f.:/]+) 0;$", re.MULTILINE)

# SOURCE URL pairs; the source `-` is the host's own choice. Prints a status for each, in their order. The certificate
# is of no interest here.
ASK_FROM = """
for pair do
  source=${pair%% *}
  [ "$source" != - ] || source=''
  curl --noproxy '*' --silent --insecure --output /dev/null --max-time 30 ${source:+--interface "$source"} \
    --write-out '%{http_code}\n' "${pair#* }" || :
done
"""


@dataclass(frozen=True)
class Door:
    """A listener that only some networks may use.

    Args:
        setting: the setting with the networks, for messages.
        networks: the networks.
        urls: where the host itself reaches the listener.
        answers: every status that the host itself may get there.
    """

    setting: str
    networks: tuple[str, ...]
    urls: tuple[str, ...]
    answers: tuple[str, ...] = ANSWERS

    def check(self, live: Any) -> Iterator[Check]:
        """Prove that the host itself gets an answer at each URL, and a stranger is refused.

        Args:
            live: testinfra's host.
        """
        has_stranger = any(ipaddress.ip_address(STRANGER) in ipaddress.ip_network(each) for each in self.networks)
        why = f"{self.setting} has {STRANGER}" if has_stranger else "an IPv6 host has a single address of its own"
        strange = [] if has_stranger else [url for url in self.urls if "[" not in url]
        codes = iter(_codes(live, [*(f"- {url}" for url in self.urls), *(f"{STRANGER} {url}" for url in strange)]))
        for url in self.urls:
            code = next(codes)
            yield Check(f"{url} answers the host itself", code, code if code in self.answers else self.answers[0])
        for url in strange:
            yield Check(f"{url} refuses {STRANGER}, which is outside of {self.setting}", next(codes), "403")
        for url in (url for url in self.urls if url not in strange):
            yield Check(f"{NOT_ASKED}whether {url} refuses others: {why}", True, True)


def _codes(live: Any, pairs: list[str]) -> list[str]:
    blanks = " ".join(["%s"] * len(pairs))
    found: list[str] = live.run(f"sh -c %s sh {blanks}", ASK_FROM, *pairs).stdout.split()
    return found if len(found) == len(pairs) else ["nothing"] * len(pairs)


def allowed(networks: Sequence[str], listen: Sequence[str]) -> list[str]:
    """Return the networks that may use a listener: the declared networks, and the host itself, each once.

    Args:
        networks: addresses and networks of clients.
        listen: addresses of the listener.
    """
    own = (address for address in listen if not ipaddress.ip_address(address).is_unspecified)
    every = (str(ipaddress.ip_network(network)) for network in (*networks, *OWN, *own))
    return list(dict.fromkeys(every))


def text(networks: Sequence[str], listen: Sequence[str]) -> bytes:
    """Return the text of `allow.conf`, which nginx reads in the http block.

    Args:
        networks: see `allowed`.
        listen: see `allowed`.
    """
    return render(f"balancer/{FILE}.j2", allowed=allowed(networks, listen))


def cost(have: State, want: State) -> str:
    """Return the effect of a change on clients; empty where no client loses access.

    Args:
        have: the configuration as found; None where there is none.
        want: the configuration as wanted.
    """
    before, after = _networks(have), _networks(want)
    if have is None or not after or (before and before <= after):
        return ""
    shown = sorted(after - {str(ipaddress.ip_network(address)) for address in OWN})
    return f"clients outside of {', '.join(shown[:5])}{' and more' if len(shown) > 5 else ''} get 403"


def _networks(state: State) -> set[str]:
    """The networks in a configuration; empty where every client may ask."""
    content = (state or {}).get("files", {}).get(FILE)
    found = _NETWORK.findall(content.data.decode(errors="replace")) if isinstance(content, Content) else []
    return set(found)
