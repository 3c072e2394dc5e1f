"""One term of a simulated process as master: what ``services.replication.master`` and the journal do around the machine."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kourou.broker.machines.electedmaster import ElectedMaster, SetWanted
from kourou.broker.machines.replication import (
    Ack,
    Batch,
    Close,
    Confirmed,
    CopyNeeded,
    Hello,
    Ping,
    Ready,
    Send,
    SendFrames,
    SetChanged,
    StepDown,
)
from kourou.broker.machines.replicationmaster import ReplicationMaster
from kourou.broker.store import snapshot
from kourou.broker.store.copying import read_frames
from kourou.broker.store.standing import PROMOTED
from kourou.core.errors import Busy, DamagedLog, KourouError, NotEnoughReplicas, NotMaster
from tests.sim.network import END, Link

if TYPE_CHECKING:
    from kourou.broker.machines.election import Lead
    from tests.sim.electing import Electing
    from tests.sim.process import Process, Reply

WAITING_BYTES_MAX = 64 * 1024
PROBE_PAUSE_MS = 20
MEMBERS = 3  # of the group


@dataclass(frozen=True, slots=True)
class CopyAsked:
    session: int
    name: str


@dataclass(frozen=True, slots=True)
class CopyGiven:
    session: int
    data: bytes


@dataclass(frozen=True, slots=True)
class CopyFacts:
    """What a slave that begins anew has to fetch: a snapshot, and where the log and its history start."""

    start: int
    history: tuple[tuple[int, int], ...]
    name: str


class Leading:
    def __init__(
        self, process: Process, *, epoch: int, confirm: int, term: Lead | None = None, electing: Electing | None = None
    ) -> None:
        settings = process.settings
        self.process = process
        self.epoch = epoch
        self.links: dict[int, Link] = {}
        self.moves: list[tuple[int, tuple[int, ...]]] = []  # of C, and who was in the set then
        self._set: tuple[int, ...] = (process.replica,)
        self._waiting: deque[tuple[int, Reply, object]] = deque()
        self._leaving = False
        self.draining = False
        self.lossy = term is not None and term.lossy
        self.electing = electing
        options: dict[str, Any] = {
            "epoch": epoch,
            "confirm": confirm,
            "ack_all": settings.ack_all,
            "min_isr": settings.min_isr,
            "sync_flush": settings.sync_flush,
            "lag_ms_max": settings.lag_ms_max,
            "window_bytes": settings.window_bytes,
            "batch_bytes": settings.batch_bytes,
            "join_gap_bytes": settings.join_gap_bytes,
        }
        self.machine: ReplicationMaster
        if term is not None and electing is not None:
            self._set = tuple(sorted(term.sss))
            self.machine = ElectedMaster(
                process.me, process.facts(), sss=term.sss, elr=term.elr, storages=term.storages, leads=electing.leads,
                now_ms=process.clock.monotonic_ms(), **options,
            )  # fmt: skip
        else:
            self.machine = ReplicationMaster(process.me, process.facts(), **options)

    # ---- clients

    def refusal(self) -> KourouError | None:
        machine, store = self.machine, self.process.store
        if self.draining:
            return Busy("the master of this broker group is handing over", retry_after_ms=50)
        if machine.over:
            return NotMaster("this broker is no longer the master of its group")
        if machine.short:
            return NotEnoughReplicas(f"{len(machine.members) + 1} members are in sync; min_isr is {machine.min_isr}")
        if store.end_offset - machine.confirm > WAITING_BYTES_MAX:
            return Busy("too much waits for slaves", retry_after_ms=50)
        return None

    def has_everything(self, replica: int | None) -> bool:
        """Is all that is in the log confirmed, and at this slave?"""
        machine, end = self.machine, self.process.store.end_offset
        if machine.confirm < end:
            return False
        return replica is None or any(s.member.replica == replica and s.appended >= end for s in machine.sessions())

    def wait(self, offset: int, reply: Reply, result: object) -> None:
        self._waiting.append((offset, reply, result))
        self.progressed()

    def progressed(self) -> None:
        """The log has grown, or more of it is durable."""
        store = self.process.store
        if store.end_offset != self.machine.end:
            self.machine.appended(store.end_offset)
        self.machine.synced(min(store.synced_offset, store.end_offset))
        self.perform()
        self._answer()

    def _answer(self) -> None:
        waiting = self._waiting
        while waiting and waiting[0][0] <= self.machine.confirm and not self.machine.over:
            _, reply, result = waiting.popleft()
            reply(result)

    # ---- slaves

    def received(self, link: Link, message: object) -> None:
        machine, now_ms = self.machine, self.process.clock.monotonic_ms()
        if isinstance(message, Hello):
            self.links[link.number] = link
            machine.trimmed(self.process.store.min_offset)
            machine.hello(link.number, message, now_ms=now_ms)
        elif isinstance(message, Ready):
            machine.ready(link.number, message, now_ms=now_ms)
            if not machine.current(link.number, message.session):
                self._hang_up(link.number)
        elif isinstance(message, Ack):
            machine.acked(link.number, message, now_ms=now_ms)
        elif isinstance(message, Ping):
            machine.pinged(link.number, message, now_ms=now_ms)
        elif isinstance(message, CopyAsked):
            self._give_copy(link, message)
        elif message is END:
            self._lost(link)
        self.perform()
        self._answer()

    def _give_copy(self, link: Link, asked: CopyAsked) -> None:
        data = self.process.files.read_all(asked.name)
        if data is None or not self.machine.may_read(link.number, asked.session):
            self._hang_up(link.number)
        else:
            self.process.network.send(link, self.process.replica, CopyGiven(asked.session, data))

    def _lost(self, link: Link) -> None:
        self.process.network.close(link, self.process.replica)
        if self.links.pop(link.number, None) is None:
            return
        replica = next((s.member.replica for s in self.machine.sessions() if s.link == link.number), None)
        self.machine.lost(link.number)
        if replica is not None and replica in self.machine.members:
            self.process.later(PROBE_PAUSE_MS, lambda: self._probe(replica, 1))

    def _probe(self, replica: int, tries: int) -> None:
        """Does its host refuse connections? Twice: its process is gone."""
        network = self.process.network
        if not network.refuses(self.process.replica, replica):
            return
        if tries < 2:
            self.process.later(PROBE_PAUSE_MS, lambda: self._probe(replica, tries + 1))
            return
        self.machine.gone(replica)
        self.perform()
        self._answer()

    def renewed(self) -> None:
        if isinstance(self.machine, ElectedMaster):
            self.machine.leads_again()
            self.perform()
            self._answer()

    def decided(self, sss: tuple[int, ...], elr: tuple[int, ...]) -> None:
        if isinstance(self.machine, ElectedMaster):
            self.machine.decided(sss, elr, now_ms=self.process.clock.monotonic_ms())
            self.perform()
            self._answer()

    def heard_of(self, epoch: int) -> None:
        self.machine.heard_of(epoch, "a nameserver")
        self.perform()

    def tick(self) -> None:
        self.machine.tick(now_ms=self.process.clock.monotonic_ms())
        self.perform()
        self._answer()

    def close(self) -> None:
        self.machine.over = True
        self._waiting.clear()
        for number in list(self.links):
            self._hang_up(number)

    # ---- effects

    def perform(self) -> None:
        while effects := self.machine.take_effects():
            for effect in effects:
                match effect:
                    case SendFrames():
                        self._send_frames(effect)
                    case Send(number, message):
                        self._send(number, message)
                    case Close(number, reason):
                        self.process.note(f"drops link {number}: {reason}")
                        self._hang_up(number)
                    case SetChanged(members, reason):
                        self._set = members
                        self.process.note(f"set {members}: {reason}")
                    case StepDown(epoch, reason):
                        self._step_down(epoch, reason)
                    case SetWanted(members, incarnations, reason) if self.electing is not None:
                        self.process.note(f"wants {sorted(members)}: {reason}")
                        now_ms = self.process.clock.monotonic_ms()
                        self.electing.elector.set_wanted(self.epoch, members, incarnations, now_ms=now_ms)
                        self.electing.perform()
                    case Confirmed(offset):
                        self.moves.append((offset, self._set))
                        if self.machine.serving and self.process.standing.role == PROMOTED:
                            self.process.note_standing()

    def _send(self, number: int, message: object) -> None:
        link = self.links.get(number)
        if link is None:
            return
        if isinstance(message, CopyNeeded):
            facts = self._copy()
            if facts is None:  # "Busy: there is no snapshot to copy yet"
                self._hang_up(number)
                return
            self.process.network.send(link, self.process.replica, (message, facts))
        else:
            self.process.network.send(link, self.process.replica, message)

    def _copy(self) -> CopyFacts | None:
        store = self.process.store
        for offset in snapshot.list_offsets(store.files):
            if offset >= store.min_offset:
                history = tuple(pair for pair in store.epochs.entries if pair[1] < store.min_offset)
                return CopyFacts(store.min_offset, history, snapshot.snapshot_name(offset))
        return None

    def _send_frames(self, wanted: SendFrames) -> None:
        end = self.machine.end
        if self.process.random.random() < 0.1:  # the page cache does not have it: read in a thread
            self.process.later(30 * self.process.random.random(), lambda: self._send_cold(wanted, end))
        else:
            self._push(wanted, end)

    def _send_cold(self, wanted: SendFrames, end: int) -> None:
        self._push(wanted, end)
        self.perform()

    def _push(self, wanted: SendFrames, end: int) -> None:
        link = self.links.get(wanted.link)
        if link is None or not self.machine.current(wanted.link, wanted.session):
            return
        store = self.process.store
        try:
            data = read_frames(store, wanted.start, end=end, bytes_max=wanted.bytes_max, cached_only=False)
        except DamagedLog as failure:
            asked_by = next(s.member.replica for s in self.machine.sessions() if s.link == wanted.link)
            known = asked_by < MEMBERS  # a stranger may have claimed an end that is in the middle of a frame
            deleted = wanted.start < store.min_offset
            if known and not deleted and not self.process.rotten():
                raise AssertionError(f"the master can't read its log at {wanted.start}") from failure
            self.machine.lost(wanted.link)
            self._hang_up(wanted.link)
            return
        assert data is not None
        upto = wanted.start + len(data)
        batch = Batch(wanted.session, self.machine.epoch, wanted.start, upto, self.machine.confirm)
        self.process.network.send(link, self.process.replica, (batch, data))
        self.machine.sent(wanted.link, wanted.session, upto)

    def _hang_up(self, number: int) -> None:
        link = self.links.pop(number, None)
        if link is not None:
            self.process.network.close(link, self.process.replica)

    def _step_down(self, epoch: int, reason: str) -> None:
        if self.electing is not None:
            self.electing.elector.outdated(epoch, reason, now_ms=self.process.clock.monotonic_ms())
            self.electing.perform()
            return
        self.process.note(f"steps down from {self.epoch}: {reason}")
        self.leave(epoch)

    def leave(self, epoch: int) -> None:
        self._waiting.clear()  # unknown to whoever asked
        if not self._leaving:
            self._leaving = True
            self.process.later(5 * self.process.random.random(), lambda: self.process.reopen(epoch=epoch))
