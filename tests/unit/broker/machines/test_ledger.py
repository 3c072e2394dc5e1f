"""What one group has done with one queue, against a naive model that knows the whole story of every message."""

from __future__ import annotations

import gc
from collections.abc import Iterable
from dataclasses import dataclass, field

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from kourou.broker.machines import ledger as ledger_module
from kourou.broker.machines.ledger import Candidate, Lease, QueueLedger

ATTEMPTS_MAX = 3
# Message groups and their hashes: two of them share one, which may only ever hold a group up.
HASHES = {"": 0, "a": 11, "b": 12, "c": 12, "d": 13}


def out(ledger: QueueLedger, *offsets: int, due_ms: int = 100, group: int = 0, attempt: int = 1) -> list[int]:
    """Hand messages out; their serials."""
    ledger.next = max(ledger.next, max(offsets) + 1)
    ledger.handed_out(iter([Candidate(offset, attempt, group) for offset in offsets]), due_ms)
    return [ledger.lease(offset).serial for offset in offsets]


def test_the_floor_rises_with_what_is_settled() -> None:
    ledger = QueueLedger(5)
    assert ledger.floor == 5
    out(ledger, 5, 6, 7)
    assert ledger.floor == 5
    ledger.settled(6)
    assert ledger.floor == 5
    ledger.settled(5)
    assert ledger.floor == 7
    ledger.settled(7)
    assert ledger.floor == 8


def test_a_handle_goes_stale_when_its_message_is_handed_out_again_or_put_off() -> None:
    ledger = QueueLedger(0)
    (first,) = out(ledger, 0)
    assert ledger.live(0, first) is not None
    assert not ledger.ripen(99)
    assert ledger.ripen(100)
    assert ledger.again(9, 16) == [Candidate(0, 2)]
    ledger.handed_out(iter(ledger.again(9, 16)), 200)
    assert ledger.live(0, first) is None
    second = ledger.lease(0).serial
    ledger.put_off(0, 300, keep_serial=True, uncounted=False)
    assert ledger.live(0, second) == Lease(2, 300, second, 0)
    ledger.put_off(0, 400, keep_serial=False, uncounted=True)
    assert ledger.live(0, second) is None
    assert ledger.lease(0).attempt == 1


def test_renewing_takes_a_message_back_from_the_ripe_ones() -> None:
    ledger = QueueLedger(0)
    out(ledger, 0, 1)
    assert ledger.ripen(100)
    ledger.put_off(0, 500, keep_serial=True, uncounted=False)
    assert ledger.ripe == {1}
    assert ledger.next_due_ms() == 500


def test_settling_what_is_not_open_changes_nothing() -> None:
    ledger = QueueLedger(0)
    ledger.settled(7)
    out(ledger, 0)
    ledger.settled(0)
    ledger.settled(0)
    ledger.put_off(0, 100, keep_serial=False, uncounted=False)
    assert ledger.open == {}
    assert ledger.floor == 1


def test_suspending_again_and_again_never_counts_below_nothing() -> None:
    """A delivery attempt of 0 or less makes official clients throw."""
    ledger = QueueLedger(0)
    out(ledger, 0)
    for due_ms in (100, 200, 300):
        ledger.put_off(0, due_ms, keep_serial=False, uncounted=True)
    assert ledger.ripen(300)
    assert ledger.again(1, 16) == [Candidate(0, 1)]


def test_a_place_that_was_set_forgets_everything() -> None:
    ledger = QueueLedger(0)
    out(ledger, 0, 1, group=11)
    ledger.park(2, 11)
    ledger.next = 3
    assert ledger.ripen(100)
    ledger.dying.add(0)
    ledger.moved_to(1)
    assert (ledger.floor, ledger.next, ledger.open, ledger.parked) == (1, 1, {}, {})
    assert ledger.next_due_ms() is None
    assert not ledger.ripen(10_000)
    assert ledger.again(9, 16) == []
    assert not ledger.blocked(11)


def test_look_ahead_and_unacknowledged_messages_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger_module, "PARKED_MAX", 3)
    monkeypatch.setattr(ledger_module, "OPEN_MAX", 4)
    ledger = QueueLedger(0)
    out(ledger, 0, group=11)
    for offset in (1, 2):
        ledger.park(offset, 11)
        assert not ledger.full
    ledger.park(3, 11)
    assert ledger.full
    ledger.settled(0)
    ledger.handed_out(iter(ledger.again(1, 16)), 100)
    assert not ledger.full
    out(ledger, 4, 5, 6, group=12)
    assert ledger.full


def test_what_a_snapshot_holds_does_not_change() -> None:
    ledger = QueueLedger(0)
    out(ledger, 0, 1, group=11)
    ledger.park(2, 11)
    captured = ledger.capture()
    before = (*captured[:2], *map(dict, captured[2:]))
    ledger.settled(0)
    ledger.park(3, 12)
    ledger.put_off(1, 900, keep_serial=False, uncounted=False)
    ledger.settled(1)
    ledger.handed_out(iter(ledger.again(9, 16)), 100)
    assert captured == before


