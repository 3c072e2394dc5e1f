"""etcd over grpc.aio: endpoints in turn, a deadline for every call, TLS, user and password.

A transaction is tried once: whoever asked for it decides what a lost answer means. Reads and log-ins are repeated, on
one endpoint after the other. Nothing here trusts an etcd lease: ``hint`` uses them for keys that merely inform.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import tenacity

from kourou.broker.services.election.coordination import Outcome, Picture, Put, Txn, Value
from kourou.core.errors import BadRequest, NotConnected, OutcomeUnknown
from kourou.core.route import Endpoint
from kourou.proto.etcd.v1 import etcd_pb2, etcd_pb2_grpc

CALL_S = 0.4
READ_TRIES = 3
WATCH_OPEN_S = 2.0
KEYS_MAX = 10_000  # below a prefix
CHANNEL_OPTIONS = (
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.min_reconnect_backoff_ms", 50),
    ("grpc.max_reconnect_backoff_ms", 200),
    ("grpc.keepalive_time_ms", 5_000),
    ("grpc.keepalive_timeout_ms", 2_000),
)


@dataclass(frozen=True, slots=True)
class EtcdAccess:
    """Where etcd is and who we are there. The password is read from a file, and never shown."""

    endpoints: tuple[Endpoint, ...]
    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None
    user: str | None = None
    password_file: Path | None = None

    def __post_init__(self) -> None:
        if not self.endpoints:
            raise BadRequest("etcd needs at least one endpoint")
        if (self.certificate is None) != (self.key is None):
            raise BadRequest("options etcd_certificate and etcd_key belong together")
        if self.certificate is not None and self.ca is None:
            raise BadRequest("option etcd_certificate needs etcd_ca")
        if (self.user is None) != (self.password_file is None):
            raise BadRequest("options etcd_user and etcd_password_file belong together")

    def credentials(self) -> grpc.ChannelCredentials | None:
        """None: no TLS. Raises BadRequest when a file can't be read."""
        if self.ca is None:
            return None
        return grpc.ssl_channel_credentials(_file(self.ca), _file(self.key), _file(self.certificate))

    def password(self) -> str:
        """Read anew for each log-in. Raises BadRequest."""
        try:
            return (_file(self.password_file) or b"").decode().rstrip("\r\n")
        except UnicodeDecodeError:
            raise BadRequest(f"{self.password_file} is not UTF-8") from None

    def check(self) -> None:
        """Can the files be used, as far as can be known without etcd? Raises BadRequest."""
        self.password()
        if self.ca is None:
            return
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        path: Path = self.ca
        try:
            context.load_verify_locations(path)
            if self.certificate is not None:
                path = self.certificate
                context.load_cert_chain(path, self.key, "")  # with no password at all, it would ask the terminal
        except OSError as failure:
            raise BadRequest(f"the certificate {path} can't be used: {failure}") from None


def _file(path: Path | None) -> bytes | None:
    try:
        return None if path is None else path.read_bytes()
    except OSError as failure:
        raise BadRequest(f"{path} can't be read: {failure.strerror}") from None


