"""A directory that begins with another member's snapshot: gone on from after a crash anywhere, complete in the end."""

from __future__ import annotations

from random import Random

import pytest

from kourou.broker.store import fullcopy, snapshot
from kourou.broker.store.copying import append_frames, check_frames, read_frames
from kourou.broker.store.recovery import INDEX_PART, open_store
from kourou.broker.store.store import Store
from kourou.core.errors import DamagedLog
from kourou.core.frame import Prefix, SealedHeader
from tests.sim.disk import SimDisk
from tests.sim.store import SMALL, START_MS, Opened, message, open_disk

QUIET, LATE = 7, 8


def master() -> tuple[Opened, bytes]:
    """A log of three epochs whose first segments are deleted, and its snapshot in the middle of what is left. Of two queues
    all frames were deleted, and one of them goes on behind the snapshot."""
    opened = open_disk(SimDisk())
    random = Random(1)
    for number in range(60):
        if number % 20 == 0:
            opened.store.begin_epoch(opened.store.epoch + 1, store_ms=START_MS)
        opened.append(message(number % 3, number, random.choice((10, 500, 900))))
        if number < 3:
            opened.append(message(QUIET, 100 + number, 10))
        if number < 2 or number > 50:
            opened.append(message(LATE, 200 + number, 10))
        if number == 45:
            opened.snapshot(b"state at 45")
    opened.seal()
    opened.sync()
    store = opened.store
    for base in list(store.log.bases[:4]):
        store.drop_segment(base)
    data = opened.files.read_all(snapshot.snapshot_name(snapshot.list_offsets(opened.files)[0]))
    assert data is not None
    return opened, data


def opened_copy(disk: SimDisk) -> tuple[Store, fullcopy.Copy | None, list[bytes], list[int]]:
    files = disk.files()
    files.lock()
    states: list[bytes] = []
    applied: list[int] = []

    def apply(prefix: Prefix, header: SealedHeader, sealed: memoryview) -> None:
        applied.append(prefix.log_offset)

    copied = fullcopy.load(files)
    recovered = open_store(
        files, SMALL, restore=lambda parts: states.append(parts["state"]), apply=apply,
        notice=lambda event, fields: None, copied=copied,
    )  # fmt: skip
    return recovered.store, copied, states, applied


def begin(disk: SimDisk) -> tuple[Opened, int]:
    source, data = master()
    target = open_disk(disk)
    target.append(message(0, 1, 100))
    target.snapshot(b"old")
    start = source.store.min_offset
    fullcopy.erase(target.files)
    history = [pair for pair in source.store.epochs.entries if pair[1] < start]
    fullcopy.begin(target.files, start=start, history=history, data=data, epoch=3)
    target.store.close()
    return source, snapshot.decode(data, "it")[0]


def follow(source: Opened, store: Store, until: int) -> None:
    while store.end_offset < until:
        start = store.end_offset
        data = read_frames(source.store, start, end=until, bytes_max=3_000, cached_only=False)
        assert data
        view = memoryview(data)
        append_frames(store, view, check_frames(view, start, epoch_min=0, epoch_max=99))


@pytest.mark.parametrize("reach", [0.0, 0.3, 1.0])
def test_a_copy_goes_on_after_a_kill(reach: float) -> None:
    disk = SimDisk()
    source, offset = begin(disk)
    store, copied, states, applied = opened_copy(disk)
    start, end = source.store.min_offset, source.store.end_offset
    assert copied is not None
    assert copied.offset == offset
    assert (store.min_offset, store.end_offset) == (start, start)
    assert store.epochs.entries == [pair for pair in source.store.epochs.entries if pair[1] < start]
    assert (states, applied) == ([b"state at 45"], [])
    follow(
        source, store, next(at for at in source.store.log.frames(start, end) if at >= start + reach * (end - start) * 0.9)
    )
    disk.kill()
    store, copied, states, applied = opened_copy(disk)
    assert states == [b"state at 45"]
    assert all(at >= offset for at in applied)
    follow(source, store, end)
    assert store.epochs.entries == source.store.epochs.entries
    for queue in (*range(3), QUIET, LATE):
        assert store.queue_bounds(1 << 32 | queue) == source.store.queue_bounds(1 << 32 | queue)


def test_a_queue_of_which_nothing_was_copied_goes_on_where_it_was() -> None:
    """Else the next master gives its offsets out again, and consumers, which are past them, never see those messages."""
    disk = SimDisk()
    source, offset = begin(disk)
    store, _, _, _ = opened_copy(disk)
    follow(source, store, offset)
    for _ in range(2):
        assert store.queue_bounds(1 << 32 | QUIET) == (3, 3)
        assert store.queue_bounds(1 << 32 | LATE) == (2, 2)
        store.note_synced(store.sync())
        disk.kill()
        store, _, _, _ = opened_copy(disk)
    with pytest.raises(DamagedLog, match="goes back"):
        store.index.add(1 << 32 | QUIET, 0, store.end_offset, 100, 1, 0, START_MS, 0, 0, None)


def test_it_is_complete_with_a_snapshot_of_its_own() -> None:
    disk = SimDisk()
    source, _ = begin(disk)
    store, _, _, _ = opened_copy(disk)
    follow(source, store, source.store.end_offset)
    store.note_synced(store.sync())
    parts = {INDEX_PART: store.index.export_open(), "state": [b"of its own"]}
    snapshot.write(store.files, store.end_offset, snapshot.encode(store.end_offset, parts))
    disk.kill()
    store, copied, states, _ = opened_copy(disk)
    assert copied is not None  # the marker was not taken away yet: its own snapshot counts
    assert states == [b"of its own"]
    fullcopy.end(store.files)
    disk.kill()
    _, copied, states, _ = opened_copy(disk)
    assert copied is None
    assert states == [b"of its own"]


def test_what_is_erased_does_not_come_back() -> None:
    disk = SimDisk()
    opened = open_disk(disk)
    opened.append(message(0, 1, 100))
    opened.snapshot(b"old")
    opened.store.close()
    files = disk.files()
    files.write_atomic(fullcopy.NAME, [b'{"erased":true}'])  # killed right behind that
    store, copied, states, applied = opened_copy(disk)
    assert copied is None
    assert (store.end_offset, states, applied) == (0, [], [])
    assert files.read_all(fullcopy.NAME) is None


def test_a_snapshot_older_than_the_log_is_refused() -> None:
    _, data = master()
    files = SimDisk().files()
    with pytest.raises(DamagedLog):
        fullcopy.begin(files, start=1 << 30, history=[], data=data, epoch=3)
