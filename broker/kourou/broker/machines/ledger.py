"""What one shared group has done with one queue: handed out, acknowledged, to be delivered again. Pure.

Every message below ``next`` is settled, but for those in ``open`` (handed out, not acknowledged) and in ``parked``
(ordered topics only: passed over because an earlier message of their message group is open). That is the whole state:
an acknowledgement takes an entry out of ``open``, and what is neither open nor parked costs nothing.

An open message has a *lease*: how often it was handed out, until when it is invisible, and a serial that its receipt
handle names. When the lease is over the message is *ripe*: it may be handed out again, with a new serial, so that older
handles go stale. Nothing moves by itself: ``ripen`` looks at the time it is given. A hundred thousand leases may be over
at one moment (their consumer has died): no call looks at more than a thousand, what is left comes with the next ones.

Order (FIFO topics): message groups are known by their hash. A group with an open message is blocked; only its lowest open
message may be delivered again, and its later ones wait in ``parked``. One receive may take several of a group in a row:
the group stays blocked until all of them are settled. Two groups with one hash block each other, which is harmless.
"""

from __future__ import annotations

from bisect import insort
from collections import deque
from collections.abc import Iterator
from heapq import heapify, heappop, heappush
from typing import NamedTuple

PARKED_MAX = 10_000  # look-ahead beyond blocked message groups, for each queue
OPEN_MAX = 100_000  # unacknowledged messages of a queue; no new ones are handed out beyond
A_LOOK = 1_000  # leases that one call looks at
EXHAUSTED_A_LOOK = 512


class Lease(NamedTuple):
    attempt: int  # how often it was handed out
    due_ms: int  # when it may be handed out again
    serial: int
    group: int  # hash of its message group; 0 where order does not matter


class Candidate(NamedTuple):
    """A message that may be handed out."""

    offset: int
    attempt: int  # that this delivery would be
    group: int = 0


