"""The text of an expression before anyone reads it: how long it may be, and how an error points into it."""

from __future__ import annotations

from typing import Final, NoReturn

from kourou.core.errors import IllegalFilter

EXPRESSION_BYTES_MAX: Final = 8 * 1024  # UTF-8
BLANKS: Final = " \t\n\r\f\v"


def fail(reason: str, index: int) -> NoReturn:
    """Refuses the expression for what begins at ``index``, which people count from 1."""
    raise IllegalFilter(f"filter expression, column {index + 1}: {reason}", position=index + 1)


def check_text(expression: str) -> None:
    try:
        size = len(expression.encode())
    except UnicodeEncodeError as error:
        fail("half of a surrogate pair", error.start)
    if size > EXPRESSION_BYTES_MAX:
        raise IllegalFilter(f"filter expression has {size} bytes; the limit is {EXPRESSION_BYTES_MAX}", position=1)
