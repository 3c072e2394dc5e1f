"""One transaction: ``async with producer.transaction("orders") as tx``.

Each message is stored as a half message, which nobody sees until it is committed. The messages of a transaction are
committed together, but not atomically: where a broker is away meanwhile, some are seen before others. None is lost: what the
brokers don't hear they ask for, and whoever checks says the same for all of them.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Self

from kourou.client.arguments import check_number
from kourou.client.cluster import Cluster, is_retryable
from kourou.client.message import Message, Receipt, check_body
from kourou.client.receipts import make_receipt
from kourou.client.transactions.checks import Registration
from kourou.core import settling
from kourou.core.backoff import Backoff
from kourou.core.errors import BadRequest, KourouError, OutcomeUnknown
from kourou.core.names import check_topic
from kourou.core.wire import Code

if TYPE_CHECKING:
    from kourou.client.producer import Producer

ASK_S = 5.0
OUTCOMES = {settling.COMMIT: "commit", settling.ROLLBACK: "rollback"}
log = logging.getLogger("kourou.client")


class Transaction:
    """Made by ``Producer.transaction``."""

    def __init__(
        self,
        producer: Producer,
        cluster: Cluster,
        checks: Registration,
        topic: str,
        check_after_s: float | None,
        timeout_s: float,
    ) -> None:
        self.topic = check_topic(topic)
        self.outcome: str | None = None  # "commit" or "rollback", once it is decided
        if check_after_s is not None:
            check_number("check_after_s", check_after_s, least=0.001, most=86_400)
        self._recovery_ms = None if check_after_s is None else round(check_after_s * 1000)
        self._producer = producer
        self._cluster = cluster
        self._checks = checks
        self._timeout_s = timeout_s
        self._halves: dict[str, list[tuple[int, int]]] = {}  # (log offset, record), by broker; not ended yet
        checks.listen_for(self.topic)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.outcome is not None:
            return
        if kind is None:
            await self.commit()
            return
        try:
            await self.rollback()
        except KourouError as failure:
            log.warning("a transaction of %s could not be rolled back now; the broker will ask: %s", self.topic, failure)

    async def send(
        self,
        body: bytes | str,
        *,
        key: str | None = None,
        keys: Sequence[str] = (),
        tag: str | None = None,
        properties: Mapping[str, str] | None = None,
    ) -> Receipt:
        """Store a half message. The receipt's offset says where it waits, not where it will be."""
        if self.outcome is not None:
            raise BadRequest(f"the transaction has ended: {self.outcome}")
        message = Message(b"", key, tag, keys, properties or {})
        stored = await self._producer.send_half(self.topic, check_body(body), message, self._recovery_ms)
        self._halves.setdefault(stored.broker, []).append((stored.log_offset, 0))
        self._checks.opened((stored.broker, stored.log_offset, 0), self)
        return make_receipt(self.topic, stored, 0)

    async def commit(self) -> None:
        """Let consumers see the messages. Raises OutcomeUnknown when brokers could not be told in time (they will ask),
        InvalidTransaction when it was rolled back meanwhile."""
        await self._end(settling.COMMIT)

    async def rollback(self) -> None:
        """Nobody will ever see the messages."""
        await self._end(settling.ROLLBACK)

    async def _end(self, outcome: int) -> None:
        if self.outcome not in (None, OUTCOMES[outcome]):
            raise BadRequest(f"the transaction has ended: {self.outcome}")
        self.outcome = OUTCOMES[outcome]
        brokers = list(self._halves)
        ended = await asyncio.gather(*(self._tell(broker, outcome) for broker in brokers), return_exceptions=True)
        failures = [failure for failure in ended if failure is not None]
        for failure in failures:
            raise failure

    async def _tell(self, broker: str, outcome: int) -> None:
        """Until the broker has answered; telling it again does no harm."""
        halves = self._halves[broker]
        header, body = settling.encode_end(self.topic, outcome, halves)
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._timeout_s
        backoff = Backoff(self._cluster.rng)
        while True:
            try:
                async with asyncio.timeout_at(deadline):
                    connection = await self._cluster.broker(broker)
                message = await connection.ask(Code.TRANSACTION_END, header=header, parts=(body,), timeout_s=ASK_S)
                results = settling.decode_results(message.body, len(halves))
                failure = next((result for result in results if isinstance(result, KourouError)), None)
                if failure is None:
                    break
                if not is_retryable(failure):
                    self._forget(broker)
                    raise failure
            except TimeoutError:
                failure = OutcomeUnknown(f"broker {broker} could not be reached")
            except KourouError as refusal:
                if not is_retryable(refusal) and not isinstance(refusal, OutcomeUnknown):
                    raise
                failure = refusal
            if loop.time() >= deadline:
                raise OutcomeUnknown(f"broker {broker} was not told that a transaction ended; it will ask: {failure}")
            await asyncio.sleep(backoff.next_ms() / 1000)
        self._forget(broker)

    def _forget(self, broker: str) -> None:
        for half in self._halves.pop(broker):
            self._checks.ended((broker, *half))
