"""Room on the disk: refusing in time, the reserve, coming back, and retention."""

from __future__ import annotations

import pytest

from kourou.broker.store.diskspace import RESERVE, DiskSpace
from kourou.broker.store.retention import Retention, SteadyClock
from kourou.broker.store.snapshot import offsets
from kourou.broker.store.store import StoreConfig
from kourou.core.errors import DiskFull
from tests.sim.disk import SimDisk
from tests.sim.store import START_MS, Opened, message, metadata, open_disk

HOUR_MS = 3_600_000
CONFIG = StoreConfig(segment_bytes=16_384, full_ratio=0.9, reserve_bytes=10_000)


def filled_up(disk: SimDisk) -> Opened:
    """Until clients are refused."""
    opened = open_disk(disk, CONFIG)
    while True:
        try:
            opened.append(message(0, opened.store.end_offset, 900))
        except DiskFull:
            return opened


def test_clients_are_refused_before_the_disk_is_full() -> None:
    """Without anybody looking at the disk in between: what was written is counted."""
    disk = SimDisk(capacity=200_000)
    opened = filled_up(disk)
    assert disk.used <= 0.9 * disk.capacity
    assert opened.store.end_offset > 0.9 * 160_000
    assert opened.store.space.full
    with pytest.raises(DiskFull, match=r"is 9\d% full, the 1 MiB counted .* refused from 90% on and begin again when 1 MiB"):
        opened.append(message(0, 1, 10))
    assert RESERVE not in disk.names  # given up for metadata
    opened.append(metadata(b"{}"), client=False)
    assert opened.store.space.refresh()  # announces it
    assert not opened.store.space.refresh()
    with pytest.raises(DiskFull):
        opened.append(message(0, 1, 10))


def test_the_refusal_says_what_is_missing() -> None:
    """Not "89 % full, refused from 95 % on": the reserve that was given back counts as used."""
    mib = 1 << 20
    disk = SimDisk(capacity=64 * mib)
    space = DiskSpace(disk.files(), full_ratio=0.75, reserve_bytes=4 * mib)
    space.refresh()
    disk.files().open("ballast").append([bytes(45 * mib)])
    space.refresh()
    for _ in range(2):
        with pytest.raises(DiskFull) as refusal:
            space.check(1)
        assert str(refusal.value) == (
            "the disk is 77% full, the 4 MiB counted that are kept for consumers' offsets; "
            "writes are refused from 75% on and begin again when 2 MiB more are free"
        )
        assert RESERVE not in disk.names
        space.refresh()
    disk.capacity += 8 * mib  # 6 are free below three quarters
    space.refresh()
    space.check(1)


def test_metadata_gets_the_room_of_the_reserve_and_more() -> None:
    disk = SimDisk(capacity=200_000)
    opened = open_disk(disk, CONFIG)
    disk.capacity = disk.used + 5_000  # somebody else filled the disk
    opened.append(metadata(bytes(9_000)), client=False)
    assert RESERVE not in disk.names
    with pytest.raises(DiskFull):
        opened.append(*[metadata(bytes(3_000))] * 9, client=False)
    assert len(opened.frames()) == 1


def test_writes_begin_again_by_themselves() -> None:
    disk = SimDisk(capacity=200_000)
    opened = filled_up(disk)
    space = opened.store.space
    assert space.refresh()
    for more in range(0, 14_000, 500):
        disk.capacity = 200_000 + more
        if space.refresh():
            break
        assert space.full
    assert not space.full
    assert more > 1_000  # the room that the reserve set free is not taken for room
    assert RESERVE in disk.names
    assert not space.refresh()
    opened.append(message(0, 1, 10))


def test_reserve_of_an_earlier_process_is_used() -> None:
    disk = SimDisk(capacity=200_000)
    open_disk(disk, CONFIG)
    disk.kill()
    disk.capacity = disk.used
    opened = open_disk(disk, CONFIG)
    assert opened.store.space.full
    assert RESERVE not in disk.names
    opened.store.begin_epoch(1, store_ms=START_MS)


def test_reserve_is_small_on_a_small_disk() -> None:
    disk = SimDisk(capacity=160_000)
    DiskSpace(disk.files(), full_ratio=0.9, reserve_bytes=64 << 20).refresh()
    assert disk.names[RESERVE].size == 10_000


