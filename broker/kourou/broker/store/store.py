"""The store: one log with its indexes, as services see it.

All methods belong to one thread, except those marked *blocking*, which touch only files and may run in another while the
first goes on. Nothing here starts a thread or reads a clock.

What crosses threads: ``sync`` (one at a time) reads ``end_offset`` and the marks of segments, and alone writes which of
them are durable; ``end_offset`` moves only when a whole batch is written, so a sync never vouches for one that is taken
back. ``read`` uses what its plan holds. A seal job works on what is frozen.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kourou.broker.store.checked import Appended, CheckedFrame
from kourou.broker.store.commitlog import FOLDER, CommitLog, index_name, segment_name
from kourou.broker.store.confirm import Confirm
from kourou.broker.store.diskspace import DiskSpace
from kourou.broker.store.epochs import Epochs
from kourou.broker.store.files import Files
from kourou.broker.store.logindex import LogIndex
from kourou.broker.store.mending import Mending
from kourou.broker.store.openindex import NO_TIME
from kourou.broker.store.reading import ReadPlan, make_plan, read_plan
from kourou.broker.store.sealing import SealJob
from kourou.core import frame
from kourou.core.errors import Busy, DiskFull, FlushFailed, KourouError
from kourou.core.frame import PREFIX_SIZE, Buffer, Kind, Prefix

__all__ = ["Appended", "CheckedFrame", "ReadPlan", "SealJob", "Store", "StoreConfig"]

SEGMENT_BYTES_MAX = 2**32 - 1  # places in a segment are u32 in its index

Notice = Callable[[str, dict[str, object]], None]
Entry = tuple[int, int, int, int, int, int, int, int, int, NDArray[np.uint32] | None]  # what ``LogIndex.add`` takes


@dataclass(frozen=True, slots=True)
class StoreConfig:
    segment_bytes: int = 256 * 1024 * 1024
    full_ratio: float = 0.95
    reserve_bytes: int = 64 * 1024 * 1024

    def __post_init__(self) -> None:
        if not 0 < self.segment_bytes <= SEGMENT_BYTES_MAX:
            raise ValueError(f"segment_bytes is {self.segment_bytes}; from 1 to {SEGMENT_BYTES_MAX} are possible")
        if not 0 < self.full_ratio <= 1:
            raise ValueError(f"full_ratio is {self.full_ratio}; it is a share above 0 up to 1")


class Store:
    """Made by ``recovery.open_store``."""

    def __init__(
        self,
        files: Files,
        log: CommitLog,
        index: LogIndex,
        space: DiskSpace,
        confirm: Confirm,
        epochs: Epochs,
        *,
        damaged: list[tuple[int, int]],
        notice: Notice,
    ) -> None:
        self.files = files
        self.log = log
        self.index = index
        self.space = space
        self.epochs = epochs
        self.epoch = epochs.latest
        self.end_offset = log.end
        self.synced_offset = min(confirm.offset, log.end)
        self.snapshot_offset = 0
        self.fresh_frames = 0  # behind the newest snapshot
        self.damaged = damaged  # unreadable ranges of the log
        self._confirm = confirm
        self._notice = notice
        self._written = log.end  # end_offset, or what a batch under way has written beyond it
        self._writes = 1
        # by base, the number of the last write to a segment that is not sealed, and what of that was synced
        self._marks = dict.fromkeys((*index.sealing(), log.bases[-1]), 1)  # written by the owner of the store alone
        self._synced_marks: dict[int, int] = {}  # by whoever syncs alone
        self._folder_marks = 1
        self._folder_synced = 0
        self._sync_target: int | None = None  # while a sync is under way
        self._failed: KourouError | None = None
        self.mending = Mending(files, log, index, notice=notice)
        self._to_seal: list[int] = index.sealing()
        self._unindexed: set[int] = set()  # segments in which something was mended
        self._sealing: SealJob | None = None

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
        done: list[Appended] = []
        try:
            while len(done) < len(frames):
                self._append_run(frames, done, store_ms)
        except KourouError as failure:
            self._take_back()
            if not isinstance(failure, DiskFull):
                self._fail(failure)
            elif self.space.out_of_room() and not client:
                return self.append(frames, store_ms=store_ms, client=False)  # into the room that the reserve kept
            raise
        self.end_offset = self._written
        self.fresh_frames += len(done)
        self.space.wrote(size)
        return done

    def _append_run(self, frames: Sequence[CheckedFrame], done: list[Appended], store_ms: int) -> None:
        """As many frames as fit into the open segment."""
        base = self.log.bases[-1]
        if self._written > base and PREFIX_SIZE + frames[len(done)].header.size > self.log.room:
            self._roll()
            base = self._written
        room = self.log.room
        parts: list[Buffer] = []
        run: list[Appended] = []
        following: dict[int, int] = {}
        at = self._written
        for checked in frames[len(done) :] if done else frames:
            header = checked.header
            size = PREFIX_SIZE + header.size
            if run and size > room:
                break
            key = checked.key
            queue_offset = following.get(key)
            if queue_offset is None:
                queue_offset = self.index.next_queue_offset(key)
            prefix = frame.make_prefix(
                sealed_size=header.size,
                sealed_crc=checked.crc,
                log_offset=at,
                epoch=self.epoch,
                incarnation=checked.incarnation,
                queue_offset=queue_offset,
                store_ms=store_ms,
            )
            parts += (prefix, checked.sealed)
            following[key] = queue_offset + header.record_count
            run.append(Appended(at, at + size, queue_offset, store_ms, prefix))
            at += size
            room -= size
        self.log.append(parts)
        self._writes += 1
        self._marks[base] = self._writes
        self._written = at
        first = len(done)
        for number, placed in enumerate(run, first):
            self._index_frame(frames[number], placed)
        done += run

    def append_as_is(self, data: memoryview, frames: Sequence[tuple[Prefix, Entry]]) -> None:
        """Frames of another member's log, checked, with their index entries; they follow one another in ``data`` and
        begin where this log ends. All or none. Raises DiskFull; FlushFailed once the disk failed."""
        if self._failed is not None:
            raise self._failed
        start = self.end_offset
        assert frames[0][0].log_offset == start
        number = 0
        try:
            while number < len(frames):
                number = self._copy_run(data, frames, number, start)
        except KourouError as failure:
            self._take_back()
            if not isinstance(failure, DiskFull):
                self._fail(failure)
            raise
        self.end_offset = self._written
        self.fresh_frames += len(frames)
        self.space.wrote(len(data))
        latest = frames[-1][0].epoch
        if latest > self.epochs.latest:
            for prefix, _ in frames:
                self.epochs.note(prefix.epoch, prefix.log_offset)
            self.epochs.save(self.files)
            self.epoch = latest

    def _copy_run(self, data: memoryview, frames: Sequence[tuple[Prefix, Entry]], number: int, start: int) -> int:
        """As many frames as fit into the open segment; the number of the first that does not."""
        if self._written > self.log.bases[-1] and frames[number][0].size > self.log.room:
            self._roll()
        room = self.log.room
        first = number
        at = self._written
        while number < len(frames) and (number == first or frames[number][0].size <= room):
            room -= frames[number][0].size
            at += frames[number][0].size
            number += 1
        self.log.append([data[self._written - start : at - start]])
        self._writes += 1
        self._marks[self.log.bases[-1]] = self._writes
        self._written = at
        for _, entry in frames[first:number]:
            self.index.add(*entry)
        return number

    def _take_back(self) -> None:
        """Undo what a failed batch has written."""
        if self._written > self.end_offset:
            try:
                self._cut(self.end_offset)
            except KourouError as failure:
                self._fail(failure)
                raise

    def _fail(self, failure: KourouError) -> None:
        """The disk can't be trusted any more: nothing is written from here on."""
        if self._failed is None:
            self._failed = failure
            self._notice("store_failed", {"reason": str(failure), "synced": self.synced_offset, "end": self.end_offset})

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
        self.log.roll(self._written)
        self.index.roll(self._written)
        self._folder_marks += 1
        self._to_seal.append(base)

    def begin_epoch(self, epoch: int, *, store_ms: int) -> None:
        """The first frame of a new epoch. Its place is noted in the ``epochs`` file, *blocking* a little."""
        assert epoch > self.epoch, (epoch, self.epoch)
        before, self.epoch = self.epoch, epoch
        sealed = _epoch_frame(epoch, store_ms)
        try:
            (placed,) = self.append([CheckedFrame.trusted(sealed)], store_ms=store_ms, client=False)
        except KourouError:
            self.epoch = before
            raise
        self.epochs.note(epoch, placed.log_offset)
        self.epochs.save(self.files)

    # ---- durability

    def sync(self) -> int:
        """*Blocking*, one at a time. Make everything appended before the call durable; the offset up to which that is
        so, for ``note_synced``.

        Raises FlushFailed, and from then on always: a second fdatasync would report success for lost pages.
        """
        if self._failed is not None:
            raise self._failed
        target = self._sync_target = self.end_offset  # first: what is marked later is not vouched for
        try:
            folder_marks = self._folder_marks
            for base, mark in sorted(list(self._marks.items())):  # noqa: C414 - the copy is one step for other threads
                if self._synced_marks.get(base) != mark:
                    self._sync_segment(base)
                    self._synced_marks[base] = mark
            if self._folder_synced != folder_marks:
                self.files.sync_folder(FOLDER)
                self._folder_synced = folder_marks
            self.check_place()
            self._confirm.note(target)
        except KourouError as failure:
            self._fail(failure)
            raise
        finally:
            self._sync_target = None
        return target

    def _sync_segment(self, base: int) -> None:
        try:
            file = self.log.file(base)
        except KeyError:
            return  # deleted meanwhile
        file.sync()

    def check_place(self) -> None:
        """*Blocking*, but quick. Raises FlushFailed, and from then on always, when the data directory or the open segment
        was removed or replaced: what is written there is lost with it."""
        base = self.log.bases[-1]
        try:
            self.files.check(segment_name(base), self.log.file(base))
        except KeyError:
            return  # cut meanwhile
        except FlushFailed as failure:
            if base == self.log.bases[-1]:
                self._fail(failure)
                raise

    def note_synced(self, offset: int) -> None:
        self.synced_offset = max(self.synced_offset, offset)

    # ---- reading

    def queue_bounds(self, key: int) -> tuple[int, int]:
        """(lowest queue offset held, offset of the next record)."""
        return self.index.min_queue_offset(key), self.index.next_queue_offset(key)

    def plan(
        self,
        key: int,
        queue_offset: int,
        *,
        bytes_max: int,
        below: int,
        tag_hashes: frozenset[int] | None = None,
        topic: str = "",
    ) -> ReadPlan:
        """Which frames to read from ``queue_offset`` on: at least one if there is any below log offset ``below``.

        Frames that can't hold one of the tags are passed over unread. Raises OffsetOutOfRange, and DamagedLog where
        records are missing because the log is damaged: nothing is skipped silently. ``topic`` is named there.
        """
        return make_plan(
            self.log,
            self.index,
            self.damaged,
            key,
            queue_offset,
            bytes_max=bytes_max,
            below=below,
            tag_hashes=tag_hashes,
            topic=topic,
        )

    def read(self, plan: ReadPlan, *, cached_only: bool) -> bytes | None:
        """*Blocking* unless ``cached_only``: the frames of a plan as they lie in the log; None if the disk must be
        waited for. What was deleted since the plan was made is still read. Raises DamagedLog."""
        return read_plan(plan, cached_only=cached_only)

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
        if self._sealing is not None and self._sealing.failure is not None:
            if isinstance(self._sealing.failure, FlushFailed):
                self._fail(self._sealing.failure)
            self._sealing = None
        if not self._to_seal or self._sealing is not None or self._failed is not None:
            return None
        base = self._to_seal[0]
        self._sealing = SealJob(base, self.log.file(base), self.files, self.index)
        return self._sealing

    def finish_seal(self, job: SealJob) -> None:
        """The job has run: the index answers from the file."""
        assert job is self._sealing, "one seal job at a time"
        self._sealing = None
        if job.cut:
            self.files.remove(index_name(job.base))
            return
        self._to_seal.remove(job.base)
        self._marks.pop(job.base, None)  # durable by the job
        self.index.adopt_sealed(job.base)

    def droppable(self, *, floor: int) -> list[int]:
        """Bases of sealed segments, oldest first, that lie wholly below the log offset ``floor``.

        One that ends there stays: in a snapshot of that offset it is the open segment, and its frames are needed with it.
        """
        sealing = set(self.index.sealing())
        found = []
        for base in self.log.bases[:-1]:
            if base in sealing or self.log.segment_end(base) >= floor:
                break
            found.append(base)
        return found

    def last_store_ms(self, base: int) -> int | None:
        """The latest store time in a sealed segment, as its index says; None for one without frames."""
        file = self.index.sealed_file(base)
        return None if file is None or file.last_ms == NO_TIME else file.last_ms

    def drop_segment(self, base: int) -> None:
        self.index.drop_segment(base)
        self.log.drop(base)
        self.files.remove(index_name(base))
        self._marks.pop(base, None)
        self.damaged = [(start, end) for start, end in self.damaged if end > self.log.start]

    def truncate(self, offset: int) -> None:
        """*Blocking*. Cut the log and everything derived from it at a frame's start. Not below a sync under way."""
        assert self._sync_target is None or offset >= self._sync_target, (offset, self._sync_target)
        try:
            self._confirm.lower(offset)
            self._cut(offset)
        except FlushFailed as failure:
            self._fail(failure)
            raise

    def _cut(self, offset: int) -> None:
        """Durably: frames and segments that come back after a power cut would mix with what is written from here on."""
        if self._sealing is not None and self.log.segment_end(self._sealing.base) > offset:
            self._sealing.cut = True
        self.mending.cut(offset)
        for base in self.index.truncate(offset):
            self.files.remove(index_name(base))
        for base in self.log.truncate(offset):
            self._marks.pop(base, None)
        base = self.log.bases[-1]
        self._writes += 1
        self._marks[base] = self._writes
        self.log.file(base).sync()
        self.files.sync_folder(FOLDER)
        self._written = self.end_offset = self.log.end
        self.synced_offset = min(self.synced_offset, self.end_offset)
        self.epochs.cut(self.end_offset)
        self._to_seal = [base for base in self._to_seal if base in self.index.sealing()]

    def unindex(self, offset: int) -> None:
        """*Blocking* a little. What is at a log offset is about to be mended: its segment's index may have been made without
        it. Before a byte is written, so that whoever opens the log after a crash makes the index anew. Raises Busy."""
        base = self.log.base_of(offset)
        if base is None or base in self.index.sealing():
            raise Busy(f"the index of the segment of log offset {offset} is being written")
        self._unindexed.add(base)
        self._remove_indexes({base})

    def forget_indexes(self) -> None:
        """*Blocking* a little. Of all segments in which something was mended: the log is about to be opened anew."""
        self._remove_indexes(self._unindexed)

    def _remove_indexes(self, bases: set[int]) -> None:
        for base in bases:
            self.files.remove(index_name(base))
        self.files.sync_folder(FOLDER)

    def mended(self, start: int, end: int) -> None:
        """This part of the log is whole again."""
        self.damaged = [(a, b) for a, b in self.damaged if a < start or b > end]
        base = self.log.base_of(start)
        if base is not None:  # else retention has taken it
            self.mending.renew(base, f"the log from {start} to {end} was mended")

    def close(self) -> None:
        self.log.close()
        self._confirm.close()
        self.files.unlock()


def _epoch_frame(epoch: int, store_ms: int) -> bytes:
    return frame.seal(topic="", queue_id=0, records=[b'{"epoch":%d}' % epoch], born_ms=store_ms, kind=Kind.EPOCH)


def epoch_frame_size(epoch: int) -> int:
    """Bytes in the log."""
    return PREFIX_SIZE + len(_epoch_frame(epoch, 0))
