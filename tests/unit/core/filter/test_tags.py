"""Tag expressions: what they want, how they normalise, what is refused and where."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from kourou.core.errors import IllegalFilter
from kourou.core.filter import TagFilter
from kourou.core.filter.tags import TAGS_COUNT_MAX
from kourou.core.filter.text import EXPRESSION_BYTES_MAX
from kourou.core.frame import tag_hash


@pytest.mark.parametrize("expression", [None, "", "*", " ", " * ", "\t\n", "*||", "* || *"])
def test_everything(expression: str | None) -> None:
    wanted = TagFilter(expression)
    assert wanted.matches("a", {})
    assert wanted.matches(None, {})
    assert wanted.matches("", {})
    assert (wanted.expression, wanted.tag_hashes, wanted.tags) == ("*", None, None)


@pytest.mark.parametrize(
    ("expression", "tags", "normalised"),
    [
        ("a", {"a"}, "a"),
        (" a\t", {"a"}, "a"),
        ("b||a", {"a", "b"}, "a || b"),
        ("  a  ||  b  ", {"a", "b"}, "a || b"),
        ("a || a", {"a"}, "a"),
        ("a ||", {"a"}, "a"),
        ("|| a", {"a"}, "a"),
        ("a || || b", {"a", "b"}, "a || b"),
        ("||||a||||", {"a"}, "a"),
        ("order paid || 支付", {"order paid", "支付"}, "order paid || 支付"),
        ("a || *", {"a", "*"}, "* || a"),  # a tag like any other, as RocketMQ has it
    ],
)
def test_tags(expression: str, tags: set[str], normalised: str) -> None:
    wanted = TagFilter(expression)
    assert wanted.tags == frozenset(tags)
    assert wanted.expression == normalised
    assert TagFilter(normalised).expression == normalised
    assert wanted.tag_hashes == frozenset(map(tag_hash, tags))
    assert all(wanted.matches(tag, {}) for tag in tags)
    assert not any(wanted.matches(tag, {"TAGS": "a"}) for tag in (None, "", "A", "c", expression + "x"))


@pytest.mark.parametrize(
    ("expression", "position", "words"),
    [
        ("||", 1, "expected a tag"),
        (" || ", 1, "expected a tag"),
        ("||||||", 1, "expected a tag"),
        ("a | b", 3, "single '|'"),
        ("a || b|c", 7, "single '|'"),
        ("a ||| b", 5, "single '|'"),
        ("a || \ud800", 6, "surrogate"),
        ("x" * (EXPRESSION_BYTES_MAX + 1), 1, str(EXPRESSION_BYTES_MAX)),
        ("||".join(f"{number:04}" for number in range(TAGS_COUNT_MAX + 1)), 6 * TAGS_COUNT_MAX + 1, str(TAGS_COUNT_MAX)),
    ],
)
def test_refused(expression: str, position: int, words: str) -> None:
    with pytest.raises(IllegalFilter, match=r"^filter expression") as error:
        TagFilter(expression)
    assert error.value.position == position
    assert words in str(error.value)


def test_as_many_tags_as_allowed() -> None:
    tags = [f"tag{number}" for number in range(TAGS_COUNT_MAX)]
    assert TagFilter("||".join(tags * 2)).tags == frozenset(tags)


def read(expression: str) -> TagFilter | IllegalFilter:
    try:
        return TagFilter(expression)
    except IllegalFilter as error:
        return error


@settings(deadline=None)
@given(st.text(alphabet="ab|* \t,\ud800", max_size=20))
@example("|")
@example("*||")
def test_any_text_is_read_or_refused(expression: str) -> None:
    found = read(expression)
    if isinstance(found, TagFilter):
        assert TagFilter(found.expression).tags == found.tags
    else:
        assert found.position in range(1, len(expression) + 1)


@settings(deadline=None)
@given(st.lists(st.sampled_from(["a", "b", "c"]), min_size=1))
def test_the_same_meaning_is_the_same_expression(tags: list[str]) -> None:
    backwards = " ||  ".join(reversed(tags))
    assert TagFilter("||".join(tags)).expression == TagFilter(backwards).expression
