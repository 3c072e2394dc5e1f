"""A log copied from one store to another: the very bytes, every frame checked, cut where histories part."""

from __future__ import annotations

from random import Random

import pytest

from kourou.broker.store.commitlog import index_name, segment_name
from kourou.broker.store.copying import append_frames, check_frames, cut_back, has_state_for, read_frames
from kourou.broker.store.fullcopy import Copy
from kourou.broker.store.snapshot import list_offsets, snapshot_name
from kourou.broker.store.standing import MASTER, NAME, NONE, SLAVE, StandingFile
from kourou.core.errors import Busy, DamagedLog, DiskFull
from tests.sim.disk import SimDisk
from tests.sim.store import START_MS, Opened, message, metadata, open_disk


def filled(disk: SimDisk, *, frames: int = 60, seed: int = 1) -> Opened:
    """Several epochs, segments and queues; some frames larger than a segment."""
    opened = open_disk(disk)
    random = Random(seed)
    for number in range(frames):
        if number % 20 == 0:
            opened.store.begin_epoch(opened.store.epoch + 1, store_ms=START_MS)
        if number % 7 == 0:
            opened.append(metadata(b'{"t":"x"}'), client=False)
        opened.append(message(number % 3, number, random.choice((10, 500, 900, 3_000, 6_000)), random.choice((1, 3))))
    return opened


def copy(source: Opened, target: Opened, *, bytes_max: int, until: int | None = None) -> None:
    end = source.store.end_offset if until is None else until
    while (start := target.store.end_offset) < end:
        data = read_frames(source.store, start, end=end, bytes_max=bytes_max, cached_only=False)
        assert data
        view = memoryview(data)
        frames = check_frames(view, start, epoch_min=target.store.epoch, epoch_max=source.store.epoch)
        append_frames(target.store, view, frames)


def content(opened: Opened) -> tuple[object, ...]:
    store = opened.store
    return (
        opened.frames(), store.epochs.entries, store.epoch, store.end_offset,
        [(store.queue_bounds(1 << 32 | queue), opened.queue(1 << 32 | queue)) for queue in range(3)],
    )  # fmt: skip


@pytest.mark.parametrize("bytes_max", [1, 700, 5_000, 1 << 20])
def test_the_copy_is_the_same_to_the_byte(bytes_max: int) -> None:
    source, disk = filled(SimDisk()), SimDisk()
    target = open_disk(disk)
    copy(source, target, bytes_max=bytes_max)
    assert content(target) == content(source)
    assert list(target.store.log.bases) == list(source.store.log.bases)
    target.sync()
    target.store.close()
    assert content(open_disk(disk)) == content(source)


def test_a_copy_goes_on_after_a_kill() -> None:
    source, disk = filled(SimDisk()), SimDisk()
    target = open_disk(disk)
    copy(source, target, bytes_max=2_000, until=source.store.log.bases[3])
    disk.kill()
    again = open_disk(disk)
    copy(source, again, bytes_max=2_000)
    assert content(again) == content(source)


@pytest.mark.parametrize("place", [9, 17, 30, 47, 60, 200])
def test_a_flipped_bit_is_noticed(place: int) -> None:
    source = filled(SimDisk(), frames=3)
    end = source.store.end_offset
    data = bytearray(read_frames(source.store, 0, end=end, bytes_max=1 << 20, cached_only=False) or b"")
    data[place] ^= 4
    with pytest.raises(DamagedLog):
        check_frames(memoryview(data), 0, epoch_min=0, epoch_max=9)


def test_what_does_not_belong_here_is_refused() -> None:
    source = filled(SimDisk(), frames=3)
    data = read_frames(source.store, 0, end=source.store.end_offset, bytes_max=1 << 20, cached_only=False)
    assert data is not None
    for start, low, high in ((8, 0, 9), (0, 2, 9), (0, 0, 0)):
        with pytest.raises(DamagedLog):
            check_frames(memoryview(data), start, epoch_min=low, epoch_max=high)
    with pytest.raises(DamagedLog):
        check_frames(memoryview(data)[:-1], 0, epoch_min=0, epoch_max=9)


