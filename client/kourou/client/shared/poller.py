"""One long poll at one broker, again and again, for as long as messages are wanted."""

from __future__ import annotations

import asyncio
import logging
import secrets
from typing import TYPE_CHECKING

from kourou.client.cluster import Cluster
from kourou.core import deliveries
from kourou.core.backoff import Backoff
from kourou.core.deliveries import WAIT_MS_MAX, Asked, Delivery
from kourou.core.errors import ClientFault, Corrupted, KourouError, NotConnected, NotHere, OutcomeUnknown
from kourou.core.wire import Code, WireMessage
from kourou.transport.connection import Connection

if TYPE_CHECKING:
    from kourou.client.shared.consumer import SharedConsumer

POLL_MS = 20_000
ANSWER_S = 5.0  # more than the poll itself may take
_NUMBERS = 1 << 62
log = logging.getLogger("kourou.client")


class Poller:
    def __init__(self, cluster: Cluster, consumer: SharedConsumer, broker: str) -> None:
        self.broker = broker
        self._cluster = cluster
        self._consumer = consumer
        self._group = consumer.options.group
        self._attempt = secrets.randbelow(_NUMBERS) + 1  # the same as long as its answer may have been lost
        self._parked: tuple[Connection, int] | None = None
        self.task: asyncio.Task[None] | None = None

    def start(self) -> None:
        if self.task is None:
            self.task = self._cluster.spawn(self._run())

    async def probe(self) -> None:
        """Whether the group may read the topic there. Raises what the broker answers."""
        await self._ask(0, 0)

    @property
    def is_parked(self) -> bool:
        """Has a broker the poll, so that messages may be on their way?"""
        return self._parked is not None

    def cancel(self) -> None:
        """Have the broker end the poll that is parked there; it is answered, maybe with messages that are on their way."""
        if self._parked is not None:
            connection, opaque = self._parked
            connection.push(Code.RECEIVE_CANCEL, header=deliveries.CANCEL.pack(opaque))

    async def _run(self) -> None:
        consumer = self._consumer
        backoff = Backoff(self._cluster.rng)
        while not consumer.closed:
            limit = consumer.room(self.broker)
            if limit == 0:
                await consumer.wanted()
                continue
            try:
                found, max_attempts = await self._ask(limit, POLL_MS)
            except KourouError as failure:
                if isinstance(failure, ClientFault):
                    consumer.failed(failure)
                    return
                if isinstance(failure, NotHere):
                    await self._cluster.forget(consumer.topic)
                    if consumer.topic not in self._cluster.routes:
                        consumer.failed(failure)
                        return
                if isinstance(failure, Corrupted):
                    log.warning("group %s, topic %s, broker %s: %s", self._group, consumer.topic, self.broker, failure)
                await asyncio.sleep(backoff.next_ms() / 1000)
                continue
            finally:
                consumer.polled(self.broker)
            backoff.reset()
            self._attempt = self._attempt % _NUMBERS + 1
            if found:
                consumer.delivered(self.broker, found, max_attempts)

    async def once(self, limit: int, wait_s: float) -> None:
        """One poll, begun again where the connection was lost."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + wait_s
        backoff = Backoff(self._cluster.rng)
        while True:
            wait_ms = round(min(WAIT_MS_MAX, max(0.0, (deadline - loop.time()) * 1000)))
            try:
                found, max_attempts = await self._ask(limit, wait_ms)
                break
            except KourouError as failure:
                if isinstance(failure, ClientFault | NotHere) or loop.time() >= deadline:
                    raise
                await asyncio.sleep(backoff.next_ms() / 1000)
        if found:
            self._consumer.delivered(self.broker, found, max_attempts)

    async def _ask(self, limit: int, wait_ms: int) -> tuple[list[Delivery], int]:
        options, lite = self._consumer.options, self._consumer.lite
        connection = await self._cluster.broker(self.broker)
        if lite is not None:
            await lite.tell(self.broker, connection)
        header, body = deliveries.encode_asked(
            Asked(
                options.group,
                self._consumer.topic,
                limit,
                options.invisible_ms,
                wait_ms,
                options.bytes_max,
                options.kind,
                options.expression,
                self._attempt if limit else 0,
            )
        )
        future: asyncio.Future[WireMessage] = asyncio.get_running_loop().create_future()

        def answered(result: WireMessage | KourouError) -> None:
            if future.done():
                return
            if isinstance(result, KourouError):
                future.set_exception(result)
            else:
                future.set_result(result)

        opaque = connection.request(Code.RECEIVE, answered, header=header, parts=(body,))
        self._parked = connection, opaque
        try:
            async with asyncio.timeout(wait_ms / 1000 + ANSWER_S):
                message = await future
        except TimeoutError:
            self.cancel()
            raise OutcomeUnknown(f"broker {self.broker} did not answer RECEIVE in time") from None
        except asyncio.CancelledError:
            self.cancel()  # else it would be handed messages that nobody takes
            raise
        except OutcomeUnknown:
            raise NotConnected(f"the connection to broker {self.broker} ended: {connection.reason}") from None
        finally:
            self._parked = None
        count, max_attempts, _ = deliveries.ANSWER.unpack(message.header)
        return list(deliveries.decode_deliveries(message.body, count)), max_attempts
