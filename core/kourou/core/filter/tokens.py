"""The words of a SQL expression: keywords in any case, names, numbers, 'text' with '' for a quote, signs, comments."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final

from kourou.core.filter.text import fail
from kourou.core.filter.tree import Value

KEYWORDS: Final = frozenset(
    (
        "AND", "BETWEEN", "CONTAINS", "ENDSWITH", "ESCAPE", "FALSE", "IN", "IS", "LIKE", "NOT", "NULL", "OR", "STARTSWITH",
        "TRUE",
    )
)  # fmt: skip
INTEGER_MAX: Final = (1 << 63) - 1

_TOKEN: Final = re.compile(
    r"""
      (?P<blank>   [ \t\n\r\f\v]+ | --[^\n\r]* | /\*.*?\*/ )
    | (?P<word>    [a-z_$][a-z0-9_$.]* )
    | (?P<decimal> (?: [0-9]+\.[0-9]* | \.[0-9]+ ) (?: e[+-]?[0-9]+ )? | [0-9]+e[+-]?[0-9]+ )
    | (?P<integer> [0-9]+ ) l?
    | (?P<text>    ' [^']* (?: '' [^']* )* ' (?!') )
    | (?P<sign>    <> | != | <= | >= | [=<>()+*%,-] | /(?!\*) )
    """,
    re.VERBOSE | re.IGNORECASE | re.ASCII | re.DOTALL,
)


class Kind(Enum):
    KEYWORD = auto()
    NAME = auto()
    LITERAL = auto()
    SIGN = auto()
    END = auto()


@dataclass(frozen=True, slots=True)
class Token:
    kind: Kind
    text: str  # as normalised: keywords in capitals, numbers and signs in their plainest form
    start: int
    value: Value = None  # of a literal

    def __str__(self) -> str:
        """For people, in "found …"."""
        if self.kind is Kind.END:
            return "the end"
        return self.text if len(self.text) <= 40 else f"{self.text[:40]}…"


def tokens_of(expression: str) -> Iterator[Token]:
    """Every token, then one END. Raises IllegalFilter at the first character that begins none."""
    at, end = 0, len(expression)
    while at < end:
        found = _TOKEN.match(expression, at)
        if found is None:
            fail(_hint(expression, at), at)
        if found.lastgroup != "blank":
            _check_separate(expression, found)
            yield _token(str(found.lastgroup), found[str(found.lastgroup)], at)
        at = found.end()
    yield Token(Kind.END, "", end)


def _token(group: str, text: str, start: int) -> Token:
    if group == "word":
        upper = text.upper()
        return Token(Kind.KEYWORD, upper, start) if upper in KEYWORDS else Token(Kind.NAME, text, start)
    if group == "sign":
        return Token(Kind.SIGN, "<>" if text == "!=" else text, start)
    if group == "text":
        return Token(Kind.LITERAL, text, start, text[1:-1].replace("''", "'"))
    if group == "integer":
        digits = text.lstrip("0") or "0"
        if len(digits) > 19 or int(digits) > INTEGER_MAX:
            fail(f"the number is larger than {INTEGER_MAX}", start)
        return Token(Kind.LITERAL, digits, start, int(digits))
    number = float(text)
    if number == float("inf"):
        fail("the number is larger than a double can hold", start)
    return Token(Kind.LITERAL, repr(number), start, number)


def _check_separate(expression: str, found: re.Match[str]) -> None:
    """``5x`` is a slip of the pen and not 5 followed by x."""
    follower = expression[found.end() : found.end() + 1]
    if found.lastgroup in ("integer", "decimal") and (follower.isalnum() or follower in ("_", "$", ".")):
        fail(f"expected the end of a number, found {follower!r}", found.end())


def _hint(expression: str, at: int) -> str:
    character = expression[at]
    if character == "'":
        return "the text that begins here has no closing quote"
    if expression.startswith("/*", at):
        return "the comment that begins here has no end"
    if character in '"`':
        return f"found {character}; text stands in single quotes, names of properties in none"
    return f"no name, number, text or operator begins with {character!r}"
