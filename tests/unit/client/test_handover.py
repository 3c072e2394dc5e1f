"""What a consumer hands to a new master of what it has finished."""

from __future__ import annotations

from typing import Any, cast

from kourou.client.handover import HOLD_S, Handover, Witness
from kourou.client.subscription import Position, Subscription
from kourou.core import frame, wire
from kourou.core.errors import KourouError, NotEnoughReplicas
from kourou.transport.connection import Connection


def position(*, done: int, committed: int = 0, seen: Witness | None = None) -> Position:
    made = Position(cast(Subscription, None), 3, (1, 1), 7, committed)
    made.done, made.seen = done, seen
    return made


class Master:
    """Answers FETCH with one frame at a place of its log."""

    def __init__(self, *, epoch: int = 1, log_offset: int = 500, refusal: KourouError | None = None) -> None:
        self.epoch, self.log_offset, self.refusal = epoch, log_offset, refusal

    async def ask(self, code: int, *, header: bytes, parts: Any, timeout_s: float) -> Any:
        if self.refusal is not None:
            raise self.refusal
        offset, _, *_ = wire.FETCH_REQUEST.unpack(header)
        sealed = frame.seal(topic="t", queue_id=3, records=[b"x"] * 4, born_ms=0)
        prefix = frame.make_prefix(
            sealed_size=len(sealed), sealed_crc=int.from_bytes(sealed[-4:], "little"), log_offset=self.log_offset,
            epoch=self.epoch, incarnation=1, queue_offset=offset, store_ms=0,
        )  # fmt: skip
        return wire.WireMessage(wire.Code.FETCH, 0, 0, memoryview(b""), memoryview(prefix + sealed))


SEEN = Witness(queue_offset=16, end=20, epoch=1, log_offset=500)


async def handed(master: Master, held: Position, *, assigned: int, later_s: float = 0.0) -> int:
    handover = Handover()
    handover.hold([held], now=0.0)
    if held.seen is not None:
        await handover.prove(cast(Connection, master), "t", [(3, held.seen)], timeout_s=1.0)
    handover.subscribed(now=0.0)
    return handover.take(3, assigned, now=later_s)


async def test_a_master_with_the_same_log_gets_what_was_finished() -> None:
    assert await handed(Master(), position(done=18, seen=SEEN), assigned=5) == 18


async def test_another_log_begins_at_what_is_committed() -> None:
    held = position(done=18, seen=SEEN)
    assert await handed(Master(log_offset=600), held, assigned=5) == 5
    assert await handed(Master(epoch=2), held, assigned=5) == 5
    assert await handed(Master(refusal=NotEnoughReplicas("too early")), held, assigned=5) == 5
    assert await handed(Master(), position(done=18), assigned=5) == 5


async def test_what_is_behind_the_last_frame_is_not_proven() -> None:
    assert await handed(Master(), position(done=30, seen=SEEN), assigned=5) == 20


async def test_the_group_was_moved_meanwhile() -> None:
    assert await handed(Master(), position(done=18, committed=10, seen=SEEN), assigned=5) == 5
    assert await handed(Master(), position(done=18, seen=SEEN), assigned=40) == 40


async def test_what_is_assigned_late_begins_at_what_is_committed() -> None:
    assert await handed(Master(), position(done=18, seen=SEEN), assigned=5, later_s=HOLD_S + 1) == 5
