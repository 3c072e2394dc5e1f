"""Topics, groups and offsets: decisions, replay, snapshots."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest

from kourou.broker.machines.groups import GroupRegistry
from kourou.broker.machines.offsets import BROADCAST_DAYS, OffsetTable
from kourou.broker.machines.topics import TopicRegistry
from kourou.core.errors import AlreadyExists, GroupNotFound, GroupShapeMismatch, LimitExceeded, TopicNotFound
from kourou.core.route import GroupShape, Placement, TopicType

NORMAL = TopicType.NORMAL


def place(**queues: int) -> tuple[Placement, ...]:
    return tuple(Placement(broker, count) for broker, count in queues.items())


def apply(machine: Any, records: list[dict[str, Any]], *, store_ms: int = 0) -> None:
    """As the log would: through JSON."""
    for record in records:
        machine.replay(json.loads(json.dumps(record)), log_offset=0, store_ms=store_ms)


def test_topics_are_created_once_and_grow() -> None:
    topics = TopicRegistry("a")
    apply(topics, topics.create("t", NORMAL, place(a=4, b=2), now_ms=5))
    topic = topics.get("t")
    assert (topic.queues, topic.incarnation, topic.created_ms) == (4, 1, 5)
    assert topics.create("t", NORMAL, place(b=2, a=4), now_ms=9) == []
    assert topics.cluster_queues("t") == [("a", 0), ("a", 1), ("a", 2), ("a", 3), ("b", 0), ("b", 1)]
    apply(topics, topics.create("t", NORMAL, place(a=8, b=2), now_ms=9))
    assert (topics.get("t").queues, topics.get("t").incarnation, topics.get("t").created_ms) == (8, 1, 5)
    with pytest.raises(AlreadyExists, match="can only be added"):
        topics.create("t", NORMAL, place(a=2, b=2), now_ms=9)
    with pytest.raises(AlreadyExists, match="type normal, not fifo"):
        topics.create("t", TopicType.FIFO, place(a=8, b=2), now_ms=9)


def test_a_topic_that_is_created_again_is_another() -> None:
    topics = TopicRegistry("a")
    apply(topics, topics.create("t", NORMAL, place(a=1), now_ms=5))
    apply(topics, topics.delete("t"))
    assert not topics.is_live(1)
    with pytest.raises(TopicNotFound, match="create it"):
        topics.get("t")
    apply(topics, topics.create("t", NORMAL, place(a=1), now_ms=6))
    assert topics.get("t").incarnation == 2


def test_the_number_of_topics_is_bounded() -> None:
    topics = TopicRegistry("a", topics_max=1)
    apply(topics, topics.create("t", NORMAL, place(a=1), now_ms=5))
    with pytest.raises(LimitExceeded, match="the limit is 1"):
        topics.create("u", NORMAL, place(a=1), now_ms=5)


def test_the_shape_of_a_group_is_fixed_by_its_first_use() -> None:
    groups = GroupRegistry()
    apply(groups, groups.create("g", shape=None, fifo=True, max_attempts=3, now_ms=1))
    apply(groups, groups.use("g", GroupShape.STREAM, auto_create=False, now_ms=2))
    assert groups.use("g", GroupShape.STREAM, auto_create=False, now_ms=2) == []
    with pytest.raises(GroupShapeMismatch, match="stream.*shared"):
        groups.use("g", GroupShape.SHARED, auto_create=True, now_ms=2)
    with pytest.raises(GroupShapeMismatch):
        groups.create("g", shape=GroupShape.SHARED, fifo=True, max_attempts=3, now_ms=2)
    with pytest.raises(AlreadyExists, match="max_attempts"):
        groups.create("g", shape=None, fifo=True, max_attempts=4, now_ms=2)
    with pytest.raises(GroupNotFound, match="switched off"):
        groups.use("h", GroupShape.STREAM, auto_create=False, now_ms=2)
    apply(groups, groups.use("h", GroupShape.STREAM, auto_create=True, now_ms=2))
    assert groups.get("h").max_attempts == 16


def test_commits_go_forward_and_resets_anywhere() -> None:
    offsets = OffsetTable()
    (record,) = offsets.commit("g", 1, [(0, 5), (1, 7)])  # many commits, one record
    apply(offsets, [record])
    assert offsets.commit("g", 1, [(0, 4), (1, 7)]) == []
    apply(offsets, offsets.reset("g", 1, [(0, 2)]))
    assert (offsets.committed("g", 1, 0), offsets.committed("g", 1, 1), offsets.committed("g", 2, 0)) == (2, 7, None)
    assert offsets.topics_of("g") == {1}


def test_offsets_go_with_their_topic_and_group() -> None:
    offsets = OffsetTable(entries_max=3)
    for group, incarnation in (("g", 1), ("g", 2), ("h", 1)):
        apply(offsets, offsets.commit(group, incarnation, [(0, 1)]))
    with pytest.raises(LimitExceeded):
        offsets.commit("i", 1, [(0, 1)])
    offsets.topic_deleted(1)
    assert (offsets.committed("g", 1, 0), offsets.committed("g", 2, 0), offsets.committed("h", 1, 0)) == (None, 1, None)
    offsets.group_deleted("g")
    assert offsets.committed("g", 2, 0) is None
    apply(offsets, offsets.commit("i", 1, [(0, 1), (1, 1), (2, 1)]))


def test_broadcast_clients_are_forgotten_after_long_silence() -> None:
    offsets = OffsetTable()
    day_ms = 86_400_000
    apply(offsets, offsets.commit_broadcast("g", "old", 1, [(0, 5)]), store_ms=0)
    apply(offsets, offsets.commit_broadcast("g", "young", 1, [(0, 6)]), store_ms=20 * day_ms)
    apply(offsets, offsets.forget_silent((BROADCAST_DAYS + 1) * day_ms))
    assert offsets.broadcast_committed("g", "old", 1, 0) is None
    assert offsets.broadcast_committed("g", "young", 1, 0) == 6


@pytest.mark.parametrize("seed", range(20))
def test_a_snapshot_and_the_rest_is_the_same_as_everything(seed: int) -> None:
    """Goal: restore + replay equals replay from scratch. Method: random records, cut at a random place, equal digests."""
    rng = random.Random(seed)
    topics, groups, offsets = TopicRegistry("a"), GroupRegistry(), OffsetTable()
    log: list[tuple[int, dict[str, Any]]] = []
    for _ in range(200):
        name = f"n{rng.randrange(6)}"
        kind = rng.randrange(6)
        records: list[dict[str, Any]]
        if kind == 0 and topics.find(name) is None:
            machine, records = 0, topics.create(name, NORMAL, place(a=rng.randrange(1, 5)), now_ms=rng.randrange(100))
        elif kind == 1 and topics.find(name) is not None:
            machine, records = 0, topics.delete(name)
        elif kind == 2:
            machine, records = 1, groups.create(name, shape=None, fifo=False, max_attempts=16, now_ms=1)
        elif kind == 3 and groups.find(name) is not None:
            machine, records = 1, groups.delete(name)
        elif kind == 4:
            machine, records = 2, offsets.commit(name, rng.randrange(3), [(rng.randrange(4), rng.randrange(100))])
        else:
            machine, records = 2, offsets.commit_broadcast(name, "c", 1, [(rng.randrange(4), rng.randrange(100))])
        for record in records:
            log.append((machine, record))
            apply((topics, groups, offsets)[machine], [record])
    cut = rng.randrange(len(log) + 1)
    first: tuple[Any, ...] = (TopicRegistry("a"), GroupRegistry(), OffsetTable())
    for machine, record in log[:cut]:
        apply(first[machine], [record])
    second: tuple[Any, ...] = (TopicRegistry("a"), GroupRegistry(), OffsetTable())
    for old, new in zip(first, second, strict=True):
        new.restore(b"".join(old.snapshot()))
        assert new.digest() == old.digest()
    for machine, record in log[cut:]:
        apply(second[machine], [record])
    assert [m.digest() for m in second] == [m.digest() for m in (topics, groups, offsets)]
