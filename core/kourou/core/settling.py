"""ACK, CHANGE_INVISIBLE, BURY and TRANSACTION_END on the wire: what becomes of messages that were handed out. Big-endian.

ACK               u16 handles | u16 size of group; body: group, then per handle u16 size, bytes
CHANGE_INVISIBLE  u16 handles | u16 size of group; body: group, then per handle u32 invisible ms | u16 flags | u16 size,
                  bytes. Invisible ms 0xFFFFFFFF: as the group's retry policy says for this attempt.
                  Flag 1 KEEP: the handle stays as it is (a renewal), 2 UNCOUNTED: this delivery was none
Answer to both    u16 handles | u16 zero; body: per handle u16 error code or 0 | u16 size of the new handle, its bytes; then,
                  if any failed, JSON {"errors": {"<number>": {"message", "retry_after_ms"?}}}
BURY              u16 size of group | u16 size of handle; body: group, handle, reason in UTF-8. Answer: empty
TRANSACTION_END   u16 messages | u8 1 commit, 2 rollback | u8 zero | u32 size of topic; body: topic, then per message
                  u64 log offset | u32 record. Answer as to ACK
"""

from __future__ import annotations

from collections.abc import Sequence
from struct import Struct, error
from typing import Final, NamedTuple

from kourou.core import wire
from kourou.core.errors import BadRequest, KourouError, from_code

HANDLES_MAX: Final = 1_024  # of one request
REASON_CHARACTERS_MAX: Final = 1_024
BY_POLICY: Final = 0xFFFFFFFF
KEEP, UNCOUNTED = 1, 2
COMMIT, ROLLBACK = 1, 2

HEADER: Final = Struct(">HH")
CHANGE: Final = Struct(">IHH")
RESULT: Final = Struct(">HH")
BURY: Final = Struct(">HH")
END: Final = Struct(">HBBI")
HALF: Final = Struct(">QI")
_U16 = Struct(">H")


class Change(NamedTuple):
    handle: bytes
    invisible_ms: int
    flags: int = 0


def encode_ack(group: str, handles: Sequence[bytes]) -> tuple[bytes, bytes]:
    raw = group.encode()
    pack = _U16.pack
    return HEADER.pack(len(handles), len(raw)), raw + b"".join([pack(len(handle)) + handle for handle in handles])


def decode_ack(header: memoryview, body: memoryview) -> tuple[str, list[str]]:
    """(group, handles). Raises BadRequest."""
    count, size = _counts(header, "ACK")
    raw = bytes(body)
    try:
        group, at, handles = raw[:size].decode(), size, []
        for _ in range(count):
            (length,) = _U16.unpack_from(raw, at)
            handles.append(_cut(raw, at + 2, length))
            at += 2 + length
    except (error, UnicodeDecodeError):
        raise BadRequest("ACK is cut off, or not UTF-8") from None
    _whole(raw, at, "ACK")
    return group, handles


def encode_change(group: str, changes: Sequence[Change]) -> tuple[bytes, bytes]:
    raw = group.encode()
    pack = CHANGE.pack
    parts = [pack(c.invisible_ms, c.flags, len(c.handle)) + c.handle for c in changes]
    return HEADER.pack(len(changes), len(raw)), raw + b"".join(parts)


def decode_change(header: memoryview, body: memoryview) -> tuple[str, list[tuple[str, int, int]]]:
    """(group, [(handle, invisible ms, flags)]). Raises BadRequest."""
    count, size = _counts(header, "CHANGE_INVISIBLE")
    raw = bytes(body)
    try:
        group, at, changes = raw[:size].decode(), size, []
        for _ in range(count):
            invisible_ms, flags, length = CHANGE.unpack_from(raw, at)
            changes.append((_cut(raw, at + CHANGE.size, length), invisible_ms, flags))
            at += CHANGE.size + length
    except (error, UnicodeDecodeError):
        raise BadRequest("CHANGE_INVISIBLE is cut off, or not UTF-8") from None
    _whole(raw, at, "CHANGE_INVISIBLE")
    return group, changes


def encode_bury(group: str, handle: bytes, reason: str) -> tuple[bytes, bytes]:
    raw = group.encode()
    return BURY.pack(len(raw), len(handle)), raw + handle + reason[:REASON_CHARACTERS_MAX].encode(errors="replace")


