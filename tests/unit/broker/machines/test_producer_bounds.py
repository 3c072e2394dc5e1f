"""Windows: what hostile or unlucky producers can't do, snapshots under way, replicas that drop alike. And refusals."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kourou.broker.machines.producers import EXPIRE_MS, ProducerWindows, Refusals, Stored
from kourou.core.errors import PredecessorRefused, SequenceExpired, TooManyRequests
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


# ---- refusals


def test_the_rule() -> None:
    refusals = Refusals()
    refusals.refused(1, 7, 100)
    for sequence in (101, 99 + PRODUCER_WINDOW):
        with pytest.raises(PredecessorRefused, match="send 100 again, or go on at sequence 164"):
            refusals.check(1, 7, sequence)
    refusals.check(1, 8, 101)  # another queue
    refusals.check(2, 7, 101)  # another producer
    refusals.check(1, 7, 99)  # older: changes nothing
    with pytest.raises(PredecessorRefused):
        refusals.check(1, 7, 101)
    refusals.check(1, 7, 100 + PRODUCER_WINDOW)
    refusals.check(1, 7, 101)
    assert len(refusals) == 0


def test_the_refused_frame_itself_ends_the_hold_unless_it_is_refused_again() -> None:
    refusals = Refusals()
    refusals.refused(1, 7, 100)
    refusals.check(1, 7, 100)
    refusals.refused(1, 7, 100)
    with pytest.raises(PredecessorRefused):
        refusals.check(1, 7, 101)
    refusals.check(1, 7, 100)
    refusals.check(1, 7, 101)


def test_refusals_are_bounded() -> None:
    refusals = Refusals(refusals_max=2)
    refusals.refused(1, 1, 1)
    refusals.refused(1, 2, 1)
    refusals.refused(1, 2, 9)
    with pytest.raises(TooManyRequests):
        refusals.refused(1, 3, 1)
    assert len(refusals) == 2


@pytest.mark.parametrize("reseals", [False, True])
@pytest.mark.parametrize("seed", range(25))
def test_nothing_overtakes_a_refused_frame(seed: int, reseals: bool) -> None:
    """Goal: per queue the log has the records in the order of sending, without loss or repetition.

    Method: a pipelining client over a connection that delivers in order both ways, a broker that refuses at random. The
    client keeps fewer than WINDOW sequences between its oldest unresolved frame and its newest. It gathers the refused
    frames of a queue until none of that queue is under way, then sends them again in order: with their old sequences, or
    sealed anew beyond the held range.
    """
    rng = random.Random(seed)
    windows, refusals = ProducerWindows(), Refusals()
    log: dict[int, list[int]] = {0: [], 1: []}
    todo = {queue: list(range(60)) for queue in log}  # records, each a frame
    again: dict[int, list[tuple[int, int]]] = {queue: [] for queue in log}  # refused (sequence, record)
    flying: dict[int, tuple[int, int]] = {}  # sequence -> queue, record
    wire: list[int] = []
    answers: list[tuple[int, bool]] = []
    newest = 0

    def send(sequence: int, queue: int, record: int) -> None:
        flying[sequence] = (queue, record)
        wire.append(sequence)

    def room(sequence: int) -> bool:
        return sequence - min([*flying, sequence]) < PRODUCER_WINDOW

    def broker(sequence: int) -> bool:
        queue, record = flying[sequence]
        if windows.check(1, sequence, record) is not None:
            return True
        try:
            refusals.check(1, queue, sequence)
        except PredecessorRefused:
            return False
        if rng.random() < 0.3:
            refusals.refused(1, queue, sequence)
            return False
        log[queue].append(record)
        windows.applied(1, sequence, stored(record))
        return True

    for _ in range(200_000):
        queue = rng.randrange(2)
        waiting = sorted(again[queue])
        unresolved = [s for s, (of, _) in flying.items() if of == queue]
        match rng.randrange(4):
            case 0 if todo[queue] and not waiting and room(newest + 1):
                newest += 1
                send(newest, queue, todo[queue].pop(0))
            case 1 if waiting and not unresolved:
                fresh = max(newest + 1, waiting[0][0] + PRODUCER_WINDOW)
                if not reseals and all(s > newest - PRODUCER_WINDOW for s, _ in waiting):
                    for sequence, record in waiting:
                        send(sequence, queue, record)
                    again[queue] = []
                elif room(fresh + len(waiting) - 1):
                    for number, (_, record) in enumerate(waiting):
                        send(fresh + number, queue, record)
                    newest = fresh + len(waiting) - 1
                    again[queue] = []
            case 2 if wire:
                answers.append((sequence := wire.pop(0), broker(sequence)))
            case 3 if answers:
                sequence, was_stored = answers.pop(0)
                of, record = flying.pop(sequence)
                if not was_stored:
                    again[of].append((sequence, record))
        if not any(todo.values()) and not flying and not any(again.values()):
            break
    assert log == {0: list(range(60)), 1: list(range(60))}
    assert len(refusals) <= 2
