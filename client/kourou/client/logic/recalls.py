"""Recall handles of native producers: where a delayed message waits. Text, to be kept until it may be needed. Pure.

broker:log offset:record:due ms        all but the broker in hexadecimal
"""

from __future__ import annotations

from typing import NamedTuple

from kourou.core.errors import InvalidRecallHandle


class RecallPlace(NamedTuple):
    broker: str
    log_offset: int
    record: int
    due_ms: int


def format_recall(broker: str, log_offset: int, record: int, due_ms: int) -> str:
    return f"{broker}:{log_offset:x}:{record:x}:{due_ms:x}"


def parse_recall(text: str) -> RecallPlace | None:
    """None: it has another form (an official client's handle). Raises InvalidRecallHandle where it is not text."""
    if not isinstance(text, str) or not text:
        raise InvalidRecallHandle("a recall handle is the text that a receipt has, not " + type(text).__name__)
    broker, *numbers = text.split(":")
    if len(numbers) != 3:
        return None
    try:
        log_offset, record, due_ms = (int(number, 16) for number in numbers)
    except ValueError:
        return None
    return RecallPlace(broker, log_offset, record, due_ms)
