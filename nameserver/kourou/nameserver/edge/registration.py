"""The gRPC service that brokers register with, and the route table behind it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from itertools import count
from typing import Any
from urllib.parse import unquote

import grpc
from google.protobuf.message import DecodeError

from kourou.core.clock import Clock
from kourou.core.errors import BadRequest, Fenced, KourouError, LimitExceeded
from kourou.core.limits import QUEUES_PER_TOPIC_MAX
from kourou.core.names import check_broker, check_topic
from kourou.core.route import Placement, TopicType, parse_endpoint
from kourou.http2.call import GrpcError, Kind, Method, StatusCode, StreamCall
from kourou.nameserver.table import BrokerReport, RouteTable, TopicDefinition
from kourou.proto.v1 import nameserver_pb2, nameserver_pb2_grpc


class RegistrationService(nameserver_pb2_grpc.NameserverServicer):
    """Feeds the table; ``changed`` is called after each fact, to push routes."""

    def __init__(self, table: RouteTable, *, name: str, clock: Clock, log: Any, changed: Callable[[], None]) -> None:
        self._table = table
        self._name = name
        self._clock = clock
        self._log = log
        self._changed = changed
        self._streams = count(1)
        self._conflicts: frozenset[str] = frozenset()  # reported already

    async def Register(self, messages: AsyncIterator[Any], context: Any) -> AsyncIterator[Any]:
        stream = next(self._streams)
        source = peer_host(context.peer())
        report: BrokerReport | None = None
        try:
            async for message in messages:
                now_ms = self._clock.monotonic_ms()
                kind = message.WhichOneof("content")
                if kind != "report" and report is None:
                    await context.abort(grpc.StatusCode.FAILED_PRECONDITION, "the first message must be a report")
                try:
                    if kind == "report":
                        report = self._take(message.report, report, source=source, stream=stream)
                    elif report is not None:  # a heartbeat, or a kind that is newer than this nameserver: signs of life
                        self._table.heard(report, source=source, stream=stream, now_ms=now_ms)
                except KourouError as failure:
                    if isinstance(failure, Fenced):  # it is of this cluster: it may ask who has its name
                        yield nameserver_pb2.NameserverMessage(nameserver=self._name, version=0)
                    await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(failure))
                self._changed()
                yield nameserver_pb2.NameserverMessage(nameserver=self._name, version=self._table.version)
        finally:
            self._table.closed(stream, now_ms=self._clock.monotonic_ms())
            self._changed()
            if report is not None:
                self._log.info("broker_stream_ended", broker=report.broker, id=report.broker_id)

    def _take(self, value: Any, before: BrokerReport | None, *, source: str | None, stream: int) -> BrokerReport:
        """Put a report into the table. Raises KourouError if that can't be done."""
        try:
            report = self._parse(value)
            if before is not None and (report.broker, report.broker_id) != (before.broker, before.broker_id):
                raise BadRequest(f"the stream of broker {before.broker} {before.broker_id} can't become another's")
            self._table.registered(report, source=source, stream=stream, now_ms=self._clock.monotonic_ms())
        except KourouError as failure:
            self._log.warning(
                "broker_refused", broker=value.broker[:100], id=value.broker_id, source=source, reason=str(failure)
            )
            raise
        event = "broker_registered" if before is None else "broker_changed"
        self._log.info(
            event, broker=report.broker, id=report.broker_id, epoch=report.epoch, source=source, topics=len(report.topics)
        )
        conflicts = sorted(self._table.conflicts - self._conflicts)
        if conflicts:
            self._log.warning("topic_definitions_differ", topics=conflicts[:20], count=len(conflicts))
        self._conflicts = self._table.conflicts
        return report

    def _parse(self, value: Any) -> BrokerReport:
        """A report, checked: brokers are inside, but a broken one must not spoil the table. Raises a ClientFault."""
        if value.cluster != self._table.cluster:
            raise BadRequest(f"this nameserver serves cluster {self._table.cluster!r}, not {value.cluster[:100]!r}")
        if not 0 < value.port < 65536:
            raise BadRequest(f"data plane port is {value.port}; from 1 to 65535 is allowed")
        if value.advertised != "auto":
            parse_endpoint(value.advertised)
        if value.official_advertised not in ("", "auto"):
            parse_endpoint(value.official_advertised)
        check_broker(value.broker)
        topics: list[TopicDefinition] = []
        for topic in value.topics:
            try:
                topics.append(parse_topic(topic))
            except (KourouError, ValueError) as failure:
                # One topic that this version does not know must not take the broker with all others away.
                self._log.warning("topic_ignored", broker=value.broker, topic=topic.name[:150], reason=str(failure))
        return BrokerReport(
            value.broker,
            value.broker_id,
            value.epoch,
            value.master,
            value.advertised,
            value.port,
            value.version[:100],
            tuple(topics),
            value.official_port if value.official_port < 65536 else 0,
            value.official_advertised or "auto",
        )


def registration_methods(service: RegistrationService) -> dict[str, Method]:
    """The service for an engine that knows no protobuf."""

    async def register(call: StreamCall) -> None:
        async def messages() -> AsyncIterator[Any]:
            while (data := await call.receive()) is not None:
                try:
                    yield nameserver_pb2.BrokerMessage.FromString(data)
                except DecodeError:
                    raise GrpcError(StatusCode.INVALID_ARGUMENT, "the message does not parse") from None

        async for answer in service.Register(messages(), _Context(call)):
            call.send(answer.SerializeToString())
            await call.drain()

    return {"/kourou.v1.Nameserver/Register": Method(Kind.BIDI_STREAM, stream=register)}


class _Context:
    """What the service asks of a call, in grpc's words."""

    def __init__(self, call: StreamCall) -> None:
        self._call = call

    def peer(self) -> str:
        host = self._call.peer.rpartition(":")[0].removeprefix("[").removesuffix("]")
        return f"ipv6:[{host}]:1" if ":" in host else f"ipv4:{host}:1"

    async def abort(self, code: Any, text: str) -> None:
        raise GrpcError(StatusCode(code.value[0]), text)


def parse_topic(value: Any) -> TopicDefinition:
    """Raises IllegalName, LimitExceeded, or ValueError for a type that a newer version has invented."""
    placement = tuple(Placement(check_broker(place.broker), place.queues) for place in value.placement)
    queues = sum(place.queues for place in placement)
    if queues > QUEUES_PER_TOPIC_MAX:  # clients list every one
        raise LimitExceeded(f"the topic has {queues} queues; the limit is {QUEUES_PER_TOPIC_MAX}")
    return TopicDefinition(check_topic(value.name), TopicType(value.type), placement, value.created_ms)


def peer_host(peer: str) -> str | None:
    """The host in grpc's description of a peer: ``ipv4:1.2.3.4:567`` or ``ipv6:%5B::1%5D:567``; None for others."""
    kind, _, rest = unquote(peer).partition(":")
    if kind not in ("ipv4", "ipv6"):
        return None
    return rest.rpartition(":")[0].removeprefix("[").removesuffix("]")
