"""LogIndex against a list of frames, through rolls, seals, drops, truncations, reopening and rebuilding."""

from __future__ import annotations

import subprocess
import sys
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kourou.broker.store.logindex import LogIndex, index_name
from kourou.broker.store.openindex import NO_TIME
from kourou.core.errors import DamagedLog, NewerFormat

KEYS = [1 << 32 | queue for queue in range(5)] + [7 << 32 | 3]


class Directory:
    """A reader over bytes in memory."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.bytes_read = 0

    def read(self, name: str, offset: int, size: int) -> bytes:
        if name not in self.files:
            raise FileNotFoundError(name)
        data = self.files[name][offset : offset + size]
        self.bytes_read += len(data)
        return data


@dataclass
class Frame:
    key: int
    queue_offset: int
    log_offset: int
    size: int
    count: int
    tag_mask: int
    store_ms: int
    producer_id: int
    sequence: int
    hashes: list[int]
    effective_ms: int = 0

    def add_to(self, add: Callable[..., None]) -> None:
        add(
            self.key, self.queue_offset, self.log_offset, self.size, self.count, self.tag_mask, self.store_ms,
            self.producer_id, self.sequence, np.array(self.hashes, np.uint32) if self.hashes else None,
        )  # fmt: skip


@dataclass
class Model:
    """The truth: every frame that is there, in order."""

    frames: list[Frame] = field(default_factory=list)
    bases: list[int] = field(default_factory=lambda: [0])  # segments that are there; the last is open
    end: int = 0
    next: dict[int, int] = field(default_factory=dict)
    first: dict[int, int] = field(default_factory=dict)
    latest: dict[int, int] = field(default_factory=dict)

    def add(self, frame: Frame) -> None:
        frame.effective_ms = max(frame.store_ms, self.latest.get(frame.key, NO_TIME))
        self.latest[frame.key] = frame.effective_ms
        self.first.setdefault(frame.key, frame.queue_offset)
        self.next[frame.key] = frame.queue_offset + frame.count
        self.frames.append(frame)
        self.end = frame.log_offset + frame.size

    def drop(self) -> None:
        base = self.bases.pop(0)
        gone = [frame for frame in self.frames if base <= frame.log_offset < self.bases[0]]
        for frame in gone:
            self.first[frame.key] = frame.queue_offset + frame.count
        del self.frames[: len(gone)]

    def truncate(self, log_offset: int) -> None:
        cut = [frame for frame in self.frames if frame.log_offset >= log_offset]
        self.frames = [frame for frame in self.frames if frame.log_offset < log_offset]
        for frame in reversed(cut):
            self.next[frame.key] = frame.queue_offset
        for key in {frame.key for frame in cut}:
            left = [frame.effective_ms for frame in self.frames if frame.key == key]
            self.latest[key] = left[-1] if left else NO_TIME
        below = [base for base in self.bases if base <= log_offset]
        keep = [base for base in below if base < log_offset]
        self.bases = keep or [log_offset]
        if log_offset in below and log_offset not in self.bases:
            self.bases.append(log_offset)
        self.end = self.frames[-1].log_offset + self.frames[-1].size if self.frames else log_offset

    def of(self, key: int) -> list[Frame]:
        return [frame for frame in self.frames if frame.key == key]


class Run:
    """An index and its model, driven by one random; a failure prints the steps."""

    def __init__(self, random: Random) -> None:
        self.random = random
        self.directory = Directory()
        self.index = self.new_index()
        self.model = Model()
        self.saved: bytes | None = None
        self.saved_base = self.saved_end = 0
        self.now_ms = 1000
        # Not both in one run: a rebuilt segment or a cut can't know the times of frames that were dropped before it.
        self.clock_steps_back = random.random() < 0.5
        self.steps: list[str] = []

    def new_index(self) -> LogIndex:
        return LogIndex(self.directory, cache_bytes_max=40_000)

    def step(self) -> None:
        kinds = ["add"] * 12 + ["roll"] * 3 + ["seal"] * 4 + ["drop", "truncate", "snapshot", "reopen", "rebuild"]
        kind = self.random.choice(kinds)
        self.steps.append(kind)
        getattr(self, kind)()

    def add(self) -> None:
        random, model = self.random, self.model
        for _ in range(random.choice([1, 1, 5, 20])):
            key = random.choice(KEYS) if random.random() < 0.5 else KEYS[0]
            self.now_ms += random.choice([0, 1, 5, 100, -300 * self.clock_steps_back])
            at = model.end + random.choice([0, 0, 0, 130])  # metadata frames have no entry
            frame = Frame(
                key, model.next.get(key, 50 * (key == KEYS[2])), max(at, model.bases[-1]), random.randrange(1, 200),
                random.randrange(1, 9), random.getrandbits(64), self.now_ms,
                random.choice([0, 0xFFFF_FFFF_FFFF_FFF0, 9]), random.randrange(60),
                [random.randrange(6) * 0x3333_3333 for _ in range(random.choice([0, 0, 1, 3]))],
            )  # fmt: skip
            model.add(frame)
            frame.add_to(self.index.add)

    def roll(self) -> None:
        base = max(self.model.end, self.model.bases[-1] + 1)
        self.index.roll(base)
        self.model.bases.append(base)
        self.model.end = base

    def write(self, base: int, parts: list[bytes | memoryview]) -> None:
        self.directory.files[index_name(base)] = b"".join(parts)

    def seal(self) -> None:
        for base in self.index.sealing():
            self.write(base, self.index.build_sealed(base))
            self.index.adopt_sealed(base)

    def drop(self) -> None:
        if not self.clock_steps_back and len(self.model.bases) > 2 and self.model.bases[0] not in self.index.sealing():
            base = self.model.bases[0]
            if self.saved is None or self.saved_base < self.model.bases[1]:
                self.snapshot()
            self.index.drop_segment(base)
            del self.directory.files[index_name(base)]
            self.model.drop()

    def truncate(self) -> None:
        model = self.model
        places = [frame.log_offset for frame in model.frames[-40:]] + model.bases[-2:] + [model.end]
        at = self.random.choice(places)
        if at < model.bases[0]:
            return
        for base in self.index.truncate(at):
            self.directory.files.pop(index_name(base), None)
        model.truncate(at)
        if self.saved_end > at:
            self.saved = None

    def snapshot(self) -> None:
        self.saved = b"".join(self.index.export_open())
        self.saved_base, self.saved_end = self.index.open_base, self.index.covered

    def reopen(self) -> None:
        """As recovery does it: from the newest snapshot, or without where the log is whole."""
        model, whole = self.model, self.model.bases[0] == 0
        if self.saved is None and not whole:
            self.snapshot()
        self.index = index = self.new_index()
        covered, late_import = 0, self.random.random() < 0.3
        data = None if whole and self.random.random() < 0.5 else self.saved
        if data is not None and not late_import:
            covered = index.import_open(data)
        for base, end in zip(model.bases, model.bases[1:], strict=False):
            try:
                index.load_sealed(base)
            except DamagedLog:
                self.rebuild_at(base, end)
        if data is not None and late_import:
            covered = index.import_open(data)
        assert index.open_base == model.bases[-1]
        for frame in model.frames:
            if frame.log_offset >= max(covered, model.bases[-1]):
                frame.add_to(index.add)
        if data is None:
            self.saved = None  # nor may an older one bring them back
        for key in set(model.next) - set(index.keys()):  # it lost all its frames to a truncation
            assert not model.of(key)
            del model.next[key], model.first[key], model.latest[key]

    def rebuild(self) -> None:
        if len(self.model.bases) > 1:
            at = self.random.randrange(len(self.model.bases) - 1)
            self.rebuild_at(self.model.bases[at], self.model.bases[at + 1])

    def rebuild_at(self, base: int, end: int) -> None:
        rebuilt = self.index.rebuild(base)
        for frame in self.model.frames:
            if base <= frame.log_offset < end:
                before = [f.effective_ms for f in self.model.of(frame.key) if f.log_offset < frame.log_offset]
                frame.effective_ms = max(frame.store_ms, before[-1] if before else NO_TIME)
                frame.add_to(rebuilt.add)
        self.write(base, rebuilt.build(end))
        self.index.load_sealed(base)

    def check(self) -> None:
        index, model, random = self.index, self.model, self.random
        assert set(model.next) <= set(index.keys())
        for key in KEYS:
            frames = model.of(key)
            assert index.next_queue_offset(key) == model.next.get(key, 0)
            assert index.min_queue_offset(key) == model.first.get(key, 0)
            offset = random.randrange(model.next.get(key, 0) + 2)
            limit = random.choice([1, 3, 1000])
            wanted = [f for f in frames if f.queue_offset + f.count > offset][:limit]
            found = index.refs(key, offset, limit=limit)
            assert bool(found) == bool(wanted)
            assert [(r.log_offset, r.size, r.queue_offset, r.count, r.tag_mask) for r in found] == [
                (f.log_offset, f.size, f.queue_offset, f.count, f.tag_mask) for f in wanted[: len(found)]
            ]
            ms = self.now_ms - random.randrange(-300, 900)
            after = [f.queue_offset for f in frames if f.effective_ms >= ms]
            assert index.by_time(key, ms) == (after[0] if after else model.next.get(key, 0))
        hashed, limit = random.randrange(7) * 0x3333_3333 & 0xFFFF_FFFF, random.choice([1, 4, 100])
        keyed = [f.log_offset for f in model.frames if hashed in f.hashes]
        assert index.by_key(hashed, limit=limit, newest_first=False) == keyed[:limit]
        assert index.by_key(hashed, limit=limit) == keyed[::-1][:limit]
        producer, sequence = random.choice([9, 0xFFFF_FFFF_FFFF_FFF0]), random.randrange(60)
        made = [f.log_offset for f in model.frames if (f.producer_id, f.sequence) == (producer, sequence)]
        assert index.by_producer(producer, sequence) == (made[-1] if made else None)


@given(st.integers(0, 2**32), st.integers(5, 60))
@settings(max_examples=150, deadline=None)
def test_agrees_with_a_list_of_frames(seed: int, steps: int) -> None:
    """Goal: every query is right at any time. Method: random operations, each followed by random queries."""
    run = Run(Random(seed))
    try:
        for _ in range(steps):
            run.step()
            run.check()
    except BaseException:
        print(f"seed {seed}:", *run.steps)
        raise


@pytest.mark.parametrize("seed", range(4))
def test_agrees_over_many_segments(seed: int) -> None:
    """As above, with dozens of segments: links over powers of two, probing, reads over borders."""
    run = Run(Random(seed))
    for step in range(100):
        run.add()
        run.roll()
        if step % 3:
            run.seal()
        if step % 10 == 0:
            run.snapshot()
        run.check()
    run.truncate()
    run.check()
    run.reopen()
    for _ in range(40):
        run.check()


def filled(frames: int = 300, queues: int = 20) -> tuple[Directory, LogIndex]:
    """A sealed segment at 0 and an open one behind it."""
    directory = Directory()
    index = LogIndex(directory)
    for at in range(frames):
        hashes = np.array([at, 7], np.uint32) if at % 3 == 0 else None
        index.add(1 << 32 | at % queues, at // queues * 4, at * 100, 100, 4, at, at, 5, at, hashes)
    index.roll(frames * 100)
    directory.files[index_name(0)] = b"".join(index.build_sealed(0))
    index.adopt_sealed(0)
    return directory, index


def test_reads_over_segment_borders_and_from_below_the_first_offset() -> None:
    _, index = filled(frames=40, queues=1)
    for at in range(3):
        index.add(1 << 32, 160 + at * 4, 4000 + at * 100, 100, 4, 0, 50, 0, 0, None)
    assert [ref.queue_offset for ref in index.refs(1 << 32, 150, limit=6)] == [148, 152, 156, 160, 164, 168]
    assert [ref.log_offset for ref in index.refs(1 << 32, 0, limit=1)] == [0]
    assert index.refs(1 << 32, 172, limit=9) == []
    assert index.refs(99, 0, limit=9) == []


def test_a_sparse_queue_is_read_in_bounded_steps_to_its_end() -> None:
    directory = Directory()
    index = LogIndex(directory)
    for segment in range(60):
        index.add(5, segment, segment * 1000, 100, 1, 0, segment, 0, 0, None)
        index.roll((segment + 1) * 1000)
    found, offset = [], 0
    while some := index.refs(5, offset, limit=100):
        assert len(some) <= 16
        found += [ref.log_offset for ref in some]
        offset = some[-1].queue_offset + 1
    assert found == [segment * 1000 for segment in range(60)]


def test_a_look_up_reads_a_small_part_of_a_large_file() -> None:
    directory, index = filled(frames=20_000, queues=4_000)
    index = LogIndex(directory)
    index.load_sealed(0)
    directory.bytes_read = 0
    assert index.refs(1 << 32 | 3_999, 8, limit=1)[0].queue_offset == 8
    assert directory.bytes_read < 60_000 < len(directory.files[index_name(0)]) / 10


def test_the_cache_is_bounded() -> None:
    directory, _ = filled(frames=20_000, queues=4_000)
    index = LogIndex(directory, cache_bytes_max=50_000)
    index.load_sealed(0)
    for queue in range(0, 4_000, 50):
        assert len(index.refs(1 << 32 | queue, 0, limit=100)) == 5
        assert index._cache.size_bytes <= 50_000


def test_any_flipped_byte_is_found() -> None:
    """Goal: no damage goes unseen. Method: flip each byte of a small file in turn; loading or verifying must raise."""
    directory, _ = filled(frames=60, queues=7)
    whole = directory.files[index_name(0)]
    for at in range(len(whole)):
        damaged = bytearray(whole)
        damaged[at] ^= 0x40
        directory.files[index_name(0)] = bytes(damaged)
        index = LogIndex(directory)
        with pytest.raises(DamagedLog):
            index.load_sealed(0)
            index.verify(0)


def test_a_short_long_or_missing_file_is_damage() -> None:
    directory, _ = filled(frames=60)
    whole = directory.files[index_name(0)]
    for data in (b"", whole[:50], whole[:200], whole[:-1], whole + b"x"):
        directory.files[index_name(0)] = data
        with pytest.raises(DamagedLog):
            LogIndex(directory).load_sealed(0)
    directory.files.clear()
    with pytest.raises(DamagedLog, match="missing"):
        LogIndex(directory).load_sealed(0)


def test_a_file_of_a_newer_version_is_not_called_damaged() -> None:
    directory, _ = filled(frames=60)
    data = bytearray(directory.files[index_name(0)])
    data[8] = 2
    data[124:128] = zlib.crc32(data[:124]).to_bytes(4, "little")
    directory.files[index_name(0)] = bytes(data)
    with pytest.raises(NewerFormat, match="version 2"):
        LogIndex(directory).load_sealed(0)


def test_damage_met_by_a_look_up_is_an_error_and_rebuilding_mends_it() -> None:
    directory, _ = filled(frames=3_000, queues=1)
    whole = directory.files[index_name(0)]
    directory.files[index_name(0)] = whole[:-40_000] + bytes(40_000)
    index = LogIndex(directory)
    index.load_sealed(0)
    with pytest.raises(DamagedLog):
        index.by_producer(5, 17)
    rebuilt = index.rebuild(0)
    for at in range(3_000):
        hashes = np.array([at, 7], np.uint32) if at % 3 == 0 else None
        rebuilt.add(1 << 32, at * 4, at * 100, 100, 4, at, at, 5, at, hashes)
    directory.files[index_name(0)] = b"".join(rebuilt.build(300_000))
    assert directory.files[index_name(0)] == whole
    index.load_sealed(0)
    assert index.by_producer(5, 17) == 1700


def test_a_damaged_snapshot_is_found() -> None:
    _, index = filled(frames=30)
    index.add(1 << 32, 50, 3000, 100, 4, 0, 0, 1, 1, np.array([3], np.uint32))
    whole = b"".join(index.export_open())
    assert LogIndex(Directory()).import_open(whole) == 3100
    for at in range(len(whole)):
        damaged = bytearray(whole)
        damaged[at] ^= 1
        with pytest.raises((DamagedLog, NewerFormat)):
            LogIndex(Directory()).import_open(damaged)
    with pytest.raises(DamagedLog):
        LogIndex(Directory()).import_open(whole[:-1])


def test_going_backwards_is_refused() -> None:
    index = LogIndex(Directory())
    index.add(1, 0, 0, 100, 4, 0, 0, 0, 0, None)
    with pytest.raises(DamagedLog):
        index.add(1, 4, 99, 100, 4, 0, 0, 0, 0, None)
    with pytest.raises(DamagedLog):
        index.add(1, 3, 100, 100, 4, 0, 0, 0, 0, None)
    with pytest.raises(ValueError, match="can't start at 50"):
        index.roll(50)


def test_a_truncation_overtakes_sealing() -> None:
    """A segment was cut while its file was being built: the file is stale and is not taken up."""
    directory = Directory()
    index = LogIndex(directory)
    for at in range(10):
        index.add(1, at, at * 100, 100, 1, 0, at, 0, 0, None)
    index.roll(1000)
    parts = index.build_sealed(0)
    assert index.truncate(500) == [0]
    directory.files[index_name(0)] = b"".join(parts)
    with pytest.raises(KeyError):
        index.adopt_sealed(0)
    assert (index.open_base, index.covered, index.next_queue_offset(1)) == (0, 500, 5)


def test_time_that_steps_back() -> None:
    """What is stored after the clock stepped back counts as stored when it did."""
    index = LogIndex(Directory())
    for at, store_ms in enumerate([100, 200, 150, 160, 300]):
        index.add(1, at, at * 100, 100, 1, 0, store_ms, 0, 0, None)
    assert [index.by_time(1, ms) for ms in (0, 100, 101, 155, 200, 201, 300, 301)] == [0, 0, 1, 1, 1, 4, 4, 5]


def test_rolling_and_looking_up_import_nothing() -> None:
    """``numpy.unique`` imports ``numpy.ma`` at its first call, which held the loop for 9 ms at the first roll."""
    program = (
        "import sys, numpy as np;"
        "from kourou.broker.store.logindex import LogIndex;"
        "index = LogIndex(None); before = set(sys.modules);"
        "[index.add(1 << 32 | n % 3, n, n * 100, 100, 1, 0, n, 7, n, np.array([5], np.uint32)) for n in range(9)];"
        "found = index.by_key(5, limit=9); index.roll(900); index.build_sealed(0);"
        "print(len(found), sorted(set(sys.modules) - before))"
    )
    environment = {"PYTHONPATH": ":".join(sys.path)}
    run = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "9 []"
