"""What a request of several frames promises when some of them are refused: nothing overtakes."""

from __future__ import annotations

import pytest

from kourou.broker.services import journal
from kourou.broker.services.produce import FrameResult, ProduceService
from kourou.core.errors import BadChecksum, DiskFull, FrameInvalid, PredecessorRefused, QueueNotFound, SequenceExpired
from kourou.core.frame import seal
from tests.unit.broker.services.stream import Stream


def sealed(sequence: int, *, queue: int = 0, producer: int = 7, body: bytes = b"x") -> bytes:
    return seal(topic="t", queue_id=queue, records=[body], born_ms=1, producer_id=producer, sequence=sequence)


def damaged(frame: bytes) -> bytes:
    return frame[:-1] + bytes([frame[-1] ^ 1])


async def produce(stream: Stream, *frames: bytes) -> list[FrameResult]:
    service = ProduceService(stream.state, stream.journal, check_due=lambda due_ms: None)
    found: list[list[FrameResult]] = []
    service.produce(memoryview(b"".join(frames)), len(frames), found.append)
    while not found:
        await stream.turns()
    return found[0]


def errors(results: list[FrameResult]) -> list[type[Exception] | None]:
    return [type(result.error) if result.error is not None else None for result in results]


async def test_what_is_behind_a_refused_frame_of_its_producer_and_queue_is_refused() -> None:
    async with Stream() as stream:
        await stream.topic(2)
        results = await produce(
            stream,
            sealed(1),
            damaged(sealed(2)),
            sealed(3),
            sealed(4, queue=1),
            sealed(5, queue=9),
            sealed(1, producer=8),
            sealed(6),
            sealed(0, producer=0),
        )
        assert errors(results) == [
            None,
            BadChecksum,
            PredecessorRefused,
            None,
            QueueNotFound,
            None,
            PredecessorRefused,
            None,
        ]
        assert [result.queue_offset for result in results if result.error is None] == [0, 0, 1, 2]


async def test_what_waits_behind_a_turn_that_could_not_be_appended_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """The request takes several turns; the disk is full for the first alone."""
    monkeypatch.setattr(journal, "TURN_BYTES_MAX", 1)
    async with Stream() as stream:
        await stream.topic(2)
        original = type(stream.store).append
        calls = 0

        def append(*args: object, **options: object) -> object:
            nonlocal calls
            calls += 1
            if calls == 1:
                raise DiskFull("no room")
            return original(*args, **options)  # type: ignore[arg-type]

        with monkeypatch.context() as patched:
            patched.setattr(type(stream.store), "append", append)
            results = await produce(stream, sealed(1), sealed(2), sealed(3, queue=1), sealed(4))
        assert errors(results) == [DiskFull, PredecessorRefused, None, PredecessorRefused]
        assert errors(await produce(stream, sealed(1), sealed(2), sealed(4))) == [None] * 3


async def test_what_the_window_refuses_holds_up_too_and_what_it_knows_is_answered() -> None:
    """A frame that is stored already has its place: it is a duplicate, whatever was refused before it."""
    async with Stream() as stream:
        await stream.topic(1)
        assert errors(await produce(stream, sealed(100), sealed(101))) == [None, None]
        results = await produce(stream, sealed(100, body=b"other"), sealed(101), sealed(102))
        assert errors(results) == [FrameInvalid, None, PredecessorRefused]
        assert results[1].duplicate
        assert errors(await produce(stream, sealed(3), sealed(102))) == [SequenceExpired, PredecessorRefused]
        assert errors(await produce(stream, sealed(102))) == [None]
