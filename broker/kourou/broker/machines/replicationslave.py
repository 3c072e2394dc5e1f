"""The slave's end of replication: what to cut, what to append, what to acknowledge, whom to believe.

    idle --dialled--> greeting --welcomed, nothing to cut--> streaming --lost, silent, gap--> idle
                          |--welcomed, to be cut--> Truncate: the driver cuts, opens the log again, and dials anew
                          |--a copy is needed-----> TakeCopy
                          '--below a promise------> Halt, for good

It never cuts below ``promised``, the C that a master with ``ack = all`` told it, whoever asks for it. It believes no
epoch lower than the highest it has heard of.
"""

from __future__ import annotations

import random
from enum import Enum

from kourou.broker.machines.replication import (
    PING_MS,
    SILENCE_MS,
    Ack,
    Append,
    Batch,
    Close,
    Confirmed,
    CopyNeeded,
    Halt,
    Hello,
    LogFacts,
    Member,
    Ping,
    Ready,
    Send,
    SlaveEffect,
    TakeCopy,
    Truncate,
    Welcome,
)


class Phase(Enum):
    IDLE = "idle"
    GREETING = "greeting"
    STREAMING = "streaming"
    OVER = "over"  # its log is being cut or copied, or it must not go on


class ReplicationSlave:
    def __init__(
        self,
        me: Member,
        *,
        rng: random.Random,
        end: int,
        flushed: int,
        epoch: int,
        confirm: int,
        promised: int,
        learner: bool = False,
        copying: int | None = None,
        address: str | None = None,
    ) -> None:
        """``epoch``: the highest known; ``confirm``: the last C told; ``promised``: the last under ``ack = all``.
        ``copying``: the epoch in which a copy was begun with which the log has not caught up: this slave does not count, and
        a master of another epoch may have another log below the copied state."""
        self.me = me
        self.phase = Phase.IDLE
        self.epoch = epoch
        self.end = end
        self.flushed = flushed
        self.confirm = min(confirm, end)
        self.promised = min(promised, end)  # what is lost already can't be kept
        self.master_end = 0  # as it last said
        self.members: tuple[int, ...] = ()  # of the sync state set, as the master last said
        self.eligible: tuple[int, ...] = ()
        self.halted: str | None = None
        self._rng = rng
        self.learner = learner
        self.copying = copying
        self._address = address
        self._link = -1
        self._session = 0
        self._ack_all = False
        self._acked = (0, 0)
        self._heard_ms = 0
        self._ping_at_ms = 0
        self._effects: list[SlaveEffect] = []

    def take_effects(self) -> list[SlaveEffect]:
        effects, self._effects = self._effects, []
        return effects

    @property
    def session(self) -> int:
        """The number of the last one that was begun."""
        return self._session

    @property
    def over(self) -> bool:
        return self.phase is Phase.OVER

    @property
    def streaming(self) -> bool:
        return self.phase is Phase.STREAMING

    @property
    def in_sync(self) -> bool:
        """May it become master without loss, as far as it knows?"""
        return self.me.replica in self.members or self.me.replica in self.eligible

    # ---- the link

    def dialled(self, link: int, log: LogFacts, *, now_ms: int) -> None:
        """A connection to what should be the master."""
        if self.phase is Phase.OVER:
            return
        assert log.end == self.end, (log.end, self.end)
        self._link, self._session = link, self._rng.getrandbits(63)
        self.phase, self._heard_ms = Phase.GREETING, now_ms
        learns = self.learner or self.copying is not None
        self._send(Hello(self.me, self._session, self.epoch, log, self.confirm, learns, self._address))

    def lost(self, link: int) -> None:
        if link == self._link and self.phase is not Phase.OVER:
            self.phase = Phase.IDLE

    def welcomed(self, link: int, welcome: Welcome, *, now_ms: int) -> None:
        if link != self._link or self.phase is not Phase.GREETING or welcome.session != self._session:
            return
        if not self._believes(welcome.epoch):
            return
        self._heard_ms = now_ms
        place = welcome.truncate_to
        if self.copying is not None and welcome.epoch != self.copying:
            self.phase = Phase.OVER
            self._effects.append(Truncate(0, f"its copy is of epoch {self.copying}, the master of {welcome.epoch}"))
        elif place > self.end:
            self._close(f"it wants to go on at {place}; the log ends at {self.end}")
        elif place < self.promised:
            self._halt(
                f"the master of epoch {welcome.epoch} wants the log cut at {place}, but everything below {self.promised} "
                f"was confirmed under ack = all: it lacks acknowledged messages. Nothing was cut. Promote this broker, or "
                f"empty its data directory if that loss is accepted"
            )
        elif place < self.end:
            self.phase = Phase.OVER
            self._effects.append(Truncate(place, f"epoch {welcome.epoch} went on from there"))
        else:
            self.phase = Phase.STREAMING
            self._ack_all = welcome.ack_all
            self._acked = (self.end, self.flushed)
            self._send(Ready(self._session, self.end, self.flushed))

    def copy_needed(self, link: int, needed: CopyNeeded) -> None:
        if link != self._link or self.phase is not Phase.GREETING or needed.session != self._session:
            return
        if not self._believes(needed.epoch):
            return
        if needed.common < self.promised:
            self._halt(
                f"the master of epoch {needed.epoch} has this log only up to {needed.common}, but everything below "
                f"{self.promised} was confirmed under ack = all. Nothing was changed. Promote this broker, or empty its "
                f"data directory if that loss is accepted"
            )
            return
        self.phase = Phase.OVER
        self._effects.append(TakeCopy(link, self._session))

    def copy_failed(self) -> None:
        """It is tried again with the next link."""
        if self.halted is None:
            self.phase = Phase.IDLE

    # ---- the stream

    def batch(self, link: int, batch: Batch, *, now_ms: int) -> None:
        """Frames have come. Followed by ``appended``, or by ``lost`` when they were no good."""
        if not self._current(link, batch.session, batch.epoch):
            return
        self._heard_ms = now_ms
        if batch.start != self.end or batch.end <= batch.start:
            self._close(f"it sent {batch.start} to {batch.end}; the log ends at {self.end}")
            return
        self._effects.append(Append(batch))

    def appended(self, batch: Batch) -> None:
        """The batch is in the log, and will be applied before anything else happens."""
        self.end = batch.end
        self._acknowledge()
        self._told(batch.confirm)

    def synced(self, offset: int) -> None:
        if offset > self.flushed:
            self.flushed = min(offset, self.end)
            if self.phase is Phase.STREAMING:
                self._acknowledge()

    def pinged(self, link: int, ping: Ping, *, now_ms: int) -> None:
        if not self._current(link, ping.session, ping.epoch):
            return
        self._heard_ms = now_ms
        self.master_end, self.members, self.eligible = ping.end, ping.members, ping.eligible
        self._told(ping.confirm)

    # ---- time

    def deadline_ms(self) -> int | None:
        return self._ping_at_ms if self.phase in (Phase.GREETING, Phase.STREAMING) else None

    def tick(self, *, now_ms: int) -> None:
        if self.phase not in (Phase.GREETING, Phase.STREAMING):
            return
        if now_ms - self._heard_ms > SILENCE_MS:
            self._close(f"the master has been silent for {now_ms - self._heard_ms} ms")
        elif now_ms >= self._ping_at_ms and self.phase is Phase.STREAMING:
            self._ping_at_ms = now_ms + PING_MS
            self._send(Ping(self._session, self.epoch, self.end, self.confirm))

    # ---- becoming master

    def promoted(self, epoch: int) -> None:
        """This slave begins an epoch. The former master, if it is there, is told with the last words of the session."""
        assert epoch > self.epoch
        if self.phase is Phase.STREAMING:
            self._send(Ping(self._session, epoch, self.end, self.confirm))
            self._effects.append(Close(self._link, f"this broker is the master of epoch {epoch}"))
        self.epoch, self.phase = epoch, Phase.OVER

    # ---- rules

    def _current(self, link: int, session: int, epoch: int) -> bool:
        if link != self._link or session != self._session or self.phase is not Phase.STREAMING:
            return False
        return self._believes(epoch)

    def _believes(self, epoch: int) -> bool:
        if epoch < self.epoch:
            self._close(f"it is a master of epoch {epoch}; epoch {self.epoch} has begun")
            return False
        self.epoch = epoch
        return True

    def _told(self, confirm: int) -> None:
        confirm = min(confirm, self.end)
        if self._ack_all and confirm > self.promised and self.copying is None:
            self.promised = confirm
        if confirm > self.confirm:
            self.confirm = confirm
            self._effects.append(Confirmed(confirm))

    def _acknowledge(self) -> None:
        if self.phase is Phase.STREAMING and self._acked != (self.end, self.flushed):
            self._acked = (self.end, self.flushed)
            self._send(Ack(self._session, self.epoch, self.end, self.flushed))

    def _send(self, message: Hello | Ready | Ack | Ping) -> None:
        self._effects.append(Send(self._link, message))

    def _close(self, reason: str) -> None:
        self.phase = Phase.IDLE
        self._effects.append(Close(self._link, reason))

    def _halt(self, reason: str) -> None:
        self.phase, self.halted = Phase.OVER, reason
        self._effects.append(Halt(reason))
        self._effects.append(Close(self._link, "a promise would be broken"))
