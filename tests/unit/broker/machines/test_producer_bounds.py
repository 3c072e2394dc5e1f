"""Windows: what hostile or unlucky producers can't do, snapshots under way, replicas that drop alike."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kourou.broker.machines.producers import EXPIRE_MS, ProducerWindows, Stored
from kourou.core.errors import SequenceExpired
from kourou.core.limits import PRODUCER_WINDOW


def stored(number: int, *, store_ms: int = 0) -> Stored:
    return Stored(number, 1, number, number, number + 1, store_ms)


def restored(data: bytes, *, producers_max: int) -> ProducerWindows:
    windows = ProducerWindows(producers_max=producers_max)
    windows.applied(99, 1, stored(1))  # restore replaces whatever was there
    windows.restore(data)
    return windows


def test_frames_stored_far_behind_do_not_pile_up() -> None:
    """Goal: no growth. Method: frames that were all new when checked in one turn, the highest first in the log."""
    windows = ProducerWindows()
    for turn in range(50):
        first = turn * 1_000 + 1
        for sequence in [first + 999, *range(first, first + 999)]:
            windows.applied(1, sequence, stored(sequence))
    assert sum(len(window.results) for window in windows._windows.values()) == PRODUCER_WINDOW
    with pytest.raises(SequenceExpired):
        windows.check(1, 49_001, 0)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 6), st.integers(1, 150), st.integers(0, EXPIRE_MS // 3)), max_size=80),
    st.integers(0, 80),
)
def test_a_snapshot_and_the_rest_is_the_same_as_everything(frames: list[tuple[int, int, int]], cut: int) -> None:
    """Few producers fit, so they are dropped by age and by number too. The snapshot is encoded after all has changed."""
    windows, now_ms = ProducerWindows(producers_max=4), 0
    snapshot, rest = ProducerWindows().snapshot(), list[tuple[int, int, Stored]]()
    for number, (producer, sequence, ms) in enumerate(frames):
        now_ms += ms
        if number == cut:
            snapshot, rest = windows.snapshot(), []
        frame = (producer, sequence, stored(number, store_ms=now_ms))
        windows.applied(*frame)
        rest.append(frame)
        assert len(windows) <= 4
    other = restored(b"".join(snapshot), producers_max=4)
    for frame in rest:
        other.applied(*frame)
    assert other.digest() == windows.digest()


def test_a_capture_does_not_change_while_it_is_encoded() -> None:
    windows = ProducerWindows()
    for producer in range(500):
        for sequence in range(1, 65):
            windows.applied(producer, sequence, stored(sequence))
    before, pieces = windows.digest(), list[bytes]()
    for number, piece in enumerate(windows.snapshot()):
        pieces.append(piece)
        for producer in range(500):
            windows.applied(producer, 65 + number, stored(0))
    assert len(pieces) > 10
    assert restored(b"".join(pieces), producers_max=1_000).digest() == before != windows.digest()
