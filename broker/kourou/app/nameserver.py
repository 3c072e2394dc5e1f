"""The nameserver process: wiring and options."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prometheus_client.core import Metric

from kourou.app.official import OfficialApi
from kourou.app.tunnel import ClusterTunnel
from kourou.client.cluster import Cluster
from kourou.core.errors import BadRequest, KourouError
from kourou.core.names import check_broker
from kourou.core.route import Endpoint
from kourou.core.version import VERSION
from kourou.core.wire import Code, WireMessage
from kourou.gateway.remote import RemoteGateway
from kourou.nameserver.edge.registration import RegistrationService, registration_methods
from kourou.nameserver.edge.routes import RouteHandlers
from kourou.nameserver.table import RouteTable
from kourou.runtime import gc_tame
from kourou.runtime.clock import SystemClock
from kourou.runtime.metrics import Family, Metrics
from kourou.runtime.process import Ready, bound, http_pages, serve
from kourou.runtime.tasks import Periodic
from kourou.transport.server import DataPlaneServer, Peer, ServerIdentity, ServerLimits

TICK_S = 0.25
COLLECT_S = 10.0
CONFLICTS_SHOWN = 100
REPORT_BYTES_MAX = 64 * 1024 * 1024  # a report of a hundred thousand topics


@dataclass(frozen=True, slots=True)
class NameserverOptions:
    host: str = "127.0.0.1"  # there is no authentication yet, so nothing else is bound unless told to
    port: int = 9876  # data plane, for native clients
    grpc_port: int = 9877  # registration of brokers, and the official API: an access point
    grpc_engine: str = "http2"  # our own; or grpcio
    official_routes: str = (
        "auto"  # of the official API; gateway: this nameserver, broker: brokers, auto: by whether there are slaves
    )
    tls: str = "permissive"  # of the official API; permissive: TLS and plaintext, required, off
    tls_certificate: Path | None = None  # PEM, with its chain; none: one is made at start
    tls_key: Path | None = None
    http_port: int = 0  # /metrics, /healthz, /readyz
    cluster: str = "kourou"
    auto_create: bool = False  # tell clients to create missing topics
    max_connections: int = 20_000
    log_level: str = "info"

    def __post_init__(self) -> None:
        check_broker(self.cluster)
        for name in ("port", "grpc_port", "http_port"):
            if not 0 <= getattr(self, name) <= 65_535:
                raise BadRequest(f"option {name} is {getattr(self, name)}; from 0 to 65535 is allowed")
        if not 1 <= self.max_connections <= 1_000_000:
            raise BadRequest(f"option max_connections is {self.max_connections}; from 1 to 1000000 is allowed")
        if self.official_routes not in ("auto", "gateway", "broker"):
            raise BadRequest(f"option official_routes is {self.official_routes!r}; allowed are auto, gateway, broker")
        if self.log_level not in ("debug", "info", "warning", "error"):
            raise BadRequest(f"option log_level is {self.log_level!r}; allowed are debug, info, warning, error")


class NameserverProcess:
    def __init__(self, options: NameserverOptions, *, log: Any) -> None:
        self.stopped = asyncio.Event()
        self.failure: KourouError | None = None
        self._options = options
        self._log = log
        self._clock = SystemClock()
        self._table = RouteTable(cluster=options.cluster, auto_create=options.auto_create)
        self._routes = RouteHandlers(self._table, clock=self._clock)
        self._tasks = Periodic(log, on_bug=self._fail)
        self._serving = False
        self._official: OfficialApi | None = None
        self._tunnel: ClusterTunnel | None = None
        self._server = DataPlaneServer(
            {**self._routes.handlers(), Code.STATUS: self._status},
            identity=ServerIdentity("nameserver", f"nameserver-{options.port}", options.cluster, VERSION),
            log=log,
            bounds=ServerLimits(connections_max=options.max_connections),
        )
        metrics = Metrics()
        metrics.add(self._metrics)
        self._http = http_pages(metrics, serving=lambda: self._serving)

    def _fail(self, reason: str) -> None:
        """Something that can't be lived with: stop, and say so in the exit status."""
        self.failure = self.failure or KourouError(reason)
        self.stopped.set()

    async def start(self) -> dict[str, str]:
        options, host = self._options, self._options.host
        data = await bound("data plane", Endpoint(host, options.port), self._server.listen(host, options.port))
        service = RegistrationService(
            self._table, name=str(data), clock=self._clock, log=self._log, changed=self._routes.push_changes
        )
        self._tunnel = ClusterTunnel(Cluster((_dialled(data),), client_id=f"{data}-gateway"), routes=options.official_routes)
        gateway = RemoteGateway(self._tunnel, clock=self._clock, log=self._log)
        self._tunnel.on_command, self._tunnel.on_back = gateway.command, gateway.broker_back
        self._official = OfficialApi(
            {**registration_methods(service), **gateway.methods()},
            engine=options.grpc_engine,
            tls_mode=options.tls,
            certificate=options.tls_certificate,
            key=options.tls_key,
            connections=options.max_connections,
            message_bytes_max=REPORT_BYTES_MAX,
            serving=lambda: self._serving,
            log=self._log,
        )
        listening = self._official.listen(host, options.grpc_port)
        registration = await bound("gRPC", Endpoint(host, options.grpc_port), listening)
        self._tasks.every(5.0, "clients", gateway.expire)
        self._tasks.every(1.0, "brokers", self._tunnel.keep)
        http = await bound("HTTP", Endpoint(host, options.http_port), self._http.listen(host, options.http_port))
        self._tasks.every(TICK_S, "expire", self._tick)
        self._tasks.every(COLLECT_S, "collect", gc_tame.collect)
        self._serving = True
        return {"data plane": str(data), "gRPC": str(registration), "http": f"http://{http}"}

    def _tick(self) -> None:
        self._table.tick(self._clock.monotonic_ms())
        self._routes.push_changes()

    def status_line(self) -> str:
        views = self._table.brokers(dialled="", now_ms=self._clock.monotonic_ms())
        return f"serves, knows {len(views)} brokers ({sum(view.master for view in views)} masters)"

    async def stop(self) -> None:
        self._serving = False
        await self._tasks.stop()
        await self._server.close()
        if self._official is not None:
            await self._official.close()
        if self._tunnel is not None:
            await self._tunnel.close()
        await self._http.close()

    def _status(self, peer: Peer, message: WireMessage) -> None:
        views = self._table.brokers(dialled=peer.dialled, now_ms=self._clock.monotonic_ms())
        peer.reply_json(
            message,
            {
                "version": VERSION,
                "cluster": self._options.cluster,
                "route_version": self._table.version,
                "topics": self._table.topic_count,
                "topics_in_conflict": sorted(self._table.conflicts)[:CONFLICTS_SHOWN],
                "brokers": len(views),
                "masters": sum(view.master for view in views),
                "connections": len(self._server.peers),
                "watchers": self._routes.watchers,
            },
        )

    def _metrics(self) -> Iterator[Metric]:
        family = Family(cluster=self._options.cluster, node_type="nameserver", node_id=self._server.identity.name)
        views = self._table.brokers(dialled="", now_ms=self._clock.monotonic_ms())
        yield family.gauge("rocketmq_topic_number", "Topics", self._table.topic_count)
        yield family.gauge("rocketmq_active_broker_num", "Brokers that are registered", len(views))
        yield family.gauge("kourou_masters", "Brokers that are masters", sum(view.master for view in views))
        yield family.gauge("kourou_connections", "Connections on the data plane", len(self._server.peers))
        yield family.gauge("kourou_route_version", "Version of the route table", self._table.version)
        yield family.gauge("kourou_route_watchers", "Connections that are told of changes", self._routes.watchers)
        yield family.gauge("kourou_topics_in_conflict", "Topics that brokers define differently", len(self._table.conflicts))


def _dialled(bound_to: Endpoint) -> Endpoint:
    """How this process reaches its own data plane."""
    wildcards = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}  # noqa: S104  not bound, dialled
    return Endpoint(wildcards.get(bound_to.host, bound_to.host), bound_to.port)


async def run(options: NameserverOptions, *, log: Any, ready: Ready) -> None:
    """Serve until SIGTERM or SIGINT."""
    await serve(NameserverProcess(options, log=log), ready=ready, connections=options.max_connections)
