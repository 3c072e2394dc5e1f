"""kourou log inspect, verify and rebuild, on good and on damaged directories."""

from __future__ import annotations

import pytest

from kourou.broker.store import inspect
from kourou.broker.store.commitlog import index_name, segment_name
from kourou.broker.store.snapshot import snapshot_name
from kourou.core.errors import Busy
from tests.sim.disk import SimDisk
from tests.sim.store import START_MS, Opened, message, open_disk


def filled(disk: SimDisk) -> Opened:
    opened = open_disk(disk)
    opened.store.begin_epoch(1, store_ms=START_MS)
    for number in range(40):
        opened.append(message(number % 3, number, 300, 1 + number % 4))
    opened.seal()
    opened.snapshot()
    return opened


def test_inspect_lists_every_frame() -> None:
    disk = SimDisk()
    opened = filled(disk)
    found = list(inspect.frames(disk.files()))
    assert [one["log_offset"] for one in found] == [offset for offset, _ in opened.frames()]
    assert (found[0]["kind"], found[0]["epoch"]) == ("epoch", 1)
    assert (found[1]["topic"], found[1]["queue_id"], found[1]["records"], found[1]["producer_id"]) == ("t", 0, 1, 7)
    tail = found[30]["log_offset"]
    assert [one["log_offset"] for one in inspect.frames(disk.files(), start=tail)] == [o["log_offset"] for o in found[30:]]
    assert sum(one["bytes"] for one in inspect.segments(disk.files())) == opened.store.end_offset


def test_good_log_verifies_beside_a_running_broker() -> None:
    disk = SimDisk()
    opened = filled(disk)
    names = dict(disk.names)
    seen: list[tuple[int, int]] = []
    assert list(inspect.verify(disk.files(), progress=lambda done, total: seen.append((done, total)))) == []
    assert seen == sorted(seen)
    assert seen[-1] == (opened.store.end_offset, opened.store.end_offset)
    assert disk.names == names
    assert list(inspect.verify(SimDisk().files())) == []


def test_verify_names_what_is_damaged() -> None:
    disk = SimDisk()
    opened = filled(disk)
    bases = opened.store.log.bases
    frames = opened.frames()
    disk.flip(segment_name(0), frames[5][0] + 99)
    disk.flip(index_name(bases[1]), 150)
    disk.names.pop(index_name(bases[2]))
    disk.flip(snapshot_name(opened.store.snapshot_offset), 200)
    problems = list(inspect.verify(disk.files()))
    assert {problem.file for problem in problems} == {
        segment_name(0), index_name(bases[1]), index_name(bases[2]),
        snapshot_name(opened.store.snapshot_offset),
    }  # fmt: skip
    assert (problems[0].start, problems[0].end) == (frames[5][0], frames[6][0])


def test_every_bit_of_an_index_is_verified() -> None:
    disk = SimDisk()
    filled(disk)
    for at in range(0, len(disk.names[index_name(0)].written), 7):
        disk.flip(index_name(0), at, at % 8)
        assert [problem.file for problem in inspect.verify(disk.files())] == [index_name(0)]
        disk.flip(index_name(0), at, at % 8)


@pytest.mark.parametrize("every", [False, True])
def test_rebuild(every: bool) -> None:
    disk = SimDisk()
    opened = filled(disk)
    bases = list(opened.store.log.bases)
    queues = [opened.queue(1 << 32 | queue) for queue in range(3)]
    with pytest.raises(Busy):
        inspect.rebuild(disk.files())
    disk.kill()
    disk.flip(index_name(bases[1]), 150)
    disk.names.pop(index_name(bases[2]))
    made = inspect.rebuild(disk.files(), every=every)
    assert made == (bases[:-1] if every else bases[1:3])
    assert list(inspect.verify(disk.files())) == []
    again = open_disk(disk)
    assert again.events == []
    assert [again.queue(1 << 32 | queue) for queue in range(3)] == queues


@pytest.mark.parametrize("every", [False, True])
def test_verify_and_rebuild_agree_what_is_sound(every: bool) -> None:
    """A damaged frame is the segment's fault alone, whether its index still knows the frame or not."""
    disk = SimDisk()
    frames = filled(disk).frames()
    disk.kill()
    disk.flip(segment_name(0), frames[5][0] + 99)
    assert [problem.file for problem in inspect.verify(disk.files())] == [segment_name(0)]
    assert bool(inspect.rebuild(disk.files(), every=every)) is every
    assert [problem.file for problem in inspect.verify(disk.files())] == [segment_name(0)]
    assert inspect.rebuild(disk.files()) == []


def test_rows_of_an_index_are_compared_with_the_log() -> None:
    """A valid index of another content is noticed: that of the same segment before it was written anew."""
    disk, other = SimDisk(), SimDisk()
    filled(disk)
    opened = open_disk(other)
    for number in range(40):
        opened.append(message(number % 2, number, 310))
    opened.seal()
    disk.names[index_name(0)] = other.names[index_name(0)]
    assert [problem.file for problem in inspect.verify(disk.files())] == [index_name(0)]
    disk.kill()
    assert inspect.rebuild(disk.files()) == [0]
    assert list(inspect.verify(disk.files())) == []
