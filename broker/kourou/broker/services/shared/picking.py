"""Choosing what a receive gets from one queue: what is due again first, then what is new and wanted, in order.

Nothing is changed here; the choice becomes a record that the ledger is changed by.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from kourou.broker.machines.ledger import PARKED_MAX, Candidate, QueueLedger
from kourou.broker.services.records import DecodedFrame, StoredMessage
from kourou.broker.services.shared.request import ReceiveRequest
from kourou.core.frame import MOVED
from kourou.core.records import Field, readable_fields
from kourou.core.route import TopicType
from kourou.core.sources import Reason, decode_source

SCAN_MAX = 2_000  # messages looked at in one go that turn out not to be wanted
Find = Callable[[int], DecodedFrame | None]


@dataclass(slots=True)
class Pick:
    """What was chosen; ``cold`` is a queue offset that has to be read from the disk first."""

    next: int
    chosen: list[tuple[Candidate, StoredMessage]] = field(default_factory=list)
    parked: list[tuple[int, int]] = field(default_factory=list)
    cold: int | None = None
    left_out: list[tuple[int, DecodedFrame]] = field(default_factory=list)  # frames that can't be read, and from where on
    more: bool = False  # the scan stopped before the end of the queue
    size: int = 0

    def record(self, request: ReceiveRequest, queue: int, due_ms: int) -> dict[str, Any]:
        record: dict[str, Any] = {
            "t": "out",
            "g": request.group,
            "i": request.topic.incarnation,
            "q": queue,
            "n": self.next,
            "d": due_ms,
            "o": [candidate.offset for candidate, _ in self.chosen],
        }
        if self.chosen:
            record["c"] = request.client
        if any(candidate.attempt != 1 for candidate, _ in self.chosen):
            record["a"] = [candidate.attempt for candidate, _ in self.chosen]
        if any(candidate.group for candidate, _ in self.chosen):
            record["h"] = [candidate.group for candidate, _ in self.chosen]
        if self.parked:
            record["k"] = self.parked
        return record


class Picker:
    """One queue, one receive."""

    def __init__(
        self, request: ReceiveRequest, ledger: QueueLedger | None, find: Find, *, start: int, end: int, below: int
    ) -> None:
        self._request = request
        self._ledger = ledger
        self._find = find
        self._end = end
        self._below = below  # log offset up to which frames are confirmed
        self._taken: set[int] = set()  # message groups that this receive has messages of
        self._passed: set[int] = set()  # message groups that this receive has passed over
        self.pick = Pick(start)

    def run(self, limit: int, bytes_max: int) -> Pick:
        if self._ledger is not None:
            self._again(self._ledger, limit, bytes_max)
        if self.pick.cold is None and (self._ledger is None or not self._ledger.full):
            self._fresh(limit, bytes_max)
        return self.pick

    def _again(self, ledger: QueueLedger, limit: int, bytes_max: int) -> None:
        pick = self.pick
        for candidate in ledger.again(limit, self._request.attempts_max):
            decoded = self._find(candidate.offset)
            if decoded is None:
                if not pick.chosen:
                    pick.cold = candidate.offset
                return
            if not self._add(candidate, decoded.message(candidate.offset), bytes_max):
                return

    def _add(self, candidate: Candidate, message: StoredMessage, bytes_max: int) -> bool:
        """Take one, unless it is too much for this receive."""
        pick = self.pick
        size = len(message.body) + len(message.block)
        if pick.chosen and pick.size + size > bytes_max:
            return False
        pick.size += size
        pick.chosen.append((candidate, message))
        if candidate.group:
            self._taken.add(candidate.group)
        return True

    def _fresh(self, limit: int, bytes_max: int) -> None:
        pick, end = self.pick, self._end
        scanned = 0
        while pick.next < end and len(pick.chosen) < limit:
            if scanned >= SCAN_MAX:
                pick.more = True
                return
            decoded = self._find(pick.next)
            if decoded is None:
                if not pick.chosen:
                    pick.cold = pick.next
                return
            prefix = decoded.prefix
            if prefix.log_offset + prefix.size > self._below:
                return
            first = max(pick.next, prefix.queue_offset)
            if decoded.unreadable:
                pick.left_out.append((first, decoded))
                pick.next = decoded.end
                scanned += decoded.end - first
                continue
            if not self._from_frame(decoded, first, limit, bytes_max):
                return
            scanned += decoded.end - first

    def _from_frame(self, decoded: DecodedFrame, first: int, limit: int, bytes_max: int) -> bool:
        """Go through a frame; False when this receive is full."""
        pick, wanted = self.pick, self._request.filter
        base, tags = decoded.prefix.queue_offset, decoded.tags
        kind = self._request.topic.type
        groups = decoded.groups if kind is TopicType.FIFO else None
        alone = 1 if kind is TopicType.LITE else 0  # a lite topic is one message group
        moved = decoded.header.attributes & MOVED
        hashes = wanted.tag_hashes if wanted is not None else None
        for offset in range(first, decoded.end):
            if len(pick.chosen) >= limit or (pick.parked and self._parked_full()):
                return False
            number = offset - base
            if hashes is not None and (tags is None or tags[number] not in hashes):
                pick.next = offset + 1
                continue
            if moved and not for_group(decoded.parts(number)[0], self._request.group):
                pick.next = offset + 1
                continue
            group = groups[number] if groups is not None else alone
            message: StoredMessage | None = None
            if wanted is not None:
                message = decoded.message(offset)
                if not wanted.matches(*message.filtered_on()):
                    pick.next = offset + 1
                    continue
            if group and self._blocked(group):
                if alone:
                    return False  # the rest of the queue waits where it is
                pick.parked.append((offset, group))
                self._passed.add(group)
                pick.next = offset + 1
                continue
            if not self._add(Candidate(offset, 1, group), message or decoded.message(offset), bytes_max):
                return False
            pick.next = offset + 1
        return True

    def _blocked(self, group: int) -> bool:
        """A message group goes on within a receive only where all its earlier messages are in it."""
        if group in self._passed:
            return True
        ledger = self._ledger
        if ledger is None or not ledger.blocked(group):
            return False
        if group not in self._taken:
            return True
        chosen = {candidate.offset for candidate, _ in self.pick.chosen if candidate.group == group}
        return not ledger.all_of(group) <= chosen

    def _parked_full(self) -> bool:
        held = len(self._ledger.parked) if self._ledger is not None else 0
        return held + len(self.pick.parked) >= PARKED_MAX


def for_group(block: bytes, group: str) -> bool:
    """A dead letter that was sent back is for the group alone that had given it up."""
    for number, value in readable_fields(block):
        if number == Field.SOURCE:
            source = decode_source(value)
            return source.reason != Reason.REDRIVE or source.group == group
    return True
