"""grpc.testing.TestService, as far as the interop clients of gRPC ask for it, over our engine.

The messages (grpc/testing/messages.proto of gRPC's interop tests) are described here, field by field, rather than generated:
only what the test cases read and write.
"""

from __future__ import annotations

import asyncio
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from kourou.http2.call import Call, GrpcError, Kind, Method, Service, StatusCode, StreamCall

_KINDS = descriptor_pb2.FieldDescriptorProto
_FIELDS: dict[str, dict[str, tuple[int, Any, bool]]] = {  # message -> field -> number, type, repeated
    "Empty": {},
    "Payload": {"body": (2, _KINDS.TYPE_BYTES, False)},
    "EchoStatus": {"code": (1, _KINDS.TYPE_INT32, False), "message": (2, _KINDS.TYPE_STRING, False)},
    "SimpleRequest": {
        "response_size": (2, _KINDS.TYPE_INT32, False),
        "payload": (3, "Payload", False),
        "response_status": (7, "EchoStatus", False),
    },
    "SimpleResponse": {"payload": (1, "Payload", False)},
    "StreamingInputCallRequest": {"payload": (1, "Payload", False)},
    "StreamingInputCallResponse": {"aggregated_payload_size": (1, _KINDS.TYPE_INT32, False)},
    "ResponseParameters": {"size": (1, _KINDS.TYPE_INT32, False), "interval_us": (2, _KINDS.TYPE_INT32, False)},
    "StreamingOutputCallRequest": {
        "response_parameters": (2, "ResponseParameters", True),
        "payload": (3, "Payload", False),
        "response_status": (7, "EchoStatus", False),
    },
    "StreamingOutputCallResponse": {"payload": (1, "Payload", False)},
}


def _messages() -> dict[str, Any]:
    file = descriptor_pb2.FileDescriptorProto(name="interop.proto", package="interop", syntax="proto3")
    for name, fields in _FIELDS.items():
        message = file.message_type.add(name=name)
        for field, (number, kind, repeated) in fields.items():
            label = _KINDS.LABEL_REPEATED if repeated else _KINDS.LABEL_OPTIONAL
            if isinstance(kind, str):
                message.field.add(
                    name=field, number=number, label=label, type=_KINDS.TYPE_MESSAGE, type_name=f".interop.{kind}"
                )
            else:
                message.field.add(name=field, number=number, label=label, type=kind)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"interop.{name}")) for name in _FIELDS}


_CLASSES = _messages()


def _check(request: Any) -> None:
    if request.HasField("response_status") and request.response_status.code:
        raise GrpcError(StatusCode(request.response_status.code), request.response_status.message)


def empty(message: bytes, call: Call) -> bytes:
    return b""


def unary(message: bytes, call: Call) -> bytes:
    request = _CLASSES["SimpleRequest"].FromString(message)
    _check(request)
    response = _CLASSES["SimpleResponse"](payload={"body": bytes(request.response_size)})
    return bytes(response.SerializeToString())


async def streaming_input(call: StreamCall) -> None:
    size = 0
    while (message := await call.receive()) is not None:
        size += len(_CLASSES["StreamingInputCallRequest"].FromString(message).payload.body)
    call.send(_CLASSES["StreamingInputCallResponse"](aggregated_payload_size=size).SerializeToString())


async def streaming_output(call: StreamCall) -> None:
    while (message := await call.receive()) is not None:
        request = _CLASSES["StreamingOutputCallRequest"].FromString(message)
        _check(request)
        for wanted in request.response_parameters:
            if wanted.interval_us:
                await asyncio.sleep(wanted.interval_us / 1e6)
            response = _CLASSES["StreamingOutputCallResponse"](payload={"body": bytes(wanted.size)})
            call.send(response.SerializeToString())
            await call.drain()


_NAME = "/grpc.testing.TestService/"
SERVICE: Service = {
    _NAME + "EmptyCall": Method(Kind.UNARY, unary=empty),
    _NAME + "UnaryCall": Method(Kind.UNARY, unary=unary),
    _NAME + "StreamingInputCall": Method(Kind.BIDI_STREAM, stream=streaming_input),
    _NAME + "StreamingOutputCall": Method(Kind.SERVER_STREAM, stream=streaming_output),
    _NAME + "FullDuplexCall": Method(Kind.BIDI_STREAM, stream=streaming_output),
}
