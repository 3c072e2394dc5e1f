"""What a standalone node and a broker of a cluster share: a ``BrokerNode`` with its listeners and periodic jobs."""

from __future__ import annotations

import asyncio
from typing import Any

from kourou.app.node import BrokerNode
from kourou.app.official import OfficialApi
from kourou.app.options import BrokerOptions
from kourou.app.tunnel import TunnelHandlers
from kourou.core.route import Endpoint
from kourou.core.version import VERSION
from kourou.runtime import gc_tame
from kourou.runtime.process import bound, http_pages
from kourou.runtime.tasks import Periodic
from kourou.transport.server import DataPlaneServer, Handler, ServerIdentity, ServerLimits


class BrokerServer:
    """Subclasses say who they are and how they register."""

    ROLE = "broker"

    def __init__(self, options: BrokerOptions, *, log: Any) -> None:
        self.options = options
        self.log = log
        self.stopped = asyncio.Event()
        self.failure: str | None = None
        self.node = BrokerNode(options, log=log, on_failure=self.fail)
        self.tasks = Periodic(log, on_bug=self.fail)
        self.port = self.official_port = 0
        self._serving = False
        self._official: OfficialApi | None = None
        self._http = http_pages(self.node.metrics, serving=lambda: self._serving)
        self._server: DataPlaneServer | None = None

    def fail(self, reason: str) -> None:
        """Something that can't be lived with: stop, and say so in the exit status."""
        self.log.error("node_failed", reason=reason)
        self.failure = self.failure or reason
        self.stopped.set()

    def more_handlers(self) -> dict[int, Handler]:
        """Served beside the broker's own."""
        return {}

    async def register(self) -> None:
        """The listeners are up: tell the nameservers."""
        raise NotImplementedError

    async def unregister(self) -> None:
        """The node is about to stop."""

    async def start(self) -> dict[str, str]:
        options, node = self.options, self.node
        node.open()
        self._server = DataPlaneServer(
            {**node.handlers(), **TunnelHandlers(node.gateway).table(), **self.more_handlers()},
            identity=ServerIdentity(self.ROLE, options.name, options.cluster, VERSION),
            log=self.log,
            bounds=ServerLimits(connections_max=options.max_connections),
        )
        node.watch(self._server)
        host = options.host
        data = await bound("data plane", Endpoint(host, options.port), self._server.listen(host, options.port))
        self.port = data.port
        self._official = OfficialApi(
            {**node.gateway.methods(), **node.official_admin.methods()},
            engine=options.grpc_engine,
            tls_mode=options.tls,
            certificate=options.tls_certificate,
            key=options.tls_key,
            connections=options.max_connections,
            serving=lambda: self._serving,
            log=self.log,
        )
        official = await bound("gRPC", Endpoint(host, options.grpc_port), self._official.listen(host, options.grpc_port))
        self.official_port = official.port
        http = await bound("HTTP", Endpoint(host, options.http_port), self._http.listen(host, options.http_port))
        node.keep_house(self.tasks)
        self.tasks.every(10.0, "collect", gc_tame.collect)
        await self.register()
        self._serving = True
        return {"data plane": str(data), "official gRPC": str(official), "http": f"http://{http}"}

    async def stop(self) -> None:
        """Finish what is under way, make it durable, close."""
        self._serving = False
        await self.unregister()
        if self._server is not None:
            await self._server.close()
        if self._official is not None:
            await self._official.close()
        await self._http.close()
        await self.tasks.stop()
        await self.node.close()
