"""Acknowledgements and changes on their way to one broker: gathered for a turn of the loop, sent together, sent again.

Acknowledging twice is no error at the broker, so a request whose answer was lost is simply repeated. A change that is
repeated may be answered with InvalidReceiptHandle, because it has taken effect: that counts as done then.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from kourou.client.cluster import Cluster, is_retryable
from kourou.core import settling
from kourou.core.backoff import Backoff
from kourou.core.errors import DeadlineExceeded, InvalidReceiptHandle, KourouError, OutcomeUnknown
from kourou.core.settling import HANDLES_MAX, Change
from kourou.core.wire import Code
from kourou.transport.connection import Connection

ASK_S = 5.0


class Job:
    """One handle: a Change of it, or (None) its acknowledgement."""

    __slots__ = ("change", "deadline", "future", "handle", "unknown")

    def __init__(self, handle: bytes, change: Change | None, deadline: float, future: asyncio.Future[None]) -> None:
        self.handle = handle
        self.change = change
        self.deadline = deadline
        self.future = future
        self.unknown = False  # it may have taken effect

    def end(self, failure: KourouError | None) -> None:
        if self.future.done():
            return
        if failure is None:
            self.future.set_result(None)
        else:
            self.future.set_exception(failure)
            self.future.exception()  # whoever waits still gets it; nobody is told off when nobody does


class Settler:
    def __init__(self, cluster: Cluster, broker: str, group: str, loop: asyncio.AbstractEventLoop) -> None:
        self.broker = broker
        self._cluster = cluster
        self._group = group
        self._loop = loop
        self._acks: list[Job] = []
        self._changes: list[Job] = []
        self._scheduled = False
        self._under_way: set[asyncio.Task[None]] = set()

    def ack(self, handle: bytes, *, timeout_s: float) -> asyncio.Future[None]:
        job = Job(handle, None, self._loop.time() + timeout_s, self._loop.create_future())
        self._acks.append(job)
        self._soon()
        return job.future

    def change(self, change: Change, *, timeout_s: float) -> asyncio.Future[None]:
        job = Job(change.handle, change, self._loop.time() + timeout_s, self._loop.create_future())
        self._changes.append(job)
        self._soon()
        return job.future

    def _soon(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._scheduled = False
        acks, self._acks = self._acks, []
        changes, self._changes = self._changes, []
        for jobs in (acks, changes):
            for first in range(0, len(jobs), HANDLES_MAX):
                task = self._cluster.spawn(self._send(jobs[first : first + HANDLES_MAX]))
                self._under_way.add(task)
                task.add_done_callback(self._under_way.discard)

    async def _send(self, jobs: list[Job]) -> None:
        """Until each has an answer, or no time left."""
        backoff = Backoff(self._cluster.rng)
        try:
            while jobs:
                try:
                    results: Sequence[KourouError | bytes] = await self._ask(jobs)
                except KourouError as failure:
                    if isinstance(failure, OutcomeUnknown):
                        for job in jobs:
                            job.unknown = True
                    results = [failure] * len(jobs)
                jobs = self._take(jobs, results)
                if jobs:
                    await asyncio.sleep(backoff.next_ms() / 1000)
        finally:
            for job in jobs:
                job.end(OutcomeUnknown("the client was closed before the broker answered"))

    async def _ask(self, jobs: list[Job]) -> list[KourouError | bytes]:
        changes = [job.change for job in jobs if job.change is not None]
        if changes:
            code, (header, body) = Code.CHANGE_INVISIBLE, settling.encode_change(self._group, changes)
        else:
            code, (header, body) = Code.ACK, settling.encode_ack(self._group, [job.handle for job in jobs])
        left_s = max(job.deadline for job in jobs) - self._loop.time()
        if left_s <= 0:
            raise DeadlineExceeded(f"broker {self.broker} could not be reached in time")
        connection = self._cluster.connected(self.broker) or await self._connect(left_s)
        message = await connection.ask(code, header=header, parts=(body,), timeout_s=min(ASK_S, left_s))
        return settling.decode_results(message.body, len(jobs))

    async def _connect(self, left_s: float) -> Connection:
        try:
            async with asyncio.timeout(left_s):
                return await self._cluster.broker(self.broker)
        except TimeoutError:
            raise DeadlineExceeded(f"broker {self.broker} could not be reached in time") from None

    def _take(self, jobs: list[Job], results: Sequence[KourouError | bytes]) -> list[Job]:
        """Tell those who wait; what is to be tried again."""
        again: list[Job] = []
        now = self._loop.time()
        for job, result in zip(jobs, results, strict=True):
            if not isinstance(result, KourouError):
                job.end(None)
            elif (is_retryable(result) or isinstance(result, OutcomeUnknown)) and job.deadline > now:
                again.append(job)
            elif isinstance(result, InvalidReceiptHandle) and job.unknown and job.change is not None:
                job.end(None)
            else:
                job.end(self._told(result) if job.unknown else result)
        return again

    def _told(self, failure: KourouError) -> KourouError:
        """After an attempt whose answer was lost, that nobody could be asked again says nothing about it."""
        if not (is_retryable(failure) or isinstance(failure, DeadlineExceeded)):
            return failure
        return OutcomeUnknown(
            f"broker {self.broker} did not answer an earlier attempt, which may have taken effect: {failure}"
        )

    async def bury(self, handle: bytes, reason: str, *, timeout_s: float) -> None:
        """Repeated like an acknowledgement: a message that is buried already is no error."""
        header, body = settling.encode_bury(self._group, handle, reason)
        deadline = self._loop.time() + timeout_s
        backoff = Backoff(self._cluster.rng)
        unknown = False  # it may have taken effect
        while True:
            try:
                connection = await self._cluster.broker(self.broker)
                await connection.ask(Code.BURY, header=header, parts=(body,), timeout_s=ASK_S)
                return
            except KourouError as failure:
                unknown |= isinstance(failure, OutcomeUnknown)
                again = is_retryable(failure) or isinstance(failure, OutcomeUnknown)
                if not again or self._loop.time() >= deadline:
                    raise (self._told(failure) if unknown else failure) from None
            await asyncio.sleep(backoff.next_ms() / 1000)

    async def drain(self, timeout_s: float) -> None:
        """Wait for what is under way."""
        if self._scheduled:
            self._flush()
        if self._under_way:
            await asyncio.wait(self._under_way, timeout=timeout_s)
