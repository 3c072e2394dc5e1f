"""A scripted broker for members of shared groups: the test says what RECEIVE answers, and what becomes of ACK."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from kourou.core import deliveries, settling
from kourou.core.deliveries import Asked, Delivery
from kourou.core.errors import KourouError
from kourou.core.records import Field, encode_text
from kourou.core.wire import Code, WireMessage
from tests.unit.client.fake_server import STORE_MS, FakePeer, FakeServer

LOSE_ANSWER = "lose"  # what was asked for is done, and the connection ends
Result = KourouError | str | None


@dataclass
class Receiving:
    """A RECEIVE that waits for the test, or for RECEIVE_CANCEL."""

    asked: Asked
    peer: FakePeer
    message: WireMessage
    ended: bool = False


class FakeShared(FakeServer):
    def __init__(self, name: str = "a") -> None:
        super().__init__(name)
        self.receives: list[Receiving] = []
        self.cancelled = 0
        self.acks: list[list[str]] = []  # handles, by request
        self.changes: list[list[tuple[str, int, int]]] = []
        self.buried: list[tuple[str, str]] = []
        self.results: deque[str | Callable[[str], Result]] = deque()  # for the next ACK or CHANGE_INVISIBLE
        self.refusal: KourouError | None = None  # of the next RECEIVE
        self.max_attempts = 16
        self._number = 0

    def handle(self, peer: FakePeer, message: WireMessage) -> None:
        own: dict[int, Callable[[FakePeer, WireMessage], None]] = {
            Code.RECEIVE: self.on_receive,
            Code.RECEIVE_CANCEL: self.on_cancel,
            Code.ACK: self.on_ack,
            Code.CHANGE_INVISIBLE: self.on_change,
            Code.BURY: self.on_bury,
        }
        if message.code not in own:
            super().handle(peer, message)
            return
        own[message.code](peer, message)
        self.changed.set()

    # ---- receiving

    @property
    def parked(self) -> list[Receiving]:
        return [receiving for receiving in self.receives if not receiving.ended and not receiving.peer.ended.is_set()]

    def on_receive(self, peer: FakePeer, message: WireMessage) -> None:
        asked = deliveries.decode_asked(message.header, message.body)
        if self.refusal is not None:
            refusal, self.refusal = self.refusal, None
            raise refusal
        receiving = Receiving(asked, peer, message)
        if asked.limit == 0:
            self.answer_with(receiving)
        else:
            self.receives.append(receiving)

    def on_cancel(self, peer: FakePeer, message: WireMessage) -> None:
        (opaque,) = deliveries.CANCEL.unpack(message.header)
        for receiving in self.parked:
            if receiving.peer is peer and receiving.message.opaque == opaque:
                self.cancelled += 1
                self.answer_with(receiving)

    def answer_with(self, receiving: Receiving, *given: Delivery) -> None:
        receiving.ended = True
        header = deliveries.ANSWER.pack(len(given), self.max_attempts, 0)
        receiving.peer.answer(receiving.message, header=header, body=b"".join(deliveries.encode_deliveries(given)))

    async def receiving(self) -> Receiving:
        """The RECEIVE that waits."""
        await self.until(lambda: bool(self.parked))
        return self.parked[0]

    def delivery(self, body: bytes = b"x", *, attempt: int = 1, group: str | None = None) -> Delivery:
        self._number += 1
        number = self._number
        block = encode_text(Field.MESSAGE_GROUP, [group]) if group is not None else b""
        return Delivery(0, number, STORE_MS, STORE_MS, STORE_MS, 7, number, 0, attempt, b"handle-%d" % number, block, body)

    # ---- settling

    def on_ack(self, peer: FakePeer, message: WireMessage) -> None:
        _, handles = settling.decode_ack(message.header, message.body)
        self.acks.append(handles)
        self._settle(peer, message, handles)

    def on_change(self, peer: FakePeer, message: WireMessage) -> None:
        _, changes = settling.decode_change(message.header, message.body)
        self.changes.append(changes)
        self._settle(peer, message, [handle for handle, _, _ in changes])

    def _settle(self, peer: FakePeer, message: WireMessage, handles: list[str]) -> None:
        action = self.results.popleft() if self.results else None
        if action == LOSE_ANSWER:
            peer.transport.abort()
            return
        assert not isinstance(action, str)
        header, body = settling.encode_results([action(handle) if action is not None else None for handle in handles])
        peer.answer(message, header=header, body=body)

    def on_bury(self, peer: FakePeer, message: WireMessage) -> None:
        _, handle, reason = settling.decode_bury(message.header, message.body)
        self.buried.append((handle, reason))
        peer.answer_json(message, {})
