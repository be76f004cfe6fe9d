"""TLS of a balancer: the files in a generation of nginx's configuration, and the proofs by OpenSSL from the balancer.

The key is a file of mode 0600 in the generation, so no other file, plan or journal has more of the key than its hash.
"""

import base64
import binascii
import hashlib
import ipaddress
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from provision.certificates import chain
from provision.render import render
from provision.steps.base import WARNING, Check, State
from provision.steps.facts import HostFacts
from provision.steps.nginx_paths import CONFIG
from provision.steps.system.file_scan import Content

CONF, CERTIFICATE, KEY, TRUST, CLIENTS = "tls.conf", "tls.pem", "tls.key", "trust.pem", "clients.pem"
ASK = "curl.conf"
"""Options of curl for requests of this host to its own balancer: the authorities, and the way to the name."""
CIPHERS = (
    "ECDHE-ECDSA-AES128-GCM-SHA256",
    "ECDHE-RSA-AES128-GCM-SHA256",
    "ECDHE-ECDSA-AES256-GCM-SHA384",
    "ECDHE-RSA-AES256-GCM-SHA384",
    "ECDHE-ECDSA-CHACHA20-POLY1305",
    "ECDHE-RSA-CHACHA20-POLY1305",
)
"""Of TLS 1.2, by Mozilla's guidelines 6.0, intermediate (docs/facts.md#tls)."""
CURVES = ("X25519", "prime256v1", "secp384r1")
HYBRID = "X25519MLKEM768"
"""The group with a part that is safe from quantum computers: of TLS 1.3, and of OpenSSL from 3.5 on. An unknown group
keeps nginx from starting."""
HAVE_HYBRID = {"debian": (13,), "ubuntu": (25, 10)}
"""Distribution -> its first release with OpenSSL 3.5 (docs/facts.md#tls)."""
OLD, VERSIONS = ("TLSv1.1",), ("TLSv1.2", "TLSv1.3")
NONE = "(NONE)"
MODE = 0o600
"""Permission bits of the key."""
SOON = 30  # days
DAY = 86400

# $1 ADDRESS:PORT; then options of `openssl s_client` for the name and the authorities. TLS 1.1 is offered at a security
# level that OpenSSL's own client does not have any more: else the client would refuse, and not the balancer.
PROOF = """
at=$1
shift
ask() { timeout 30 openssl s_client -connect "$at" "$@" </dev/null 2>/dev/null; }
said=$(ask "$@")
printf 'verified %s\\n' "$(printf '%s\\n' "$said" | sed -n 's/^Verification\\( error\\)*: //p' | head -n 1)"
leaf() { printf '%s\\n' "$said" | openssl x509 -noout "$@" 2>/dev/null; }
end=$(leaf -enddate)
printf 'sha256 %s\\n' "$(leaf -fingerprint -sha256 | tr -d : | sed 's/.*=//' | tr A-F a-f)"
[ -z "$end" ] || printf 'left %s\\n' "$(($(date -d "${end#*=}" +%s) - $(date +%s)))"
for version in 1_1 1_2 1_3; do
  level=''
  [ $version != 1_1 ] || level='-cipher DEFAULT@SECLEVEL=0'
  cipher=$(ask "-tls$version" $level "$@" | sed -n 's/^New, .*, Cipher is //p' | head -n 1)
  printf 'TLSv%s %s\\n' "$(echo $version | tr _ .)" "${cipher:-(NONE)}"
done
"""


