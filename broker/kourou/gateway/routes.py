"""QueryRoute and QueryAssignment."""

from __future__ import annotations

from typing import Protocol

from kourou.core.advertise import is_loopback
from kourou.core.route import Endpoint, TopicRoute, TopicType
from kourou.core.views import GroupView, RouteView
from kourou.gateway.convert import TYPES
from kourou.gateway.names import client_id, group_name, topic_name
from kourou.gateway.status import OK, Code, Refused
from kourou.http2.call import Call
from kourou.proto.rocketmq.v2 import definition_pb2 as pb
from kourou.proto.rocketmq.v2 import service_pb2 as service

ADDRESSES_MAX = 100
HOST_CHARACTERS_MAX = 253


class Routes(Protocol):
    """As much of ``Messaging`` as routes need."""

    async def route(self, topic: str) -> RouteView: ...

    def known_group(self, name: str) -> GroupView | None: ...


class RouteHandlers:
    def __init__(self, messaging: Routes) -> None:
        self._messaging = messaging

    async def query_route(self, data: bytes, call: Call) -> bytes:
        request = service.QueryRouteRequest.FromString(data)
        client_id(call)
        check_endpoints(request.endpoints)
        view = await self._messaging.route(topic_name(request.topic, call))
        response = service.QueryRouteResponse(status=OK)
        for broker, number in ordered_queues(view.route):
            endpoints = endpoints_of(view, broker, request.endpoints)
            if endpoints is not None:
                self._queue(response.message_queues.add(), request.topic, view, broker, number, endpoints)
        if not response.message_queues:
            raise Refused(Code.TOPIC_NOT_FOUND, f"topic {view.route.topic} has no queue that can be reached")
        return response.SerializeToString()

    @staticmethod
    def _queue(
        queue: pb.MessageQueue, topic: pb.Resource, view: RouteView, broker: str, number: int, endpoints: pb.Endpoints
    ) -> None:
        queue.topic.CopyFrom(topic)
        queue.id = number
        queue.permission = pb.READ_WRITE
        queue.broker.name = broker
        queue.broker.id = 0
        queue.broker.endpoints.CopyFrom(endpoints)
        queue.accept_message_types.append(TYPES[view.route.type])  # type: ignore[arg-type]

    async def query_assignment(self, data: bytes, call: Call) -> bytes:
        request = service.QueryAssignmentRequest.FromString(data)
        client_id(call)
        check_endpoints(request.endpoints)
        name = topic_name(request.topic, call)
        known = self._messaging.known_group(group_name(request.group, call))
        view = await self._messaging.route(name)
        ordered = view.route.type in (TopicType.FIFO, TopicType.LITE) or (known is not None and known.fifo)
        response = service.QueryAssignmentResponse(status=OK)
        for broker in view.route.brokers:
            endpoints = endpoints_of(view, broker.broker, request.endpoints)
            if endpoints is None or not broker.queues:
                continue
            for queue in range(broker.queues) if ordered else (-1,):
                assignment = response.assignments.add()
                self._queue(assignment.message_queue, request.topic, view, broker.broker, queue, endpoints)
        if not response.assignments:
            raise Refused(Code.FORBIDDEN, f"topic {name} has no queue that can be read")
        return response.SerializeToString()


def ordered_queues(route: TopicRoute) -> list[tuple[str, int]]:
    """As routes list them. Clients go through them in this order, so brokers take turns; but the place in the list is what
    gives a message group its queue, so that of a FIFO topic stays what it is."""
    if route.type is TopicType.FIFO:
        return list(route.queues)
    return sorted(route.queues, key=lambda queue: queue[1])


def check_endpoints(endpoints: pb.Endpoints) -> None:
    """Raises Refused with ILLEGAL_ACCESS_POINT."""
    addresses = endpoints.addresses
    if not 0 < len(addresses) <= ADDRESSES_MAX:
        raise Refused(Code.ILLEGAL_ACCESS_POINT, "endpoints of the request have no address, or too many")
    for address in addresses:
        if not 0 < len(address.host) <= HOST_CHARACTERS_MAX or not 0 < address.port < 65_536:
            raise Refused(
                Code.ILLEGAL_ACCESS_POINT, f"endpoints have a bad address: {address.host[:60]!r} port {address.port}"
            )
    if endpoints.scheme not in (pb.IPv4, pb.IPv6, pb.DOMAIN_NAME):
        raise Refused(Code.ILLEGAL_ACCESS_POINT, "endpoints have no address scheme")


def endpoints_of(view: RouteView, broker: str, asked: pb.Endpoints) -> pb.Endpoints | None:
    """Where a broker is reached; as the client dialled it where that is us. None: it can't be reached now."""
    if broker not in view.endpoints:
        return None
    endpoint = view.endpoints[broker]
    if endpoint is None:
        return asked
    host = asked.addresses[0].host
    if is_loopback(endpoint.host) and not is_loopback(host):
        endpoint = Endpoint(host, endpoint.port)  # it is on our own host, which the asker calls by this name
    return endpoints_for(endpoint)


def endpoints_for(endpoint: Endpoint) -> pb.Endpoints:
    host = endpoint.host
    if ":" in host:
        scheme = pb.IPv6
    elif host.replace(".", "").isdigit():
        scheme = pb.IPv4
    else:
        scheme = pb.DOMAIN_NAME
    return pb.Endpoints(scheme=scheme, addresses=[pb.Address(host=host, port=endpoint.port)])
