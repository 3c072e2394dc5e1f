"""Opening after every kind of end: what was synced is there, what is there is a prefix, and damage is named."""

from __future__ import annotations

import itertools
import zlib
from random import Random

import pytest

from kourou.broker.store.columns import check_columns
from kourou.broker.store.commitlog import index_name, segment_name
from kourou.broker.store.confirm import NAME as CONFIRM
from kourou.broker.store.confirm import Confirm
from kourou.broker.store.epochs import NAME as EPOCHS
from kourou.broker.store.identity import Identity, claim
from kourou.broker.store.snapshot import offsets, snapshot_name
from kourou.core.errors import AlreadyExists, DamagedLog, NewerFormat
from kourou.core.frame import PREFIX_SIZE, iterate_frames, parse_sealed, seal
from tests.sim.disk import SimDisk
from tests.sim.store import START_MS, Opened, message, metadata, open_disk

KEY = 1 << 32


def filled(disk: SimDisk, frames: int, *, size: int = 300, start: int = 0) -> Opened:
    opened = open_disk(disk)
    for number in range(start, start + frames):
        opened.append(message(number % 3, number, size))
    return opened


def test_killed_and_opened_again() -> None:
    disk = SimDisk()
    opened = filled(disk, 50)
    opened.append(metadata(b'{"a":1}'), client=False)
    kept = opened.frames()
    disk.kill()
    again = open_disk(disk)
    assert again.frames() == again.replayed == kept
    assert again.recovered.bytes_cut == 0
    assert {again.store.queue_bounds(KEY | queue)[1] for queue in range(3)} == {16, 17}
    assert set(again.events) == {"index_rebuilt"}
    disk.kill()
    assert open_disk(disk).events == []  # what was rebuilt stays


def test_snapshot_spares_the_scan() -> None:
    disk = SimDisk()
    opened = filled(disk, 50)
    opened.seal()
    opened.snapshot(b"fifty")
    opened.append(message(0, 100, 10))
    opened.store.close()
    again = open_disk(disk)
    assert again.state == b"fifty"
    assert len(again.replayed) == 1
    assert again.queue(KEY) == opened_queue(50) + again.store.read_frame(again.replayed[0][0])


def opened_queue(frames: int) -> bytes:
    return filled(SimDisk(), frames).queue(KEY)


def test_torn_at_every_byte_of_the_last_frame() -> None:
    disk = SimDisk()
    opened = filled(disk, 5, size=40)
    *kept, (last, sealed) = opened.frames()
    disk.kill()
    for size in range(last + 1, last + PREFIX_SIZE + len(sealed)):
        fate = disk.fork()
        node = fate.names[segment_name(0)]
        del node.written[size:]
        again = open_disk(fate)
        assert again.frames() == again.replayed == kept
        assert again.notices[0][0] == "torn_tail_cut"
        assert again.notices[0][1]["log_offset"] == last
        assert again.notices[0][1]["bytes"] == again.recovered.bytes_cut == size - last
        (placed,) = again.append(message(0, 77, 10))
        assert placed.log_offset == last


def test_garbage_at_every_byte_of_the_last_frame() -> None:
    """As after a power cut: the size is there, the last bytes are zeros or noise. Also within versions and sizes."""
    disk = SimDisk()
    opened = filled(disk, 3, size=20)
    *kept, (last, sealed) = opened.frames()
    disk.kill()
    end = last + PREFIX_SIZE + len(sealed)
    for at in range(last, end):
        for noise in (bytes(end - at), b"\xff" * (end - at)):
            fate = disk.fork()
            node = fate.names[segment_name(0)]
            if node.written[at:] == noise:
                continue
            node.written[at:] = noise
            again = open_disk(fate)
            assert again.frames() == kept
            assert again.recovered.bytes_cut == end - last


