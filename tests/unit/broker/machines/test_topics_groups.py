"""Topic and group registries: what is decided, what is refused and why, replay and snapshots."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kourou.broker.machines.groups import GroupRegistry
from kourou.broker.machines.topics import Record, TopicRegistry
from kourou.core.errors import (
    AlreadyExists,
    BadRequest,
    GroupNotFound,
    GroupShapeMismatch,
    KourouError,
    LimitExceeded,
    TopicNotFound,
)
from kourou.core.limits import QUEUES_PER_TOPIC_MAX
from kourou.core.route import GroupShape, Placement, TopicType


def placed(**queues: int) -> tuple[Placement, ...]:
    return tuple(Placement(broker, count) for broker, count in queues.items())


def replay(machine: Any, records: list[Record], *, at: int = 0) -> list[Record]:
    for record in records:
        machine.replay(record, log_offset=at, store_ms=at)
    return records


def topics_with(**queues: int) -> TopicRegistry:
    topics = TopicRegistry("a")
    replay(topics, topics.create("t", TopicType.NORMAL, placed(**queues), now_ms=5))
    return topics


# ---- topics


def test_create_is_idempotent_and_says_what_differs() -> None:
    topics = topics_with(b=3, a=2)
    topic = topics.get("t")
    assert (topic.queues, topic.incarnation, topic.created_ms) == (2, 1, 5)
    assert topics.cluster_queues("t") == [("a", 0), ("a", 1), ("b", 0), ("b", 1), ("b", 2)]
    assert topics.create("t", TopicType.NORMAL, placed(a=2, b=3), now_ms=9) == []
    with pytest.raises(AlreadyExists, match="type normal, not fifo"):
        topics.create("t", TopicType.FIFO, placed(a=2, b=3), now_ms=9)
    with pytest.raises(AlreadyExists, match="3 queues on b, not 1"):
        topics.create("t", TopicType.NORMAL, placed(a=2, b=1), now_ms=9)


def test_queues_may_only_be_added() -> None:
    topics = topics_with(a=2)
    replay(topics, topics.set_placement("t", placed(a=4, b=1)))
    assert (topics.get("t").queues, topics.get("t").incarnation, topics.get("t").created_ms) == (4, 1, 5)
    assert topics.set_placement("t", placed(b=1, a=4)) == []
    with pytest.raises(AlreadyExists, match="1 queues on b, not 0"):
        topics.set_placement("t", placed(a=8))
    with pytest.raises(TopicNotFound, match="kourou topic create.*auto_create"):
        topics.set_placement("u", placed(a=8))


def test_a_recreated_topic_is_another_incarnation() -> None:
    topics = topics_with(a=1)
    deleted = replay(topics, topics.delete("t"))
    assert topics.find("t") is None
    assert not topics.is_live(1)
    with pytest.raises(TopicNotFound):
        topics.delete("t")
    replay(topics, topics.create("t", TopicType.FIFO, placed(a=1), now_ms=9))
    replay(topics, deleted)  # of the former life: says nothing about this one
    assert topics.get("t").incarnation == 2
    assert (topics.named(1), topics.named(2)) == (None, "t")


def test_version_rises_with_changes_only() -> None:
    topics = topics_with(a=1)
    version = topics.version
    record = topics.create("u", TopicType.NORMAL, placed(a=1), now_ms=1)
    replay(topics, record)
    assert topics.version == version + 1
    replay(topics, record)
    assert topics.version == version + 1


def test_topic_limits() -> None:
    topics = TopicRegistry("a", topics_max=1)
    replay(topics, topics.create("t", TopicType.NORMAL, placed(a=1), now_ms=0))
    with pytest.raises(LimitExceeded, match="limit is 1"):
        topics.create("u", TopicType.NORMAL, placed(a=1), now_ms=0)
    with pytest.raises(LimitExceeded, match=str(QUEUES_PER_TOPIC_MAX)):
        topics.set_placement("t", placed(a=QUEUES_PER_TOPIC_MAX, b=1))
    with pytest.raises(BadRequest, match="twice"):
        topics.set_placement("t", (*placed(a=1), *placed(a=1)))
    with pytest.raises(BadRequest, match="negative"):
        topics.set_placement("t", placed(a=1, b=-1))


# ---- groups


def test_first_use_fixes_the_shape() -> None:
    groups = GroupRegistry()
    replay(groups, groups.create("g", shape=None, fifo=False, max_attempts=16, now_ms=3))
    assert groups.get("g").shape is None
    replay(groups, groups.use("g", GroupShape.STREAM, auto_create=False, now_ms=9))
    assert (groups.get("g").shape, groups.get("g").created_ms) == (GroupShape.STREAM, 3)
    assert groups.use("g", GroupShape.STREAM, auto_create=False, now_ms=9) == []
    with pytest.raises(GroupShapeMismatch, match=r"stream.*shared"):
        groups.use("g", GroupShape.SHARED, auto_create=True, now_ms=9)
    with pytest.raises(GroupShapeMismatch, match=r"stream.*shared"):
        groups.create("g", shape=GroupShape.SHARED, fifo=False, max_attempts=16, now_ms=9)


def test_group_create_is_idempotent_and_says_what_differs() -> None:
    groups = GroupRegistry(groups_max=1)
    with pytest.raises(GroupNotFound, match="automatic creation is switched off"):
        groups.use("g", GroupShape.STREAM, auto_create=False, now_ms=0)
    replay(groups, groups.use("g", GroupShape.STREAM, auto_create=True, now_ms=0))
    assert groups.get("g").max_attempts == 16
    assert groups.create("g", shape=None, fifo=False, max_attempts=16, now_ms=9) == []
    with pytest.raises(AlreadyExists, match=r"max_attempts=16.*max_attempts=3"):
        groups.create("g", shape=None, fifo=False, max_attempts=3, now_ms=9)
    with pytest.raises(LimitExceeded):
        groups.use("h", GroupShape.STREAM, auto_create=True, now_ms=0)
    replay(groups, groups.delete("g"))
    with pytest.raises(GroupNotFound, match="kourou group create"):
        groups.delete("g")


# ---- both

TOPIC_STEPS = st.lists(
    st.tuples(
        st.sampled_from(["create", "grow", "delete"]),
        st.sampled_from(["t", "u", "ü"]),
        st.sampled_from([TopicType.NORMAL, TopicType.FIFO]),
        st.integers(0, 3),
        st.integers(0, 3),
    ),
    max_size=25,
)
GROUP_STEPS = st.lists(
    st.tuples(
        st.sampled_from(["create", "use", "delete"]),
        st.sampled_from(["g", "h"]),
        st.sampled_from([GroupShape.STREAM, GroupShape.SHARED]),
        st.booleans(),
    ),
    max_size=25,
)


@settings(max_examples=60, deadline=None)
@given(TOPIC_STEPS, st.integers(0, 25))
def test_topics_from_a_snapshot_are_those_of_the_whole_log(
    steps: list[tuple[str, str, TopicType, int, int]], cut: int
) -> None:
    """Snapshot after ``cut`` records and encode it at the end; restore and replay the rest (the last of them twice)."""
    topics, log = TopicRegistry("a"), list[Record]()
    snapshot, taken = TopicRegistry("a").snapshot(), 0
    for step, name, kind, here, there in steps:
        try:
            if step == "create":
                records = topics.create(name, kind, placed(a=here, b=there), now_ms=len(log))
            elif step == "grow":
                records = topics.set_placement(name, placed(a=here, b=there))
            else:
                records = topics.delete(name)
        except KourouError:
            continue
        log += replay(topics, records, at=len(log))
        if len(log) <= cut:
            snapshot, taken = topics.snapshot(), len(log)
    data = b"".join(snapshot)
    other = topics_with(a=3)  # restore replaces whatever was there
    other.restore(data)
    replay(other, log[taken:] + log[taken:][-1:])
    assert other.digest() == topics.digest()
    assert other.all() == topics.all()
    assert len({topic.incarnation for topic in topics.all()}) == len(topics.all())


@settings(max_examples=60, deadline=None)
@given(GROUP_STEPS, st.integers(0, 25))
def test_groups_from_a_snapshot_are_those_of_the_whole_log(steps: list[tuple[str, str, GroupShape, bool]], cut: int) -> None:
    groups, log = GroupRegistry(), list[Record]()
    snapshot, taken = GroupRegistry().snapshot(), 0
    for step, name, shape, flag in steps:
        try:
            if step == "create":
                records = groups.create(name, shape=shape if flag else None, fifo=flag, max_attempts=16, now_ms=len(log))
            elif step == "use":
                records = groups.use(name, shape, auto_create=flag, now_ms=len(log))
            else:
                records = groups.delete(name)
        except KourouError:
            continue
        log += replay(groups, records, at=len(log))
        if len(log) <= cut:
            snapshot, taken = groups.snapshot(), len(log)
    data = b"".join(snapshot)
    other = GroupRegistry()
    replay(other, other.create("gone", shape=None, fifo=False, max_attempts=1, now_ms=0))
    other.restore(data)
    replay(other, log[taken:] + log[taken:][-1:])
    assert other.digest() == groups.digest()
    assert other.all() == groups.all()
