"""Timers against a naive model: order, recalls, moves to buckets, deletions, snapshots at any moment."""

from __future__ import annotations

from array import array
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from kourou.broker.machines.timers import Place, Timer, Timers

SIZE = 1000  # of a file, which nobody reads here


def make(page_size: int = 4) -> Timers:
    return Timers(page_size=page_size)


def restored(timers: Timers) -> Timers:
    other = make()
    other.restore(b"".join(timers.snapshot()))
    return other


def bucket_record(number: int, timers: list[Timer], dead: list[int], **more: Any) -> dict[str, Any]:
    start = min(timer.place for timer in timers)
    end = max((timer.log_offset, timer.record + 1) for timer in timers)
    return {
        "t": "tm>", "b": number, "n": len(timers), "log": [start, end], "file": [timers[-1].due_ms, SIZE, 0],
        "floor": [0, timers[0].due_ms], "dead": dead, **more,
    }  # fmt: skip


def test_due_order_across_pages_and_ties_in_log_order() -> None:
    timers = make()
    timers.stored(100, 1, 0, array("q", [50, 10, 30, 10, 20, 10]))
    timers.stored(200, 1, 1, array("q", [10, 40]))
    assert timers.next_due_ms() == 10
    taken = timers.take_due(40, 100)
    assert [(timer.due_ms, *timer.place) for timer in taken] == [
        (10, 100, 1), (10, 100, 3), (10, 100, 5), (10, 200, 0), (20, 100, 4), (30, 100, 2), (40, 200, 1),
    ]  # fmt: skip
    assert timers.take_due(40, 100) == []
    assert timers.next_due_ms() == 50


def test_a_frame_larger_than_a_page_is_found_record_by_record() -> None:
    timers = make()
    timers.stored(7, 1, 0, array("q", range(100, 111)))
    for record in range(11):
        assert timers.find((7, record)) == Timer(100 + record, 7, record, 1, 0)
    assert (timers.find((7, 11)), timers.find((6, 0)), timers.find((8, 0))) == (None, None, None)
    assert timers.pages == 3


def test_what_comes_late_is_still_in_order() -> None:
    """Goal: a page that is already in order takes more timers. Method: take half, then store sooner and later ones."""
    timers = make(page_size=64)
    timers.stored(1, 1, 0, array("q", [10, 30]))
    assert [timer.due_ms for timer in timers.take_due(10, 9)] == [10]
    timers.stored(2, 1, 0, array("q", [20, 5]))
    timers.stored(3, 1, 0, array("q", range(60, 10, -1)))
    assert [timer.due_ms for timer in timers.take_due(20, 99)] == [5, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 20]


def test_given_back_timers_come_again_first() -> None:
    timers = make()
    timers.stored(1, 1, 0, array("q", [10, 20, 30]))
    taken = timers.take_due(20, 9)
    timers.give_back(taken)
    timers.retired(taken[0].place, 1)
    assert timers.next_due_ms() == 20
    assert [timer.due_ms for timer in timers.take_due(30, 9)] == [20, 30]


def test_pages_go_when_their_timers_have() -> None:
    timers = make()
    timers.stored(1, 1, 0, array("q", range(10)))
    assert timers.pages == 3
    for timer in timers.take_due(7, 99):
        timers.retired(timer.place, 1)
    assert (timers.pages, len(timers), timers.lowest_log_offset()) == (1, 2, 1)
    for record in (8, 9):
        timers.retired((1, record), 1)
    assert (len(timers), timers.lowest_log_offset(), timers.take_due(99, 9), timers.next_due_ms()) == (0, None, [], None)


def test_a_bucket_takes_the_later_ones_and_lets_go_of_the_log() -> None:
    timers = make()
    timers.stored(1, 1, 0, array("q", [5, 100, 200, 300, 400]))
    timers.stored(2, 2, 3, array("q", [500]))
    moved = [Timer(due, 1, number, 1, 0) for number, due in ((1, 100), (2, 200), (3, 300), (4, 400))]
    moved.append(Timer(500, 2, 0, 2, 3))
    timers.replay(bucket_record(1, moved, [], due=100), log_offset=9, store_ms=0)
    assert len(timers) == 6
    assert timers.find((1, 1)) is None
    assert timers.lowest_log_offset() == 1
    assert [timer.due_ms for timer in timers.take_due(1000, 9)] == [5]
    timers.retired((1, 0), 1)
    assert (timers.lowest_log_offset(), len(timers), timers.fresh_pages) == (None, 5, 0)
    timers.replay({"t": "tm-", "b": [[1, 2, 1]]}, log_offset=10, store_ms=0)
    timers.replay({"t": "tm-", "b": [[1, 2, 1]]}, log_offset=10, store_ms=0)
    assert (len(timers), timers.count(1), timers.buckets[1].left) == (4, 3, 4)
    timers.retired((1, 1), 1)
    timers.retired((1, 1), 1)
    assert (len(timers), timers.moved) == (3, {(1, 1)})
    timers.replay({"t": "tm<", "f": [[1, 4, 500]]}, log_offset=11, store_ms=0)
    assert (timers.moved, timers.buckets[1].left, timers.buckets[1].recalled) == (set(), 1, 0)
    timers.replay({"t": "tm<", "f": [[1, 5, 0]], "lost": [[1, 1], [2, 1]]}, log_offset=12, store_ms=0)
    assert (timers.buckets, len(timers), timers.next_bucket) == ({}, 1, 2)


