"""The same ``Service`` served by grpcio: the fallback, and the oracle in tests.

It takes one or the other: with a certificate the port speaks TLS alone, without one plaintext alone (grpcio can't tell the
two apart, and a splice in front of it would hide the clients' addresses). Costs 200 to 330 µs of CPU a call.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, NoReturn
from urllib.parse import unquote

import grpc
import grpc.aio

from kourou.http2.call import Call, GrpcError, Kind, Method, Service, StatusCode, StreamCall

OnError = Callable[[str, BaseException], None]
BROKEN: Final = "the server failed to handle the call; its log says why"
CALL_OUTPUT_BYTES: Final = 1024 * 1024  # of one call's unsent messages; ``drain`` waits above it
_CODES: Final = {int(code.value[0]): code for code in grpc.StatusCode}
_OURS: Final = ("grpc-", ":")
_NOT_METADATA: Final = frozenset(("te", "content-type", "content-length", "accept-encoding", "host"))


class GrpcioHost:
    """As ``Http2Server``: ``service``, ``listen``, ``close``. ``certificate``: PEM of chain and key."""

    def __init__(
        self,
        service: Service,
        *,
        message_bytes_max: int = 16 * 1024 * 1024,
        certificate: tuple[bytes, bytes] | None = None,
        on_error: OnError | None = None,
    ) -> None:
        self.calls_started = 0
        self.calls_failed = 0
        self.secure = certificate is not None
        self.local = ""
        self._certificate = certificate
        self._on_error = on_error
        self._server = grpc.aio.server(
            options=(
                ("grpc.max_receive_message_length", message_bytes_max),
                ("grpc.max_send_message_length", -1),
                ("grpc.so_reuseport", 0),
                ("grpc.keepalive_time_ms", 30_000),
                ("grpc.keepalive_timeout_ms", 20_000),
                ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
                ("grpc.http2.max_ping_strikes", 0),
            )
        )
        self._server.add_generic_rpc_handlers((_Generic(self, service),))

    async def listen(self, host: str, port: int) -> int:
        """The port that was bound. Raises OSError."""
        host = host or "[::]"
        address = f"[{host}]:{port}" if ":" in host and not host.startswith("[") else f"{host}:{port}"
        try:
            if self._certificate is None:
                bound = self._server.add_insecure_port(address)
            else:
                chain, key = self._certificate
                bound = self._server.add_secure_port(address, grpc.ssl_server_credentials([(key, chain)]))
        except RuntimeError as failure:
            raise OSError(f"can't listen on {address}: {failure}") from None
        if not bound:
            raise OSError(f"can't listen on {address}")
        self.local = f"{address.rpartition(':')[0]}:{bound}"
        await self._server.start()
        return int(bound)

    async def close(self, grace_s: float) -> None:
        await self._server.stop(grace_s)

    def failed(self, path: str, failure: BaseException) -> None:
        if self._on_error is not None:
            self._on_error(path, failure)


class _Generic(grpc.GenericRpcHandler):
    """Finds the method of a path. No serializers: messages stay bytes."""

    def __init__(self, host: GrpcioHost, service: Service) -> None:
        self._found = {path: _handler(host, path, method) for path, method in service.items()}

    def service(self, handler_call_details: Any) -> Any:
        return self._found.get(handler_call_details.method)


def _handler(host: GrpcioHost, path: str, method: Method) -> Any:
    async def unary(request: bytes, context: Any) -> bytes:
        assert method.unary is not None
        call = _Call(host, path, context)
        with call:
            result = method.unary(request, call)
            if isinstance(result, bytes):
                return result
            # A future may be others' too: a cancelled call must not take it along.
            return await (asyncio.shield(result) if asyncio.isfuture(result) else result)
        return await call.abort()

    async def server_stream(request: bytes, context: Any) -> None:
        await serve(_Stream(host, path, context, request))

    async def bidi_stream(requests: Any, context: Any) -> None:
        await serve(_Stream(host, path, context, None))

    async def serve(call: _Stream) -> None:
        assert method.stream is not None
        with call:
            async with call.writing():
                await method.stream(call)
            return
        await call.abort()

    if method.kind is Kind.UNARY:
        return grpc.unary_unary_rpc_method_handler(unary)
    if method.kind is Kind.SERVER_STREAM:
        return grpc.unary_stream_rpc_method_handler(server_stream)
    return grpc.stream_stream_rpc_method_handler(bidi_stream)


class _Call:
    """``Call`` over grpcio's context. As a context manager it runs the handler: what that raises is kept for ``abort``."""

    def __init__(self, host: GrpcioHost, path: str, context: Any) -> None:
        self._host = host
        self._path = path
        self._context = context
        # Whoever keeps the call may ask when it is over; grpcio's context then points at memory that was given back.
        self._peer = unquote(str(context.peer())).partition(":")[2]
        remaining = context.time_remaining()
        self._ends = None if remaining is None else asyncio.get_running_loop().time() + float(remaining)
        self._received_metadata: tuple[tuple[str, str | bytes], ...] = tuple(context.invocation_metadata() or ())
        self._metadata: dict[str, str] | None = None
        self._callbacks: list[Callable[[], None]] = []
        self._cancelled = False
        self._failure: GrpcError | None = None
        host.calls_started += 1

    @property
    def metadata(self) -> Mapping[str, str]:
        if self._metadata is None:
            found: dict[str, str] = {}
            for name, value in self._received_metadata:
                if isinstance(value, str) and not name.startswith(_OURS) and name not in _NOT_METADATA:
                    found.setdefault(name, value)
            self._metadata = found
        return self._metadata

    @property
    def authority(self) -> str:
        return ""  # grpcio doesn't tell

    @property
    def peer(self) -> str:
        return self._peer

    @property
    def local(self) -> str:
        return self._host.local

    @property
    def secure(self) -> bool:
        return self._host.secure

    def remaining_s(self) -> float | None:
        return None if self._ends is None else max(0.0, self._ends - asyncio.get_running_loop().time())

    def on_cancel(self, callback: Callable[[], None]) -> None:
        if self._cancelled:
            callback()
        else:
            self._callbacks.append(callback)

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, failure: BaseException | None, trace: TracebackType | None) -> bool:
        callbacks, self._callbacks = self._callbacks, []
        if failure is None:
            return False
        self._host.calls_failed += 1
        if isinstance(failure, asyncio.CancelledError):
            self._cancelled = True
            for callback in callbacks:
                callback()
            return False
        if isinstance(failure, GrpcError) and failure.code is not StatusCode.OK:
            self._failure = failure
        elif isinstance(failure, Exception):
            self._host.failed(self._path, failure)
            self._failure = GrpcError(StatusCode.INTERNAL, BROKEN)
        return self._failure is not None

    async def abort(self) -> NoReturn:
        assert self._failure is not None
        await self._context.abort(_CODES[int(self._failure.code)], self._failure.text)
        raise AssertionError("grpcio's abort raises")


