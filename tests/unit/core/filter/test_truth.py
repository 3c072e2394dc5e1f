"""What SQL expressions say about messages: true, false or unknown, one line each."""

from __future__ import annotations

import pytest

from kourou.core.filter import SqlFilter

PROPERTIES = {
    "n": "42",
    "m": "-7",
    "price": "19.99",
    "big": "9223372036854775807",
    "huge": "9223372036854775808",
    "region": "eu",
    "name": "it's 100% sure",
    "yes": "True",
    "no": "no",
    "empty": "",
    "a.b": "dotted",
    "$x": "1",
    "KEYS": "k1 k2",
    "TAGS": "not the tag",
}
T, F, NULL = True, False, None


def truth(expression: str) -> bool | None:
    """As far as one can see from outside: NULL is what neither it nor its contrary matches."""
    yes = SqlFilter(expression).matches("paid", PROPERTIES)
    no = SqlFilter(f"NOT ({expression}\n)").matches("paid", PROPERTIES)
    assert not (yes and no)
    return True if yes else False if no else None


TABLE: list[tuple[str, bool | None]] = [
    # equality: text with text exactly, text with numbers as numbers, text with TRUE and FALSE as truth
    ("region = 'eu'", T),
    ("'eu' = region", T),
    ("region = 'EU'", F),
    ("region <> 'us'", T),
    ("region != 'eu'", F),
    ("n = '42.0'", F),
    ("n = '42'", T),
    ("n = 42", T),
    ("n = 42.0", T),
    ("n = 042", T),
    ("n = 42L", T),
    ("42 = n", T),
    ("price = 19.99", T),
    ("region = 5", NULL),
    ("region <> 5", NULL),
    ("empty = ''", T),
    ("empty = 0", NULL),
    ("yes = TRUE", T),
    ("TRUE = yes", T),
    ("no = TRUE", F),
    ("no = FALSE", T),
    ("no <> TRUE", T),
    ("5 = TRUE", F),
    ("1 = 1", T),
    ("1 = 1.0", T),
    ("'1' = 1", T),
    ("'a' = 'a'", T),
    ("n = m", F),
    ("region = region", T),
    ("big = 9223372036854775807", T),
    ("big = 9223372036854775806", F),
    ("huge > 9223372036854775807", T),
    ("a.b = 'dotted'", T),
    ("$x = 1", T),
    ("name = 'it''s 100% sure'", T),
    ("REGION = 'eu'", NULL),  # names have a case
    # the system's properties
    ("TAGS = 'paid'", T),
    ("tags = 'paid'", NULL),
    ("TAGS IN ('x', 'paid')", T),
    ("KEYS CONTAINS 'k2'", T),
    # order: of numbers alone
    ("n > 41", T),
    ("n > 42", F),
    ("n >= 42", T),
    ("n < 42.5", T),
    ("n <= 41.9", F),
    ("41 < n", T),
    ("price > 10", T),
    ("price > 20", F),
    ("m < 0", T),
    ("m < -7.5", F),
    ("n > m", T),
    ("region > 5", NULL),
    ("n > region", NULL),
    ("5 > 3", T),
    # NULL
    ("missing = 1", NULL),
    ("missing <> 1", NULL),
    ("missing = 'x'", NULL),
    ("'x' <> missing", NULL),
    ("missing = missing", NULL),
    ("missing > 1", NULL),
    ("missing BETWEEN 1 AND 2", NULL),
    ("missing NOT BETWEEN 1 AND 2", NULL),
    ("missing IN ('x')", NULL),
    ("missing NOT IN ('x')", NULL),
    ("missing LIKE '%'", NULL),
    ("missing NOT LIKE '%'", NULL),
    ("missing CONTAINS 'x'", NULL),
    ("missing NOT CONTAINS 'x'", NULL),
    ("missing", NULL),
    ("NULL", NULL),
    ("missing IS NULL", T),
    ("missing IS NOT NULL", F),
    ("region IS NULL", F),
    ("region is not null", T),
    ("empty IS NULL", F),
    ("NULL IS NULL", T),
    ("(missing = 1) IS NULL", T),
    ("(region = 'us') IS NULL", F),
    ("region + 1 IS NULL", T),
    ("n / 0 IS NULL", T),
    # three-valued logic
    ("TRUE AND NULL", NULL),
    ("FALSE AND NULL", F),
    ("NULL AND FALSE", F),
    ("NULL AND TRUE", NULL),
    ("TRUE OR NULL", T),
    ("NULL OR TRUE", T),
    ("NULL OR FALSE", NULL),
    ("FALSE OR FALSE", F),
    ("TRUE AND TRUE", T),
    ("NOT NULL", NULL),
    ("NOT FALSE", T),
    ("NOT NOT TRUE", T),
    ("region > 5 OR n = 42", T),  # what does not convert spoils its own comparison only
    # precedence
    ("TRUE OR TRUE AND FALSE", T),
    ("(TRUE OR TRUE) AND FALSE", F),
    ("NOT FALSE AND FALSE", F),
    ("NOT FALSE OR TRUE", T),
    ("NOT n = 5", T),
    ("NOT n IN ('42')", F),
    ("NOT missing IS NULL", F),
    ("1 + 2 * 3 = 7", T),
    ("(1 + 2) * 3 = 9", T),
    ("10 - 4 - 3 = 3", T),
    ("24 / 4 / 2 = 3", T),
    ("-n + 50 = 8", T),
    ("2 - -n = 44", T),
    ("- - n = 42", T),
    ("+n = 42", T),
    ("(n > 5) = TRUE", T),
    ("TRUE = (n > 5)", T),
    ("(n > 5) = (m > 5)", F),
    ("(n > 5) = yes", T),
    ("(n > 5) = 1", F),
    # a property alone
    ("yes", T),
    ("no", F),
    ("NOT no", T),
    ("yes AND NOT no", T),
    ("n", F),
    # BETWEEN: both ends count
    ("n BETWEEN 42 AND 42", T),
    ("n BETWEEN 1 AND 41", F),
    ("n NOT BETWEEN 1 AND 41", T),
    ("n NOT BETWEEN 50 AND 40", T),
    ("n BETWEEN m AND 50", T),
    ("n BETWEEN missing AND 50", NULL),
    ("n BETWEEN missing AND 5", F),
    ("n BETWEEN 41 AND 43 AND yes", T),
    ("n BETWEEN 40 + 1 AND 40 + 3", T),
    ("price BETWEEN 19.9 AND 20", T),
    ("m BETWEEN -8 AND -6", T),
    # IN
    ("region IN ('us', 'eu')", T),
    ("region IN ('us')", F),
    ("region NOT IN ('us')", T),
    ("n IN ('42.0')", F),
    ("n IN (1, 42)", T),
    ("price IN (19.99)", T),
    ("m IN (-7)", T),
    ("n IN (1, 'x')", F),
    ("region IN (1, 2)", NULL),
    ("region IN (1, 'eu')", T),
    # LIKE and RocketMQ's own
    ("region LIKE 'e%'", T),
    ("region LIKE 'e_'", T),
    ("region NOT LIKE '_'", T),
    ("name LIKE '%100!%%' ESCAPE '!'", T),
    ("name LIKE 'it''s%'", T),
    ("name CONTAINS '100%'", T),
    ("name CONTAINS '100_'", F),
    ("name NOT CONTAINS 'x'", T),
    ("name STARTSWITH 'it'''", T),
    ("name STARTSWITH 'sure'", F),
    ("name NOT STARTSWITH 'x'", T),
    ("name ENDSWITH 'sure'", T),
    ("name NOT ENDSWITH 'sure'", F),
    # arithmetic
    ("n + 1 = 43", T),
    ("n + 1 = '43'", T),
    ("n - 2 = 40", T),
    ("n * 2 = 84", T),
    ("n / 5 = 8", T),
    ("n / 5.0 = 8.4", T),
    ("m / 2 = -3", T),
    ("7 / -2 = -3", T),
    ("m % 4 = -3", T),
    ("n % -5 = 2", T),
    ("n % 2 = 0", T),
    ("7.5 % 2 = 1.5", T),
    ("n % 0 = 0", NULL),
    ("n / 0.0 = 0", NULL),
    ("n % 0.0 = 0", NULL),
    ("1e308 * 10 > 0", NULL),
    ("big + 1 > big", T),  # carried on as a double
    ("big * big > 8e37", T),
    ("region * 2 = 4", NULL),
    ("missing + 1 = 1", NULL),
    ("n+1>m*2", T),
    ("n-1 = 41", T),
    # keywords in any case, comments, blanks
    ("n between 1 and 50 Or false", T),
    ("n /* the answer */ = 42 -- to everything", T),
    ("n\n=\t42", T),
    ("-- first\nn = 42", T),
]


