"""What the store does by itself: append, read back, reopen. `python bench/store.py DIRECTORY GIB` (made, then deleted).

Not measured here: the network, the event loop, producers. All on one thread; MB are 10^6 bytes, MiB 2^20.
"""

from __future__ import annotations

import shutil
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / part) for part in ("core", "broker")]

from kourou.broker.store import snapshot
from kourou.broker.store.columns import check_columns
from kourou.broker.store.files import OsFiles
from kourou.broker.store.inspect import verify
from kourou.broker.store.recovery import INDEX_PART, open_store
from kourou.broker.store.store import CheckedFrame, Store, StoreConfig
from kourou.core.frame import parse_sealed, seal


def frames(size: int, records: int, count: int) -> list[CheckedFrame]:
    found = []
    for number in range(count):
        sealed = seal(
            topic="t", queue_id=number % 8, records=[bytes(size)] * records, born_ms=0, producer_id=1, sequence=number
        )
        header = parse_sealed(sealed)
        crc = int.from_bytes(sealed[-4:], "little")
        found.append(CheckedFrame(sealed, header, crc, 1, check_columns(sealed, 0, header)))
    return found


def reopen(root: Path, what: str) -> Store:
    started = time.perf_counter()
    opened = open_store(
        OsFiles(root),
        StoreConfig(),
        restore=lambda parts: None,
        apply=lambda *frame: None,
        notice=lambda event, fields: None,
    )
    took_ms = (time.perf_counter() - started) * 1000
    end = opened.store.end_offset >> 20
    print(f"open, {what}: {took_ms:.0f} ms for a log of {end} MiB; {opened.frames_replayed} frames replayed")
    return opened.store


def finish(store: Store) -> None:
    store.note_synced(store.sync())
    while (job := store.take_seal_job()) is not None:
        job.run()
        store.finish_seal(job)


def take_snapshot(store: Store) -> None:
    offset = store.end_offset
    snapshot.write(store.files, offset, snapshot.encode(offset, {INDEX_PART: store.index.export_open()}))


def append(store: Store, batch: list[CheckedFrame], at_once: int, what: str) -> None:
    started = time.perf_counter()
    for first in range(0, len(batch), at_once):
        store.append(batch[first : first + at_once], store_ms=1)
    took = time.perf_counter() - started
    size = sum(one.header.size for one in batch)
    print(f"append {what}, {at_once} a call: {took / len(batch) * 1e6:.2f} us a frame, {size / took / 1e6:.0f} MB/s")


def read_back(store: Store, key: int, what: str) -> None:
    started, total, reads = time.perf_counter(), 0, 0
    at, high = store.queue_bounds(key)
    while at < high:
        plan = store.plan(key, at, bytes_max=1 << 20, below=store.end_offset)
        data = store.read(plan, cached_only=True)
        assert data
        at, total, reads = plan.next_offset, total + len(data), reads + 1
    took = time.perf_counter() - started
    print(f"read {what}: {total / took / 1e6:.0f} MB/s, {took / reads * 1e6:.0f} us a read")


def main(root: Path, gib: int) -> None:
    store = reopen(root, "empty")
    store.begin_epoch(1, store_ms=1)
    large, small = frames(1024, 128, 200), frames(100, 1, 5_000)
    append(store, large, 200, "200 x 128 KiB, cold")
    for at_once in (200, 8, 1):
        append(store, large, at_once, "200 x 128 KiB")
    read_back(store, 1 << 32, "1 MiB of a queue among 8")
    for at_once in (1000, 1):
        append(store, small, at_once, "single 100 B records")
    started = time.perf_counter()
    while store.end_offset < gib << 30:
        store.append(large, store_ms=1)
        if store.end_offset - store.synced_offset > 64 << 20:
            finish(store)
    finish(store)
    print(f"grown to {gib} GiB, synced and sealed in line: {time.perf_counter() - started:.1f} s")
    take_snapshot(store)
    for _ in range(9):
        store.append(large, store_ms=1)
    store.close()
    store = reopen(root, "snapshot and 225 MiB behind it")
    take_snapshot(store)
    store.close()
    reopen(root, "after a clean stop").close()
    for offset in snapshot.list_offsets(OsFiles(root)):
        OsFiles(root).remove(snapshot.snapshot_name(offset))
    reopen(root, "indexes but no snapshot").close()
    started = time.perf_counter()
    problems = list(verify(OsFiles(root)))
    print(f"verify: {time.perf_counter() - started:.1f} s, {len(problems)} problems")
    shutil.rmtree(root)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
