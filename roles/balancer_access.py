"""Which networks may use the addresses of a balancer: settings, files and proofs."""

import ipaddress
from collections.abc import Iterator

from pydantic import Field

from provision.inventory import Address, IpNetwork, Port
from provision.inventory import Settings as Base
from provision.inventory.settings import KeyPath
from provision.render import render
from provision.steps.instance.engine import Engine
from provision.steps.nginx import client_networks
from provision.steps.nginx.client_networks import Door
from provision.steps.nginx.model_routes import OPENAI

STATUS_PAGE = "/stub_status"
KEYLESS = ("401", *client_networks.ANSWERS)
"""Status of an answer without a key; a client of a network with access has none to show."""


class Access(Base):
    """The settings of listeners that only some networks may use."""

    allow: tuple[IpNetwork, ...] = Field(default=(), max_length=1000)
    """Addresses and networks of clients, IPv4 or IPv6; other clients get 403. Empty: everybody. The balancer itself is
    always allowed."""
    status_port: Port = 8080
    """Port on 127.0.0.1 for nginx's counters (/stub_status) and the id of its configuration (/generation)."""
    status_listen: tuple[Address, ...] = Field(default=(), max_length=16)
    """Further addresses of the status port, such as the host's address in a management network."""
    status_allow: tuple[IpNetwork, ...] = Field(default=(), max_length=1000)
    """Addresses and networks that may use the status port at `status_listen`; others get 403."""

    def problems(self) -> Iterator[tuple[KeyPath, str]]:
        """Yield addresses of the status port without networks, networks without addresses, and addresses of no use."""
        if self.status_listen and not self.status_allow:
            yield ("status_allow",), "must name the networks that may use the status port at status_listen"
        if self.status_allow and not self.status_listen:
            yield ("status_listen",), "must name an address, or status_allow is of no use"
        for number, address in enumerate(self.status_listen):
            found = ipaddress.ip_address(address)
            if found.is_unspecified or found == ipaddress.ip_address("127.0.0.1"):
                yield ("status_listen", number), "must be an address of the host; 127.0.0.1 has the status port always"
            elif address in self.status_listen[:number]:
                yield ("status_listen", number), "names an address twice"

    @property
    def status(self) -> tuple[str, ...]:
        """`ADDRESS:PORT` of every address for the status."""
        further = (f"{bracketed(address)}:{self.status_port}" for address in self.status_listen)
        return (f"127.0.0.1:{self.status_port}", *further)

    def access_files(self, listen: tuple[str, ...], router: str) -> dict[str, bytes]:
        """Return the files for the status and for the networks of clients: name -> bytes.

        Args:
            listen: addresses for clients.
            router: how a request finds the instances of its model; empty without a router.
        """
        allowed = client_networks.allowed(self.status_allow, self.status_listen)
        further = {"listen": self.status, "allowed": allowed if self.status_listen else []}
        status = render("balancer/status.conf.j2", **further, router=router)
        clients = {client_networks.FILE: client_networks.text(self.allow, listen)} if self.allow else {}
        return {"status.conf": status, **clients}

    def doors(self, base: str, engine: Engine, *, keyed: bool, certified: bool) -> tuple[Door, ...]:
        """Return the proofs of listeners that only some networks may use.

        Args:
            base: where the host itself reaches the balancer, without a path.
            engine: the engine of the instances.
            keyed: whether clients need a key, which the proofs have not: the refusal of a client without a key then
                shows that the address is allowed.
            certified: whether clients need a certificate: nginx refuses without a certificate before nginx looks at the
                address, so there is no proof.
        """
        listed = next((path for path in engine.lists if path.startswith(OPENAI)), engine.health)
        url, answers = (f"{base}{listed}", KEYLESS) if keyed else (f"{base}{engine.health}", client_networks.ANSWERS)
        clients = [Door("balancer.allow", self.allow, (url,), answers)] if self.allow and not certified else []
        pages = tuple(f"http://{at}{STATUS_PAGE}" for at in self.status[1:])
        return (*clients, *([Door("balancer.status_allow", self.status_allow, pages)] if pages else []))


def bracketed(address: str) -> str:
    """Return an IP address as it stands before a port.

    Args:
        address: IPv4 or IPv6 address.
    """
    return f"[{address}]" if ":" in address else address
