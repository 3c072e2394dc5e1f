"""Linearizable or not: known cases, and random runs of a real register, whose histories always are."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from tests.chaos.checkers import registers
from tests.chaos.checkers.registers import linearizable
from tests.chaos.history import Register
from tests.unit.chaos.story import history, name


def test_one_after_the_other() -> None:
    assert linearizable([])
    assert linearizable(
        [name("get", 0, 1), name("create", 2, 3, "x"), name("get", 4, 5, "x"), name("delete", 6, 7), name("get", 8, 9)]
    )


def test_an_old_read() -> None:
    assert not linearizable([name("create", 0, 1, "x"), name("get", 2, 3, None)])
    assert not linearizable([name("create", 0, 1, "x"), name("delete", 2, 3), name("get", 4, 5, "x")])


def test_at_a_time_either_order_will_do() -> None:
    writes = [name("create", 0, 10, "x"), name("delete", 0, 10)]
    assert linearizable([*writes, name("get", 20, 21, "x")])
    assert linearizable([*writes, name("get", 20, 21)])


def test_reads_agree_on_the_order() -> None:
    """Both reads lie within the write, but the later one can't be older."""
    assert linearizable([name("create", 0, 10, "x"), name("get", 1, 2), name("get", 3, 4, "x")])
    assert not linearizable([name("create", 0, 10, "x"), name("get", 1, 2, "x"), name("get", 3, 4)])


def test_what_is_unknown_may_happen_late_or_never() -> None:
    lost = name("create", 0, 1, "x", "unknown")
    assert linearizable([lost, name("get", 50, 51)])
    assert linearizable([lost, name("get", 50, 51), name("get", 60, 61, "x")])
    assert not linearizable([lost, name("get", 50, 51, "x"), name("get", 60, 61)])


def test_what_was_refused_did_nothing() -> None:
    assert not linearizable([name("create", 0, 1, "x", "refused"), name("get", 2, 3, "x")])


def test_a_conflict_is_a_read() -> None:
    conflict = name("create", 4, 5, "y", "refused", conflict=True)
    assert linearizable([name("create", 0, 1, "x"), conflict])
    assert not linearizable([name("create", 0, 1, "y"), conflict])
    assert not linearizable([conflict])


def test_a_second_value_needs_a_deletion() -> None:
    assert not linearizable([name("create", 0, 1, "x"), name("create", 2, 3, "y")])
    assert linearizable([name("create", 0, 1, "x"), name("delete", 0, 9, outcome="unknown"), name("create", 2, 3, "y")])


def test_the_search_is_bounded() -> None:
    many = [name("delete" if n % 2 else "create", 0, 1, f"v{n}", "unknown") for n in range(40)]
    assert linearizable([*many, name("get", 5, 6, "never")], states_max=1000) is None
    story = history()
    story.registers = [*many, name("get", 5, 6, "never")]
    verdict = registers.check(story, states_max=1000)
    assert verdict.facts == {"keys": 1, "operations": 41, "undecided": 1}


def test_the_fault_tells_the_history() -> None:
    story = history()
    story.registers = [name("create", 0, 1, "x"), name("get", 2, 3, None)]
    (fault,) = registers.check(story).faults
    assert fault.startswith("not linearizable: k:")
    assert "create x" in fault


def ran(seed: int, *, stale: bool) -> list[Register]:
    """Operations of several clients on one register: each takes effect at some moment between its begin and its end."""
    rng = random.Random(seed)
    planned = sorted((rng.uniform(0, 100), rng.uniform(0, 5), rng.uniform(0, 5)) for _ in range(rng.randint(1, 25)))
    value: str | None = None
    found: list[Register] = []
    for moment, before, after in planned:
        start, end = moment - before, moment + after
        match rng.choice(("create", "delete", "get", "get")):
            case "create":
                wanted = rng.choice("xy")
                if value is None or value == wanted:
                    value = wanted
                    outcome = rng.choice(("ok", "ok", "unknown"))
                    found.append(name("create", start, end, wanted, outcome))
                else:
                    found.append(name("create", start, end, wanted, "refused", conflict=True))
            case "delete":
                value = None
                found.append(name("delete", start, end, None, rng.choice(("ok", "ok", "unknown"))))
            case _:
                found.append(name("get", start, end, value))
    if stale:
        found.append(name("get", 200, 201, value))
        found.append(name("get", 202, 203, "x" if value is None else None))
    return found


@given(st.integers(0, 2**32))
def test_what_a_register_does_is_linearizable(seed: int) -> None:
    assert linearizable(ran(seed, stale=False))


@given(st.integers(0, 2**32))
def test_two_reads_in_a_row_that_differ_are_not(seed: int) -> None:
    operations = ran(seed, stale=True)
    if all(one.span.outcome != "unknown" for one in operations):
        assert not linearizable(operations)
