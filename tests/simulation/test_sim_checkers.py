"""The checkers of histories, on histories with one thing wrong each."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.sim.checkers import Committed, History, Looked, Queues, Received, Sent, Skipped, check

HELD: dict[int, list[str]] = {0: ["a1", "a2", "b1", "a3"], 1: ["b2"]}


def good() -> tuple[History, dict[int, list[str]]]:
    history = History(
        sent=[
            Sent(0, 0, ("a1", "a2"), "ok"), Sent(1, 0, ("b1",), "ok"), Sent(0, 0, ("a3",), "unknown"),
            Sent(1, 1, ("b2",), "ok"), Sent(0, 1, ("a4",), "refused"), Sent(1, 1, ("b3",), "unknown"),
        ],
        received=[Received(c, q, n, name) for c in (0, 1) for q, names in HELD.items() for n, name in enumerate(names)],
        committed=[Committed(0, (0, 0)), Committed(0, (3, 1)), Looked(0, (3, 1)), Committed(0, (4, 1))],
    )  # fmt: skip
    return history, {queue: list(names) for queue, names in HELD.items()}


def lose(history: History, queues: dict[int, list[str]]) -> None:
    queues[1].clear()
    history.received = [r for r in history.received if r.queue == 0]
    history.committed = []


def swap(history: History, queues: dict[int, list[str]]) -> None:
    queues[0][0], queues[0][3] = queues[0][3], queues[0][0]


def repeat(history: History, queues: dict[int, list[str]]) -> None:
    queues[0].append("b1")


def invent(history: History, queues: dict[int, list[str]]) -> None:
    queues[1].append("c1")


def store_refused(history: History, queues: dict[int, list[str]]) -> None:
    queues[1].append("a4")


def misplace(history: History, queues: dict[int, list[str]]) -> None:
    queues[0].append(queues[1].pop())


def change(history: History, queues: dict[int, list[str]]) -> None:
    history.received[2] = Received(0, 0, 2, "b9")


def read_ahead(history: History, queues: dict[int, list[str]]) -> None:
    history.received.append(Received(0, 1, 1, "b3"))


def skip(history: History, queues: dict[int, list[str]]) -> None:
    del history.received[1]


def go_back(history: History, queues: dict[int, list[str]]) -> None:
    history.committed.append(Looked(0, (2, 1)))


def commit_beyond(history: History, queues: dict[int, list[str]]) -> None:
    history.committed.append(Committed(0, (4, 2)))


PLANTED: dict[str, Callable[[History, dict[int, list[str]]], None]] = {
    "lost": lose, "swapped": swap, "duplicated": repeat, "unexpected: c1": invent, "unexpected: a4": store_refused,
    "misplaced": misplace, "changed": change, "ahead": read_ahead, "skipped": skip, "gone back": go_back,
    "beyond": commit_beyond,
}  # fmt: skip


def test_nothing_is_said_about_a_good_history() -> None:
    history, queues = good()
    wanted: Queues = queues
    assert check(history, wanted) == []


@pytest.mark.parametrize("fault", PLANTED)
def test_a_planted_fault_is_found(fault: str) -> None:
    history, queues = good()
    PLANTED[fault](history, queues)
    assert any(found.startswith(fault) for found in check(history, queues)), check(history, queues)


def test_what_retention_deleted_was_not_skipped() -> None:
    history, queues = good()
    history.received = [r for r in history.received if (r.consumer, r.queue, r.offset) != (1, 0, 0)]
    assert check(history, queues) != []
    history.skipped.append(Skipped(1, 0, 0, 1))
    assert check(history, queues) == []
