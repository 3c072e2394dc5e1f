"""PLEDGE: does this member promise its master, which can't reach etcd, not to campaign?"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from kourou.broker.edge.members import MemberHandlers
from kourou.core import fields, wire
from kourou.core.wire import Code, WireMessage
from kourou.transport.server import Handler, Peer


class PledgingMembers(MemberHandlers):
    """PLEDGE beside what every member answers."""

    def __init__(self, pledge: Callable[[int], bool], **others: Any) -> None:
        super().__init__(**others)
        self._pledge = pledge

    def table(self) -> dict[int, Handler]:
        return {**super().table(), Code.PLEDGE: self.pledge}

    def pledge(self, peer: Peer, message: WireMessage) -> None:
        epoch = fields.number(wire.decode_json(message.body, what="PLEDGE"), "epoch")
        peer.reply_json(message, {"pledged": self._pledge(epoch)})
