"""The listener of the official API: one port for TLS and plaintext, served by our own engine or by grpcio."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kourou.core.errors import BadRequest
from kourou.http2 import tls
from kourou.http2.call import Service
from kourou.http2.limits import Http2Limits
from kourou.http2.server import Http2Server
from kourou.runtime.grpc_server import Health
from kourou.runtime.health_service import health_service

ENGINES = ("http2", "grpcio")
TLS_MODES = ("permissive", "required", "off")
MESSAGE_BYTES_MAX = 16 * 1024 * 1024


class OfficialApi:
    """``service`` and the standard health service behind one engine."""

    def __init__(
        self,
        service: Service,
        *,
        engine: str,
        tls_mode: str,
        certificate: Path | None,
        key: Path | None,
        connections: int,
        message_bytes_max: int = MESSAGE_BYTES_MAX,
        serving: Callable[[], bool],
        log: Any,
    ) -> None:
        self.health = Health(serving)
        self._service = {**service, **health_service(self.health)}
        self._engine_name = engine
        self._tls_mode = tls_mode
        self._certificate = certificate
        self._key = key
        self._connections = connections
        self._message_bytes_max = message_bytes_max
        self._log = log
        self._server: Any = None
        self._making: asyncio.Task[None] | None = None

    async def listen(self, host: str, port: int) -> int:
        """The port that was bound. Raises OSError; BadRequest when the certificate can't be used."""
        if self._engine_name == "grpcio":
            self._server = self._grpcio()
        else:
            limits = Http2Limits(connections_max=self._connections, message_bytes_max=self._message_bytes_max)
            self._server = Http2Server(
                self._service,
                limits=limits,
                ssl_context=self._own_certificate(),
                plaintext=self._tls_mode != "required",
                on_error=self._failed,
            )
            if self._certificate is None and self._tls_mode != "off":
                self._server.expect_tls()
                self._making = asyncio.get_running_loop().create_task(self._make_certificate())
        bound: int = await self._server.listen(host, port)
        return bound

    def _own_certificate(self) -> ssl.SSLContext | None:
        if self._certificate is None or self._tls_mode == "off":
            return None
        try:
            return tls.own(str(self._certificate), str(self._key))
        except OSError as failure:
            raise BadRequest(f"the certificate {self._certificate} can't be used: {failure}") from None

    async def _make_certificate(self) -> None:
        """In a thread, while plaintext is served already."""
        made = await asyncio.get_running_loop().run_in_executor(None, tls.self_signed)
        self._server.use_tls(made)
        self._log.info("certificate_made", reason="none is configured")

    def _grpcio(self) -> Any:
        from kourou.runtime.grpcio_host import GrpcioHost

        pair = None
        if self._certificate is not None and self._key is not None and self._tls_mode != "off":
            try:
                pair = self._certificate.read_bytes(), self._key.read_bytes()
            except OSError as failure:
                raise BadRequest(f"the certificate {self._certificate} can't be used: {failure}") from None
        return GrpcioHost(self._service, message_bytes_max=self._message_bytes_max, certificate=pair, on_error=self._failed)

    def _failed(self, path: str, failure: BaseException) -> None:
        self._log.error("call_failed", call=path, exc_info=failure)

    async def close(self, *, grace_s: float = 1.0) -> None:
        self.health.changed()
        if self._making is not None:
            self._making.cancel()
        if self._server is not None:
            await self._server.close(grace_s)
