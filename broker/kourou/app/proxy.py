"""The proxy: the official API in front of a whole cluster, for clients that reach one address only. No state."""

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
from kourou.core.route import Endpoint
from kourou.gateway.remote import RemoteGateway
from kourou.runtime import gc_tame
from kourou.runtime.clock import SystemClock
from kourou.runtime.metrics import Family, Metrics
from kourou.runtime.process import Ready, bound, http_pages, serve
from kourou.runtime.tasks import Periodic


@dataclass(frozen=True, slots=True)
class ProxyOptions:
    host: str = "127.0.0.1"  # there is no authentication yet, so nothing else is bound unless told to
    grpc_port: int = 8081  # official API; TLS and plaintext on the same port
    http_port: int = 8088  # /metrics, /healthz, /readyz
    nameservers: tuple[Endpoint, ...] = ()  # their data-plane addresses
    grpc_engine: str = "http2"  # our own; or grpcio
    tls: str = "permissive"  # permissive: TLS and plaintext, required, off
    tls_certificate: Path | None = None  # PEM, with its chain; none: one is made at start
    tls_key: Path | None = None
    max_connections: int = 20_000
    log_level: str = "info"

    def __post_init__(self) -> None:
        for name in ("grpc_port", "http_port"):
            if not 0 <= getattr(self, name) <= 65_535:
                raise BadRequest(f"option {name} is {getattr(self, name)}; from 0 to 65535 is allowed")
        if not 1 <= self.max_connections <= 1_000_000:
            raise BadRequest(f"option max_connections is {self.max_connections}; from 1 to 1000000 is allowed")
        for name, allowed in _CHOICES.items():
            if getattr(self, name) not in allowed:
                raise BadRequest(f"option {name} is {getattr(self, name)!r}; allowed are {', '.join(allowed)}")
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise BadRequest("options tls_certificate and tls_key belong together")


_CHOICES = {
    "grpc_engine": ("http2", "grpcio"),
    "tls": ("permissive", "required", "off"),
    "log_level": ("debug", "info", "warning", "error"),
}


class ProxyProcess:
    def __init__(self, options: ProxyOptions, *, log: Any) -> None:
        self.stopped = asyncio.Event()
        self.failure: KourouError | None = None
        self._options = options
        self._log = log
        self._serving = False
        self._tasks = Periodic(log, on_bug=self._fail)
        self._tunnel: ClusterTunnel | None = None
        self._official: OfficialApi | None = None
        self._gateway: RemoteGateway | None = None
        metrics = Metrics()
        metrics.add(self._metrics)
        self._http = http_pages(metrics, serving=lambda: self._serving and self._reaches_brokers())

    def _fail(self, reason: str) -> None:
        self.failure = self.failure or KourouError(reason)
        self.stopped.set()

    def _reaches_brokers(self) -> bool:
        return self._tunnel is not None and bool(self._tunnel.brokers())

    async def start(self) -> dict[str, str]:
        options, host = self._options, self._options.host
        self._tunnel = ClusterTunnel(Cluster(options.nameservers), routes="gateway")
        self._gateway = gateway = RemoteGateway(self._tunnel, clock=SystemClock(), log=self._log)
        self._tunnel.on_command, self._tunnel.on_back = gateway.command, gateway.broker_back
        self._official = OfficialApi(
            gateway.methods(),
            engine=options.grpc_engine,
            tls_mode=options.tls,
            certificate=options.tls_certificate,
            key=options.tls_key,
            connections=options.max_connections,
            serving=lambda: self._serving,
            log=self._log,
        )
        official = await bound("gRPC", Endpoint(host, options.grpc_port), self._official.listen(host, options.grpc_port))
        http = await bound("HTTP", Endpoint(host, options.http_port), self._http.listen(host, options.http_port))
        self._tasks.every(5.0, "clients", gateway.expire)
        self._tasks.every(1.0, "brokers", self._tunnel.keep)
        self._tasks.every(10.0, "collect", gc_tame.collect)
        self._serving = True
        return {"official gRPC": str(official), "http": f"http://{http}"}

    def status_line(self) -> str:
        return "serves" if self._reaches_brokers() else "waits for a broker"

    async def stop(self) -> None:
        self._serving = False
        await self._tasks.stop()
        if self._official is not None:
            await self._official.close()
        if self._tunnel is not None:
            await self._tunnel.close()
        await self._http.close()

    def _metrics(self) -> Iterator[Metric]:
        family = Family(cluster="", node_type="proxy", node_id=f"proxy-{self._options.grpc_port}")
        yield family.gauge("rocketmq_proxy_up", "Whether the proxy reaches a broker", int(self._reaches_brokers()))
        clients = len(self._gateway.clients) if self._gateway is not None else 0
        yield family.gauge("kourou_official_clients", "Clients of the official API", clients)


async def run(options: ProxyOptions, *, log: Any, ready: Ready) -> None:
    """Serve until SIGTERM or SIGINT."""
    await serve(ProxyProcess(options, log=log), ready=ready, connections=options.max_connections)