def test_deleted_topics_take_their_timers_along() -> None:
    timers = make()
    timers.stored(1, 1, 0, array("q", [10, 20]))
    timers.stored(2, 2, 0, array("q", [15, 25, 35]))
    timers.topic_deleted(1)
    assert (len(timers), timers.find((1, 0)), timers.lowest_log_offset()) == (3, None, 2)
    assert [timer.incarnation for timer in restored(timers).take_due(99, 9)] == [2, 2, 2]
    assert [timer.incarnation for timer in timers.take_due(99, 9)] == [2, 2, 2]


def test_a_snapshot_stays_as_it_was_captured() -> None:
    timers = make()
    timers.stored(1, 1, 0, array("q", [10, 20, 30, 40, 50]))
    before = timers.digest()
    captured = timers.snapshot()
    timers.retired((1, 0), 1)
    timers.stored(2, 1, 0, array("q", [60]))
    other = make()
    other.restore(b"".join(captured))
    assert other.digest() == before != timers.digest()


class TimersAgainstModel(RuleBasedStateMachine):
    """The model is a dict of what waits in memory, lists of what lies in buckets, and a set of what was delivered."""

    def __init__(self) -> None:
        super().__init__()
        self.timers = make()
        self.topics = [1, 2, 3]
        self.memory: dict[Place, Timer] = {}
        self.buckets: dict[int, list[Timer]] = {}
        self.retired: set[Place] = set()
        self.out: set[Place] = set()  # taken, and neither retired nor given back
        self.now_ms = 0
        self.log_end = 0

    def waiting(self) -> list[Timer]:
        """In memory, to be taken."""
        return sorted(timer for timer in self.memory.values() if timer.place not in self.out)

    @rule(topic=st.integers(0, 2), queue=st.integers(0, 3), ahead=st.lists(st.integers(-5, 60), min_size=1, max_size=11))
    def store(self, topic: int, queue: int, ahead: list[int]) -> None:
        topic = self.topics[topic]
        self.log_end += 10
        due_times = array("q", [self.now_ms + each for each in ahead])
        self.timers.stored(self.log_end, topic, queue, due_times)
        for number, due_ms in enumerate(due_times):
            self.memory[self.log_end, number] = Timer(due_ms, self.log_end, number, topic, queue)

    @rule(ms=st.integers(0, 30), limit=st.integers(1, 20), delivered=st.booleans())
    def pass_time(self, ms: int, limit: int, delivered: bool) -> None:
        self.now_ms += ms
        taken = self.timers.take_due(self.now_ms, limit)
        assert taken == [timer for timer in self.waiting() if timer.due_ms <= self.now_ms][:limit]
        for timer in taken:
            if delivered:
                self.timers.retired(timer.place, timer.incarnation)
                del self.memory[timer.place]
            else:
                self.out.add(timer.place)

    @rule()
    def give_back(self) -> None:
        self.timers.give_back(self.memory[place] for place in self.out if place in self.memory)
        self.out.clear()

    @precondition(lambda self: self.memory)
    @rule(data=st.data())
    def recall(self, data: st.DataObject) -> None:
        place = data.draw(st.sampled_from(sorted(self.memory)))
        self.timers.replay({"t": "tm-", "e": [place]}, log_offset=0, store_ms=0)
        del self.memory[place]
        self.out.discard(place)

    @precondition(lambda self: self.memory and not self.out)
    @rule(data=st.data(), ahead=st.integers(-10, 60))
    def move_to_bucket(self, data: st.DataObject, ahead: int) -> None:
        start, end = sorted(data.draw(st.lists(st.sampled_from(sorted(self.memory)), min_size=2, max_size=2)))
        from_ms = self.now_ms + ahead
        chosen = [t for t in self.memory.values() if start <= t.place < end and t.due_ms >= from_ms]
        if not chosen:
            return
        chosen.sort()
        number = self.timers.next_bucket
        dead = data.draw(st.sets(st.integers(0, len(chosen) - 1), max_size=3))
        for position in dead:  # recalled while the file was written
            self.timers.replay({"t": "tm-", "e": [chosen[position].place]}, log_offset=0, store_ms=0)
        record = bucket_record(number, chosen, sorted(dead), due=from_ms)
        record["log"] = [start, end]
        self.timers.replay(record, log_offset=0, store_ms=0)
        for timer in chosen:
            del self.memory[timer.place]
        if len(dead) < len(chosen):
            self.buckets[number] = chosen
            self.retired |= {chosen[position].place for position in dead}

    @precondition(lambda self: self.buckets)
    @rule(data=st.data(), said=st.booleans())
    def deliver_from_bucket(self, data: st.DataObject, said: bool) -> None:
        number = data.draw(st.sampled_from(sorted(self.buckets)))
        bucket = self.timers.buckets[number]
        timers = self.buckets[number]
        timer = next(t for position, t in enumerate(timers) if not self.is_retired(number, position))
        self.timers.retired(timer.place, timer.incarnation)
        self.retired.add(timer.place)
        if said:
            floors = []
            for each in sorted(self.buckets):
                floor = self.timers.buckets[each].floor
                while floor < len(self.buckets[each]) and self.is_retired(each, floor):
                    floor += 1
                floors.append([each, floor, self.buckets[each][min(floor, len(self.buckets[each]) - 1)].due_ms])
                if floor == len(self.buckets[each]):
                    del self.buckets[each]
            self.timers.replay({"t": "tm<", "f": floors}, log_offset=0, store_ms=0)
        else:
            assert bucket.count == len(timers)
            if all(self.is_retired(number, position) for position in range(len(timers))):
                self.timers.replay({"t": "tm<", "f": self.all_floors()}, log_offset=0, store_ms=0)
                self.buckets = {n: t for n, t in self.buckets.items() if n in self.timers.buckets}

    def all_floors(self) -> list[list[int]]:
        floors = []
        for each in self.buckets:
            floor = 0
            while floor < len(self.buckets[each]) and self.is_retired(each, floor):
                floor += 1
            floors.append([each, floor, 0])
        return floors

    def is_retired(self, number: int, position: int) -> bool:
        timer = self.buckets[number][position]
        known = self.timers.buckets[number].is_retired(position) or timer.place in self.timers.moved
        gone = timer.place in self.retired or self.timers.is_deleted(timer.incarnation)
        assert known <= gone
        assert known or timer.place not in self.retired
        return gone

    @precondition(lambda self: len(self.buckets) > 1)
    @rule()
    def merge(self) -> None:
        numbers = sorted(self.buckets)[:3]
        alive = sorted(
            timer
            for number in numbers
            for position, timer in enumerate(self.buckets[number])
            if not self.is_retired(number, position)
        )
        if not alive:
            return
        number = self.timers.next_bucket
        record = bucket_record(number, alive, [], m=numbers)
        self.timers.replay(record, log_offset=0, store_ms=0)
        for each in numbers:
            del self.buckets[each]
        self.buckets[number] = alive

    @rule(number_of_topic=st.integers(0, 2))
    def delete_topic(self, number_of_topic: int) -> None:
        topic = self.topics[number_of_topic]
        if self.timers.count(topic):
            self.timers.topic_deleted(topic)
            self.memory = {place: timer for place, timer in self.memory.items() if timer.incarnation != topic}
            self.out &= set(self.memory)
            self.timers.replay({"t": "tm<", "f": self.all_floors()}, log_offset=0, store_ms=0)
            self.buckets = {n: t for n, t in self.buckets.items() if n in self.timers.buckets}
            self.topics[number_of_topic] = max(self.topics) + 1  # made again, it is another one

    @rule()
    def restart(self) -> None:
        other = restored(self.timers)
        assert other.digest() == self.timers.digest()
        self.timers = other
        self.out.clear()

    @invariant()
    def counts_and_look_ups_agree(self) -> None:
        timers = self.timers
        buckets = sum(
            not self.is_retired(number, position) for number in self.buckets for position in range(len(self.buckets[number]))
        )
        assert len(timers) == len(self.memory) + buckets
        assert all(timers.find(place) == timer for place, timer in self.memory.items())
        lowest = timers.lowest_log_offset()
        assert lowest == min((place[0] for place in self.memory), default=None)
        waiting = self.waiting()
        due_ms = timers.next_due_ms()
        assert not waiting or (due_ms is not None and due_ms <= waiting[0].due_ms)
        listed = [timer for topic in self.topics for page in timers.of_topic(topic) for timer in page]
        assert sorted(listed) == sorted(self.memory.values())


TimersAgainstModel.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestTimersAgainstModel = TimersAgainstModel.TestCase
