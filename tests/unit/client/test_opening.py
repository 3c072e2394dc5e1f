"""A route that changes while a consumer opens: it is a member once at each broker."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from kourou.client import Client
from kourou.core.wire import WireMessage
from tests.unit.client.fake_server import FakePeer, FakeServer


class SlowToOpen(FakeServer):
    """It answers the first SUBSCRIBE when the test lets it."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.asked_to_open = asyncio.Event()
        self.held_back: Callable[[], None] | None = None

    def on_subscribe(self, peer: FakePeer, message: WireMessage) -> None:
        if self.asked_to_open.is_set():
            super().on_subscribe(peer, message)
        else:
            self.held_back = lambda: super(SlowToOpen, self).on_subscribe(peer, message)
            self.asked_to_open.set()


async def test_a_consumer_subscribes_once_at_each_broker() -> None:
    """Two subscriptions of one member would expel each other for ever."""
    async with SlowToOpen("a") as first, FakeServer("b") as second, Client(first.address) as client:
        first.brokers["b"] = second
        first.add_topic("t", placement={"a": 1, "b": 1})
        changed = asyncio.Event()
        consumer = client.consumer("t", group="g")
        opening = asyncio.create_task(consumer.open())
        async with asyncio.timeout(20):
            await first.asked_to_open.wait()
            client._cluster.on_change(changed.set)
            first.push_routes()
            await changed.wait()
            assert first.held_back is not None
            first.held_back()
            await opening
        await consumer.close()
        assert [len(broker.subscriptions) for broker in (first, second)] == [1, 1]


async def test_a_broker_that_came_while_a_consumer_opened_is_read_too() -> None:
    async with SlowToOpen("a") as first, FakeServer("b") as second, Client(first.address) as client:
        first.brokers["b"] = second
        first.add_topic("t")
        changed = asyncio.Event()
        consumer = client.consumer("t", group="g")
        opening = asyncio.create_task(consumer.open())
        async with asyncio.timeout(20):
            await first.asked_to_open.wait()
            client._cluster.on_change(changed.set)
            first.add_topic("t", placement={"a": 1, "b": 1})
            await changed.wait()
            assert first.held_back is not None
            first.held_back()
            await opening
        await second.until(lambda: len(second.subscriptions) == 1)
        await consumer.close()
