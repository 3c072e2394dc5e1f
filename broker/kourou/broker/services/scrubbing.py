"""Reading the sealed part of the log from the disk, slowly, again and again: what has rotted is found while others have it.

What is damaged is mended where that can be, at once or as soon as somebody is there to fetch it from. A step takes some
milliseconds; how much it reads adapts to that, for small frames take longer to check.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Executor
from typing import Any, Protocol

from kourou.broker.store.copying import verify_frames
from kourou.broker.store.scan import find_next
from kourou.broker.store.store import Store
from kourou.core.clock import Clock
from kourou.core.errors import DamagedLog, KourouError

STEP_S = 0.5  # between two steps
STEP_MS = 3  # at most, or less is read the next time: the loop waits for a thread that checks frames
BYTES_MIN = 64 * 1024
BYTES_MAX = 4 * 1024 * 1024
DAMAGED_MAX = 100  # places that are remembered
RETRY_MS = 5_000  # between two attempts to mend


class Log(Protocol):
    def info(self, event: str, **fields: Any) -> Any: ...

    def warning(self, event: str, **fields: Any) -> Any: ...

    def error(self, event: str, **fields: Any) -> Any: ...


class Scrubber:
    def __init__(
        self,
        store: Store,
        *,
        executor: Executor,
        clock: Clock,
        log: Log,
        every_ms: int,
        on_damaged: Callable[[str], None],
        mend: Callable[[int, int], Awaitable[None]] | None,
        on_whole: Callable[[], None] | None = None,
        known: Sequence[tuple[int, int]] = (),
    ) -> None:
        """``every_ms``: from the beginning of one reading of the log to that of the next. ``mend`` makes the log whole
        between two offsets, or raises KourouError; None: nobody can. ``on_damaged`` is told what could not be mended at
        once. ``on_whole`` is told when all of the log was read, and no damage is left; then the open segment is read, too.
        ``known``: what was found damaged before."""
        self._damaged: dict[int, int] = dict(known[:DAMAGED_MAX])  # log offsets: from, to
        self._store = store
        self._executor = executor
        self._clock = clock
        self._log = log
        self._every_ms = every_ms
        self._on_damaged = on_damaged
        self._mend = mend
        self._on_whole = on_whole  # until it was told
        self._until = store.end_offset if on_whole is not None else 0  # read up to there, also what is not sealed
        self._forgotten = False  # damage that there was no room to remember
        self._mend_at_ms = 0
        self._at = store.min_offset
        self._read = 0
        self._begun_ms = clock.monotonic_ms()
        self._size = BYTES_MIN

    @property
    def damaged(self) -> list[int]:
        """Log offsets at which something begins that can't be read."""
        return sorted(self._damaged)

    async def step(self) -> None:
        await self._mend_again()
        store = self._store
        end = max(store.log.bases[-1], self._until)
        if self._at >= end:
            self._all_read()
            return
        self._at = at = max(self._at, store.min_offset)
        after, failure, took_ms = await asyncio.get_running_loop().run_in_executor(self._executor, self._look, at, end)
        self._read += after - at
        self._at = after
        self._size = min(BYTES_MAX, self._size * 2) if took_ms < STEP_MS / 2 else self._size
        self._size = max(BYTES_MIN, self._size // 2) if took_ms > STEP_MS else self._size
        if failure is not None and at >= store.min_offset and at not in self._damaged:
            self._log.error("log_damaged", reason=failure, next=after)
            if await self._mended(at, after):
                return
            if len(self._damaged) < DAMAGED_MAX:
                self._damaged[at] = after
                self._on_damaged(failure)
            else:
                self._forgotten = True

    def _all_read(self) -> None:
        now_ms = self._clock.monotonic_ms()
        if self._read:
            self._log.info("log_scrubbed", bytes=self._read, seconds=(now_ms - self._begun_ms) // 1000)
            self._read = 0
        again = self._forgotten and not self._damaged  # all that was remembered is mended
        if self._on_whole is not None and not self._damaged and not self._forgotten:
            self._on_whole()
            self._on_whole = None
        if again or now_ms - self._begun_ms >= self._every_ms:
            self._begun_ms, self._at, self._forgotten = now_ms, self._store.min_offset, False
            self._until = self._store.end_offset if self._on_whole is not None else 0

    async def _mend_again(self) -> None:
        """What could not be mended when it was found."""
        now_ms = self._clock.monotonic_ms()
        if self._mend is None or not self._damaged or now_ms < self._mend_at_ms:
            return
        self._mend_at_ms = now_ms + RETRY_MS
        for at, after in list(self._damaged.items()):
            if after <= self._store.min_offset or await self._mended(at, after):
                del self._damaged[at]

    async def _mended(self, start: int, end: int) -> bool:
        if self._mend is None:
            return False
        try:
            await self._mend(start, end)
        except KourouError as failure:
            self._log.warning("log_not_mended", start=start, end=end, reason=str(failure))
            return False
        self._log.info("log_mended", start=start, end=end)
        return True

    def _look(self, at: int, end: int) -> tuple[int, str | None, float]:
        """In a thread: where to go on, and what is wrong."""
        begun = self._clock.monotonic_ms()
        try:
            file, place = self._store.log.locate(at)
        except DamagedLog:
            return self._next_segment(at, end), None, 0  # deleted meanwhile, or missing since the start, which has said so
        file.forget(place, self._size)
        try:
            size = verify_frames(self._store, at, end=end, bytes_max=self._size, once=True)
        except DamagedLog as failure:
            whole = self._whole_from(at, end)
            if whole > at:
                return whole, None, STEP_MS
            found = find_next(file, at - place, at + 1)
            return found if found is not None else self._next_segment(at, end), str(failure), STEP_MS
        return at + size, None, self._clock.monotonic_ms() - begun

    def _whole_from(self, at: int, end: int) -> int:
        """Up to where the frames from here on are whole, one by one; as many as one step reads, for all of them may be whole
        by now."""
        stop = min(end, at + self._size)
        while at < stop:
            try:
                at += verify_frames(self._store, at, end=end, bytes_max=1)
            except DamagedLog:
                break
        return at

    def _next_segment(self, at: int, end: int) -> int:
        return min((base for base in self._store.log.bases if base > at), default=end)
