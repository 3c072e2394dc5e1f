"""The ledgers of all groups as a projection: what decides live, a twin that replays the records, and snapshots agree."""

from __future__ import annotations

import json
from array import array
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from kourou.broker.machines.ledger import Lease, QueueLedger
from kourou.broker.machines.projection import ITEM_ENTRIES
from kourou.broker.machines.shared import CHANGED, RENEWED, UNCOUNTED, SharedGroups
from kourou.broker.machines.topics import Topic
from kourou.broker.services.records import DecodedFrame
from kourou.broker.services.shared import picking
from kourou.broker.services.shared.picking import Picker
from kourou.broker.services.shared.request import ReceiveRequest
from kourou.core.filter import parse_filter
from kourou.core.frame import Column, Prefix, parse_sealed, seal, tag_hash
from kourou.core.records import Field, encode_field
from kourou.core.route import Placement, TopicType
from kourou.core.sources import Reason, Source

Record = dict[str, Any]
GROUP = "g"
ATTEMPTS_MAX = 4
FIFO = Topic("t", TopicType.FIFO, (Placement("a", 2),), 2, 7, 1)
HASHES = {"a": 21, "b": 22, "c": 22}  # two message groups with one hash


def decoded(first: int, messages: list[tuple[int, str | None]]) -> DecodedFrame:
    """A frame of (hash of the message group, tag)."""
    tags = array("I", [tag_hash(tag) if tag is not None else 0 for _, tag in messages])
    blocks = [encode_field(Field.TAG, tag.encode()) if tag is not None else b"" for _, tag in messages]
    sealed = seal(
        topic="t",
        queue_id=0,
        records=[block + b"body" for block in blocks],
        born_ms=1,
        columns={
            Column.TAG_HASHES: tags,
            Column.PROPERTY_SIZES: array("I", map(len, blocks)),
            Column.GROUP_HASHES: array("I", [hashed for hashed, _ in messages]),
        },
    )
    return DecodedFrame(Prefix(48 + len(sealed), first * 1_000, 1, 7, first, 1, 1, 0), parse_sealed(sealed), sealed, 0)


class Queue:
    """A queue in memory, as the picker sees it."""

    def __init__(self) -> None:
        self.frames: list[DecodedFrame] = []
        self.end = 0

    def add(self, messages: list[tuple[int, str | None]]) -> None:
        self.frames.append(decoded(self.end, messages))
        self.end += len(messages)

    def find(self, offset: int) -> DecodedFrame:
        return next(found for found in self.frames if found.prefix.queue_offset <= offset < found.end)

    def picker(
        self, ledger: QueueLedger | None, *, tags: str | None = None, start: int | None = None, kind: Topic = FIFO
    ) -> Picker:
        wanted = parse_filter("tag", tags) if tags is not None else None
        request = ReceiveRequest(GROUP, kind, "c", 32, 1_000, wanted, attempts_max=ATTEMPTS_MAX)
        first = start if start is not None else ledger.next if ledger is not None else 0
        return Picker(request, ledger, self.find, start=first, end=self.end, below=1 << 60)


def request(limit: int = 32) -> ReceiveRequest:
    return ReceiveRequest(GROUP, FIFO, "c", limit, 1_000, attempts_max=ATTEMPTS_MAX)


# ---- the picker


def test_a_message_group_goes_on_within_one_receive_and_is_held_up_in_the_next() -> None:
    queue, shared = Queue(), SharedGroups()
    queue.add([(21, None), (22, None), (21, None)])
    pick = queue.picker(None).run(2, 1 << 20)
    assert [candidate.offset for candidate, _ in pick.chosen] == [0, 1]
    shared.replay(pick.record(request(), 0, 100), log_offset=0, store_ms=0)
    ledger = shared.find(GROUP, 7, 0)
    assert ledger is not None
    pick = queue.picker(ledger).run(9, 1 << 20)
    assert pick.chosen == []
    assert pick.parked == [(2, 21)]
    shared.replay(pick.record(request(), 0, 100), log_offset=0, store_ms=0)
    shared.replay({"t": "ack", "g": GROUP, "i": 7, "e": [[0, [1]]]}, log_offset=0, store_ms=0)
    assert ledger.again(9, 16) == []
    shared.replay({"t": "ack", "g": GROUP, "i": 7, "e": [[0, [0]]]}, log_offset=0, store_ms=0)
    assert [candidate.offset for candidate in ledger.again(9, 16)] == [2]