@pytest.mark.parametrize(("expression", "expected"), TABLE, ids=[expression for expression, _ in TABLE])
def test_truth(expression: str, expected: bool | None) -> None:
    assert truth(expression) is expected


@pytest.mark.parametrize(
    ("text", "is_number"),
    [
        ("0", T), ("-0", T), ("+5", T), ("007", T), ("1.", T), (".5", T), ("1e3", T), ("-1.5E-3", T), ("5" * 64, T),
        ("", F), (" 5", F), ("5 ", F), ("5\n", F), ("1_0", F), ("٣", F), ("²", F), ("0x10", F), ("5L", F), ("1e", F),
        (".", F), ("NaN", F), ("inf", F), ("-Infinity", F), ("1e999", F), ("--5", F), ("1,5", F), ("5" * 65, F),
    ],
)  # fmt: skip
def test_which_text_is_a_number(text: str, is_number: bool) -> None:
    assert SqlFilter("a >= 0 OR a < 0").matches(None, {"a": text}) is is_number
    assert SqlFilter("a = 0 OR a <> 0").matches(None, {"a": text}) is is_number


def test_without_tag_and_properties() -> None:
    assert SqlFilter("TAGS IS NULL AND a IS NULL").matches(None, {})
    assert not SqlFilter("TAGS = 'a' OR a > 1").matches(None, {})
