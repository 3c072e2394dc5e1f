"""A broker of a cluster: registers with every nameserver."""

from __future__ import annotations

import secrets
from typing import Any

from kourou.app.options import BrokerOptions
from kourou.app.server import BrokerServer
from kourou.broker.edge.registration import Registrar
from kourou.client.cluster import Cluster
from kourou.core.errors import BadRequest, NotConnected, NotSupported
from kourou.core.route import Endpoint
from kourou.core.version import VERSION
from kourou.core.views import RouteView
from kourou.proto.v1 import nameserver_pb2
from kourou.runtime.process import Ready, serve


class BrokerProcess(BrokerServer):
    def __init__(self, options: BrokerOptions, *, log: Any) -> None:
        if not options.nameservers:
            raise BadRequest("a broker needs the address of at least one nameserver")
        if options.broker_id != 0:
            raise NotSupported(f"broker_id is {options.broker_id}: slaves come with replication; 0 is the master")
        super().__init__(options, log=log)
        self._cluster: Cluster | None = None
        self._registrar = Registrar(options.nameservers, report=self._report, log=log, on_bug=self.fail)

    async def register(self) -> None:
        self.node.messaging.routes_from(self._route)
        self.node.admin.on_topics_changed(self._registrar.changed)
        self._registrar.start()

    async def unregister(self) -> None:
        await self._registrar.close()
        if self._cluster is not None:
            await self._cluster.close()

    async def _route(self, topic: str) -> RouteView:
        """A topic's route over the whole cluster, as a nameserver knows it."""
        if self._cluster is None:
            servers = self._registrar.data_planes()
            if not servers:
                raise NotConnected("no nameserver has answered yet")
            self._cluster = Cluster(servers, client_id=f"broker-{self.options.name}-{secrets.token_hex(4)}")
        route = await self._cluster.route(topic)
        endpoints: dict[str, Endpoint | None] = {}
        for broker in route.brokers:
            if broker.broker == self.options.name:
                endpoints[broker.broker] = None  # where the asker has reached us
            elif broker.official is not None:
                endpoints[broker.broker] = broker.official
        return RouteView(route, endpoints)

    def _report(self) -> Any:
        return nameserver_pb2.BrokerReport(
            cluster=self.options.cluster,
            broker=self.options.name,
            broker_id=self.options.broker_id,
            epoch=self.node.store.epoch,
            master=True,
            advertised=self.options.advertised,
            port=self.port,
            version=VERSION,
            official_port=self.official_port,
            official_advertised=self.options.official_advertised,
            topics=[
                nameserver_pb2.TopicDefinition(
                    name=topic.name,
                    type=topic.type.value,
                    placement=[
                        nameserver_pb2.Placement(broker=place.broker, queues=place.queues) for place in topic.placement
                    ],
                    created_ms=topic.created_ms,
                )
                for topic in self.node.state.topics.all()
            ],
        )


async def run(options: BrokerOptions, *, log: Any, ready: Ready) -> None:
    """Serve until SIGTERM or SIGINT. Raises KourouError when the broker can't start or fails."""
    await serve(BrokerProcess(options, log=log), ready=ready, connections=options.max_connections)
