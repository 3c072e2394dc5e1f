"""What a broker's start needs from outside, tried before the store is opened: a start that fails must not begin an epoch."""

from __future__ import annotations

import asyncio
import socket
from contextlib import ExitStack

from kourou.app.options import BrokerOptions
from kourou.core.errors import BadRequest
from kourou.core.route import Endpoint
from kourou.http2 import tls
from kourou.runtime.process import bound


async def check(options: BrokerOptions) -> None:
    """Can the ports be had and the certificate be used? Raises BadRequest; nothing is kept."""
    with ExitStack() as held:
        for what, port in (("data plane", options.port), ("gRPC", options.grpc_port), ("HTTP", options.http_port)):
            if port:
                await bound(what, Endpoint(options.host, port), _hold(options.host, port, held))
    check_certificate(options)


def check_certificate(options: BrokerOptions) -> None:
    certificate, key = options.tls_certificate, options.tls_key
    if certificate is not None and options.tls != "off":
        try:
            tls.own(str(certificate), str(key))
        except OSError as failure:
            raise BadRequest(f"the certificate {certificate} can't be used: {failure}") from None


async def _hold(host: str, port: int, held: ExitStack) -> int:
    """Listen as a server would, until ``held`` is closed: a port that two of ours want is found, too."""
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    for family, address in dict.fromkeys((family, address) for family, _, _, _, address in found):
        try:
            listener = held.enter_context(socket.socket(family, socket.SOCK_STREAM))
        except OSError:
            continue  # a machine without IPv6
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.bind(address)
        listener.listen(1)
    return port