def decode_bury(header: memoryview, body: memoryview) -> tuple[str, str, str]:
    """(group, handle, reason). Raises BadRequest."""
    if len(header) != BURY.size:
        raise BadRequest(f"BURY has a header of {len(header)} bytes, not {BURY.size}")
    group_size, handle_size = BURY.unpack(header)
    raw = bytes(body)
    if group_size + handle_size > len(raw):
        raise BadRequest(f"group and handle of BURY take {group_size + handle_size} bytes, the body has {len(raw)}")
    try:
        group = raw[:group_size].decode()
        handle = raw[group_size : group_size + handle_size].decode()
        reason = raw[group_size + handle_size :].decode()
    except UnicodeDecodeError:
        raise BadRequest("BURY is not UTF-8") from None
    return group, handle, reason[:REASON_CHARACTERS_MAX]


def encode_end(topic: str, outcome: int, halves: Sequence[tuple[int, int]]) -> tuple[bytes, bytes]:
    raw = topic.encode()
    return END.pack(len(halves), outcome, 0, len(raw)), raw + b"".join([HALF.pack(*half) for half in halves])


def decode_end(header: memoryview, body: memoryview) -> tuple[str, int, list[tuple[int, int]]]:
    """(topic, outcome, [(log offset, record)]). Raises BadRequest."""
    if len(header) != END.size:
        raise BadRequest(f"TRANSACTION_END has a header of {len(header)} bytes, not {END.size}")
    count, outcome, zero, size = END.unpack(header)
    if outcome not in (COMMIT, ROLLBACK) or zero:
        raise BadRequest(f"TRANSACTION_END has the outcome {outcome}, which is neither commit (1) nor rollback (2)")
    if not 0 < count <= HANDLES_MAX or len(body) != size + count * HALF.size:
        raise BadRequest(f"TRANSACTION_END says {count} messages (at most {HANDLES_MAX}) in {len(body)} bytes")
    try:
        topic = str(body[:size], "utf-8")
    except UnicodeDecodeError:
        raise BadRequest("topic in TRANSACTION_END is not UTF-8") from None
    return topic, outcome, list(HALF.iter_unpack(body[size:]))


def encode_results(results: Sequence[KourouError | str | None]) -> tuple[bytes, bytes]:
    """(header, body) of an answer: an error, a new handle, or nothing to say for each."""
    parts: list[bytes] = []
    errors: dict[str, dict[str, object]] = {}
    for number, result in enumerate(results):
        if isinstance(result, KourouError):
            parts.append(RESULT.pack(result.code, 0))
            errors[str(number)] = {"message": str(result)}
            if result.retry_after_ms is not None:
                errors[str(number)]["retry_after_ms"] = result.retry_after_ms
        else:
            handle = (result or "").encode()
            parts.append(RESULT.pack(0, len(handle)) + handle)
    if errors:
        parts.append(wire.encode_json({"errors": errors}))
    return HEADER.pack(len(results), 0), b"".join(parts)


def decode_results(body: memoryview, count: int) -> list[KourouError | bytes]:
    """An error, or a new handle (empty: there is none), for each. Raises BadRequest."""
    raw = bytes(body)
    codes: list[tuple[int, bytes]] = []
    at = 0
    try:
        for _ in range(count):
            code, size = RESULT.unpack_from(raw, at)
            codes.append((code, raw[at + RESULT.size : at + RESULT.size + size]))
            at += RESULT.size + size
    except error:
        raise BadRequest("an answer about handles is cut off") from None
    if not any(code for code, _ in codes):
        return [handle for _, handle in codes]
    errors = wire.decode_json(raw[at:], what="errors of an answer about handles").get("errors", {})
    results: list[KourouError | bytes] = []
    for number, (code, handle) in enumerate(codes):
        described = errors.get(str(number), {}) if code else {}
        text, after = str(described.get("message")), described.get("retry_after_ms")
        results.append(from_code(code, text, retry_after_ms=after) if code else handle)
    return results


def _counts(header: memoryview, what: str) -> tuple[int, int]:
    if len(header) != HEADER.size:
        raise BadRequest(f"{what} has a header of {len(header)} bytes, not {HEADER.size}")
    count, size = HEADER.unpack(header)
    if not 0 < count <= HANDLES_MAX:
        raise BadRequest(f"{what} has {count} handles; from 1 to {HANDLES_MAX} are allowed")
    return count, size


def _cut(raw: bytes, at: int, length: int) -> str:
    if at + length > len(raw):
        raise error
    return raw[at : at + length].decode()


def _whole(raw: bytes, at: int, what: str) -> None:
    if at != len(raw):
        raise BadRequest(f"{what} takes {at} bytes by its sizes, the body has {len(raw)}")
