"""TRANSACTION_END, TRANSACTION_LISTEN, TRANSACTION_CHECK and RECALL on the data plane."""

from __future__ import annotations

import asyncio
from typing import Any, Protocol

from kourou.broker.edge.shared import on_the_wire
from kourou.broker.services.messaging import LocalMessaging
from kourou.broker.services.records import StoredMessage
from kourou.core import deliveries, fields, settling, wire
from kourou.core.errors import BadRequest, KourouError, NotConnected
from kourou.core.handles import Handles, Recall, Transaction
from kourou.core.names import check_topic
from kourou.core.wire import Code, WireMessage
from kourou.transport.server import Handler, Peer

TOPICS_MAX = 1_000  # that one connection listens for
OUTCOMES = ("commit", "rollback", "unknown")


class Log(Protocol):
    def warning(self, event: str, **fields: Any) -> Any: ...


class TransactionHandlers:
    """``ask`` is how TransactionService reaches native producers."""

    def __init__(self, messaging: LocalMessaging, handles: Handles, *, log: Log) -> None:
        self._messaging = messaging
        self._handles = handles
        self._log = log
        self._listening: dict[str, dict[Peer, None]] = {}  # by topic, longest not asked first
        self._topics: dict[Peer, frozenset[str]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def table(self) -> dict[int, Handler]:
        return {
            Code.TRANSACTION_END: self.end,
            Code.TRANSACTION_LISTEN: self.listen,
            Code.RECALL: self.recall,
        }

    async def end(self, peer: Peer, message: WireMessage) -> None:
        topic, outcome, halves = settling.decode_end(message.header, message.body)
        check_topic(topic)
        results: list[KourouError | str | None] = []
        for half in halves:
            try:
                await self._end(topic, half, commit=outcome == settling.COMMIT)
                results.append(None)
            except KourouError as failure:
                results.append(failure)
        header, body = settling.encode_results(results)
        peer.reply(message, header=header, parts=(body,))

    async def _end(self, topic: str, half: tuple[int, int], *, commit: bool) -> None:
        transaction = self._handles.transaction(Transaction(*half))
        await self._messaging.end_transaction(topic, transaction, commit=commit)

    async def recall(self, peer: Peer, message: WireMessage) -> None:
        value = wire.decode_json(message.body, what="RECALL")
        topic = check_topic(value.get("topic"))
        handle = fields.optional_text(value, "handle")
        if handle is None:
            record = fields.number(value, "record", high=(1 << 32) - 1)
            place = Recall(fields.number(value, "log_offset"), record, fields.number(value, "due"))
            handle = self._handles.recall(place)
        peer.reply_json(message, {"id": await self._messaging.recall(topic, handle)})

    # ---- checks

    def listen(self, peer: Peer, message: WireMessage) -> None:
        """The topics for which a connection answers checks; each time all of them."""
        value = wire.decode_json(message.body, what="TRANSACTION_LISTEN")
        topics = frozenset(check_topic(topic) for topic in fields.texts(value, "topics", count_max=TOPICS_MAX) or ())
        if peer not in self._topics:
            peer.on_close(self._forget)
        self._forget(peer)
        if not peer.closed:
            self._topics[peer] = topics
            for topic in topics:
                self._listening.setdefault(topic, {})[peer] = None
        peer.reply_json(message, {})

    def _forget(self, peer: Peer) -> None:
        for topic in self._topics.pop(peer, ()):
            listening = self._listening.get(topic, {})
            listening.pop(peer, None)
            if not listening:
                self._listening.pop(topic, None)

    def ask(self, topic: str, message: StoredMessage, transaction: str, queue: int) -> bool:
        """Ask one live producer of the topic; False when there is none."""
        listening = self._listening.get(topic)
        if not listening:
            return False
        peer = next(iter(listening))
        del listening[peer]
        listening[peer] = None  # the next one next time
        place = self._handles.open_transaction(transaction)
        half = on_the_wire(message, queue, "", 0, 0)
        header, parts = deliveries.encode_check(topic, place.log_offset, place.record, half)
        answer = peer.request(Code.TRANSACTION_CHECK, header=header, parts=parts)
        task = asyncio.get_running_loop().create_task(self._take(topic, (place.log_offset, place.record), answer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return True

    async def _take(self, topic: str, half: tuple[int, int], answer: asyncio.Future[WireMessage]) -> None:
        """What cannot be told now is asked again."""
        try:
            value = wire.decode_json((await answer).body, what="answer to TRANSACTION_CHECK")
            outcome = value.get("outcome")
            if outcome not in OUTCOMES:
                raise BadRequest(f"a transaction's outcome is {str(outcome)[:40]!r}; allowed are {', '.join(OUTCOMES)}")
            if outcome != "unknown":
                await self._end(topic, half, commit=outcome == "commit")
        except NotConnected:
            return
        except KourouError as failure:
            self._log.warning("transaction_check_failed", topic=topic, log_offset=half[0], reason=str(failure))
