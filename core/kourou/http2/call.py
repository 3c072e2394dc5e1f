"""What a gRPC handler is and sees, whichever engine serves it.

A *service* is a mapping of full paths (``/package.Service/Method``) to ``Method``. Handlers take and give serialized
messages (``bytes``); parsing them is the business of whoever writes the handler, so no engine knows protobuf.

A unary handler is called with the request and the call, and returns the reply, or an awaitable of it. One that can
answer at once should return plain bytes: an engine then needs no task for it. A streaming handler is a coroutine
function of the call: it receives and sends until it returns (status OK) or raises ``GrpcError`` (that status). Any
other exception becomes INTERNAL with a fixed text, and its details go to the log.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Protocol


class StatusCode(IntEnum):
    """The codes of gRPC (https://grpc.github.io/grpc/core/md_doc_statuscodes.html)."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


class GrpcError(Exception):
    """Ends a call with a status of gRPC's own. ``text`` goes to the client, so it must be fit for that."""

    def __init__(self, code: StatusCode, text: str = "") -> None:
        super().__init__(code, text)
        self.code = code
        self.text = text


class Call(Protocol):
    """One call, as a unary handler sees it. Valid until the handler has answered or the call was cancelled."""

    @property
    def metadata(self) -> Mapping[str, str]:
        """The request's metadata: names in lower case, the first value where a name comes twice, no ``-bin`` names, no
        names that belong to HTTP/2 or gRPC itself (":path", "te", "grpc-timeout", "content-type", …)."""

    @property
    def authority(self) -> str:
        """``:authority``: the host and port that the client dialled, as far as it says so; else ""."""

    @property
    def peer(self) -> str:
        """The other end's address: ``host:port``, an IPv6 host in brackets."""

    @property
    def local(self) -> str:
        """Our end's address, as ``peer``."""

    @property
    def secure(self) -> bool:
        """Whether the connection is TLS."""

    def remaining_s(self) -> float | None:
        """Seconds until the call's deadline (at least 0), None where the client set none."""

    def on_cancel(self, callback: Callable[[], None]) -> None:
        """``callback`` is called once, on the loop, when the client resets the call, its connection is lost or its deadline
        passes before it was answered; at once where that has already happened. The handler's task, where there is one,
        is cancelled too."""


class StreamCall(Call, Protocol):
    """One call, as a streaming handler sees it."""

    async def receive(self) -> bytes | None:
        """The next message of the client, None after its last one."""

    def start(self) -> None:
        """Send the response headers now, before there is a message (clients exist that wait for them)."""

    def send(self, message: bytes) -> None:
        """Queue one message; it leaves with what else is ready in this turn of the loop. Nothing happens when the call has
        been cancelled. Raises nothing; ``drain`` is where a slow reader is waited for."""

    async def drain(self) -> None:
        """Wait until this call's buffered output is below its bound."""


class Kind(IntEnum):
    """Which side sends more than one message. A server stream's request is what its first ``receive`` gives."""

    UNARY = 1
    SERVER_STREAM = 2
    BIDI_STREAM = 3


UnaryHandler = Callable[[bytes, Call], bytes | Awaitable[bytes]]
StreamHandler = Callable[[StreamCall], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Method:
    """How one path is served: exactly one of the two handlers is set, as ``kind`` says."""

    kind: Kind
    unary: UnaryHandler | None = None
    stream: StreamHandler | None = None


Service = Mapping[str, Method]
