"""Windows of producers against a naive model."""

from __future__ import annotations

import random

import pytest

from kourou.broker.machines.producers import EXPIRE_MS, ProducerWindows, Stored
from kourou.core.errors import FrameInvalid, SequenceExpired
from kourou.core.limits import PRODUCER_WINDOW


def stored(number: int, *, store_ms: int = 0) -> Stored:
    return Stored(number, 1, number, number, number + 1, store_ms)


def test_duplicates_get_their_first_result() -> None:
    windows = ProducerWindows()
    assert windows.check(7, 1, 1) is None
    windows.applied(7, 1, stored(1))
    assert windows.check(7, 1, 1) == stored(1)
    with pytest.raises(FrameInvalid, match="different frame"):
        windows.check(7, 1, 2)
    assert windows.check(7, 2, 2) is None
    assert windows.check(8, 1, 1) is None


@pytest.mark.parametrize("seed", range(20))
def test_against_a_model(seed: int) -> None:
    """Holes and any order within the window; what the model knows is what the machine answers."""
    rng = random.Random(seed)
    windows = ProducerWindows()
    model: dict[int, Stored] = {}
    highest = 0
    for step in range(2_000):
        sequence = max(1, highest + rng.randrange(-PRODUCER_WINDOW - 5, rng.choice((3, 3, 200))))
        if model and sequence <= highest - PRODUCER_WINDOW:
            with pytest.raises(SequenceExpired, match="too old"):
                windows.check(1, sequence, 0)
            continue
        known = model.get(sequence)
        assert windows.check(1, sequence, known.crc if known else 0) == known
        if known is None:
            model[sequence] = stored(step)
            windows.applied(1, sequence, model[sequence])
            highest = max(highest, sequence)
    again = ProducerWindows()
    again.restore(b"".join(windows.snapshot()))
    assert again.digest() == windows.digest()
    for sequence in range(max(1, highest - PRODUCER_WINDOW + 1), highest + 1):
        known = model.get(sequence)
        assert again.check(1, sequence, known.crc if known else 0) == known


def test_old_and_too_many_producers_are_dropped() -> None:
    windows = ProducerWindows(producers_max=3)
    for producer in (1, 2, 3):
        windows.applied(producer, 1, stored(1))
    windows.applied(1, 2, stored(2))
    windows.applied(4, 1, stored(1))  # the least recently used goes: 2
    assert len(windows) == 3
    assert windows.check(2, 1, 99) is None
    assert windows.check(1, 1, 1) is not None
    windows.applied(5, 1, stored(1, store_ms=EXPIRE_MS + 1))
    assert len(windows) == 1
