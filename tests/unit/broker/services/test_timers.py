"""Delivery of delayed messages: never early, in order, once; from memory and from buckets; recalls; restarts; damage."""

from __future__ import annotations

import asyncio
from itertools import pairwise

import pytest

from kourou.broker.machines import timerbuckets
from kourou.broker.services import timerkeeper, upkeep
from kourou.broker.services.records import StoredMessage
from kourou.broker.services.timerkeeper import NEAR_MS
from kourou.broker.services.timerwindows import RETRY_MS, TRIES
from kourou.core.clock import ManualClock
from kourou.core.errors import IllegalDeliveryTime, InvalidRecallHandle, TooManyRequests
from kourou.core.handles import Recall
from tests.sim.disk import SimDisk
from tests.sim.timers import Copy, TimerNode

MINUTE_MS = 60_000
DAY_MS = 86_400_000


@pytest.fixture(autouse=True)
def small_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """A handful of timers is worth a bucket."""
    monkeypatch.setattr(timerkeeper, "ROWS_MIN", 1)


async def new_node(disk: SimDisk | None = None, clock: ManualClock | None = None) -> TimerNode:
    node = TimerNode((disk or SimDisk()).files(), clock or ManualClock())
    await node.create()
    return node


def texts(node: TimerNode) -> list[str]:
    return [copy.text for copy in node.copies()]


def check_order(copies: list[Copy]) -> None:
    assert all(copy.store_ms >= copy.due_ms for copy in copies), "a message was early"
    for queue in {copy.queue for copy in copies}:
        due = [copy.due_ms for copy in copies if copy.queue == queue]
        assert all(a <= b for a, b in pairwise(due)), "messages of a queue changed places"


async def fill(node: TimerNode, frames: int, *, ahead_ms: int, step_ms: int = 1_000) -> list[Recall]:
    """Frames of three timers each, later and later, in four queues; how to recall them."""
    recalls: list[Recall] = []
    for number in range(frames):
        ahead = [ahead_ms + (number * 3 + each) * step_ms for each in (2, 0, 1)]
        names = [f"{number}.{each}" for each in (2, 0, 1)]
        placed = await node.store_timers(names, ahead, queue=number % 4)
        recalls += [Recall(placed.log_offset, each, node.clock.wall_ms() + due) for each, due in enumerate(ahead)]
    return recalls


async def test_nothing_is_early_and_all_is_in_order() -> None:
    node = await new_node()
    await fill(node, 4, ahead_ms=1_000)
    await node.pass_ms(999)
    assert texts(node) == []
    await node.pass_ms(1)
    assert texts(node) == ["0.0"]
    await node.pass_ms(2_999)
    assert texts(node) == ["0.0", "0.1", "0.2"]
    await node.pass_ms(60_000)
    assert len(texts(node)) == 12
    check_order(node.copies())
    assert len(node.state.timers) == 0
    node.close()


async def test_a_time_too_far_ahead_is_refused() -> None:
    node = await new_node()
    node.timers.check_due(node.clock.wall_ms() + 40 * DAY_MS)
    with pytest.raises(IllegalDeliveryTime, match="the limit is 40 days"):
        node.timers.check_due(node.clock.wall_ms() + 40 * DAY_MS + 1)
    node.close()


async def test_memory_is_bounded_while_buckets_are_behind() -> None:
    """Goal: more timers than buckets can be written for wait at their producers. Method: no bucket is written at first."""
    node = await new_node()
    due_ms = node.clock.wall_ms() + DAY_MS
    while node.state.timers.pages < 64:
        node.timers.check_due(due_ms)
        await fill(node, 1, ahead_ms=DAY_MS)
    with pytest.raises(TooManyRequests, match="delayed messages wait"):
        node.timers.check_due(due_ms)
    await node.timers.keeper.keep()
    assert node.state.timers.pages < 4
    node.timers.check_due(due_ms)
    node.close()