class _Stream(_Call):
    """``StreamCall``: grpcio's writes are coroutines, so one task writes what ``send`` has queued."""

    def __init__(self, host: GrpcioHost, path: str, context: Any, request: bytes | None) -> None:
        super().__init__(host, path, context)
        self._request = request
        self._server_stream = request is not None
        self._queue: deque[bytes | None] = deque()  # None: the response headers
        self._queued_bytes = 0
        self._more = asyncio.Event()
        self._less = asyncio.Event()
        self._started = False
        self._ended = False

    async def receive(self) -> bytes | None:
        if self._server_stream:
            request, self._request = self._request, None
            return request
        message = await self._context.read()
        return None if message is grpc.aio.EOF else bytes(message)

    def start(self) -> None:
        if not self._started:
            self._started = True
            self._queue.append(None)
            self._more.set()

    def send(self, message: bytes) -> None:
        if not self._cancelled:
            self._started = True
            self._queue.append(message)
            self._queued_bytes += len(message)
            self._more.set()

    async def drain(self) -> None:
        while self._queued_bytes > CALL_OUTPUT_BYTES and not self._cancelled:
            self._less.clear()
            await self._less.wait()

    @asynccontextmanager
    async def writing(self) -> AsyncIterator[None]:
        """While the handler runs; in the end all that it has sent is written."""
        writer = asyncio.get_running_loop().create_task(self._write())
        try:
            try:
                yield
            except Exception:
                await self._written(writer)  # the status comes after the messages
                raise
            await self._written(writer)
        finally:
            writer.cancel()

    async def _written(self, writer: asyncio.Task[None]) -> None:
        self._ended = True
        self._more.set()
        await writer

    async def _write(self) -> None:
        while True:
            while self._queue:
                message = self._queue.popleft()
                if message is None:
                    await self._context.send_initial_metadata(())
                else:
                    await self._context.write(message)
                    self._queued_bytes -= len(message)
                    self._less.set()
            if self._ended:
                return
            self._more.clear()
            await self._more.wait()


if TYPE_CHECKING:
    _call: type[Call] = _Call
    _stream: type[StreamCall] = _Stream
