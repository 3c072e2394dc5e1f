"""Assignments of many queues are carried out bit by bit: other work comes between, and what changes meanwhile counts."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import pytest

from kourou.broker.machines.members import RELEASE_TIMEOUT_MS
from kourou.broker.services import subscriptions
from kourou.broker.services.subscriptions import PORTION
from tests.unit.broker.services.stream import Peer, Stream

QUEUES = 1_500


@pytest.fixture(autouse=True)
def one_portion_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subscriptions, "STEP_S", 0.0)


@pytest.mark.parametrize("mode", ["stream", "broadcast"])
async def test_others_get_their_turn(mode: str) -> None:
    async with Stream() as stream:
        await stream.topic(QUEUES)
        peer = Peer("c")
        await stream.join(peer, "m", mode=mode)
        seen = [len(peer.queues)]
        while seen[-1] < QUEUES:
            await stream.turns(1)
            seen.append(len(peer.queues))
        assert max(after - before for before, after in pairwise(seen)) <= PORTION
        await stream.settled()
        assert len(peer.told) == QUEUES


@pytest.mark.parametrize("start", ["earliest", "latest"])
async def test_what_arrives_between_the_steps_is_delivered_once(start: str) -> None:
    """Queues with and without messages; some come while the assignment is under way, some after it."""
    async with Stream() as stream:
        await stream.topic(QUEUES)
        for queue in (0, 700, 1_499):
            await stream.send(queue, 3)
        peer = Peer("c")
        await stream.join(peer, "m", start=start)
        await stream.turns(3)
        assert 0 < len(peer.queues) < QUEUES
        for queue in (0, 1, 700, 1_498):
            await stream.send(queue, 2)
        await stream.settled()
        for queue in (2, 700):
            await stream.send(queue, 1)
        await stream.turns()
        ends = {queue: offsets[-1] for queue, offsets in peer.got.items()}
        wanted = {0: 5, 1: 2, 2: 1, 700: 6, 1_498: 2}
        assert ends == (wanted | {1_499: 3} if start == "earliest" else {q: wanted[q] for q in ends})
        assert set(ends) >= ({0, 1, 2, 700, 1_498, 1_499} if start == "earliest" else {2, 700})
        assert all(offsets == sorted(set(offsets)) for offsets in peer.got.values())


async def test_members_that_come_and_go_between_the_steps() -> None:
    """In the end each queue is read by one of those that are left, and was never read by two."""
    async with Stream() as stream:
        await stream.topic(QUEUES)
        peers = [Peer(f"c{number}") for number in range(4)]
        numbers = []
        for number, peer in enumerate(peers):
            numbers.append(await stream.join(peer, f"m{number}"))
            await stream.turns(2)
        stream.service.unsubscribe(numbers[0])
        peers[0].queues.clear()
        await stream.turns(3)
        peers[1].closed = True
        stream.service.closed(peers[1])
        peers[1].queues.clear()
        while stream.service._working or any(peer.asked for peer in peers[2:]):
            await stream.turns(1)
            for peer in peers[2:]:
                peer.let_go()
            owners = Counter(queue for peer in peers[2:] for queue in peer.queues)
            assert not owners or max(owners.values()) == 1
        assert sorted([*peers[2].queues, *peers[3].queues]) == list(range(QUEUES))
        assert len(peers[2].queues) == len(peers[3].queues)
        for queue in (0, 999, 1_499):
            await stream.send(queue, 1)
        await stream.turns()
        assert Counter(queue for peer in peers for queue in peer.got) == Counter([0, 999, 1_499])


async def test_the_same_consumer_again_before_the_first_was_told_everything() -> None:
    async with Stream() as stream:
        await stream.topic(QUEUES)
        old, new = Peer("c"), Peer("c")
        await stream.join(old, "m")
        await stream.turns(4)
        assert 0 < len(old.queues) < QUEUES
        await stream.join(new, "m")
        told = len(old.told)
        await stream.settled()
        assert len(new.queues) == QUEUES
        assert [what[0] for what in old.told[told - 1 :]] == ["ended"]


async def test_the_topic_changes_between_the_steps() -> None:
    async with Stream() as stream:
        await stream.topic(QUEUES)
        member, listener = Peer("c1"), Peer("c2")
        await stream.join(member, "m")
        await stream.join(listener, "l", group="b", mode="broadcast")
        await stream.turns(4)
        await stream.topic(QUEUES + 500)
        await stream.settled()
        assert len(member.queues) == len(listener.queues) == QUEUES + 500
        assert len(listener.told) == QUEUES + 500
        late = Peer("c3")
        await stream.join(late, "l", group="b", mode="broadcast")
        await stream.turns(2)
        await stream.write(stream.state.topics.delete("t"))
        stream.service.topic_changed("t")
        await stream.settled()
        assert [peer.told[-1][0] for peer in (member, listener, late)] == ["ended"] * 3
        assert stream.service.count == 0


async def test_a_few_queues_are_asked_back_one_by_one_and_many_together() -> None:
    """So that a queue whose message is being worked on does not hold up the others, where it matters."""
    for queues, requests_max in ((8, 8), (QUEUES, 20)):
        async with Stream() as stream:
            await stream.topic(queues)
            one, two = Peer("c1"), Peer("c2")
            await stream.join(one, "m1")
            await stream.settled()
            await stream.join(two, "m2")
            await stream.settled()
            assert sum(len(asked) for asked, _ in one.asked) == queues // 2
            assert (len(one.asked) == queues // 2) == (queues == 8)
            assert len(one.asked) <= requests_max
            one.let_go()
            await stream.settled()
            assert len(one.queues) == len(two.queues) == queues // 2


async def test_many_queues_that_nobody_lets_go_of_are_taken_bit_by_bit() -> None:
    async with Stream() as stream:
        await stream.topic(QUEUES)
        one, two = Peer("c1"), Peer("c2")
        await stream.join(one, "m1")
        await stream.settled()
        await stream.join(two, "m2")
        await stream.settled()
        assert two.queues == {}
        stream.clock.advance(RELEASE_TIMEOUT_MS)
        one.heard_at = two.heard_at = 1.0
        stream.service.tick()
        assert 0 <= len(two.queues) < QUEUES // 2
        await stream.settled()
        assert len(two.queues) == QUEUES // 2


async def test_all_queues_paused_and_resumed() -> None:
    """Each is read once more, not once for each time it was resumed."""
    async with Stream() as stream:
        await stream.topic(QUEUES)
        for queue in range(0, QUEUES, 100):
            await stream.send(queue, 1)
        peer = Peer("c")
        number = await stream.join(peer, "m")
        subscription = stream.service.get(peer, number)
        subscription.credit = 0
        await stream.settled()
        for _ in range(3):
            for paused in (True, False):
                for queue in range(QUEUES):
                    stream.delivery.pause(subscription, queue, paused)
        assert len(subscription.ready) == len(set(subscription.ready)) == QUEUES // 100
        stream.delivery.grant(subscription, 1 << 20)
        await stream.turns(10)
        assert peer.got == {queue: [1] for queue in range(0, QUEUES, 100)}