def test_what_nobody_wants_is_passed_over_for_good_and_in_portions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(picking, "SCAN_MAX", 10)
    queue = Queue()
    for _ in range(5):
        queue.add([(0, "x")] * 6)
    queue.add([(0, "y"), (0, "x"), (0, "y")])
    plain = Topic("t", TopicType.NORMAL, (Placement("a", 1),), 1, 7, 1)
    start, rounds = 0, 0
    while True:
        pick = queue.picker(None, tags="y", start=start, kind=plain).run(9, 1 << 20)
        rounds += 1
        if pick.chosen:
            break
        assert pick.more
        assert pick.next > start
        start = pick.next
    assert rounds > 2
    assert [candidate.offset for candidate, _ in pick.chosen] == [30, 32]
    assert pick.next == queue.end


def test_look_ahead_stops_at_its_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(picking, "PARKED_MAX", 5)
    queue, shared = Queue(), SharedGroups()
    queue.add([(21, None)])
    shared.replay(queue.picker(None).run(1, 1 << 20).record(request(), 0, 100), log_offset=0, store_ms=0)
    same: list[tuple[int, str | None]] = [(21, None)] * 20
    queue.add([*same, (22, None)])
    ledger = shared.find(GROUP, 7, 0)
    pick = queue.picker(ledger).run(9, 1 << 20)
    assert len(pick.parked) == 5
    assert pick.next == 6
    assert pick.chosen == []


def test_a_receive_takes_no_more_bytes_than_it_may_but_one_message_always() -> None:
    queue = Queue()
    queue.add([(0, None)] * 5)
    assert len(queue.picker(None).run(9, 1).chosen) == 1
    assert len(queue.picker(None).run(9, 8).chosen) == 2
    assert len(queue.picker(None).run(9, 1_000).chosen) == 5


# ---- the projection


def test_a_big_ledger_takes_several_items() -> None:
    shared = SharedGroups()
    count = 3 * ITEM_ENTRIES + 1
    record = {"t": "out", "g": GROUP, "i": 7, "q": 0, "n": 2 * count, "d": 5, "o": list(range(count)), "h": [21] * count}
    record["k"] = [[offset, 21] for offset in range(count, 2 * count)]
    shared.replay(record, log_offset=0, store_ms=0)
    restored = SharedGroups()
    restored.replay({"t": "pos", "g": "other", "i": 1, "e": [[0, 5]]}, log_offset=0, store_ms=0)
    restored.restore(b"".join(shared.snapshot()))
    assert restored.digest() == shared.digest()
    ledger = restored.find(GROUP, 7, 0)
    assert ledger is not None
    assert (len(ledger.open), len(ledger.parked), ledger.free) == (count, count, {})


def test_snapshots_of_older_versions_are_read() -> None:
    """Leases were a list each at first, then a list for each column."""
    shared = SharedGroups()
    shared.replay({"t": "pos", "g": GROUP, "i": 7, "e": [[0, 5]]}, log_offset=0, store_ms=0)
    record = {"t": "out", "g": GROUP, "i": 7, "q": 0, "n": 9, "d": 50, "o": [5, 6], "h": [21, 23], "k": [[7, 21]]}
    shared.replay(record, log_offset=0, store_ms=0)
    shared.replay({"t": "due", "g": GROUP, "i": 7, "e": [[0, 6, 70, UNCOUNTED]]}, log_offset=0, store_ms=0)
    leases = [[5, 1, 50, 1, 21], [6, 0, 70, 3, 23]]
    columns = [list(column) for column in zip(*leases, strict=True)]
    for item in ([GROUP, 7, 0, 9, 3, leases, [[7, 21]]], [[GROUP, 7, 0], 9, 3, columns, [[7, 21]]]):
        restored = SharedGroups()
        restored.restore(json.dumps(item).encode() + b"\n")
        assert restored.digest() == shared.digest()
        ledger = restored.find(GROUP, 7, 0)
        assert ledger is not None
        assert (ledger.lease(6), ledger.next_due_ms()) == (Lease(0, 70, 3, 23), 50)


