"""Keeping timers out of memory and out of the way of the log: writing buckets, merging them, deleting their files.

A bucket counts from the moment its record is in the log; its file is durable before. Files that the state does not name
are deleted once the log is durable that far, and at the start. So a crash at any point leaves either the old or the new.
Beside a snapshot that was put aside because it is ahead of the log, the start puts files aside too (``*.tmb.ahead``)
instead of deleting them: they may be that snapshot's, and the only place where its messages are.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from concurrent.futures import Executor
from typing import Any, Protocol

from kourou.broker.machines.timerbuckets import to_merge
from kourou.broker.machines.timers import Timers
from kourou.broker.services.journal import Journal
from kourou.broker.store.snapshot import AHEAD, any_ahead
from kourou.broker.store.store import Store
from kourou.broker.store.timerfile import TimerFile
from kourou.broker.store.timerformat import FOLDER, SUFFIX, bucket_name
from kourou.broker.store.timerwrite import Longs, Merge, Source, Spill, Written
from kourou.core.clock import Clock
from kourou.core.errors import Corrupted, DiskFull

PAGES_MAX = 64  # of 4,096 timers, not yet looked through
PAGES_FULL = 1024  # more are not taken in: about 4 million timers
PAGES_A_LOOK = 256  # looked through for one bucket
SPILL_BYTES = 32 * 1024 * 1024  # of messages, in memory while a bucket is written
SPILL_TIMERS = 256 * 1024  # about so many at most go into one bucket
ROWS_MIN = 4096  # fewer are not worth a file, unless they hold the log
DEAD_MAX = 50_000  # more retired while a bucket was written: it is thrown away, a later try has less to do
# (pages in memory, timers due later than so many ms move): the more there are, the sooner they may be due
NEAR_MS = 60_000
STEPS = ((1, NEAR_MS), (4, 5_000), (16, None))


class Log(Protocol):
    def info(self, event: str, **fields: Any) -> Any: ...

    def warning(self, event: str, **fields: Any) -> Any: ...


class TimerKeeper:
    def __init__(
        self,
        store: Store,
        timers: Timers,
        journal: Journal,
        *,
        executor: Executor,
        clock: Clock,
        log: Log,
        pages_max: int,
        between: asyncio.Lock,
    ) -> None:
        self._store = store
        self._timers = timers
        self._journal = journal
        self._executor = executor
        self._clock = clock
        self._log = log
        self._pages_max = pages_max
        self._between = between  # held while timers are being delivered, and while a bucket is told to the log
        self._busy = asyncio.Lock()  # one job at a time; taken before ``between``
        self._kept: set[int] | None = None  # the buckets when files were last swept
        self._unmergeable: set[int] = set()
        self.buckets_written = 0

    def open(self) -> None:
        """*Blocking*. Look at the heads of all buckets, delete what belongs to none."""
        for bucket in self._timers.buckets.values():
            try:
                TimerFile(self._store.files, bucket.number, checksum=bucket.checksum)
            except Corrupted as failure:
                self._log.warning(
                    "timers_unreadable", bucket=bucket.number, count=bucket.left, next_due_ms=bucket.next_due_ms,
                    last_due_ms=bucket.last_due_ms, reason=str(failure),
                )  # fmt: skip
        self._sweep(set(self._timers.buckets), put_aside=any_ahead(self._store.files))

    async def keep(self) -> None:
        """One round: move timers out of memory, merge buckets, delete files. Called about once a second."""
        async with self._busy:
            try:
                while await self._spill_if_many():
                    pass
                await self._merge_if_due()
                await self._sweep_if_changed()
            except DiskFull as failure:
                self._log.warning("timers_not_moved", reason=str(failure))

    async def release(self, below: int) -> int:
        """Move timers away that hold the log below an offset; the offset from which on it is still needed."""
        lowest = self._timers.lowest_log_offset()
        if lowest is not None and lowest < below:
            async with self._busy:
                try:
                    while await self._spill(self._clock.wall_ms() + NEAR_MS, rows_min=1):
                        pass
                except DiskFull as failure:
                    self._log.warning("timers_not_moved", reason=str(failure))
            lowest = self._timers.lowest_log_offset()
        await self._journal.sync_now()  # what moved must not come back after a power cut
        return below if lowest is None else lowest

    async def _thread(self, call: Callable[[], Any]) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._executor, call)

    # ---- out of memory

    async def _spill_if_many(self) -> bool:
        timers = self._timers
        if timers.fresh_pages < self._pages_max and timers.pages < self._pages_max * STEPS[1][0]:
            return False
        ahead_ms = next(ahead for pages, ahead in reversed(STEPS) if timers.pages >= self._pages_max * pages or pages == 1)
        from_ms = -(2**63) if ahead_ms is None else self._clock.wall_ms() + ahead_ms
        return await self._spill(from_ms, rows_min=ROWS_MIN)

    async def _spill(self, from_ms: int, *, rows_min: int) -> bool:
        """Whether there may be more to move."""
        timers = self._timers
        pages = timers.copy_pages(PAGES_A_LOOK, from_ms=from_ms)
        if not pages:
            return False
        job = Spill(
            self._store.files, self._store.log, pages, number=timers.next_bucket, from_ms=from_ms, rows_min=rows_min,
            rows_max=SPILL_TIMERS, bytes_max=SPILL_BYTES,
        )  # fmt: skip
        await self._thread(job.run)
        for log_offset, reason in job.damaged:
            self._log.warning("timers_lost", log_offset=log_offset, reason=reason)
        if job.written is None:
            return False
        record = {"due": from_ms, "lost": list(job.lost.items())}
        done = await self._tell(job.written, record, lambda: job.retired(timers.alive))
        return done and job.is_partial

    # ---- buckets into one

    async def _merge_if_due(self) -> None:
        timers = self._timers
        able = [bucket for bucket in timers.buckets.values() if bucket.number not in self._unmergeable]
        chosen = to_merge(able, now_ms=self._clock.wall_ms())
        if not chosen:
            return
        sources = [Source(b.number, b.checksum, b.floor, bytes(b.bits), b.start, b.end) for b in chosen]
        job = Merge(
            self._store.files, sources, number=timers.next_bucket, moved=frozenset(timers.moved), deleted=timers.is_deleted
        )  # fmt: skip
        try:
            await self._thread(job.run)
        except Corrupted as failure:
            self._unmergeable |= {bucket.number for bucket in chosen}
            self._log.warning("timers_not_merged", buckets=[bucket.number for bucket in chosen], reason=str(failure))
            return
        assert job.written is not None
        if not all(bucket.number in timers.buckets for bucket in chosen):
            return  # one was delivered to its end meanwhile

        def now(number: int) -> tuple[int, bytes]:
            return timers.buckets[number].floor, bytes(timers.buckets[number].bits)

        record = {"m": [bucket.number for bucket in chosen]}
        await self._tell(job.written, record, lambda: job.retired(now, frozenset(timers.moved)))

    async def _tell(self, written: Written, more: dict[str, Any], retired: Callable[[], Longs]) -> bool:
        """Put a bucket into the log, with what was retired while it was written."""
        async with self._between:
            self._journal.settle()
            if any(number not in self._timers.buckets for number in more.get("m", ())):
                return False
            floor, dead, next_due_ms = _progress(retired(), written)
            if len(dead) > DEAD_MAX:
                self._log.info("bucket_abandoned", bucket=written.number, retired=len(dead))
                return False
            count = len(written.due)
            last_due_ms = int(written.due[-1]) if count else 0
            record = {
                "t": "tm>", "b": written.number, "n": count, "log": [written.start, written.end],
                "file": [last_due_ms, written.size, written.checksum], "floor": [floor, next_due_ms], "dead": dead, **more,
            }  # fmt: skip
            await self._journal.write([record])
        self.buckets_written += 1
        self._log.info("timers_moved", bucket=written.number, count=count, bytes=written.size, merged=more.get("m", []))
        return True

    # ---- files

    async def _sweep_if_changed(self) -> None:
        if not self._journal.settle():
            return  # the state is ahead of the log
        kept = set(self._timers.buckets)
        if kept != self._kept:
            end = self._store.end_offset
            await self._journal.sync_now()
            if self._journal.confirmed < end:
                return  # a slave that does not know yet which files are gone may still ask for them
            await self._thread(lambda: self._sweep(kept))

    def _sweep(self, kept: Iterable[int], *, put_aside: bool = False) -> None:
        """*Blocking*."""
        files = self._store.files
        names = {bucket_name(number).partition("/")[2] for number in kept}
        gone = [name for name in files.list(FOLDER) if name not in names and not name.endswith(AHEAD)]
        for name in gone:
            if put_aside and name.endswith(SUFFIX):
                files.rename(f"{FOLDER}/{name}", f"{FOLDER}/{name}{AHEAD}")
                self._log.warning("timers_put_aside", name=f"{FOLDER}/{name}{AHEAD}")
            else:
                files.remove(f"{FOLDER}/{name}")
        if gone:
            files.sync_folder(FOLDER)
        self._kept = set(kept)


def _progress(gone: Longs, written: Written) -> tuple[int, list[int], int]:
    """(floor, retired positions above it, due time at the floor)."""
    positions = gone.tolist()
    floor = next((number for number, position in enumerate(positions) if number != position), len(positions))
    next_due_ms = int(written.due[floor]) if floor < len(written.due) else 0
    return floor, positions[floor:], next_due_ms
