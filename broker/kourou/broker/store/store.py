"""The store: one log with its indexes, as services see it.

All methods belong to one thread, except those marked *blocking*, which touch only files and may run in another while the
first goes on. Nothing here starts a thread or reads a clock.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from struct import Struct

from kourou.broker.store.columns import FrameFacts, has_any_tag
from kourou.broker.store.commitlog import CommitLog, index_name
from kourou.broker.store.diskspace import DiskSpace
from kourou.broker.store.files import File, Files
from kourou.broker.store.logindex import LogIndex
from kourou.broker.store.openindex import FrameRef
from kourou.core import frame
from kourou.core.errors import DamagedLog, DiskFull, FlushFailed, KourouError, OffsetOutOfRange
from kourou.core.frame import PREFIX_SIZE, Buffer, Kind, SealedHeader

CONFIRM = "confirm"
_CONFIRM = Struct("<QI")
REFS_PER_READ = 64

Notice = Callable[[str, dict[str, object]], None]


@dataclass(frozen=True, slots=True)
class StoreConfig:
    segment_bytes: int = 256 * 1024 * 1024
    full_ratio: float = 0.95
    reserve_bytes: int = 64 * 1024 * 1024


@dataclass(slots=True)
class CheckedFrame:
    """A sealed part that may be appended as it is."""

    sealed: Buffer
    header: SealedHeader
    crc: int
    incarnation: int
    facts: FrameFacts

    @property
    def key(self) -> int:
        return self.incarnation << 32 | self.header.queue_id

    @staticmethod
    def trusted(sealed: bytes) -> CheckedFrame:
        """A frame that the broker itself sealed: metadata or an epoch."""
        header = frame.parse_sealed(sealed)
        return CheckedFrame(sealed, header, int.from_bytes(sealed[-4:], "little"), 0, FrameFacts(0, None))


@dataclass(slots=True)
class Appended:
    log_offset: int
    end_offset: int
    queue_offset: int
    store_ms: int


@dataclass(slots=True)
class ReadPlan:
    """Where the next frames of a queue lie: spans of (log offset, size), adjacent frames joined."""

    spans: list[tuple[int, int]]
    size: int
    next_offset: int
    tag_hashes: frozenset[int] | None = None


class SealJob:
    """Makes a full segment durable and writes its index. ``run`` is blocking."""

    def __init__(self, base: int, file: File, files: Files, index: LogIndex) -> None:
        self.base = base
        self._file = file
        self._files = files
        self._index = index

    def run(self) -> None:
        self._file.sync()
        self._files.write_atomic(index_name(self.base), self._index.build_sealed(self.base))


class Store:
    """Made by ``recovery.open_store``."""

    def __init__(
        self, files: Files, log: CommitLog, index: LogIndex, space: DiskSpace, *, epoch: int, synced_offset: int
    ) -> None:
        self.files = files
        self.log = log
        self.index = index
        self.space = space
        self.epoch = epoch
        self.synced_offset = synced_offset
        self.end_offset = log.end
        self.snapshot_offset = 0
        self.damaged: list[tuple[int, int]] = []  # unreadable ranges of the log
        self._dirty = {log.bases[-1]}  # segments appended to since the last sync
        self._folder_dirty = True
        self._failed: KourouError | None = None
        self._to_seal: list[int] = index.sealing()
        self._confirm = files.open(CONFIRM)

    @property
    def min_offset(self) -> int:
        return self.log.start

    # ---- appending

    def append(self, frames: Sequence[CheckedFrame], *, store_ms: int, client: bool = True) -> list[Appended]:
        """Write frames in order, one write a segment; all or none. Queue offsets are given out here.

        ``client`` writes are refused when the disk is nearly full. Raises DiskFull; FlushFailed once the disk failed.
        """
        if self._failed is not None:
            raise self._failed
        size = sum(f.header.size for f in frames) + PREFIX_SIZE * len(frames)
        if client:
            self.space.check(size)
        start = self.end_offset
        done: list[Appended] = []
        try:
            while len(done) < len(frames):
                self._append_run(frames, done, store_ms)
        except KourouError as failure:
            if self.end_offset > start:
                self.truncate(start)
            if isinstance(failure, DiskFull):
                self.space.out_of_room()
            elif isinstance(failure, FlushFailed):
                self._failed = failure
            raise
        self.space.wrote(size)
        return done

    def _append_run(self, frames: Sequence[CheckedFrame], done: list[Appended], store_ms: int) -> None:
        """As many frames as fit into the open segment."""
        if not self.log.fits(PREFIX_SIZE + frames[len(done)].header.size):
            self._roll()
        parts: list[Buffer] = []
        run: list[Appended] = []
        following: dict[int, int] = {}
        at = self.end_offset
        room_used = 0
        for checked in frames[len(done) :]:
            header = checked.header
            size = PREFIX_SIZE + header.size
            if run and not self.log.fits(room_used + size):
                break
            key = checked.key
            queue_offset = following.get(key)
            if queue_offset is None:
                queue_offset = self.index.next_queue_offset(key)
            parts.append(
                frame.make_prefix(
                    sealed_size=header.size,
                    sealed_crc=checked.crc,
                    log_offset=at,
                    epoch=self.epoch,
                    incarnation=checked.incarnation,
                    queue_offset=queue_offset,
                    store_ms=store_ms,
                )
            )
            parts.append(checked.sealed)
            following[key] = queue_offset + header.record_count
            run.append(Appended(at, at + size, queue_offset, store_ms))
            at += size
            room_used += size
        self.log.append(parts)
        self._dirty.add(self.log.bases[-1])
        self.end_offset = at
        first = len(done)
        for number, placed in enumerate(run):
            self._index_frame(frames[first + number], placed)
        done += run

    def _index_frame(self, checked: CheckedFrame, placed: Appended) -> None:
        header = checked.header
        self.index.add(
            checked.key,
            placed.queue_offset,
            placed.log_offset,
            placed.end_offset - placed.log_offset,
            header.record_count,
            checked.facts.tag_mask,
            placed.store_ms,
            header.producer_id,
            header.sequence,
            checked.facts.key_hashes,
        )

    def _roll(self) -> None:
        base = self.log.bases[-1]
        self.log.roll(self.end_offset)
        self.index.roll(self.end_offset)
        self._folder_dirty = True
        self._to_seal.append(base)

    def begin_epoch(self, epoch: int, *, store_ms: int) -> None:
        """The first frame of a new epoch."""
        assert epoch > self.epoch, (epoch, self.epoch)
        self.epoch = epoch
        sealed = frame.seal(topic="", queue_id=0, records=[b'{"epoch":%d}' % epoch], born_ms=store_ms, kind=Kind.EPOCH)
        self.append([CheckedFrame.trusted(sealed)], store_ms=store_ms, client=False)

    # ---- durability

    def sync(self) -> int:
        """Blocking. Make everything appended before the call durable; the offset up to which that is so.

        Raises FlushFailed, and from then on always: a second fdatasync would report success for lost pages.
        """
        if self._failed is not None:
            raise self._failed
        target = self.end_offset
        bases = sorted(self._dirty)
        try:
            for base in bases:
                try:
                    file = self.log.file(base)
                except KeyError:
                    continue  # deleted meanwhile
                file.sync()
            if self._folder_dirty:
                self._folder_dirty = False
                self.files.sync_folder("log")
            self._confirm.truncate(0)
            self._confirm.append([_CONFIRM.pack(target, target & 0xFFFFFFFF)])
        except FlushFailed as failure:
            self._failed = failure
            raise
        except DiskFull:
            pass  # the marker is a cache: an older one is right too
        self._dirty.difference_update(base for base in bases if base != self.log.bases[-1])
        return target

    def note_synced(self, offset: int) -> None:
        self.synced_offset = max(self.synced_offset, offset)

    # ---- reading

    def queue_bounds(self, key: int) -> tuple[int, int]:
        """(lowest queue offset held, offset of the next record)."""
        return self.index.min_queue_offset(key), self.index.next_queue_offset(key)

    def plan(
        self, key: int, queue_offset: int, *, bytes_max: int, below: int, tag_hashes: frozenset[int] | None = None
    ) -> ReadPlan:
        """Which frames to read from ``queue_offset`` on: at least one if there is any below log offset ``below``.

        Frames that can't hold one of the tags are passed over unread. Raises OffsetOutOfRange, and DamagedLog where
        records are missing because the log is damaged: nothing is skipped silently.
        """
        low, high = self.queue_bounds(key)
        if not low <= queue_offset <= high:
            raise OffsetOutOfRange(f"queue offset {queue_offset} is out of range: the queue holds {low} to {high}")
        wanted = 0
        for hashed in tag_hashes or ():
            wanted |= frame.tag_bit(hashed)
        plan = ReadPlan([], 0, queue_offset, tag_hashes)
        for ref in self.index.refs(key, queue_offset, limit=REFS_PER_READ):
            if ref.log_offset + ref.size > below or (plan.size and plan.size + ref.size > bytes_max):
                break
            if ref.queue_offset > plan.next_offset and plan.next_offset >= low:
                if plan.size:
                    break
                raise DamagedLog(
                    f"records {plan.next_offset} to {ref.queue_offset - 1} of the queue can't be read: the log is damaged "
                    f"before log offset {ref.log_offset}; reset the group to offset {ref.queue_offset} to leave them out"
                )
            self._add(plan, ref, wanted)
        return plan

    @staticmethod
    def _add(plan: ReadPlan, ref: FrameRef, wanted: int) -> None:
        plan.next_offset = ref.queue_offset + ref.count
        if wanted and not ref.tag_mask & wanted:
            return
        if plan.spans and sum(plan.spans[-1]) == ref.log_offset:
            offset, size = plan.spans[-1]
            plan.spans[-1] = (offset, size + ref.size)
        else:
            plan.spans.append((ref.log_offset, ref.size))
        plan.size += ref.size

    def read(self, plan: ReadPlan, *, cached_only: bool) -> bytes | None:
        """*Blocking* unless ``cached_only``: the frames of a plan as they lie in the log; None if the disk must be
        waited for."""
        data: list[bytes] = []
        for offset, size in plan.spans:
            for at, count in self._within_segments(offset, size):
                piece = self.log.read_span(at, count, cached_only=cached_only)
                if piece is None:
                    return None
                data.append(piece)
        joined = data[0] if len(data) == 1 else b"".join(data)
        return _only_tagged(joined, plan.tag_hashes) if plan.tag_hashes else joined

    def _within_segments(self, offset: int, size: int) -> list[tuple[int, int]]:
        """A span may join the last frame of a segment and the first of the next."""
        pieces: list[tuple[int, int]] = []
        while size:
            file, at = self.log.locate(offset)
            count = min(size, file.size - at)
            pieces.append((offset, count))
            offset, size = offset + count, size - count
        return pieces

    def read_frame(self, log_offset: int) -> bytes:
        """*Blocking*. One frame, checksums verified."""
        return self.log.read_frame(log_offset)

    def offset_at_time(self, key: int, ms: int) -> int:
        return self.index.by_time(key, ms)

    def find_key(self, hashed: int, *, limit: int) -> list[int]:
        """Log offsets of frames that hold a key with this hash, newest first."""
        return self.index.by_key(hashed, limit=limit)

    def find_producer_frame(self, producer_id: int, sequence: int) -> int | None:
        return self.index.by_producer(producer_id, sequence)

    def frames_from(self, key: int, queue_offset: int, *, limit: int) -> list[int]:
        """Log offsets of a queue's frames from the one that holds the offset on."""
        return [ref.log_offset for ref in self.index.refs(key, queue_offset, limit=limit)]

    # ---- upkeep

    def take_seal_job(self) -> SealJob | None:
        """The oldest full segment that has no index file yet. Run it, then ``finish_seal``; one at a time."""
        if not self._to_seal:
            return None
        base = self._to_seal[0]
        return SealJob(base, self.log.file(base), self.files, self.index)

    def finish_seal(self, job: SealJob) -> None:
        if self._to_seal and self._to_seal[0] == job.base:
            self._to_seal.pop(0)
            self.index.adopt_sealed(job.base)

    def droppable(self, *, floor: int) -> list[int]:
        """Bases of sealed segments, oldest first, that lie wholly below the log offset ``floor``."""
        sealing = set(self.index.sealing())
        found = []
        for base in self.log.bases[:-1]:
            if base in sealing or self.log.segment_end(base) > floor:
                break
            found.append(base)
        return found

    def last_store_ms(self, base: int) -> int | None:
        """*Blocking*. Store time of a segment's last frame."""
        last = None
        for offset in self.log.frames(base, self.log.segment_end(base)):
            last = offset
        return frame.parse_prefix(self.read_frame(last)).store_ms if last is not None else None

    def drop_segment(self, base: int) -> None:
        self.index.drop_segment(base)
        self.log.drop(base)
        self.files.remove(index_name(base))

    def truncate(self, offset: int) -> None:
        """Cut the log and everything derived from it at a frame's start."""
        for base in self.index.truncate(offset):
            self.files.remove(index_name(base))
        self.log.truncate(offset)
        self.end_offset = self.log.end
        self.synced_offset = min(self.synced_offset, self.end_offset)
        self._to_seal = [base for base in self._to_seal if base in self.index.sealing()]

    def close(self) -> None:
        self.log.close()
        self._confirm.close()
        self.files.unlock()


def _only_tagged(data: bytes, tag_hashes: frozenset[int]) -> bytes:
    """The frames in which at least one record has one of the tags."""
    kept: list[bytes] = []
    for at, prefix in frame.iterate_frames(data):
        header = frame.parse_sealed(data, at + PREFIX_SIZE, available=prefix.size - PREFIX_SIZE)
        if has_any_tag(data, at + PREFIX_SIZE, header, tag_hashes):
            kept.append(data[at : at + prefix.size])
    return b"".join(kept)


def read_confirm(files: Files) -> int:
    """The last offset that is known to have been made durable; 0 when unknown."""
    data = files.read_all(CONFIRM)
    if data is None or len(data) != _CONFIRM.size:
        return 0
    offset, check = _CONFIRM.unpack(data)
    return offset if check == offset & 0xFFFFFFFF else 0
