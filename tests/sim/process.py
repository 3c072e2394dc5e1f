"""A broker process of the simulator: the real store, state and replication machines over a simulated disk.

It does what ``app.member`` does around them, without asyncio: opens the directory, leads or follows, opens it again when
the role changes or the log has to be cut. Every method runs to its end at one moment of virtual time.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import TYPE_CHECKING, Any

from kourou.broker.machines.history import next_epoch
from kourou.broker.machines.replication import LogFacts, Member
from kourou.broker.machines.topics import Topic
from kourou.broker.services.journal import metadata_frame
from kourou.broker.services.state import BrokerState
from kourou.broker.store import fullcopy, snapshot
from kourou.broker.store.checked import CheckedFrame
from kourou.broker.store.copying import cut_back, has_state_for
from kourou.broker.store.files import Files
from kourou.broker.store.fullcopy import Copy
from kourou.broker.store.promotion import withdraw
from kourou.broker.store.recovery import open_store
from kourou.broker.store.standing import MASTER, NONE, PROMOTED, SLAVE, StandingFile
from kourou.broker.store.store import StoreConfig
from kourou.core.clock import Clock
from kourou.core.errors import KourouError, NotMaster
from kourou.core.wire import encode_json
from tests.sim.following import Following
from tests.sim.leading import CopyFacts, Leading
from tests.sim.sharing import Sharing
from tests.sim.waiting import Waiting

if TYPE_CHECKING:
    from kourou.broker.machines.election import Lead
    from tests.sim.electing import Electing
    from tests.sim.host import Wire
    from tests.sim.settings import Settings

TOPIC = "orders"
Reply = Callable[[object], None]  # a result, or a KourouError


class Process:
    """``later`` plans something for this process; it does not happen when the process ends before."""

    def __init__(
        self,
        replica: int,
        files: Files,
        settings: Settings,
        *,
        storage: str,
        clock: Clock,
        random: Random,
        later: Callable[[float, Callable[[], None]], None],
        note: Callable[[str], None],
        network: Wire,
        cold: bool = False,
        whenever: Callable[[Callable[[], None]], None],
        seen: Callable[[str], None],
        rotten: Callable[[], bool],
        make_whole: Callable[[], None],
    ) -> None:
        self.replica = replica
        self.files = files
        self.settings = settings
        self.clock = clock
        self.random = random
        self.network = network
        self.note = note
        self.me = Member("sim", "group", replica, storage)
        self.cold = cold
        self.storage = storage
        self.whenever = whenever  # now, or when it is no longer paused
        self.whenever_later = later
        self.seen = seen  # for the table of what has happened
        self.rotten = rotten  # is something in its segments damaged?
        self._make_whole = make_whole
        self.electing: Electing | None = None
        self.waiting: Waiting | None = None
        self.sharing: Sharing | None = None
        self.leading: Leading | None = None
        self.following: Following | None = None
        self.emptied = False  # it had a log, and threw it away
        self.anew = False  # its log was thrown away for a copy
        self.generation = 0  # of the opened directory
        self._later = later
        self._open()

    def later(self, ms: float, action: Callable[[], None]) -> None:
        """Not when the directory was opened anew meanwhile."""
        generation = self.generation

        def run() -> None:
            if generation == self.generation:
                action()

        self._later(ms, run)

    # ---- the directory

    def _open(self) -> None:
        self.generation += 1
        self._make_whole()
        self.files.lock()
        self.state = BrokerState(broker="group")
        self.copy: Copy | None = fullcopy.load(self.files)
        config = StoreConfig(self.settings.segment_bytes, full_ratio=1.0, reserve_bytes=0)
        self.recovered = open_store(
            self.files,
            config,
            restore=self.state.restore,
            apply=self.state.recovered,
            notice=self._notice,
            copied=self.copy,
        )
        self.store = self.recovered.store
        self.standing = StandingFile(self.files)
        if self.standing.role == PROMOTED:
            self.note(f"its promotion to epoch {self.standing.begun} was not confirmed")
            self.seen("promotion: taken back")
        if withdraw(self.store, self.standing):
            self.standing.close()
            self.store.close()
            self._open()
            return
        self.oldest_snapshot = min(snapshot.list_offsets(self.files), default=0)

    def _notice(self, event: str, fields: dict[str, object]) -> None:
        self.note(f"{event} {fields}")
        self.seen(f"store: {event}")

    @property
    def complete(self) -> bool:
        if self.emptied and self.store.end_offset == 0:
            return False
        return self.copy is None or self.store.end_offset >= self.copy.offset

    @property
    def epoch(self) -> int:
        return max(self.store.epoch, self.standing.epoch)

    @property
    def confirmed(self) -> int:
        if self.leading is not None:
            return self.leading.machine.confirm
        return self.following.machine.confirm if self.following is not None else 0

    @property
    def promised(self) -> int:
        """What a master with ``ack = all`` told this process, or it told others."""
        if self.following is not None:
            return self.following.machine.promised
        return self.standing.promised

    def facts(self) -> LogFacts:
        store = self.store
        return LogFacts(tuple(store.epochs.entries), store.min_offset, store.end_offset, store.synced_offset)

    # ---- roles

    def adopt_incarnation(self, nonce: str) -> None:
        self.me = Member("sim", "group", self.replica, f"{self.storage}.{nonce}")

    def lead_elected(self, term: Lead, electing: Electing) -> None:
        self.note_standing()
        standing = self.standing
        standing.note(epoch=term.epoch, confirm=standing.confirm, promised=standing.promised, role=MASTER)
        self.store.begin_epoch(term.epoch, store_ms=self.clock.wall_ms())
        self.following = None
        self.leading = Leading(self, epoch=term.epoch, confirm=standing.confirm, term=term, electing=electing)
        self._serve()
        self.leading.perform()
        self.seen(f"leads: {term.reason.partition(';')[0]}")
        self.note(f"leads epoch {term.epoch} with {term.sss} {term.elr}: {term.reason}")

    def _serve(self) -> None:
        if self.settings.full:
            self.waiting, self.sharing = Waiting(self), Sharing(self)

    def fence(self) -> None:
        """Not the master any more, from now on; a slave of nobody a little later."""
        if self.leading is not None and not self.leading.machine.over:
            self.leading.machine.over = True
            self.leading.leave(0)

    def forget_promises(self) -> None:
        self.standing.note(epoch=self.epoch, confirm=0, promised=0, role=SLAVE)

    def wants_to_lead(self) -> bool:
        return self.standing.role == MASTER or (self.standing.role == NONE and self.replica == 0)

    def lead(self, *, promoted: bool, above: int = 0) -> None:
        self.note_standing()
        standing = self.standing
        epoch = next_epoch(max(self.epoch, standing.begun, above), replica=self.replica, promoted=promoted)
        confirm, promised = standing.confirm, standing.promised
        if promoted and self.settings.ack_all and self.settings.min_isr > 1:
            standing.note(epoch=standing.epoch, confirm=confirm, promised=promised, role=PROMOTED, begun=epoch)
        else:
            standing.note(epoch=epoch, confirm=confirm, promised=promised, role=MASTER)
        self.store.begin_epoch(epoch, store_ms=self.clock.wall_ms())
        if self.following is not None:
            self.following.promoted(epoch)
            self.following = None
        self.leading = Leading(self, epoch=epoch, confirm=standing.confirm)
        self._serve()
        self.leading.perform()
        self.seen("leads: promoted" if promoted else "leads: restarted")
        self.note(f"leads epoch {epoch} from {self.store.end_offset}")

    def follow(self) -> None:
        standing = self.standing
        standing.note(epoch=self.epoch, confirm=standing.confirm, promised=standing.promised, role=SLAVE)
        self.following = Following(self)

    def note_standing(self) -> None:
        standing = self.standing
        if self.leading is not None:
            confirm = self.confirmed
            promised = confirm if self.settings.ack_all else standing.promised
            unproven = standing.role == PROMOTED and not self.leading.machine.serving
            epoch, role = (standing.epoch, PROMOTED) if unproven else (self.epoch, MASTER)
            standing.note(epoch=epoch, confirm=confirm, promised=promised, role=role)
        elif self.following is not None:
            machine = self.following.machine
            epoch = max(self.epoch, machine.epoch)
            standing.note(epoch=epoch, confirm=machine.confirm, promised=machine.promised, role=SLAVE)

    def reopen(self, *, epoch: int = 0, cut_to: int | None = None, anew: tuple[CopyFacts, bytes] | None = None) -> None:
        """Give up the role, and follow, as ``MemberNode.leave`` and ``open_storage`` do."""
        if self.leading is not None:
            self.leading.close()
        if self.following is not None:
            self.following.close()
        self.note_standing()
        standing = self.standing
        confirm = standing.confirm if cut_to is None else min(standing.confirm, cut_to)
        standing.note(epoch=max(epoch, self.epoch), confirm=confirm, promised=standing.promised, role=SLAVE)
        self.leading = self.following = self.waiting = self.sharing = None
        self.generation += 1
        self.sync()
        files = self.files
        if anew is not None:
            facts, data = anew
            self.anew = True
            self.seen("log: thrown away for a copy")
            fullcopy.erase(files)
            fullcopy.begin(files, start=facts.start, history=facts.history, data=data, epoch=self.epoch)
            standing.note(epoch=standing.epoch, confirm=0, promised=0, role=SLAVE)
        elif cut_to is not None and not has_state_for(self.store, cut_to, self.copy):
            self.seen("log: emptied by a cut")
            self.emptied = True
            fullcopy.erase(files)
            fullcopy.end(files)
        elif cut_to is not None:
            self.seen("log: cut")
            cut_back(self.store, cut_to)
        self.standing.close()
        self.store.close()
        self._open()
        self.follow()

    # ---- time

    def tick(self) -> None:
        if self.leading is not None:
            self.leading.tick()
        if self.following is not None:
            self.following.tick()

    def sync(self) -> None:
        """fdatasync, done and known at once. Raises FlushFailed: the process has to end then."""
        if self.store.synced_offset < self.store.end_offset:
            self.store.note_synced(self.store.sync())
            self.synced()

    def synced(self) -> None:
        if self.leading is not None:
            self.leading.progressed()
        elif self.following is not None:
            self.following.synced()

    # ---- what clients ask

    def append(self, frame: CheckedFrame, reply: Reply) -> None:
        leading = self.master()
        (placed,) = self.store.append([frame], store_ms=self.clock.wall_ms())
        self.state.applied(frame, placed)
        leading.wait(placed.end_offset, reply, placed)

    def topic(self) -> Topic:
        return self.state.topics.get(TOPIC)

    def ask_producer(self, name: str, place: tuple[int, int]) -> None:
        self.network.ask_producer(self.replica, name, place)

    def record(self, decide: Callable[[BrokerState], list[dict[str, Any]]], reply: Reply) -> None:
        """Metadata: decided, appended, applied; answered when confirmed."""
        leading = self.master()
        records = decide(self.state)
        if not records:
            leading.wait(self.store.end_offset, reply, None)
            return
        store_ms = self.clock.wall_ms()
        frame = metadata_frame([encode_json(record) for record in records], born_ms=store_ms)
        (placed,) = self.store.append([frame], store_ms=store_ms, client=False)
        for record in records:
            self.state.replay(record, log_offset=placed.log_offset, store_ms=placed.store_ms)
        leading.wait(placed.end_offset, reply, placed)

    def master(self) -> Leading:
        if self.leading is None or not self.leading.machine.serving or self.leading.machine.over:
            raise NotMaster("this broker is not the master")
        refusal = self.leading.refusal()
        if refusal is not None:
            raise refusal
        return self.leading

    def answer(self, request: Callable[[Process, Reply], None], reply: Reply) -> None:
        try:
            request(self, reply)
        except KourouError as failure:
            reply(failure)
