"""The end of a deadline: which attempts are still made, and how a batch ends. On a clock that the test moves."""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable
from itertools import count
from typing import Any, cast

import pytest

from kourou.client.dispatch import Dispatcher
from kourou.client.logic.batch import Batch, Outcome, QueueName, Stored
from kourou.client.logic.deadlines import GRACE_S, LISTEN_S_MIN, LISTEN_SHARE_MAX, AnswerTime, Deadlines
from kourou.core import wire
from kourou.core.errors import Busy, DeadlineExceeded, DiskFull, FrameInvalid, KourouError, NotConnected, OutcomeUnknown
from kourou.core.frame import Compression
from kourou.core.route import BrokerRoute, TopicRoute, TopicType, parse_endpoint
from kourou.core.wire import Code, Flag, WireMessage

STORED = wire.PRODUCE_RESULT.pack(0, False, 0, 0, 0, 0)
DEADLINE_S = 2.0


def steady(seconds: float) -> AnswerTime:
    answers = AnswerTime()
    for _ in range(100):
        answers.took(seconds)
    return answers


def test_the_expected_answer_time_follows_what_came() -> None:
    assert AnswerTime().expected_s == 0.0
    assert steady(0.2).expected_s == pytest.approx(0.2, rel=0.01)
    answers = AnswerTime()
    answers.took(0.1)
    assert answers.expected_s == pytest.approx(0.3)  # after one: as RFC 6298 has it
    rng = random.Random(1)
    for _ in range(1_000):
        answers.took(rng.uniform(0.0, 0.1))
    assert 0.1 < answers.expected_s < 0.2


@pytest.mark.parametrize(
    ("deadline_s", "answer_s", "listen_s"),
    [
        (10.0, 0.001, LISTEN_S_MIN),
        (10.0, 0.5, 0.5),
        (10.0, 9.0, 10.0 * LISTEN_SHARE_MAX),
        (0.2, 0.001, 0.2 * LISTEN_SHARE_MAX),
    ],
)
def test_time_to_listen_is_kept(deadline_s: float, answer_s: float, listen_s: float) -> None:
    deadlines, answers = Deadlines(deadline_s), steady(answer_s)
    assert deadlines.may_start(deadline_s, deadline_s - listen_s * 1.02, answers)
    assert not deadlines.may_start(deadline_s, deadline_s - listen_s * 0.98, answers)
    assert deadlines.retry_after_s(0.001, deadline_s, 0.0, answers) == 0.001
    clipped = deadlines.retry_after_s(99.0, deadline_s, 0.0, answers)
    assert clipped == pytest.approx(deadline_s - 2 * listen_s, rel=0.02)
    assert deadlines.retry_after_s(0.001, deadline_s, deadline_s - 2 * listen_s * 0.98, answers) is None
    assert not deadlines.lost(deadline_s, deadline_s + GRACE_S * 0.99)
    assert deadlines.lost(deadline_s, deadline_s + GRACE_S)


class ManualLoop:
    """As much of an event loop as the dispatcher uses."""

    def __init__(self) -> None:
        self.now = 100.0
        self._timers: list[tuple[float, int, Callable[..., object], tuple[Any, ...]]] = []
        self._number = count()

    def time(self) -> float:
        return self.now

    def call_later(self, delay_s: float, callback: Callable[..., object], *arguments: Any) -> None:
        assert delay_s > 0
        heapq.heappush(self._timers, (self.now + delay_s, next(self._number), callback, arguments))

    def run_until(self, when: float) -> None:
        while self._timers and self._timers[0][0] <= when:
            self.now, _, callback, arguments = heapq.heappop(self._timers)
            callback(*arguments)
        self.now = when


class FakeConnection:
    """Answers each PRODUCE with ``answer`` after ``took_s``; never, where that is None."""

    closed = going_away = False
    writable = True

    def __init__(self, loop: ManualLoop) -> None:
        self.loop = loop
        self.answer: KourouError | bytes = STORED
        self.took_s: float | None = 0.001
        self.written_at: list[float] = []

    def request(self, code: int, answered: Callable[[WireMessage | KourouError], None], **parts: object) -> None:
        self.written_at.append(self.loop.now)
        answer = self.answer
        if isinstance(answer, KourouError):
            result: WireMessage | KourouError = answer
        else:
            result = WireMessage(Code.PRODUCE, Flag.ANSWER, 1, memoryview(b""), memoryview(answer))
        if self.took_s is not None:
            self.loop.call_later(self.took_s, answered, result)


class FakeCluster:
    def __init__(self) -> None:
        self.rng = random.Random(1)
        place = BrokerRoute("a", 1, 1, parse_endpoint("h:1"))
        self.routes = {"t": TopicRoute("t", TopicType.NORMAL, 1, (place,))}
        self.connection: FakeConnection | None = None

    def connected(self, broker: str) -> FakeConnection | None:
        return self.connection

    def spawn(self, work: Any) -> None:
        work.close()  # connecting never ends here


