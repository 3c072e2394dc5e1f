"""What one shared group has done with one queue: handed out, acknowledged, to be delivered again. Pure.

Every message below ``next`` is settled, but for those in ``open`` (handed out, not acknowledged) and in ``parked``
(ordered topics only: passed over because an earlier message of their message group is open). That is the whole state:
an acknowledgement takes an entry out of ``open``, and what is neither open nor parked costs nothing.

An open message has a *lease*: how often it was handed out, until when it is invisible, and a serial that its receipt
handle names. When the lease is over the message is *ripe*: it may be handed out again, with a new serial, so that older
handles go stale. Nothing moves by itself: ``ripen`` looks at the time it is given. A hundred thousand leases may be over
at one moment (their consumer has died): no call looks at more than a thousand, what is left comes with the next ones.

There may be a million leases, so they are kept as numbers: a lease is one integer (due time, serial, attempts), and so is
an entry of the heap that says which is over first. The garbage collector does not walk integers, nor dicts of them.

Order (FIFO topics): message groups are known by their hash. A group with an open message is blocked; only its lowest open
message may be delivered again, and its later ones wait in ``parked``. One receive may take several of a group in a row:
the group stays blocked until all of them are settled. Two groups with one hash block each other, which is harmless.
"""

from __future__ import annotations

from bisect import insort
from collections import deque
from collections.abc import Iterable
from heapq import heappop, heappush
from itertools import repeat
from operator import lshift, or_, rshift
from typing import NamedTuple

PARKED_MAX = 10_000  # look-ahead beyond blocked message groups, for each queue
OPEN_MAX = 100_000  # unacknowledged messages of a queue; no new ones are handed out beyond
A_LOOK = 1_000  # leases that one call looks at
EXHAUSTED_A_LOOK = 512
_DUE = 64  # bits below the due time of a lease and of an entry of the heap
_LOW, _SERIAL = (1 << _DUE) - 1, 32
_U32 = 0xFFFFFFFF


class Lease(NamedTuple):
    attempt: int  # how often it was handed out
    due_ms: int  # when it may be handed out again
    serial: int
    group: int  # hash of its message group; 0 where order does not matter


class Captured(NamedTuple):
    """What a snapshot holds of a ledger. Its tables do not change any more."""

    next: int
    serial: int
    open: dict[int, int]
    groups: dict[int, int]
    parked: dict[int, int]


class Candidate(NamedTuple):
    """A message that may be handed out."""

    offset: int
    attempt: int  # that this delivery would be
    group: int = 0


