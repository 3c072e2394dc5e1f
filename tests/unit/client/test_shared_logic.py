"""What members of shared groups decide without any I/O: leases, what may be begun, how much to ask for, recall handles."""

from __future__ import annotations

import random

import pytest

from kourou.client.logic.inbox import Inbox
from kourou.client.logic.leases import Leases
from kourou.client.logic.prefetch import Prefetch
from kourou.client.logic.recalls import RecallPlace, format_recall, parse_recall
from kourou.core.clock import ManualClock
from kourou.core.errors import InvalidRecallHandle


class Held:
    """Leases by a clock that the test moves."""

    def __init__(self, *, invisible_ms: int = 1_000, renew_ms_max: int = 10_000, wait_ms_max: int = 5_000) -> None:
        self.clock = ManualClock()
        self.leases: Leases[str] = Leases(invisible_ms=invisible_ms, renew_ms_max=renew_ms_max, wait_ms_max=wait_ms_max)

    def now(self) -> int:
        return self.clock.monotonic_ms()

    def renewed(self, item: str) -> None:
        self.leases.extended(item, self.now(), self.leases.invisible_ms)

    def pass_by(self, ms: int, *, answering: bool = True) -> dict[str, list[str]]:
        """Look as often as a consumer does; what there was to do."""
        found: dict[str, list[str]] = {"renew": [], "give_back": [], "overdue": [], "lost": []}
        step = self.leases.look_every_ms
        for _ in range(ms // step):
            self.clock.advance(step)
            due = self.leases.look(self.now())
            for name, items in found.items():
                items += getattr(due, name)
            for item in due.renew:
                if answering:
                    self.renewed(item)
                else:
                    self.leases.not_renewed(item)
            for item in (*due.give_back, *due.lost):
                self.leases.settled(item)
        return found


def test_a_message_that_is_worked_on_is_renewed_in_time() -> None:
    held = Held()
    held.leases.taken("a", held.now())
    held.leases.begun("a", held.now())
    for _ in range(9):
        assert held.pass_by(1_000)["renew"]
        assert held.leases.holds("a", held.now())


def test_renewing_ends_and_then_the_message_is_lost() -> None:
    held = Held(renew_ms_max=3_000)
    held.leases.taken("a", held.now())
    held.leases.begun("a", held.now())
    found = held.pass_by(6_000)
    assert (found["overdue"], found["lost"], found["give_back"]) == (["a"], ["a"], [])


def test_a_message_that_nobody_begins_with_is_given_back() -> None:
    held = Held(wait_ms_max=2_000)
    held.leases.taken("a", held.now())
    held.leases.taken("b", held.now())
    assert held.pass_by(1_000)["give_back"] == []
    held.leases.begun("b", held.now())
    found = held.pass_by(5_000)
    assert found["give_back"] == ["a"]
    assert found["lost"] == []


def test_unanswered_renewals_are_tried_again_and_the_lease_ends() -> None:
    held = Held()
    held.leases.taken("a", held.now())
    held.leases.begun("a", held.now())
    assert len(held.pass_by(900, answering=False)["renew"]) >= 2
    assert held.leases.holds("a", held.now())
    held.clock.advance(200)
    assert not held.leases.holds("a", held.now())
    held.renewed("a")  # the broker took it back nevertheless
    assert held.leases.holds("a", held.now())


def test_a_renewal_that_is_under_way_is_not_asked_for_again() -> None:
    held = Held()
    held.leases.taken("a", held.now())
    held.clock.advance(600)
    assert held.leases.look(held.now()).renew == ["a"]
    assert held.leases.look(held.now()).renew == []


def test_what_was_extended_for_long_is_left_alone() -> None:
    held = Held()
    held.leases.taken("a", held.now())
    held.leases.begun("a", held.now())
    held.leases.extended("a", held.now(), 9_000)
    assert held.pass_by(8_000)["renew"] == []
    assert held.pass_by(1_000)["renew"]


# ---- the inbox


def test_without_groups_messages_come_in_order() -> None:
    inbox: Inbox[int] = Inbox()
    for number in range(5):
        inbox.add(number)
    assert [inbox.take() for _ in range(5)] == list(range(5))
    assert (len(inbox), inbox.ready) == (0, False)


def test_a_group_has_one_message_at_a_time() -> None:
    inbox: Inbox[str] = Inbox()
    for item in ("a1", "a2", "b1", "a3"):
        inbox.add(item, item[0])
    assert [inbox.take(), inbox.take()] == ["a1", "b1"]
    assert not inbox.ready
    inbox.done("a")
    assert inbox.take() == "a2"
    inbox.done("b")
    assert not inbox.ready
    inbox.add("b2", "b")
    assert inbox.take() == "b2"
    assert len(inbox) == 1


def test_what_waits_behind_a_failure_is_dropped() -> None:
    inbox: Inbox[str] = Inbox()
    for item in ("a1", "a2", "b1", "a3"):
        inbox.add(item, item[0])
    assert inbox.take() == "a1"
    assert inbox.drop_group("a") == ["a2", "a3"]
    assert len(inbox) == 1
    inbox.add("a1 again", "a")
    assert [inbox.take(), inbox.take()] == ["b1", "a1 again"]


def test_removing_takes_along_what_waits_behind() -> None:
    inbox: Inbox[str] = Inbox()
    for item in ("a1", "a2", "a3", "b1"):
        inbox.add(item, item[0])
    assert inbox.remove("a2", "a") == ["a2", "a3"]
    assert inbox.remove("a2", "a") == []
    assert inbox.remove("a1", "a") == ["a1"]
    assert inbox.clear() == ["b1"]
    for item in ("a4", "b2"):
        inbox.add(item, item[0])
    assert [inbox.take(), inbox.take()] == ["a4", "b2"]


def test_put_back_comes_first() -> None:
    inbox: Inbox[str] = Inbox()
    for item in ("a1", "a2", "b1"):
        inbox.add(item, item[0])
    first = inbox.take()
    inbox.put_back(first, "a")
    assert [inbox.take(), inbox.take()] == ["a1", "b1"]
    inbox.done("a")
    assert inbox.take() == "a2"


@pytest.mark.parametrize("seed", range(20))
def test_whatever_happens_groups_stay_in_order(seed: int) -> None:
    """Random adds, takes, successes and failures; what fails, or is dropped, is added again in its order."""
    rng = random.Random(seed)
    inbox: Inbox[tuple[str, int]] = Inbox()
    outside = {group: list(range(20)) for group in "abc"}  # not in the inbox yet
    working: dict[str, int] = {}
    ended: dict[str, list[int]] = {group: [] for group in "abc"}
    for _ in range(3_000):
        group = rng.choice("abc")
        match rng.randrange(4):
            case 0 if outside[group]:
                inbox.add((group, outside[group].pop(0)), group)
            case 1 if inbox.ready:
                found, number = inbox.take()
                assert found not in working
                working[found] = number
            case 2 if group in working:
                ended[group].append(working.pop(group))
                inbox.done(group)
            case 3 if group in working:
                failed = working.pop(group)
                dropped = [number for _, number in inbox.drop_group(group)]
                outside[group] = [failed, *dropped, *outside[group]]
    for group in "abc":
        assert ended[group] == sorted(ended[group]) == list(range(len(ended[group])))
        assert len(ended[group]) == 20


# ---- how much to ask for


def test_one_broker_is_asked_for_all_there_is_room_for() -> None:
    prefetch = Prefetch()
    assert prefetch.limit("a", brokers=1, waiting=0) == 0
    prefetch.size = 32
    assert prefetch.limit("a", brokers=1, waiting=0) == 32
    assert prefetch.limit("a", brokers=1, waiting=17) == 0
    assert prefetch.limit("a", brokers=1, waiting=16) == 16


def test_brokers_share_and_the_sum_is_bounded() -> None:
    prefetch = Prefetch()
    prefetch.size = 10
    for broker in "abc":
        limit = prefetch.limit(broker, brokers=3, waiting=0)
        assert limit == 3
        prefetch.asked(broker, limit)
    prefetch.answered("a")
    assert prefetch.limit("a", brokers=3, waiting=3) == 1
    prefetch.answered("b")
    assert prefetch.limit("a", brokers=3, waiting=5) == 2


def test_each_broker_is_asked_even_where_few_may_wait() -> None:
    prefetch = Prefetch()
    prefetch.size = 1
    for broker in "abc":
        assert prefetch.limit(broker, brokers=3, waiting=0) == 1
        prefetch.asked(broker, 1)


# ---- recall handles


def test_recall_handles() -> None:
    place = RecallPlace("broker-a", 1 << 50, 7, 1_700_000_000_000)
    assert parse_recall(format_recall(*place)) == place
    for other in ("AmZvbw==", "a:b", "a:1:2:x", "a:1:2:3:4"):
        assert parse_recall(other) is None
    for wrong in ("", None, 5):
        with pytest.raises(InvalidRecallHandle):
            parse_recall(wrong)  # type: ignore[arg-type]