class World:
    def __init__(self, *, connected: bool = True) -> None:
        self.loop = ManualLoop()
        self.cluster = FakeCluster()
        self.connection = FakeConnection(self.loop)
        if connected:
            self.cluster.connection = self.connection
        self.outcomes: list[tuple[float, Outcome]] = []
        self.dispatcher = Dispatcher(
            cast(Any, self.cluster),
            loop=cast(Any, self.loop),
            producer_id=7,
            compression=Compression.NONE,
            deadline_s=DEADLINE_S,
            finished=lambda batch, outcome: self.outcomes.append((self.loop.now, outcome)),
            settled=lambda: None,
        )
        self.deadline = self.loop.now + DEADLINE_S

    def send(self, pinned: QueueName | None = None) -> Batch:
        batch = Batch("t", pinned=pinned, deadline=self.loop.now + DEADLINE_S, born_ms=0)
        batch.add_body(b"x", 0)
        self.dispatcher.add(batch)
        self.dispatcher.pump()
        return batch

    def run(self, seconds: float = 2 * DEADLINE_S) -> None:
        """With a reaper ten times a second, as the producer has it."""
        end = self.loop.now + seconds
        while self.loop.now < end:
            self.loop.run_until(min(end, self.loop.now + 0.1))
            self.dispatcher.reap()

    def outcome(self) -> Outcome:
        ((_, outcome),) = self.outcomes
        return outcome


@pytest.mark.parametrize("pinned", [None, ("a", 0)])
@pytest.mark.parametrize("took_s", [0.001, 0.03, 0.09])
@pytest.mark.parametrize("retry_after_ms", [None, 300, 1_000, 60_000])
def test_refused_until_the_deadline_ends_with_the_refusal(
    took_s: float, retry_after_ms: int | None, pinned: QueueName | None
) -> None:
    """Never unknown: the last attempt begins when its answer can still be heard."""
    world = World()
    world.connection.answer = DiskFull("the disk is full", retry_after_ms=retry_after_ms)
    world.connection.took_s = took_s
    world.send(pinned)
    world.run()
    assert world.outcome() is world.connection.answer
    assert len(world.connection.written_at) > 1
    assert world.connection.written_at[-1] <= world.deadline - 2 * LISTEN_S_MIN + 1e-9
    assert world.outcomes[0][0] <= world.deadline
    assert not world.dispatcher.waiting
    assert not world.dispatcher.lanes["a"].busy


def test_the_last_attempt_can_still_succeed() -> None:
    world = World()
    world.connection.answer = DiskFull("the disk is full", retry_after_ms=60_000)
    world.send()
    world.loop.run_until(world.loop.now + 0.5)
    world.connection.answer = STORED
    world.run()
    assert isinstance(world.outcome(), Stored)
    assert len(world.connection.written_at) == 2


def test_a_refusal_for_good_ends_it_at_once() -> None:
    world = World()
    world.connection.answer = FrameInvalid("bad")
    world.send()
    world.run()
    assert world.outcomes[0][0] == world.connection.written_at[0] + 0.001
    assert isinstance(world.outcome(), FrameInvalid)


def test_an_answer_that_is_a_little_late_is_taken() -> None:
    world = World()
    world.connection.took_s = DEADLINE_S + GRACE_S * 0.9
    world.send()
    world.run()
    assert isinstance(world.outcome(), Stored)


def test_no_answer_at_all_is_unknown_and_says_what_came_before() -> None:
    world = World()
    world.connection.answer = DiskFull("the disk is full")
    world.send()
    world.loop.run_until(world.loop.now + 0.005)
    world.connection.took_s = None
    world.run()
    outcome = world.outcome()
    assert isinstance(outcome, OutcomeUnknown)
    assert "an earlier attempt: the disk is full" in str(outcome)
    assert world.deadline + GRACE_S <= world.outcomes[0][0] <= world.deadline + GRACE_S + 0.11


def test_what_waits_for_a_slot_is_not_started_too_late() -> None:
    """A slot that comes free just before the deadline, or behind it before the reaper looks, is no use any more."""
    for late_s in (-LISTEN_S_MIN / 2, 0.05):
        world = World(connected=False)
        batch = world.send()
        world.loop.now = world.deadline + late_s
        lane = world.dispatcher.lanes["a"]
        lane.connected(cast(Any, world.connection))
        world.dispatcher.pump()
        assert isinstance(world.outcome(), DeadlineExceeded)
        assert "no broker could take it" in str(world.outcome())
        assert world.connection.written_at == []
        assert batch.attempts == 0


@pytest.mark.parametrize(
    ("refusal", "kind", "text"),
    [
        (None, DeadlineExceeded, "not sent before the deadline: no broker could take it"),
        (NotConnected("nobody there"), DeadlineExceeded, "not sent before the deadline: nobody there"),
        (Busy("so much to do"), Busy, "so much to do"),
    ],
)
def test_never_started(refusal: KourouError | None, kind: type[KourouError], text: str) -> None:
    world = World(connected=False)
    world.send().refusal = refusal
    world.run()
    assert type(world.outcome()) is kind
    assert str(world.outcome()) == text


def test_a_slow_broker_has_its_time() -> None:
    """Where answers take long, the last attempt begins earlier, within a share of the deadline."""
    world = World()
    world.connection.answer = Busy("slow", retry_after_ms=1)
    world.connection.took_s = 0.2
    world.send()
    world.run()
    assert isinstance(world.outcome(), Busy)
    assert world.connection.written_at[-1] + 0.2 <= world.deadline