async def test_one_bucket_takes_so_many_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: what is held in memory for one bucket is bounded, and nothing is left out between two. Method: few timers fit;
    some of each page are near and stay."""
    monkeypatch.setattr(timerkeeper, "SPILL_TIMERS", 6)
    monkeypatch.setattr(timerbuckets, "MERGE_COUNT", 100)
    node = await new_node()
    for number in range(12):
        await node.store_timers([f"{number}.{each}" for each in range(3)], [5_000, DAY_MS + number, DAY_MS + 50 + number])
    await node.timers.keeper.keep()
    counts = [bucket.count for bucket in node.state.timers.buckets.values()]
    assert sum(counts) == 24
    assert max(counts) <= 6 + 4
    assert len(node.state.timers) == 36
    await node.pass_ms(5_000)
    assert len(texts(node)) == 12
    await node.pass_ms(DAY_MS)
    assert len(set(texts(node))) == len(texts(node)) == 36
    check_order(node.copies())
    node.close()


async def test_buckets_deliver_what_memory_would_have() -> None:
    """Goal: where a timer is held makes no difference. Method: the same messages, with and without buckets, mixed."""
    results = []
    for moves in (False, True):
        node = await new_node()
        await fill(node, 20, ahead_ms=DAY_MS)
        if moves:
            await node.timers.keeper.keep()
            assert node.state.timers.buckets
        await fill(node, 20, ahead_ms=DAY_MS + 500)
        if moves:
            await node.timers.keeper.keep()
            assert len(node.state.timers.buckets) == 2
        assert len(node.state.timers) == 120
        for _ in range(10):
            await node.pass_ms(DAY_MS // 5)
        await node.timers.keeper.keep()
        copies = node.copies()
        check_order(copies)
        results.append([(copy.text, copy.due_ms, copy.message_id) for copy in copies])
        assert (len(node.state.timers), node.state.timers.buckets, node.state.timers.moved) == (0, {}, set())
        assert node.files.list("timers") == []
        node.close()
    assert len(results[0]) == 120
    assert results[0] == results[1]


async def test_timers_survive_a_restart_wherever_they_are() -> None:
    disk, clock = SimDisk(), ManualClock()
    node = await new_node(disk, clock)
    await fill(node, 20, ahead_ms=DAY_MS)
    await node.timers.keeper.keep()
    await fill(node, 3, ahead_ms=2_000)
    await node.snapshot()
    await fill(node, 3, ahead_ms=DAY_MS + 100)
    await node.pass_ms(5_000)
    digest = node.state.digest()
    node.stop()
    disk.kill()
    node = TimerNode(disk.files(), clock)
    assert node.state.digest() == digest
    await node.pass_ms(2 * DAY_MS)
    assert len(texts(node)) == len(set(node_texts(node))) == 78
    check_order(node.copies())
    node.close()


def node_texts(node: TimerNode) -> list[tuple[str, int]]:
    return [(copy.text, copy.due_ms) for copy in node.copies()]


async def test_recall_from_memory_and_from_a_bucket() -> None:
    node = await new_node()
    recalls = await fill(node, 10, ahead_ms=DAY_MS)
    message = await node.timers.recall(recalls[0])
    assert message.body.startswith(b"0.2 ")
    await node.timers.keeper.keep()
    in_bucket = recalls[4]
    assert node.state.timers.find((in_bucket.log_offset, in_bucket.record)) is None
    message = await node.timers.recall(in_bucket)
    assert message.body.startswith(b"1.0 ")
    for again in (recalls[0], in_bucket, in_bucket._replace(due_ms=in_bucket.due_ms + 1), Recall(5, 0, 7)):
        with pytest.raises(InvalidRecallHandle):
            await node.timers.recall(again)
    with pytest.raises(InvalidRecallHandle, match="topic"):
        await node.timers.recall(recalls[7], incarnation=99)
    assert len(node.state.timers) == 28
    await node.pass_ms(2 * DAY_MS)
    assert sorted(texts(node)) == sorted({f"{n}.{m}" for n in range(10) for m in range(3)} - {"0.2", "1.0"})
    with pytest.raises(InvalidRecallHandle, match="no longer waiting"):
        await node.timers.recall(recalls[9])
    node.close()


async def test_recalls_race_with_delivery_and_each_message_goes_one_way() -> None:
    """Goal: recalled or delivered, never both, never neither. Method: recall everything while it is being delivered."""
    node = await new_node()
    recalls = await fill(node, 10, ahead_ms=DAY_MS)
    await node.timers.keeper.keep()
    recalls += await fill(node, 10, ahead_ms=DAY_MS + 1)
    node.clock.advance(DAY_MS + 25_000)
    outcomes = await asyncio.gather(
        *(node.timers.recall(recall) for recall in recalls[::2]), node.timers.fire(), return_exceptions=True
    )
    while not await node.timers.fire():
        await asyncio.sleep(0)
    await node.pass_ms(DAY_MS)
    recalled = [outcome.body for outcome in outcomes if isinstance(outcome, StoredMessage)]
    assert all(isinstance(outcome, InvalidRecallHandle | StoredMessage | bool) for outcome in outcomes)
    delivered = [f"{copy.text} {copy.due_ms}".encode() for copy in node.copies()]
    assert len(recalled) + len(delivered) == 60
    assert len({*recalled, *delivered}) == 60
    assert len(node.state.timers) == 0
    node.close()


async def test_scheduled_lists_memory_and_buckets_soonest_first() -> None:
    node = await new_node()
    await node.create("other")
    await fill(node, 6, ahead_ms=DAY_MS)
    await node.store_timers(["x"], [5], topic="other")
    await node.timers.keeper.keep()
    recalls = await fill(node, 2, ahead_ms=DAY_MS + 500)
    await node.timers.recall(recalls[1])
    _, listed = await node.timers.scheduled("delays", limit=5)
    start = node.clock.wall_ms() + DAY_MS
    assert [timer.due_ms - start for timer in listed] == [0, 1_000, 1_500, 2_000, 2_500]
    _, listed = await node.timers.scheduled("delays", limit=100, from_ms=start + 3_000)
    assert [timer.due_ms - start for timer in listed][:4] == [3_000, 3_500, 4_000, 4_500]
    count, listed = await node.timers.scheduled("delays", limit=100)
    assert count == len(listed) == 23
    assert [timer.queue for timer in (await node.timers.scheduled("other", limit=9))[1]] == [0]
    node.close()


async def test_a_deleted_topic_delivers_nothing() -> None:
    node = await new_node()
    await node.create("other")
    await fill(node, 10, ahead_ms=DAY_MS)
    await node.store_timers(["kept"], [DAY_MS], topic="other")
    await node.timers.keeper.keep()
    await fill(node, 2, ahead_ms=DAY_MS)
    await node.journal.write(node.state.topics.delete("delays"))
    assert len(node.state.timers) == 1
    await node.pass_ms(2 * DAY_MS)
    assert texts(node) == ["kept"]
    await node.timers.keeper.keep()
    assert node.state.timers.buckets == {}
    node.close()


async def test_retention_moves_timers_out_of_its_way() -> None:
    """Goal: a 40-day delay does not hold a 72-hour log. Method: store timers, fill segments, let three days pass."""
    node = await new_node()
    await fill(node, 1, ahead_ms=39 * DAY_MS)
    await node.store_timers(["soon"], [3 * DAY_MS + MINUTE_MS])
    for number in range(100):
        await node.store_timers([f"filler {number} {'x' * 500}"], [100])
        await node.pass_ms(100)
    await node.snapshot()
    await node.store_timers(["another"], [100])
    await node.pass_ms(100)
    await node.snapshot()
    for _ in range(3 * 24):
        await node.pass_ms(3_600_000)
        await node.upkeep.retain()
    assert node.store.min_offset == 0  # what is due within the minute is not worth a file
    await node.pass_ms(NEAR_MS)
    await node.upkeep.retain()
    assert node.store.min_offset > 0
    assert len(node.state.timers) == 3
    assert len(node.state.timers.buckets) == 1
    await node.pass_ms(40 * DAY_MS)
    assert texts(node)[-3:] == ["0.0", "0.1", "0.2"]
    node.close()


async def test_a_half_message_holds_the_log() -> None:
    node = await new_node()
    await fill(node, 1, ahead_ms=10)
    assert await node.timers.keeper.release(1 << 40) < 1 << 40  # due soon: it stays and holds
    await node.pass_ms(20_000)
    assert await node.timers.keeper.release(1 << 40) == 1 << 40
    node.close()


async def test_small_buckets_become_one_and_recalled_ones_shrink() -> None:
    node = await new_node()
    recalls: list[Recall] = []
    for number in range(8):
        recalls += await fill(node, 3, ahead_ms=DAY_MS + number * 77)
        await node.timers.keeper.keep()
    assert len(node.state.timers.buckets) == 1
    assert len(node.state.timers) == 72
    assert len(node.files.list("timers")) == 1
    await node.pass_ms(DAY_MS + 3_000)
    delivered = len(texts(node))
    assert 0 < delivered < 72
    _, listed = await node.timers.scheduled("delays", limit=100)
    assert len(listed) == len(node.state.timers) == 72 - delivered
    for recall in recalls:
        if recall.due_ms > listed[0].due_ms:
            await node.timers.recall(recall)
    await node.pass_ms(DAY_MS)
    check_order(node.copies())
    assert len(set(node_texts(node))) == len(texts(node)) == delivered + 1
    node.close()


async def test_a_bucket_half_recalled_is_written_anew() -> None:
    node = await new_node()
    recalls = await fill(node, 30, ahead_ms=10 * DAY_MS)
    await node.timers.keeper.keep()
    (before,) = node.state.timers.buckets.values()
    for recall in recalls[:60]:
        await node.timers.recall(recall)
    await node.timers.keeper.keep()
    (after,) = node.state.timers.buckets.values()
    assert (before.count, after.count, after.recalled) == (90, 30, 0)
    assert after.size < before.size / 2
    await node.pass_ms(11 * DAY_MS)
    assert len(texts(node)) == 30
    node.close()


async def test_a_damaged_message_is_named_and_the_log_helps_out() -> None:
    """Goal: bit rot in a bucket costs nothing while the log has the message, else that message alone, by name."""
    disk = SimDisk()
    node = await new_node(disk)
    await fill(node, 10, ahead_ms=DAY_MS)
    await node.timers.keeper.keep()
    (name,) = node.files.list("timers")
    disk.flip(f"timers/{name}", len(disk.names[f"timers/{name}"].written) - 3)
    await node.pass_ms(2 * DAY_MS)
    assert len(texts(node)) == 30
    node.close()


async def test_a_message_that_nobody_has_is_given_up_by_name() -> None:
    disk, clock = SimDisk(), ManualClock()
    node = await new_node(disk, clock)
    placed = await node.store_timers(["lost", "kept"], [DAY_MS, DAY_MS])
    for number in range(3):
        await node.store_timers([f"{number} {each}" for each in range(4)], [DAY_MS] * 4)
    await node.timers.keeper.keep()
    (name,) = node.files.list("timers")
    where = disk.names[f"timers/{name}"].written.index(b"lost")
    disk.flip(f"timers/{name}", where)
    disk.flip(f"log/{0:020d}.seg", disk.names[f"log/{0:020d}.seg"].written.index(b"lost"))
    await node.pass_ms(2 * DAY_MS)
    assert sorted(texts(node)) == sorted(["kept", *(f"{a} {b}" for a in range(3) for b in range(4))])
    (warning,) = node.notes.of("timer_unreadable")
    assert (warning["topic"], warning["log_offset"], warning["record"]) == ("delays", placed.log_offset, 0)
    assert name in warning["reason"]
    assert (len(node.state.timers), node.state.timers.buckets) == (0, {})
    node.close()


async def test_damaged_entries_and_missing_files_are_named() -> None:
    disk, clock = SimDisk(), ManualClock()
    node = await new_node(disk, clock)
    await fill(node, 10, ahead_ms=DAY_MS)
    await node.timers.keeper.keep()
    await fill(node, 10, ahead_ms=DAY_MS)
    await node.timers.keeper.keep()
    first, second = node.files.list("timers")
    disk.flip(f"timers/{first}", 200)
    kept = disk.names.pop(f"timers/{second}")
    node.stop()
    disk.kill()
    node = TimerNode(disk.files(), clock)
    assert [second in warning["reason"] for warning in node.notes.of("timers_unreadable")] == [True]
    for _ in range(TRIES):
        await node.pass_ms(DAY_MS)
    assert texts(node) == []
    (warning,) = node.notes.of("timers_skipped")
    assert (warning["bucket"], warning["count"]) == (f"timers/{first}", 30)
    assert "entries 0 to 29" in warning["reason"]
    disk.names[f"timers/{second}"] = kept  # somebody brings it back
    await node.pass_ms(RETRY_MS)
    assert len(texts(node)) == 30
    node.close()


async def test_buckets_of_a_log_that_was_moved_away_are_put_aside() -> None:
    """They may hold the only copy of messages that a snapshot ahead of the log names."""
    disk, clock = SimDisk(), ManualClock()
    node = await new_node(disk, clock)
    await fill(node, 10, ahead_ms=DAY_MS)
    await node.timers.keeper.keep()
    await node.snapshot()
    (name,) = node.files.list("timers")
    kept = node.files.read_all(f"timers/{name}")
    node.stop()
    disk.kill()
    for moved in [moved for moved in disk.names if moved.startswith("log/")]:
        disk.names.pop(moved)
    node = await new_node(disk, clock)
    assert node.files.list("timers") == [f"{name}.ahead"]
    await fill(node, 5, ahead_ms=DAY_MS)
    await node.timers.keeper.keep()
    assert node.files.list("timers") == [name, f"{name}.ahead"]
    assert node.files.read_all(f"timers/{name}.ahead") == kept
    node.stop()
    disk.kill()
    node = TimerNode(disk.files(), clock)
    await node.pass_ms(2 * DAY_MS)
    assert len(texts(node)) == 15
    node.close()


async def test_many_small_frames_are_in_a_snapshot_before_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: a start reads only so many frames back, however small they are; but snapshots do not take all the time."""
    monkeypatch.setattr(upkeep, "SNAPSHOT_FRAMES", 40)
    disk = SimDisk()
    node = await new_node(disk)
    await node.snapshot()
    node.upkeep._snapshot_bytes = 1 << 40
    taken = node.upkeep.snapshots
    await fill(node, 30, ahead_ms=DAY_MS)
    await node.upkeep.snapshot_if_due()
    assert node.upkeep.snapshots == taken
    await fill(node, 20, ahead_ms=DAY_MS)
    await node.upkeep.snapshot_if_due()
    assert node.upkeep.snapshots == taken + 1
    await fill(node, 50, ahead_ms=DAY_MS)
    node.upkeep._snapshot_after_ms = node.clock.monotonic_ms() + 1_000
    await node.upkeep.snapshot_if_due()
    assert node.upkeep.snapshots == taken + 1
    clock = node.clock
    node.stop()
    disk.kill()
    node = await new_node(disk, clock)
    node.upkeep._snapshot_bytes = 1 << 40
    assert node.recovered.frames_replayed >= 50
    await node.upkeep.snapshot_if_due()
    assert node.upkeep.snapshots == 1
    node.close()


