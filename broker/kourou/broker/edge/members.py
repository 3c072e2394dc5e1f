"""What every member of a broker group answers, whatever its role, and how it refuses the rest."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from kourou.core import fields, wire
from kourou.core.errors import KourouError
from kourou.core.wire import Code, WireMessage
from kourou.transport.server import Handler, Peer


class MemberHandlers:
    """STATUS, DIGEST, PROMOTE."""

    def __init__(
        self,
        *,
        status: Callable[[], dict[str, Any]],
        digest: Callable[[], dict[str, Any]],
        promote: Callable[[bool, int], Awaitable[dict[str, Any]]],
    ) -> None:
        self._status = status
        self._digest = digest
        self._promote = promote

    def table(self) -> dict[int, Handler]:
        return {Code.STATUS: self.status, Code.DIGEST: self.digest, Code.PROMOTE: self.promote}

    def status(self, peer: Peer, message: WireMessage) -> None:
        peer.reply_json(message, self._status())

    def digest(self, peer: Peer, message: WireMessage) -> None:
        peer.reply_json(message, self._digest())

    async def promote(self, peer: Peer, message: WireMessage) -> None:
        value = wire.decode_json(message.body, what="PROMOTE")
        above = fields.number(value, "above", 0, high=(1 << 32) - 1)
        peer.reply_json(message, await self._promote(fields.flag(value, "accept_loss", False), above))


def refusing(served: Mapping[int, Handler], why: Callable[[], KourouError]) -> dict[int, Handler]:
    """A table that serves these and refuses every other code with ``why``, which clients can act on."""

    def refuse(peer: Peer, message: WireMessage) -> None:
        raise why()

    return {**{int(code): refuse for code in Code if code not in (Code.HELLO, Code.PING)}, **served}


def until(is_over: Callable[[], bool], served: Mapping[int, Handler], why: Callable[[], KourouError]) -> dict[int, Handler]:
    """A table that serves these until it is over, then refuses them with ``why``."""

    def in_time(handler: Handler) -> Handler:
        def handle(peer: Peer, message: WireMessage) -> Awaitable[None] | None:
            if is_over():
                raise why()
            return handler(peer, message)

        return handle

    return {int(code): in_time(handler) for code, handler in served.items()}
