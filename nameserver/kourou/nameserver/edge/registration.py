"""The gRPC service that brokers register with, and the route table behind it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from itertools import count
from typing import Any
from urllib.parse import unquote

import grpc

from kourou.core.clock import Clock
from kourou.core.errors import KourouError
from kourou.core.names import check_broker, check_topic
from kourou.core.route import Placement, TopicType, parse_endpoint
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

    async def Register(self, messages: AsyncIterator[Any], context: Any) -> AsyncIterator[Any]:
        stream = next(self._streams)
        source = peer_host(context.peer())
        report: BrokerReport | None = None
        try:
            async for message in messages:
                kind = message.WhichOneof("content")
                if kind == "report":
                    report = self._parse(message.report)
                    self._table.registered(report, source=source, stream=stream, now_ms=self._clock.monotonic_ms())
                    self._log.info("broker_registered", broker=report.broker, id=report.broker_id, epoch=report.epoch)
                elif report is None:
                    await context.abort(grpc.StatusCode.FAILED_PRECONDITION, "the first message must be a report")
                else:
                    self._table.heard(report.broker, report.broker_id, stream=stream, now_ms=self._clock.monotonic_ms())
                self._changed()
                yield nameserver_pb2.NameserverMessage(nameserver=self._name, version=self._table.version)
        except (KourouError, ValueError) as failure:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(failure))
        finally:
            self._table.closed(stream, now_ms=self._clock.monotonic_ms())
            self._changed()
            if report is not None:
                self._log.info("broker_stream_ended", broker=report.broker, id=report.broker_id)

    def _parse(self, value: Any) -> BrokerReport:
        """A report, checked: brokers are inside, but a broken one must not spoil the table."""
        if value.cluster != self._table.cluster:
            raise KourouError(f"this nameserver serves cluster {self._table.cluster!r}, not {value.cluster!r}")
        if value.advertised != "auto":
            parse_endpoint(value.advertised)
        topics = tuple(
            TopicDefinition(
                check_topic(topic.name),
                TopicType(topic.type),
                tuple(Placement(check_broker(place.broker), place.queues) for place in topic.placement),
                topic.created_ms,
            )
            for topic in value.topics
        )
        return BrokerReport(
            check_broker(value.broker),
            value.broker_id,
            value.epoch,
            value.master,
            value.advertised,
            value.port,
            value.version,
            topics,
        )


def peer_host(peer: str) -> str | None:
    """The host in grpc's description of a peer: ``ipv4:1.2.3.4:567`` or ``ipv6:%5B::1%5D:567``."""
    kind, _, rest = unquote(peer).partition(":")
    if kind not in ("ipv4", "ipv6"):
        return None
    return rest.rpartition(":")[0].removeprefix("[").removesuffix("]")
