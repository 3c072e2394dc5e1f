"""Setting a group's offsets while its members read and commit: what was read before is never committed after."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest

from kourou.broker.machines.members import RELEASE_TIMEOUT_MS
from kourou.broker.services import subscriptions
from kourou.core.errors import DiskFull, FlushFailed, GroupNotFound, QueueNotFound
from tests.unit.broker.services.stream import Peer, Stream


async def test_a_commit_under_way_does_not_undo_a_reset() -> None:
    """The reset is decided and not confirmed yet when a commit of what was read before it comes."""
    async with Stream(held=True) as stream:
        await stream.topic(1)
        await stream.send(0, 10)
        peer = Peer("c")
        number = await stream.join(peer, "m")
        await stream.settled()
        (former, _, _) = peer.queues[0]
        assert (await _committed(stream, peer, number, (0, former, 7))).fenced == []
        reset = asyncio.create_task(stream.service.reset("g", "t", None, ("offset", 2)))
        await stream.turns()
        assert peer.told[-1:] == [("taken", 0, former)]
        late = stream.commit(peer, number, (0, former, 9))
        assert late.fenced == [0]
        assert await stream.finish(reset) == [(0, 7, 2)]
        assert stream.committed(0) == 2
        assert peer.told[-1] == ("assign", 0, (1, 2), 2)
        assert stream.commit(peer, number, (0, former, 9)).fenced == [0]
        await stream.settled()
        assert peer.got[0][-1] == 10  # delivered again from 2 on
        assert (await _committed(stream, peer, number, (0, (1, 2), 3))).fenced == []
        assert stream.committed(0) == 3


async def _committed(stream: Stream, peer: Peer, number: int, *entries: tuple[int, tuple[int, int], int]) -> Any:
    answer = stream.commit(peer, number, *entries)
    while answer.fenced is None:
        await stream.turns()
        while stream.syncs.jobs:
            stream.syncs.run()
    assert answer.failure is None
    return answer


async def test_a_commit_of_the_same_turn_comes_before_the_reset() -> None:
    """It was accepted; it must be in the log before, also where the reset says what was stored without it."""
    async with Stream() as stream:
        await stream.topic(1)
        await stream.send(0, 10)
        peer = Peer("c")
        number = await stream.join(peer, "m")
        await stream.settled()
        stream.commit(peer, number, (0, (1, 1), 5))
        await stream.turns()
        assert stream.committed(0) == 5
        early = stream.commit(peer, number, (0, (1, 1), 8))
        assert await stream.service.reset("g", "t", None, ("offset", 5)) == [(0, 8, 5)]
        assert early.fenced == []
        await stream.turns()
        assert stream.committed(0) == 5


async def test_when_the_reset_is_not_stored_its_readers_go_on_from_what_is_committed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with Stream() as stream:
        await stream.topic(2)
        await stream.send(0, 10)
        peer = Peer("c")
        number = await stream.join(peer, "m")
        await stream.settled()
        stream.commit(peer, number, (0, (1, 1), 6))
        await stream.turns()

        def full(*_: object, **__: object) -> None:
            raise DiskFull("no room")

        with monkeypatch.context() as patched:
            patched.setattr(type(stream.store), "append", full)
            with pytest.raises(DiskFull):
                await stream.service.reset("g", "t", [0], "earliest")
        assert peer.told[-2:] == [("taken", 0, (1, 1)), ("assign", 0, (1, 2), 6)]
        assert stream.commit(peer, number, (0, (1, 1), 9)).fenced == [0]
        stream.commit(peer, number, (0, (1, 2), 8), (1, (1, 1), 0))
        await stream.turns()
        assert stream.committed(0) == 8
        assert not stream.failures


async def test_when_the_disk_fails_the_readers_are_told_all_the_same() -> None:
    """The process goes down then; nobody is left waiting until it has."""
    async with Stream(held=True) as stream:
        await stream.topic(1)
        await stream.send(0, 3)
        peer = Peer("c")
        await stream.join(peer, "m")
        await stream.settled()
        reset = asyncio.create_task(stream.service.reset("g", "t", None, "latest"))
        await stream.turns()
        stream.syncs.run(FlushFailed("broken"))
        with pytest.raises(FlushFailed):
            await reset
        assert stream.failures == ["broken"]
        assert list(peer.told[-1])[:3] == ["assign", 0, (1, 2)]


async def test_what_is_wrong_is_refused_before_anybody_is_fenced() -> None:
    async with Stream() as stream:
        await stream.topic(2)
        peer = Peer("c")
        await stream.join(peer, "m")
        await stream.settled()
        told = list(peer.told)
        with pytest.raises(QueueNotFound):
            await stream.service.reset("g", "t", [1, 2], "earliest")
        with pytest.raises(GroupNotFound):
            await stream.service.reset("h", "t", None, "earliest")
        assert peer.told == told


async def test_a_queue_that_is_paused_stays_so() -> None:
    async with Stream(held=True) as stream:
        await stream.topic(2)
        await stream.send(0, 3)
        await stream.send(1, 3)
        peer = Peer("c")
        number = await stream.join(peer, "m")
        await stream.settled()
        subscription = stream.service.get(peer, number)
        stream.delivery.pause(subscription, 0, True)
        reset = asyncio.create_task(stream.service.reset("g", "t", None, "earliest"))
        await stream.turns()
        stream.delivery.pause(subscription, 1, True)  # while it is under way
        peer.got.clear()
        await stream.finish(reset)
        await stream.settled()
        assert peer.got == {}
        stream.delivery.pause(subscription, 0, False)
        stream.delivery.pause(subscription, 1, False)
        await stream.turns()
        assert peer.got == {0: [3], 1: [3]}


async def test_a_queue_that_moves_meanwhile_begins_where_it_was_reset_to() -> None:
    """Another member joins while the reset waits for the disk: its queues are not assigned to the former owner anew."""
    async with Stream(held=True) as stream:
        await stream.topic(4)
        for queue in range(4):
            await stream.send(queue, 5)
        one, two = Peer("c1"), Peer("c2")
        number = await stream.join(one, "m1")
        await stream.settled()
        former = {queue: generation for queue, (generation, _, _) in one.queues.items()}
        await _committed(stream, one, number, *((queue, former[queue], 4) for queue in range(4)))
        begin = await stream.finish(asyncio.create_task(_subscription(stream, two, "m2")))
        reset = asyncio.create_task(stream.service.reset("g", "t", None, ("offset", 1)))
        await stream.turns()
        begin(lambda number: None)
        await stream.turns()
        one.let_go()  # it does not know these queues any more, so it lets go at once
        await stream.turns()
        await stream.finish(reset)
        await stream.settled()
        assert sorted([*one.queues, *two.queues]) == [0, 1, 2, 3]
        assert one.queues
        assert two.queues
        assert {offset for peer in (one, two) for _, _, offset in peer.queues.values()} == {1}
        late = stream.commit(one, number, *((queue, former[queue], 5) for queue in range(4)))
        assert late.fenced == [0, 1, 2, 3]


async def _subscription(stream: Stream, peer: Peer, member: str) -> Any:
    return await stream.service.subscribe(
        peer, group="g", topic="t", mode="stream", member=member, start="earliest", tags=None, credit=1, auto_create=True
    )


async def test_two_resets_at_once() -> None:
    """The later one counts, and a queue is assigned once."""
    async with Stream(held=True) as stream:
        await stream.topic(1)
        await stream.send(0, 9)
        peer = Peer("c")
        await stream.join(peer, "m")
        await stream.settled()
        first = asyncio.create_task(stream.service.reset("g", "t", None, ("offset", 3)))
        second = asyncio.create_task(stream.service.reset("g", "t", None, ("offset", 6)))
        await stream.turns()
        await stream.finish(first)
        await stream.finish(second)
        assert stream.committed(0) == 6
        assert [what for what in peer.told if what[0] == "assign"] == [("assign", 0, (1, 1), 0), ("assign", 0, (1, 3), 6)]


async def test_broadcast_offsets_and_groups_without_members_are_not_touched() -> None:
    async with Stream() as stream:
        await stream.topic(1)
        await stream.send(0, 9)
        listener = Peer("radio")
        number = await stream.join(listener, "m", group="b", mode="broadcast")
        await stream.settled()
        await stream.service.reset("b", "t", None, ("offset", 4))
        answer = stream.commit(listener, number, (0, (0, 0), 7))
        await stream.turns()
        assert answer.fenced == []
        incarnation = stream.state.topics.get("t").incarnation
        assert stream.state.offsets.broadcast_committed("b", "radio", incarnation, 0) == 7
        assert stream.committed(0, group="b") == 4  # nobody reads by it; it could be set all the same
        assert [what[0] for what in listener.told] == ["assign"]


@pytest.mark.parametrize("seed", range(15))
async def test_any_order(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Commits, resets, joins and departures in random order, with a slow disk. In the end nothing that was read before the
    last reset can be committed, and nobody has moved it."""
    monkeypatch.setattr(subscriptions, "RESET_PORTION", 2)
    rng = random.Random(seed)
    async with Stream(held=True, steps_at_once=rng.choice([0, 8])) as stream:
        await stream.topic(5)
        for queue in range(5):
            await stream.send(queue, 50)
        peers: dict[str, tuple[Peer, int]] = {}
        handed: dict[tuple[int, tuple[int, int]], int] = {}  # queue, generation -> highest offset that it may commit
        stale: list[tuple[Peer, int, tuple[int, tuple[int, int], int]]] = []
        resets: list[asyncio.Task[Any]] = []
        for _ in range(120):
            match rng.randrange(8):
                case 0 if len(peers) < 3:
                    name = f"m{rng.randrange(4)}"
                    if name not in peers:
                        peer = Peer(f"c-{name}")
                        peers[name] = (peer, await stream.join(peer, name))
                case 1 if peers:
                    peer, number = peers.pop(rng.choice(sorted(peers)))
                    peer.closed = True
                    stream.service.closed(peer)
                case 2 | 3 if peers:
                    peer, number = peers[rng.choice(sorted(peers))]
                    for queue, (generation, _, offset) in peer.queues.items():
                        at = handed.setdefault((queue, generation), offset)
                        handed[queue, generation] = min(50, at + rng.randrange(5))
                        entry = (queue, generation, handed[queue, generation])
                        stale.append((peer, number, entry))
                        stream.commit(peer, number, entry)
                case 4 if stream.state.groups.find("g") is not None:
                    resets.append(asyncio.create_task(stream.service.reset("g", "t", None, ("offset", rng.randrange(20)))))
                case 5:
                    for peer, _ in peers.values():
                        peer.let_go()
                case 6:
                    stream.clock.advance(rng.choice([10, RELEASE_TIMEOUT_MS]))
                    for peer, _ in peers.values():
                        peer.heard_at += 1
                    stream.service.tick()
                case _:
                    await stream.turns(rng.randrange(6))
                    if stream.syncs.jobs:
                        stream.syncs.run()
        for reset in resets:
            await stream.finish(reset)
        await stream.settled()
        if stream.state.groups.find("g") is not None:
            await stream.finish(asyncio.create_task(stream.service.reset("g", "t", None, "earliest")))
        for peer, number, entry in stale:
            if not peer.closed:
                assert stream.commit(peer, number, entry).fenced == [entry[0]]
        await stream.settled()
        assert {stream.committed(queue) for queue in range(5)} <= {0, None}
