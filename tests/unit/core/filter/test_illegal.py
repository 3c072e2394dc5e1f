"""What is refused, where the error points, and the limits that keep parsing and asking cheap."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kourou.core.errors import BY_CODE, IllegalFilter, from_code
from kourou.core.filter import SqlFilter
from kourou.core.filter.parser import DEPTH_MAX, IN_COUNT_MAX, LIKE_CHARACTERS_MAX
from kourou.core.filter.text import EXPRESSION_BYTES_MAX


@pytest.mark.parametrize(
    ("expression", "position", "words"),
    [
        # the end
        ("", 1, "expected a property, a number, text, NOT or (, found the end"),
        ("   ", 4, "found the end"),
        ("-- nothing", 11, "found the end"),
        ("a = 1 AND", 10, "found the end"),
        ("a =", 4, "found the end"),
        ("(a = 1", 7, "expected an operator or ), found the end"),
        ("a IN ('x', 'y'", 15, "expected , or ), found the end"),
        ("a BETWEEN 1", 12, "expected AND, found the end"),
        ("a IS", 5, "expected NULL, found the end"),
        # what can't follow
        ("a = 1 b", 7, "expected AND, OR or the end, found b"),
        ("a = 1)", 6, "expected AND, OR or the end, found )"),
        ("a >> 1", 4, "found >"),
        ("price >>> 'x", 11, "no closing quote"),
        ("a = 1 OR OR b = 2", 10, "found OR"),
        ("a IS 5", 6, "expected NULL, found 5"),
        ("a NOT 5", 7, "expected IN, BETWEEN, LIKE"),
        ("a NOT NULL", 7, "expected IN, BETWEEN, LIKE"),
        ("a IN 'x'", 6, "expected (, found 'x'"),
        ("a IN ()", 7, "expected text in single quotes or a number, found )"),
        ("a IN ('x',)", 11, "expected text in single quotes or a number, found )"),
        ("a IN (b)", 7, "found b"),
        ("a IN (-'x')", 8, "expected a number, found 'x'"),
        ("a CONTAINS 5", 12, "expected text in single quotes, found 5"),
        ("a LIKE b", 8, "expected text in single quotes, found b"),
        ("a LIKE 'x' ESCAPE 5", 19, "expected text in single quotes"),
        ("a = NOT b", 5, "expected a property, a number, text or (, found NOT"),
        ("and = 1", 1, "found AND"),
        ("*", 1, "found *"),
        ("a == 1", 4, "found ="),
        ("a = 1 && b = 2", 7, "begins with '&'"),
        ("a = '" + "x" * 100 + "' 5", 108, "found 5"),
        ("a = 5 '" + "x" * 100 + "'", 7, "xxx…"),
        # comparisons don't chain
        ("a < 5 < 7", 7, "don't chain"),
        ("a = 1 = TRUE", 7, "don't chain"),
        ("a IS NULL IS NULL", 11, "don't chain"),
        ("a IN ('x') NOT IN ('y')", 12, "don't chain"),
        # characters
        ('"a" = 1', 1, "single quotes"),
        ("a = `b`", 5, "single quotes"),
        ("a = 'x", 5, "no closing quote"),
        ("a = 'x'' OR b = 1", 5, "no closing quote"),
        ("a /* b", 3, "comment that begins here has no end"),
        ("a # 1", 3, "'#'"),
        ("价 = 1", 1, "'价'"),
        ("a ! 1", 3, "'!'"),
        ("a = 5x", 6, "expected the end of a number, found 'x'"),
        ("a = 1.2.3", 8, "expected the end of a number, found '.'"),
        ("a = 1e", 6, "expected the end of a number, found 'e'"),
        ("a = 0x1F", 6, "expected the end of a number, found 'x'"),
        ("a = \ud800", 5, "surrogate"),
        ("a = 1\x00", 6, "'\\x00'"),
        # numbers
        ("a = 9223372036854775808", 5, "larger than 9223372036854775807"),
        ("a = " + "9" * 5000, 5, "larger than 9223372036854775807"),
        ("a = 1e999", 5, "larger than a double"),
        # sorts
        ("5", 1, "expected a condition"),
        ("'x'", 1, "expected a condition"),
        ("a + 1", 1, "expected a condition"),
        ("-a", 1, "expected a condition"),
        ("a = 1 AND 5", 11, "expected a condition"),
        ("a = 1 OR (5 + 3) OR b", 10, "expected a condition"),
        ("NOT 5", 5, "expected a condition"),
        ("a > 'x'", 5, "found text"),
        ("'x' < a", 1, "found text"),
        ("a > TRUE", 5, "found a condition"),
        ("(a = 1) > 5", 1, "found a condition"),
        ("a > NULL", 5, "found a condition"),
        ("a + 'x' = 1", 5, "found text"),
        ("-'x' = 1", 2, "found text"),
        ("a * (b = 1) > 1", 5, "found a condition"),
        ("a BETWEEN 'a' AND 'b'", 11, "found text"),
        ("a = NULL", 5, "IS NULL"),
        ("NULL <> a", 1, "IS NULL"),
        ("'x' IN ('x')", 1, "expected the name of a property before IN, found text"),
        ("a + 1 IN (5)", 1, "expected the name of a property before IN, found a number"),
        ("(a = 1) LIKE 'x'", 1, "before LIKE, found a condition"),
        ("5 CONTAINS 'x'", 1, "before CONTAINS"),
        # can never match
        ("a BETWEEN 5 AND 1", 11, "nothing is between 5 and 1"),
        ("a BETWEEN -1 AND -2.5", 11, "nothing is between -1 and -2.5"),
        ("a CONTAINS ''", 12, "expected text for CONTAINS"),
        # escapes
        ("a LIKE 'x' ESCAPE '!!'", 19, "expected one character"),
        ("a LIKE 'x' ESCAPE ''", 19, "expected one character"),
        ("a LIKE 'x!y' ESCAPE '!'", 8, "must stand before"),
        ("a LIKE 'x!' ESCAPE '!'", 8, "must stand before"),
    ],
)  # fmt: skip
def test_refused(expression: str, position: int, words: str) -> None:
    with pytest.raises(IllegalFilter) as error:
        SqlFilter(expression)
    assert words in str(error.value)
    assert error.value.position == position
    assert f"column {position}:" in str(error.value)


def read(expression: str) -> SqlFilter | IllegalFilter:
    try:
        return SqlFilter(expression)
    except IllegalFilter as error:
        return error


def test_none_is_empty() -> None:
    with pytest.raises(IllegalFilter, match="found the end"):
        SqlFilter(None)


def test_length() -> None:
    longest = "a = '" + "x" * (EXPRESSION_BYTES_MAX - 6) + "'"
    assert SqlFilter(longest).matches(None, {"a": "x" * (EXPRESSION_BYTES_MAX - 6)})
    for too_long in (longest + " ", "a = '" + "价" * 3000 + "'"):
        with pytest.raises(IllegalFilter, match=f"limit is {EXPRESSION_BYTES_MAX}"):
            SqlFilter(too_long)


NESTS = {
    "parentheses": ("(", "a = 1", ")"),
    "conditions": ("(", "a = 1", " AND b = 2)"),
    "every operator": ("(", "a = 1", ") = TRUE AND b = 2 OR c = 3"),
    "null tests": ("(", "a = 1", ") IS NOT NULL AND b = 2 OR c = 3"),
    "not": ("NOT ", "a = 1", ""),
    "signs": ("- ", "a", ""),
    "sums": ("1 + (2 * (", "a", "))"),
    "to the right": ("a = 1 AND (b = 2 OR ", "c = 3", ")"),
}


@pytest.mark.parametrize("nest", NESTS)
def test_depth(nest: str) -> None:
    """As deep as it may be it works, also with half of the stack used up; deeper is refused and never a RecursionError."""
    left, middle, right = NESTS[nest]

    def accepted(count: int) -> bool:
        text = left * count + middle + right * count
        found = read(f"{text} = 1" if nest in ("signs", "sums") else text)
        if isinstance(found, SqlFilter):
            found.matches("a", {"a": "1", "b": "2", "c": "3"})
            return True
        assert f"nested deeper than {DEPTH_MAX}" in str(found) or "limit is" in str(found)
        return False

    def further_down(frames: int, count: int) -> bool:
        return further_down(frames - 1, count) if frames else accepted(count)

    deepest = max(count for count in range(2 * DEPTH_MAX) if accepted(count))
    assert deepest >= DEPTH_MAX // 4 - 1
    assert further_down(500, deepest)
    assert not any(accepted(count) for count in (deepest + 1, 2 * DEPTH_MAX, 300, 1_000, 4_000))


@pytest.mark.parametrize("joint", [" OR a = ", " AND a = "])
def test_long_chains_are_not_deep(joint: str) -> None:
    wanted = SqlFilter("a = 0" + "".join(f"{joint}{number}" for number in range(500)))
    assert wanted.matches(None, {"a": "499"}) is (joint == " OR a = ")


@pytest.mark.parametrize(("sign", "result"), [("+", 4001), ("-", -3999), ("*", 1), ("/", 1), ("%", 0)])
def test_long_sums_are_not_deep(sign: str, result: int) -> None:
    assert SqlFilter("a" + f"{sign}1" * 4000 + f" = {result}").matches(None, {"a": "1"})


def test_entries_after_in() -> None:
    entries = [str(number) for number in range(IN_COUNT_MAX)]
    assert SqlFilter(f"a IN ({','.join(entries)})").matches(None, {"a": "999"})
    with pytest.raises(IllegalFilter, match=f"more than {IN_COUNT_MAX} entries"):
        SqlFilter(f"a IN ({','.join(entries)},1000)")


def test_patterns_after_like_are_counted_together() -> None:
    half = "_" * (LIKE_CHARACTERS_MAX // 2)
    assert SqlFilter(f"a LIKE '{half}' OR a LIKE '{half}'").matches(None, {"a": half})
    with pytest.raises(IllegalFilter, match=f"more than {LIKE_CHARACTERS_MAX} characters") as error:
        SqlFilter(f"a LIKE '{half}' OR a LIKE '{half}_'")
    assert error.value.position == len(f"a LIKE '{half}' OR a LIKE ") + 1


def test_the_error_travels() -> None:
    assert BY_CODE[IllegalFilter.code] is IllegalFilter
    assert IllegalFilter.code == 115
    assert not IllegalFilter.retry
    received = from_code(115, "filter expression, column 3: …")
    assert isinstance(received, IllegalFilter)
    assert received.position is None


FRAGMENTS = (
    "a", "b", "TAGS", "'x'", "'it''s'", "''", "'%_'", "5", "-3", "1.5", "1e9", "TRUE", "FALSE", "NULL", "=", "<>", "!=", "<",
    "<=", ">", ">=", "+", "-", "*", "/", "%", "(", ")", ",", "AND", "OR", "NOT", "IS", "IN", "BETWEEN", "LIKE", "ESCAPE",
    "CONTAINS", "STARTSWITH", "ENDSWITH", "--", "/*", "*/", "'", "IS NULL", "IN ('x')", "= 1", "\n", "\0", "价",
)  # fmt: skip
numbers = st.from_regex(r"[-+]?\d+(\.\d+)?", fullmatch=True)
properties = st.dictionaries(st.sampled_from(["a", "b"]), st.text(max_size=5) | numbers)


@settings(deadline=None)
@given(st.lists(st.sampled_from(FRAGMENTS), max_size=15).map(" ".join) | st.text(max_size=30), properties)
def test_any_text_is_read_or_refused(expression: str, given_: dict[str, str]) -> None:
    found = read(expression)
    if isinstance(found, SqlFilter):
        assert found.matches("a", given_) in (True, False)
        assert SqlFilter(found.expression).expression == found.expression
    else:
        assert found.position in range(1, len(expression) + 2)
