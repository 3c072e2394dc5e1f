"""Bugs put in on purpose. A simulator that does not find them finds nothing: each must be caught within its budget of seeds.

They are changes of one rule each, made on the classes and functions of the product, for the time of a ``with``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from kourou.broker.machines import electionrules, history
from kourou.broker.machines.electedmaster import ElectedMaster
from kourou.broker.machines.electionrules import Right
from kourou.broker.machines.electionstate import GroupState
from kourou.broker.machines.history import History
from kourou.broker.machines.producers import ProducerWindows
from kourou.broker.machines.replication import Ack, Confirmed, Hello, Session, Welcome
from kourou.broker.machines.replicationmaster import ReplicationMaster
from kourou.broker.machines.replicationslave import ReplicationSlave
from kourou.broker.store.epochs import Epochs
from kourou.broker.store.store import Store
from tests.sim.fullmutants import FULL_MUTANTS
from tests.sim.mutant import Mutant


def _no_truncation(follower: History, follower_end: int, master: History, master_end: int) -> int | None:
    return min(follower_end, master_end)


def _confirm_own_end(self: ReplicationMaster) -> None:
    if self.end > self.confirm and not self.over:
        self.confirm = self.end
        self._effects.append(Confirmed(self.end))


def _skip_absent_members(self: ReplicationMaster) -> None:
    offset = self.flushed if self._sync_flush else self.end
    if self.short:
        return
    for replica in self.members:
        session = self._sessions.get(replica)
        if session is not None:
            offset = min(offset, self._has(session))
    if offset > self.confirm and offset >= self.term_end and not self.over:
        self.confirm = offset
        self._effects.append(Confirmed(offset))


def _own_unsynced_end(self: ReplicationMaster) -> None:
    flushed, self.flushed = self.flushed, self.end
    try:
        _move_confirm(self)
    finally:
        self.flushed = flushed


def _count_unsynced(self: ReplicationMaster, session: Session) -> int:
    return session.appended if session.streaming else 0


def _join_at_once(self: ReplicationMaster, session: Session) -> bool:
    return session.streaming


def _keep_cold(self: ReplicationMaster, link: int, hello: Hello, *, now_ms: int) -> None:
    ack_all, self.ack_all = self.ack_all, False
    try:
        _hello(self, link, hello, now_ms=now_ms)
    finally:
        self.ack_all = ack_all


def _trust_old_session(self: ReplicationMaster, session: Session) -> None:
    """What a slave said in a session that is over still counts."""
    if self._links.get(session.link) is session:
        del self._links[session.link]


def _any_ack(self: ReplicationMaster, link: int, ack: Ack, *, now_ms: int) -> None:
    """Acknowledged is what was sent, not what the slave says."""
    session = self._links.get(link)
    if session is not None and session.streaming:
        ack = Ack(session.session, ack.epoch, session.sent, session.sent)
    _acked(self, link, ack, now_ms=now_ms)


def _believe_any_c(self: ReplicationSlave, confirm: int) -> None:
    if confirm > self.confirm:
        self.confirm = self.promised = confirm
        self._effects.append(Confirmed(confirm))


def _cut_nothing(self: ReplicationSlave, link: int, welcome: Welcome, *, now_ms: int) -> None:
    """It says that it is ready, and keeps what it has."""
    _welcomed(self, link, Welcome(welcome.epoch, welcome.session, self.end, welcome.confirm, 0, 0, True), now_ms=now_ms)


def _restart_in_the_same_epoch(latest: int, *, replica: int, promoted: bool) -> int:
    return max(1, latest)


def _keep_epochs(self: Epochs, log_offset: int) -> None:
    """A cut that leaves the history as it was."""


def _no_window(self: ProducerWindows, producer_id: int, sequence: int, crc: int) -> None:
    return None


def _drop_too_much(self: Store, *, floor: int) -> list[int]:
    return _droppable(self, floor=self.end_offset)


def _anybody(*_: Any, **__: Any) -> Right:
    return Right("why not", 0)


def _still_in(state: GroupState, replica: int, *, cold: tuple[int, int] | None, nonce: str) -> GroupState:
    return state


def _leave_before_it_is_decided(self: ElectedMaster, replica: int, reason: str) -> None:
    self.members.pop(replica, None)
    _elected_leave(self, replica, reason)


def _forget_others(state: GroupState, replica: int, *, min_isr: int, lossy: bool, nonce: str) -> GroupState:
    """A takeover that compares nothing: it begins the epoch which is there already."""
    new = _taken_over(state, replica, min_isr=min_isr, lossy=lossy, nonce=nonce)
    return replace(new, epoch=state.epoch)


_elected_leave = ElectedMaster._leave
_taken_over = electionrules.taken_over
_move_confirm: Callable[[ReplicationMaster], None] = ReplicationMaster._move_confirm
_hello = ReplicationMaster.hello
_acked = ReplicationMaster.acked
_welcomed = ReplicationSlave.welcomed
_droppable = Store.droppable

MUTANTS = (
    Mutant("no truncation by epoch", 40, history, "meeting_point", _no_truncation),
    Mutant("min_isr is not checked", 40, ReplicationMaster, "short", False),
    Mutant("C is the master's own end", 10, ReplicationMaster, "_move_confirm", _confirm_own_end),
    Mutant("members without a session are not waited for", 40, ReplicationMaster, "_move_confirm", _skip_absent_members),
    Mutant("the master counts what it has not synced", 40, ReplicationMaster, "_move_confirm", _own_unsynced_end),
    Mutant("a slave counts with what it has not synced", 40, ReplicationMaster, "_has", _count_unsynced),
    Mutant("a slave joins the set without C", 40, ReplicationMaster, "_may_join", _join_at_once),
    Mutant("a cold member stays in the set", 100, ReplicationMaster, "hello", _keep_cold),
    Mutant("acknowledgements of an old session count", 200, ReplicationMaster, "_end", _trust_old_session),
    Mutant("sent counts as acknowledged", 40, ReplicationMaster, "acked", _any_ack),
    Mutant("a slave believes in any C", 40, ReplicationSlave, "_told", _believe_any_c),
    Mutant("a slave is ready without cutting", 40, ReplicationSlave, "welcomed", _cut_nothing),
    Mutant("a restarted master goes on in its epoch", 40, history, "next_epoch", _restart_in_the_same_epoch),
    Mutant("a cut leaves the history", 40, Epochs, "cut", _keep_epochs),
    Mutant("producers' duplicates are stored", 40, ProducerWindows, "check", _no_window),
    Mutant("retention does not wait for C", 40, Store, "droppable", _drop_too_much),
    Mutant("anybody may take over", 40, electionrules, "right_of", _anybody, failover=True),
    Mutant("a cold replica stays in etcd's set", 40, electionrules, "without", _still_in, failover=True),
    Mutant(
        "a member has left before it is decided", 200, ElectedMaster, "_leave", _leave_before_it_is_decided, failover=True
    ),
    Mutant("a takeover does not raise the epoch", 10, electionrules, "taken_over", _forget_others, failover=True),
    *FULL_MUTANTS,
)
