"""ReceiveMessage at a distance: from whichever broker of a topic has something.

A client names one queue of one broker. A push consumer asks every broker at the same time, so it gets what the one it names
has. Others ask one after the other, and would wait at one broker while messages lie at another; they get from all of them,
the named one first.

Nothing is taken by a receive that waits: brokers are asked for what is there at once, then watched, then asked again. So
nothing is handed out to a client that has gone meanwhile.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import replace
from typing import Protocol

from kourou.core.errors import KourouError, NotConnected
from kourou.core.route import TopicRoute
from kourou.core.views import RouteView
from kourou.gateway.clients import Clients
from kourou.gateway.names import client_id, topic_name
from kourou.gateway.receive import WATCH, wait_of
from kourou.gateway.status import Code
from kourou.gateway.tunnel import CallInfo
from kourou.http2.call import GrpcError, StreamCall
from kourou.proto.rocketmq.v2 import definition_pb2 as pb
from kourou.proto.rocketmq.v2 import service_pb2 as service

WATCH_S = 5.0  # one that nobody waits for any more is over after this
AGAIN_S = 0.02  # between two rounds at least: a message that a filter passes over ends a watch too
PUSH = frozenset({pb.PUSH_CONSUMER, pb.LITE_PUSH_CONSUMER})


class Brokers(Protocol):
    async def route(self, topic: str) -> RouteView: ...

    def brokers(self) -> list[str]: ...

    async def call(self, broker: str, method: str, data: bytes, info: CallInfo) -> list[bytes]: ...


class RemoteReceive:
    def __init__(self, brokers: Brokers, clients: Clients, any_of: Callable[[TopicRoute], str]) -> None:
        """``any_of`` is a broker of a topic that can be reached, a different one each time."""
        self._brokers = brokers
        self._clients = clients
        self._any_of = any_of

    async def receive(self, call: StreamCall) -> None:
        loop = asyncio.get_running_loop()
        request = service.ReceiveMessageRequest.FromString(await call.receive() or b"")
        client = client_id(call)
        until_s = loop.time() + wait_of(request, call) / 1000
        asked = await self._asked(client, request, call)
        request.long_polling_timeout.FromMilliseconds(0)
        data = request.SerializeToString()
        while True:
            answer = await self._round(asked, data, CallInfo.of(call))
            left_s = until_s - loop.time()
            if not _empty(answer) or left_s <= 0:
                break
            await self._watch(asked, request, CallInfo.of(call), min(left_s, WATCH_S))
            await asyncio.sleep(max(0.0, min(AGAIN_S, until_s - loop.time())))
        for message in answer:
            call.send(message)
        await call.drain()

    async def _asked(self, client: str, request: service.ReceiveMessageRequest, call: StreamCall) -> list[str]:
        """Who is asked, in this order."""
        route = (await self._brokers.route(topic_name(request.message_queue.topic, call))).route
        holders = [broker.broker for broker in route.brokers if broker.queues]
        named = request.message_queue.broker.name
        first = named if named in holders else self._any_of(route)
        known = self._clients.find(client)
        if request.auto_renew or (known is not None and known.settings.client_type in PUSH):
            return [first]
        live = set(self._brokers.brokers())
        return [first, *(broker for broker in holders if broker in live and broker != first)]

    async def _round(self, asked: Iterable[str], data: bytes, info: CallInfo) -> list[bytes]:
        """The first answer with messages, or with something that is wrong; else that there are none."""
        nothing: list[bytes] = []
        failed: KourouError = NotConnected("no broker was asked")
        for broker in asked:
            try:
                answer = await self._brokers.call(broker, "ReceiveMessage", data, info)
            except KourouError as failure:
                failed = failure
                continue
            if not _empty(answer):
                return answer
            nothing = nothing or answer
        if not nothing:
            raise failed
        return nothing

    async def _watch(
        self, asked: Iterable[str], request: service.ReceiveMessageRequest, info: CallInfo, wait_s: float
    ) -> None:
        """Until one of them may have something, or the time is over."""
        watched = service.ReceiveMessageRequest()
        watched.CopyFrom(request)
        watched.long_polling_timeout.FromMilliseconds(round(wait_s * 1000))
        data, patient = watched.SerializeToString(), replace(info, left_ms=None)
        tasks = {asyncio.ensure_future(_or_sleep(self._brokers.call(one, WATCH, data, patient), wait_s)) for one in asked}
        try:
            await asyncio.wait(tasks, timeout=wait_s, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()


async def _or_sleep(watch: Awaitable[list[bytes]], wait_s: float) -> None:
    try:
        await watch
    except (KourouError, GrpcError):
        await asyncio.sleep(wait_s)


def _empty(answer: list[bytes]) -> bool:
    """Whether it says that there are no messages, and nothing is wrong."""
    return len(answer) == 1 and service.ReceiveMessageResponse.FromString(answer[0]).status.code == Code.MESSAGE_NOT_FOUND
