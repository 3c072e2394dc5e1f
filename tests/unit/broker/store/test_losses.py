"""A segment or an index is lost or damaged: what is whole stays readable, what is gone is named, and where to go on."""

from __future__ import annotations

import re

import pytest

from kourou.broker.store import inspect
from kourou.broker.store.commitlog import index_name, segment_name
from kourou.core.errors import Busy, DamagedLog, DiskFull
from kourou.core.frame import iterate_frames
from tests.sim.disk import SimDisk
from tests.sim.store import Opened, message, open_disk

KEY = 1 << 32


def filled(disk: SimDisk, frames: int = 60) -> Opened:
    """Three queues by turns, and queue 9 in the third segment alone."""
    opened = open_disk(disk)
    for number in range(frames):
        opened.append(message(number % 3, number, 300))
        if len(opened.store.log.bases) == 3 and not opened.store.queue_bounds(KEY | 9)[1]:
            opened.append(message(9, 1, 10), message(9, 2, 10))
    opened.seal()
    opened.sync()
    return opened


def named(failure: DamagedLog) -> tuple[int, int]:
    """What the error says can't be read: from where, and where to go on."""
    found = re.search(r"records (\d+) to (\d+) .* reset the group to offset (\d+) to leave them out", str(failure))
    assert found is not None, failure
    assert int(found[2]) + 1 == int(found[3])
    return int(found[1]), int(found[3])


def read_all(opened: Opened, queue: int) -> tuple[list[int], list[tuple[int, int]]]:
    """(queue offsets that can be read, ranges that can't), going on where each error says."""
    low, high = opened.store.queue_bounds(KEY | queue)
    found: list[int] = []
    lost: list[tuple[int, int]] = []
    while low < high:
        try:
            plan = opened.store.plan(KEY | queue, low, bytes_max=700, below=opened.store.end_offset)
        except DamagedLog as failure:
            start, end = named(failure)
            lost.append((start, end))
            low = end if start == low else high
            continue
        data = opened.store.read(plan, cached_only=False) or b""
        found += [prefix.queue_offset for _, prefix in iterate_frames(data)]
        assert plan.next_offset > low
        low = plan.next_offset
    return found, lost


@pytest.mark.parametrize("snapshot", [True, False])
@pytest.mark.parametrize("index_too", [True, False])
@pytest.mark.parametrize("lost", [1, 2, 3])
def test_a_missing_segment_takes_nothing_else_along(lost: int, index_too: bool, snapshot: bool) -> None:
    disk = SimDisk()
    opened = filled(disk)
    if snapshot:
        opened.snapshot()
    bases = list(opened.store.log.bases)
    assert len(bases) > 6
    refs = {queue: opened.store.index.refs(KEY | queue, 0, limit=1000) for queue in (0, 1, 2, 9)}
    gone = range(bases[lost], bases[lost + 1])
    disk.kill()
    del disk.names[segment_name(bases[lost])]
    if index_too:
        del disk.names[index_name(bases[lost])]
    for _ in range(2):  # also at the next start
        again = open_disk(disk)
        assert again.events == ["log_damaged"]
        assert again.store.damaged == [(gone.start, gone.stop)]
        for queue in (0, 1, 2):
            kept = [ref.queue_offset for ref in refs[queue] if ref.log_offset not in gone]
            missing = [ref.queue_offset for ref in refs[queue] if ref.log_offset in gone]
            assert read_all(again, queue) == (kept, [(missing[0], missing[-1] + 1)])
        if lost != 2:
            assert read_all(again, 9) == ([0, 1], [])
        else:  # all of this queue; without a snapshot nobody knows that it ever was
            assert read_all(again, 9) == ([], [(0, 2)] if snapshot else [])
        disk.kill()


def test_records_lost_at_the_end_of_a_queue_are_named() -> None:
    """A reader must not wait for ever at a place whose records are gone."""
    disk = SimDisk()
    opened = filled(disk)
    opened.snapshot()
    opened.append(message(9, 3, 10))
    base = opened.store.log.bases[2]
    disk.kill()
    del disk.names[segment_name(base)]
    again = open_disk(disk)
    assert read_all(again, 9) == ([2], [(0, 2)])
    assert again.append(message(9, 4, 10))[0].queue_offset == 3
    assert read_all(again, 9) == ([2, 3], [(0, 2)])


def damage_body(disk: SimDisk, base: int) -> None:
    """Every block of an index's body but its size and head."""
    node = disk.names[index_name(base)]
    node.written[-64:] = bytes(64)
    node.written[-64] ^= 1


def mended(opened: Opened) -> list[int]:
    """Run what is wanted, one by one as the owner does."""
    found = []
    while (job := opened.store.mending.take()) is not None:
        assert opened.store.mending.take() is None, "one at a time"
        job.run()
        opened.store.mending.finish(job)
        found.append(job.base)
    return found


