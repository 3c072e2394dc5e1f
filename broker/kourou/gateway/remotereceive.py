"""ReceiveMessage at a distance: from whichever broker of a topic has something.

A client names one queue of one broker. A push consumer asks every broker at the same time, so it gets what the one it names
has. Others ask one after the other, and would wait at one broker while messages lie at another; they get from all of them,
the named one first.

Nothing is taken by a receive that waits: brokers are asked for what is there at once, then watched (see ``watches.py``),
then the one that may have something is asked again. So nothing is handed out to a client that has gone meanwhile.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Protocol

from kourou.core.errors import KourouError, NotConnected, OutcomeUnknown
from kourou.core.route import TopicRoute, TopicType
from kourou.core.views import RouteView
from kourou.gateway.clients import Clients
from kourou.gateway.names import client_id, topic_name
from kourou.gateway.patience import patiently
from kourou.gateway.receive import WATCH, wait_of
from kourou.gateway.status import Code
from kourou.gateway.tunnel import CallInfo
from kourou.gateway.watches import WATCH_S, Place, Watches
from kourou.http2.call import StreamCall
from kourou.proto.rocketmq.v2 import definition_pb2 as pb
from kourou.proto.rocketmq.v2 import service_pb2 as service

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
        self._watches = Watches(lambda broker, request, info: brokers.call(broker, WATCH, request, info))

    async def receive(self, call: StreamCall) -> None:
        loop = asyncio.get_running_loop()
        request = service.ReceiveMessageRequest.FromString(await call.receive() or b"")
        client = client_id(call)
        until_s = loop.time() + wait_of(request, call) / 1000
        route = (await self._brokers.route(topic_name(request.message_queue.topic, call))).route
        request.long_polling_timeout.FromMilliseconds(0)

        async def attempt() -> list[bytes]:
            try:
                return await self._ask(client, request, route, call, until_s)
            except OutcomeUnknown as failure:  # what was handed out, if anything, is handed out again when its time is over
                raise NotConnected(str(failure)) from None

        for message in await patiently(attempt, left_s=until_s - loop.time()):
            call.send(message)
        await call.drain()

    async def _ask(
        self, client: str, request: service.ReceiveMessageRequest, route: TopicRoute, call: StreamCall, until_s: float
    ) -> list[bytes]:
        """What is there, or will be in time."""
        asked = self._asked(client, request, route)
        answer = await self._round(asked, request.SerializeToString(), CallInfo.of(call))
        if not _empty(answer) or asyncio.get_running_loop().time() >= until_s:
            return answer
        wanted = _wanted(request, client if route.type is TopicType.LITE else "")
        waiting = service.ReceiveMessageRequest()
        waiting.CopyFrom(request)
        return await self._wait([Place(broker, wanted) for broker in asked], waiting, call, until_s)

    async def _wait(
        self, places: list[Place], request: service.ReceiveMessageRequest, call: StreamCall, until_s: float
    ) -> list[bytes]:
        """Until one of the brokers has something, or the time is over: then all are asked once more."""
        loop = asyncio.get_running_loop()
        asked, data = [place.broker for place in places], request.SerializeToString()
        request.long_polling_timeout.FromMilliseconds(round(WATCH_S * 1000))
        watched, patient = request.SerializeToString(), replace(CallInfo.of(call), left_ms=None)
        while (left_s := until_s - loop.time()) > 0:
            turn = await self._watches.turn(places, watched, patient, left_s)
            if turn is None:
                break
            found = True  # unless it is known that there is nothing: then the next one has a turn
            try:
                answer = await self._round([turn.broker], data, CallInfo.of(call))
                found = not _empty(answer)
            except KourouError:
                found = False
                if len(asked) == 1:
                    raise
            finally:
                turn.end(found)
            if found:
                return answer
        return await self._round(asked, data, CallInfo.of(call))

    def _asked(self, client: str, request: service.ReceiveMessageRequest, route: TopicRoute) -> list[str]:
        """Who is asked, in this order."""
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


def _wanted(request: service.ReceiveMessageRequest, client: str) -> bytes:
    """The same for all that get the same messages. ``client``: of lite topics each has its own."""
    same = service.ReceiveMessageRequest(group=request.group, filter_expression=request.filter_expression)
    same.message_queue.topic.CopyFrom(request.message_queue.topic)
    same.attempt_id = client
    return same.SerializeToString(deterministic=True)


def _empty(answer: list[bytes]) -> bool:
    """Whether it says that there are no messages, and nothing is wrong."""
    return len(answer) == 1 and service.ReceiveMessageResponse.FromString(answer[0]).status.code == Code.MESSAGE_NOT_FOUND