def test_topics_and_groups_that_are_gone_leave_nothing() -> None:
    shared = SharedGroups()
    for group in ("g", "h"):
        for incarnation in (1, 2):
            shared.replay({"t": "pos", "g": group, "i": incarnation, "e": [[0, 5]]}, log_offset=0, store_ms=0)
    shared.topic_deleted(1)
    assert shared.places() == [("g", 2), ("h", 2)]
    shared.group_deleted("h")
    assert shared.places() == [("g", 2)]
    assert shared.topics_of("g") == {2}
    for kind, entries in (("ack", [[0, [5]]]), ("due", [[0, 5, 9, 0]])):
        shared.replay({"t": kind, "g": "h", "i": 2, "e": entries}, log_offset=0, store_ms=0)
    shared.moved(Source(Reason.DEAD_LETTER, 0, 0, "h", 2, 0, 5))
    assert shared.places() == [("g", 2)]


class Life(RuleBasedStateMachine):
    """An ordered topic of two queues, decisions by the real picker, every record through JSON to a twin."""

    def __init__(self) -> None:
        super().__init__()
        self.live, self.twin = SharedGroups(), SharedGroups()
        self.queues = [Queue(), Queue()]
        self.names: list[list[str]] = [[], []]
        self.settled: set[tuple[int, int]] = set()
        self.leases: dict[tuple[int, int], tuple[int, int]] = {}  # due, serial
        self.stale: set[tuple[int, int, int]] = set()
        self.now_ms = 1_000

    def record(self, record: Record) -> None:
        self.live.replay(record, log_offset=1, store_ms=self.now_ms)
        self.twin.replay(json.loads(json.dumps(record)), log_offset=2, store_ms=self.now_ms)

    @rule(queue=st.integers(0, 1), groups=st.lists(st.sampled_from("abc"), min_size=1, max_size=5))
    def produce(self, queue: int, groups: list[str]) -> None:
        self.queues[queue].add([(HASHES[group], None) for group in groups])
        self.names[queue] += groups

    @rule(queue=st.integers(0, 1), limit=st.integers(1, 5), size=st.sampled_from([1, 9, 1_000]), ms=st.integers(1, 40))
    def receive(self, queue: int, limit: int, size: int, ms: int) -> None:
        ledger = self.live.find(GROUP, 7, queue)
        if ledger is not None:
            ledger.ripen(self.now_ms)
        pick = self.queues[queue].picker(ledger).run(limit, size)
        assert len(pick.chosen) <= limit
        before: set[int] = set()
        for candidate, message in pick.chosen:
            offset = candidate.offset
            assert message.queue_offset == offset
            assert (queue, offset) not in self.settled
            assert self.leases.get((queue, offset), (0, 0))[0] <= self.now_ms, "two live leases"
            for other in range(offset):
                if self.names[queue][other] == self.names[queue][offset]:
                    assert (queue, other) in self.settled or other in before, "order of a message group"
            before.add(offset)
        self.record(pick.record(request(), queue, self.now_ms + ms))
        ledger = self.live.find(GROUP, 7, queue)
        assert ledger is not None
        for candidate, _ in pick.chosen:
            self.serial(queue, candidate.offset, ledger.lease(candidate.offset))

    def serial(self, queue: int, offset: int, lease: Lease) -> None:
        old = self.leases.get((queue, offset))
        if old is not None and old[1] != lease.serial:
            self.stale.add((queue, offset, old[1]))
        self.leases[queue, offset] = lease.due_ms, lease.serial

    def done(self, queue: int, offset: int) -> None:
        self.stale.add((queue, offset, self.leases.pop((queue, offset))[1]))
        self.settled.add((queue, offset))

    @precondition(lambda self: self.leases)
    @rule(data=st.data())
    def acknowledge(self, data: st.DataObject) -> None:
        places = data.draw(st.lists(st.sampled_from(sorted(self.leases)), min_size=1, max_size=3, unique=True))
        by_queue: dict[int, list[int]] = {}
        for queue, offset in places:
            by_queue.setdefault(queue, []).append(offset)
        self.record({"t": "ack", "g": GROUP, "i": 7, "e": list(by_queue.items())})
        for queue, offset in places:
            self.done(queue, offset)

    @precondition(lambda self: self.leases)
    @rule(data=st.data(), ms=st.integers(0, 50), mode=st.sampled_from([CHANGED, RENEWED, UNCOUNTED]))
    def put_off(self, data: st.DataObject, ms: int, mode: int) -> None:
        queue, offset = data.draw(st.sampled_from(sorted(self.leases)))
        self.record({"t": "due", "g": GROUP, "i": 7, "e": [[queue, offset, self.now_ms + ms, mode]]})
        ledger = self.live.find(GROUP, 7, queue)
        assert ledger is not None
        self.serial(queue, offset, ledger.lease(offset))

    @precondition(lambda self: self.leases)
    @rule(data=st.data())
    def dead_letter(self, data: st.DataObject) -> None:
        queue, offset = data.draw(st.sampled_from(sorted(self.leases)))
        source = Source(Reason.DEAD_LETTER, 5, 0, GROUP, 7, queue, offset)
        for shared in (self.live, self.twin):
            shared.moved(source)
        self.done(queue, offset)

    @rule(ms=st.integers(1, 60))
    def wait(self, ms: int) -> None:
        self.now_ms += ms

    @rule(after=st.booleans())
    def restart(self, after: bool) -> None:
        """From a snapshot; ``after``: it was taken before more was done, which is not to be in it."""
        pieces, digest = self.live.snapshot(), self.live.digest()
        if after:
            self.receive(0, 2, 1_000, 10)
        old, self.live = self.live, SharedGroups()
        self.live.restore(b"".join(pieces))
        assert self.live.digest() == digest
        if after:
            self.live = old
        else:
            for queue, ledger in old.of(GROUP, 7).items():
                other = self.live.find(GROUP, 7, queue)
                assert other is not None
                ledger.ripen(self.now_ms)
                other.ripen(self.now_ms)
                assert sorted(other.again(99, ATTEMPTS_MAX)) == sorted(ledger.again(99, ATTEMPTS_MAX))

    @invariant()
    def replaying_the_records_gives_the_same(self) -> None:
        assert self.live.digest() == self.twin.digest()

    @invariant()
    def handles_of_the_past_are_stale(self) -> None:
        for queue, offset, serial in self.stale:
            ledger = self.live.find(GROUP, 7, queue)
            assert ledger is not None
            assert ledger.live(offset, serial) is None

    def teardown(self) -> None:
        for _ in range(sum(queue.end for queue in self.queues) + 2):
            self.now_ms += 1_000
            for number, queue in enumerate(self.queues):
                if queue.end:
                    self.receive(number, 5, 1_000, 1)
            for number, offset in list(self.leases):  # those that may not be delivered again are dead letters
                self.record({"t": "ack", "g": GROUP, "i": 7, "e": [[number, [offset]]]})
                self.done(number, offset)
        assert len(self.settled) == sum(queue.end for queue in self.queues)


TestLife = Life.TestCase
TestLife.settings = settings(max_examples=100, stateful_step_count=40, deadline=None, derandomize=True)