class QueueLedger:
    __slots__ = (
        "_by_group", "_captured", "_heap", "_max_attempts", "_parked_by_group", "_ripe_heap", "_ripened", "_spent",
        "_spent_heap", "dying", "free", "next", "open", "parked", "ripe", "serial",
    )  # fmt: skip

    def __init__(self, next_offset: int) -> None:
        self.next = next_offset
        self.serial = 0
        self.open: dict[int, Lease] = {}
        self.parked: dict[int, int] = {}  # offset -> group, offsets rising
        self._captured = False  # ``open`` and ``parked`` are held by a snapshot: copy them before the next change
        # derived
        self.ripe: set[int] = set()  # open, and their lease is over
        self._ripe_heap: list[int] = []  # all of them that are not known to be spent, and some that are ripe no longer
        self._ripened: list[int] = []  # since somebody last looked how often they were handed out
        self._max_attempts = 0  # at that time
        self._spent: set[int] = set()  # ripe, and handed out as often as they may be
        self._spent_heap: list[int] = []  # all of them that are not dying, and some that are spent no longer
        self.dying: set[int] = set()  # ripe, and on their way to the dead letters
        self.free: dict[int, None] = {}  # groups with parked messages and nothing open
        self._heap: list[tuple[int, int, int]] = []  # (due, offset, serial) of leases; what is out of date is skipped
        self._by_group: dict[int, list[int]] = {}  # open offsets of each group, sorted
        self._parked_by_group: dict[int, deque[int]] = {}

    # ---- looking

    @property
    def floor(self) -> int:
        """Everything below is settled."""
        return min(min(self.open, default=self.next), next(iter(self.parked), self.next))

    @property
    def full(self) -> bool:
        """Whether no new message may be handed out for now."""
        return len(self.open) >= OPEN_MAX or len(self.parked) >= PARKED_MAX

    def next_due_ms(self) -> int | None:
        """No lease will be over before, and most often one will be then."""
        heap = self._heap
        for _ in range(A_LOOK):
            if not heap or self._holds(*heap[0]):
                break
            heappop(heap)
        return heap[0][0] if heap else None

    def _holds(self, due_ms: int, offset: int, serial: int) -> bool:
        lease = self.open.get(offset)
        return lease is not None and lease.serial == serial and lease.due_ms == due_ms

    def ripen(self, now_ms: int) -> bool:
        """Note which leases are over, the earliest first; whether there is any ripe message."""
        heap, ripe = self._heap, self.ripe
        for _ in range(A_LOOK):
            if not heap or heap[0][0] > now_ms:
                break
            entry = heappop(heap)
            if self._holds(*entry) and entry[1] not in ripe:
                ripe.add(entry[1])
                heappush(self._ripe_heap, entry[1])
                self._ripened.append(entry[1])
        return bool(ripe)

    def exhausted(self, max_attempts: int) -> list[int]:
        """Ripe messages that were handed out as often as they may be, and are not on their way out yet; the lowest first,
        and not more than some hundred."""
        leases, ripe, spent, heap = self.open, self.ripe, self._spent, self._spent_heap
        if max_attempts != self._max_attempts:
            self._max_attempts, self._ripened, self._ripe_heap = max_attempts, list(ripe), sorted(ripe)
            spent.clear()
            heap.clear()
        for offset in self._ripened:
            if offset in ripe and offset not in spent and leases[offset].attempt >= max_attempts:
                spent.add(offset)
                heappush(heap, offset)
        self._ripened.clear()
        found: list[int] = []
        while heap and len(found) < EXHAUSTED_A_LOOK:
            offset = heappop(heap)
            if offset in spent and offset not in self.dying and (not found or found[-1] != offset):
                found.append(offset)
        for offset in found:
            heappush(heap, offset)
        return found

    def again(self, limit: int, max_attempts: int) -> list[Candidate]:
        """What may be delivered before anything new: ripe messages, and parked ones whose group is free; lowest first."""
        found: list[Candidate] = []
        leases, ripe, heap = self.open, self.ripe, self._ripe_heap
        looked: list[int] = []
        while heap and len(found) < limit:
            offset = heappop(heap)
            if offset not in ripe or offset in self._spent or (looked and looked[-1] == offset):
                continue
            looked.append(offset)
            lease = leases[offset]
            if lease.attempt >= max_attempts or offset in self.dying:
                continue
            if lease.group and not self._is_head(offset, lease.group, found):
                continue
            found.append(Candidate(offset, lease.attempt + 1, lease.group))
        for offset in looked:
            heappush(heap, offset)
        for group in self.free:
            for offset in self._parked_by_group[group]:
                if len(found) >= limit:
                    return found
                found.append(Candidate(offset, 1, group))
        return found

    def _is_head(self, offset: int, group: int, chosen: list[Candidate]) -> bool:
        """Whether everything of the group before this message is settled or chosen."""
        before = self._by_group[group]
        if before[0] == offset:
            return True
        taken = {candidate.offset for candidate in chosen if candidate.group == group}
        return all(other in taken for other in before if other < offset)

    def blocked(self, group: int) -> bool:
        """Whether a new message of this group has to wait."""
        return group in self._by_group or group in self._parked_by_group

    def all_of(self, group: int) -> set[int]:
        """Every message of a group that is open or parked."""
        return {*self._by_group.get(group, ()), *self._parked_by_group.get(group, ())}

    def below(self, offset: int) -> list[int]:
        """What is not settled and lies below a queue offset."""
        return sorted([o for o in self.open if o < offset] + [o for o in self.parked if o < offset])

    def live(self, offset: int, serial: int) -> Lease | None:
        """The lease that a handle names, unless it is out of date."""
        lease = self.open.get(offset)
        return lease if lease is not None and lease.serial == serial and offset not in self.dying else None

    # ---- changing: replay alone does

    def _writable(self) -> None:
        if self._captured:
            self.open = self.open.copy()
            self.parked = self.parked.copy()
            self._captured = False

    def handed_out(self, candidates: Iterator[Candidate], due_ms: int) -> None:
        self._writable()
        for candidate in candidates:
            self.serial = self.serial + 1 & 0xFFFFFFFF
            self._put(candidate.offset, Lease(candidate.attempt, due_ms, self.serial, candidate.group))

    def _put(self, offset: int, lease: Lease) -> None:
        if lease.group:
            if offset in self.parked:
                self._unpark(offset, lease.group)
            if offset not in self.open:
                insort(self._by_group.setdefault(lease.group, []), offset)
            self.free.pop(lease.group, None)
        self.open[offset] = lease
        self._not_ripe(offset)
        heappush(self._heap, (lease.due_ms, offset, lease.serial))
        if len(self._heap) > 64 and len(self._heap) > 4 * len(self.open):
            self._heap = [(lease.due_ms, offset, lease.serial) for offset, lease in self.open.items()]
            heapify(self._heap)

    def _not_ripe(self, offset: int) -> None:
        self.ripe.discard(offset)
        self._spent.discard(offset)
        if not self.ripe and self._ripe_heap:
            self._ripe_heap.clear()
            self._spent_heap.clear()
            self._ripened.clear()

    def put_off(self, offset: int, due_ms: int, *, keep_serial: bool, uncounted: bool) -> None:
        """Change when an open message comes back. ``uncounted``: this delivery does not count as an attempt."""
        self._writable()
        lease = self.open.get(offset)
        if lease is None:
            return
        if not keep_serial:
            self.serial = self.serial + 1 & 0xFFFFFFFF
        serial = lease.serial if keep_serial else self.serial
        self._put(offset, Lease(max(0, lease.attempt - uncounted), due_ms, serial, lease.group))

    def settled(self, offset: int) -> None:
        """Acknowledged, moved to the dead letters, or taken by retention (the one way in which a parked one is)."""
        self._writable()
        lease = self.open.pop(offset, None)
        if lease is None:
            if offset in self.parked:
                self._unpark(offset, self.parked[offset])
            return
        self._not_ripe(offset)
        self.dying.discard(offset)
        if lease.group:
            offsets = self._by_group[lease.group]
            offsets.remove(offset)
            if not offsets:
                del self._by_group[lease.group]
                if lease.group in self._parked_by_group:
                    self.free[lease.group] = None

    def park(self, offset: int, group: int) -> None:
        self._writable()
        self.parked[offset] = group
        self._parked_by_group.setdefault(group, deque()).append(offset)
        if group not in self._by_group:
            self.free[group] = None

    def _unpark(self, offset: int, group: int) -> None:
        del self.parked[offset]
        waiting = self._parked_by_group[group]
        waiting.remove(offset)  # mostly the first
        if not waiting:
            del self._parked_by_group[group]
            self.free.pop(group, None)

    def moved_to(self, next_offset: int) -> None:
        """Reset: forget everything, go on from there."""
        self._writable()
        self.next = next_offset
        self.open, self.parked, self.ripe, self.dying, self.free, self._heap = {}, {}, set(), set(), {}, []
        self._ripe_heap, self._ripened, self._spent, self._spent_heap = [], [], set(), []
        self._by_group, self._parked_by_group = {}, {}

    # ---- projection

    def capture(self) -> tuple[int, int, dict[int, Lease], dict[int, int]]:
        """(next, serial, open, parked); the tables do not change any more."""
        self._captured = True
        return self.next, self.serial, self.open, self.parked

    def restore_open(
        self, offsets: list[int], attempts: list[int], due_times: list[int], serials: list[int], groups: list[int]
    ) -> None:
        """Many at once: there may be a million. ``restored`` comes after the last ones."""
        self.open.update(zip(offsets, map(Lease, attempts, due_times, serials, groups), strict=True))
        self._heap += zip(due_times, offsets, serials, strict=True)
        if any(groups):
            for offset, group in zip(offsets, groups, strict=True):
                if group:
                    self._by_group.setdefault(group, []).append(offset)

    def restored(self) -> None:
        heapify(self._heap)
        for offsets in self._by_group.values():
            offsets.sort()
