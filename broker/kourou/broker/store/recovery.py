"""Opening a data directory after a clean stop, kill -9 or a power cut.

The newest whole snapshot is restored; the log behind it is read frame by frame, which rebuilds the index of the open
segment and replays the projections in the same pass. Sealed segments are covered by their .idx files and not read.

An invalid place in the log is one of two things. At or above the last offset known to be durable it is a torn tail: what
a crash left of writes nobody was promised. It is cut, with all that follows, and the notice says so. Below that offset it
is damage: it is never cut. The next valid frame is searched, the range between is named and remembered as unreadable.

Known to be durable is the log up to what ``confirm`` says, up to the newest snapshot (written after an fdatasync) and up
to the end of the newest segment with an .idx (written after an fdatasync), whichever is most.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from kourou.broker.store import snapshot
from kourou.broker.store.commitlog import FOLDER, CommitLog, index_name, list_bases, parse_name
from kourou.broker.store.confirm import Confirm
from kourou.broker.store.diskspace import DiskSpace
from kourou.broker.store.epochs import PART as EPOCHS_PART
from kourou.broker.store.epochs import Epochs
from kourou.broker.store.files import Files
from kourou.broker.store.fullcopy import Copy
from kourou.broker.store.indexfile import DamagedIndex
from kourou.broker.store.indexrebuild import IndexRebuild
from kourou.broker.store.indexrebuild import frame_entry as frame_entry
from kourou.broker.store.logindex import LogIndex
from kourou.broker.store.mending import mend
from kourou.broker.store.scan import Invalid, ScannedFrame, find_next, scan
from kourou.broker.store.store import Notice, Store, StoreConfig
from kourou.core.errors import Busy, DamagedLog, FrameInvalid, UnsupportedVersion
from kourou.core.frame import PREFIX_SIZE, Prefix, SealedHeader, parse_prefix

INDEX_PART = "index"
METADATA_KEY = 0
Apply = Callable[[Prefix, SealedHeader, memoryview], None]
Add = Callable[[ScannedFrame], None]


@dataclass(slots=True)
class Recovered:
    store: Store
    snapshot_offset: int
    frames_replayed: int
    bytes_cut: int
    folded_from: int  # the state knows what is below from elsewhere


@contextmanager
def uncollected() -> Iterator[None]:
    """Without the garbage collector: of what is made when a log is opened nothing is garbage, and walking it again and
    again takes half of the time."""
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()


@uncollected()
def open_store(
    files: Files,
    config: StoreConfig,
    *,
    restore: Callable[[snapshot.Parts], None],
    apply: Apply,
    notice: Notice,
    copied: Copy | None = None,
) -> Recovered:
    """Open the store. ``restore`` gets the snapshot's parts, if there is one; ``apply`` each later frame in order.
    ``copied`` stands in for a snapshot while there is none: the log may not reach up to it yet."""
    space = DiskSpace(files, full_ratio=config.full_ratio, reserve_bytes=config.reserve_bytes)
    space.refresh()  # a full disk gives up its reserve before anything is written
    log = CommitLog(files, segment_bytes=config.segment_bytes)
    indexed = _sweep(files, log, notice)
    confirm = Confirm(files)
    found = snapshot.load_newest(files, log_end=log.end, notice=notice)
    durable = max([confirm.offset, *(log.segment_end(base) for base in indexed), found[0] if found is not None else 0])
    index = LogIndex(files, base=log.start, name=index_name)
    opener = _Opener(files, log, index, apply, notice, durable=durable)
    opener.check_holes()
    older: bytes | None = None  # epochs as a snapshot knows them
    if found is not None:
        opener.replay_from, parts = found
        older = parts.pop(EPOCHS_PART, None)  # absent in older ones
        index.import_open(parts.pop(INDEX_PART))
        restore(parts)
    elif copied is not None:
        opener.replay_from = copied.offset
        older = copied.parts.get(EPOCHS_PART)
        restore(copied.parts)
    elif log.start > 0:
        raise DamagedLog(f"the log starts at {log.start} and no whole snapshot is left: its topics and offsets are lost")
    opener.run()
    if found is None and copied is not None and copied.index is not None:
        index.import_queues(copied.index, covered=copied.offset)
    if log.end < confirm.offset:
        notice("durable_bytes_missing", {"log_end": log.end, "durable": confirm.offset})
        confirm.lower(log.end)
    store = Store(files, log, index, space, confirm, opener.epochs, damaged=opener.damaged, notice=notice)
    store.snapshot_offset = opener.replay_from if found is not None else 0
    store.fresh_frames = opener.replayed
    if opener.epochs_missing:
        while True:
            try:
                _read_epochs(store, older, notice)
                break
            except Busy:  # an index is damaged; there may be others
                store.mending.run()  # DamagedLog for one that does not come right
    elif opener.epochs.entries != opener.epochs_saved:
        opener.epochs.save(files)  # the next opening may begin behind the frame that told of it
    store.note_synced(store.sync())  # frames that kill -9 left in the page cache are about to be served
    return Recovered(store, store.snapshot_offset, opener.replayed, opener.bytes_cut, opener.replay_from)


def _sweep(files: Files, log: CommitLog, notice: Notice) -> list[int]:
    """Delete what an interrupted write or deletion left; bases of closed segments that have an index."""
    left_over: list[str] = []
    for name in files.list(FOLDER):
        if name.endswith(".tmp"):
            left_over.append(f"{FOLDER}/{name}")
        elif parse_name(name, ".seg") is None and parse_name(name, ".idx") is None:
            notice("file_ignored", {"name": f"{FOLDER}/{name}", "reason": "it is not named like a segment or an index"})
    indexed: list[int] = []
    for base in list_bases(files, ".idx"):
        if base in log.bases[:-1]:
            indexed.append(base)
        else:  # its segment is gone, or was cut and is open again
            left_over.append(index_name(base))
    for name in left_over:
        files.remove(name)
    if left_over:
        files.sync_folder(FOLDER)  # an old index must not come back beside what is written from here on
    return indexed


def _read_epochs(store: Store, older: bytes | None, notice: Notice) -> None:
    """The cache is gone: look at every frame of the metadata queue, which holds the EPOCH frames. Of what retention has
    deleted a snapshot knows: without the place where the first epoch began the log would share none with other members'."""
    past, found = Epochs.decode(older), Epochs()
    if past is not None:
        found.entries = [entry for entry in past.entries if entry[1] < store.log.start]
    low, high = store.queue_bounds(METADATA_KEY)
    heads = {offset for _, offset in store.epochs.entries}
    while low < high:
        refs = store.index.refs(METADATA_KEY, low, limit=256)
        if not refs:
            break
        heads.update(ref.log_offset for ref in refs)
        low = refs[-1].queue_offset + refs[-1].count
    if store.log.end > store.log.start:
        heads.add(store.log.start)
    for offset in sorted(heads):
        file, at = store.log.locate(offset)
        try:
            found.note(parse_prefix(file.read(at, PREFIX_SIZE)).epoch, offset)
        except (FrameInvalid, UnsupportedVersion):
            continue  # damaged; it is named where the log is read
    store.epochs.entries = found.entries
    store.epoch = store.epochs.latest
    if store.epochs.entries:
        notice("epochs_rebuilt", {"epochs": len(store.epochs.entries), "latest": store.epoch})
        store.epochs.save(store.files)