def test_a_damaged_index_is_made_anew_and_the_read_goes_on() -> None:
    disk = SimDisk()
    opened = filled(disk)
    opened.snapshot()
    bases = list(opened.store.log.bases)[:-1]
    whole = {base: bytes(disk.names[index_name(base)].written) for base in bases}
    everything = [read_all(opened, queue) for queue in (0, 1, 2, 9)]
    disk.kill()
    for base in bases:
        damage_body(disk, base)
    again = open_disk(disk)
    assert again.events == []
    with pytest.raises(Busy, match="being made anew"):
        again.store.plan(KEY, 0, bytes_max=100, below=again.store.end_offset)
    assert again.events == ["index_damaged"]
    for _ in range(2 * len(bases)):
        try:
            assert [read_all(again, queue) for queue in (0, 1, 2, 9)] == everything
        except Busy:
            assert mended(again)
        else:
            break
    assert [read_all(again, queue) for queue in (0, 1, 2, 9)] == everything
    assert "index_rebuilt" in again.events
    assert again.store.index.by_key(1, limit=1) == []
    assert {base: len(disk.names[index_name(base)].written) for base in bases} == {base: len(whole[base]) for base in bases}
    again.append(message(0, 999, 10))
    disk.kill()
    assert open_disk(disk).store.end_offset == again.store.end_offset


def damaged_first(disk: SimDisk) -> Opened:
    """The first segment's index is damaged, and somebody has met it."""
    opened = filled(disk)
    opened.snapshot()
    disk.kill()
    damage_body(disk, 0)
    again = open_disk(disk)
    with pytest.raises(Busy):
        read_all(again, 0)
    return again


def test_an_index_that_can_not_be_made_anew_says_what_to_do() -> None:
    disk = SimDisk()
    opened = damaged_first(disk)
    disk.write_limit = 0
    for _ in range(3):  # a full disk passes
        with pytest.raises(DiskFull):
            mended(opened)
        with pytest.raises(Busy):
            read_all(opened, 0)
    disk.write_limit = None
    assert mended(opened) == [0]
    read_all(opened, 0)
    for _ in range(2):  # it goes bad again and again
        damage_body(disk, 0)
        opened.store.index.load_sealed(0)  # and is not in the cache any more
        with pytest.raises(Busy):
            read_all(opened, 0)
        assert mended(opened) == [0]
    damage_body(disk, 0)
    opened.store.index.load_sealed(0)
    with pytest.raises(DamagedLog, match="stop the node and run `kourou log rebuild`"):
        opened.store.plan(KEY, 0, bytes_max=100, below=opened.store.end_offset)
    assert mended(opened) == []
    disk.kill()
    inspect.rebuild(disk.files())
    assert read_all(open_disk(disk), 0)[1] == []


def test_an_index_is_made_anew_while_its_segment_is_cut() -> None:
    disk = SimDisk()
    opened = damaged_first(disk)
    cut = opened.frames()[3][0]
    job = opened.store.mending.take()
    assert job is not None
    job.run()
    opened.store.truncate(cut)
    opened.store.mending.finish(job)
    assert job.cut
    assert index_name(0) not in disk.names
    assert mended(opened) == []
    for number in range(20):
        opened.append(message(0, 100 + number, 400))
    opened.seal()
    frames = opened.frames()
    disk.kill()
    for name in [name for name in disk.names if name.startswith("snapshots/")]:
        del disk.names[name]
    assert open_disk(disk).frames() == frames


def test_an_index_is_made_anew_while_its_segment_is_deleted() -> None:
    disk = SimDisk()
    opened = damaged_first(disk)
    opened.snapshot()
    job = opened.store.mending.take()
    assert job is not None
    job.run()
    opened.store.drop_segment(0)
    job.run()  # it came later
    opened.store.mending.finish(job)
    assert index_name(0) not in disk.names
    assert mended(opened) == []


def test_a_segment_whose_index_is_hopeless_is_deleted_in_its_turn() -> None:
    disk = SimDisk()
    opened = filled(disk)
    opened.snapshot()
    disk.kill()
    healthy = open_disk(disk.fork())
    healthy.store.drop_segment(0)
    damage_body(disk, 0)
    again = open_disk(disk)
    again.store.mending._hopeless[0] = "the disk is bad"
    with pytest.raises(DamagedLog, match="could not be made anew: the disk is bad"):
        again.store.plan(KEY, 0, bytes_max=100, below=again.store.end_offset)
    again.store.drop_segment(0)
    for queue in (0, 1, 2, 9):
        assert again.store.queue_bounds(KEY | queue) == healthy.store.queue_bounds(KEY | queue)
        assert read_all(again, queue) == read_all(healthy, queue)


def test_an_index_that_is_made_anew_at_the_start_finds_an_older_one_damaged() -> None:
    """Its links come from there; opening a directory must not fail over it."""
    disk = SimDisk()
    opened = filled(disk)
    opened.snapshot()
    everything = [read_all(opened, queue) for queue in (0, 1, 2, 9)]
    bases = opened.store.log.bases
    disk.kill()
    damage_body(disk, bases[0])
    damage_body(disk, bases[1])
    del disk.names[index_name(bases[2])]
    again = open_disk(disk)
    assert set(again.events) == {"index_rebuilt"}
    while True:
        try:
            assert [read_all(again, queue) for queue in (0, 1, 2, 9)] == everything
            return
        except Busy:
            assert mended(again)
