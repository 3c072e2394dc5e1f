"""A damaged log is whole again once its frames were fetched, and so is what is known of its queues."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from kourou.broker.services.replication.refetch import Ask, refetch
from kourou.broker.store.commitlog import index_name, segment_name
from kourou.broker.store.copying import append_frames, check_frames, read_frames
from kourou.core.errors import Busy, DamagedLog
from tests.sim.disk import SimDisk
from tests.sim.store import START_MS, Opened, message, open_disk

LONE = 7  # a queue of a single message


def master() -> Opened:
    opened = open_disk(SimDisk())
    opened.store.begin_epoch(1, store_ms=START_MS)
    for number in range(40):
        opened.append(message(LONE if number == 20 else number % 3, number, 500))
    return opened


def slave(disk: SimDisk, of: Opened) -> Opened:
    """With all of the log, durable, and no index of a segment yet."""
    opened = open_disk(disk)
    store = opened.store
    while (start := store.end_offset) < of.store.end_offset:
        data = read_frames(of.store, start, end=of.store.end_offset, bytes_max=4_000, cached_only=False)
        assert data
        append_frames(store, memoryview(data), check_frames(memoryview(data), start, epoch_min=0, epoch_max=1))
    opened.sync()
    return opened


def asking(of: Opened) -> Ask:
    async def ask(start: int, end: int) -> memoryview:
        return memoryview(read_frames(of.store, start, end=end, bytes_max=1_000, cached_only=False) or b"")

    return ask


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as made:
        yield made


def bounds(opened: Opened) -> list[tuple[int, int]]:
    return [opened.store.queue_bounds(1 << 32 | queue) for queue in (0, 1, 2, LONE)]


@pytest.mark.parametrize("crash", [False, True])
async def test_an_index_that_was_made_without_the_frame_is_made_anew(pool: ThreadPoolExecutor, crash: bool) -> None:
    """Else its queue would give the offset out again."""
    source, disk = master(), SimDisk()
    opened = slave(disk, source)
    (place,) = opened.store.frames_from(1 << 32 | LONE, 0, limit=1)
    base = max(base for base in opened.store.log.bases if base <= place)
    assert base < opened.store.log.bases[-1]
    disk.kill()
    disk.flip(segment_name(base), place - base + 100)
    lacking = open_disk(disk)
    assert bounds(lacking)[-1] == (0, 0)
    ((start, end),) = lacking.store.damaged
    await refetch(lacking.store, start, end, ask=asking(source), executor=pool)
    if crash:
        disk.kill()
    else:
        lacking.store.forget_indexes()
        lacking.store.close()
    again = open_disk(disk)
    assert (again.store.damaged, bounds(again)) == ([], bounds(source))
    assert again.frames() == source.frames()


async def test_a_segment_whose_index_is_being_written_has_to_wait(pool: ThreadPoolExecutor) -> None:
    source, disk = master(), SimDisk()
    opened = slave(disk, source)
    base, end = opened.store.log.bases[1:3]
    with pytest.raises(Busy):
        await refetch(opened.store, base, end, ask=asking(source), executor=pool)
    opened.seal()
    await refetch(opened.store, base, end, ask=asking(source), executor=pool)
    assert disk.files().size(index_name(base)) is None
    opened.store.mending.run()
    assert bounds(opened) == bounds(source)
    assert disk.files().size(index_name(base)) is not None


async def test_retention_may_take_it_meanwhile(pool: ThreadPoolExecutor) -> None:
    source, disk = master(), SimDisk()
    opened = slave(disk, source)
    opened.seal()
    base, end = opened.store.log.bases[:2]
    ask = asking(source)

    async def drop(start: int, end: int) -> memoryview:
        data = await ask(start, end)
        if start == base:
            opened.snapshot()
        return data

    await refetch(opened.store, base, end, ask=drop, executor=pool)
    opened.store.mending.run()
    opened.store.drop_segment(base)
    opened.store.mended(base, end)
    with pytest.raises((DamagedLog, Busy)):
        await refetch(opened.store, base, end, ask=ask, executor=pool)


def test_earlier_damage_is_not_lost_in_a_later_hole() -> None:
    source, disk = master(), SimDisk()
    opened = slave(disk, source)
    opened.seal()
    first, second, third = opened.store.log.bases[:3]
    disk.kill()
    disk.names.pop(segment_name(second))
    disk.names.pop(index_name(second))
    disk.names.pop(index_name(first))
    disk.flip(segment_name(first), 700)
    damaged = open_disk(disk).store.damaged
    assert damaged[-1] == (second, third)
    assert damaged[0][0] < 700 < damaged[0][1] < second