async def test_many_leases_are_in_a_snapshot_before_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """A few frames may hold very many hand-outs, which take their time when they are read back."""
    monkeypatch.setattr(upkeep, "SNAPSHOT_LEASES", 40)
    disk = SimDisk()
    node = await new_node(disk)
    await node.snapshot()
    node.upkeep._snapshot_bytes = 1 << 40
    taken = node.upkeep.snapshots

    def hand_out(count: int) -> None:
        record = {"t": "out", "g": "g", "i": 1, "q": 0, "n": count, "d": 1, "o": list(range(count))}
        node.journal.submit_applied(record, lambda failure: None)

    hand_out(30)
    await node.upkeep.snapshot_if_due()
    assert node.upkeep.snapshots == taken
    hand_out(20)
    await node.upkeep.snapshot_if_due()
    await node.upkeep.snapshot_if_due()
    assert node.upkeep.snapshots == taken + 1
    hand_out(50)
    assert node.journal.settle()
    await node.journal.sync_now()
    clock = node.clock
    node.stop()
    disk.kill()
    node = await new_node(disk, clock)
    node.upkeep._snapshot_bytes = 1 << 40
    await node.upkeep.snapshot_if_due()
    assert node.upkeep.snapshots == 1, "those that were read back count too"
    node.close()
