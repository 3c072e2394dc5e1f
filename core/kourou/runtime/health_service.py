"""The standard health service (grpc.health.v1) as a ``Service``, for whichever engine serves the process."""

from __future__ import annotations

from typing import Any, Final

from google.protobuf.message import DecodeError

from kourou.http2.call import Call, GrpcError, Kind, Method, Service, StatusCode, StreamCall
from kourou.proto.v1 import health_pb2
from kourou.runtime.grpc_server import Health

CHECK: Final = "/grpc.health.v1.Health/Check"
WATCH: Final = "/grpc.health.v1.Health/Watch"


def health_service(health: Health) -> Service:
    """Check and Watch as ``health`` answers them: for the whole process (""), other services are unknown."""

    async def check(message: bytes, call: Call) -> bytes:
        request = _request(message)
        if request.service:  # what ``health`` would tell grpc's context, which we haven't
            raise GrpcError(StatusCode.NOT_FOUND, f"no service {request.service[:100]!r} is known here")
        answer = await health.Check(request, None)
        return bytes(answer.SerializeToString())

    async def watch(call: StreamCall) -> None:
        message = await call.receive()
        if message is None:
            raise GrpcError(StatusCode.INVALID_ARGUMENT, "there is no request")
        async for answer in health.Watch(_request(message), None):
            call.send(answer.SerializeToString())
            await call.drain()

    return {CHECK: Method(Kind.UNARY, unary=check), WATCH: Method(Kind.SERVER_STREAM, stream=watch)}


def _request(message: bytes) -> Any:
    try:
        return health_pb2.HealthCheckRequest.FromString(message)
    except DecodeError:
        raise GrpcError(StatusCode.INVALID_ARGUMENT, "the request can't be read") from None
