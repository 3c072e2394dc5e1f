"""Copying a log between the members of a broker group: whole frames out of one, the very bytes into another.

Offsets are the same in every member's log. What arrives is checked as if a stranger had sent it: both checksums of each
frame, that frames follow one another, that epochs don't fall and queues don't go back. Then it is appended as it is.
"""

from __future__ import annotations

from collections.abc import Sequence

from kourou.broker.store import snapshot
from kourou.broker.store.files import File
from kourou.broker.store.fullcopy import Copy
from kourou.broker.store.recovery import frame_entry
from kourou.broker.store.scan import ScannedFrame
from kourou.broker.store.store import Store
from kourou.core.errors import BadChecksum, Busy, DamagedLog, FrameInvalid, UnsupportedVersion
from kourou.core.frame import PREFIX_SIZE, check_frame
from kourou.core.limits import FRAME_BYTES_MAX

FRAME_MAX = PREFIX_SIZE + FRAME_BYTES_MAX
EPOCH_MAX = (1 << 32) - 1


def read_frames(
    store: Store, start: int, *, end: int, bytes_max: int, cached_only: bool, once: bool = False
) -> bytes | None:
    """*Blocking* unless ``cached_only``: whole frames from a frame's start on, up to ``bytes_max`` but at least one, within
    one segment and below ``end``. None when the disk must be waited for. ``once``: nobody else will want them soon, they
    need not stay in memory. Raises DamagedLog."""
    file, at = store.log.locate(start)
    room = min(end - start, file.size - at)
    data = _read(file, at, min(max(PREFIX_SIZE, bytes_max), room), cached_only)
    whole = _whole(data, start) if data is not None else 0
    if data is not None and whole == 0 and len(data) >= PREFIX_SIZE:  # the first frame alone is larger
        data = _read(file, at, min(int.from_bytes(data[4:8], "little"), room), cached_only)
        whole = _whole(data, start) if data is not None else 0
    if data is None:
        return None
    if whole == 0:
        raise DamagedLog(f"no whole frame at log offset {start}")
    if once:
        file.forget(at, whole)
    return data[:whole] if whole < len(data) else data


def _read(file: File, at: int, size: int, cached_only: bool) -> bytes | None:
    return file.read_cached(at, size) if cached_only else file.read(at, size)


def _whole(data: bytes, start: int) -> int:
    """How many bytes of ``data`` are whole frames, by their heads."""
    at, end = 0, len(data)
    while end - at >= PREFIX_SIZE:
        size = int.from_bytes(data[at + 4 : at + 8], "little")
        if int.from_bytes(data[at + 8 : at + 16], "little") != start + at or not PREFIX_SIZE < size <= FRAME_MAX:
            raise DamagedLog(f"no frame at log offset {start + at}")
        if at + size > end:
            break
        at += size
    return at


def check_frames(data: memoryview, start: int, *, epoch_min: int, epoch_max: int) -> list[ScannedFrame]:
    """The frames in ``data``, which begins at log offset ``start``. Raises DamagedLog when anything is wrong with them."""
    frames: list[ScannedFrame] = []
    at = 0
    while at < len(data):
        try:
            prefix, header = check_frame(data, at)
        except (FrameInvalid, BadChecksum, UnsupportedVersion) as failure:
            raise DamagedLog(f"the frame at log offset {start + at} arrived damaged: {failure}") from None
        if prefix.log_offset != start + at:
            raise DamagedLog(f"the frame at log offset {start + at} says {prefix.log_offset}")
        if not epoch_min <= prefix.epoch <= epoch_max:
            raise DamagedLog(f"the frame at {start + at} is of epoch {prefix.epoch}, not from {epoch_min} to {epoch_max}")
        epoch_min = prefix.epoch
        sealed = data[at + PREFIX_SIZE : at + prefix.size]
        frames.append(ScannedFrame(prefix, header, sealed, int.from_bytes(sealed[-4:], "little")))
        at += prefix.size
    return frames


def verify_frames(store: Store, start: int, *, end: int, bytes_max: int, once: bool = False) -> int:
    """*Blocking*. Read frames of this very log as ``read_frames`` does, and check them; how many bytes are whole. Raises
    DamagedLog."""
    data = read_frames(store, start, end=end, bytes_max=bytes_max, cached_only=False, once=once)
    assert data is not None
    try:
        check_frames(memoryview(data), start, epoch_min=0, epoch_max=EPOCH_MAX)
    except DamagedLog as failure:
        raise DamagedLog(str(failure).replace("arrived damaged", "is damaged")) from None
    return len(data)


def append_frames(store: Store, data: memoryview, frames: Sequence[ScannedFrame]) -> None:
    """Append checked frames, which lie one after the other in ``data``, at the end of the log. All or none."""
    store.append_as_is(data, [(item.prefix, frame_entry(item)) for item in frames])


def has_state_for(store: Store, offset: int, copied: Copy | None) -> bool:
    """*Blocking*. Once the log is cut here, is there a state to open it with: its very beginning, a snapshot that is whole,
    or what was copied?"""
    if copied is not None:
        return copied.offset <= offset
    return store.min_offset == 0 or any(at <= offset and _is_whole(store, at) for at in snapshot.list_offsets(store.files))


def _is_whole(store: Store, at: int) -> bool:
    name = snapshot.snapshot_name(at)
    try:
        snapshot.decode(store.files.read_all(name) or b"", name)
    except DamagedLog:
        return False
    return True


def cut_back(store: Store, offset: int) -> None:
    """*Blocking*. Cut the log, and forget snapshots that saw more of it. The store is to be opened anew then: what is
    applied can't be taken back."""
    later = [at for at in snapshot.list_offsets(store.files) if at > offset]
    for at in later:
        store.files.remove(snapshot.snapshot_name(at))
    if later:  # durable first: one that saw what is cut must not be there beside another log
        store.files.sync_folder(snapshot.FOLDER)
    while True:
        try:
            store.truncate(offset)
            break
        except Busy:  # an index that it goes by is damaged. What was left half done is in memory, which is given up anyway
            store.mending.run()  # DamagedLog for one that does not come right
    store.epochs.save(store.files)
