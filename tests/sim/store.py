"""A store on a simulated disk, and what a test needs to drive one."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from random import Random

from kourou.broker.store import snapshot
from kourou.broker.store.columns import check_columns
from kourou.broker.store.epochs import PART
from kourou.broker.store.files import Files
from kourou.broker.store.recovery import INDEX_PART, Recovered, open_store
from kourou.broker.store.store import Appended, CheckedFrame, Store, StoreConfig
from kourou.core.frame import Kind, Prefix, SealedHeader, check_frame, parse_sealed, seal
from tests.sim.disk import SimDisk

SMALL = StoreConfig(segment_bytes=4096, full_ratio=1.0, reserve_bytes=0)
START_MS = 1_700_000_000_000


@cache
def sealed_message(queue_id: int, sequence: int, size: int, count: int = 1) -> bytes:
    body = Random(f"{queue_id} {sequence} {size}").randbytes(size)
    records = [body] * count
    return seal(topic="t", queue_id=queue_id, records=records, born_ms=START_MS, producer_id=7, sequence=sequence)


def message(queue_id: int, sequence: int, size: int, count: int = 1) -> CheckedFrame:
    sealed = sealed_message(queue_id, sequence, size, count)
    header = parse_sealed(sealed)
    return CheckedFrame(sealed, header, int.from_bytes(sealed[-4:], "little"), 1, check_columns(sealed, 0, header))


def metadata(text: bytes) -> CheckedFrame:
    return CheckedFrame.trusted(seal(topic="", queue_id=0, records=[text], born_ms=START_MS, kind=Kind.METADATA))


@dataclass
class Opened:
    """A store, what its opening replayed, and the notices it gave."""

    files: Files
    config: StoreConfig = SMALL
    notices: list[tuple[str, dict[str, object]]] = field(default_factory=list)
    replayed: list[tuple[int, bytes]] = field(default_factory=list)  # log offset, sealed part
    state: bytes = b""  # a projection: what was in the snapshot's part
    store: Store = field(init=False)
    recovered: Recovered = field(init=False)

    def __post_init__(self) -> None:
        self.files.lock()
        self.recovered = open_store(
            self.files,
            self.config,
            restore=self._restore,
            apply=self._apply,
            notice=lambda event, fields: self.notices.append((event, fields)),
        )
        self.store = self.recovered.store

    def _restore(self, parts: snapshot.Parts) -> None:
        self.state = parts["state"]

    def _apply(self, prefix: Prefix, header: SealedHeader, sealed: memoryview) -> None:
        self.replayed.append((prefix.log_offset, bytes(sealed)))

    @property
    def events(self) -> list[str]:
        return [event for event, _ in self.notices]

    def append(self, *frames: CheckedFrame, store_ms: int = START_MS, client: bool = True) -> list[Appended]:
        return self.store.append(frames, store_ms=store_ms, client=client)

    def sync(self) -> None:
        self.store.note_synced(self.store.sync())

    def seal(self) -> None:
        while (job := self.store.take_seal_job()) is not None:
            job.run()
            self.store.finish_seal(job)

    def snapshot(self, state: bytes = b"") -> None:
        self.sync()
        offset = self.store.end_offset
        parts = {INDEX_PART: self.store.index.export_open(), PART: [self.store.epochs.encode()], "state": [state]}
        snapshot.write(self.files, offset, snapshot.encode(offset, parts))
        self.store.snapshot_offset = offset

    def frames(self) -> list[tuple[int, bytes]]:
        """(log offset, sealed part) of every frame, read and checked."""
        log = self.store.log
        found = []
        for offset in log.frames(log.start, log.end):
            data = self.store.read_frame(offset)
            check_frame(data)
            found.append((offset, data[48:]))
        return found

    def queue(self, key: int, *, bytes_max: int = 1 << 20) -> bytes:
        """Everything a consumer sees of a queue."""
        low, high = self.store.queue_bounds(key)
        data = b""
        while low < high:
            plan = self.store.plan(key, low, bytes_max=bytes_max, below=self.store.end_offset)
            data += self.store.read(plan, cached_only=False) or b""
            assert plan.next_offset > low
            low = plan.next_offset
        return data


def open_disk(disk: SimDisk, config: StoreConfig = SMALL) -> Opened:
    return Opened(disk.files(), config)
