"""The tail that a cold master lost with its page cache, and that a slave of it has: taken back before the master serves.

The slave lends what follows on the master's log, frame by frame the same; of that epoch only, for a later one has another
master. Nothing is cut here: a log that is not the beginning of the slave's is refused.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from kourou.broker.machines.history import is_history, meeting_point
from kourou.broker.services.replication.master import Log
from kourou.broker.services.replication.timerfiles import Piece, TimerFiles
from kourou.broker.services.state import BrokerState
from kourou.broker.store.copying import append_frames, check_frames, read_frames
from kourou.broker.store.identity import Identity
from kourou.broker.store.store import Store
from kourou.core import fields
from kourou.core.errors import BadRequest, ReplicaRefused

TAIL_BYTES = 1024 * 1024

Ask = Callable[[dict[str, Any]], Awaitable[memoryview]]


def request(store: Store, identity: Identity) -> dict[str, Any]:
    return {
        "cluster": identity.cluster,
        "group": identity.broker,
        "history": [list(pair) for pair in store.epochs.entries],
        "end": store.end_offset,
    }


def read_tail(store: Store, identity: Identity, value: dict[str, Any]) -> bytes:
    """*Blocking*. What follows on the asker's log; empty at the end of this one. Raises ReplicaRefused."""
    if (value.get("cluster"), value.get("group")) != (identity.cluster, identity.broker):
        raise ReplicaRefused(f"this is broker {identity.broker!r} of cluster {identity.cluster!r}")
    try:
        history = [(int(epoch), int(start)) for epoch, start in value["history"]]
    except (KeyError, TypeError, ValueError):
        raise BadRequest("field 'history' is not a list of pairs") from None
    end = fields.number(value, "end", high=(1 << 63) - 1)
    mine = list(store.epochs.entries)
    if not history or not mine or not is_history(history) or history[-1] != mine[-1]:
        raise ReplicaRefused("the two logs are not in the same epoch")
    if end < store.min_offset or end > store.end_offset or meeting_point(history, end, mine, store.end_offset) != end:
        raise ReplicaRefused(f"a log that ends at {end} does not go on in this one")
    if end == store.end_offset:
        return b""
    return read_frames(store, end, end=store.end_offset, bytes_max=TAIL_BYTES, cached_only=False) or b""


async def take_tail(store: Store, state: BrokerState, identity: Identity, *, ask: Ask, piece: Piece, log: Log) -> int:
    """Append what a slave has more, durably; how many bytes. Raises KourouError: what was appended till then stays."""
    files = TimerFiles(store.files, state.timers, log=log)
    await files.fetch(files.missing_of_state(), piece)
    epoch = store.epochs.latest
    start = store.end_offset
    while len(data := await ask(request(store, identity))):
        frames = check_frames(data, store.end_offset, epoch_min=epoch, epoch_max=epoch)
        await files.fetch(files.missing_of(frames), piece)
        append_frames(store, data, frames)
        for item in frames:
            state.recovered(item.prefix, item.header, item.sealed)
    store.note_synced(store.sync())
    return store.end_offset - start
