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
from kourou.core.errors import DamagedLog, OffsetOutOfRange
from kourou.core.frame import PREFIX_SIZE, iterate_frames, parse_sealed, tag_bit

REFS_PER_STEP = 32
REFS_PER_READ = 256  # small frames of a queue among others are a system call each


@dataclass(slots=True)
class ReadPlan:
    """Where the next frames of a queue lie: spans of (file, place, size), adjacent frames joined."""

    next_offset: int
    tag_hashes: frozenset[int] | None = None
    spans: list[tuple[File, int, int]] = field(default_factory=list)
    size: int = 0
    log_offset: int = 0  # of the first frame

    def add(self, ref: FrameRef, file: File, at: int) -> None:
        if self.spans and self.spans[-1][0] is file and self.spans[-1][1] + self.spans[-1][2] == at:
            self.spans[-1] = (file, self.spans[-1][1], self.spans[-1][2] + ref.size)
        else:
            self.log_offset = self.log_offset if self.spans else ref.log_offset
            self.spans.append((file, at, ref.size))
        self.size += ref.size


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
        refs = index.refs(key, plan.next_offset, limit=REFS_PER_STEP) if plan.next_offset < high else ()
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
                raise DamagedLog(
                    f"records {plan.next_offset} to {missing_to - 1} of the queue can't be read: the log is damaged "
                    f"near log offset {ref.log_offset}; reset the group to offset {missing_to} to leave them out"
                )
            plan.next_offset = ref.queue_offset + ref.count
            if not wanted or ref.tag_mask & wanted:
                plan.add(ref, *log.locate(ref.log_offset))
    return plan


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
    return _only_tagged(joined, plan.tag_hashes) if plan.tag_hashes else joined


def _only_tagged(data: bytes, tag_hashes: frozenset[int]) -> bytes:
    """The frames in which at least one record has one of the tags."""
    kept: list[bytes] = []
    for at, prefix in iterate_frames(data):
        header = parse_sealed(data, at + PREFIX_SIZE, available=prefix.size - PREFIX_SIZE)
        if has_any_tag(data, at + PREFIX_SIZE, header, tag_hashes):
            kept.append(data[at : at + prefix.size])
    return b"".join(kept)
