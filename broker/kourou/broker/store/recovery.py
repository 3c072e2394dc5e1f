"""Opening a data directory after a clean stop, kill -9 or a power cut.

The newest whole snapshot is restored; the log behind it is read frame by frame, which rebuilds the index of the open
segment and replays the projections in the same pass. Sealed segments are covered by their .idx files and not read.

An invalid place in the log is one of two things. At or above the last offset known to be durable (``confirm``) it is a
torn tail: what a crash left of writes nobody was promised. It is cut, and the notice says so. Below that offset it is
damage: it is never cut. The next valid frame is searched, the range between is named and remembered as unreadable.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kourou.broker.store import snapshot
from kourou.broker.store.columns import check_columns
from kourou.broker.store.commitlog import CommitLog, index_name
from kourou.broker.store.diskspace import DiskSpace
from kourou.broker.store.files import Files
from kourou.broker.store.logindex import LogIndex
from kourou.broker.store.scan import Invalid, ScannedFrame, find_next, scan
from kourou.broker.store.store import Notice, Store, StoreConfig, read_confirm
from kourou.core.errors import DamagedLog
from kourou.core.frame import Kind, Prefix, SealedHeader

INDEX_PART = "index"
Apply = Callable[[Prefix, SealedHeader, memoryview], None]


@dataclass(slots=True)
class Recovered:
    store: Store
    snapshot_offset: int
    frames_replayed: int
    bytes_cut: int


def open_store(
    files: Files,
    config: StoreConfig,
    *,
    restore: Callable[[snapshot.Parts], None],
    apply: Apply,
    notice: Notice,
) -> Recovered:
    """Open the store. ``restore`` gets the snapshot's parts, if there is one; ``apply`` each later frame in order."""
    log = CommitLog(files, segment_bytes=config.segment_bytes)
    index = LogIndex(files, base=log.start, name=index_name)
    found = snapshot.load_newest(files, log_end=log.end, notice=notice)
    replay_from = log.start
    if found is not None:
        replay_from, parts = found
        index.import_open(parts.pop(INDEX_PART))
        restore(parts)
    elif log.start > 0:
        raise DamagedLog(f"the log starts at {log.start} and no whole snapshot is left: its topics and offsets are lost")
    opener = _Opener(files, log, index, apply, notice, durable=read_confirm(files), replay_from=replay_from)
    opener.run()
    space = DiskSpace(files, full_ratio=config.full_ratio, reserve_bytes=config.reserve_bytes)
    space.refresh()
    epoch = max(opener.epoch, _epoch_of(log, replay_from, opener.epoch))
    store = Store(files, log, index, space, epoch=epoch, synced_offset=min(opener.durable, log.end))
    store.snapshot_offset = replay_from if found is not None else 0
    store.damaged = opener.damaged
    return Recovered(store, store.snapshot_offset, opener.replayed, opener.bytes_cut)


def _epoch_of(log: CommitLog, replay_from: int, found: int) -> int:
    """The epoch at the end of the log; where nothing was replayed, that of the last frame there is."""
    if found:
        return found
    epoch = 0
    base = log.bases[-1] if log.end > log.bases[-1] or len(log.bases) == 1 else log.bases[-2]
    for item in scan(log.file(base), base, base):
        if isinstance(item, ScannedFrame):
            epoch = item.prefix.epoch
    return epoch


class _Opener:
    def __init__(
        self,
        files: Files,
        log: CommitLog,
        index: LogIndex,
        apply: Apply,
        notice: Notice,
        *,
        durable: int,
        replay_from: int,
    ) -> None:
        self._files = files
        self._log = log
        self._index = index
        self._apply = apply
        self._notice = notice
        self._replay_from = replay_from
        self.durable = durable
        self.damaged: list[tuple[int, int]] = []
        self.epoch = 0
        self.replayed = 0
        self.bytes_cut = 0

    def run(self) -> None:
        for base in list(self._log.bases):
            if base not in self._log.bases:
                break  # the log was cut before it
            last = base == self._log.bases[-1]
            if last:
                self._open_last(base)
            else:
                self._open_closed(base)

    def _open_closed(self, base: int) -> None:
        end = self._log.segment_end(base)
        try:
            self._index.load_sealed(base)
        except DamagedLog as failure:
            self._notice("index_rebuilt", {"segment": base, "reason": str(failure)})
            if not self._rebuild(base):
                return
        else:
            if end > self._replay_from:
                self._walk(base, max(base, self._replay_from), lambda item: None)

    def _rebuild(self, base: int) -> bool:
        """Make the index of a closed segment; False when the log was cut in it, so that it is the last one now."""
        rebuild = self._index.rebuild(base)

        def add(item: ScannedFrame) -> None:
            rebuild.add(*_index_entry(item))

        if not self._walk(base, base, add):
            self._open_last(base, replay=False)
            return False
        self._files.write_atomic(index_name(base), rebuild.build(self._log.segment_end(base)))
        self._index.load_sealed(base)
        return True

    def _open_last(self, base: int, *, replay: bool = True) -> None:
        if self._index.open_base < base:
            self._index.start(base)
        covered = max(base, self._index.covered)
        start = max(base, min(covered, self._replay_from))
        replay_from, self._replay_from = self._replay_from, self._replay_from if replay else self._log.end

        def add(item: ScannedFrame) -> None:
            if item.prefix.log_offset >= covered:
                self._index.add(*_index_entry(item))

        self._walk(base, start, add)
        self._replay_from = replay_from

    def _walk(self, base: int, start: int, add: Callable[[ScannedFrame], None]) -> bool:
        """Feed the frames of a segment to the index and the projections; False when the log was cut here."""
        file = self._log.file(base)
        at: int | None = start
        while at is not None:
            following: int | None = None
            for item in scan(file, base, at):
                if isinstance(item, Invalid):
                    following = self._invalid(base, item)
                    if following is None and item.log_offset >= self.durable:
                        return False
                    break
                add(item)
                self._take(item)
            at = following
        return True

    def _take(self, item: ScannedFrame) -> None:
        self.epoch = max(self.epoch, item.prefix.epoch)
        if item.prefix.log_offset >= self._replay_from:
            self._apply(item.prefix, item.header, item.sealed)
            self.replayed += 1

    def _invalid(self, base: int, item: Invalid) -> int | None:
        """Cut a torn tail (None), or name damage and find where to go on."""
        end = self._log.end
        if item.log_offset >= self.durable:
            self._log.truncate(item.log_offset)
            self.bytes_cut += end - item.log_offset
            self._notice(
                "torn_tail_cut",
                {"log_offset": item.log_offset, "bytes": end - item.log_offset, "reason": item.reason},
            )
            return None
        segment_end = self._log.segment_end(base)
        following = find_next(self._log.file(base), base, item.log_offset + 1)
        upto = following if following is not None else segment_end
        self.damaged.append((item.log_offset, upto))
        self._notice("log_damaged", {"from": item.log_offset, "to": upto, "reason": item.reason})
        return following


def _index_entry(item: ScannedFrame) -> tuple[int, int, int, int, int, int, int, int, int, NDArray[np.uint32] | None]:
    prefix, header = item.prefix, item.header
    if header.kind == Kind.MESSAGES:
        facts = check_columns(item.sealed, 0, header)
        mask, hashes = facts.tag_mask, facts.key_hashes
    else:
        mask, hashes = 0, None
    key = prefix.incarnation << 32 | header.queue_id
    return (
        key,
        prefix.queue_offset,
        prefix.log_offset,
        prefix.size,
        header.record_count,
        mask,
        prefix.store_ms,
        header.producer_id,
        header.sequence,
        hashes,
    )
