"""A simulated process as slave: what ``services.replication.slave`` does around the machine."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kourou.broker.machines.replication import (
    Append,
    Batch,
    Close,
    Confirmed,
    CopyNeeded,
    Halt,
    Ping,
    Refused,
    Send,
    StaleMaster,
    TakeCopy,
    Truncate,
    Welcome,
)
from kourou.broker.machines.replicationslave import ReplicationSlave
from kourou.broker.store.copying import append_frames, check_frames
from kourou.core.errors import DiskFull, FlushFailed, KourouError
from tests.sim.leading import CopyAsked, CopyFacts, CopyGiven
from tests.sim.network import END, Link

if TYPE_CHECKING:
    from kourou.broker.machines.election import Follow
    from tests.sim.process import Process

ASK_MS = 5_000


class Following:
    def __init__(self, process: Process) -> None:
        standing, store = process.standing, process.store
        self.process = process
        self.link: Link | None = None
        self.apply_from = process.copy.offset if process.copy is not None else 0
        self.halted: str | None = None
        self._wait_ms = 50.0
        self._facts: CopyFacts | None = None
        self._at_hand: bytes = b""
        self._over = False
        self._target: Follow | None = None
        self.machine = ReplicationSlave(
            process.me,
            rng=process.random,
            end=store.end_offset,
            flushed=store.synced_offset,
            epoch=process.epoch,
            confirm=standing.confirm,
            promised=standing.promised,
            copying=None if process.copy is None or process.complete else process.copy.epoch,
        )
        process.later(10 * process.random.random(), self._dial)

    # ---- the link

    def _dial(self) -> None:
        """Ask the nameservers for the master, connect, greet; again and again, a little later each time."""
        machine, process = self.machine, self.process
        if machine.over or self._over:
            return
        self._wait_ms = min(1000.0, self._wait_ms * 2)
        process.later(self._wait_ms * (0.5 + process.random.random() / 2), self._dial)
        if self.link is not None:
            return
        electing = process.electing
        if electing is not None:
            self._target = electing.target
        link = process.network.dial(process.replica, None if electing is None else electing.target)
        if link is None:
            return
        self.link = link
        store = process.store
        machine.flushed = store.synced_offset
        machine.dialled(link.number, process.facts(), now_ms=process.clock.monotonic_ms())
        self._perform()
        process.later(ASK_MS, lambda: self._too_long(link))

    def _too_long(self, link: Link) -> None:
        if self.link is link and not self.machine.streaming and (self._facts is not None or not self.machine.over):
            self._give_up()

    def received(self, link: Link, message: object) -> None:
        if link is not self.link:
            return
        machine, now_ms, number = self.machine, self.process.clock.monotonic_ms(), link.number
        match message:
            case Welcome():
                self.process.note(f"welcomed in epoch {message.epoch}, truncate to {message.truncate_to}")
                machine.welcomed(number, message, now_ms=now_ms)
                if machine.streaming:
                    self._wait_ms = 50.0
            case (CopyNeeded() as needed, CopyFacts() as facts):
                self._facts = facts
                machine.copy_needed(number, needed)
            case StaleMaster() | Refused():
                self.process.note(f"not welcomed: {message}")
                self._give_up()
            case Ping():
                machine.pinged(number, message, now_ms=now_ms)
            case CopyGiven(session, data):
                self._take_copy(session, data)
                return
            case (Batch() as batch, bytes() as frames):
                self._at_hand = frames
                machine.batch(number, batch, now_ms=now_ms)
            case _ if message is END:
                self._give_up()
        self._perform()

    def _give_up(self) -> None:
        link, self.link = self.link, None
        if link is None:
            return
        self.process.network.close(link, self.process.replica)
        if self.process.electing is not None and self._target is not None:
            self.process.electing.link_ended(self._target)
        if self._no_copy():
            self._wait_ms = 50.0
            self.process.later(self._wait_ms, self._dial)
        self.machine.lost(link.number)
        self._perform()

    def _no_copy(self) -> bool:
        """A copy that was asked for does not come any more."""
        if self._facts is None or not self.machine.over:
            return False
        self._facts = None
        self.machine.copy_failed()
        return True

    def promoted(self, epoch: int) -> None:
        self.machine.promoted(epoch)
        self._perform()
        self.close()

    @property
    def quiet(self) -> bool:
        return self._over

    def stop(self) -> None:
        """Nothing is acknowledged from now on."""
        link = self.link
        self.close()
        self._no_copy()
        if link is not None:
            self.machine.lost(link.number)
            self._perform()

    def close(self) -> None:
        self._over = True
        link, self.link = self.link, None
        if link is not None:
            self.process.network.close(link, self.process.replica)

    def synced(self) -> None:
        self.machine.synced(min(self.process.store.synced_offset, self.machine.end))
        self._perform()

    def tick(self) -> None:
        self.machine.tick(now_ms=self.process.clock.monotonic_ms())
        self._perform()

    # ---- effects

    def _perform(self) -> None:
        while effects := self.machine.take_effects():
            for effect in effects:
                match effect:
                    case Send(_, message):
                        if self.link is not None:
                            self.process.network.send(self.link, self.process.replica, message)
                    case Append(batch):
                        self._append(batch)
                    case Close(_, reason):
                        self.process.note(f"leaves its master: {reason}")
                        self._give_up()
                    case Truncate(offset, reason):
                        self.process.note(f"is to cut at {offset}: {reason}")
                        delay_ms = 5 * self.process.random.random()
                        self.process.later(delay_ms, lambda cut=offset: self.process.reopen(cut_to=cut))  # type: ignore[misc]
                    case TakeCopy(_, session):
                        assert self._facts is not None
                        asked = CopyAsked(session, self._facts.name)
                        if self.link is not None:
                            self.process.network.send(self.link, self.process.replica, asked)
                    case Halt(reason):
                        self.halted = reason
                        self.process.note(f"halts: {reason}")
                    case Confirmed():
                        pass

    def _append(self, batch: Batch) -> None:
        process, store, data = self.process, self.process.store, memoryview(self._at_hand)
        try:
            frames = check_frames(data, batch.start, epoch_min=store.epochs.latest, epoch_max=batch.epoch)
            append_frames(store, data, frames)
        except DiskFull:
            self._give_up()
            return
        except FlushFailed:
            raise
        except KourouError as failure:
            if process.network.any_rot():
                process.seen("bit rot: refused by a slave")
                self._give_up()
                return
            raise AssertionError(f"replica {process.replica} refuses a batch: {failure}") from failure
        for item in frames:
            if item.prefix.log_offset >= self.apply_from:
                process.state.recovered(item.prefix, item.header, item.sealed)
        self.machine.appended(batch)
        if self.machine.copying is not None and store.end_offset >= self.apply_from:
            self.machine.copying = None
            process.seen("log: reaches up to its copy")
            self._give_up()

    def _take_copy(self, session: int, data: bytes) -> None:
        facts = self._facts
        if facts is not None:
            self._facts = None
            self.process.note(f"takes a copy: log from {facts.start}, {facts.name}")
            delay_ms = 5 * self.process.random.random()
            self.process.later(delay_ms, lambda: self.process.reopen(anew=(facts, data)))
