"""What a shared group's history, and the confirmed log, must not show: each checker meets one planted fault."""

from __future__ import annotations

import pytest

from kourou.core.frame import HALF_ROOM, TIMER_ROOM
from kourou.core.sources import Reason, Source
from tests.sim.checkers import HALF, History, Sent
from tests.sim.checkers import check as check_history
from tests.sim.contents import Content, Records
from tests.sim.sharedcheckers import Acknowledged, Event, Got, check
from tests.sim.sharing import Receipt
from tests.sim.truth import Folded
from tests.sim.violation import Violation

FIRST, SECOND = Receipt(1, 0, 5, 1), Receipt(1, 0, 5, 2)


def got(consumer: str, receipt: Receipt, at: int, name: str = "a") -> Got:
    return Got(consumer, receipt, name, at, at + 1)


def acknowledged(receipt: Receipt, at: int) -> Acknowledged:
    return Acknowledged("x", receipt, at, at + 1)


def test_nothing_is_said_about_a_good_history() -> None:
    assert check([got("x", FIRST, 10), got("y", SECOND, 500), acknowledged(SECOND, 600)]) == []
    assert check([got("x", FIRST, 10), acknowledged(FIRST, 20), got("y", Receipt(1, 0, 6, 1), 30, "b")]) == []


@pytest.mark.parametrize(
    ("said", "history"),
    [
        ("again", [got("x", FIRST, 10), acknowledged(FIRST, 20), got("y", SECOND, 500)]),
        ("two owners", [got("x", FIRST, 10), got("y", SECOND, 500), acknowledged(FIRST, 600)]),
        ("changed", [got("x", FIRST, 10), got("y", SECOND, 500, "b")]),
    ],
)
def test_a_planted_fault_is_found(said: str, history: list[Event]) -> None:
    assert [text.partition(":")[0] for text in check(history)] == [said]


def test_decisions() -> None:
    committed = Sent(0, 0, ("a",), "ok", HALF, "commit", "ok")
    silent = Sent(0, 0, ("b",), "ok", HALF, "silent")
    history = History(sent=[committed, silent])
    assert check_history(history, {0: ["a"]}) == []
    assert [text.partition(":")[0] for text in check_history(history, {0: []})] == ["lost"]
    assert [text.partition(":")[0] for text in check_history(history, {0: ["a", "b"]})] == ["undecided"]
    history.lost.add("a")
    assert check_history(history, {0: []}) == []


def waiting() -> Folded:
    folded = Folded()
    folded.add(Content(0, TIMER_ROOM, 0, 100, ("t",), due_ms=(500,)))
    folded.add(Content(50, HALF_ROOM, 0, 100, ("h",)))
    folded.add(Records(90, 200, ({"t": "out", "g": "g", "q": 0, "o": [0], "d": 400},)))
    return folded


def test_what_waits_is_moved_once_and_in_time() -> None:
    folded = waiting()
    folded.add(Content(200, 0, 0, 500, ("t",), sources=(Source(Reason.TIMER, 0, 0),)))
    folded.add(Content(300, 0, 1, 510, ("h",), sources=(Source(Reason.COMMIT, 50, 0),)))
    folded.add(Records(400, 520, ({"t": "out", "g": "g", "q": 0, "o": [0], "d": 900},)))
    folded.add(Records(500, 600, ({"t": "ack", "g": "g", "e": [[0, [0]]]},)))
    assert (folded.queues[0], folded.decided, folded.timers, folded.halves) == (["t", "h"], {"h": "commit"}, {}, {})


@pytest.mark.parametrize(
    "contents",
    [
        [Content(200, 0, 0, 499, ("t",), sources=(Source(Reason.TIMER, 0, 0),))],
        [Content(200, 0, 0, 600, ("t",), sources=(Source(Reason.TIMER, 9, 0),))],
        [Content(200, 0, n, 600, ("t",), sources=(Source(Reason.TIMER, 0, 0),)) for n in (0, 1)],
        [Records(300, 300, ({"t": "tx-", "e": [[50, 0]]},)), Records(400, 300, ({"t": "tx-", "e": [[50, 0]]},))],
        [
            Records(300, 300, ({"t": "tx-", "e": [[50, 0]]},)),
            Content(400, 0, 0, 510, ("h",), sources=(Source(Reason.COMMIT, 50, 0),)),
        ],
        [Records(300, 399, ({"t": "out", "g": "g", "q": 0, "o": [0], "d": 900},))],
        [
            Records(300, 300, ({"t": "ack", "g": "g", "e": [[0, [0]]]},)),
            Records(400, 500, ({"t": "out", "g": "g", "q": 0, "o": [0], "d": 900},)),
        ],
        [Content(200, 0, 1, 500, ("x",))],
    ],
    ids=["early", "never waited", "twice", "rolled back twice", "decided twice", "leased", "settled", "a gap"],
)
def test_a_fault_in_the_log_is_found(contents: list[Content | Records]) -> None:
    folded = waiting()
    with pytest.raises(Violation):
        for content in contents:
            folded.add(content)
