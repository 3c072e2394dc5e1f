"""LIKE patterns against a matcher that tries everything."""

from __future__ import annotations

from functools import cache

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from kourou.core.filter.like import matcher


def like(text: str, pattern: str, escape: str | None) -> bool:
    """By the book: % takes any number of characters, _ one."""

    @cache
    def rest(at: int, of: int) -> bool:
        if of == len(pattern):
            return at == len(text)
        if pattern[of] == escape:
            return text[at : at + 1] == pattern[of + 1] and rest(at + 1, of + 2)
        if pattern[of] == "%":
            return rest(at, of + 1) or (at < len(text) and rest(at + 1, of))
        return at < len(text) and pattern[of] in ("_", text[at]) and rest(at + 1, of + 1)

    return rest(0, 0)


@pytest.mark.parametrize(
    ("pattern", "escape", "yes", "no"),
    [
        ("abc", None, ["abc"], ["", "ab", "abcd", "ABC", "xabc", "abc\n"]),
        ("", None, [""], ["a", "\n"]),
        ("%", None, ["", "a", "a\nb"], []),
        ("%%", None, ["", "a"], []),
        ("_", None, ["a", "\n", "支"], ["", "ab"]),
        ("a%", None, ["a", "ab", "a\n"], ["", "ba"]),
        ("%a", None, ["a", "ba", "aba"], ["", "ab", "a\n"]),
        ("%a%", None, ["a", "bab"], ["", "b"]),
        ("a%a", None, ["aa", "aba"], ["a"]),  # head and tail don't share a character
        ("ab%ba", None, ["abba", "abxba"], ["aba"]),
        ("%ab%ab%", None, ["abab", "ab-ab"], ["aba", "ab"]),
        ("a_%_c", None, ["abbc", "abxbc"], ["abc", "ac"]),
        (".*", None, [".*"], ["ab", ""]),  # no regular expression
        ("[a]^$", None, ["[a]^$"], ["a"]),
        ("100\\%", "\\", ["100%"], ["1000", "100\\%"]),
        ("a!_b!!%", "!", ["a_b!", "a_b!x"], ["axb!", "a_b"]),
        ("%%a", "%", ["%a"], ["a", "xa"]),
        ("a\\%", None, ["a\\", "a\\b"], ["a%"]),  # without ESCAPE a backslash is one
    ],
)
def test_patterns(pattern: str, escape: str | None, yes: list[str], no: list[str]) -> None:
    matches = matcher(pattern, escape)
    assert [text for text in yes if not matches(text)] == []
    assert [text for text in no if matches(text)] == []
    assert all(like(text, pattern, escape) for text in yes)


@settings(deadline=None)
@given(st.text(alphabet="ab\n", max_size=12), st.text(alphabet="ab%_", max_size=8))
@example("aabaab", "%a_b")
def test_agrees_with_trying_everything(text: str, pattern: str) -> None:
    assert matcher(pattern, None)(text) is like(text, pattern, None)


@settings(deadline=None)
@given(
    st.text(alphabet="a%_!", max_size=10),
    st.lists(st.sampled_from(["a", "%", "_", "!!", "!%", "!_"]), max_size=8).map("".join),
)
def test_agrees_with_escapes(text: str, pattern: str) -> None:
    assert matcher(pattern, "!")(text) is like(text, pattern, "!")


def test_no_blow_up() -> None:
    """Backtracking would take longer than the universe has been there."""
    assert not matcher("%a" * 500 + "b", None)("a" * 5_000)
    assert not matcher("%a%_" * 200 + "b%", None)("a" * 5_000)