def test_every_flipped_bit_in_the_tail() -> None:
    disk = SimDisk()
    opened = filled(disk, 2, size=4)
    kept, (last, sealed) = opened.frames()
    disk.kill()
    for bit in range(8 * (PREFIX_SIZE + len(sealed))):
        fate = disk.fork()
        fate.flip(segment_name(0), last + bit // 8, bit % 8)
        assert open_disk(fate).frames() == [kept]


@pytest.mark.parametrize("mode", ["open segment", "sealed, index lost", "below the snapshot's end"])
def test_damage_in_the_middle_is_named_and_never_cut(mode: str) -> None:
    disk = SimDisk()
    opened = filled(disk, 9 if mode == "open segment" else 30)
    opened.seal()
    opened.sync()
    if mode == "below the snapshot's end":
        opened.snapshot()
    frames = opened.frames()
    end = opened.store.end_offset
    disk.kill()
    broken, following = frames[3][0], frames[4][0]
    disk.flip(segment_name(0), broken + 100)
    if mode != "open segment":
        disk.names.pop(index_name(0))
    again = open_disk(disk)
    assert again.store.end_offset == end
    assert again.store.damaged == [(broken, following)]
    assert ("log_damaged", broken, following) in {(e, f.get("from"), f.get("to")) for e, f in again.notices}
    assert again.recovered.bytes_cut == 0
    with pytest.raises(DamagedLog, match=f"log offset {broken}"):
        again.store.read_frame(broken)
    plan = again.store.plan(KEY, 0, bytes_max=1 << 20, below=end)  # frame 3 is the second of queue 0
    assert plan.next_offset == 1
    with pytest.raises(DamagedLog, match=r"1 to 1 of queue 0 of topic t .* log offset \d+; reset the group to offset 2"):
        again.store.plan(KEY, 1, bytes_max=1 << 20, below=end, topic="t")
    assert again.store.plan(KEY, 2, bytes_max=1 << 20, below=end).size
    (placed,) = again.append(message(0, 500, 10))
    assert placed.log_offset == end


def test_damaged_runs_and_false_starts() -> None:
    """Several damaged places; the magic of a frame inside another's records is not taken for a frame."""
    disk = SimDisk()
    opened = open_disk(disk)
    decoy = message(0, 1, 100)
    inner = opened.append(decoy)[0]
    inside = opened.store.read_frame(inner.log_offset)
    frame = message(1, 2, 100)
    opened.append(frame)
    sealed = seal(topic="t", queue_id=1, records=[inside * 3], born_ms=0)
    frame.sealed, frame.header, frame.crc = sealed, parse_sealed(sealed), int.from_bytes(sealed[-4:], "little")
    frame.facts = check_columns(sealed, 0, frame.header)
    opened.append(frame)
    opened.append(message(2, 3, 100))
    opened.append(message(2, 4, 100))
    opened.append(message(2, 5, 100))
    opened.sync()
    offsets = [offset for offset, _ in opened.frames()]
    disk.kill()
    disk.flip(segment_name(0), offsets[2] + PREFIX_SIZE + 70)
    disk.flip(segment_name(0), offsets[4])
    again = open_disk(disk)
    assert again.store.damaged == [(offsets[2], offsets[3]), (offsets[4], offsets[5])]
    assert [offset for offset, _ in again.replayed] == [offsets[0], offsets[1], offsets[3], offsets[5]]


def test_damage_at_the_end_of_what_was_durable_is_not_cut() -> None:
    disk = SimDisk()
    opened = filled(disk, 5)
    opened.sync()
    *_, (last, _) = opened.frames()
    end = opened.store.end_offset
    disk.kill()
    disk.flip(segment_name(0), last + 60)
    again = open_disk(disk)
    assert again.store.damaged == [(last, end)]
    assert again.append(message(0, 9, 10))[0].log_offset == end


def test_torn_confirm_slot_leaves_the_other() -> None:
    disk = SimDisk()
    confirm = Confirm(disk.files())
    for offset in (100, 200, 300):
        confirm.note(offset)
    for at in range(512, 532):  # serial 3 is in slot 1
        fate = disk.fork()
        fate.flip(CONFIRM, at, at % 8)
        assert Confirm(fate.files()).offset == 200
    confirm.lower(50)
    assert Confirm(disk.files()).offset == 50
    disk.write_limit = 0
    confirm.note(60)  # in place: needs no room
    assert Confirm(disk.files()).offset == 60


def test_what_kill_left_is_durable_before_it_is_served() -> None:
    disk = SimDisk()
    opened = filled(disk, 30)
    frames = opened.frames()
    disk.kill()
    assert open_disk(disk).store.synced_offset == opened.store.end_offset
    disk.power_loss(Random(1))
    assert open_disk(disk).frames() == frames


@pytest.mark.parametrize("seed", range(60))
def test_power_loss(seed: int) -> None:
    """Random appends, syncs, seals, snapshots, cuts, deletions and restarts, then the plug: the log is a prefix of what
    was written, nothing that was synced is missing, indexes agree, and it goes on from there. Several times in a row."""
    random = Random(seed)
    disk = SimDisk()
    written: dict[int, bytes] = {}
    sequence = 0
    for _ in range(5):
        opened = open_disk(disk)
        check_log(opened, written)
        opened.store.begin_epoch(opened.store.epoch + 1, store_ms=START_MS)
        written = dict(opened.frames())
        for _ in range(random.randrange(40)):
            action = random.random()
            if action < 0.7:
                frames = []
                for _ in range(random.randrange(1, 6)):
                    sequence += 1
                    frames.append(message(random.randrange(3), sequence, random.choice((10, 300, 1500, 5000))))
                placed = opened.append(*frames)
                written |= {one.log_offset: bytes(sent.sealed) for one, sent in zip(placed, frames, strict=True)}
            elif action < 0.84:
                opened.sync()
            elif action < 0.91:
                opened.seal()
            elif action < 0.96:
                opened.snapshot()
            elif action < 0.98:
                snapshots = offsets(opened.files)
                if len(snapshots) == 2:
                    for base in opened.store.droppable(floor=snapshots[1])[:2]:
                        opened.store.drop_segment(base)
            else:
                cut = random.choice([*written, opened.store.end_offset])
                opened.store.truncate(max(cut, opened.store.snapshot_offset))
                written = {offset: sealed for offset, sealed in written.items() if offset < opened.store.end_offset}
        synced, end = opened.store.synced_offset, opened.store.end_offset
        if random.random() < 0.3:
            disk.kill()
            assert open_disk(disk.fork()).store.end_offset == end
        else:
            disk.power_loss(random)
        fate = open_disk(disk.fork())
        assert fate.store.end_offset >= synced
        check_log(fate, written)


def check_log(opened: Opened, written: dict[int, bytes]) -> None:
    """What is there was written, without gaps; and so says every index."""
    assert not opened.store.damaged
    assert "log_damaged" not in opened.events
    start, end = opened.store.min_offset, opened.store.end_offset
    assert dict(opened.frames()) == {offset: sealed for offset, sealed in written.items() if start <= offset < end}
    for queue in range(3):
        low, high = opened.store.queue_bounds(KEY | queue)
        data = opened.queue(KEY | queue)
        for at, prefix in iterate_frames(data):
            assert prefix.queue_offset == low
            low += 1
            assert data[at : at + prefix.size] == opened.store.read_frame(prefix.log_offset)
        assert low == high


def test_hole_that_was_not_durable_is_cut() -> None:
    """A closed segment lost its end in a power cut, the next one was kept."""
    disk = SimDisk()
    opened = filled(disk, 30)
    frames = opened.frames()
    bases = list(opened.store.log.bases)
    disk.kill()
    node = disk.names[segment_name(bases[1])]
    del node.written[700:]
    again = open_disk(disk)
    assert again.frames() == [one for one in frames if one[0] + PREFIX_SIZE + len(one[1]) <= bases[1] + 700]
    assert list(again.store.log.bases) == bases[:2]
    again.append(message(0, 99, 2000), message(0, 98, 2000))
    again.seal()
    frames = again.frames()
    disk.kill()
    assert open_disk(disk).frames() == frames


def test_hole_that_was_durable_is_named() -> None:
    disk = SimDisk()
    opened = filled(disk, 30)
    opened.seal()
    opened.sync()
    bases = list(opened.store.log.bases)
    disk.kill()
    del disk.names[segment_name(bases[1])].written[700:]
    again = open_disk(disk)
    assert again.store.damaged[-1][1] == bases[2]
    assert again.store.end_offset == opened.store.end_offset
    with pytest.raises(DamagedLog):
        again.queue(KEY)


def test_overlapping_segments_are_refused() -> None:
    disk = SimDisk()
    filled(disk, 30)
    disk.kill()
    disk.names[segment_name(0)].write(len(disk.names[segment_name(0)].written), b"more")
    with pytest.raises(DamagedLog, match="overlap"):
        open_disk(disk)


def test_missing_and_damaged_indexes_are_rebuilt() -> None:
    disk = SimDisk()
    opened = filled(disk, 40)
    opened.seal()
    data = opened.queue(KEY | 1)
    bases = opened.store.log.bases
    disk.kill()
    disk.names.pop(index_name(bases[0]))
    disk.flip(index_name(bases[1]), 20)
    again = open_disk(disk)
    assert again.events == ["index_rebuilt", "index_rebuilt"]
    assert again.queue(KEY | 1) == data
    disk.kill()
    assert open_disk(disk).events == []


def test_left_overs_are_swept() -> None:
    disk = SimDisk()
    opened = filled(disk, 3)
    frames = opened.frames()
    disk.kill()
    files = disk.files()
    for name in ("log/00000000000000000000.idx", "log/00000000000000999999.idx", "log/x.tmp", "snapshots/y.tmp"):
        files.open(name)
    again = open_disk(disk)
    assert again.frames() == frames
    assert files.list("log") == ["00000000000000000000.seg"]
    assert files.list("snapshots") == []


def test_files_of_other_names_are_ignored_by_name() -> None:
    disk = SimDisk()
    opened = filled(disk, 30)
    opened.seal()
    opened.snapshot()
    opened.append(message(0, 99, 10))
    frames = opened.frames()
    disk.kill()
    files = disk.files()
    strays = ["0000.seg", "7.idx", "99999999999999999999.seg", "foo", "\u0660" * 20 + ".seg"]
    for name in strays:
        files.open(f"log/{name}")
    files.open("snapshots/5.snap")
    again = open_disk(disk)
    assert again.frames() == frames
    assert again.events == ["file_ignored"] * len(strays)
    assert {str(fields["name"]) for _, fields in again.notices} == {f"log/{name}" for name in strays}
    assert {f"log/{name}" for name in strays} < set(disk.names), "not ours to delete"


def test_damaged_snapshot_falls_back_to_the_older() -> None:
    disk = SimDisk()
    opened = filled(disk, 10)
    opened.snapshot(b"ten")
    opened.append(message(0, 50, 10))
    opened.snapshot(b"eleven")
    newest = snapshot_name(opened.store.snapshot_offset)
    frames = opened.frames()
    disk.kill()
    for at in range(0, len(disk.names[newest].written), 13):
        fate = disk.fork()
        fate.flip(newest, at, 1)
        again = open_disk(fate)
        assert (again.state, again.frames(), len(again.replayed)) == (b"ten", frames, 1)
        assert "snapshot_skipped" in again.events
        fate.kill()
        assert "snapshot_skipped" not in open_disk(fate).events  # put aside, so that two good ones are kept


def test_a_snapshot_at_the_end_of_a_segment_keeps_that_segment() -> None:
    """The segment is the open one in the snapshot, although it is closed by now and all of it lies below."""
    disk = SimDisk()
    opened = open_disk(disk)
    for number in range(3):
        opened.append(message(0, number, 1200))  # three fit into a segment
    opened.snapshot(b"all")
    opened.append(message(0, 3, 1200))
    opened.seal()
    opened.sync()
    assert opened.store.snapshot_offset == opened.store.log.bases[1]
    for base in opened.store.droppable(floor=opened.store.snapshot_offset):
        opened.store.drop_segment(base)
    kept = opened.frames()
    disk.kill()
    assert open_disk(disk).frames() == kept


def test_log_without_its_beginning_needs_a_snapshot() -> None:
    disk = SimDisk()
    opened = filled(disk, 30)
    opened.seal()
    opened.snapshot(b"all")
    for base in opened.store.droppable(floor=opened.store.snapshot_offset)[:2]:
        opened.store.drop_segment(base)
    kept = opened.frames()
    bounds = opened.store.queue_bounds(KEY)
    disk.kill()
    again = open_disk(disk.fork())
    assert (again.frames(), again.state, again.store.queue_bounds(KEY)) == (kept, b"all", bounds)
    disk.files().remove(snapshot_name(opened.store.snapshot_offset))
    with pytest.raises(DamagedLog, match="no whole snapshot"):
        open_disk(disk)


def test_snapshot_ahead_of_the_log_is_passed_over() -> None:
    disk = SimDisk()
    opened = filled(disk, 3)
    opened.snapshot(b"three")
    disk.kill()
    node = disk.names[segment_name(0)]
    del node.written[400:]
    again = open_disk(disk)
    assert again.state == b""
    assert {"snapshot_skipped", "durable_bytes_missing"} <= set(again.events)
    again.append(message(0, 8, 10))
    disk.kill()
    assert open_disk(disk).store.end_offset == again.store.end_offset


def test_snapshot_ahead_of_the_log_never_comes_back() -> None:
    """The log is moved away; the new one grows past the old snapshots, which must not be taken for its own."""
    disk = SimDisk()
    opened = filled(disk, 10)
    opened.snapshot(b"old")
    opened.append(message(0, 50, 10))
    opened.snapshot(b"older log")
    stale = offsets(opened.files)
    disk.kill()
    for name in [name for name in disk.names if name.startswith("log/")]:
        disk.names.pop(name)
    again = open_disk(disk)
    assert again.events.count("snapshot_skipped") == 2
    assert offsets(again.files) == []
    assert again.files.list("snapshots") == [f"{offset:020d}.snap.ahead" for offset in sorted(stale)]
    for number in range(30):
        again.append(message(1, number, 900))
    again.snapshot(b"new")
    assert again.store.end_offset > max(stale)
    end = again.store.end_offset
    disk.kill()
    for state in (b"new", b""):
        last = open_disk(disk)
        assert (last.state, last.store.end_offset, last.store.damaged, len(last.frames())) == (state, end, [], 30)
        assert "snapshot_skipped" not in last.events
        disk.names.pop(snapshot_name(end), None)  # the second time without a snapshot of its own
        disk.kill()


def test_epochs() -> None:
    disk = SimDisk()
    opened = open_disk(disk)
    places = []
    for epoch in (1, 2, 5):
        places.append((epoch, opened.store.end_offset))
        opened.store.begin_epoch(epoch, store_ms=START_MS)
        opened.append(message(0, epoch, 2000))
    opened.seal()
    opened.snapshot()
    disk.kill()
    again = open_disk(disk)
    assert (again.store.epoch, again.store.epochs.entries) == (5, places)
    assert [again.store.epochs.at(place) for _, place in places] == [1, 2, 5]
    assert again.store.epochs.at(places[1][1] - 1) == 1
    disk.kill()
    disk.flip(EPOCHS, 20)
    rebuilt = open_disk(disk)
    assert (rebuilt.store.epoch, rebuilt.store.epochs.entries) == (5, places)
    assert rebuilt.events == ["epochs_rebuilt"]
    rebuilt.store.truncate(places[2][1])
    disk.kill()
    assert open_disk(disk).store.epoch == 2


def test_epochs_found_in_the_log_are_noted() -> None:
    """Killed before the file had the last epoch: the opening that meets its frame writes it down, for the one after it
    may begin behind that frame."""
    disk = SimDisk()
    opened = open_disk(disk)
    opened.store.begin_epoch(1, store_ms=START_MS)
    opened.append(message(0, 1, 300))
    before = bytes(disk.names[EPOCHS].written)
    opened.store.begin_epoch(2, store_ms=START_MS)
    places = list(opened.store.epochs.entries)
    disk.kill()
    disk.names[EPOCHS].written[:] = before
    again = open_disk(disk)
    assert again.store.epochs.entries == places
    again.append(message(0, 2, 300))
    again.snapshot()
    again.append(message(0, 3, 300))
    disk.kill()
    assert open_disk(disk).store.epochs.entries == places


def test_epochs_of_a_deleted_part_of_the_log() -> None:
    """The file is gone, and so are the segments in which the epochs began: a snapshot knows where that was."""
    disk = SimDisk()
    opened = open_disk(disk)
    for number in range(40):
        if number in (0, 3):
            opened.store.begin_epoch(number + 1, store_ms=START_MS)
        opened.append(message(0, number, 900))
        opened.append(metadata(b'{"a":1}'), client=False)
    opened.seal()
    opened.snapshot()
    for base in opened.store.droppable(floor=20_000):
        opened.store.drop_segment(base)
    places = list(opened.store.epochs.entries)
    assert opened.store.min_offset > places[-1][1]
    disk.kill()
    disk.delete(EPOCHS)
    again = open_disk(disk)
    assert again.store.epochs.entries == places
    assert again.events == ["epochs_rebuilt"]
    disk.kill()
    disk.delete(EPOCHS)
    for pair in itertools.combinations(again.store.log.bases[:4], 2):  # and so are indexes on the way to them
        for base in pair:
            disk.flip(index_name(base), 200)
        third = open_disk(disk)
        assert third.store.epochs.entries == places
        assert sorted(third.events) == ["epochs_rebuilt", *["index_damaged"] * 2, *["index_rebuilt"] * 2]
        disk.kill()
        disk.delete(EPOCHS)


def test_epochs_above_a_cut_are_forgotten() -> None:
    """The file has an epoch whose frame was lost: it must not come back when the log has grown past its place."""
    disk = SimDisk()
    opened = open_disk(disk)
    opened.store.begin_epoch(1, store_ms=START_MS)
    opened.append(message(0, 1, 300))
    opened.sync()
    places = list(opened.store.epochs.entries)
    end = opened.store.end_offset
    opened.store.begin_epoch(2, store_ms=START_MS)
    disk.kill()
    del disk.names[segment_name(0)].written[end:]
    again = open_disk(disk)
    assert (again.store.end_offset, again.store.epochs.entries) == (end, places)
    again.append(message(0, 2, 2000))
    disk.kill()
    assert open_disk(disk).store.epochs.entries == places


def test_frame_of_a_newer_version_is_refused() -> None:
    """A frame that is whole but of a later version is not damage: nothing is cut."""
    disk = SimDisk()
    opened = filled(disk, 3)
    (_, (second, sealed), _) = opened.frames()
    disk.kill()
    node = disk.names[segment_name(0)]
    node.written[second + 40] = 2
    crc = zlib.crc32(bytes(node.written[second : second + 44]), int.from_bytes(sealed[-4:], "little"))
    node.written[second + 44 : second + 48] = crc.to_bytes(4, "little")
    before = bytes(node.written)
    with pytest.raises(NewerFormat, match="version 2"):
        open_disk(disk)
    assert bytes(node.written) == before


def test_newer_snapshots_and_epochs_are_refused() -> None:
    disk = SimDisk()
    opened = filled(disk, 3)
    opened.snapshot()
    name = snapshot_name(opened.store.snapshot_offset)
    disk.kill()
    disk.names[name].written[8] = 9
    with pytest.raises(NewerFormat, match="version 9"):
        open_disk(disk)


def test_identity() -> None:
    disk = SimDisk()
    files = disk.files()
    mine = Identity("c", "b", 0, "uuid")
    assert claim(files, mine) == mine
    assert claim(files, Identity("c", "b", 0, "another")) == mine
    for other in (Identity("x", "b", 0, ""), Identity("c", "x", 0, ""), Identity("c", "b", 1, "")):
        with pytest.raises(AlreadyExists, match="belongs to"):
            claim(files, other)
    data = files.read_all("identity.json") or b""
    files.write_atomic("identity.json", [data.replace(b'"format": 1', b'"format": 2')])
    with pytest.raises(NewerFormat, match="format 2"):
        claim(files, mine)
    files.write_atomic("identity.json", [b"{}"])
    with pytest.raises(DamagedLog):
        claim(files, mine)
    files.remove("identity.json")
    files.open("log/00000000000000000000.seg")
    with pytest.raises(DamagedLog, match="missing beside a log"):
        claim(files, mine)
