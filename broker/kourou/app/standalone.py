"""The standalone node: a nameserver and one master broker in one process, on one data-plane port."""

from __future__ import annotations

from typing import Any

from kourou.app.options import BrokerOptions
from kourou.app.server import BrokerServer
from kourou.core.version import VERSION
from kourou.nameserver.edge.routes import RouteHandlers
from kourou.nameserver.table import BrokerReport, RouteTable, TopicDefinition
from kourou.runtime.process import Ready, serve
from kourou.transport.server import Handler

STREAM = 1  # the broker registers by calls, not by a stream; it never goes away alone


class Standalone(BrokerServer):
    ROLE = "standalone"

    def __init__(self, options: BrokerOptions, *, log: Any) -> None:
        super().__init__(options, log=log)
        self._table = RouteTable(cluster=options.cluster, auto_create=options.auto_create)
        self._routes = RouteHandlers(self._table, clock=self.node.clock)

    def more_handlers(self) -> dict[int, Handler]:
        return self._routes.handlers()

    async def register(self) -> None:
        self._report()
        self.node.admin.on_topics_changed(self._report)
        self.tasks.every(1.0, "heartbeat", self._heartbeat)

    def _report(self) -> None:
        self._said = report = BrokerReport(
            self.options.name,
            self.options.broker_id,
            self.node.store.epoch,
            True,
            self.options.advertised,
            self.port,
            VERSION,
            tuple(TopicDefinition(t.name, t.type, t.placement, t.created_ms) for t in self.node.state.topics.all()),
            self.official_port,
            self.options.official_advertised,
        )
        self._table.registered(report, source=None, stream=STREAM, now_ms=self.node.clock.monotonic_ms())
        self._routes.push_changes()

    def _heartbeat(self) -> None:
        self._table.heard(self._said, source=None, stream=STREAM, now_ms=self.node.clock.monotonic_ms())
        self._routes.push_changes()


async def run(options: BrokerOptions, *, log: Any, ready: Ready) -> None:
    """Serve until SIGTERM or SIGINT. Raises KourouError when the node can't start or fails."""
    await serve(Standalone(options, log=log), ready=ready, connections=options.max_connections)
