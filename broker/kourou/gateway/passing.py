"""Calls that another broker of the cluster must answer.

A message group belongs to one broker, a recall handle to the one that made it. Some official clients choose a broker by a
hash of their own (Python), or take the next one (Go, for recalls). Such a call is passed on to where it belongs; once: one
that came from another gateway is answered as it is.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from kourou.gateway.tunnel import CallInfo, TunnelledCall
from kourou.http2.call import Call

Way = Callable[[str, str, bytes, CallInfo], Awaitable[list[bytes]]]  # broker, method, request, who asks


class Passing:
    def __init__(self) -> None:
        self._way: Way | None = None

    def by(self, way: Way) -> None:
        """How other brokers are reached; a standalone node has none."""
        self._way = way

    def may(self, call: Call) -> bool:
        return self._way is not None and not isinstance(call, TunnelledCall)

    async def on(self, broker: str, method: str, data: bytes, call: Call) -> bytes:
        """Its answer. Raises KourouError."""
        assert self._way is not None
        (answer,) = await self._way(broker, method, data, CallInfo.of(call))
        return answer
