"""Buckets of timers on the real and the simulated disk: what is written is read back, damage is named, nothing is half."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from pathlib import Path
from random import Random

import numpy as np
import pytest

from kourou.broker.store.files import Files, OsFiles
from kourou.broker.store.timerfile import TimerFile
from kourou.broker.store.timerformat import BLOCK, ENTRY_DTYPE, HEAD_SIZE, Entries, Entry, bucket_name
from kourou.broker.store.timerwrite import Merge, Source, write_bucket
from kourou.core.errors import DamagedLog, DiskFull, NewerFormat
from tests.sim.disk import SimDisk


@pytest.fixture(params=["os", "sim"])
def files(request: pytest.FixtureRequest, tmp_path: Path) -> Files:
    return OsFiles(tmp_path / "data") if request.param == "os" else SimDisk().files()


def make(count: int, *, seed: int = 1, log_offset: int = 1000) -> tuple[Entries, list[bytes]]:
    random = Random(seed)
    due = sorted(random.randrange(1_000_000) for _ in range(count))
    bodies = [random.randbytes(random.randrange(0, 60)) for _ in range(count)]
    entries = np.zeros(count, ENTRY_DTYPE)
    entries["due"] = due
    entries["log_offset"] = log_offset + np.arange(count) * 100
    entries["record"] = np.arange(count) % 7
    entries["incarnation"] = 1 + np.arange(count) % 2
    entries["size"] = [len(body) for body in bodies]
    entries["crc"] = [zlib.crc32(body) for body in bodies]
    order = np.lexsort((entries["record"], entries["log_offset"], entries["due"]))
    return entries[order], [bodies[at] for at in order.tolist()]


def write(files: Files, number: int, entries: Entries, bodies: list[bytes]) -> Source:
    blocks = (entries[at : at + BLOCK] for at in range(0, len(entries), BLOCK))
    _, checksum = write_bucket(files, number, len(entries), blocks, bodies)
    return Source(number, checksum, 0, b"", (1000, 0), (10**9, 0))


def all_of(file: TimerFile) -> list[tuple[Entry, bytes]]:
    found: list[tuple[Entry, bytes]] = []
    for number in range(file.head.blocks):
        found += [(entry, file.record(entry)) for entry in file.block(number)]
    return found


@pytest.mark.parametrize("count", [1, BLOCK - 1, BLOCK, 2 * BLOCK + 5])
def test_what_is_written_is_read(files: Files, count: int) -> None:
    entries, bodies = make(count)
    source = write(files, 3, entries, bodies)
    file = TimerFile(files, 3, checksum=source.checksum)
    found = all_of(file)
    assert [body for _, body in found] == bodies
    assert [entry.due_ms for entry, _ in found] == entries["due"].tolist()
    assert (file.head.first_due_ms, file.head.last_due_ms) == (found[0][0].due_ms, found[-1][0].due_ms)
    assert files.list("timers") == ["0000000003.tmb"]
    for position in {0, count // 2, count - 1}:
        entry = found[position][0]
        assert file.find(entry.due_ms, entry.log_offset, entry.record) == (position, entry)
    assert file.find(found[0][0].due_ms, 1, 1) is None
    assert file.find(-5, 1, 1) is None


def test_a_topic_is_listed_from_a_time_on(files: Files) -> None:
    entries, bodies = make(2 * BLOCK)
    source = write(files, 1, entries, bodies)
    file = TimerFile(files, 1, checksum=source.checksum)
    bits = bytearray(2 * BLOCK // 8)
    bits[150] = 0xFF
    found = file.of_topic(2, from_ms=500_000, upto_ms=10**15, limit=50, floor=1100, bits=bytes(bits))
    expected = [
        entry
        for position, (entry, _) in enumerate(all_of(file))
        if entry.incarnation == 2 and entry.due_ms >= 500_000 and position >= 1100 and not 1200 <= position < 1208
    ]
    assert found == expected[:50]


def test_merged_buckets_hold_what_is_left_in_order(files: Files) -> None:
    first, second = (write(files, n, *make(1500 * n, seed=n, log_offset=10**6 * n)) for n in (1, 2))
    everything = {n: all_of(TimerFile(files, n, checksum=None)) for n in (1, 2)}
    first.floor, second.bits = 700, b"\x07" + bytes(374)
    moved = everything[2][9][0]
    places = frozenset({(moved.log_offset, moved.record)})
    job = Merge(files, [first, second], number=3, moved=places, deleted=lambda topic: topic == 2)
    job.run()
    assert job.written is not None
    merged = all_of(TimerFile(files, 3, checksum=job.written.checksum))
    left = everything[1][700:] + everything[2][3:9] + everything[2][10:]
    left = [each for each in left if each[0].incarnation == 1]
    left.sort(key=lambda each: (each[0].due_ms, each[0].log_offset, each[0].record))
    assert [(e.due_ms, e.log_offset, body) for e, body in merged] == [(e.due_ms, e.log_offset, body) for e, body in left]
    second_bits = bytearray(second.bits)
    second_bits[100] = 0x55
    late = merged[-1][0]
    gone = job.retired(
        lambda number: (800, b"") if number == 1 else (0, bytes(second_bits)), frozenset({(late.log_offset, late.record)})
    )
    early = [entry for entry, _ in everything[1][:800]] + [everything[2][800 + bit][0] for bit in (0, 2, 4, 6)] + [late]
    assert gone.tolist() == [position for position, (entry, _) in enumerate(merged) if _same(entry, early)]


def _same(entry: Entry, others: list[Entry]) -> bool:
    return (entry.log_offset, entry.record) in {(other.log_offset, other.record) for other in others}


Break = Callable[[bytearray], None]


def flip(at: int) -> Break:
    def change(data: bytearray) -> None:
        data[at] ^= 1

    return change


def cut(data: bytearray) -> None:
    del data[-1:]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (flip(20), "checksum of the head"),
        (flip(0), "not a bucket"),
        (flip(HEAD_SIZE), "fences"),
        (cut, "bytes that it should"),
    ],
)
def test_damage_to_the_head_is_named(files: Files, change: Break, said: str) -> None:
    source = write(files, 1, *make(100))
    data = bytearray(files.read_all(bucket_name(1)) or b"")
    change(data)
    files.write_atomic(bucket_name(1), [data])
    with pytest.raises(DamagedLog, match=said) as raised:
        TimerFile(files, 1, checksum=source.checksum).block(0)
    assert "timers/0000000001.tmb" in str(raised.value)


def test_damage_inside_costs_what_is_damaged(files: Files) -> None:
    entries, bodies = make(BLOCK + 10)
    source = write(files, 1, entries, bodies)
    data = bytearray(files.read_all(bucket_name(1)) or b"")
    file = TimerFile(files, 1, checksum=source.checksum)
    entry = next(entry for entry in file.block(1) if entry.size)
    data[entry.place] ^= 1
    data[file.head.entries_at + 100] ^= 1
    files.write_atomic(bucket_name(1), [data])
    file = TimerFile(files, 1, checksum=source.checksum)
    with pytest.raises(DamagedLog, match=f"entries 0 to {BLOCK - 1}"):
        file.block(0)
    with pytest.raises(DamagedLog, match=f"the message of log offset {entry.log_offset}, record {entry.record}"):
        file.record(entry)
    assert len(file.block(1)) == 10


def test_another_bucket_and_a_newer_format_are_refused(files: Files) -> None:
    source = write(files, 1, *make(10))
    with pytest.raises(DamagedLog, match="another bucket"):
        TimerFile(files, 1, checksum=source.checksum ^ 1)
    with pytest.raises(DamagedLog, match="missing"):
        TimerFile(files, 2, checksum=None)
    data = bytearray(files.read_all(bucket_name(1)) or b"")
    data[8] = 9
    data[HEAD_SIZE - 4 : HEAD_SIZE] = zlib.crc32(data[: HEAD_SIZE - 4]).to_bytes(4, "little")
    files.write_atomic(bucket_name(1), [data])
    with pytest.raises(NewerFormat, match="version 9"):
        TimerFile(files, 1, checksum=None)


def test_a_full_disk_leaves_nothing_behind() -> None:
    disk = SimDisk()
    entries, bodies = make(500)
    for limit in (0, 100, 40_000):
        disk.write_limit = limit
        with pytest.raises(DiskFull):
            write(disk.files(), 1, entries, bodies)
        assert disk.files().list("timers") == []
    disk.write_limit = None
    write(disk.files(), 1, entries, bodies)
    assert disk.files().list("timers") == ["0000000001.tmb"]
