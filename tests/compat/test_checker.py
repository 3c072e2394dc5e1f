"""The soak's checker must see each kind of fault, and nothing in a good history."""

from __future__ import annotations

from typing import Any

import pytest

from tests.compat.soak.checker import OFTEN, Fact, History

S = 1_000_000_000


def sent(body: str, at: int) -> Fact:
    return {"op": "sent", "body": body, "since": at * S - 1, "at": at * S}


def seen(op: str, body: str, at: int, **more: Any) -> Fact:
    return {"op": op, "body": body, "at": at * S, "group": "g", **more}


def faults(kind: str, facts: list[Fact], *outages: tuple[int, int], strict: bool = True) -> list[str]:
    history = History({"g": kind}, frozenset({"g"} if strict else ()))
    history.add(facts)
    return [fault.split(":")[0] for fault in history.faults([(start * S, end * S) for start, end in outages])]


A, B = "p:normal:0:1:c", "p:normal:0:2:c"
GOOD = [sent(A, 1), seen("got", A, 2), seen("got", A, 8), seen("acked", A, 9)]


def test_a_good_history() -> None:
    assert faults("normal", GOOD) == []


def test_lost() -> None:
    assert faults("normal", [*GOOD, sent(B, 2)]) == ["lost"]
    assert faults("normal", [*GOOD, sent(B, 2), seen("got", B, 3)]) == ["lost"]
    assert faults("normal", [*GOOD, sent(B, 2), seen("got", B, 3), seen("settled", B, 4)]) == []
    assert faults("normal", [*GOOD, {**sent(B, 2), "op": "unsent"}]) == []


def test_after_the_ack() -> None:
    late = [*GOOD, seen("got", A, 10)]
    assert faults("normal", late) == ["after its ack"]
    assert faults("normal", late, (0, 1)) == []  # its send may have been repeated
    assert faults("normal", late, (2, 3)) == ["after its ack"]
    assert faults("normal", late, strict=False) == []


def test_too_often() -> None:
    """Also where an ack is not final."""
    often = [seen("got", A, 2)] * OFTEN
    assert faults("normal", [sent(A, 1), *often, seen("settled", A, 3)], strict=False) == []
    assert faults("normal", [sent(A, 1), *often, seen("got", A, 3), seen("settled", A, 3)], strict=False) == ["too often"]


def test_invented() -> None:
    assert faults("normal", [*GOOD, seen("got", B, 3)]) == ["invented"]


@pytest.mark.parametrize(("order", "expected"), [((1, 2, 3), []), ((1, 3, 2), ["out of order"])])
def test_order(order: tuple[int, ...], expected: list[str]) -> None:
    facts: list[Fact] = []
    for at, number in enumerate(order, 5):
        body = f"p:fifo:lane:{number}:c"
        facts += [sent(body, number), seen("got", body, at), seen("acked", body, at)]
    assert faults("fifo", facts) == expected


def test_early() -> None:
    body = "p:delay:0:1:c"
    facts = [sent(body, 1), seen("got", body, 5, due=5_040), seen("acked", body, 6)]
    assert faults("delay", facts) == []
    facts[1]["due"] = 5_100
    assert faults("delay", facts) == ["early"]


def test_transactions() -> None:
    """What is left undecided is committed by the check-back."""
    undecided, lost = "p:transaction:0:1:u", "p:transaction:0:2:r"
    assert faults("transaction", [sent(undecided, 1), sent(lost, 1)]) == ["lost"]
    came = [seen("got", undecided, 2), seen("acked", undecided, 3)]
    assert faults("transaction", [sent(undecided, 1), sent(lost, 1), *came]) == []
    assert faults("transaction", [sent(lost, 1), seen("got", lost, 3)]) == ["rolled back, and yet delivered"]
