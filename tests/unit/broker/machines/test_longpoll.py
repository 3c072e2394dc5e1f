"""Waiting reads against a list that is searched from end to end."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from kourou.broker.machines.longpoll import STALE_MIN, WaitingReads
from kourou.core.errors import TooManyRequests


def test_a_waiter_is_woken_once() -> None:
    reads = WaitingReads[str]()
    reads.add("x", [1, 2], deadline_ms=100)
    reads.add("y", [2], deadline_ms=50)
    assert reads.arrived([3]) == []
    assert reads.arrived([2, 1]) == ["x", "y"]
    assert (len(reads), reads.deadline_ms(), reads.expire(1_000)) == (0, None, [])


def test_a_token_can_wait_again_without_its_old_deadline() -> None:
    reads = WaitingReads[str]()
    reads.add("x", [1], deadline_ms=10)
    reads.arrived([1])
    reads.add("x", [1], deadline_ms=90)
    assert reads.expire(50) == []
    assert reads.deadline_ms() == 90


def test_waiters_are_bounded() -> None:
    reads = WaitingReads[int](waiting_max=2)
    reads.add(1, [1], deadline_ms=0)
    reads.add(2, [1], deadline_ms=0)
    with pytest.raises(TooManyRequests, match="2 reads") as refused:
        reads.add(3, [1], deadline_ms=0)
    assert refused.value.retry_after_ms
    assert reads.expire(0) == [1, 2]
    reads.add(3, [1], deadline_ms=0)


def test_deadlines_of_those_that_are_gone_do_not_pile_up() -> None:
    reads = WaitingReads[int]()
    for number in range(10_000):
        reads.add(number, [number % 3], deadline_ms=30_000)
        reads.arrived([number % 3])
    assert len(reads._deadlines) <= STALE_MIN + 1


class AgainstList(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.reads = WaitingReads[int](waiting_max=20)
        self.model: list[tuple[int, list[int], int]] = []  # token, keys, deadline; in order of waiting
        self.now_ms = 0
        self.token = 0

    @rule(keys=st.lists(st.integers(0, 4), max_size=3), wait_ms=st.integers(0, 30))
    def add(self, keys: list[int], wait_ms: int) -> None:
        self.token += 1
        if len(self.model) == 20:
            with pytest.raises(TooManyRequests):
                self.reads.add(self.token, keys, deadline_ms=self.now_ms + wait_ms)
            return
        self.reads.add(self.token, keys, deadline_ms=self.now_ms + wait_ms)
        self.model.append((self.token, keys, self.now_ms + wait_ms))

    @rule(keys=st.lists(st.integers(0, 4), max_size=2))
    def arrived(self, keys: list[int]) -> None:
        expected: list[int] = []
        for key in keys:
            expected += [token for token, waited, _ in self.model if key in waited and token not in expected]
        assert self.reads.arrived(keys) == expected
        self.model = [entry for entry in self.model if entry[0] not in expected]

    @rule(ms=st.integers(0, 20))
    def expire(self, ms: int) -> None:
        self.now_ms += ms
        expected = [entry for entry in sorted(self.model, key=lambda e: e[2]) if entry[2] <= self.now_ms]
        assert self.reads.expire(self.now_ms) == [token for token, _, _ in expected]
        self.model = [entry for entry in self.model if entry not in expected]

    @rule(back=st.integers(0, 5))
    def remove(self, back: int) -> None:
        self.reads.remove(self.token - back)
        self.model = [entry for entry in self.model if entry[0] != self.token - back]

    @invariant()
    def agrees(self) -> None:
        assert len(self.reads) == len(self.model)
        assert self.reads.deadline_ms() == min((deadline for _, _, deadline in self.model), default=None)


TestAgainstList = AgainstList.TestCase
TestAgainstList.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)
