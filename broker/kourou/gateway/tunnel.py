"""A call of the official API on its way between a gateway at a distance and the broker that answers it.

It travels on the data plane (docs/protocol.md, OFFICIAL_CALL): the request as it came, with what a handler may want to
know of the caller. Integers are big-endian.

    request   header: JSON ``{"method", "metadata", "authority", "peer", "local", "secure", "left_ms"}``; body: the request
    answer    header: u16 gRPC status, u16 zero, u32 count; body: a u32 size for each message, the messages;
              with a status other than 0: its text
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from struct import Struct
from typing import Any

from kourou.core import fields
from kourou.core.errors import BadRequest
from kourou.http2.call import Call, GrpcError, StatusCode

ANSWER = Struct(">HHI")
_SIZE = Struct(">I")
METADATA_KEPT = ("x-mq-", "authorization")
OUTPUT_BYTES_MAX = 16 * 1024 * 1024 - 64 * 1024


@dataclass(frozen=True, slots=True)
class CallInfo:
    """What a handler may ask a call for."""

    metadata: Mapping[str, str]
    authority: str
    peer: str
    local: str
    secure: bool
    left_ms: int | None

    @staticmethod
    def of(call: Call) -> CallInfo:
        left_s = call.remaining_s()
        kept = {name: value for name, value in call.metadata.items() if name.startswith(METADATA_KEPT)}
        return CallInfo(
            kept, call.authority, call.peer, call.local, call.secure, int(left_s * 1000) if left_s is not None else None
        )

    def encode(self, method: str) -> bytes:
        value = {
            "method": method,
            "metadata": dict(self.metadata),
            "authority": self.authority,
            "peer": self.peer,
            "local": self.local,
            "secure": self.secure,
            "left_ms": self.left_ms,
        }
        return json.dumps(value, separators=(",", ":")).encode()


def decode_info(header: bytes) -> tuple[str, CallInfo]:
    """(method, what is known of the caller). Raises BadRequest."""
    try:
        value = json.loads(header)
    except (ValueError, RecursionError):
        raise BadRequest("OFFICIAL_CALL has a header that is not JSON") from None
    if not isinstance(value, dict):
        raise BadRequest("OFFICIAL_CALL has a header that is no object")
    metadata = value.get("metadata")
    if not isinstance(metadata, dict) or not all(isinstance(item, str) for item in metadata.values()):
        raise BadRequest("field 'metadata' must be an object of strings")
    return fields.text(value, "method"), CallInfo(
        metadata,
        fields.text(value, "authority", ""),
        fields.text(value, "peer", ""),
        fields.text(value, "local", ""),
        fields.flag(value, "secure", False),
        fields.optional_number(value, "left_ms"),
    )


def encode_answer(messages: list[bytes]) -> tuple[bytes, list[bytes]]:
    """(header, parts)."""
    sizes = b"".join(_SIZE.pack(len(message)) for message in messages)
    return ANSWER.pack(0, 0, len(messages)), [sizes, *messages]


def encode_failure(failure: GrpcError) -> tuple[bytes, list[bytes]]:
    return ANSWER.pack(failure.code, 0, 0), [failure.text.encode()]


def decode_answer(header: memoryview, body: memoryview) -> list[bytes]:
    """The messages. Raises GrpcError as the broker did, or BadRequest."""
    if len(header) != ANSWER.size:
        raise BadRequest("answer to OFFICIAL_CALL has a bad header")
    status, _, count = ANSWER.unpack(header)
    if status:
        raise GrpcError(StatusCode(status), str(body, "utf-8", "replace"))
    at = 4 * count
    found: list[bytes] = []
    for number in range(count):
        (size,) = _SIZE.unpack_from(body, 4 * number)
        found.append(bytes(body[at : at + size]))
        at += size
    if at != len(body):
        raise BadRequest("answer to OFFICIAL_CALL does not add up")
    return found


class TunnelledCall:
    """A call that came through the data plane, as handlers see it; what is sent is collected."""

    def __init__(self, info: CallInfo, request: bytes | None) -> None:
        self._info = info
        self._request = request
        self._loop = asyncio.get_running_loop()
        self._deadline = self._loop.time() + info.left_ms / 1000 if info.left_ms is not None else None
        self._on_cancel: list[Callable[[], None]] = []
        self._cancelled = False
        self.sent: list[bytes] = []

    @property
    def metadata(self) -> Mapping[str, str]:
        return self._info.metadata

    @property
    def authority(self) -> str:
        return self._info.authority

    @property
    def peer(self) -> str:
        return self._info.peer

    @property
    def local(self) -> str:
        return self._info.local

    @property
    def secure(self) -> bool:
        return self._info.secure

    def remaining_s(self) -> float | None:
        return None if self._deadline is None else max(0.0, self._deadline - self._loop.time())

    def on_cancel(self, callback: Callable[[], None]) -> None:
        if self._cancelled:
            callback()
        else:
            self._on_cancel.append(callback)

    def cancel(self) -> None:
        """The gateway's connection has ended."""
        self._cancelled = True
        callbacks, self._on_cancel = self._on_cancel, []
        for callback in callbacks:
            callback()

    async def receive(self) -> bytes | None:
        request, self._request = self._request, None
        return request

    def start(self) -> None:
        """Headers are the gateway's business."""

    def send(self, message: bytes) -> None:
        self.sent.append(message)

    async def drain(self) -> None:
        """What is collected is bounded by what a handler answers."""


class CommandStream:
    """Where a broker's gateway sends commands for a client whose telemetry stream ends at a gateway elsewhere."""

    def __init__(self, call: TunnelledCall, push: Callable[[bytes], None]) -> None:
        self._call = call
        self._push = push

    def __getattr__(self, name: str) -> Any:
        return getattr(self._call, name)

    def send(self, message: bytes) -> None:
        self._push(message)
