"""IPv4 addresses of instances. Pure."""

from ipaddress import IPv4Address


def is_ipv4(text: str) -> bool:
    """Return whether a text is an IPv4 address; instances listen on no other kind.

    Args:
        text: any text.
    """
    try:
        IPv4Address(text)
    except ValueError:
        return False
    return True
