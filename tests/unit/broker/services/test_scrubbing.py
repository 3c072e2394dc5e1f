"""What has rotted in sealed segments is found, once, and nothing else is reported."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from kourou.broker.services import scrubbing
from kourou.broker.services.replication.refetch import refetch
from kourou.broker.services.scrubbing import RETRY_MS, Scrubber
from kourou.broker.store.commitlog import segment_name
from kourou.broker.store.copying import verify_frames
from kourou.broker.store.recovery import open_store
from kourou.broker.store.store import Store
from kourou.core.clock import ManualClock
from kourou.core.errors import DamagedLog, NotConnected
from tests.sim.disk import SimDisk
from tests.sim.store import SMALL, START_MS, message
from tests.unit.broker.services.engine import Notes

HOUR_MS = 3_600_000


class Scrubbed:
    """``wanted``: somebody waits for the log to be whole."""

    def __init__(self, *, wanted: bool = False) -> None:
        self.disk = SimDisk()
        files = self.disk.files()
        files.lock()
        self.store: Store = open_store(
            files, SMALL, restore=lambda parts: None, apply=lambda *frame: None, notice=lambda event, fields: None
        ).store
        for sequence in range(1, 200):
            self.store.append([message(0, sequence, 300)], store_ms=START_MS)
        while (job := self.store.take_seal_job()) is not None:
            job.run()
            self.store.finish_seal(job)
        self.clock, self.log, self.told = ManualClock(), Notes(), list[str]()
        self.pool = ThreadPoolExecutor(1)
        self.whole = 0
        self.other: bytes | None = None  # a segment as somebody else has it
        self.scrubber = Scrubber(
            self.store, executor=self.pool, clock=self.clock, log=self.log, every_ms=HOUR_MS,
            on_damaged=self.told.append, on_whole=self._is_whole if wanted else None, mend=self._mend,
        )  # fmt: skip

    def _is_whole(self) -> None:
        self.whole += 1

    async def _mend(self, start: int, end: int) -> None:
        base = self.store.log.bases[1]

        async def ask(at: int, end: int) -> memoryview:
            if self.other is None:
                raise NotConnected("there is no master to fetch from")
            return memoryview(self.other[at - base : end - base])

        await refetch(self.store, start, end, ask=ask, executor=self.pool)

    async def read_all(self) -> None:
        """Once to the end, and what is said there."""
        before = self.log.events.count("log_scrubbed")
        for _ in range(1_000):
            await self.scrubber.step()
            if self.log.events.count("log_scrubbed") > before:
                return
        raise AssertionError("it comes to no end")


async def test_a_whole_log() -> None:
    scrubbed = Scrubbed()
    assert len(scrubbed.store.log.bases) > 2
    await scrubbed.read_all()
    assert (scrubbed.scrubber.damaged, scrubbed.told) == ([], [])
    await scrubbed.scrubber.step()  # nothing before an hour has passed
    assert scrubbed.log.events == ["log_scrubbed"]
    scrubbed.clock.advance(HOUR_MS)
    await scrubbed.read_all()
    scrubbed.pool.shutdown()


async def test_rot_is_found_where_it_is_and_reported_once() -> None:
    scrubbed = Scrubbed()
    base = scrubbed.store.log.bases[1]
    offsets = list(scrubbed.store.log.frames(base, scrubbed.store.log.bases[2]))
    scrubbed.disk.flip(segment_name(base), offsets[3] - base + 100)  # in a record
    scrubbed.disk.flip(segment_name(base), offsets[5] - base + 5)  # in the size of a frame
    await scrubbed.read_all()
    assert scrubbed.scrubber.damaged == [offsets[3], offsets[5]]
    assert len(scrubbed.told) == 2
    scrubbed.clock.advance(HOUR_MS)
    await scrubbed.read_all()
    assert len(scrubbed.told) == 2
    scrubbed.pool.shutdown()


@pytest.mark.parametrize("late", [False, True])
async def test_whoever_waits_for_a_whole_log_is_told_once(late: bool) -> None:
    """When all was read and is mended, be that long after it was read."""
    scrubbed = Scrubbed(wanted=True)
    base, end = scrubbed.store.log.bases[1:3]
    whole = scrubbed.store.log.file(base).read(0, end - base)
    scrubbed.other = None if late else whole
    scrubbed.disk.flip(segment_name(base), list(scrubbed.store.log.frames(base, end))[3] - base + 100)
    await scrubbed.read_all()
    assert scrubbed.whole == (0 if late else 1)
    scrubbed.other = whole
    scrubbed.clock.advance(RETRY_MS)
    await scrubbed.scrubber.step()
    assert scrubbed.whole == 1
    scrubbed.clock.advance(HOUR_MS)
    await scrubbed.read_all()
    assert scrubbed.whole == 1
    scrubbed.pool.shutdown()


async def test_what_is_not_sealed_is_read_for_whoever_waits() -> None:
    scrubbed = Scrubbed(wanted=True)
    store = scrubbed.store
    base = store.log.bases[-1]
    (first, *_) = store.log.frames(base, store.end_offset)
    scrubbed.disk.flip(segment_name(base), first - base + 100)
    await scrubbed.read_all()
    assert scrubbed.scrubber.damaged == [first]
    assert scrubbed.whole == 0
    scrubbed.pool.shutdown()


async def test_more_damage_than_is_remembered_is_looked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scrubbing, "DAMAGED_MAX", 1)
    scrubbed = Scrubbed(wanted=True)
    base, end = scrubbed.store.log.bases[1:3]
    whole = scrubbed.store.log.file(base).read(0, end - base)
    offsets = list(scrubbed.store.log.frames(base, end))
    for offset in (offsets[2], offsets[5]):
        scrubbed.disk.flip(segment_name(base), offset - base + 100)
    await scrubbed.read_all()
    assert scrubbed.scrubber.damaged == [offsets[2]]
    scrubbed.other = whole
    scrubbed.clock.advance(RETRY_MS)
    await scrubbed.scrubber.step()
    assert (scrubbed.scrubber.damaged, scrubbed.whole) == ([], 0)
    await scrubbed.read_all()
    assert scrubbed.whole == 1
    assert scrubbed.store.log.file(base).read(0, end - base) == whole
    scrubbed.pool.shutdown()


@pytest.mark.parametrize("late", [False, True])
async def test_rot_is_mended_once_somebody_has_it_whole(late: bool) -> None:
    scrubbed = Scrubbed()
    store = scrubbed.store
    base, end = store.log.bases[1:3]
    offsets = list(store.log.frames(base, end))
    whole = store.log.file(base).read(0, end - base)
    scrubbed.other = None if late else whole
    scrubbed.disk.flip(segment_name(base), offsets[3] - base + 100)
    scrubbed.disk.flip(segment_name(base), offsets[4] - base + 5)
    scrubbed.disk.flip(segment_name(base), offsets[-1] - base + 40)
    await scrubbed.read_all()
    if late:
        assert scrubbed.scrubber.damaged == [offsets[3], offsets[-1]]
        assert len(scrubbed.told) == 2
        scrubbed.other = whole
        scrubbed.clock.advance(RETRY_MS)
        await scrubbed.scrubber.step()
    assert scrubbed.scrubber.damaged == []
    assert len(scrubbed.told) == (2 if late else 0)
    assert scrubbed.log.events.count("log_mended") == 2
    assert store.log.file(base).read(0, end - base) == whole
    store.mending.run()
    scrubbed.disk.kill()
    assert bytes(scrubbed.disk.files().open(segment_name(base)).read(0, end - base)) == whole
    scrubbed.pool.shutdown()


async def test_what_comes_is_not_believed() -> None:
    """A frame that is damaged there too, one of another place, and too much of it."""
    scrubbed = Scrubbed()
    store = scrubbed.store
    base, end = store.log.bases[1:3]
    whole = store.log.file(base).read(0, end - base)
    offsets = list(store.log.frames(base, end))
    scrubbed.disk.flip(segment_name(base), offsets[3] - base + 100)
    damaged = store.log.file(base).read(0, end - base)
    size = offsets[4] - offsets[3]
    place = offsets[3] - base
    for other in (damaged, whole[size:], whole[:place] + whole[place : place + size - 1]):
        scrubbed.other = other
        scrubbed.clock.advance(HOUR_MS)
        await scrubbed.read_all()
        assert store.log.file(base).read(0, end - base) == damaged
        assert scrubbed.scrubber.damaged == [offsets[3]]
    assert len(scrubbed.told) == 1
    scrubbed.pool.shutdown()


async def test_what_is_whole_when_it_is_read_again_is_no_damage(monkeypatch: pytest.MonkeyPatch) -> None:
    """And no step reads more for it than any other does."""
    scrubbed = Scrubbed()
    scrubbed.scrubber._size = 2_000
    read: list[int] = []

    def verify(store: Store, start: int, **how: Any) -> int:
        read.append(start)
        if len(read) == 1:
            raise DamagedLog("a bit has flipped in memory")
        return verify_frames(store, start, **how)

    monkeypatch.setattr(scrubbing, "verify_frames", verify)
    await scrubbed.scrubber.step()
    assert max(read) < 2_000
    assert read[-1] > read[0]
    await scrubbed.read_all()
    assert scrubbed.told == []
    scrubbed.pool.shutdown()


async def test_segments_that_are_deleted_meanwhile_are_no_damage() -> None:
    scrubbed = Scrubbed()
    scrubbed.store.log.drop(scrubbed.store.log.bases[0])
    await scrubbed.read_all()
    assert scrubbed.told == []
    scrubbed.pool.shutdown()
