"""A broker of a cluster: registers with every nameserver."""

from __future__ import annotations

from typing import Any

from kourou.app.options import BrokerOptions
from kourou.app.server import BrokerServer
from kourou.broker.edge.registration import Registrar
from kourou.core.errors import BadRequest, NotSupported
from kourou.core.version import VERSION
from kourou.proto.v1 import nameserver_pb2
from kourou.runtime.process import Ready, serve


class BrokerProcess(BrokerServer):
    def __init__(self, options: BrokerOptions, *, log: Any) -> None:
        if not options.nameservers:
            raise BadRequest("a broker needs the address of at least one nameserver")
        if options.broker_id != 0:
            raise NotSupported(f"broker_id is {options.broker_id}: slaves come with replication; 0 is the master")
        super().__init__(options, log=log)
        self._registrar = Registrar(options.nameservers, report=self._report, log=log, on_bug=self.fail)

    async def register(self) -> None:
        self.node.admin.on_topics_changed(self._registrar.changed)
        self._registrar.start()

    async def unregister(self) -> None:
        await self._registrar.close()

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