class _Opener:
    def __init__(self, files: Files, log: CommitLog, index: LogIndex, apply: Apply, notice: Notice, *, durable: int) -> None:
        self._files = files
        self._log = log
        self._index = index
        self._apply = apply
        self._notice = notice
        self._durable = durable
        epochs = Epochs.load(files)
        self.epochs_missing = epochs is None
        self.epochs = epochs or Epochs()
        self.epochs_saved = list(self.epochs.entries)
        self.replay_from = log.start
        self.damaged: list[tuple[int, int]] = []
        self.replayed = 0
        self.bytes_cut = 0

    def check_holes(self) -> None:
        """Segments follow one another, unless a power cut took the end of one that was not durable."""
        for end, start in self._log.holes():
            if end > start:
                raise DamagedLog(f"segments overlap: one ends at {end}, the next starts at {start}; nothing was changed")
            if end >= self._durable:
                self._cut(end, "the segment ends before the next one starts")
                return
            self._unreadable(end, start, "the segment ends before the next one starts")

    def run(self) -> None:
        for base in list(self._log.bases):
            if base not in self._log.bases:
                break  # the log was cut before it
            if base == self._log.bases[-1]:
                self._open_last(base)
            else:
                self._open_closed(base)
        self.epochs.cut(self._log.end)

    def _open_closed(self, base: int) -> None:
        end = self._log.segment_end(base)
        try:
            self._index.load_sealed(base)
        except DamagedLog as failure:
            self._notice("index_rebuilt", {"segment": base, "reason": str(failure)})
            self._rebuild(base)
        else:
            if end > self.replay_from:
                self._walk(base, max(base, self.replay_from), None)

    def _rebuild(self, base: int) -> None:
        """Make the index of a closed segment, in the pass that replays it."""
        rebuild = self._index.rebuild(base)
        if not self._walk(base, base, lambda item: rebuild.add(*frame_entry(item))):
            self.replay_from, replay_from = self._log.end, self.replay_from
            self._open_last(base)  # it was cut and is the last one now; its frames are applied already
            self.replay_from = replay_from
            return
        self._log.file(base).sync()  # an index says that its segment is durable
        self._files.write_atomic(index_name(base), self._build(rebuild, base))
        self._index.load_sealed(base)

    def _build(self, rebuild: IndexRebuild, base: int) -> list[bytes | memoryview]:
        """An index names the older ones that its queues go on in; these may turn out to be damaged themselves."""
        mended: set[int] = set()
        while True:
            try:
                return rebuild.build(self._log.segment_end(base))
            except DamagedIndex as failure:
                if failure.base in mended:
                    raise
                mended.add(failure.base)
                self._notice("index_rebuilt", {"segment": failure.base, "reason": str(failure)})
                mend(self._files, self._log, self._index, failure.base)
                rebuild.older = self._index.older_than(base)

    def _open_last(self, base: int) -> None:
        if self._index.open_base < base:
            self._index.start(base)
        covered = max(base, self._index.covered)

        def add(item: ScannedFrame) -> None:
            if item.prefix.log_offset >= covered:
                self._index.add(*frame_entry(item))

        self._walk(base, max(base, min(covered, self.replay_from)), add)

    def _walk(self, base: int, start: int, add: Add | None) -> bool:
        """Feed the frames of a segment to the index and the projections; False when the log was cut here."""
        file = self._log.file(base)
        at: int | None = start
        while at is not None:
            following: int | None = None
            for item in scan(file, base, at):
                if isinstance(item, Invalid):
                    if item.log_offset >= self._durable:
                        self._cut(item.log_offset, item.reason)
                        return False
                    following = find_next(file, base, item.log_offset + 1)
                    upto = self._log.segment_end(base) if following is None else following
                    self._unreadable(item.log_offset, upto, item.reason)
                    break
                if add is not None:
                    add(item)
                self._take(item)
            at = following
        return True

    def _take(self, item: ScannedFrame) -> None:
        prefix = item.prefix
        if prefix.epoch > self.epochs.latest:
            self.epochs.note(prefix.epoch, prefix.log_offset)
        if prefix.log_offset >= self.replay_from:
            self._apply(prefix, item.header, item.sealed)
            self.replayed += 1

    def _cut(self, offset: int, reason: str) -> None:
        cut = self._log.end - offset
        for base in self._log.truncate(offset):
            self._files.remove(index_name(base))
        self._log.file(self._log.bases[-1]).sync()  # what is cut must not come back behind what is written next
        self._files.sync_folder(FOLDER)
        self.bytes_cut += cut
        self._notice("torn_tail_cut", {"log_offset": offset, "bytes": cut, "reason": reason})

    def _unreadable(self, start: int, end: int, reason: str) -> None:
        touching = [(a, b) for a, b in self.damaged if a <= end and start <= b]  # also named as the end of its segment
        start, end = min([start, *(a for a, _ in touching)]), max([end, *(b for _, b in touching)])
        self.damaged = sorted([*(known for known in self.damaged if known not in touching), (start, end)])
        self._notice("log_damaged", {"from": start, "to": end, "reason": reason})
