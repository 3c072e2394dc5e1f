"""The master's end of replication: what each slave is sent, who is in the sync state set, how far C is.

    C = least of what the members have; of a member without a live session: nothing
    C never goes back, does not move while there are fewer members than min_isr (unless told to degrade), nor to below
    the term's EPOCH frame

A member leaves the set when it has not caught up for ``lag_ms_max``, when its process is known to be gone, or when it
comes back with another disk. Leaving costs copies, never safety: what is confirmed is still in every remaining member.
A slave joins when it has everything below C *in this session*, so C need not go back for it.

With ``ack_all`` off C is what the master itself has, and the set is kept for those who ask.
"""

from __future__ import annotations

from kourou.broker.machines.history import History, implausible, is_history, meeting_point
from kourou.broker.machines.replication import (
    BATCH_BYTES,
    JOIN_GAP_BYTES,
    PING_MS,
    SILENCE_MS,
    WINDOW_BYTES,
    Ack,
    Close,
    Confirmed,
    CopyNeeded,
    Hello,
    LogFacts,
    MasterEffect,
    Member,
    Message,
    Ping,
    Ready,
    Refused,
    Send,
    SendFrames,
    Session,
    SetChanged,
    StaleMaster,
    Standing,
    StepDown,
    Welcome,
)

SLAVES_MAX = 64
SESSIONS_KEPT = 4_096  # numbers of sessions that were opened in this term: none is opened twice


