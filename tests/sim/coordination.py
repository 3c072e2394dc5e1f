"""etcd as a model: the truth in a dict, and everything that a client may suffer between it and the truth.

``Truth`` is one cluster: revisions, compare-and-set, past pictures. It is pure; the simulator decides when a request
reaches it, and when, or whether, its answer comes back. ``ModelCoordination`` is the same behind the asyncio interface.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

from kourou.broker.services.election.coordination import Delete, Outcome, Picture, Put, Txn, Value
from kourou.core.errors import NotConnected, OutcomeUnknown

PAST = 50  # revisions that a stale read may show


class Truth:
    def __init__(self) -> None:
        self.revision = 1
        self.values: dict[str, Value] = {}
        self.past: list[tuple[int, dict[str, Value]]] = [(1, {})]
        self.written: list[Value] = []  # in their order; an event each
        self.listeners: list[Callable[[], None]] = []  # called after each write

    def transact(self, txn: Txn) -> Outcome:
        if any(self._mod(key) != mod for key, mod in txn.compare):
            return Outcome(False, self.revision, tuple(self.values.get(key, Value(key, None, 0)) for key in txn.otherwise))
        if txn.writes:
            self.revision += 1
        for write in txn.writes:
            if isinstance(write, Put):
                self._set(Value(write.key, write.value, self.revision))
            elif isinstance(write, Delete) and write.key in self.values:
                self._set(Value(write.key, None, self.revision))
        if txn.writes:
            self.past.append((self.revision, dict(self.values)))
            del self.past[:-PAST]
            for listener in self.listeners:
                listener()
        return Outcome(True, self.revision)

    def lose(self) -> None:
        """Its data is gone: another cluster answers in its place, which counts from the beginning."""
        self.revision, self.values, self.past = 1, {}, [(1, {})]

    def read(self, prefix: str, *, back: int = 0) -> Picture:
        """``back``: how many revisions ago."""
        revision, values = self.past[max(0, len(self.past) - 1 - back)]
        return Picture(revision, tuple(value for key, value in sorted(values.items()) if key.startswith(prefix)))

    def _mod(self, key: str) -> int:
        return self.values[key].mod if key in self.values else 0

    def _set(self, value: Value) -> None:
        if value.value is None:
            del self.values[value.key]
        else:
            self.values[value.key] = value
        self.written.append(value)


class ModelCoordination:
    """``away``: nobody answers. ``lose_next``: the next transaction is done, its answer lost. ``repeat``: events twice."""

    def __init__(self, truth: Truth) -> None:
        self.truth = truth
        self.away = False
        self.lose_next = False
        self.repeat = False
        self.back = 0
        self._changed = asyncio.Event()
        truth.listeners.append(self._changed.set)

    async def transact(self, txn: Txn) -> Outcome:
        await asyncio.sleep(0)
        if self.away:
            raise OutcomeUnknown("away")
        outcome = self.truth.transact(txn)
        if self.lose_next:
            self.lose_next = False
            raise OutcomeUnknown("the answer is lost")
        return outcome

    async def read(self, prefix: str, *, tries: int = 3) -> Picture:
        await asyncio.sleep(0)
        if self.away:
            raise NotConnected("away")
        return self.truth.read(prefix, back=self.back)

    async def watch(self, prefix: str, *, revision: int) -> AsyncIterator[tuple[Value, ...]]:
        if self.away:
            raise NotConnected("away")
        at = 0
        yield ()
        while not self.away:
            events = [v for v in self.truth.written[at:] if v.mod >= revision and v.key.startswith(prefix)]
            at = len(self.truth.written)
            if events:
                yield tuple(events)
                if self.repeat:
                    yield tuple(events)
            if at == len(self.truth.written):
                self._changed.clear()
                await self._changed.wait()
        raise NotConnected("away")

    async def hint(self, key: str, value: bytes, *, seconds: int) -> None:
        if self.away:
            raise NotConnected("away")
        self.truth.transact(Txn((), (Put(key, value),)))

    async def close(self) -> None:
        self.away = True
        self._changed.set()