class QueueLedger:
    __slots__ = (
        "_by_group", "_captured", "_groups", "_heap", "_max_attempts", "_parked_by_group", "_ripe_heap", "_ripened",
        "_spent", "_spent_heap", "dying", "free", "next", "open", "parked", "ripe", "serial",
    )  # fmt: skip

    def __init__(self, next_offset: int) -> None:
        self.next = next_offset
        self.serial = 0
        self.open: dict[int, int] = {}  # offset -> due time, serial and attempts of its lease; ``lease`` takes them apart
        self._groups: dict[int, int] = {}  # message groups of what is open, where there are any
        self.parked: dict[int, int] = {}  # offset -> group, offsets rising
        self._captured = False  # these tables are held by a snapshot: copy them before the next change
        # derived
        self.ripe: set[int] = set()  # open, and their lease is over
        self._ripe_heap: list[int] = []  # all of them that are not known to be spent, and some that are ripe no longer
        self._ripened: list[int] = []  # since somebody last looked how often they were handed out
        self._max_attempts = 0  # at that time
        self._spent: set[int] = set()  # ripe, and handed out as often as they may be
        self._spent_heap: list[int] = []  # all of them that are not dying, and some that are spent no longer
        self.dying: set[int] = set()  # ripe, and on their way to the dead letters
        self.free: dict[int, None] = {}  # groups with parked messages and nothing open
        self._heap: list[int] = []  # due time and offset of leases; what is out of date is skipped
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
            if not heap or self._holds(heap[0]):
                break
            heappop(heap)
        return heap[0] >> _DUE if heap else None

    def _holds(self, entry: int) -> bool:
        lease = self.open.get(entry & _LOW)
        return lease is not None and lease >> _DUE == entry >> _DUE

    def ripen(self, now_ms: int) -> bool:
        """Note which leases are over, the earliest first; whether there is any ripe message."""
        heap, ripe = self._heap, self.ripe
        for _ in range(A_LOOK):
            if not heap or heap[0] >> _DUE > now_ms:
                break
            entry = heappop(heap)
            offset = entry & _LOW
            if offset not in ripe and self._holds(entry):
                ripe.add(offset)
                heappush(self._ripe_heap, offset)
                self._ripened.append(offset)
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
            if offset in ripe and offset not in spent and leases[offset] & _U32 >= max_attempts:
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
        leases, ripe, heap, groups = self.open, self.ripe, self._ripe_heap, self._groups
        looked: list[int] = []
        while heap and len(found) < limit:
            offset = heappop(heap)
            if offset not in ripe or offset in self._spent or (looked and looked[-1] == offset):
                continue
            looked.append(offset)
            attempt = leases[offset] & _U32
            if attempt >= max_attempts or offset in self.dying:
                continue
            group = groups.get(offset, 0)
            if group and not self._is_head(offset, group, found):
                continue
            found.append(Candidate(offset, attempt + 1, group))
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

    def lease(self, offset: int) -> Lease:
        """Of an open message."""
        packed = self.open[offset]
        return Lease(packed & _U32, packed >> _DUE, packed >> _SERIAL & _U32, self._groups.get(offset, 0))

    def serial_of(self, offset: int) -> int:
        """The same, of its lease nothing but this."""
        return self.open[offset] >> _SERIAL & _U32

    def live(self, offset: int, serial: int) -> Lease | None:
        """The lease that a handle names, unless it is out of date."""
        packed = self.open.get(offset)
        if packed is None or packed >> _SERIAL & _U32 != serial or offset in self.dying:
            return None
        return self.lease(offset)

    # ---- changing: replay alone does

    def _writable(self) -> None:
        if self._captured:
            self.open = self.open.copy()
            self._groups = self._groups.copy()
            self.parked = self.parked.copy()
            self._captured = False

    def handed_out(self, candidates: Iterable[Candidate], due_ms: int) -> None:
        self._writable()
        leases, heap, serial, ripe = self.open, self._heap, self.serial, self.ripe
        due = max(0, due_ms) << _DUE
        for offset, attempt, group in candidates:
            serial = serial + 1 & _U32
            if group:
                self._block(offset, group)
            leases[offset] = due | serial << _SERIAL | attempt
            if offset in ripe:
                self._not_ripe(offset)
            heappush(heap, due | offset)
        self.serial = serial
        self._trim_heap()

    def _block(self, offset: int, group: int) -> None:
        """A message of a group is open from now on."""
        if offset in self.parked:
            self._unpark(offset, group)
        if offset not in self.open:
            insort(self._by_group.setdefault(group, []), offset)
        self._groups[offset] = group
        self.free.pop(group, None)

    def _trim_heap(self) -> None:
        if len(self._heap) > 64 and len(self._heap) > 4 * len(self.open):
            self._heap = _heap_of(self.open)

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
        packed = self.open.get(offset)
        if packed is None:
            return
        if not keep_serial:
            self.serial = self.serial + 1 & _U32
        serial = packed >> _SERIAL & _U32 if keep_serial else self.serial
        due = max(0, due_ms) << _DUE
        self.open[offset] = due | serial << _SERIAL | max(0, (packed & _U32) - uncounted)
        self._not_ripe(offset)
        heappush(self._heap, due | offset)
        self._trim_heap()

    def settled(self, offset: int) -> None:
        """Acknowledged, moved to the dead letters, or taken by retention (the one way in which a parked one is)."""
        self._writable()
        if self.open.pop(offset, None) is None:
            if offset in self.parked:
                self._unpark(offset, self.parked[offset])
            return
        self._not_ripe(offset)
        self.dying.discard(offset)
        group = self._groups.pop(offset, 0)
        if group:
            offsets = self._by_group[group]
            offsets.remove(offset)
            if not offsets:
                del self._by_group[group]
                if group in self._parked_by_group:
                    self.free[group] = None

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
        self._groups, self._by_group, self._parked_by_group = {}, {}, {}

    # ---- projection

    def capture(self) -> Captured:
        self._captured = True
        return Captured(self.next, self.serial, self.open, self._groups, self.parked)

    def restore_open(self, offsets: Iterable[int], packed: Iterable[int], groups: Iterable[int]) -> None:
        """Many at once: there may be a million. ``groups`` may be shorter. ``restored`` comes after the last ones."""
        offsets = list(offsets)
        self.open.update(zip(offsets, packed, strict=True))
        for offset, group in zip(offsets, groups, strict=False):
            if group:
                self._groups[offset] = group
                self._by_group.setdefault(group, []).append(offset)

    def restored(self) -> None:
        self._heap = _heap_of(self.open)
        for offsets in self._by_group.values():
            offsets.sort()


def packed_lease(attempt: int, due_ms: int, serial: int) -> int:
    return max(0, due_ms) << _DUE | serial << _SERIAL | attempt


def _heap_of(leases: dict[int, int]) -> list[int]:
    """Sorted, which a heap may be; it takes little where the leases came in the order of their ends."""
    heap = list(map(or_, map(lshift, map(rshift, leases.values(), repeat(_DUE)), repeat(_DUE)), leases))
    heap.sort()
    return heap
