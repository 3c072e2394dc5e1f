"""Total queue, places and offsets: each kind of fault, planted once, is found; what is right is not called wrong."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tests.chaos.checkers import offsets, places, queue
from tests.chaos.checkers.verdict import Verdict
from tests.chaos.history import Group, History
from tests.unit.chaos.story import STREAM, at, got, history, send, streamed
from tests.unit.chaos.story import offsets as told


def clean() -> History:
    """Three messages, one of unknown outcome, read by two groups; one message comes twice."""
    story = history(STREAM, Group("other", "t", "shared"))
    story.sends = [send("a", 0, place=at(0)), send("b", 2, "unknown"), send("c", 4, place=at(2)), send("d", 6, "refused")]
    story.deliveries = [*streamed("abc"), *streamed("abc", group="other"), got("c", 300, place=at(2))]
    return story.sort()


def only(verdict: Verdict, fault: str) -> None:
    assert len(verdict.faults) == 1, verdict.faults
    assert verdict.faults[0].startswith(fault)


def test_a_clean_history() -> None:
    verdict = queue.check(clean())
    assert verdict.ok
    assert verdict.facts == {
        "sent": 2, "refused": 1, "unknown": 1, "lost": 0, "unexpected": 0, "recovered": 1, "again": 1, "received": 7,
    }  # fmt: skip
    assert places.check(clean()).ok
    assert offsets.check(clean()).ok


def test_one_lost_in_one_group() -> None:
    story = clean()
    story.deliveries = [one for one in story.deliveries if (one.group, one.body) != ("other", "a")]
    only(queue.check(story), "lost: a was acknowledged (('b', 0, 0)) and never came to other")


def test_an_unknown_send_may_be_lost() -> None:
    story = clean()
    story.deliveries = [one for one in story.deliveries if one.body != "b"]
    assert queue.check(story).ok


def test_a_group_that_got_nothing_lost_everything() -> None:
    story = clean()
    story.deliveries = [one for one in story.deliveries if one.group != "other"]
    assert queue.check(story).facts["lost"] == 2


def test_what_nobody_sent() -> None:
    story = clean()
    story.deliveries.append(got("z", 400))
    only(queue.check(story), "unexpected: z came to g, and was never sent there")


def test_what_was_refused() -> None:
    story = clean()
    story.deliveries.append(got("d", 400))
    only(queue.check(story), "unexpected: d came to g, and had been refused")


def test_what_was_sent_to_another_topic() -> None:
    story = clean()
    story.sends.append(send("e", 8, "unknown", topic="elsewhere"))
    story.deliveries.append(got("e", 400))
    only(queue.check(story), "unexpected: e came to g")


def test_rolled_back_messages_are_not_missed_and_committed_ones_are() -> None:
    story = clean()
    story.sends += [send("r", 8, fate="r"), send("n", 8, fate="n"), send("x", 8, fate="x")]
    assert queue.check(story).ok
    story.sends.append(send("u", 8, fate="u"))
    assert queue.check(story).facts["lost"] == 2


def test_a_run_without_a_good_end() -> None:
    story = clean()
    story.drained = {"r": False}
    only(queue.check(story), "run r was not drained")
    story.drained = {}
    only(queue.check(story), "run r has no end")


def test_a_worker_that_broke() -> None:
    story = clean()
    story.broken = ["w: ValueError: oh"]
    only(queue.check(story), "worker w: ValueError: oh")


def test_nothing_at_all_is_not_well() -> None:
    only(queue.check(history(STREAM)), "nothing was ever acknowledged")


# ---- places


def test_a_place_that_changed() -> None:
    story = clean()
    story.deliveries.append(got("b", 400, place=at(2)))
    only(places.check(story), "changed: ('b', 0, 2) of t held c, and then b (as c read)")


def test_a_receipt_that_was_not_kept() -> None:
    story = clean()
    story.sends[1] = send("b", 2, place=at(0))
    verdict = places.check(story)
    assert verdict.facts["changed"] == 1


def test_stored_twice_is_a_fault_where_sends_have_sequences() -> None:
    story = clean()
    story.deliveries.append(got("a", 400, place=at(3)))
    assert places.check(story).ok
    story.sends[0] = send("a", 0, place=at(0), sequenced=True)
    only(places.check(story), "stored twice: a is at [('b', 0, 0), ('b', 0, 3)]")


def test_receipts_of_delayed_messages_are_not_their_places() -> None:
    story = clean()
    story.topics = {"t": "delay"}
    story.sends[0] = send("a", 0, place=at(77), sequenced=True)
    assert places.check(story).ok


# ---- offsets


def test_one_skipped() -> None:
    story = history(STREAM)
    story.deliveries = [one for one in streamed("abcd") if one.body != "b"]
    only(offsets.check(story), "skipped: c of g was handed b:0:2 (c); 1 never came to the group before")


def test_another_member_may_go_on_but_not_further_on() -> None:
    story = history(STREAM)
    story.deliveries = [got("a", 100, place=at(0)), got("a", 110, who="d", place=at(0)), got("b", 111, who="d", place=at(1))]
    assert offsets.check(story.sort()).ok
    story.deliveries.append(got("d", 112, place=at(3)))
    assert offsets.check(story.sort()).facts["skipped"] == 1


def test_shared_groups_have_no_such_order() -> None:
    story = history(Group("g", "t", "shared"))
    story.deliveries = [got("b", 100, place=at(1)), got("a", 110, place=at(0))]
    assert offsets.check(story).ok


def test_offsets_that_go_back() -> None:
    story = history(STREAM)
    story.deliveries = streamed("abcdef", start=10)
    story.offsets = [told(100, 4), told(110, 4, looked=True), told(120, 3, looked=True)]
    only(offsets.check(story), "gone back: g: p was told 3 of ('b', 0), when 4 was committed")


def test_offsets_that_are_gone() -> None:
    story = history(STREAM)
    story.deliveries = streamed("abcdef", start=10)
    story.offsets = [told(100, 4), told(120, looked=True)]
    only(offsets.check(story), "gone back: g: p was told 0 of ('b', 0), when 4 was committed")


def test_what_was_seen_once_is_seen_again() -> None:
    """Of an unknown commit nothing is known, but once somebody saw it, it stays."""
    story = history(STREAM)
    story.deliveries = streamed("abcdef", start=10)
    story.offsets = [told(100, 4, outcome="unknown"), told(110, 0, looked=True), told(120, 4, looked=True)]
    assert offsets.check(story).ok
    story.offsets.append(told(130, 2, looked=True))
    assert offsets.check(story).facts["gone_back"] == 1


def test_a_look_that_began_before_the_commit_had_ended() -> None:
    story = history(STREAM)
    story.deliveries = streamed("abcdef", start=10)
    story.offsets = [told(100, 4), told(100.5, 0, looked=True)]
    assert offsets.check(story).ok


def test_a_commit_of_what_nobody_was_handed() -> None:
    story = history(STREAM)
    story.deliveries = streamed("abc", start=10)
    story.offsets = [told(100, 3)]
    assert offsets.check(story).ok
    story.offsets = [told(100, 4)]
    only(offsets.check(story), "ahead: g: 4 of ('b', 0) is committed, and only 3 were handed out")


# ---- at random: right histories pass, and any single loss is found


@given(st.integers(1, 30), st.data())
def test_any_single_loss_is_found(count: int, data: st.DataObject) -> None:
    bodies = [f"m{number}" for number in range(count)]
    story = history(STREAM)
    story.sends = [send(body, number) for number, body in enumerate(bodies)]
    again = data.draw(st.lists(st.integers(0, count - 1), max_size=5))
    story.deliveries = [*streamed(bodies), *(got(bodies[number], 500, place=at(number)) for number in again)]
    assert queue.check(story.sort()).ok
    assert offsets.check(story).ok
    assert places.check(story).ok
    lost = data.draw(st.integers(0, count - 1))
    story.deliveries = [one for one in story.deliveries if one.body != bodies[lost]]
    assert queue.check(story).facts["lost"] == 1
    assert offsets.check(story).ok == (lost == count - 1)
