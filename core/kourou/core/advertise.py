"""Which address a client is told for a broker: the rule for ``advertised = "auto"``. Pure.

A broker on ``auto`` is reached where it was seen: at the source address of its registration. When that is a loopback
address, broker and nameserver share a host, so the broker is reached by the host name that the asker itself dialled. The
same holds when both are one process. An explicit address (needed behind port maps) is passed on as it is.
"""

from __future__ import annotations

import ipaddress

from kourou.core.errors import BadRequest
from kourou.core.route import Endpoint, parse_endpoint


def plain_host(host: str) -> str:
    """An IPv4 address that a dual-stack socket shows as IPv6 (``::ffff:10.0.0.5``) in its own form; others as they are."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return str(mapped) if mapped is not None else host


def is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(plain_host(host)).is_loopback
    except ValueError:
        return False


def resolve(advertised: str, *, port: int, source: str | None, dialled: str) -> Endpoint:
    """The endpoint to tell an asker.

    ``advertised`` is "auto" or host:port; ``port`` the broker's own; ``source`` the host its registration came from (None:
    the same process); ``dialled`` what the asker connected to, by its own account.
    """
    if advertised != "auto":
        return parse_endpoint(advertised, default_port=port)
    if source is not None and not is_loopback(source):
        return Endpoint(plain_host(source), port)
    try:
        return Endpoint(parse_endpoint(dialled, default_port=1).host, port)
    except BadRequest:
        return Endpoint(source or "127.0.0.1", port)
