"""The next timers of each bucket: a block of a bucket's file is loaded when its first timer is nearly due.

Each window goes forward over what is retired. From time to time the log is told how far (``floors``), which lets go of the
places that were delivered meanwhile: a record is only made when all of those have been passed.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import Executor
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from kourou.broker.machines.timers import Place, Timer, Timers
from kourou.broker.store.files import Files
from kourou.broker.store.timerfile import TimerFile
from kourou.broker.store.timerformat import BLOCK, Entry
from kourou.core.clock import Clock
from kourou.core.errors import Corrupted, DamagedLog

RETRY_MS = 5_000  # a block that can't be read is tried again after this
TRIES = 3  # then it is passed over, by name; a file without a readable head is tried for ever
BEHIND_ALL = (2**63 - 1, 0, 0)
Order = tuple[int, int, int]  # due time, log offset, record


class Log(Protocol):
    def warning(self, event: str, **fields: Any) -> Any: ...


class Waiting(NamedTuple):
    """A timer of a bucket."""

    timer: Timer
    bucket: int
    position: int
    entry: Entry


@dataclass(slots=True)
class Window:
    bucket: int
    at: int  # position; all before is retired
    next_due_ms: int
    first: int = 0  # position of the first entry that is loaded
    entries: list[Entry] = field(default_factory=list)
    failures: int = 0
    not_before_ms: int = 0  # monotonic: after a failure

    @property
    def is_loaded(self) -> bool:
        return self.first <= self.at < self.first + len(self.entries)


class Windows:
    def __init__(self, timers: Timers, files: Files, *, executor: Executor, clock: Clock, log: Log) -> None:
        self._timers = timers
        self._files = files
        self._executor = executor
        self._clock = clock
        self._log = log
        self._windows: dict[int, Window] = {}
        self._opened: dict[int, TimerFile] = {}
        self._passed: set[Place] = set()  # of those that the machine holds as moved
        self.unreadable: set[Place] = set()  # given up, not passed yet
        self._lost: dict[int, int] = {}  # given up and passed, by incarnation
        self._latest_ms = 0  # what was due by then was handed out
        self._sure = not timers.moved  # nothing was delivered by an earlier process beyond that
        self.skipped = 0  # timers in blocks that can't be read

    async def file(self, bucket: int) -> TimerFile:
        """Raises DamagedLog when it is not the one it should be."""
        opened = self._opened.get(bucket)
        if opened is None:
            known = self._timers.buckets.get(bucket)
            if known is None:
                raise DamagedLog(f"bucket {bucket} is gone")
            checksum = known.checksum

            def open_file() -> TimerFile:
                file = TimerFile(self._files, bucket, checksum=checksum)
                file.due_of_block(0)  # reads the fences
                return file

            opened = await asyncio.get_running_loop().run_in_executor(self._executor, open_file)
            if bucket in self._timers.buckets:
                self._opened[bucket] = opened
        return opened

    def opened(self, bucket: int) -> TimerFile:
        """One whose block is loaded."""
        return self._opened[bucket]

    def wants(self, until_ms: int) -> bool:
        """Is there anything to load?"""
        self._follow()
        return any(self._wants(window, until_ms) for window in self._windows.values())

    def next_due_ms(self) -> int | None:
        """No timer in a bucket is due before; None where there is none. What can't be read now is left out."""
        self._follow()
        now_ms = self._clock.monotonic_ms()
        return min((w.next_due_ms for w in self._windows.values() if w.not_before_ms <= now_ms), default=None)

    def _follow(self) -> None:
        """Windows for the buckets that there are."""
        buckets = self._timers.buckets
        if buckets.keys() == self._windows.keys():
            return
        for gone in self._windows.keys() - buckets.keys():
            del self._windows[gone]
            self._opened.pop(gone, None)
        for number in buckets.keys() - self._windows.keys():
            self._windows[number] = Window(number, buckets[number].floor, buckets[number].next_due_ms)

    # ---- loading

    async def load(self, until_ms: int) -> None:
        """Have at hand what is due by a time: of each bucket the block with its next timer."""
        self._follow()
        for window in list(self._windows.values()):
            while self._wants(window, until_ms):
                await self._load_block(window)

    def _wants(self, window: Window, until_ms: int) -> bool:
        return (
            self._windows.get(window.bucket) is window
            and not window.is_loaded
            and window.next_due_ms <= until_ms
            and window.not_before_ms <= self._clock.monotonic_ms()
        )

    async def _load_block(self, window: Window) -> None:
        number = window.at // BLOCK
        try:
            file = await self.file(window.bucket)
        except Corrupted as failure:
            self._failed(window, failure)
            return
        try:
            entries = await asyncio.get_running_loop().run_in_executor(self._executor, file.block, number)
        except Corrupted as failure:
            self._failed(window, failure)
            if window.failures >= TRIES:
                upto = min(file.head.count, (number + 1) * BLOCK)
                self.skipped += upto - window.at
                self._log.warning("timers_skipped", bucket=file.name, count=upto - window.at, reason=str(failure))
                self._jump(window, file, upto)
            return
        window.first, window.entries, window.failures = number * BLOCK, entries, 0
        self._settle(window, file)

    def _failed(self, window: Window, failure: Corrupted) -> None:
        window.failures += 1
        window.not_before_ms = self._clock.monotonic_ms() + RETRY_MS
        bucket = self._timers.buckets.get(window.bucket)
        if bucket is not None:
            self._log.warning(
                "timers_unreadable", bucket=window.bucket, count=bucket.left, next_due_ms=bucket.next_due_ms,
                last_due_ms=bucket.last_due_ms, reason=str(failure),
            )  # fmt: skip

    def _jump(self, window: Window, file: TimerFile, position: int) -> None:
        window.at, window.failures, window.not_before_ms = position, 0, 0
        if position < file.head.count:
            window.next_due_ms = file.due_of_block(position // BLOCK)
        else:
            window.next_due_ms = BEHIND_ALL[0]

    def _settle(self, window: Window, file: TimerFile) -> None:
        """Go on over what is retired."""
        at, entries, first = window.at, window.entries, window.first
        bucket = self._timers.buckets.get(window.bucket)
        if bucket is None:
            return
        moved = self._timers.moved
        while at - first < len(entries) and self.is_retired(window.bucket, at, entries[at - first]):
            place = entries[at - first].log_offset, entries[at - first].record
            if place in moved:
                self._passed.add(place)
            elif place in self.unreadable:
                self.unreadable.discard(place)
                self._lost[entries[at - first].incarnation] = self._lost.get(entries[at - first].incarnation, 0) + 1
            at += 1
        if at - first < len(entries):
            window.at, window.next_due_ms = at, entries[at - first].due_ms
        else:
            self._jump(window, file, at)

    def is_retired(self, bucket: int, position: int, entry: Entry) -> bool:
        known = self._timers.buckets.get(bucket)
        if known is None or known.is_retired(position) or self._timers.is_deleted(entry.incarnation):
            return True
        place = entry.log_offset, entry.record
        return place in self._timers.moved or place in self.unreadable

    # ---- what is due

    def upcoming(self, now_ms: int, limit: int, *, without: set[Place]) -> tuple[list[Waiting], Order]:
        """Timers of buckets whose time has come, of those at hand, and up to where that is all there is."""
        self._latest_ms = max(self._latest_ms, now_ms)
        found: list[Waiting] = []
        bound = BEHIND_ALL
        for window in self._windows.values():
            if window.next_due_ms > now_ms or window.not_before_ms > self._clock.monotonic_ms():
                continue
            if not window.is_loaded:
                bound = min(bound, (window.next_due_ms, -1, 0))
                continue
            count = 0
            for number in range(window.at - window.first, len(window.entries)):
                entry = window.entries[number]
                if entry.due_ms > now_ms:
                    break
                if count == limit:
                    bound = min(bound, (entry.due_ms, entry.log_offset, entry.record))
                    break
                position = window.first + number
                place = entry.log_offset, entry.record
                if place not in without and not self.is_retired(window.bucket, position, entry):
                    timer = Timer(entry.due_ms, *place, entry.incarnation, entry.queue)
                    found.append(Waiting(timer, window.bucket, position, entry))
                    count += 1
            else:
                last = window.entries[-1]
                if window.first + len(window.entries) < self._timers.buckets[window.bucket].count:
                    bound = min(bound, (last.due_ms, last.log_offset, last.record + 1))

        return found, bound

    def floors(self, now_ms: int) -> dict[str, Any] | None:
        """Go forward; the record that says how far, once it may be written."""
        if not self._timers.buckets:
            return None
        self._follow()
        for window in self._windows.values():
            if window.is_loaded and window.bucket in self._opened:
                self._settle(window, self._opened[window.bucket])
        latest_ms = max(self._latest_ms, now_ms)
        exact = len(self._passed) == len(self._timers.moved)
        if not exact and not (self._sure and all(w.next_due_ms > latest_ms for w in self._windows.values())):
            return None
        changed = [
            [window.bucket, window.at, window.next_due_ms]
            for window in self._windows.values()
            if window.at > self._timers.buckets[window.bucket].floor
        ]
        if not changed and not self._timers.moved:
            return None
        record: dict[str, Any] = {"t": "tm<", "f": changed}
        if self._lost:
            record["lost"] = list(self._lost.items())
            self._lost.clear()
        self._passed.clear()
        self._sure = True
        return record
