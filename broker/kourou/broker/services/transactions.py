"""Ending transactions: commit, rollback, and asking producers about half messages that nobody has decided on."""

from __future__ import annotations

import asyncio
from heapq import heappop, heappush
from typing import Any, Protocol

from kourou.broker.machines.transactions import COMMITTED, ROLLED_BACK, Half
from kourou.broker.services.journal import Arrived, Journal
from kourou.broker.services.moves import Move, Mover
from kourou.broker.services.records import RecordReader, StoredMessage
from kourou.broker.services.state import BrokerState
from kourou.core.clock import Clock
from kourou.core.errors import InvalidTransaction, KourouError
from kourou.core.frame import HALF_ROOM
from kourou.core.handles import Handles, Transaction
from kourou.core.records import Field
from kourou.core.sources import Reason, Source

CHECKS_A_TICK = 256
NOT_IN_THE_COPY = frozenset({Field.RECOVERY_MS})
Place = tuple[int, int]


class Asker(Protocol):
    """Who can reach producers."""

    def ask(self, topic: str, message: StoredMessage, transaction: str, queue: int) -> bool:
        """Ask one live producer of the topic what became of a transaction; False when there is none."""
        ...


class Log(Protocol):
    def info(self, event: str, **fields: Any) -> Any: ...

    def warning(self, event: str, **fields: Any) -> Any: ...


class TransactionService:
    def __init__(
        self,
        state: BrokerState,
        journal: Journal,
        records: RecordReader,
        mover: Mover,
        handles: Handles,
        *,
        clock: Clock,
        log: Log,
        check_after_ms: int,
        check_every_ms: int,
        checks_max: int,
        age_ms_max: int,
    ) -> None:
        self._state = state
        self._journal = journal
        self._records = records
        self._mover = mover
        self._handles = handles
        self._clock = clock
        self._log = log
        self._check_after_ms = check_after_ms
        self._check_every_ms = check_every_ms
        self._checks_max = checks_max
        self._age_ms_max = age_ms_max
        self._askers: list[Asker] = []
        self._due: list[tuple[int, Place]] = []  # when to ask; what was decided since is skipped
        self._ending: dict[Place, tuple[str, asyncio.Task[None]]] = {}
        self.committed = 0
        self.rolled_back = 0
        self.checks = 0
        for place, half in state.transactions.pending():
            self._schedule(place, half)
        journal.on_confirmed(self._arrived)

    def asks_through(self, asker: Asker) -> None:
        self._askers.append(asker)

    def _arrived(self, arrived: list[Arrived]) -> None:
        for key, checked, placed in arrived:
            if key & HALF_ROOM:
                for number in range(checked.header.record_count):
                    half = self._state.transactions.find((placed.log_offset, number))
                    if half is not None:
                        self._schedule((placed.log_offset, number), half)

    def _schedule(self, place: Place, half: Half) -> None:
        if half.checks:
            due_ms = half.checked_ms + self._check_every_ms
        else:
            due_ms = half.stored_ms + (half.recovery_ms or self._check_after_ms)
        heappush(self._due, (due_ms, place))

    # ---- ending

    async def end(self, topic: str, transaction: Transaction, outcome: str) -> None:
        """Commit or roll back. The same again is no error; the opposite of what was decided is InvalidTransaction."""
        place = transaction.log_offset, transaction.record
        under_way = self._ending.get(place)
        if under_way is not None:
            decided, task = under_way
            self._agree(outcome, decided)
            await asyncio.shield(task)
            return
        half = self._state.transactions.find(place)
        if half is None:
            known = self._state.transactions.decision(place)
            if known is None:
                raise InvalidTransaction("the transaction is not known here: it was decided long ago, or never was")
            self._agree(outcome, known)
            return
        if self._state.topics.named(half.incarnation) != topic:
            raise InvalidTransaction(f"the transaction does not belong to topic {topic}")
        task = asyncio.get_running_loop().create_task(self._end(topic, place, half, outcome))
        self._ending[place] = outcome, task
        task.add_done_callback(lambda done: done.cancelled() or done.exception())
        await asyncio.shield(task)  # whoever asked may go: what was begun is finished

    async def _end(self, topic: str, place: Place, half: Half, outcome: str) -> None:
        try:
            if outcome == COMMITTED:
                await self._commit(topic, place, half)
            else:
                await self._journal.write([{"t": "tx-", "e": [place], "w": ROLLED_BACK}])
                self.rolled_back += 1
        finally:
            del self._ending[place]

    @staticmethod
    def _agree(outcome: str, decided: str) -> None:
        if outcome != decided:
            raise InvalidTransaction(f"the transaction was already decided: {decided}")

    async def _commit(self, topic: str, place: Place, half: Half) -> None:
        message = StoredMessage(await self._records.at(place[0]), place[1])
        if self._state.transactions.find(place) is None:
            raise InvalidTransaction("the transaction is not known here any more")
        move = Move(message, Source(Reason.COMMIT, *place), without=NOT_IN_THE_COPY)
        await self._mover.move(self._state.topics.get(topic), half.queue, [move])
        self.committed += 1

    # ---- asking

    async def check(self) -> None:
        """Ask about what is due; called about once a second."""
        now_ms = self._clock.wall_ms()
        asked: list[tuple[int, int, int, int]] = []
        given_up: list[Place] = []
        for _ in range(CHECKS_A_TICK):
            if not self._due or self._due[0][0] > now_ms:
                break
            _, place = heappop(self._due)
            half = self._state.transactions.find(place)
            if half is None:
                continue
            if place in self._ending:
                heappush(self._due, (now_ms + self._check_every_ms, place))
            elif half.checks >= self._checks_max or now_ms - half.stored_ms > self._age_ms_max:
                given_up.append(place)
            elif await self._ask(place, half):
                self.checks += 1
                asked.append((*place, half.checks + 1, now_ms))
                heappush(self._due, (now_ms + self._check_every_ms, place))
            else:  # nobody is there: it does not count, and is tried again soon
                heappush(self._due, (now_ms + min(1_000, self._check_every_ms), place))
        try:
            if asked:
                await self._journal.write([{"t": "tx?", "e": asked}])
            if given_up:
                await self._journal.write([{"t": "tx-", "e": given_up, "w": "unanswered"}])
                self.rolled_back += len(given_up)
                self._log.info("transactions_given_up", count=len(given_up), checks=self._checks_max)
        except KourouError as failure:
            for place in given_up:
                heappush(self._due, (now_ms + 1_000, place))
            self._log.warning("transaction_checks_not_stored", reason=str(failure))

    async def _ask(self, place: Place, half: Half) -> bool:
        topic = self._state.topics.named(half.incarnation)
        if topic is None or not self._askers:
            return False
        try:
            message = StoredMessage(await self._records.at(place[0]), place[1])
        except KourouError as failure:
            self._log.warning("half_message_unreadable", log_offset=place[0], reason=str(failure))
            return False
        handle = self._handles.transaction(Transaction(*place))
        return any(asker.ask(topic, message, handle, half.queue) for asker in self._askers)
