"""The store's façade: appending, rolling, reading, sealing, cutting, and what a full or failing disk does to it."""

from __future__ import annotations

from array import array
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from random import Random

import pytest

from kourou.broker.store.columns import check_columns
from kourou.broker.store.commitlog import index_name, segment_name
from kourou.broker.store.files import OsFiles
from kourou.broker.store.store import CheckedFrame, SealJob, StoreConfig
from kourou.core.errors import DamagedLog, DiskFull, FlushFailed, OffsetOutOfRange
from kourou.core.frame import PREFIX_SIZE, Column, check_frame, iterate_frames, parse_sealed, seal, tag_hash
from tests.sim.disk import SimDisk
from tests.sim.store import SMALL, START_MS, Opened, message, metadata, open_disk

KEY = 1 << 32


def filled(disk: SimDisk, frames: int, *, size: int = 500, config: StoreConfig = SMALL) -> Opened:
    opened = open_disk(disk, config)
    for number in range(frames):
        opened.append(message(number % 3, number, size))
    return opened


def test_queue_offsets_and_log_offsets() -> None:
    opened = open_disk(SimDisk())
    first, second, third = opened.append(message(0, 1, 10, 5), message(1, 1, 10), message(0, 2, 10, 2))
    assert (first.queue_offset, second.queue_offset, third.queue_offset) == (0, 0, 5)
    assert (first.log_offset, first.end_offset, second.log_offset) == (0, second.log_offset, first.end_offset)
    assert opened.store.end_offset == third.end_offset
    assert opened.store.queue_bounds(KEY) == (0, 7)
    assert opened.store.queue_bounds(9 << 32) == (0, 0)
    (meta,) = opened.append(metadata(b"{}"), client=False)
    assert (meta.queue_offset, opened.store.queue_bounds(0)) == (0, (0, 1))


def test_a_frame_never_spans_segments() -> None:
    """Many frames in one call, some larger than a segment: each segment starts with a frame and holds what fits."""
    disk = SimDisk()
    opened = open_disk(disk)
    random = Random(1)
    frames = [message(0, number, random.choice((10, 900, 3000, 9000))) for number in range(60)]
    placed = opened.append(*frames)
    bases = set(opened.store.log.bases)
    for one in placed:
        assert not any(one.log_offset < base < one.end_offset for base in bases)
    for base in opened.store.log.bases:
        size = opened.store.log.segment_end(base) - base
        frames_in = [one for one in placed if base <= one.log_offset < base + size]
        assert frames_in[0].log_offset == base
        assert size <= SMALL.segment_bytes or len(frames_in) == 1
    assert opened.frames() == [(one.log_offset, bytes(sent.sealed)) for one, sent in zip(placed, frames, strict=True)]


@pytest.mark.parametrize("bytes_max", [1, 700, 1 << 20])
@pytest.mark.parametrize("sealed", [False, True])
def test_reading_a_queue(bytes_max: int, sealed: bool) -> None:
    opened = filled(SimDisk(), 40)
    if sealed:
        opened.seal()
    for queue in range(3):
        data = opened.queue(KEY | queue, bytes_max=bytes_max)
        sent = [bytes(message(queue, number, 500).sealed) for number in range(40) if number % 3 == queue]
        got = [data[at + PREFIX_SIZE : at + prefix.size] for at, prefix in iterate_frames(data)]
        assert got == sent


def test_one_frame_is_given_however_large_and_from_within() -> None:
    opened = open_disk(SimDisk())
    opened.append(message(0, 1, 900, 4), message(0, 2, 10))
    plan = opened.store.plan(KEY, 2, bytes_max=1, below=opened.store.end_offset)
    data = opened.store.read(plan, cached_only=True)
    assert data is not None
    assert [prefix.queue_offset for _, prefix in iterate_frames(data)] == [0]
    assert plan.next_offset == 4
    assert opened.store.plan(KEY, 5, bytes_max=1, below=opened.store.end_offset).size == 0  # the end: nothing yet


