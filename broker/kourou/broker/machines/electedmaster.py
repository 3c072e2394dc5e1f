"""The master's end of replication when the sync state set is kept in etcd: it wants changes, the elector has them decided.

    in effect = decided + wanted in        C waits for all of them, from before a change is tried until its outcome is known
    counted   = decided - wanted out       C stands still while these are fewer than min_isr

So whatever etcd says at any moment is a part of the set in effect, and nobody outside of it can lack what is confirmed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from kourou.broker.machines.replication import Hello, LogFacts, Member, Session, SetChanged, Standing
from kourou.broker.machines.replicationmaster import ReplicationMaster


@dataclass(slots=True)
class SetWanted:
    """Have this decided. ``incarnations`` are of those that are to come in: what they said in HELLO."""

    members: frozenset[int]
    incarnations: dict[int, str]
    reason: str


class ElectedMaster(ReplicationMaster):
    """``leads`` says whether this replica may still confirm anything: the lease, by this replica's clock.

    ``Member.storage`` is an incarnation here: of a disk and a process, with a dot between.
    """

    def __init__(
        self,
        me: Member,
        log: LogFacts,
        *,
        sss: tuple[int, ...],
        elr: tuple[int, ...],
        storages: dict[int, str],
        leads: Callable[[], bool],
        now_ms: int,
        **options: Any,
    ) -> None:
        self._leads = leads
        self._decided = frozenset(sss)
        self._decided_elr = frozenset(elr)
        self._in: dict[int, str] = {}  # wanted in, with their incarnation
        self._out: set[int] = set()  # wanted out
        self._told: frozenset[int] = self._decided
        self._begun = False
        super().__init__(me, log, **options)
        self._begun = True  # C may move: all members are known
        self.eligible = set(elr)
        for replica in sss:
            if replica != me.replica:
                self.members[replica] = Standing(storages.get(replica, ""), now_ms)
        self._move_confirm()

    # ---- what the elector says

    def decided(self, sss: tuple[int, ...], elr: tuple[int, ...], *, now_ms: int) -> None:
        """etcd has these, and nothing else can come of what was tried."""
        before = self._decided
        self._decided, self._decided_elr = frozenset(sss), frozenset(elr)
        self.eligible = set(elr)
        self._out &= self._decided
        self._in = {}  # who is not in by now earns it again
        for replica in [replica for replica in self.members if replica not in self._decided]:
            del self.members[replica]
        for replica in self._decided - {self.me.replica} - set(self.members):
            self.members[replica] = Standing("", now_ms)
        self._told = self._decided  # a wish that was under way came to nothing, where this is not what was wished for
        self._want("some are to leave still")
        if before != self._decided:
            self._effects.append(SetChanged(tuple(sorted(self._decided)), "decided"))
        self._move_confirm()

    def leads_again(self) -> None:
        """The lease was renewed after it had run out, or nearly so."""
        self._move_confirm()

    # ---- what replication does with it

    @property
    def short(self) -> bool:
        return self.ack_all and len(self._decided - self._out) < self.min_isr

    def set_members(self) -> tuple[int, ...]:
        return tuple(sorted(self._decided))

    def hello(self, link: int, hello: Hello, *, now_ms: int) -> None:
        replica, storage = hello.member.replica, hello.member.storage
        old = self._sessions.get(replica)
        if old is not None and old.member.storage != storage and _disk(old.member.storage) == _disk(storage):
            self._drop(old, "its process was started again")
        standing = self.members.get(replica)
        if standing is not None and (not standing.storage or _disk(standing.storage) == _disk(storage)):
            standing.storage = storage
        super().hello(link, hello, now_ms=now_ms)
        self.eligible = set(self._decided_elr)

    def _may_join(self, session: Session) -> bool:
        """Whoever has all that it takes is wanted in; it comes in when that is decided, and C waits for it from now on."""
        replica = session.member.replica
        if super()._may_join(session) and replica not in self.members and not self.over:
            self._in[replica] = session.member.storage
            self.members[replica] = Standing(session.member.storage, session.heard_ms)
            self._want(f"slave {replica} is in sync")
        return False

    def _leave(self, replica: int, reason: str) -> None:
        if replica in self._in and replica not in self._decided:
            del self._in[replica]  # C waits for it until it is known that it is not in
        elif replica not in self._out:
            self._out.add(replica)
        self._want(f"slave {replica} leaves: {reason}")

    def _end(self, session: Session) -> None:
        super()._end(session)
        replica = session.member.replica
        if replica in self._in and replica not in self._decided:
            del self._in[replica]
            self._want(f"slave {replica} has ended its session")

    def _wanted(self) -> frozenset[int]:
        return (self._decided | frozenset(self._in)) - self._out

    def _want(self, reason: str) -> None:
        wanted = self._wanted()
        if wanted != self._told:
            self._told = wanted
            self._effects.append(SetWanted(wanted, dict(self._in), reason))  # type: ignore[arg-type]

    def _move_confirm(self) -> None:
        if self._begun and self._leads():
            super()._move_confirm()


def _disk(storage: str) -> str:
    return storage.partition(".")[0]
