"""Reading a queue: from its index to bytes of the log, in two steps.

The plan is made where the index lives and costs no I/O of the log; reading it touches only files and may run in another
thread. Frames come out exactly as they lie in the log. Their checksums are not looked at here: whoever opens a frame does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from kourou.broker.store.columns import has_any_tag
from kourou.broker.store.commitlog import CommitLog
from kourou.broker.store.files import File
from kourou.broker.store.logindex import LogIndex
from kourou.broker.store.openindex import FrameRef
from kourou.core.errors import BadChecksum, DamagedLog, FrameInvalid, OffsetOutOfRange, UnsupportedVersion
from kourou.core.frame import PREFIX_SIZE, check_frame, parse_sealed, tag_bit

REFS_PER_STEP = 32
REFS_PER_READ = 256  # small frames of a queue among others are a system call each


@dataclass(slots=True)
class ReadPlan:
    """Where the next frames of a queue lie: spans of (file, place, size), adjacent frames joined."""

    next_offset: int
    tag_hashes: frozenset[int] | None = None
    spans: list[tuple[File, int, int]] = field(default_factory=list)
    size: int = 0
    sizes: list[int] = field(default_factory=list)  # of each frame
    log_offset: int = 0  # of the first frame

    def add(self, ref: FrameRef, file: File, at: int) -> None:
        if self.spans and self.spans[-1][0] is file and self.spans[-1][1] + self.spans[-1][2] == at:
            self.spans[-1] = (file, self.spans[-1][1], self.spans[-1][2] + ref.size)
        else:
            self.log_offset = self.log_offset if self.spans else ref.log_offset
            self.spans.append((file, at, ref.size))
        self.size += ref.size
        self.sizes.append(ref.size)


def make_plan(
    log: CommitLog,
    index: LogIndex,
    damaged: Sequence[tuple[int, int]],
    key: int,
    queue_offset: int,
    *,
    bytes_max: int,
    below: int,
    tag_hashes: frozenset[int] | None,
    topic: str = "",
) -> ReadPlan:
    """See ``Store.plan``."""
    low, high = index.min_queue_offset(key), index.next_queue_offset(key)
    if not low <= queue_offset <= high:
        raise OffsetOutOfRange(f"queue offset {queue_offset} is out of range: the queue holds {low} to {high}")
    wanted = 0
    for hashed in tag_hashes or ():
        wanted |= tag_bit(hashed)
    if tag_hashes and 0 in tag_hashes:
        wanted = 0  # records without a tag leave no bit in the mask
    plan = ReadPlan(queue_offset, tag_hashes)
    for _ in range(REFS_PER_READ // REFS_PER_STEP):
        if plan.next_offset == high:
            break
        refs = index.refs(key, plan.next_offset, limit=REFS_PER_STEP)
        if not refs and plan.next_offset == queue_offset:
            raise records_gone(key, topic, queue_offset, high, "the log behind them is damaged or was lost")
        if not refs:
            break
        for ref in refs:
            if ref.log_offset + ref.size > below or (plan.size and plan.size + ref.size > bytes_max):
                return plan
            missing_to = ref.queue_offset if ref.queue_offset > plan.next_offset else None
            if missing_to is None and _overlaps(damaged, ref):
                missing_to = ref.queue_offset + ref.count
            if missing_to is not None:
                if plan.next_offset > queue_offset:
                    return plan  # what can be read first
                near = f"the log is damaged near log offset {ref.log_offset}"
                raise records_gone(key, topic, plan.next_offset, missing_to, near)
            plan.next_offset = ref.queue_offset + ref.count
            if not wanted or ref.tag_mask & wanted:
                plan.add(ref, *log.locate(ref.log_offset))
    return plan


def records_gone(key: int, topic: str, start: int, end: int, reason: str) -> DamagedLog:
    """What a reader is told who comes to damage: where it is, and how to get past it."""
    of = f"queue {key & 0xFFFFFFFF} of topic {topic}" if topic else f"queue {key & 0xFFFFFFFF}"
    return DamagedLog(
        f"records {start} to {end - 1} of {of} can't be read: {reason}; reset the group to offset {end} to leave them out"
    )


def _overlaps(damaged: Sequence[tuple[int, int]], ref: FrameRef) -> bool:
    return any(start < ref.log_offset + ref.size and ref.log_offset < end for start, end in damaged)


def read_plan(plan: ReadPlan, *, cached_only: bool) -> bytes | None:
    """See ``Store.read``."""
    data: list[bytes] = []
    for file, at, size in plan.spans:
        piece = file.read_cached(at, size) if cached_only else file.read(at, size)
        if piece is None:
            return None
        if len(piece) != size:
            raise DamagedLog(f"the log from {plan.log_offset} on ends within a frame, or was cut meanwhile")
        data.append(piece)
    joined = data[0] if len(data) == 1 else b"".join(data)
    return _only_tagged(joined, plan.sizes, plan.tag_hashes) if plan.tag_hashes else joined


def _only_tagged(data: bytes, sizes: Sequence[int], tag_hashes: frozenset[int]) -> bytes:
    """The frames in which at least one record has one of the tags, and those that are damaged: whoever opens them must be
    told. None is left out without its checksums; few are, the mask in the index has seen to that."""
    kept: list[bytes] = []
    at = 0
    for size in sizes:
        piece = data[at : at + size]
        at += size
        try:
            if not has_any_tag(piece, PREFIX_SIZE, parse_sealed(piece, PREFIX_SIZE), tag_hashes):
                check_frame(piece)
                continue
        except (FrameInvalid, BadChecksum, UnsupportedVersion):
            pass
        kept.append(piece)
    return b"".join(kept)