def test_many_renewals_do_not_pile_up() -> None:
    ledger = QueueLedger(0)
    out(ledger, *range(10))
    for due_ms in range(1_000, 11_000):
        ledger.put_off(due_ms % 10, due_ms, keep_serial=True, uncounted=False)
    assert len(ledger._heap) <= 128
    assert ledger.next_due_ms() == min(lease.due_ms for lease in map(ledger.lease, ledger.open))


def test_many_leases_that_are_over_at_once_come_in_portions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: no call looks at all of them, and none is left out. Method: a few at a time."""
    monkeypatch.setattr(ledger_module, "A_LOOK", 3)
    monkeypatch.setattr(ledger_module, "EXHAUSTED_A_LOOK", 2)
    ledger = QueueLedger(0)
    out(ledger, *range(10))
    assert ledger.ripen(100)
    assert (len(ledger.ripe), ledger.next_due_ms()) == (3, 100)
    while ledger.next_due_ms() is not None:
        ledger.ripen(100)
    assert [candidate.offset for candidate in ledger.again(4, 2)] == [0, 1, 2, 3]
    ledger.handed_out(iter(ledger.again(4, 2)), 200)
    assert [candidate.offset for candidate in ledger.again(4, 2)] == [4, 5, 6, 7]
    assert ledger.exhausted(2) == []
    while ledger.next_due_ms() is not None:
        ledger.ripen(200)
    assert ledger.exhausted(2) == [0, 1]
    ledger.dying.update(ledger.exhausted(2)[:1])
    assert ledger.exhausted(2) == [1, 2]
    assert [candidate.offset for candidate in ledger.again(9, 2)] == [4, 5, 6, 7, 8, 9]
    assert [candidate.offset for candidate in ledger.again(9, 3)] == [4, 5, 6, 7, 8, 9], "spent until somebody looks again"
    assert ledger.exhausted(3) == []
    assert [candidate.offset for candidate in ledger.again(3, 3)] == [1, 2, 3]
    for offset in range(10):
        ledger.settled(offset)
    assert (ledger.ripe, ledger.exhausted(1), ledger.again(9, 9), ledger.floor) == (set(), [], [], 10)


def test_the_garbage_collector_does_not_walk_leases() -> None:
    """A million of them would hold the loop for tens of milliseconds."""
    ledger = QueueLedger(0)
    gc.collect()
    before = gc.get_count()[0] + sum(map(len, map(gc.get_objects, range(3))))
    out(ledger, *range(10_000))
    ledger.put_off(7, 200, keep_serial=False, uncounted=False)
    assert sum(map(len, map(gc.get_objects, range(3)))) - before < 1_000
    assert not gc.is_tracked(ledger.open)


@dataclass
class Told:
    """All that ever happened to a message."""

    group: str
    attempts: int = 0
    due_ms: int = 0
    serial: int | None = None
    stale: list[int] = field(default_factory=list)
    settled: bool = False
    out: bool = False  # handed out at least once and not settled
    parked: bool = False


class Ledgers(RuleBasedStateMachine):
    """Hand-outs of any size, acknowledgements in any order, expiries, put-offs, renewals, dead letters, restarts."""

    def __init__(self) -> None:
        super().__init__()
        self.ledger = QueueLedger(0)
        self.story: list[Told] = []
        self.now_ms = 1_000

    # ---- what happens

    @rule(groups=st.lists(st.sampled_from(sorted(HASHES)), min_size=1, max_size=6))
    def produce(self, groups: list[str]) -> None:
        self.story += [Told(group) for group in groups]

    @rule(limit=st.integers(1, 6), invisible_ms=st.integers(1, 50))
    def receive(self, limit: int, invisible_ms: int) -> None:
        ledger = self.ledger
        ledger.ripen(self.now_ms)
        chosen = ledger.again(limit, ATTEMPTS_MAX)
        assert len({candidate.offset for candidate in chosen}) == len(chosen) <= limit
        passed: set[int] = set()
        parked: list[tuple[int, int]] = []
        offset = ledger.next
        while offset < len(self.story) and len(chosen) < limit:
            hashed = HASHES[self.story[offset].group]
            mine = {candidate.offset for candidate in chosen if hashed and candidate.group == hashed}
            held_up = hashed in passed or (ledger.blocked(hashed) and not ledger.all_of(hashed) <= mine)
            if hashed and held_up:
                passed.add(hashed)
                parked.append((offset, hashed))
            else:
                chosen.append(Candidate(offset, 1, hashed))
            offset += 1
        self._check_chosen(chosen)
        ledger.next = offset
        for at, hashed in parked:
            ledger.park(at, hashed)
            self.story[at].parked = True
        ledger.handed_out(iter(chosen), self.now_ms + invisible_ms)
        for candidate in chosen:
            self._told(candidate.offset, self.now_ms + invisible_ms)

    def _check_chosen(self, chosen: Iterable[Candidate]) -> None:
        before: set[int] = set()
        for candidate in chosen:
            told = self.story[candidate.offset]
            assert not told.settled, "what was acknowledged is never handed out again"
            assert not told.out or told.due_ms <= self.now_ms, "never two live leases of one message"
            assert candidate.attempt == told.attempts + 1 <= ATTEMPTS_MAX
            assert candidate.group == HASHES[told.group]
            if told.group:
                for other, earlier in enumerate(self.story[: candidate.offset]):
                    assert earlier.group != told.group or earlier.settled or other in before, "order of a message group"
            before.add(candidate.offset)

    def _told(self, offset: int, due_ms: int) -> None:
        told = self.story[offset]
        if told.serial is not None:
            told.stale.append(told.serial)
        told.attempts += 1
        told.due_ms, told.serial = due_ms, self.ledger.lease(offset).serial
        told.out, told.parked = True, False

    def _open(self) -> list[int]:
        return [offset for offset, told in enumerate(self.story) if told.out]

    @precondition(lambda self: self._open())
    @rule(data=st.data())
    def acknowledge(self, data: st.DataObject) -> None:
        offset = data.draw(st.sampled_from(self._open()))
        self.ledger.settled(offset)
        self._settled(offset)

    def _settled(self, offset: int) -> None:
        told = self.story[offset]
        told.settled, told.out = True, False
        assert told.serial is not None
        told.stale.append(told.serial)

    @precondition(lambda self: self._open())
    @rule(data=st.data(), delay_ms=st.integers(0, 60), keep=st.booleans(), uncounted=st.booleans())
    def put_off(self, data: st.DataObject, delay_ms: int, keep: bool, uncounted: bool) -> None:
        offset = data.draw(st.sampled_from(self._open()))
        told = self.story[offset]
        self.ledger.put_off(offset, self.now_ms + delay_ms, keep_serial=keep, uncounted=uncounted)
        told.due_ms = self.now_ms + delay_ms
        told.attempts = max(0, told.attempts - uncounted)
        if not keep:
            assert told.serial is not None
            told.stale.append(told.serial)
            told.serial = self.ledger.lease(offset).serial

    @rule(ms=st.integers(1, 80))
    def wait(self, ms: int) -> None:
        self.now_ms += ms

    @rule()
    def bury(self) -> None:
        self.ledger.ripen(self.now_ms)
        exhausted = self.ledger.exhausted(ATTEMPTS_MAX)
        assert exhausted == [
            offset
            for offset in self._open()
            if self.story[offset].attempts >= ATTEMPTS_MAX and self.story[offset].due_ms <= self.now_ms
        ]
        self.ledger.dying.update(exhausted)
        assert self.ledger.exhausted(ATTEMPTS_MAX) == []
        assert not {candidate.offset for candidate in self.ledger.again(100, 100)} & set(exhausted)
        for offset in exhausted:
            assert self.ledger.live(offset, self.ledger.lease(offset).serial) is None
            self.ledger.settled(offset)
            self._settled(offset)

    @rule()
    def restart(self) -> None:
        old = self.ledger
        next_offset, serial, leases, groups, parked = old.capture()
        self.ledger = QueueLedger(next_offset)
        self.ledger.serial = serial
        for offset, lease in leases.items():
            self.ledger.restore_open([offset], [lease], [groups.get(offset, 0)])
        self.ledger.restored()
        for offset, hashed in parked.items():
            self.ledger.park(offset, hashed)
        for ledger in (old, self.ledger):
            ledger.ripen(self.now_ms)
        assert sorted(old.again(100, ATTEMPTS_MAX)) == sorted(self.ledger.again(100, ATTEMPTS_MAX))
        assert old.next_due_ms() == self.ledger.next_due_ms()

    # ---- what holds

    @invariant()
    def state_is_the_models(self) -> None:
        ledger = self.ledger
        assert sorted(ledger.open) == self._open()
        assert list(ledger.parked) == [offset for offset, told in enumerate(self.story) if told.parked]
        for offset in self._open():
            told, lease = self.story[offset], ledger.lease(offset)
            assert (lease.attempt, lease.due_ms, lease.serial) == (told.attempts, told.due_ms, told.serial)
        unsettled = [offset for offset, told in enumerate(self.story[: ledger.next]) if not told.settled]
        assert ledger.floor == min(unsettled, default=ledger.next)

    @invariant()
    def old_serials_are_stale(self) -> None:
        for offset, told in enumerate(self.story):
            for serial in told.stale:
                assert self.ledger.live(offset, serial) is None

    def teardown(self) -> None:
        """Whoever goes on receiving and acknowledging gets everything that is left."""
        for _ in range(4 * len(self.story) + 4):
            self.now_ms += 1_000
            self.bury()
            self.receive(4, 1)
            for offset in self._open():
                self.acknowledge_one(offset)
        assert all(told.settled for told in self.story)
        assert self.ledger.floor == len(self.story)

    def acknowledge_one(self, offset: int) -> None:
        self.ledger.settled(offset)
        self._settled(offset)


TestLedgers = Ledgers.TestCase
TestLedgers.settings = settings(max_examples=120, stateful_step_count=40, deadline=None, derandomize=True)