@dataclass(frozen=True, kw_only=True)
class Tls:
    """TLS of a balancer.

    Args:
        certificate: certificates in PEM, that of the balancer first.
        key: its private key in PEM.
        trust: authorities in PEM that clients trust; empty for those of each machine.
        clients: authorities in PEM of clients; empty where clients need no certificate.
        name: a name of the certificate, for our own requests.
        at: `ADDRESS:PORT` where the host reaches its balancer.
        port: the port for clients.
        protocols: versions of TLS in nginx's words.
        tickets: whether sessions may be resumed by tickets.
        hsts: seconds of Strict-Transport-Security; 0 for no such header.
        redirect_port: port of the redirect from plain HTTP; 0 for none.
        end: the day of the certificate's end.
        refused: why no client would be served; empty where clients are.
    """

    certificate: bytes = field(repr=False)
    key: bytes = field(repr=False)
    trust: bytes = field(default=b"", repr=False)
    clients: bytes = field(default=b"", repr=False)
    name: str
    at: str
    port: int
    protocols: tuple[str, ...]
    tickets: bool = False
    hsts: int = 0
    redirect_port: int = 0
    end: str = ""
    refused: str = ""

    @property
    def url(self) -> str:
        """The URL of the balancer by its name."""
        return f"https://{_bracketed(self.name)}:{self.port}"

    @property
    def files(self) -> Mapping[str, bytes]:
        """Name -> bytes of the files that are the same on every host."""
        options = [f'connect-to = "{_bracketed(self.name)}:{self.port}:{self.at}"']
        options += [f'cacert = "{CONFIG}/{TRUST}"'] if self.trust else []
        given = {TRUST: self.trust, CLIENTS: self.clients}
        return {
            CERTIFICATE: self.certificate,
            KEY: self.key,
            ASK: "".join(f"{option}\n" for option in options).encode(),
            **{name: content for name, content in given.items() if content},
        }

    def conf(self, facts: HostFacts) -> bytes:
        """The directives, for nginx's server for clients.

        Args:
            facts: the host facts; the release tells the groups of OpenSSL.
        """
        hybrid = [HYBRID] if "TLSv1.3" in self.protocols and has_hybrid(facts) else []
        return render(
            "balancer/tls.conf.j2",
            certificate=CERTIFICATE,
            key=KEY,
            clients=CLIENTS if self.clients else "",
            protocols=" ".join(self.protocols),
            ciphers=":".join(CIPHERS),
            curves=":".join([*hybrid, *CURVES]),
            tickets=self.tickets,
            hsts=self.hsts,
        )

    def check(self, live: Any) -> Iterator[Check]:
        """A client that trusts the authorities accepts the certificate, which is the declared certificate.

        Args:
            live: testinfra's host.
        """
        words = (self.at, *_named(self.name), *self._authorities())
        lines = live.run("sh -c %s sh" + " %s" * len(words), PROOF, *words).stdout.splitlines()
        said = dict(line.split(" ", 1) for line in lines if " " in line)
        who = "a client with balancer.tls.trust" if self.trust else "a client with this host's own authorities"
        yield Check(f"{who} accepts the certificate of {self.name}", said.get("verified") or "no answer", "OK")
        yield Check("sha256 of the certificate on the wire", said.get("sha256", ""), sha256(self.certificate))
        offered = [name for name in (*OLD, *VERSIONS) if said.get(name, NONE) != NONE]
        yield Check("versions of TLS", offered, list(self.protocols))
        yield from _ends(said.get("left", ""))

    def _authorities(self) -> tuple[str, ...]:
        """Options of OpenSSL: the given authorities and no others."""
        return ("-CAfile", f"{CONFIG}/{TRUST}", "-no-CApath", "-no-CAstore") if self.trust else ()


def _ends(left: str) -> Iterator[Check]:
    """The certificate on the wire has not ended; an early end is a warning."""
    seconds = int(left) if re.fullmatch(r"-?\d{1,12}", left) else None
    yield Check("the certificate has not ended", seconds is not None and seconds > 0, True)
    if seconds is not None and 0 < seconds < SOON * DAY:
        days = seconds // DAY
        yield Check(f"{WARNING}the certificate ends in {days} days (docs/runbooks/renew-certificates.md)", True, True)


def _named(name: str) -> tuple[str, ...]:
    """Options of OpenSSL: ask for a name, and expect the name."""
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return ("-servername", name, "-verify_hostname", name)
    return ("-noservername", "-verify_ip", name)


def has_hybrid(facts: HostFacts) -> bool:
    """Whether the OpenSSL of a release has the group that is safe from quantum computers.

    Args:
        facts: the host facts.
    """
    first = HAVE_HYBRID.get(facts.distribution)
    numbers = re.fullmatch(r"(\d{1,4})(?:\.(\d{1,4}))?", facts.version)
    return bool(first and numbers and tuple(int(part) for part in numbers.groups() if part) >= first)


def sha256(certificate: bytes) -> str:
    """The sha256 of the first certificate of a file in PEM, as OpenSSL prints it; empty for no certificate.

    Args:
        certificate: the bytes of the file.
    """
    body = certificate.partition(b"-----BEGIN CERTIFICATE-----")[2].partition(b"-----END CERTIFICATE-----")[0]
    try:
        data = base64.b64decode(b"".join(body.split()), validate=True)
    except binascii.Error:
        return ""
    return hashlib.sha256(data).hexdigest() if data else ""


def change(have: State, want: State) -> list[str]:
    """The certificates of two configurations, in a line for an operator; nothing for the same certificate.

    Args:
        have: the configuration as found.
        want: the configuration as wanted.
    """
    old, new = ((state or {}).get("files", {}).get(CERTIFICATE) for state in (have, want))
    if old == new:
        return []
    return [f"certificate: {_until(old)} -> {_until(new)}"]


def _until(content: object) -> str:
    """The end of a certificate in words."""
    if content is None:
        return "none"
    end = chain.ends_of(content.data) if isinstance(content, Content) else None
    return f"until {chain.day(end)}" if end else "unreadable"


def ended(files: Mapping[str, bytes | str], now: int | None) -> str:
    """The day on which the certificate of a configuration ended; empty where it has not, or where that is unknown.

    Args:
        files: the files of the configuration.
        now: seconds since 1970 by the host's clock; None where unknown.
    """
    content = files.get(CERTIFICATE)
    end = chain.ends_of(content) if isinstance(content, bytes) else None
    return chain.day(end) if end and now is not None and end.timestamp() <= now else ""


def cost(have: State, want: State) -> str:
    """What a change of TLS costs clients; empty for nothing.

    Args:
        have: the configuration as found.
        want: the configuration as wanted.
    """
    if have is None or want is None or speaks(have) == speaks(want):
        return ""
    if speaks(want):
        return "clients need https:// from then on"
    return "clients need http:// from then on, and requests go in clear"


def speaks(state: State) -> bool:
    """Whether a configuration has TLS.

    Args:
        state: the configuration.
    """
    return KEY in (state or {}).get("files", {})


def _bracketed(address: str) -> str:
    return f"[{address}]" if ":" in address else address
