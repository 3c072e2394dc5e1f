"""What every projection of the log can do besides its own business: be captured, restored and compared."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from typing import Any

SLICE_ITEMS = 500  # encoded in one go: about a millisecond


def encode_slices(items: Iterable[Any]) -> Iterator[bytes]:
    """JSON lines of a captured state, in slices short enough to be made between other work."""
    batch: list[str] = []
    for item in items:
        batch.append(json.dumps(item, separators=(",", ":"), ensure_ascii=False))
        if len(batch) >= SLICE_ITEMS:
            yield ("\n".join(batch) + "\n").encode()
            batch.clear()
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
