"""Half messages and decisions on them, against a naive model; live, replayed and restored."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from kourou.broker.machines import transactions as machine
from kourou.broker.machines.transactions import COMMITTED, ROLLED_BACK, Half, Place, Transactions


def rolled_back(*places: Place) -> dict[str, Any]:
    return {"t": "tx-", "e": [list(place) for place in places], "w": ROLLED_BACK}


def test_the_first_decision_stands() -> None:
    transactions = Transactions()
    transactions.stored(100, [Half(1, 0, 5, 0), Half(1, 0, 5, 0)])
    transactions.committed((100, 0))
    transactions.replay(rolled_back((100, 0), (100, 1)), log_offset=0, store_ms=0)
    transactions.committed((100, 1))
    assert transactions.decision((100, 0)) == COMMITTED
    assert transactions.decision((100, 1)) == ROLLED_BACK
    assert transactions.decision((100, 2)) is None
    assert len(transactions) == 0


def test_the_oldest_undecided_one_holds_the_log() -> None:
    transactions = Transactions()
    assert transactions.lowest_log_offset() is None
    for at in (100, 200, 300):
        transactions.stored(at, [Half(1, 0, at, 0)])
    transactions.replay({"t": "tx?", "e": [[100, 0, 1, 50]]}, log_offset=0, store_ms=0)
    assert transactions.lowest_log_offset() == 100
    transactions.committed((100, 0))
    assert transactions.lowest_log_offset() == 200


def test_decisions_are_remembered_up_to_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "DECIDED_MAX", 3)
    transactions = Transactions()
    transactions.stored(1, [Half(1, 0, 0, 0)] * 5)
    for number in range(5):
        transactions.committed((1, number))
    assert [transactions.decision((1, number)) for number in range(5)] == [None, None, *[COMMITTED] * 3]


def test_a_topic_that_is_gone_takes_its_half_messages_along() -> None:
    transactions = Transactions()
    transactions.stored(1, [Half(1, 0, 0, 0)])
    transactions.stored(2, [Half(2, 0, 0, 0)])
    transactions.topic_deleted(1)
    assert [place for place, _ in transactions.pending()] == [(2, 0)]
    transactions.committed((1, 0))
    assert transactions.decision((1, 0)) is None


class Life(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.live, self.twin = Transactions(), Transactions()
        self.pending: dict[Place, Half] = {}
        self.decided: dict[Place, str] = {}
        self.at = 0

    def record(self, record: dict[str, Any]) -> None:
        self.live.replay(record, log_offset=0, store_ms=0)
        self.twin.replay(json.loads(json.dumps(record)), log_offset=0, store_ms=0)

    @rule(count=st.integers(1, 3), topic=st.integers(1, 2))
    def prepare(self, count: int, topic: int) -> None:
        self.at += 100
        halves = [Half(topic, number, self.at, 0) for number in range(count)]
        self.live.stored(self.at, iter(halves))
        self.twin.stored(self.at, halves)
        self.pending.update({(self.at, number): half for number, half in enumerate(halves)})

    @precondition(lambda self: self.at)
    @rule(data=st.data(), commit=st.booleans())
    def decide(self, data: st.DataObject, commit: bool) -> None:
        """Anything that was ever stored, again too, and what never was."""
        place = data.draw(st.tuples(st.sampled_from(range(100, self.at + 1, 100)), st.integers(0, 3)))
        if commit:
            self.live.committed(place)
            self.twin.committed(place)
        else:
            self.record(rolled_back(place))
        if self.pending.pop(place, None) is not None:
            self.decided[place] = COMMITTED if commit else ROLLED_BACK

    @precondition(lambda self: self.pending)
    @rule(data=st.data(), checks=st.integers(1, 9))
    def asked(self, data: st.DataObject, checks: int) -> None:
        place = data.draw(st.sampled_from(sorted(self.pending)))
        self.record({"t": "tx?", "e": [[*place, checks, 77]]})
        self.pending[place] = self.pending[place]._replace(checks=checks, checked_ms=77)

    @rule(topic=st.integers(1, 2))
    def delete_topic(self, topic: int) -> None:
        self.live.topic_deleted(topic)
        self.twin.topic_deleted(topic)
        self.pending = {place: half for place, half in self.pending.items() if half.incarnation != topic}

    @rule()
    def restart(self) -> None:
        restored = Transactions()
        restored.stored(1, [Half(9, 9, 9, 9)])  # whatever was there before
        restored.committed((1, 0))
        restored.restore(b"".join(self.live.snapshot()))
        self.live = restored

    @invariant()
    def state_is_the_models(self) -> None:
        assert dict(self.live.pending()) == self.pending
        assert list(dict(self.live.pending())) == sorted(self.pending), "oldest first"
        assert self.live.lowest_log_offset() == min((at for at, _ in self.pending), default=None)
        assert self.live.digest() == self.twin.digest()
        for place, outcome in self.decided.items():
            assert self.live.decision(place) == outcome
            assert self.live.find(place) is None


TestLife = Life.TestCase
TestLife.settings = settings(max_examples=60, stateful_step_count=30, deadline=None, derandomize=True)
