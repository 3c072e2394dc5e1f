"""What a simulated process does now and then: seals segments, writes snapshots, deletes what nobody needs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kourou.broker.store import fullcopy, snapshot
from kourou.broker.store.epochs import PART as EPOCHS_PART
from kourou.broker.store.recovery import INDEX_PART
from kourou.core.errors import Busy, DiskFull

if TYPE_CHECKING:
    from tests.sim.process import Process


def upkeep(process: Process) -> None:
    """Seal full segments, write a snapshot when it is time, delete what nobody needs."""
    store = process.store
    store.space.refresh()
    store.mending.run()
    while (job := store.take_seal_job()) is not None:
        job.run()
        store.finish_seal(job)
    try:
        if process.copy is not None:
            if process.complete:
                _snapshot(process)
                if store.snapshot_offset <= process.confirmed:
                    fullcopy.end(process.files)
                    process.copy = None
                    process.seen("log: copy complete")
        elif store.end_offset - store.snapshot_offset >= process.settings.snapshot_bytes:
            _snapshot(process)
        _retain(process)
    except DiskFull:
        return
    except Busy:  # an index is damaged: it is made anew with the next round
        process.seen("bit rot: met by upkeep")


def _snapshot(process: Process) -> None:
    store = process.store
    offset = store.end_offset
    if offset <= store.snapshot_offset or store.snapshot_offset > process.confirmed:
        return
    captured = process.state.parts()
    parts: dict[str, list[bytes]] = {INDEX_PART: store.index.export_open(), EPOCHS_PART: [store.epochs.encode()]}
    parts.update({name: list(slices) for name, slices in captured.items()})
    process.sync()
    snapshot.write(process.files, offset, snapshot.encode(offset, parts))
    store.snapshot_offset = offset
    process.seen("snapshots by masters" if process.leading is not None else "snapshots by slaves")
    process.oldest_snapshot = min(snapshot.offsets(process.files), default=0)


def _retain(process: Process) -> None:
    store = process.store
    oldest = process.oldest_snapshot if process.oldest_snapshot <= process.confirmed else 0
    floor = min(oldest, store.end_offset - process.settings.retention_bytes, process.confirmed)
    if process.leading is not None:
        needed = process.leading.machine.needed_from(lagging_bytes_max=process.settings.lagging_bytes_max)
        floor = min(floor, floor if needed is None else needed)
    held = process.state.transactions.lowest_log_offset(), process.state.timers.lowest_log_offset()
    floor = min((floor, *(offset for offset in held if offset is not None)))
    for base in store.droppable(floor=floor):
        store.drop_segment(base)
        process.seen("segments dropped by masters" if process.leading is not None else "segments dropped by slaves")
    if process.leading is not None:
        process.leading.machine.trimmed(store.min_offset)
