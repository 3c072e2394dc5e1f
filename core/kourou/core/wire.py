"""The data plane's wire: framing, codes, fixed headers. Sans-I/O; ``kourou.transport`` puts sockets around it.

Framing is RocketMQ remoting's, big-endian, so that one port can serve its classic clients too one day:

    0  u32  length of all that follows           8  u16  code
    4  u8   header type: 2 is ours               10 u16  flags
    5  u24  length of the header (from byte 8)   12 u32  opaque: matches an answer to its request
                                                 16 fixed struct of the code, then the body

Both ends may send requests; answers come in any order. An answer has its request's code and opaque and the flag ANSWER;
an error has ERROR too and a JSON body ``{"code", "message", "retry_after_ms"?}``. ONE_WAY requests get no answer.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum
from struct import Struct
from typing import Any, Final

from kourou.core.errors import BadRequest, KourouError, LimitExceeded, UnsupportedVersion, from_code
from kourou.core.limits import JSON_BYTES_MAX, WIRE_BYTES_MAX, WIRE_HEADER_BYTES_MAX

PROTOCOL_VERSION: Final = 1

_HEAD = Struct(">IIHHI")
HEAD_SIZE: Final = 16
assert _HEAD.size == HEAD_SIZE
_TYPE_NATIVE = 2 << 24


class Code(IntEnum):
    """What a message asks for. (J): the body is JSON both ways; docs/protocol.md has the fields."""

    HELLO = 1  # (J) first on every connection
    PING = 2  # (J, empty)
    GOAWAY = 3  # (J) one-way from the server: it is about to close; finish and reconnect
    PRODUCE = 10
    FETCH = 11
    SUBSCRIBE = 12  # (J)
    UNSUBSCRIBE = 13  # (J)
    DELIVER = 14  # one-way from the broker
    CREDIT = 15  # one-way to the broker
    COMMIT = 16
    ASSIGN = 17  # (J) one-way from the broker: queues that are yours from now
    REVOKE = 18  # (J) from the broker: let go of queues; the answer says they are let go
    SEEK = 19  # (J)
    PAUSE = 20  # (J)
    RECEIVE = 21  # members of shared groups; ``core.deliveries`` has the layout
    ACK = 22  # this one and those up to TRANSACTION_END: ``core.settling``
    CHANGE_INVISIBLE = 23
    BURY = 24
    TRANSACTION_END = 25
    TRANSACTION_LISTEN = 26  # (J)
    TRANSACTION_CHECK = 27  # from the broker: a half message that nobody has decided on; (J) answer
    RECALL = 28  # (J)
    RECEIVE_CANCEL = 29  # one-way to the broker
    OFFSETS = 30  # (J)
    RESET = 31  # (J)
    LOOKUP = 32  # (J) request; the answer's body is a JSON head and frames
    SCHEDULED = 33  # (J)
    LITE_QUEUES = 34  # (J)
    LITE_SUBSCRIBE = 35  # (J)
    LITE_EVICTED = 36  # (J) one-way from the broker: another member has taken a lite topic over
    ELSEWHERE = 37  # (J) one-way from the broker: what follows in a queue is better read at a slave; SEEK when that is done
    ROUTE = 40  # (J)
    ROUTE_CHANGED = 41  # (J) one-way from a nameserver
    CLUSTER = 42  # (J)
    TOPIC_CREATE = 50  # (J)
    TOPIC_DELETE = 51  # (J)
    TOPIC_LIST = 52  # (J)
    TOPIC_DESCRIBE = 53  # (J)
    GROUP_CREATE = 60  # (J)
    GROUP_DELETE = 61  # (J)
    GROUP_LIST = 62  # (J)
    GROUP_DESCRIBE = 63  # (J)
    GROUP_UPDATE = 64  # (J)
    GROUP_FILTER = 65  # (J)
    STATUS = 70  # (J)
    PROMOTE = 71  # (J) a slave becomes the master
    DIGEST = 72  # (J) the state of a member of a broker group, by hash
    PLEDGE = 73  # (J) from a master that can't reach etcd: don't campaign for a while
    DEAD_LETTERS = 80  # (J)
    DEAD_LETTERS_REDRIVE = 81  # (J)
    DEAD_LETTERS_PURGE = 82  # (J)
    EXPLAIN = 83  # (J)
    OFFICIAL_CALL = 90  # a call of the official API that reached a nameserver or proxy
    OFFICIAL_COMMAND = 91  # one-way from the broker: a command for a client of the official API
    REPLICA_HELLO = 100  # (J) from a slave, which dials: opens a replication session
    REPLICA_READY = 101  # (J)
    REPLICA_BATCH = 102  # one-way from the master
    REPLICA_ACK = 103  # one-way to the master
    REPLICA_PING = 104  # (J) one-way, both
    REPLICA_FILE = 105  # (J) request; the answer's body is a piece of a file
    REPLICA_LOG = 107  # (J) from a slave whose disk has damaged its log; the answer's body is frames
    REPLICA_TAIL = 106  # (J) from a master that lost the end of its log, to a slave; the answer's body is frames


class Flag(IntEnum):
    ANSWER = 1
    ONE_WAY = 2
    ERROR = 4


_ANSWER, _ONE_WAY, _ERROR = int(Flag.ANSWER), int(Flag.ONE_WAY), int(Flag.ERROR)

# Fixed structs of the bulk codes, big-endian, right after the common head.
PRODUCE_REQUEST: Final = Struct(">IHH")  # deadline ms, frame count, zero. Body: sealed frames, one after the other
PRODUCE_ANSWER: Final = Struct(
    ">HH"
)  # frame count, zero. Body: a PRODUCE_RESULT a frame, then JSON {"errors": {...}} if any
PRODUCE_RESULT: Final = Struct(
    ">HHIQQq"
)  # error code or 0, 1 if a duplicate, queue id, base queue offset, log offset, store ms
FETCH_REQUEST: Final = Struct(
    ">QIIIHH"
)  # queue offset, queue id, bytes at most, wait ms, size of topic, zero. Body: topic, JSON {}
FETCH_ANSWER: Final = Struct(">QQQ")  # next queue offset, min, max. Body: frames
DELIVER_HEAD: Final = Struct(
    ">IIIIIQ"
)  # subscription, queue id, generation (epoch, n), session, next queue offset. Body: frames
CREDIT_HEAD: Final = Struct(">II")  # subscription, bytes granted
COMMIT_REQUEST: Final = Struct(">II")  # subscription, entries. Body: entries
COMMIT_ENTRY: Final = Struct(">IIIQ")  # queue id, generation (epoch, n), next queue offset to read
REPLICA_BATCH_HEAD: Final = Struct(">QIIQQ")  # session, epoch, crc32 of the head, log offset, confirm offset. Body: frames
REPLICA_ACK_HEAD: Final = Struct(">QIIQQ")  # session, epoch, zero, appended, flushed
assert PRODUCE_RESULT.size == 32
assert DELIVER_HEAD.size == 28
assert COMMIT_ENTRY.size == 20


@dataclass(slots=True)
class WireMessage:
    """One message off the wire. ``header`` (after the common head) and ``body`` are views into the receive buffer,
    which is never written again while they live."""

    code: int
    flags: int
    opaque: int
    header: memoryview
    body: memoryview

    @property
    def is_answer(self) -> bool:
        return bool(self.flags & _ANSWER)

    @property
    def is_one_way(self) -> bool:
        return bool(self.flags & _ONE_WAY)

    @property
    def is_error(self) -> bool:
        return bool(self.flags & _ERROR)

    @property
    def size(self) -> int:
        return HEAD_SIZE + len(self.header) + len(self.body)


def encode_head(code: int, opaque: int, *, flags: int = 0, header: bytes = b"", body_size: int = 0) -> bytes:
    """The bytes before the body: common head and fixed header."""
    header_size = 8 + len(header)
    return _HEAD.pack(4 + header_size + body_size, _TYPE_NATIVE | header_size, code, flags, opaque) + header


def encode(code: int, opaque: int, *, flags: int = 0, header: bytes = b"", body: bytes = b"") -> bytes:
    return encode_head(code, opaque, flags=flags, header=header, body_size=len(body)) + body


def encode_json(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode("utf-8", "backslashreplace")


def decode_json(body: memoryview | bytes, *, what: str = "body", bytes_max: int = JSON_BYTES_MAX) -> dict[str, Any]:
    """The object in a self-describing body; an empty body is an empty object. Raises BadRequest or LimitExceeded."""
    if not len(body):
        return {}
    if len(body) > bytes_max:
        raise LimitExceeded(f"{what} has {len(body)} bytes of JSON; the limit is {bytes_max}")
    try:
        value = json.loads(bytes(body))
    except (ValueError, RecursionError):
        raise BadRequest(f"{what} is not valid JSON in UTF-8") from None
    if not isinstance(value, dict):
        raise BadRequest(f"{what} must be a JSON object, not {type(value).__name__}")
    return value


def encode_error(code: int, opaque: int, failure: KourouError) -> bytes:
    body: dict[str, object] = {"code": failure.code, "message": str(failure)}
    if failure.retry_after_ms is not None:
        body["retry_after_ms"] = failure.retry_after_ms
    return encode(code, opaque, flags=_ANSWER | _ERROR, body=encode_json(body))


def decode_error(message: WireMessage) -> KourouError:
    value = decode_json(message.body, what="error answer")
    code, text, after = value.get("code"), value.get("message"), value.get("retry_after_ms")
    return from_code(
        code if isinstance(code, int) else 500, str(text), retry_after_ms=after if isinstance(after, int) else None
    )


_KIB = 1024
_retired: dict[int, deque[bytearray]] = {  # large receive buffers that may be free again, of all readers, by their size
    1088 * _KIB: deque(maxlen=16),
    2176 * _KIB: deque(maxlen=8),
}
_LARGEST_KEPT = max(_retired)


def _new_buffer(size: int) -> bytearray:
    """A buffer of at least ``size``. A large one is preferably one that was used before: a fresh MiB costs 256 page faults.

    One is free when no view of it lives; a bytearray tells by refusing to change its length while one does.
    """
    if size < FrameReader.LARGEST:
        return bytearray(size)
    fit = next((fit for fit in _retired if fit >= size), 0)
    if not fit:
        return bytearray(size)
    retired = _retired[fit]
    for _ in range(len(retired)):
        try:
            buffer = retired.popleft()
        except IndexError:  # another thread was quicker
            break
        try:
            buffer.append(0)
        except BufferError:
            retired.append(buffer)
            continue
        buffer.pop()
        return buffer
    buffer = bytearray(fit + 1)
    buffer.pop()  # leaves room for the byte that the question above appends
    return buffer


def _retire(buffer: bytearray) -> None:
    retired = _retired.get(len(buffer))
    if retired is not None:
        retired.append(buffer)


class FrameReader:
    """Cuts a byte stream into messages without copying bodies.

    The caller asks for a buffer to receive into, says how much arrived, and gets the messages that are now whole:

        n = socket.recv_into(reader.get_buffer());  for message in reader.received(n): ...

    Buffers are never reused while views into them live: a full one is put aside and the part of a message at its end
    copied to the next. They grow with the traffic (16 KiB to 2 MiB) and are let go when nothing is pending, so an idle
    connection holds none.
    """

    SMALLEST: Final = 16 * 1024
    LARGEST: Final = 1024 * 1024

    def __init__(
        self, *, bytes_max: int = WIRE_BYTES_MAX, first_bytes_max: int | None = None, count_max: int = 1 << 30
    ) -> None:
        """``first_bytes_max`` bounds the first message alone: a stranger's greeting is short. At most ``count_max`` messages
        are cut at a time: a MiB of the shortest takes a tenth of a second. ``received(0)`` cuts on while there are ``more``.
        """
        self.more = False  # messages may have arrived that aren't cut off yet
        self._count_max = count_max
        self._bytes_max = bytes_max
        self._limit = first_bytes_max or bytes_max  # of the message at _start
        self._buffer: bytearray | None = None
        self._view = memoryview(b"")
        self._start = 0  # of the first message that is not whole
        self._end = 0  # of what has been received
        self._needed = 0  # bytes of the message at _start, once known
        self._size = self.SMALLEST

    @property
    def pending_bytes(self) -> int:
        """Bytes received of a message that is not whole yet, or not cut off yet."""
        return self._end - self._start

    def get_buffer(self) -> memoryview:
        """Where to receive; never empty."""
        buffer = self._buffer
        if buffer is None:
            self._allocate(self._size)
        elif self._start + self._needed > len(buffer) or len(buffer) - self._end < 4096:
            self._allocate(max(self._size, max(self._needed, self._end - self._start) + 4096))
        return self._view[self._end :]

    def _allocate(self, size: int) -> None:
        pending = self._view[self._start : self._end]
        old = self._buffer
        self._buffer = _new_buffer(size)
        view = memoryview(self._buffer)
        view[: len(pending)] = pending
        self._view, self._start, self._end = view, 0, len(pending)
        if old is not None:
            _retire(old)

    def received(self, count: int) -> list[WireMessage]:
        """Account for ``count`` received bytes. Raises BadRequest, LimitExceeded or UnsupportedVersion when the stream
        can't be read on; the connection must be closed then."""
        self._end += count
        view, at, end = self._view, self._start, self._end
        messages: list[WireMessage] = []
        unpack = _HEAD.unpack_from
        limit = self._limit
        self._needed = 0
        for _ in range(self._count_max):
            if end - at < HEAD_SIZE:
                break
            length, kind, code, flags, opaque = unpack(view, at)
            header_size = kind & 0xFFFFFF
            if kind >> 24 != 2:
                raise UnsupportedVersion(f"header type {kind >> 24} is not served here; native clients send type 2")
            if length + 4 > limit:
                raise LimitExceeded(f"message has {length + 4} bytes; the limit is {limit}")
            if not 8 <= header_size <= min(length - 4, WIRE_HEADER_BYTES_MAX):
                raise BadRequest(f"header length {header_size} does not fit a message of {length} bytes")
            after = at + 4 + length
            if after > end:
                self._needed = 4 + length
                if self._size == self.LARGEST < self._needed:  # more of them will come: room from the start
                    self._size = min(self._needed + 4096, _LARGEST_KEPT)
                break
            body_at = at + 8 + header_size
            messages.append(WireMessage(code, flags, opaque, view[at + HEAD_SIZE : body_at], view[body_at:after]))
            at = after
            limit = self._bytes_max
        self._limit = limit
        self.more = len(messages) == self._count_max
        self._start = at
        if count >= self._size - 4096 and self._size < self.LARGEST:
            self._size *= 4
        if at == end:
            if self._size > self.SMALLEST and count < self._size // 8:
                self._size //= 2
            if self._buffer is not None:
                _retire(self._buffer)
            self._buffer, self._view, self._start, self._end = None, memoryview(b""), 0, 0
        return messages

    def feed(self, data: bytes) -> list[WireMessage]:
        """The same for bytes that were received elsewhere (tests, plain protocols)."""
        messages: list[WireMessage] = []
        view = memoryview(data)
        while len(view):
            room = self.get_buffer()
            count = min(len(room), len(view))
            room[:count] = view[:count]
            messages += self.received(count)
            view = view[count:]
        return messages


def join_size(parts: Iterable[bytes | memoryview]) -> int:
    return sum(map(len, parts))