def test_damage_at_the_source_is_not_sent() -> None:
    disk = SimDisk()
    source = filled(disk, frames=3)
    with pytest.raises(DamagedLog):
        read_frames(source.store, 5, end=source.store.end_offset, bytes_max=1 << 20, cached_only=False)
    assert segment_name(0)


def test_a_full_disk_leaves_the_log_as_it_was() -> None:
    source, disk = filled(SimDisk()), SimDisk()
    target = open_disk(disk)
    copy(source, target, bytes_max=2_000, until=source.store.log.bases[1])
    before = content(target)
    disk.capacity = disk.used + 100
    with pytest.raises(DiskFull):
        copy(source, target, bytes_max=1 << 20)
    assert content(target) == before
    disk.capacity = 1 << 30
    copy(source, target, bytes_max=1 << 20)
    assert content(target) == content(source)


def test_cutting_back_forgets_later_snapshots_and_epochs() -> None:
    disk = SimDisk()
    opened = filled(disk)
    cut = opened.store.epochs.entries[1][1]
    opened.snapshot()
    cut_back(opened.store, cut)
    opened.store.close()
    again = open_disk(disk)
    assert again.store.end_offset == cut
    assert again.store.epochs.entries == opened.store.epochs.entries[:1]
    assert again.recovered.snapshot_offset == 0
    other = filled(SimDisk(), seed=1)
    copy(other, again, bytes_max=1 << 20)
    assert content(again) == content(other)


def test_cutting_back_mends_an_index_that_it_needs() -> None:
    """Else the process would end for it, and the next one again."""
    disk = SimDisk()
    opened = filled(disk)
    cut = opened.store.epochs.entries[1][1]
    opened.store.close()
    opened = open_disk(disk)
    for base in opened.store.log.bases[:-1]:
        for offset in range(0, len(disk.names[index_name(base)].written), 50):
            disk.flip(index_name(base), offset)
    with pytest.raises(Busy):
        opened.store.truncate(cut)
    cut_back(opened.store, cut)
    opened.store.close()
    again = open_disk(disk)
    assert again.store.end_offset == cut
    other = filled(SimDisk(), seed=1)
    copy(other, again, bytes_max=1 << 20)
    assert content(again) == content(other)


def test_standing_is_remembered() -> None:
    disk = SimDisk().files()
    file = StandingFile(disk)
    assert (file.epoch, file.role) == (0, NONE)
    file.note(epoch=3, confirm=10, promised=5, role=MASTER)
    file.note(epoch=3, confirm=20, promised=5, role=MASTER)
    file.close()
    file = StandingFile(disk)
    assert (file.epoch, file.confirm, file.promised, file.role) == (3, 20, 5, MASTER)
    file.note(epoch=1_000, confirm=20, promised=20, role=SLAVE)
    file.close()
    disk.open(NAME).overwrite(512, b"x" * 20)  # torn: the other slot holds
    file = StandingFile(disk)
    assert (file.epoch, file.role) in ((3, MASTER), (1_000, SLAVE))


def test_is_there_a_state_for_a_log_that_is_cut() -> None:
    disk = SimDisk()
    opened = filled(disk)
    assert has_state_for(opened.store, 0, None)  # of nothing at all
    opened.seal()
    opened.snapshot(b"one")
    place = opened.store.end_offset
    opened.append(message(0, 100, 10))
    opened.snapshot(b"two")
    opened.store.drop_segment(opened.store.log.bases[0])
    after = opened.store.end_offset
    assert [has_state_for(opened.store, at, None) for at in (place - 1, place, after)] == [False, True, True]
    assert has_state_for(opened.store, place, Copy(place, {}))
    assert not has_state_for(opened.store, place - 1, Copy(place, {}))
    disk.flip(snapshot_name(place), 40)
    assert not has_state_for(opened.store, place, None)
    assert sorted(list_offsets(opened.files)) == [place, after]  # nothing was put aside
