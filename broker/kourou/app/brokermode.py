"""A broker of a group in the mode that its options name: static, or elected. Only the latter pays for what etcd needs."""

from __future__ import annotations

from typing import Any

from kourou.app.broker import BrokerProcess
from kourou.app.options import BrokerOptions
from kourou.runtime.process import Ready, serve


async def run(options: BrokerOptions, *, log: Any, ready: Ready) -> None:
    """Serve until SIGTERM or SIGINT. Raises KourouError when the broker can't start or fails."""
    process = BrokerProcess
    if options.failover == "etcd":
        from kourou.app.failover import FailoverProcess as process

    await serve(process(options, log=log), ready=ready, connections=options.max_connections)
