"""What an elector has under way with etcd: looks and transactions, by number, and what their answers show.

One look at a time, and one transaction over ``state``; others as they come. Nothing is decided here. Whatever is learnt
goes into the view; what is asked for is an effect, in the order in which it was asked for.
"""

from __future__ import annotations

from kourou.broker.machines.coordination import Delete, Outcome, Picture, Put, Txn, Value
from kourou.broker.machines.election import ElectionEffect, Look, Transact
from kourou.broker.machines.electionstate import GroupState
from kourou.broker.machines.electorview import ElectorView

RETRY_MS = 200
NEVER_MS = -(1 << 60)


class Calls:
    def __init__(self, view: ElectorView, effects: list[ElectionEffect]) -> None:
        self.looked_ms = 0
        self.contact_ms = NEVER_MS  # when etcd last answered
        self.blind_ms = NEVER_MS  # when it last did not
        self.retry_ms = 0  # before it nothing is tried again
        self._view = view
        self._effects = effects
        self._number = 0
        self._look: int | None = None
        self._seen: dict[int, int] = {}  # by transaction that is under way: the highest revision when it was sent
        self._txn: int | None = None  # over ``state``
        self._writing: GroupState | None = None  # by the last one: what it makes of it, None when it stays
        self._writes: tuple[Put | Delete, ...] = ()  # all that it writes

    @property
    def looking(self) -> bool:
        return self._look is not None

    @property
    def busy(self) -> bool:
        """Is a transaction over ``state`` under way?"""
        return self._txn is not None

    @property
    def writing(self) -> GroupState | None:
        """The state that the transaction under way would make."""
        return self._writing if self._txn is not None else None

    # ---- asked for

    def look(self) -> None:
        if self._look is None:
            self._number += 1
            self._look = self._number
            self._effects.append(Look(self._number))

    def transact(self, txn: Txn) -> int:
        self._number += 1
        self._seen[self._number] = self._view.revision
        self._effects.append(Transact(self._number, txn))
        return self._number

    def transact_state(self, txn: Txn, new: GroupState | None) -> None:
        assert self._txn is None
        self._writing, self._writes = new, txn.writes
        self._txn = self.transact(txn)

    def forget_state(self) -> None:
        """Another role begins: what is under way over ``state`` is learnt when it is done, as anybody's would be."""
        self._txn = None

    # ---- answered

    def looked(self, number: int, picture: Picture | None, *, now_ms: int) -> bool:
        """Has it shown anything?"""
        if number != self._look:
            return False
        self._look, self.looked_ms = None, now_ms
        if picture is None:
            self.blind_ms = now_ms
            self.retry_ms = now_ms + RETRY_MS
            return False
        self.contact_ms = now_ms
        self._view.picture(picture, now_ms=now_ms)
        return True

    def changed(self, values: tuple[Value, ...], *, now_ms: int) -> None:
        """A watch has shown this."""
        self.contact_ms = now_ms
        for value in values:
            self._view.event(value, now_ms=now_ms)

    def answered(self, number: int, outcome: Outcome | None, *, now_ms: int) -> None:
        """A transaction is over; or nobody knows, but there will be no answer."""
        if outcome is None:
            self.blind_ms = now_ms
        else:
            self.contact_ms = now_ms
            self._view.answered(outcome.revision, self._seen.get(number, 0))
        self._seen.pop(number, None)

    def ends_state(self, number: int) -> bool:
        """Was this the transaction over ``state``? Then another one may begin."""
        if number != self._txn:
            return False
        self._txn = None
        return True

    def learn_state(self, outcome: Outcome, *, now_ms: int) -> None:
        """The view is as the last transaction over ``state`` made it, or found it."""
        if outcome.succeeded:
            for write in self._writes:
                value = write.value if isinstance(write, Put) else None
                self._view.adopt(Value(write.key, value, outcome.revision), outcome.revision, now_ms=now_ms)
        else:
            self.learn(outcome, now_ms=now_ms)

    def learn(self, outcome: Outcome, *, now_ms: int) -> None:
        for value in outcome.values:
            self._view.adopt(value, outcome.revision, now_ms=now_ms)
