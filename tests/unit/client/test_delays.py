"""When a delayed message is due, as its sender says it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from kourou.client.message import Message, due_ms_of
from kourou.core.errors import BadRequest


@pytest.mark.parametrize(
    ("message", "due_ms"),
    [
        (Message(b""), None),
        (Message(b"", delay=1.5), 11_500),
        (Message(b"", delay=timedelta(minutes=1)), 70_000),
        (Message(b"", deliver_at=2), 2_000),
        (Message(b"", deliver_at=datetime.fromtimestamp(3, UTC)), 3_000),
    ],
)
def test_seconds_and_times(message: Message, due_ms: int | None) -> None:
    assert due_ms_of(message, now_ms=10_000) == due_ms


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (Message(b"", delay=True), "delay must be"),
        (Message(b"", deliver_at=False), "delay must be"),
        (Message(b"", delay=float("nan")), "delay must be"),
        (Message(b"", delay=-11), "delivery time is"),
        (Message(b"", delay=1, deliver_at=2), "not both"),
    ],
)
def test_what_is_no_time(message: Message, reason: str) -> None:
    with pytest.raises(BadRequest, match=reason):
        due_ms_of(message, now_ms=10_000)
