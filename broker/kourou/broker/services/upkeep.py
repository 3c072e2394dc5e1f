"""What a broker does by itself: sealing full segments, mending indexes, snapshots, retention, watching the disk.

Each job is a short step on the loop or a call in a thread; none holds the loop. The owner (``app``) runs the jobs as
periodic tasks, so they never overlap themselves.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import Executor
from typing import Any, Protocol

from kourou.broker.services.journal import Journal
from kourou.broker.services.state import BrokerState
from kourou.broker.store import snapshot
from kourou.broker.store.epochs import PART as EPOCHS_PART
from kourou.broker.store.recovery import INDEX_PART
from kourou.broker.store.retention import Retention
from kourou.broker.store.store import Store
from kourou.core.clock import Clock
from kourou.core.errors import DiskFull, FlushFailed, KourouError

MEND_AGAIN_MS = 10_000  # on a full disk
SNAPSHOT_FRAMES = 30_000  # small ones too take their time when they are read back, about 25 us each
SNAPSHOT_LEASES = 250_000  # handed out, put off or acknowledged; a frame may hold very many, which take 1 us each
SNAPSHOT_SHARE = 5  # for the sake of them one is not made more often than this many times what it took


class Log(Protocol):
    def info(self, event: str, **fields: Any) -> Any: ...

    def warning(self, event: str, **fields: Any) -> Any: ...


class Upkeep:
    def __init__(
        self,
        store: Store,
        state: BrokerState,
        journal: Journal,
        *,
        executor: Executor,
        clock: Clock,
        log: Log,
        snapshot_bytes: int,
        retention_ms: int,
        retention_bytes: int,
        release: Callable[[int], Awaitable[int]],
    ) -> None:
        self._store = store
        self._state = state
        self._journal = journal
        self._executor = executor
        self._clock = clock
        self._log = log
        self._snapshot_bytes = snapshot_bytes
        self._retention = Retention(retention_ms=retention_ms, retention_bytes=retention_bytes)
        self._release = release  # moves timers out of the log below an offset; from where on it is still needed
        self._oldest_snapshot = min(snapshot.offsets(store.files), default=0)
        self._mend_after_ms = 0
        self._snapshot_after_ms = 0
        self._changes_covered = 0  # of leases, by the newest snapshot; those that were read back at the start are not
        self.snapshots = 0
        self.held = False  # the state is not what the log says, and will be made of it anew
        self.segments_sealed = 0
        self.segments_deleted = 0

    async def _thread(self, call: Callable[[], Any]) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._executor, call)

    async def seal(self) -> None:
        """Write the index files of full segments."""
        while (job := self._store.take_seal_job()) is not None:
            try:
                await self._thread(job.run)
            except DiskFull as failure:
                self._log.warning("segment_not_sealed", base=job.base, reason=str(failure))
                return  # its index stays in memory; the next round tries again
            self._store.finish_seal(job)
            self.segments_sealed += 1
            self._log.info("segment_sealed", base=job.base)

    async def mend(self) -> None:
        """Make indexes anew that were found damaged."""
        mending = self._store.mending
        if self._clock.monotonic_ms() < self._mend_after_ms:
            return
        while (job := mending.take()) is not None:
            await self._thread(job.run)
            try:
                mending.finish(job)
            except DiskFull as failure:
                self._log.warning("index_not_rebuilt", segment=job.base, reason=str(failure))
                self._mend_after_ms = self._clock.monotonic_ms() + MEND_AGAIN_MS
                return
            except FlushFailed as failure:
                self._journal.fail(failure)
                return
            except KourouError as failure:
                self._log.warning("index_not_rebuilt", segment=job.base, reason=str(failure))

    async def snapshot_if_due(self) -> None:
        store = self._store
        due = store.end_offset - store.snapshot_offset >= self._snapshot_bytes
        changes = self._state.shared.changes - self._changes_covered
        if not due and (store.fresh_frames >= SNAPSHOT_FRAMES or changes >= SNAPSHOT_LEASES):
            due = self._clock.monotonic_ms() >= self._snapshot_after_ms
        if due:
            await self.snapshot()

    async def snapshot(self) -> None:
        """Write a snapshot of everything applied so far; what was captured stays as it was while the log goes on."""
        if self.held:
            return
        if not self._journal.settle():
            return
        offset = self._store.end_offset
        if offset <= self._store.snapshot_offset:
            return
        if self._store.snapshot_offset > self._journal.confirmed:
            return  # if what is not confirmed is cut, the older one is left; a third would push it out
        frames, began_ms = self._store.fresh_frames, self._clock.monotonic_ms()
        changes = self._state.shared.changes
        captured = self._state.parts()
        index = self._store.index.export()
        parts: dict[str, list[bytes]] = {INDEX_PART: [], EPOCHS_PART: [self._store.epochs.encode()]}
        for _ in index.slices():
            await asyncio.sleep(0)  # between slices others get their turn
        parts[INDEX_PART] = await self._thread(index.finish)
        for name, slices in captured.items():
            parts[name] = []
            for piece in slices:
                parts[name].append(piece)
                await asyncio.sleep(0)
        await self._journal.sync_now()  # a snapshot ahead of the durable log would be worthless after a power cut
        pieces = await self._thread(lambda: snapshot.encode(offset, parts))
        try:
            await self._thread(lambda: snapshot.write(self._store.files, offset, pieces))
        except DiskFull as failure:
            self._log.warning("snapshot_failed", reason=str(failure))
            return
        self._store.snapshot_offset = offset
        now_ms = self._clock.monotonic_ms()
        self._store.fresh_frames -= frames
        self._changes_covered = changes
        self._snapshot_after_ms = now_ms + SNAPSHOT_SHARE * (now_ms - began_ms)
        self._oldest_snapshot = await self._thread(lambda: min(snapshot.offsets(self._store.files), default=0))
        self.snapshots += 1
        self._log.info("snapshot_written", log_offset=offset, bytes=sum(map(len, pieces)))

    async def retain(self) -> None:
        """Delete sealed segments that are older, or more, than they may be; never above the older snapshot,
        nor what an undecided transaction or a delayed message needs."""
        undecided = self._state.transactions.lowest_log_offset()
        oldest = self._oldest_snapshot
        if oldest > self._journal.confirmed:
            oldest = 0  # a cut may take it away, and a log without its beginning needs one
        due = self._retention.due(
            self._store,
            floor=min(oldest, undecided) if undecided is not None else oldest,
            wall_ms=self._clock.wall_ms(),
            monotonic_ms=self._clock.monotonic_ms(),
        )
        needed = await self._release(due[-1].end) if due else 0
        for expired in due:
            if expired.end > needed:
                return
            self._store.drop_segment(expired.base)
            self.segments_deleted += 1
            self._log.info("segment_deleted", base=expired.base, last_store_ms=expired.last_ms, reason=expired.reason)
            await asyncio.sleep(0)

    async def watch_disk(self) -> None:
        """Notice that the disk has become full, or has room again; and that the data directory is gone, which nothing
        can be done about but to go down."""
        try:
            changed = await self._thread(self._look)
        except FlushFailed as failure:
            self._journal.fail(failure)
            return
        if changed:
            space = self._store.space
            event = "disk_full" if space.full else "disk_has_room"
            self._log.warning(event, used_ratio=round(space.ratio, 3))

    def _look(self) -> bool:
        self._store.check_place()
        return self._store.space.refresh()

    async def forget_silent(self) -> None:
        """Drop the offsets of broadcast clients that have not been heard of for long."""
        try:
            await self._journal.write(self._state.offsets.forget_silent(self._clock.wall_ms()))
        except KourouError as failure:
            self._log.warning("offsets_not_dropped", reason=str(failure))
