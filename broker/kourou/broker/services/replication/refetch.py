"""What a slave's disk has damaged in its log, fetched from its master and written over it.

The master has the very same bytes: frames are checked as they are when they arrive in the stream, and have to fill the
damaged range exactly. Writing them in place needs no care for a crash: what is half written is damaged, as it was before.
In the segment that is open only the loop's thread writes; it is made durable with what is appended next.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import Executor

from kourou.broker.store.copying import check_frames
from kourou.broker.store.files import File
from kourou.broker.store.store import Store
from kourou.core.errors import DamagedLog

Ask = Callable[[int, int], Awaitable[memoryview]]  # whole frames of the master's log from an offset on, below another


async def refetch(store: Store, start: int, end: int, *, ask: Ask, executor: Executor) -> None:
    """Make the log whole from ``start`` to ``end``, which are frames' starts, or where a segment ends or should have ended.

    Raises KourouError; what was written till then is right. After FlushFailed the disk is not to be trusted any more.
    """
    at = start
    while at < end:
        data = await ask(at, end)
        check_frames(data, at, epoch_min=0, epoch_max=store.epochs.latest)
        if not 0 < len(data) <= end - at:
            raise DamagedLog(f"{len(data)} bytes are there for the log from {at} to {end}")
        file, place = _room(store, at, len(data))
        store.unindex(at)
        if at >= store.log.bases[-1]:
            file.overwrite(place, data)
        else:
            await asyncio.get_running_loop().run_in_executor(executor, _write, file, place, data)
        at += len(data)
    store.mended(start, end)


def _room(store: Store, offset: int, size: int) -> tuple[File, int]:
    """Where it belongs: within its segment, over what is there or right behind it."""
    log = store.log
    base = log.base_of(offset)
    if base is None or offset + size > log.segment_end(base) or offset - base > log.file(base).size:
        raise DamagedLog(f"the log from {offset} to {offset + size} is in no segment")
    return log.file(base), offset - base


def _write(file: File, place: int, data: memoryview) -> None:
    """Raises DamagedLog when the disk does not keep it."""
    file.overwrite(place, data)
    file.sync()
    file.forget(place, len(data))
    if file.read(place, len(data)) != data:
        raise DamagedLog("what was written to the disk is not what is read from it")
