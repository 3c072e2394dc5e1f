"""What every projection of the log can do besides its own business: be captured, restored and compared.

Capturing must be short, since nothing may change meanwhile; encoding may take its time between other work. So a capture
only takes references, and what it took never changes afterwards: immutable values, or tables that know in which capture
they were taken and are copied before their next change (``OffsetTable``, ``ProducerWindows``).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from typing import Any

SLICE_CHARACTERS = 32 * 1024  # encoded in one go: about a millisecond, plus one item; items are to be small
ITEM_ENTRIES = 256  # what machines put into one item at most


def encode_slices(items: Iterable[Any]) -> Iterator[bytes]:
    """JSON lines of a captured state, in slices short enough to be made between other work."""
    batch: list[str] = []
    size = 0
    for item in items:
        line = json.dumps(item, separators=(",", ":"), ensure_ascii=False)
        batch.append(line)
        size += len(line) + 32  # an item costs something by itself
        if size >= SLICE_CHARACTERS:
            yield ("\n".join(batch) + "\n").encode()
            batch.clear()
            size = 0
    if batch:
        yield ("\n".join(batch) + "\n").encode()


def decode_items(data: bytes) -> Iterator[Any]:
    """The items back, one a line."""
    for line in data.splitlines():
        yield json.loads(line)


def digest_of(items: Iterable[Any]) -> str:
    """A hash of a captured state; items must come in an order that depends on the state alone."""
    total = hashlib.blake2b(digest_size=16)
    for data in encode_slices(items):
        total.update(data)
    return total.hexdigest()