def segmented(disk: SimDisk, *, hours: int = 20) -> Opened:
    opened = open_disk(disk)
    for number in range(hours):
        opened.append(message(0, number, 3_000), store_ms=START_MS + number * HOUR_MS)
    opened.seal()
    opened.snapshot()
    return opened


def step(opened: Opened, retention: Retention, *, now_ms: int, monotonic_ms: int = 0, floor: int | None = None) -> int:
    limit = opened.store.snapshot_offset if floor is None else floor
    due = retention.due(opened.store, floor=limit, wall_ms=now_ms, monotonic_ms=monotonic_ms)
    for expired in due:
        opened.store.drop_segment(expired.base)
    return len(due)


def test_retention_by_time() -> None:
    opened = segmented(SimDisk())
    retention = Retention(retention_ms=10 * HOUR_MS, retention_bytes=0)
    assert step(opened, retention, now_ms=START_MS + 9 * HOUR_MS) == 0
    assert step(opened, retention, now_ms=START_MS + 10 * HOUR_MS, monotonic_ms=HOUR_MS) == 1
    assert step(opened, retention, now_ms=START_MS + 18 * HOUR_MS, monotonic_ms=9 * HOUR_MS) == 4
    assert step(opened, retention, now_ms=START_MS + 18 * HOUR_MS, monotonic_ms=9 * HOUR_MS) == 4
    assert step(opened, retention, now_ms=START_MS + 18 * HOUR_MS, monotonic_ms=9 * HOUR_MS) == 0
    assert opened.store.queue_bounds(1 << 32) == (9, 20)
    for _ in range(9):
        step(opened, retention, now_ms=START_MS + 900 * HOUR_MS, monotonic_ms=900 * HOUR_MS)
    assert len(opened.store.log.bases) == 1  # never the last
    assert opened.store.queue_bounds(1 << 32) == (19, 20)


def test_retention_by_size() -> None:
    opened = segmented(SimDisk())
    retention = Retention(retention_ms=10**12, retention_bytes=16_000)
    while step(opened, retention, now_ms=START_MS):
        pass
    assert 16_000 <= opened.store.end_offset - opened.store.min_offset < 16_000 + 4_096


def test_retention_stops_at_the_floor() -> None:
    opened = segmented(SimDisk())
    retention = Retention(retention_ms=0, retention_bytes=0)
    floor = opened.store.log.bases[2] + 1
    while step(opened, retention, now_ms=START_MS + 99 * HOUR_MS, floor=floor):
        pass
    assert opened.store.log.bases[0] <= floor < opened.store.log.bases[1]


def test_clock_set_back_deletes_nothing_early() -> None:
    disk = SimDisk()
    opened = open_disk(disk)
    for number in range(20):  # the clock was a day ahead for the first ten frames
        ahead = 24 * HOUR_MS if number < 10 else 0
        opened.append(message(0, number, 3_000), store_ms=START_MS + number + ahead)
    opened.seal()
    opened.snapshot()
    retention = Retention(retention_ms=10 * HOUR_MS, retention_bytes=0)
    assert step(opened, retention, now_ms=START_MS + 33 * HOUR_MS) == 0
    assert step(opened, retention, now_ms=START_MS - 33 * HOUR_MS) == 0
    assert opened.store.offset_at_time(1 << 32, START_MS + HOUR_MS) == 0


def test_clock_that_jumps_ahead_deletes_little() -> None:
    clock = SteadyClock()
    assert clock.step(wall_ms=1_000, monotonic_ms=0) == 1_000
    assert clock.step(wall_ms=6_000, monotonic_ms=5_000) == 6_000
    assert clock.step(wall_ms=10**12, monotonic_ms=10_000) == 71_000
    assert clock.step(wall_ms=500, monotonic_ms=15_000) == 500


def test_two_snapshots_are_kept() -> None:
    disk = SimDisk()
    opened = open_disk(disk)
    made = []
    for number in range(4):
        opened.append(message(0, number, 10))
        opened.snapshot()
        made.append(opened.store.end_offset)
    assert offsets(opened.files) == made[:1:-1]
