"""What both kinds have in common: how they are made, compared between the members of a group, and skipped by tag."""

from __future__ import annotations

import pytest

from kourou.core.filter import Filter, IllegalFilter, SqlFilter, TagFilter, parse_filter
from kourou.core.frame import tag_hash


def test_kinds() -> None:
    tags: Filter = parse_filter("tag", "a || b")
    sql: Filter = parse_filter("sql", "a > 5")
    assert (tags.kind, type(tags)) == ("tag", TagFilter)
    assert (sql.kind, type(sql)) == ("sql", SqlFilter)
    assert parse_filter("tag", None).matches(None, {})
    assert repr(tags) == "TagFilter('a || b')"
    assert repr(sql) == "SqlFilter('a > 5')"
    with pytest.raises(IllegalFilter, match="'xpath'; allowed are tag, sql"):
        parse_filter("xpath", "//a")
    with pytest.raises(IllegalFilter, match="column 1"):
        parse_filter("sql", "*")


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("a>5 and b='x'", "a  >\n5 AND b = 'x' -- comment", True),
        ("a != 1.50", "a <> 1.5", True),
        ("a = 1L", "a = 01", True),
        ("a is not null", "a IS NOT NULL", True),
        ("a IN('x' , 'y')", "a IN ( 'x','y' )", True),
        ("a = 'x'", "A = 'x'", False),
        ("a = 'x'", "a = 'X'", False),
        ("a = 'x y'", "a = 'x  y'", False),
        ("a = 'it''s'", "a = 'its'", False),
        ("a = '1'", "a = 1", False),
        ("a = 1", "a = 1.0", False),  # compares the same, calculates differently
    ],
)
def test_normalised_sql(one: str, other: str, same: bool) -> None:
    left, right = parse_filter("sql", one), parse_filter("sql", other)
    assert (left.expression == right.expression) is same
    assert parse_filter("sql", left.expression).expression == left.expression


@pytest.mark.parametrize(
    ("expression", "tags"),
    [
        ("a > 5", None),
        ("TAGS = 'x'", {"x"}),
        ("'x' = TAGS", {"x"}),
        ("TAGS IN ('x', 'y')", {"x", "y"}),
        ("TAGS = 'x' AND a > 5", {"x"}),
        ("a > 5 AND (b = 1 AND TAGS = 'x')", {"x"}),
        ("TAGS = 'x' OR TAGS = 'y'", {"x", "y"}),
        ("TAGS = 'x' AND a = 1 OR TAGS = 'y' AND a = 2", {"x", "y"}),
        ("TAGS = 'x' OR a > 5", None),
        ("TAGS = 'x' AND TAGS = 'y'", set()),
        ("TAGS IN ('x', 'y') AND TAGS IN ('y', 'z')", {"y"}),
        ("TAGS <> 'x'", None),
        ("NOT TAGS = 'x'", None),
        ("TAGS IN (5)", None),  # 5.0 is in, too
        ("TAGS = 5", None),
        ("(TAGS = 'x') IS NULL", None),
        ("TAGS LIKE 'x'", None),
        ("tags = 'x'", None),
        ("TAGS = a", None),
    ],
)
def test_tags_of_sql(expression: str, tags: set[str] | None) -> None:
    found = SqlFilter(expression).tag_hashes
    assert found == (None if tags is None else {tag_hash(tag) for tag in tags})


def test_names_of_sql() -> None:
    wanted = SqlFilter("a > b + -c AND (d IN ('x') OR e LIKE 'x' OR NOT f) AND g IS NULL AND TAGS = h AND i CONTAINS 'x'")
    assert wanted.names == {*"abcdefghi", "TAGS"}
    assert SqlFilter("TRUE").names == frozenset()
