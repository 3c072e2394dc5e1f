"""The offset table: forward only, one record for many, clean removal, snapshots that stay as they were captured."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from kourou.broker.machines.offsets import BROADCAST_DAYS, OffsetTable, Record
from kourou.broker.machines.projection import SLICE_CHARACTERS
from kourou.core.errors import LimitExceeded

DAY_MS = 86_400_000


def replay(table: OffsetTable, records: list[Record], *, store_ms: int = 0) -> list[Record]:
    for record in records:
        table.replay(record, log_offset=0, store_ms=store_ms)
    return records


def test_many_commits_are_one_record_and_go_forward() -> None:
    table = OffsetTable()
    (record,) = replay(table, table.commit("g", 7, [(0, 10), (1, 20), (0, 12), (0, 11)]))
    assert record == {"t": "offsets", "g": "g", "i": 7, "o": [[0, 12], [1, 20]], "f": 1}
    assert table.commit("g", 7, [(0, 12), (1, 3)]) == []
    assert (table.committed("g", 7, 0), table.committed("g", 7, 2), table.committed("g", 8, 0)) == (12, None, None)


def test_offset_zero_can_be_committed() -> None:
    table = OffsetTable()
    replay(table, table.commit("g", 7, [(0, 0)]))
    assert table.committed("g", 7, 0) == 0


def test_commits_that_were_decided_together_do_not_go_back() -> None:
    """Goal: a commit gathered behind a further one must not undo it. Method: decide on both before replaying either."""
    table = OffsetTable()
    records = table.commit("g", 7, [(0, 10)]) + table.commit("g", 7, [(0, 8), (1, 1)])
    replay(table, records)
    assert (table.committed("g", 7, 0), table.committed("g", 7, 1)) == (10, 1)


def test_reset_goes_back() -> None:
    table = OffsetTable()
    replay(table, table.commit("g", 7, [(0, 10)]))
    replay(table, table.reset("g", 7, [(0, 9), (0, 2)]))
    assert table.committed("g", 7, 0) == 2
    assert table.reset("g", 7, [(0, 2)]) == []


def test_records_written_before_f_was_known_are_taken_as_they_are() -> None:
    table = OffsetTable()
    replay(table, [{"t": "offsets", "g": "g", "i": 7, "o": [[0, 9]]}, {"t": "offsets", "g": "g", "i": 7, "o": [[0, 3]]}])
    assert table.committed("g", 7, 0) == 3


def test_removal_with_topic_and_group() -> None:
    table = OffsetTable()
    for group in ("g", "h"):
        replay(table, table.commit(group, 7, [(0, 1), (1, 1)]))
        replay(table, table.commit(group, 8, [(0, 1)]))
        replay(table, table.commit_broadcast(group, "c", 7, [(0, 1)]))
    assert len(table) == 8
    table.topic_deleted(7)
    assert (len(table), table.topics_of("g"), table.broadcast_committed("g", "c", 7, 0)) == (2, {8}, None)
    table.group_deleted("g")
    assert (len(table), table.topics_of("g"), table.committed("h", 8, 0)) == (1, set(), 1)
    table.group_deleted("g")
    table.topic_deleted(7)
    table.topic_deleted(8)
    assert table.digest() == OffsetTable().digest()


def test_silent_broadcast_clients_are_forgotten_by_record() -> None:
    table = OffsetTable()
    replay(table, table.commit("g", 7, [(0, 1)]))
    replay(table, table.commit_broadcast("g", "old", 7, [(0, 5)]))
    replay(table, table.commit_broadcast("g", "both", 7, [(0, 5)]))
    replay(table, table.commit_broadcast("g", "both", 8, [(0, 5)]), store_ms=DAY_MS)
    now_ms = BROADCAST_DAYS * DAY_MS
    assert table.forget_silent(now_ms) == []
    assert replay(table, table.forget_silent(now_ms + 1)) == [{"t": "offsets-", "g": "g", "c": "old"}]
    assert (table.broadcast_committed("g", "old", 7, 0), table.broadcast_committed("g", "both", 7, 0)) == (None, 5)
    assert table.committed("g", 7, 0) == 1


def test_a_full_table_still_takes_commits_of_what_it_has() -> None:
    table = OffsetTable(entries_max=2)
    replay(table, table.commit("g", 7, [(0, 1), (1, 1)]))
    with pytest.raises(LimitExceeded, match="limit is 2"):
        table.commit("g", 7, [(0, 2), (2, 1)])
    assert replay(table, table.commit("g", 7, [(0, 2), (1, 2)]))


def test_big_tables_are_encoded_in_small_slices() -> None:
    """20,000 queues of one group; the capture stays as it was while commits go on between the slices."""
    table = OffsetTable()
    replay(table, table.commit("g", 7, [(queue, 10**9 + queue) for queue in range(20_000)]))
    before, pieces = table.digest(), list[bytes]()
    for number, piece in enumerate(table.snapshot()):
        pieces.append(piece)
        replay(table, table.commit("g", 7, [(queue, 2 * 10**9 + number) for queue in range(0, 20_000, 7)]))
    assert len(pieces) > 10
    assert max(map(len, pieces)) < 2 * SLICE_CHARACTERS
    other = OffsetTable()
    other.restore(b"".join(pieces))
    assert other.digest() == before != table.digest()
    assert len(other) == 20_000


class OffsetTableAgainstDict(RuleBasedStateMachine):
    """The table against a plain dict; a second table is kept by a snapshot taken earlier, and the log since then."""

    def __init__(self) -> None:
        super().__init__()
        self.table = OffsetTable()
        self.model: dict[tuple[str, str, int, int], int] = {}
        self.log: list[tuple[str, Any]] = []
        self.snapshot = self.table.snapshot()
        self.since = 0
        self.now_ms = 0

    groups = st.sampled_from(["g", "h"])
    topics = st.sampled_from([1, 2])
    entries = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 9)), max_size=4)

    def note(self, kind: str, value: Any) -> None:
        self.log.append((kind, (value, self.now_ms)))
        self.feed(self.table, kind, (value, self.now_ms))

    @staticmethod
    def feed(table: OffsetTable, kind: str, value: Any) -> None:
        if kind == "record":
            table.replay(value[0], log_offset=0, store_ms=value[1])
        elif kind == "topic":
            table.topic_deleted(value[0])
        else:
            table.group_deleted(value[0])

    @rule(group=groups, topic=topics, entries=entries)
    def commit(self, group: str, topic: int, entries: list[tuple[int, int]]) -> None:
        for record in self.table.commit(group, topic, entries):
            self.note("record", record)
        for queue, offset in entries:
            place = (group, "", topic, queue)
            self.model[place] = max(offset, self.model.get(place, 0))

    @rule(group=groups, topic=topics, entries=entries, client=st.sampled_from(["", "c", "d"]))
    def set_anywhere(self, group: str, topic: int, entries: list[tuple[int, int]], client: str) -> None:
        table = self.table
        for record in (
            table.commit_broadcast(group, client, topic, entries) if client else table.reset(group, topic, entries)
        ):
            self.note("record", record)
        self.model.update({(group, client, topic, queue): offset for queue, offset in entries})

    @rule(topic=topics)
    def topic_deleted(self, topic: int) -> None:
        self.note("topic", topic)
        self.model = {place: offset for place, offset in self.model.items() if place[2] != topic}

    @rule(group=groups)
    def group_deleted(self, group: str) -> None:
        self.note("group", group)
        self.model = {place: offset for place, offset in self.model.items() if place[0] != group}

    @rule(days=st.integers(1, 20))
    def time_passes(self, days: int) -> None:
        self.now_ms += days * DAY_MS
        for record in self.table.forget_silent(self.now_ms):
            self.note("record", record)
            for place in [place for place in self.model if place[:2] == (record["g"], record["c"])]:
                del self.model[place]

    @rule()
    def capture(self) -> None:
        self.snapshot, self.since = self.table.snapshot(), len(self.log)

    @rule()
    def restart(self) -> None:
        """Go on from the snapshot and the log since; it must come to the same state."""
        fresh = OffsetTable()
        replay(fresh, fresh.commit("gone", 3, [(0, 1)]))  # restore replaces whatever was there
        fresh.restore(b"".join(self.snapshot))
        for kind, value in self.log[self.since :]:
            self.feed(fresh, kind, value)
        assert fresh.digest() == self.table.digest()
        assert len(fresh) == len(self.table)
        self.table = fresh
        self.capture()

    @invariant()
    def agrees(self) -> None:
        assert len(self.table) == len(self.model)
        for (group, client, topic, queue), offset in self.model.items():
            if client:
                assert self.table.broadcast_committed(group, client, topic, queue) == offset
            else:
                assert self.table.committed(group, topic, queue) == offset
        for group in ("g", "h"):
            assert self.table.topics_of(group) == {place[2] for place in self.model if place[:2] == (group, "")}


TestOffsetTableAgainstDict = OffsetTableAgainstDict.TestCase
TestOffsetTableAgainstDict.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)