class Etcd:
    """Made inside the running loop. ``Coordination`` of services.election."""

    def __init__(self, access: EtcdAccess, *, call_s: float = CALL_S) -> None:
        self._access = access
        self._call_s = call_s
        credentials = access.credentials()
        self._channels = [_channel(endpoint, credentials) for endpoint in access.endpoints]
        self._at = 0
        self._token: str | None = None
        self._lease = 0  # of hints

    async def close(self) -> None:
        for channel in self._channels:
            await channel.close()

    # ---- Coordination

    async def transact(self, txn: Txn) -> Outcome:
        request = etcd_pb2.TxnRequest(
            compare=[
                etcd_pb2.Compare(
                    result=etcd_pb2.Compare.EQUAL, target=etcd_pb2.Compare.MOD, key=key.encode(), mod_revision=mod
                )
                for key, mod in txn.compare
            ],
            success=[_write(write) for write in txn.writes],
            failure=[etcd_pb2.RequestOp(request_range=etcd_pb2.RangeRequest(key=key.encode())) for key in txn.otherwise],
        )
        try:
            answer = await self._call(etcd_pb2_grpc.KVStub, "Txn", request)
        except NotConnected as failure:
            raise OutcomeUnknown(f"etcd did not answer a transaction: {failure}") from None
        values: tuple[Value, ...] = ()
        if not answer.succeeded:
            found = zip(txn.otherwise, answer.responses, strict=True)
            values = tuple(_only(key, response.response_range.kvs) for key, response in found)
        return Outcome(answer.succeeded, answer.header.revision, values)

    async def read(self, prefix: str, *, tries: int = READ_TRIES) -> Picture:
        key, end = _range(prefix)
        request = etcd_pb2.RangeRequest(key=key, range_end=end, limit=KEYS_MAX)
        answer = await self._repeated(lambda: self._call(etcd_pb2_grpc.KVStub, "Range", request), tries)
        return Picture(answer.header.revision, tuple(_value(kv) for kv in answer.kvs))

    async def watch(self, prefix: str, *, revision: int) -> AsyncIterator[tuple[Value, ...]]:
        key, end = _range(prefix)
        wanted = etcd_pb2.WatchCreateRequest(key=key, range_end=end, start_revision=revision)
        channel = self._channels[self._at]
        stub: Any = etcd_pb2_grpc.WatchStub(channel)
        call = stub.Watch(metadata=await self._metadata())
        try:
            async with asyncio.timeout(WATCH_OPEN_S):
                await call.write(etcd_pb2.WatchRequest(create_request=wanted))
                answer = await call.read()
            while answer is not grpc.aio.EOF:
                if answer.canceled:
                    raise NotConnected(f"etcd ended the watch: {answer.cancel_reason or 'compacted'}")
                yield tuple(_changed(event) for event in answer.events)
                answer = await call.read()
            raise NotConnected("etcd ended the watch")
        except TimeoutError:
            self._turn()
            raise NotConnected(f"etcd did not begin a watch within {WATCH_OPEN_S:g} s") from None
        except grpc.aio.AioRpcError as failure:
            self._turn()
            raise NotConnected(_text(failure)) from None
        finally:
            call.cancel()

    async def hint(self, key: str, value: bytes, *, seconds: int) -> None:
        if self._lease == 0:
            answer = await self._call(etcd_pb2_grpc.LeaseStub, "LeaseGrant", etcd_pb2.LeaseGrantRequest(TTL=seconds))
            self._lease = answer.ID
        else:
            await self._keep_lease()
        request = etcd_pb2.PutRequest(key=key.encode(), value=value, lease=self._lease)
        try:
            await self._call(etcd_pb2_grpc.KVStub, "Put", request)
        except NotConnected:
            self._lease = 0  # it may be gone
            raise

    async def _keep_lease(self) -> None:
        stub: Any = etcd_pb2_grpc.LeaseStub(self._channels[self._at])
        call = stub.LeaseKeepAlive(metadata=await self._metadata(), timeout=self._call_s)
        try:
            await call.write(etcd_pb2.LeaseKeepAliveRequest(ID=self._lease))
            answer = await call.read()
            if answer is grpc.aio.EOF or answer.TTL <= 0:
                self._lease = 0
                raise NotConnected("the etcd lease of hints has ended")
        except grpc.aio.AioRpcError as failure:
            self._lease = 0
            self._failed(failure)
            raise NotConnected(_text(failure)) from None
        finally:
            call.cancel()

    async def status(self) -> str:
        """The version of the etcd member that answers. Raises NotConnected."""
        request = etcd_pb2.StatusRequest()
        answer = await self._repeated(lambda: self._call(etcd_pb2_grpc.MaintenanceStub, "Status", request))
        version: str = answer.version
        return version

    # ---- calls

    async def _repeated(self, call: Callable[[], Awaitable[Any]], tries: int = READ_TRIES) -> Any:
        attempts = tenacity.AsyncRetrying(
            stop=tenacity.stop_after_attempt(tries),
            wait=tenacity.wait_random_exponential(multiplier=0.02, max=0.2),
            retry=tenacity.retry_if_exception_type(NotConnected),
            reraise=True,
        )
        async for attempt in attempts:
            with attempt:
                return await call()
        raise AssertionError("the last attempt raises")

    async def _call(self, stubs: Callable[[Any], Any], method: str, request: Any) -> Any:
        """One attempt, on the endpoint that answered last. Raises NotConnected; the next attempt asks another one then."""
        metadata = await self._metadata()
        stub = stubs(self._channels[self._at])
        try:
            return await getattr(stub, method)(request, timeout=self._call_s, metadata=metadata)
        except grpc.aio.AioRpcError as failure:
            self._failed(failure)
            raise NotConnected(_text(failure)) from None

    async def _metadata(self) -> tuple[tuple[str, str], ...]:
        if self._access.user is None:
            return ()
        if self._token is None:
            try:
                request = etcd_pb2.AuthenticateRequest(name=self._access.user, password=self._access.password())
            except BadRequest as failure:
                raise NotConnected(str(failure)) from None  # it was there at the start, and may be there again
            stub: Any = etcd_pb2_grpc.AuthStub(self._channels[self._at])
            try:
                answer = await stub.Authenticate(request, timeout=max(1.0, self._call_s))  # bcrypt takes its time
            except grpc.aio.AioRpcError as failure:
                self._failed(failure)
                raise NotConnected(f"etcd user {self._access.user}: {_text(failure)}") from None
            self._token = answer.token
        return (("token", self._token or ""),)

    def _failed(self, failure: grpc.aio.AioRpcError) -> None:
        if failure.code() in (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.INVALID_ARGUMENT):
            self._token = None  # they expire
        self._turn()

    def _turn(self) -> None:
        self._at = (self._at + 1) % len(self._channels)


def _channel(endpoint: Endpoint, credentials: grpc.ChannelCredentials | None) -> grpc.aio.Channel:
    if credentials is None:
        return grpc.aio.insecure_channel(str(endpoint), options=CHANNEL_OPTIONS)
    return grpc.aio.secure_channel(str(endpoint), credentials, options=CHANNEL_OPTIONS)


def _text(failure: grpc.aio.AioRpcError) -> str:
    return f"{failure.code().name}: {failure.details()}"


def _range(prefix: str) -> tuple[bytes, bytes]:
    """etcd's way to say "all that begin so": up to the prefix with its last byte raised. Ours end with "/"."""
    key = prefix.encode()
    return key, key[:-1] + bytes([key[-1] + 1])


def _write(write: Any) -> etcd_pb2.RequestOp:
    if isinstance(write, Put):
        request = etcd_pb2.PutRequest(key=write.key.encode(), value=write.value, lease=write.lease)
        return etcd_pb2.RequestOp(request_put=request)
    return etcd_pb2.RequestOp(request_delete_range=etcd_pb2.DeleteRangeRequest(key=write.key.encode()))


def _value(kv: Any) -> Value:
    return Value(kv.key.decode(errors="replace"), kv.value, kv.mod_revision)


def _only(key: str, kvs: Any) -> Value:
    return _value(kvs[0]) if kvs else Value(key, None, 0)


def _changed(event: Any) -> Value:
    gone = event.type == event.DELETE
    return Value(event.kv.key.decode(errors="replace"), None if gone else event.kv.value, event.kv.mod_revision)
