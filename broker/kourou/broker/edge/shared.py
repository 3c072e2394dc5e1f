"""RECEIVE, ACK, CHANGE_INVISIBLE and BURY on the data plane: members of shared groups over native connections.

A receive with nothing to get is parked; it ends with its connection, or with RECEIVE_CANCEL. What was handed out over a
connection that ended before it was written comes back after GIVEN_BACK_MS, uncounted: nobody has seen it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

from kourou.broker.services.messaging import LocalMessaging
from kourou.broker.services.records import StoredMessage
from kourou.broker.services.shared.request import Delivery as HandedOut
from kourou.broker.services.shared.request import Outcome
from kourou.broker.services.shared.service import SharedService
from kourou.core import deliveries, settling
from kourou.core.deliveries import Asked, Delivery
from kourou.core.errors import BadRequest, GroupNotFound, InvalidReceiptHandle, KourouError
from kourou.core.filter import Filter, parse_filter
from kourou.core.names import check_group, check_topic
from kourou.core.settling import BY_POLICY, KEEP, UNCOUNTED
from kourou.core.wire import Code, WireMessage
from kourou.transport.server import Handler, Peer

GIVEN_BACK_MS = 1_000
PARKED_MAX = 10_000  # receives of one connection
CANCELLED_KEPT = 64


class Parked:
    """The receives of one connection that wait, and what was handed out over it and may not be written yet."""

    __slots__ = ("cancelled", "looking", "unwritten", "waiters")

    def __init__(self) -> None:
        self.waiters: dict[int, tuple[Any, Callable[[Outcome], None]]] = {}  # by opaque
        self.cancelled: deque[int] = deque(maxlen=CANCELLED_KEPT)  # opaques of cancels that found nothing parked
        self.unwritten: list[tuple[str, list[str]]] = []  # (group, handles)
        self.looking = False


class SharedHandlers:
    def __init__(self, messaging: LocalMessaging, shared: SharedService) -> None:
        self._messaging = messaging
        self._shared = shared
        self._peers: dict[Peer, Parked] = {}

    def table(self) -> dict[int, Handler]:
        return {
            Code.RECEIVE: self.receive,
            Code.RECEIVE_CANCEL: self.cancel,
            Code.ACK: self.ack,
            Code.CHANGE_INVISIBLE: self.change_invisible,
            Code.BURY: self.bury,
        }

    # ---- receiving

    async def receive(self, peer: Peer, message: WireMessage) -> None:
        asked = deliveries.decode_asked(message.header, message.body)
        group, topic = check_group(asked.group), check_topic(asked.topic)
        wanted = wanted_of(asked)
        self._messaging.topic(topic)
        view = await self._messaging.group(group)
        parked = self._parked(peer)
        if asked.limit == 0 or peer.closed or message.opaque in parked.cancelled:
            self._messaging.agree(group, topic, peer.client_id, wanted)
            peer.reply(message, header=deliveries.ANSWER.pack(0, view.max_attempts, 0))
            return
        if len(parked.waiters) >= PARKED_MAX:
            raise BadRequest(f"{PARKED_MAX} receives wait on this connection already")
        opaque = message.opaque
        ended = False

        def done(outcome: Outcome) -> None:
            nonlocal ended
            ended = True
            parked.waiters.pop(opaque, None)
            if isinstance(outcome, KourouError):
                peer.reply_error(message, outcome)
            elif peer.closed:
                self._give_back(group, [delivery.handle for delivery in outcome])
            else:
                found = deliveries.encode_deliveries(map(handed_out, outcome))
                header = deliveries.ANSWER.pack(len(outcome), view.max_attempts, 0)
                peer.reply(message, header=header, parts=found)
                if outcome:
                    parked.unwritten.append((group, [delivery.handle for delivery in outcome]))
                    self._look_soon(peer, parked)

        waiter = self._messaging.receive(
            view,
            topic,
            queue=None,
            client=peer.client_id,
            limit=asked.limit,
            invisible_ms=asked.invisible_ms,
            wait_ms=asked.wait_ms,
            wanted=wanted,
            attempt_id=f"{peer.client_id} {asked.attempt}" if asked.attempt else "",
            renewed=False,
            bytes_max=asked.bytes_max,
            done=done,
        )
        if not ended:
            parked.waiters[opaque] = waiter, done

    def _parked(self, peer: Peer) -> Parked:
        parked = self._peers.get(peer)
        if parked is None:
            parked = self._peers[peer] = Parked()
            peer.on_close(self._closed)
        return parked

    def _look_soon(self, peer: Peer, parked: Parked) -> None:
        if not parked.looking:
            parked.looking = True
            asyncio.get_running_loop().call_soon(self._look, peer, parked)

    @staticmethod
    def _look(peer: Peer, parked: Parked) -> None:
        """Whether everything has left; where it has not, the next answer looks again."""
        parked.looking = False
        if not peer.closed and not peer.unsent_bytes:
            parked.unwritten.clear()

    def _closed(self, peer: Peer) -> None:
        parked = self._peers.pop(peer, None)
        if parked is None:
            return
        for waiter, _ in parked.waiters.values():
            self._messaging.cancel(waiter)
        parked.waiters.clear()
        for group, handles in parked.unwritten:
            self._give_back(group, handles)
        parked.unwritten.clear()
        self._messaging.client_gone(peer.client_id)  # if it is back already, its next receive says so

    def _give_back(self, group: str, handles: Sequence[str]) -> None:
        for handle in handles:  # one that was settled meanwhile is not put off any more
            self._messaging.change_invisible(group, handle, GIVEN_BACK_MS, uncounted=True, done=_ignore)

    def cancel(self, peer: Peer, message: WireMessage) -> None:
        """A parked receive is answered at once, with nothing."""
        if len(message.header) != deliveries.CANCEL.size:
            raise BadRequest(f"RECEIVE_CANCEL has a header of {len(message.header)} bytes, not {deliveries.CANCEL.size}")
        (opaque,) = deliveries.CANCEL.unpack(message.header)
        if peer.closed:
            return
        parked = self._parked(peer)
        found = parked.waiters.pop(opaque, None)
        if found is not None:
            waiter, done = found
            self._messaging.cancel(waiter)
            done([])
        else:
            parked.cancelled.append(opaque)  # answered before; or it came right behind its receive, which is just beginning

    # ---- settling

    def ack(self, peer: Peer, message: WireMessage) -> None:
        group, handles = settling.decode_ack(message.header, message.body)
        self._known(group)

        def done(results: list[KourouError | None]) -> None:
            header, body = settling.encode_results(results)
            peer.reply(message, header=header, parts=(body,))

        self._messaging.ack(group, handles, done)

    def change_invisible(self, peer: Peer, message: WireMessage) -> None:
        group, changes = settling.decode_change(message.header, message.body)
        retry = self._known(group).retry
        results: list[KourouError | str | None] = [None] * len(changes)
        missing = len(changes)

        def settled(number: int, result: str | KourouError | None) -> None:
            nonlocal missing
            results[number] = result
            missing -= 1
            if missing == 0:
                header, body = settling.encode_results(results)
                peer.reply(message, header=header, parts=(body,))

        for number, (handle, invisible_ms, flags) in enumerate(changes):
            try:
                if flags & ~(KEEP | UNCOUNTED):
                    raise BadRequest(f"CHANGE_INVISIBLE has the unknown flags {flags}")
                if invisible_ms == BY_POLICY:
                    receipt, _ = self._shared.open_handle(group, handle)
                    invisible_ms = retry.delay_ms(max(1, receipt.attempt))
                deliveries.check_invisible(invisible_ms, low=0)
                if flags & KEEP:
                    self._renew(group, handle, invisible_ms)
                    settled(number, None)
                    continue
            except KourouError as failure:
                settled(number, failure)
                continue
            self._messaging.change_invisible(
                group, handle, invisible_ms, uncounted=bool(flags & UNCOUNTED), done=_of(settled, number)
            )

    def _renew(self, group: str, handle: str, invisible_ms: int) -> None:
        """The handle stays good. Not waited for: a renewal that is lost in a crash is an earlier redelivery."""
        receipt, _ = self._shared.open_handle(group, handle)
        place = group, receipt.incarnation, receipt.queue, receipt.queue_offset, receipt.serial
        if not self._shared.renew(*place, self._shared.now_ms() + invisible_ms):
            raise InvalidReceiptHandle("the message was settled, or delivered again since")

    async def bury(self, peer: Peer, message: WireMessage) -> None:
        group, handle, reason = settling.decode_bury(message.header, message.body)
        self._known(group)
        await self._messaging.forward(group, handle, reason or "given up by its consumer")
        peer.reply_json(message, {})

    def _known(self, group: str) -> Any:
        known = self._messaging.known_group(check_group(group))
        if known is None:
            raise GroupNotFound(f"group {group!r} does not exist here")
        return known


def handed_out(delivery: HandedOut) -> Delivery:
    return on_the_wire(delivery.message, delivery.queue, delivery.handle, delivery.attempt, delivery.due_ms)


def on_the_wire(message: StoredMessage, queue: int, handle: str, attempt: int, due_ms: int) -> Delivery:
    header, prefix = message.frame.header, message.frame.prefix
    return Delivery(
        queue,
        message.queue_offset,
        message.born_ms,
        prefix.store_ms,
        due_ms,
        header.producer_id,
        header.sequence if header.producer_id else prefix.log_offset,
        message.number,
        attempt,
        handle.encode(),
        message.block,
        message.body,
    )


@lru_cache(maxsize=4_096)
def _parsed(kind: str, expression: str) -> Filter | None:
    found = parse_filter(kind, expression)
    return None if found.kind == "tag" and found.expression == "*" else found


def wanted_of(asked: Asked) -> Filter | None:
    """None: everything. Raises IllegalFilter."""
    if asked.kind == deliveries.EVERYTHING:
        return None
    return _parsed(deliveries.KINDS[asked.kind], asked.expression)


def _of(settled: Callable[[int, str | KourouError | None], None], number: int) -> Callable[[str | KourouError], None]:
    return lambda result: settled(number, result)


def _ignore(result: str | KourouError) -> None:
    """What is not given back comes back by itself when its time is over."""
