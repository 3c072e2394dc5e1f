"""The standalone node: a nameserver and one master broker in one process, on one data-plane port."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from typing import Any

from kourou.app.limits import raise_file_limit
from kourou.app.node import BrokerNode
from kourou.app.options import BrokerOptions
from kourou.core.errors import BadRequest, KourouError
from kourou.core.route import Endpoint
from kourou.core.version import VERSION
from kourou.nameserver.edge.routes import RouteHandlers
from kourou.nameserver.table import BrokerReport, RouteTable, TopicDefinition
from kourou.runtime import gc_tame
from kourou.runtime.http import HttpServer, text_page
from kourou.runtime.tasks import Periodic
from kourou.transport.server import DataPlaneServer, ServerIdentity, ServerLimits

Ready = Callable[[dict[str, str]], None]


class Standalone:
    """Wires a ``BrokerNode`` and a ``RouteTable`` together in place of a registration stream."""

    def __init__(self, options: BrokerOptions, *, log: Any) -> None:
        self.options = options
        self._log = log
        self.stopped = asyncio.Event()
        self.failure: str | None = None
        self.node = BrokerNode(options, log=log, on_failure=self.fail)
        self._table = RouteTable(cluster=options.cluster, auto_create=options.auto_create)
        self._tasks = Periodic(log, on_bug=self.fail)
        self._serving = False

    def fail(self, reason: str) -> None:
        """Something that can't be lived with: stop, and say so in the exit status."""
        self._log.error("node_failed", reason=reason)
        self.failure = reason
        self.stopped.set()

    async def start(self) -> dict[str, str]:
        """Open, bind, serve; the addresses by name."""
        options, node = self.options, self.node
        node.open()
        self._routes = RouteHandlers(self._table, clock=node.clock)
        handlers = {**node.handlers(), **self._routes.table()}
        self.server = DataPlaneServer(
            handlers,
            identity=ServerIdentity("standalone", options.name, options.cluster, VERSION),
            log=self._log,
            bounds=ServerLimits(connections_max=options.max_connections),
        )
        self._port = await _bound("data plane", options.port, self.server.listen(options.host, options.port))
        self._http = HttpServer(
            {
                "/metrics": lambda: (200, "text/plain; version=0.0.4; charset=utf-8", node.metrics.render()),
                "/healthz": lambda: text_page(200, "ok"),
                "/readyz": lambda: text_page(200, "ready") if self._serving else text_page(503, "not ready"),
            }
        )
        http_port = await _bound("HTTP", options.http_port, self._http.listen(options.host, options.http_port))
        self._register()
        node.admin.on_topics_changed(self._register)
        node.keep_house(self._tasks)
        self._tasks.every(1.0, "register", self._heartbeat)
        self._tasks.every(10.0, "collect", gc_tame.collect)
        self._serving = True
        return {
            "data plane": str(Endpoint(options.host, self._port)),
            "http": f"http://{Endpoint(options.host, http_port)}",
        }

    def _register(self) -> None:
        state = self.node.state
        report = BrokerReport(
            self.options.name,
            self.options.broker_id,
            self.node.store.epoch,
            True,
            self.options.advertised,
            self._port,
            VERSION,
            tuple(TopicDefinition(t.name, t.type, t.placement, t.created_ms) for t in state.topics.all()),
        )
        self._table.registered(report, source=None, stream=1, now_ms=self.node.clock.monotonic_ms())
        self._routes.push_changes()

    def _heartbeat(self) -> None:
        now_ms = self.node.clock.monotonic_ms()
        self._table.heard(self.options.name, self.options.broker_id, stream=1, now_ms=now_ms)
        self._routes.push_changes()

    async def stop(self) -> None:
        """Finish what is under way, make it durable, close."""
        self._serving = False
        if hasattr(self, "server"):
            await self.server.close()
        if hasattr(self, "_http"):
            await self._http.close()
        await self._tasks.stop()
        await self.node.close()


async def _bound(what: str, port: int, listening: Any) -> int:
    try:
        bound: int = await listening
    except OSError as failure:
        raise BadRequest(f"can't listen on port {port} ({what}): {failure.strerror or failure}") from None
    return bound


async def run(options: BrokerOptions, *, log: Any, ready: Ready) -> None:
    """Serve until SIGTERM or SIGINT. ``ready`` gets the addresses. Raises KourouError when the node can't start or fails."""
    raise_file_limit(options.max_connections)
    node = Standalone(options, log=log)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, node.stopped.set)
    try:
        addresses = await node.start()
        gc_tame.tame()
        ready(addresses)
        await node.stopped.wait()
    finally:
        await node.stop()
    if node.failure is not None:
        raise KourouError(node.failure)
