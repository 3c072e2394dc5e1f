"""Bugs put in on purpose in what only full runs have: what waits, what is shared, who dials in, what a snapshot holds."""

from __future__ import annotations

from typing import Any

from kourou.broker.machines.electedmaster import ElectedMaster
from kourou.broker.machines.ledger import QueueLedger
from kourou.broker.machines.replication import Hello
from kourou.broker.machines.replicationmaster import ReplicationMaster
from kourou.broker.machines.timers import Timer, Timers
from kourou.broker.machines.transactions import Transactions
from kourou.broker.store import checked, recovery
from kourou.broker.store.logindex import LogIndex
from kourou.broker.store.store import Notice, Store
from kourou.core.frame import SealedHeader
from tests.sim.mutant import Mutant


def _no_strangers(self: ReplicationMaster, link: int, hello: Hello) -> str | None:
    return None


def _too_early(self: Timers, now_ms: int, limit: int) -> list[Timer]:
    return _take_due(self, now_ms + 400, limit)


def _ripe_too_early(self: QueueLedger, now_ms: int) -> bool:
    return _ripen(self, now_ms + 200)


def _not_settled(self: QueueLedger, offset: int) -> None:
    """An acknowledgement that changes nothing."""


def _no_room(incarnation: int, header: SealedHeader) -> int:
    """What waits lies in the queue itself."""
    return incarnation << 32 | header.queue_id


def _never_decided(self: Transactions, place: tuple[int, int], outcome: str) -> None:
    self._decided[place] = outcome


def _restore_nothing(self: Any, data: bytes) -> None:
    """The part of the snapshot is left out."""


def _import_nothing(self: LogIndex, data: bytes, *, covered: int) -> None:
    """Where queues go on is known from frames alone."""


def _only_what_is_in_the_log(store: Store, older: bytes | None, notice: Notice) -> None:
    _epochs_as_they_are(store, None, notice)


def _without_a_lease(self: ElectedMaster) -> None:
    if self._begun:
        ReplicationMaster._move_confirm(self)


_take_due = Timers.take_due
_ripen = QueueLedger.ripen
_epochs_as_they_are = recovery._read_epochs

FULL_MUTANTS = (
    Mutant("strangers are welcome", 100, ReplicationMaster, "_stranger", _no_strangers, full=True),
    Mutant("timers are early", 20, Timers, "take_due", _too_early, full=True),
    Mutant("leases end early", 20, QueueLedger, "ripen", _ripe_too_early, full=True),
    Mutant("acknowledged is not settled", 20, QueueLedger, "settled", _not_settled, full=True),
    Mutant("what waits is in its queue", 20, checked, "queue_key", _no_room, full=True),
    Mutant("a decision does not end a transaction", 20, Transactions, "_decide", _never_decided, full=True),
    Mutant("snapshots have no half messages", 40, Transactions, "restore", _restore_nothing, full=True),
    Mutant("snapshots have no timers", 40, Timers, "restore", _restore_nothing, full=True),
    Mutant("epochs of what was deleted are forgotten", 200, recovery, "_read_epochs", _only_what_is_in_the_log, full=True),
    Mutant("a copy forgets queues without frames", 130, LogIndex, "import_queues", _import_nothing, full=True),
    Mutant("C moves without a lease", 200, ElectedMaster, "_move_confirm", _without_a_lease, failover=True),
)
