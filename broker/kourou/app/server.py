"""What a standalone node and a broker of a cluster share: a ``BrokerNode`` with its listeners and periodic jobs."""

from __future__ import annotations

import asyncio
from typing import Any

from kourou.app import preflight
from kourou.app.node import BrokerNode
from kourou.app.official import OfficialApi
from kourou.app.options import BrokerOptions
from kourou.app.tunnel import TunnelHandlers
from kourou.core.errors import FlushFailed, KourouError
from kourou.core.route import Endpoint
from kourou.core.version import VERSION
from kourou.http2.call import Service
from kourou.runtime import gc_tame
from kourou.runtime.metrics import Metrics
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
        self.failure: KourouError | None = None
        self.node = self.make_node()
        self.tasks = Periodic(log, on_bug=self.fail)
        self.port = self.official_port = 0
        self._serving = False
        self._official: OfficialApi | None = None
        self._http = http_pages(_PresentMetrics(self), serving=self.is_ready)
        self._server: DataPlaneServer | None = None

    def make_node(self) -> BrokerNode:
        return BrokerNode(self.options, log=self.log, on_failure=self.disk_failed)

    def fail(self, reason: str) -> None:
        """Something that can't be lived with: stop, and say so in the exit status."""
        self._fail(KourouError(reason))

    def disk_failed(self, reason: str) -> None:
        """The same, of a disk: there is no sense in starting again on it."""
        self._fail(FlushFailed(reason))

    def _fail(self, failure: KourouError) -> None:
        self.log.error("node_failed", reason=str(failure))
        self.failure = self.failure or failure
        self.stopped.set()

    def is_ready(self) -> bool:
        """May it be sent work?"""
        return self._serving

    def more_handlers(self) -> dict[int, Handler]:
        """Served beside the broker's own."""
        return {}

    async def register(self) -> None:
        """The listeners are up: tell the nameservers."""
        raise NotImplementedError

    async def unregister(self) -> None:
        """The node is about to stop."""

    async def check(self) -> None:
        """What can be found out before the store is opened. Raises BadRequest."""
        await preflight.check(self.options)

    async def start(self) -> dict[str, str]:
        await self.check()
        self.node.open()
        data = await self.listen(self.node_handlers())
        official = await self.listen_official()
        http = await self.listen_http()
        self.keep_house()
        await self.register()
        self._serving = True
        return {"data plane": str(data), "official gRPC": str(official), "http": f"http://{http}"}

    def node_handlers(self) -> dict[int, Handler]:
        node = self.node
        return {
            **node.handlers(),
            **TunnelHandlers(node.gateway, check_open=node.journal.check_open).table(),
            **self.more_handlers(),
        }

    async def listen(self, handlers: dict[int, Handler]) -> Endpoint:
        options = self.options
        self._server = DataPlaneServer(
            handlers,
            identity=ServerIdentity(self.ROLE, options.name, options.cluster, VERSION),
            log=self.log,
            bounds=ServerLimits(connections_max=options.max_connections),
        )
        self.node.watch(self._server)
        endpoint = Endpoint(options.host, options.port)
        data = await bound("data plane", endpoint, self._server.listen(endpoint.host, endpoint.port))
        self.port = data.port
        return data

    def official_methods(self) -> Service:
        return {**self.node.gateway.methods(), **self.node.official_admin.methods()}

    async def listen_official(self) -> Endpoint:
        options = self.options
        self._official = OfficialApi(
            self.official_methods(),
            engine=options.grpc_engine,
            tls_mode=options.tls,
            certificate=options.tls_certificate,
            key=options.tls_key,
            connections=options.max_connections,
            serving=self.is_ready,
            log=self.log,
        )
        endpoint = Endpoint(options.host, self.official_port or options.grpc_port)
        official = await bound("gRPC", endpoint, self._official.listen(endpoint.host, endpoint.port))
        self.official_port = official.port
        return official

    async def listen_http(self) -> Endpoint:
        endpoint = Endpoint(self.options.host, self.options.http_port)
        return await bound("HTTP", endpoint, self._http.listen(endpoint.host, endpoint.port))

    def keep_house(self) -> None:
        self.node.keep_house(self.tasks)
        self.tasks.every(10.0, "collect", gc_tame.collect)

    def status_line(self) -> str:
        return f"{self.options.name} serves, epoch {self.node.store.epoch}"

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


class _PresentMetrics(Metrics):
    """Those of the node that is there when somebody asks."""

    def __init__(self, server: BrokerServer) -> None:
        self._of = server

    def render(self) -> bytes:
        return self._of.node.metrics.render()
