"""A host of the simulator: a disk, a clock, a process that comes and goes, and what the simulator knows of its log.

``ends`` has a checksum of everything in the log up to each frame's end. So "the same bytes up to here" is one comparison.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from functools import partial
from random import Random
from typing import TYPE_CHECKING, Protocol

from kourou.broker.store.copying import read_frames
from kourou.broker.store.standing import NAME as STANDING
from kourou.broker.store.standing import NONE, StandingFile
from kourou.broker.store.store import Store
from kourou.core.errors import DiskFull, FlushFailed
from kourou.core.frame import parse_prefix
from tests.sim.contents import Content, Records, read_content
from tests.sim.crashdisk import Crash, CrashDisk
from tests.sim.disk import Node
from tests.sim.network import Link, Network
from tests.sim.process import Process
from tests.sim.timeline import NodeClock, Timeline
from tests.sim.upkeep import upkeep
from tests.sim.violation import Ends, Violation

if TYPE_CHECKING:
    from kourou.broker.machines.election import Follow
    from tests.sim.settings import Settings

TICK_MS = 50


class Wire(Protocol):
    """What a process can do on the network."""

    def send(self, link: Link, host: int, message: object) -> None: ...

    def close(self, link: Link, host: int) -> None: ...

    def dial(self, replica: int, target: Follow | None) -> Link | None:
        """A connection to whom the nameservers show as master, or the elector; None when they show nobody."""
        ...

    def ask_pledge(self, asking: int, replica: int, epoch: int, done: Callable[[int], None]) -> None:
        """``done`` is told when it was asked, if the other one pledges."""
        ...

    def ask_producer(self, replica: int, name: str, place: tuple[int, int]) -> None:
        """What is to become of a half message? The answer comes as a request of its own."""
        ...

    def any_rot(self) -> bool:
        """Is a segment damaged anywhere?"""
        ...

    def refuses(self, asking: int, replica: int) -> bool:
        """Does the host say that nobody listens?"""
        ...


class Frames:
    """Every frame that was ever in a log: (epoch, log offset) -> checksum of the log before and behind it."""

    def __init__(self) -> None:
        self._known: dict[tuple[int, int], tuple[int, int]] = {}
        self.contents: dict[tuple[int, int], Content | Records] = {}

    def before(self, epoch: int, at: int) -> int | None:
        known = self._known.get((epoch, at))
        return known[0] if known is not None else None

    def enter(self, host: Host, epoch: int, at: int, before: int | None, frame: bytes) -> int:
        """3. Log matching: two replicas with the same (epoch, offset) frame have identical bytes up to it."""
        if before is None:
            raise Violation(f"3: the log of {host.replica} starts at {at} with a frame of epoch {epoch} that nobody wrote")
        sums = (before, zlib.crc32(frame, before))
        known = self._known.get((epoch, at))
        if known is None:
            self._known[epoch, at] = sums
            self._note_content(epoch, at, frame)
        elif known != sums:
            raise Violation(f"3: {host.replica} has another log up to {at} in epoch {epoch} than others with that frame")
        if host.epochs and epoch < host.epochs[-1][0]:
            raise Violation(f"2: epoch {epoch} at {at} of {host.replica} comes behind {host.epochs[-1][0]}")
        return sums[1]

    def _note_content(self, epoch: int, at: int, frame: bytes) -> None:
        content = read_content(frame)
        if content is not None:
            self.contents[epoch, at] = content


class Host:
    def __init__(
        self,
        replica: int,
        settings: Settings,
        timeline: Timeline,
        network: Network,
        random: Random,
        *,
        wire: Wire,
        note: Callable[[str], None],
        touched: Callable[[Host], None],
        ended: Callable[[Host], None],
        seen: Callable[[str], None],
        halts: Callable[[Host, str], None],
    ) -> None:
        self.replica = replica
        self.disk = CrashDisk()
        self.process: Process | None = None
        self.paused = False
        self.wipes = 0
        self.lives = 0  # of processes; what was planned for an earlier one does not happen
        self.cold = False  # it has lost what was not synced
        self.powered = True
        self.clock = NodeClock(
            timeline,
            rate=1 + random.uniform(-0.02, 0.02),
            monotonic_skew_ms=random.randrange(1_000_000),
            wall_skew_ms=random.choice((0, 0, -3_600_000, 3_600_000)),
            true=settings.true_clocks,
        )
        self.ends: dict[int, int] = {}
        self.places: list[tuple[int, int, int]] = []  # (end, start, epoch) of each frame
        self.known_start = self.known_end = 0
        self.epochs: list[tuple[int, int]] = []  # (epoch, start) as the frames in the log say
        self._settings = settings
        self._timeline = timeline
        self._network = network
        self._random = random
        self._wire = wire
        self._note = note
        self._touched = touched
        self._ended = ended
        self._seen = seen
        self._halts = halts
        self._held: list[Callable[[], None]] = []
        self._store: Store | None = None
        self.promised = 0  # what it last was
        self.losses = 0  # how often it lost something that it had
        self.rot: list[tuple[Node, int]] = []  # bytes with a wrong bit
        self.seen_epoch = 0
        self.synced = 0  # what it must still have after a power cut

    @property
    def storage(self) -> str:
        return f"disk-{self.replica}-{self.wipes}"

    @property
    def answers(self) -> bool:
        return self.process is not None and not self.paused

    # ---- the process

    def run(self, action: Callable[[], None]) -> None:
        """Something happens in the process, now; later while it is paused; not at all when it is over by then."""
        if self.process is None:
            return
        if self.paused:
            lives = self.lives
            self._held.append(lambda: self.run(action) if lives == self.lives else None)
            return
        try:
            action()
        except Crash:
            self._note("dies in the middle of it")
            self._seen("process: dies in the middle of it")
            self.stop(tell=True)
        except Ends as failure:
            self._note(f"ends: {failure}")
            if failure.wanted:
                self.finish()
            else:
                self.stop(tell=True)
                self._halts(self, str(failure))
        except FlushFailed as failure:
            self._note(f"ends: {failure}")
            self.stop(tell=True)
            self.cold = True  # its page cache can't be trusted
            self.losses += 1
            self._seen("process: ends, the disk fails")
        except DiskFull as failure:
            self._note(f"ends: {failure}")
            self._seen("process: ends, the disk is full")
            self.stop(tell=True)
        self._touched(self)

    def later(self, ms: float, action: Callable[[], None]) -> None:
        lives = self.lives

        def due() -> None:
            if lives == self.lives:
                self.run(action)

        self._timeline.after_ms(ms / self.clock.rate, due)

    def _whenever(self, lives: int, action: Callable[[], None]) -> None:
        if lives == self.lives:
            self.run(action)

    def start(self) -> bool:
        """False when the directory can't be opened."""
        assert self.process is None
        assert self.powered
        self.lives += 1
        self.seen_epoch = 0
        try:
            self.process = Process(
                self.replica,
                self.disk.files(),
                self._settings,
                storage=self.storage,
                clock=self.clock,
                random=self._random,
                later=self.later,
                note=self._note,
                network=self._wire,
                cold=self.cold,
                whenever=partial(self._whenever, self.lives),
                seen=self._seen,
                rotten=lambda: bool(self.rot),
                make_whole=self.make_whole,
            )
        except (Crash, FlushFailed, DiskFull) as failure:
            self._note(f"does not start: {failure!r}")
            self.disk.kill()
            self.process = None
            return False
        self.later(TICK_MS * self._random.random(), self._tick)
        self.later(self._random.random() * self._settings.flush_ms, self._flush)
        self.later(1000 * self._random.random(), self._slow_tick)
        self._touched(self)
        return True

    def noted_role(self) -> int:
        """What its ``standing`` file says, while no process is there."""
        return StandingFile(self.disk.files()).role if STANDING in self.disk.names else NONE

    def stop(self, *, tell: bool) -> None:
        """The process is gone; ``tell``: its kernel closes its connections."""
        if self.process is None:
            return
        self.lives += 1
        self.synced = self.process.store.synced_offset
        if self.process.anew:
            self.promised = 0
        self.process = None
        self.paused = False
        self._held.clear()
        self.make_whole()
        self.disk.kill()
        for link in self._network.of(self.replica):
            self._network.close(link, self.replica, silently=not tell)
        self._ended(self)

    def finish(self) -> None:
        """A clean stop."""
        process = self.process
        if process is None:
            return
        try:
            process.note_standing()
            process.sync()
            self._touched(self)  # somebody may have been answered
            self._seen("process: stopped in order")
        except (Crash, FlushFailed, DiskFull) as failure:
            self._note(f"does not stop in order: {failure!r}")
            self.cold = self.cold or isinstance(failure, FlushFailed)
        self.stop(tell=True)

    def decay(self, node: Node, at: int) -> None:
        """One bit of a file turns."""
        _turn(node, at)
        self.rot.append((node, at))

    def make_whole(self) -> None:
        """As it was before: the sector could be read after all."""
        for node, at in self.rot:
            _turn(node, at)
        self.rot.clear()

    def lose_power(self) -> None:
        """The log ends where the platter says; its frames are read again when the host is back."""
        self.stop(tell=False)
        self.powered = False
        self.losses += 1
        self.disk.power_loss(self._random)

    def wipe(self) -> None:
        self.stop(tell=True)
        self.disk = CrashDisk()
        self.wipes += 1
        self.losses += 1
        self.ends, self.known_end, self.epochs, self.places = {}, 0, [], []
        self.known_start = 0
        self.promised = self.seen_epoch = self.synced = 0

    def pause(self) -> None:
        self.paused = True

    def go_on(self) -> None:
        if not self.paused:
            return
        self.paused = False
        held, self._held = self._held, []
        for action in held:
            action()

    # ---- what it does by itself

    def _tick(self) -> None:
        assert self.process is not None
        self.later(TICK_MS, self._tick)
        self.process.tick()

    def _flush(self) -> None:
        """Every 200 ms with ``flush = async``, all the time with ``sync``. What comes while it lasts does not count."""
        assert self.process is not None
        process = self.process
        self.later(self._settings.flush_ms * (0.5 + self._random.random()), self._flush)
        store = process.store
        if store.synced_offset == store.end_offset:
            return
        if self._random.random() < 0.5:
            process.sync()
        else:
            target = store.sync()
            process.later(10 * self._random.random(), lambda: self._synced(process, target))

    def _synced(self, process: Process, target: int) -> None:
        process.store.note_synced(target)
        process.synced()

    def _slow_tick(self) -> None:
        assert self.process is not None
        self.later(1000, self._slow_tick)
        self.process.note_standing()
        upkeep(self.process)

    # ---- what is known of the log

    def read_log(self, frames: Frames) -> None:
        """Follow what happened to the log since the last time; all of it is read anew when it was opened anew."""
        process = self.process
        if process is None:
            return
        store = process.store
        end = store.end_offset
        if store is not self._store:
            self._store = store
            self.ends, self.known_end, self.epochs, self.places = {}, store.min_offset, [], []
            self.known_start = store.min_offset
        elif end < self.known_end:
            self._forget(end)
        at = self.known_end
        while at < end:
            data = read_frames(store, at, end=end, bytes_max=1 << 20, cached_only=False)
            assert data is not None
            place = 0
            while place < len(data):
                prefix = parse_prefix(data, place)
                checksum = frames.enter(
                    self, prefix.epoch, at, self._before(frames, prefix.epoch, at), data[place : place + prefix.size]
                )
                if not self.epochs or prefix.epoch != self.epochs[-1][0]:
                    self.epochs.append((prefix.epoch, at))
                self.places.append((at + prefix.size, at, prefix.epoch))
                at += prefix.size
                place += prefix.size
                self.ends[at] = checksum
        self.known_end = end

    def _before(self, frames: Frames, epoch: int, at: int) -> int | None:
        if at == 0:
            return 0
        before = self.ends.get(at)
        return frames.before(epoch, at) if before is None else before

    def _forget(self, end: int) -> None:
        while self.places and self.places[-1][0] > end:
            del self.ends[self.places.pop()[0]]
        while self.epochs and self.epochs[-1][1] >= end:
            self.epochs.pop()
        self.known_end = end

    def has(self, offset: int, checksum: int) -> bool:
        """Is its log, on disk or in the page cache, this very log up to here?"""
        return offset == 0 or self.ends.get(offset) == checksum


def _turn(node: Node, at: int) -> None:
    if at < len(node.written):
        node.written[at] ^= 0x10
    if at < len(node.durable):
        durable = bytearray(node.durable)
        durable[at] ^= 0x10
        node.durable = bytes(durable)
