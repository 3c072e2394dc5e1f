"""Readers that are far behind and are sent to a slave."""

from __future__ import annotations

import asyncio

from tests.unit.broker.services.stream import Peer, Stream


async def far(stream: Stream, *, may_leave: bool) -> tuple[Peer, int]:
    """Ten records in queue 0, and all that is more than 200 bytes behind is to be read at slave 3."""
    await stream.topic(1)
    for _ in range(10):
        await stream.send(0)
    stream.delivery.slaves_for = lambda behind: [3] if behind > 200 else []
    peer = Peer("c")
    number = await stream.join(peer, "m", may_leave=may_leave)
    await stream.settled()
    return peer, number


async def seek(stream: Stream, peer: Peer, number: int, offset: int, *, stay: bool = False) -> None:
    def answered(session: int, start: int) -> None:
        generation, _, _ = peer.queues[0]
        peer.queues[0] = (generation, session, start)

    stream.service.seek(peer, number, 0, ("offset", offset), answered, stay=stay)
    await stream.turns()


async def test_who_can_is_sent_off_and_hears_no_more_until_it_seeks() -> None:
    async with Stream() as stream:
        peer, number = await far(stream, may_leave=True)
        assert ("elsewhere", 0, 0) in peer.told
        assert stream.delivery.sent_elsewhere == 1
        await stream.send(0)
        await stream.turns()
        assert 0 not in peer.got
        generation = peer.queues[0][0]
        assert stream.commit(peer, number, (0, generation, 5)).fenced is None
        await stream.turns()
        assert stream.committed(0) == 5  # it is its queue all the same
        await seek(stream, peer, number, 11)  # at the end
        await stream.send(0)
        await stream.turns()
        assert peer.got[0] == [12]
        assert stream.delivery.sent_elsewhere == 1


async def test_who_comes_back_far_behind_is_sent_off_again_unless_it_stays() -> None:
    async with Stream() as stream:
        peer, number = await far(stream, may_leave=True)
        await seek(stream, peer, number, 1)
        assert peer.told[-1] == ("elsewhere", 0, 1)
        await seek(stream, peer, number, 2, stay=True)
        assert peer.got[0][-1] == 10
        assert stream.delivery.sent_elsewhere == 2


async def test_who_can_not_is_read_for() -> None:
    async with Stream() as stream:
        peer, _ = await far(stream, may_leave=False)
        assert peer.got[0][-1] == 10
        assert stream.delivery.sent_elsewhere == 0


async def test_a_queue_that_waits_elsewhere_is_set_anew_by_a_reset() -> None:
    async with Stream() as stream:
        peer, _ = await far(stream, may_leave=True)
        stream.delivery.slaves_for = lambda behind: []

        await stream.finish(asyncio.create_task(stream.service.reset("g", "t", None, "earliest")))
        await stream.settled()
        assert peer.got[0][-1] == 10
