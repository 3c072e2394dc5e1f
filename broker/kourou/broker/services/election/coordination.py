"""What failover mode needs of etcd. ``edge.etcd`` is the real one; tests/sim/coordination.py is a model that misbehaves."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Protocol

from kourou.broker.machines.coordination import Delete, Outcome, Picture, Put, Txn, Value

__all__ = ["Coordination", "Delete", "Outcome", "Picture", "Put", "Txn", "Value"]


class Coordination(Protocol):
    async def transact(self, txn: Txn) -> Outcome:
        """One attempt with a short deadline. Raises OutcomeUnknown: it may have been done, or may still be done later."""
        ...

    async def read(self, prefix: str, *, tries: int = 3) -> Picture:
        """All keys below a prefix at one moment, which may be a past one. ``tries`` are of a short deadline each.

        Raises NotConnected when nobody answers.
        """
        ...

    def watch(self, prefix: str, *, revision: int) -> AsyncIterator[tuple[Value, ...]]:
        """Changes from a revision on; the first item comes when the watch is in place and may be empty.

        Raises NotConnected when it ends, for whatever reason: read again, then watch again.
        """
        ...

    async def hint(self, key: str, value: bytes, *, seconds: int) -> None:
        """Write a key that goes by itself, some time after its last writing. Raises NotConnected."""
        ...

    async def close(self) -> None: ...
