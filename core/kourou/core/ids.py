"""Message ids of native messages: 32 hexadecimal digits that say where the message is, so that they cost no bytes.

16 digits producer id | 12 digits sequence of the frame | 4 digits index in the frame
"""

from __future__ import annotations

import re
from typing import NamedTuple

from kourou.core.errors import BadRequest

SEQUENCE_MAX = (1 << 48) - 1
_NATIVE = re.compile("[0-9a-fA-F]{32}")


class MessageId(NamedTuple):
    producer_id: int
    sequence: int
    number: int

    def __str__(self) -> str:
        return f"{self.producer_id:016X}{self.sequence:012X}{self.number:04X}"


def format_id(producer_id: int, sequence: int, number: int) -> str:
    return f"{producer_id:016X}{sequence:012X}{number:04X}"


def parse_id(text: str) -> MessageId | None:
    """The parts of a native id; None when the text has another form (an official client's id)."""
    if not isinstance(text, str):
        raise BadRequest(f"message id must be a string, not {type(text).__name__}")
    if not _NATIVE.fullmatch(text):  # int() would also take signs, blanks and underscores
        return None
    return MessageId(int(text[:16], 16), int(text[16:28], 16), int(text[28:], 16))