def test_below_hides_frames() -> None:
    opened = open_disk(SimDisk())
    first, second = opened.append(message(0, 1, 10), message(0, 2, 10))
    assert opened.store.plan(KEY, 0, bytes_max=1 << 20, below=first.end_offset).next_offset == 1
    assert opened.store.plan(KEY, 0, bytes_max=1 << 20, below=second.end_offset - 1).next_offset == 1
    assert opened.store.plan(KEY, 0, bytes_max=1 << 20, below=0).next_offset == 0


def test_out_of_range_names_the_bounds() -> None:
    opened = filled(SimDisk(), 6)
    with pytest.raises(OffsetOutOfRange, match="holds 0 to 2"):
        opened.store.plan(KEY, 3, bytes_max=1, below=opened.store.end_offset)


def test_cold_reads_say_so() -> None:
    disk = SimDisk()
    opened = filled(disk, 6)
    disk.cached = False
    plan = opened.store.plan(KEY, 0, bytes_max=1 << 20, below=opened.store.end_offset)
    assert opened.store.read(plan, cached_only=True) is None
    assert opened.store.read(plan, cached_only=False)


def test_tags_skip_frames() -> None:
    opened = open_disk(SimDisk())
    tags = ["a", "b", "c", "a", ""]
    for number, tag in enumerate(tags):
        columns = {Column.TAG_HASHES: array("I", [tag_hash(tag) if tag else 0])}
        sealed = seal(topic="t", queue_id=0, records=[b"x"], born_ms=0, sequence=number, columns=columns)
        frame = message(0, 0, 1)
        frame.sealed, frame.header, frame.crc = sealed, parse_sealed(sealed), int.from_bytes(sealed[-4:], "little")
        frame.facts = check_columns(sealed, 0, frame.header)
        opened.append(frame)

    def read(*wanted: int) -> tuple[list[int], int]:
        end = opened.store.end_offset
        plan = opened.store.plan(KEY, 0, bytes_max=1 << 20, below=end, tag_hashes=frozenset(wanted))
        data = opened.store.read(plan, cached_only=False) or b""
        return [prefix.queue_offset for _, prefix in iterate_frames(data)], plan.next_offset

    assert read(tag_hash("a")) == ([0, 3], 5)
    assert read(tag_hash("b"), tag_hash("c")) == ([1, 2], 5)
    assert read(tag_hash("z")) == ([], 5)
    assert read(0) == ([4], 5)


