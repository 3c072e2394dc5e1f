"""Message groups, timers, transactions and receipts: each kind of fault is planted once."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.chaos.checkers import lanes, receipts, timers, transactions
from tests.chaos.history import Group, History
from tests.unit.chaos.story import FIFO, MS, SHARED, STREAM, ack, at, decision, got, history, send


def lane(*outcomes: str, group: Group = FIFO) -> History:
    """a, b, c … sent one after the other in one message group; each comes, and is acknowledged before the next one comes."""
    story = history(group, kind="fifo")
    names = "abcdef"[: len(outcomes)]
    story.sends = [
        send(body, 10 * n, outcome, lane="l") for n, (body, outcome) in enumerate(zip(names, outcomes, strict=True))
    ]
    story.deliveries = [got(body, 100 + 10 * n) for n, body in enumerate(names)]
    story.settlings = [ack(body, 105 + 10 * n) for n, body in enumerate(names)]
    return story


def test_a_lane_in_order() -> None:
    verdict = lanes.check(lane("ok", "ok", "unknown", "ok"))
    assert verdict.ok
    assert verdict.facts["lanes"] == 1


def test_one_pair_swapped() -> None:
    story = lane("ok", "ok", "ok", group=replace(FIFO, shape="stream"))
    story.deliveries[1], story.deliveries[2] = got("c", 110), got("b", 120)
    assert lanes.check(story.sort()).faults == ["swapped: lane l in g: c came before b, which was sent before it"]


def test_redelivery_swaps_nothing() -> None:
    story = lane("ok", "ok", "ok", group=replace(FIFO, shape="stream"))
    story.deliveries.append(got("a", 200))
    assert lanes.check(story.sort()).ok


def test_a_late_message_of_unknown_outcome_swaps_nothing() -> None:
    story = lane("unknown", "ok", group=replace(FIFO, shape="stream"))
    story.deliveries = [got("b", 100), got("a", 110)]
    assert lanes.check(story).ok


def test_what_came_after_is_before_even_when_unknown() -> None:
    story = lane("ok", "unknown", group=replace(FIFO, shape="stream"))
    story.deliveries = [got("b", 100), got("a", 110)]
    assert lanes.check(story).facts["swapped"] == 1


def test_other_lanes_and_other_groups_don_t_matter() -> None:
    story = lane("ok", "ok")
    story.sends[1] = send("b", 10, lane="other")
    story.deliveries = [got("b", 100), got("a", 110)]
    assert lanes.check(story).ok
    plain = lane("ok", "ok", group=SHARED)
    plain.deliveries = [got("b", 100), got("a", 110)]
    assert lanes.check(plain).ok


def test_one_overtakes_while_the_other_is_worked_on() -> None:
    story = lane("ok", "ok", "ok")
    story.deliveries[1] = got("b", 103, who="d")
    verdict = lanes.check(story)
    assert verdict.faults == [
        "overtaken: lane l in g: b came to d; a, sent before it, was acknowledged 0.002 s later",
    ]


def test_one_overtakes_what_is_never_acknowledged() -> None:
    story = lane("ok", "ok", "ok")
    del story.settlings[0]
    assert lanes.check(story).facts["overtaken"] == 2


def test_an_ack_that_was_refused_frees_nobody() -> None:
    story = lane("ok", "ok")
    story.settlings[0] = ack("a", 105, outcome="refused")
    assert lanes.check(story).facts["overtaken"] == 1
    story.settlings[0] = ack("a", 105, outcome="unknown")
    assert lanes.check(story).ok


def test_several_may_come_together_in_order() -> None:
    story = lane("ok", "ok", "ok")
    story.deliveries = [got(body, 100, number=number) for number, body in enumerate("abc")]
    assert lanes.check(story).ok
    story.deliveries = [got(body, 100, number=number) for number, body in enumerate("bac")]
    assert not lanes.check(story).ok


@given(st.integers(2, 12), st.data())
def test_any_swap_is_found(count: int, data: st.DataObject) -> None:
    story = history(replace(STREAM, fifo=True), kind="fifo")
    story.sends = [send(f"m{number}", 10 * number, lane="l") for number in range(count)]
    order = data.draw(st.permutations(range(count)))
    story.deliveries = [got(f"m{number}", 500 + place) for place, number in enumerate(order)]
    assert lanes.check(story).ok == (order == sorted(order))


# ---- timers


def test_a_timer_that_is_early() -> None:
    story = history(STREAM, kind="delay")
    story.sends = [send("a", 1000, delay_ms=500.0)]
    story.deliveries = [got("a", 1700)]
    assert timers.check(story).facts == {"delayed": 1, "early": 0, "latest_s": 0.2}
    story.deliveries = [got("a", 1400)]
    assert timers.check(story).faults == ["early: a came to g 0.100 s early"]


def test_other_messages_have_no_time() -> None:
    story = history(STREAM)
    story.sends = [send("a", 1000)]
    story.deliveries = [got("a", 1001)]
    assert timers.check(story).ok


# ---- transactions


def half(fate: str, *, seen: float | None = 100) -> History:
    story = history(SHARED, kind="transaction")
    story.sends = [send("a", 0, fate=fate)]
    story.deliveries = [got("a", seen)] if seen is not None else []
    return story


def test_committed_and_seen() -> None:
    story = half("c")
    story.decisions = [decision("a", 50, "commit")]
    assert transactions.check(story).ok
    story.decisions = [decision("a", 50, "commit", "unknown"), decision("a", 60, "commit", asked=True)]
    assert transactions.check(story).ok


def test_rolled_back_and_seen() -> None:
    story = half("r")
    story.decisions = [decision("a", 50, "rollback")]
    assert transactions.check(story).faults == ["visible: a was rolled back, and came to g"]
    story.deliveries = []
    assert transactions.check(story).ok


def test_undecided_and_seen() -> None:
    story = half("x")
    story.decisions = [decision("a", 50, "unknown", asked=True)]
    assert transactions.check(story).faults == ["visible: a was not decided, and came to g"]


def test_seen_before_the_commit() -> None:
    story = half("c")
    story.decisions = [decision("a", 150, "commit")]
    assert transactions.check(story).faults == ["visible: a came to g before anybody committed it"]


def test_committed_and_hidden() -> None:
    story = half("c", seen=None)
    story.decisions = [decision("a", 50, "commit")]
    assert transactions.check(story).faults == ["hidden: a was committed, and never came to g"]


def test_decided_twice() -> None:
    story = half("c")
    story.decisions = [decision("a", 50, "commit"), decision("a", 60, "rollback")]
    assert transactions.check(story).faults == ["decided twice: a was committed and rolled back"]
    story.decisions = [decision("a", 50, "commit"), decision("a", 60, "rollback", "refused")]
    assert transactions.check(story).ok


# ---- receipts: leases of 10 s


def leased(*receives: tuple[str, float]) -> History:
    story = history(SHARED)
    for number, (who, when) in enumerate(receives):
        until = int((when - 1 + 10_000) * MS)
        story.deliveries.append(got("a", when, who=who, place=at(0), handle=f"h{number}", until=until))
    return story


def test_the_next_owner_comes_when_the_time_is_over() -> None:
    assert receipts.check(leased(("c", 100), ("d", 10_100))).ok


def test_two_owners() -> None:
    verdict = receipts.check(leased(("c", 100), ("d", 5_100)))
    assert verdict.faults == ["two owners: a in g came to d, 4.699 s before c's time was over"]


def test_one_owner_twice_is_two_owners() -> None:
    assert receipts.check(leased(("c", 100), ("c", 5_100))).facts["two_owners"] == 1


def test_a_long_lease_hides_a_short_one() -> None:
    assert receipts.check(leased(("c", 100), ("d", 50_000), ("e", 51_000))).facts["two_owners"] == 1


@pytest.mark.parametrize("hidden_ms", [0, 1000])
def test_who_puts_it_off_owns_it_no_longer(hidden_ms: int) -> None:
    story = leased(("c", 100), ("d", 2_200))
    story.settlings = [ack("a", 1_100, "h0", hidden_ms=hidden_ms)]
    assert receipts.check(story).ok


def test_who_extends_it_owns_it_longer() -> None:
    story = leased(("c", 100), ("d", 12_000))
    assert receipts.check(story).ok
    story.settlings = [ack("a", 5_000, "h0", hidden_ms=10_000)]
    assert receipts.check(story).facts["two_owners"] == 1
    story.settlings = [ack("a", 5_000, "h0", "unknown", hidden_ms=10_000)]
    assert receipts.check(story).ok


def test_after_its_ack() -> None:
    story = leased(("c", 100), ("d", 12_000))
    story.settlings = [ack("a", 200, "h0")]
    assert receipts.check(story).faults == ["after its ack: a came to d in g, 11.799 s after its ack"]
    story.settlings = [ack("a", 200, "h0", "unknown")]
    assert receipts.check(story).ok


def test_a_receive_that_began_before_the_ack_may_bring_it() -> None:
    story = leased(("c", 100))
    story.deliveries.append(got("a", 12_000, who="d", asked=150, place=at(0), handle="h1"))
    story.settlings = [ack("a", 200, "h0")]
    assert receipts.check(story).ok


def test_without_places_only_what_is_stored_once_is_judged() -> None:
    story = leased(("c", 100), ("d", 5_100))
    story.deliveries = [replace(one, place=None) for one in story.deliveries]
    assert receipts.check(story).ok
    story.deliveries.append(got("a", 100, group="other", place=at(0)))
    assert receipts.check(story).facts["two_owners"] == 1
    story.deliveries.append(got("a", 100, group="other", place=at(7)))
    assert receipts.check(story).ok