class ReplicationMaster:
    """One term. ``log`` is the log with the term's EPOCH frame at its end; ``confirm`` what was confirmed before."""

    def __init__(
        self,
        me: Member,
        log: LogFacts,
        *,
        epoch: int,
        confirm: int,
        ack_all: bool,
        min_isr: int,
        sync_flush: bool,
        lag_ms_max: int,
        degrades: bool = False,
        window_bytes: int = WINDOW_BYTES,
        batch_bytes: int = BATCH_BYTES,
        join_gap_bytes: int = JOIN_GAP_BYTES,
    ) -> None:
        assert log.history[-1][0] == epoch
        self.me = me
        self.epoch = epoch
        self.confirm = min(confirm, log.end)
        self.term_end = log.end  # of the EPOCH frame: C goes there or not at all
        self.start = log.start
        self.end = log.end
        self.flushed = log.flushed
        self.history: History = log.history
        self.ack_all = ack_all
        self.min_isr = min_isr
        self.over = False
        self.members: dict[int, Standing] = {}  # of the sync state set, without the master
        self.eligible: set[int] = set()  # left the set when it was at its least: they have everything below C
        self._sync_flush = sync_flush
        self._lag_ms_max = lag_ms_max
        self._degrades = degrades  # with fewer members than min_isr those that there are confirm
        self._window_bytes = window_bytes
        self._batch_bytes = batch_bytes
        self._join_gap_bytes = join_gap_bytes
        self._links: dict[int, Session] = {}
        self._sessions: dict[int, Session] = {}  # by replica
        self._copying: dict[int, int] = {}  # sessions, by link, of slaves that take a copy
        self._used: dict[int, None] = {}  # the last sessions, the oldest first
        self._ping_at_ms = 0
        self._effects: list[MasterEffect] = []
        self._move_confirm()

    def take_effects(self) -> list[MasterEffect]:
        effects, self._effects = self._effects, []
        return effects

    # ---- answers

    @property
    def serving(self) -> bool:
        """Is the term's EPOCH frame confirmed?"""
        return self.confirm >= self.term_end

    @property
    def short(self) -> bool:
        """Are there too few members for what ``ack_all`` promises?"""
        return self._lacks_members and not self._degrades

    @property
    def degraded(self) -> bool:
        """Is what is confirmed now in fewer members than min_isr?"""
        return self._lacks_members and self._degrades

    @property
    def _lacks_members(self) -> bool:
        return self.ack_all and len(self.members) + 1 < self.min_isr

    def sessions(self) -> list[Session]:
        return list(self._sessions.values())

    def current(self, link: int, session: int) -> bool:
        known = self._links.get(link)
        return known is not None and known.session == session and not self.over

    def may_read(self, link: int, session: int) -> bool:
        """Is that a slave that may be given files?"""
        return self.current(link, session) or (self._copying.get(link) == session and not self.over)

    def has(self, link: int, session: int, offset: int) -> bool:
        """Is that a slave whose log is the same as this one up to there?"""
        found = self._links.get(link)
        return found is not None and found.session == session and found.streaming and found.appended >= offset

    def catches_up(self, link: int) -> bool:
        """Is that a slave for which nobody waits?"""
        session = self._links.get(link)
        return session is not None and session.member.replica not in self.members

    @property
    def busy(self) -> bool:
        """Do members of the set lack more than the next batch?"""
        return any(
            self.end - s.appended > self._batch_bytes for s in self._links.values() if s.member.replica in self.members
        )

    def set_members(self) -> tuple[int, ...]:
        return tuple(sorted((self.me.replica, *self.members)))

    def needed_from(self, *, lagging_bytes_max: int) -> int | None:
        """From where on the log is needed by slaves that are connected and not too far behind; None where there is none."""
        sent = [s.appended for s in self._links.values() if s.streaming and self.end - s.appended <= lagging_bytes_max]
        return min(sent, default=None)

    # ---- facts about the log

    def appended(self, end: int) -> None:
        self.end = end
        for session in self._links.values():
            if session.streaming:
                self._pump(session)
        self._move_confirm()

    def synced(self, offset: int) -> None:
        if offset > self.flushed:
            self.flushed = offset
            self._move_confirm()

    def trimmed(self, start: int) -> None:
        self.start = start

    # ---- facts about slaves

    def hello(self, link: int, hello: Hello, *, now_ms: int) -> None:
        """A slave opens a session on a link. Answered by Welcome, CopyNeeded, StaleMaster or Refused.

        Who is no member of this group is refused before its epoch is looked at: a stranger ends no term.
        """
        refusal = self._stranger(link, hello)
        if refusal is None and (self.over or hello.epoch > self.epoch):
            self._answer(link, StaleMaster(self.epoch))
            if not self.over:
                self._step_down(hello.epoch, f"slave {hello.member.replica} knows of epoch {hello.epoch}")
            return
        refusal = refusal or self._unusable(hello)
        if refusal is not None:
            self._answer(link, Refused(refusal))
            return
        self._used[hello.session] = None
        if len(self._used) > SESSIONS_KEPT:
            del self._used[next(iter(self._used))]
        old = self._sessions.get(hello.member.replica)
        if old is not None:
            self._end(old)
            if old.link != link:
                self._effects.append(Close(old.link, "the slave has opened another session"))
        standing = self.members.get(hello.member.replica)
        place = self._meeting_point(hello.log)
        if standing is not None and standing.storage != hello.member.storage:
            self._leave(hello.member.replica, "it came back with another disk")
        elif standing is not None and self.ack_all and (place is None or place < self.confirm):
            self._leave(hello.member.replica, "it came back without what it had acknowledged")
        elif standing is not None and _is_empty(hello.log) and self.end > 0:
            self._leave(hello.member.replica, "it came back with nothing")
        self.eligible.discard(hello.member.replica)  # until it has joined again
        if place is None or place < self.start or place < hello.log.start:
            self._copying[link] = hello.session
            self._answer(link, CopyNeeded(self.epoch, hello.session, place or 0))
            return
        session = Session(link, hello.session, hello.member, hello.learner, place, heard_ms=now_ms)
        self._links[link] = self._sessions[hello.member.replica] = session
        self._answer(
            link, Welcome(self.epoch, hello.session, place, min(self.confirm, place), self.start, self.end, self.ack_all)
        )

    def _stranger(self, link: int, hello: Hello) -> str | None:
        """Why this is no member of the group whose word counts."""
        him, me = hello.member, self.me
        if him.cluster != me.cluster:
            return f"this is cluster {me.cluster!r}, not {him.cluster!r}"
        if him.group != me.group:
            return f"this is broker group {me.group!r}, not {him.group!r}"
        if him.replica == me.replica:
            return f"broker id {me.replica} is the master's own"
        if him.storage == me.storage:
            return "its data directory is a copy of the master's: give it an empty one"
        old = self._sessions.get(him.replica)
        if old is not None and old.member.storage != him.storage and old.link != link:
            return f"broker id {him.replica} is taken by another slave that is connected"
        if hello.session in self._used:
            return "its session was there before: this is a message that was recorded and sent again"
        if not is_history(hello.log.history) or not 0 <= hello.log.start <= hello.log.end:
            return "its history does not rise"
        return implausible(hello.epoch, self.epoch)

    def _unusable(self, hello: Hello) -> str | None:
        """Why a member of the group can't follow."""
        old = self._sessions.get(hello.member.replica)
        if old is None and len(self._sessions) >= SLAVES_MAX:
            return f"{SLAVES_MAX} slaves are connected already"
        if self._meeting_point(hello.log) is None:
            return "its log shares no epoch with this one: it is of another broker. Empty its data directory to begin anew"
        return None

    def _meeting_point(self, log: LogFacts) -> int | None:
        """Up to where the slave's log is ours; None when it shares no epoch with it."""
        if _is_empty(log):
            return 0
        return meeting_point(log.history, log.end, self.history, self.end)

    def ready(self, link: int, ready: Ready, *, now_ms: int) -> None:
        """The slave's log ends where it was told to cut it: it can be sent what follows."""
        session = self._links.get(link)
        if session is None or session.session != ready.session or session.streaming:
            return
        if ready.end != session.truncate_to or ready.flushed > ready.end:
            self._drop(session, f"its log ends at {ready.end}, not at {session.truncate_to}")
            return
        if ready.end < self.start:
            self._drop(session, "what it needs next was deleted meanwhile")
            return
        session.streaming = True
        session.sent = session.appended = ready.end
        session.flushed = ready.flushed
        session.heard_ms = now_ms  # a session that begins is no catching up: one that can't write begins many
        session.sample = (now_ms, self.end)
        self._progressed(session, now_ms)

    def sent(self, link: int, session_number: int, end: int) -> None:
        """A batch up to here has gone out."""
        session = self._links.get(link)
        if session is None or session.session != session_number:
            return
        session.reading = False
        session.sent = end
        self._pump(session)

    def acked(self, link: int, ack: Ack, *, now_ms: int) -> None:
        session = self._links.get(link)
        if session is None or session.session != ack.session:
            return
        if ack.epoch != self.epoch:
            self._other_epoch(session, ack.epoch)
            return
        if not session.streaming:
            return
        if not session.appended <= ack.appended <= session.sent or not session.flushed <= ack.flushed <= ack.appended:
            self._drop(session, f"it acknowledges {ack.appended} and {ack.flushed}; {session.sent} were sent")
            return
        session.appended, session.flushed, session.heard_ms = ack.appended, ack.flushed, now_ms
        self._progressed(session, now_ms)

    def pinged(self, link: int, ping: Ping, *, now_ms: int) -> None:
        session = self._links.get(link)
        if session is None or session.session != ping.session:
            return
        session.heard_ms = now_ms
        if ping.epoch != self.epoch:
            self._other_epoch(session, ping.epoch)
        elif session.streaming:
            self._progressed(session, now_ms)  # alive; one that lacks nothing has nothing to acknowledge

    def lost(self, link: int) -> None:
        """The link has ended. The slave stays in the set until it is late, or known to be gone."""
        self._copying.pop(link, None)
        session = self._links.get(link)
        if session is not None:
            self._end(session)

    def gone(self, replica: int) -> None:
        """The slave's host refuses connections where it listened: its process has ended."""
        if replica not in self._sessions and replica in self.members:
            self._leave(replica, "its process has ended")

    def heard_of(self, epoch: int, source: str) -> None:
        """Somebody else says so, a nameserver for example."""
        if epoch > self.epoch and implausible(epoch, self.epoch) is None:
            self._step_down(epoch, f"{source} knows of epoch {epoch}")

    def _other_epoch(self, session: Session, epoch: int) -> None:
        """Whoever was welcomed is in this term's epoch, or has heard of a higher one."""
        why = implausible(epoch, self.epoch)
        if epoch < self.epoch or why is not None:
            self._drop(session, why or f"it speaks of epoch {epoch}; it was welcomed in {self.epoch}")
        else:
            self._step_down(epoch, f"slave {session.member.replica} is in epoch {epoch}")

    # ---- time

    def deadline_ms(self) -> int | None:
        return self._ping_at_ms if (self._links or self.members) and not self.over else None

    def tick(self, *, now_ms: int) -> None:
        if self.over:
            return
        for replica, standing in list(self.members.items()):
            if now_ms - standing.caught_up_ms > self._lag_ms_max:
                self._leave(replica, f"it has not caught up for {now_ms - standing.caught_up_ms} ms")
        for session in list(self._links.values()):
            if now_ms - session.heard_ms > SILENCE_MS:
                self._drop(session, f"silent for {now_ms - session.heard_ms} ms")
        if now_ms >= self._ping_at_ms:
            self._ping_at_ms = now_ms + PING_MS
            for session in self._links.values():
                if session.sample is None:
                    session.sample = (now_ms, self.end)
                self._ping(session)

    def _ping(self, session: Session) -> None:
        told = min(self.confirm, session.appended) if session.streaming else 0
        ping = Ping(session.session, self.epoch, self.end, told, self.set_members(), tuple(sorted(self.eligible)))
        self._effects.append(Send(session.link, ping))

    # ---- rules

    def _pump(self, session: Session) -> None:
        room = self._window_bytes - (session.sent - session.appended)
        if session.streaming and not session.reading and session.sent < self.end and room > 0:
            session.reading = True
            self._effects.append(SendFrames(session.link, session.session, session.sent, min(self._batch_bytes, room)))

    def _progressed(self, session: Session, now_ms: int) -> None:
        if session.appended >= self.end:
            session.caught_up_ms, session.sample = now_ms, None
        elif session.sample is not None and session.appended >= session.sample[1]:
            session.caught_up_ms, session.sample = max(session.caught_up_ms, session.sample[0]), (now_ms, self.end)
        elif session.sample is None:
            session.sample = (now_ms, self.end)
        standing = self.members.get(session.member.replica)
        if standing is not None:
            standing.caught_up_ms = max(standing.caught_up_ms, session.caught_up_ms)
        elif self._may_join(session):
            self.members[session.member.replica] = Standing(session.member.storage, now_ms)
            self.eligible.discard(session.member.replica)
            if len(self.members) + 1 >= self.min_isr:
                self.eligible.clear()
            self._changed(f"slave {session.member.replica} is in sync")
        self._move_confirm()
        self._pump(session)

    def _may_join(self, session: Session) -> bool:
        has = self._has(session)
        needed = max(self.confirm, self.term_end)
        return not session.learner and has >= needed and self.end - session.appended < self._join_gap_bytes

    def _has(self, session: Session) -> int:
        if not session.streaming:
            return 0
        return session.flushed if self._sync_flush else session.appended

    def _move_confirm(self) -> None:
        offset = self.flushed if self._sync_flush else self.end
        if self.ack_all:
            if self.short:
                return
            for replica in self.members:
                session = self._sessions.get(replica)
                offset = min(offset, self._has(session)) if session is not None else 0
        if offset > self.confirm and offset >= self.term_end and not self.over:
            self.confirm = offset
            self._effects.append(Confirmed(offset))

    def _leave(self, replica: int, reason: str) -> None:
        del self.members[replica]
        if len(self.members) + 1 < self.min_isr and not self._degrades:  # else C goes on without it
            self.eligible.add(replica)
        self._changed(f"slave {replica} left: {reason}")
        self._move_confirm()

    def _changed(self, reason: str) -> None:
        """Slaves hear of it at once: one that is in the set may be promoted when this broker dies."""
        self._effects.append(SetChanged(self.set_members(), reason))
        for session in self._links.values():
            self._ping(session)

    def _drop(self, session: Session, reason: str) -> None:
        self._end(session)
        self._effects.append(Close(session.link, reason))

    def _end(self, session: Session) -> None:
        if self._links.get(session.link) is session:
            del self._links[session.link]
        if self._sessions.get(session.member.replica) is session:
            del self._sessions[session.member.replica]

    def _answer(self, link: int, message: Message) -> None:
        self._effects.append(Send(link, message))

    def _step_down(self, epoch: int, reason: str) -> None:
        if not self.over:
            self.over = True
            self._effects.append(StepDown(epoch, reason))


def _is_empty(log: LogFacts) -> bool:
    return log.end == 0 and not log.history