def test_a_filter_never_hides_damage() -> None:
    """A frame that is damaged goes to whoever asks for a tag, wherever the flipped bit lies: he is told when he opens it."""
    disk = SimDisk()
    opened = open_disk(disk)
    for number, tag in enumerate(["a", "b", "a"]):
        columns = {Column.TAG_HASHES: array("I", [tag_hash(tag)])}
        sealed = seal(topic="t", queue_id=0, records=[b"x"], born_ms=0, sequence=number, columns=columns)
        frame = message(0, 0, 1)
        frame.sealed, frame.header, frame.crc = sealed, parse_sealed(sealed), int.from_bytes(sealed[-4:], "little")
        frame.facts = check_columns(sealed, 0, frame.header)
        opened.append(frame)
    plan = opened.store.plan(KEY, 0, bytes_max=1 << 20, below=opened.store.end_offset, tag_hashes=frozenset([tag_hash("a")]))
    whole = opened.store.read(plan, cached_only=False)
    assert whole is not None
    first = plan.sizes[0]
    for bit in range(8 * first):
        disk.flip(segment_name(0), bit // 8, bit % 8)
        data = opened.store.read(plan, cached_only=False)
        assert data is not None
        assert len(data) == len(whole)
        assert data[first:] == whole[first:]
        disk.flip(segment_name(0), bit // 8, bit % 8)


def test_look_ups() -> None:
    opened = filled(SimDisk(), 30)
    opened.seal()
    offset = opened.store.find_producer_frame(7, 4)
    assert offset is not None
    assert opened.store.read_frame(offset)[PREFIX_SIZE:] == message(1, 4, 500).sealed
    assert opened.store.find_producer_frame(7, 99) is None
    assert opened.store.offset_at_time(KEY, START_MS + 1) == 10
    assert opened.store.frames_from(KEY, 0, limit=1) == [0]


def test_flipped_bit_is_found_by_read_frame() -> None:
    disk = SimDisk()
    opened = filled(disk, 4)
    disk.flip(segment_name(0), 100, 3)
    with pytest.raises(DamagedLog, match="log offset 0"):
        opened.store.read_frame(0)
    with pytest.raises(DamagedLog, match="log offset 7"):
        opened.store.read_frame(7)


def test_full_disk_keeps_nothing_of_a_batch() -> None:
    """No room at any point of a batch over several segments: nothing of it stays, and the log goes on after."""
    frames = [message(number % 2, number + 100, 700) for number in range(20)]
    whole = sum(PREFIX_SIZE + frame.header.size for frame in frames)
    for limit in range(0, whole, 331):
        disk = SimDisk()
        opened = filled(disk, 3)
        before, end = opened.frames(), opened.store.end_offset
        disk.write_limit = limit
        with pytest.raises(DiskFull):
            opened.append(*frames)
        assert (opened.frames(), opened.store.end_offset) == (before, end)
        disk.write_limit = None
        opened.store.space.refresh()
        opened.append(*frames)
        opened.seal()
        assert [sealed for _, sealed in opened.frames()][3:] == [frame.sealed for frame in frames]
        disk.kill()
        again = open_disk(disk)
        assert again.frames() == opened_frames(before, frames)
        assert again.recovered.bytes_cut == 0
        assert again.store.queue_bounds(KEY) == opened.store.queue_bounds(KEY)


def opened_frames(before: list[tuple[int, bytes]], frames: list[CheckedFrame]) -> list[tuple[int, bytes]]:
    found = list(before)
    at = before[-1][0] + PREFIX_SIZE + len(before[-1][1])
    for frame in frames:
        sealed = bytes(frame.sealed)
        found.append((at, sealed))
        at += PREFIX_SIZE + len(sealed)
    return found


def test_failed_fdatasync_is_final() -> None:
    disk = SimDisk()
    opened = filled(disk, 3)
    disk.fail_syncs = True
    with pytest.raises(FlushFailed):
        opened.store.sync()
    disk.fail_syncs = False
    with pytest.raises(FlushFailed):
        opened.store.sync()
    with pytest.raises(FlushFailed):
        opened.append(message(0, 50, 10))
    assert opened.store.synced_offset == 0
    assert opened.events == ["store_failed"]


def test_failed_fdatasync_of_a_seal_is_final() -> None:
    disk = SimDisk()
    opened = filled(disk, 20)
    job = opened.store.take_seal_job()
    assert job is not None
    disk.fail_syncs = True
    with pytest.raises(FlushFailed):
        job.run()
    disk.fail_syncs = False
    assert opened.store.take_seal_job() is None
    with pytest.raises(FlushFailed):
        opened.store.sync()


def test_sealing_is_tried_again_when_there_is_room() -> None:
    disk = SimDisk()
    opened = filled(disk, 20)
    job = opened.store.take_seal_job()
    assert job is not None
    assert opened.store.take_seal_job() is None  # one at a time
    disk.write_limit = 10
    with pytest.raises(DiskFull):
        job.run()
    disk.write_limit = None
    opened.seal()
    assert disk.names.keys() >= {index_name(base) for base in opened.store.log.bases[:-1]}


def test_sync_does_not_vouch_for_what_comes_during_it() -> None:
    """Appends, and a roll, while fdatasync runs: the next sync makes them durable, even in the segment that was left."""
    disk = SimDisk()
    opened = filled(disk, 2)
    original = opened.store._sync_segment

    def slow(base: int) -> None:
        original(base)
        if not slowed:
            slowed.append(base)
            for number in range(10, 22):
                opened.append(message(0, number, 500))

    slowed: list[int] = []
    opened.store._sync_segment = slow  # type: ignore[method-assign]
    first = opened.store.sync()
    assert first < opened.store.end_offset
    opened.store.note_synced(first)
    opened.sync()
    assert opened.store.synced_offset == opened.store.end_offset
    kept = opened.frames()
    for seed in range(20):
        fate = disk.fork()
        fate.power_loss(Random(seed))
        assert open_disk(fate).frames() == kept


def test_threads(tmp_path: Path) -> None:
    """Real files: syncs, seals and reads in threads while the log grows and rolls and old segments are dropped."""
    opened = Opened(OsFiles(tmp_path), StoreConfig(segment_bytes=50_000, reserve_bytes=0, full_ratio=1.0))
    store = opened.store
    sync: Future[int] | None = None
    job: tuple[SealJob, Future[None]] | None = None
    reads: list[tuple[int, int, Future[bytes | None]]] = []
    with ThreadPoolExecutor(4) as pool:
        for number in range(4_000):
            opened.append(message(0, number % 50, 400))
            if sync is None or sync.done():
                if sync is not None:
                    store.note_synced(sync.result())
                sync = pool.submit(store.sync)
            if job is None and (taken := store.take_seal_job()) is not None:
                job = taken, pool.submit(taken.run)
            elif job is not None and job[1].done():
                job[1].result()
                store.finish_seal(job[0])
                job = None
            if number % 7 == 0:
                low, high = store.queue_bounds(KEY)
                plan = store.plan(KEY, (low + high) // 2, bytes_max=20_000, below=store.end_offset)
                reads.append(((low + high) // 2, plan.next_offset, pool.submit(store.read, plan, cached_only=False)))
            if number % 500 == 499:
                for base in store.droppable(floor=store.end_offset // 2)[:1]:
                    store.drop_segment(base)
        for first, after, read in reads:
            data = read.result()
            assert data
            assert [p.queue_offset for at, p in iterate_frames(data) if check_frame(data, at)] == list(range(first, after))
        assert sync is not None
        sync.result()
        if job is not None:
            job[1].result()
            store.finish_seal(job[0])
    opened.seal()
    opened.snapshot()
    assert len(list(iterate_frames(opened.queue(KEY)))) == 4_000 - store.queue_bounds(KEY)[0]
    store.close()
    again = Opened(OsFiles(tmp_path), SMALL)
    assert (again.replayed, again.store.queue_bounds(KEY)[1]) == ([], 4_000)
    again.store.close()


def test_truncate_at_every_frame() -> None:
    disk = SimDisk()
    opened = filled(disk, 30)
    opened.seal()
    opened.sync()
    offsets = [offset for offset, _ in opened.frames()]
    for cut in offsets:
        fate = disk.fork()
        fate.kill()
        again = open_disk(fate)
        again.store.truncate(cut)
        kept = again.frames()
        assert [offset for offset, _ in kept] == [offset for offset in offsets if offset < cut]
        again.append(message(0, 1000, 300), message(1, 1001, 300))
        data = again.queue(KEY)
        assert [p.queue_offset for _, p in iterate_frames(data)] == list(range(len(list(iterate_frames(data)))))
        fate.power_loss(Random(cut))
        last = open_disk(fate)
        assert last.frames()[: len(kept)] == kept
        assert not last.store.damaged


def test_truncation_during_a_seal() -> None:
    disk = SimDisk()
    opened = filled(disk, 30)
    job = opened.store.take_seal_job()
    assert job is not None
    opened.store.truncate(opened.frames()[1][0])
    job.run()
    opened.store.finish_seal(job)
    assert index_name(0) not in disk.names
    for number in range(30):
        opened.append(message(0, 100 + number, 500))
    opened.seal()
    assert len(list(iterate_frames(opened.queue(KEY)))) == 31


def test_dropped_segment_under_a_read() -> None:
    disk = SimDisk()
    opened = filled(disk, 30)
    opened.seal()
    opened.snapshot()
    plan = opened.store.plan(KEY, 0, bytes_max=1, below=opened.store.end_offset)
    (base, *_) = opened.store.droppable(floor=opened.store.end_offset)
    assert opened.store.last_store_ms(base) == START_MS
    opened.store.drop_segment(base)
    assert opened.store.read(plan, cached_only=False)
    low, _ = opened.store.queue_bounds(KEY)
    assert low > 0
    with pytest.raises(OffsetOutOfRange, match=f"holds {low} to 10"):
        opened.store.plan(KEY, 0, bytes_max=1, below=opened.store.end_offset)
    assert not any(str(base).zfill(20) in name for name in disk.names)


def test_configuration_is_checked() -> None:
    with pytest.raises(ValueError, match="segment_bytes"):
        StoreConfig(segment_bytes=1 << 33)
    with pytest.raises(ValueError, match="full_ratio"):
        StoreConfig(full_ratio=95)
