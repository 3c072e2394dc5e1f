"""How SQL expressions calculate: which text is a number, what is equal, what comes first. None is NULL: unknown.

Properties are text. Beside a number they are read as one, and what can't be read is NULL, never an error. Integers have
64 bits; what grows beyond is carried on as a double; what no double can hold, and division by zero, are NULL.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Final

from kourou.core.filter.tree import Number, Value

NUMBER_CHARACTERS_MAX: Final = 64  # longer text is no number; bounds what reading one can cost
_LOW, _HIGH = -(1 << 63), (1 << 63) - 1
_NUMBER: Final = re.compile(r"([+-]?[0-9]+)|[+-]?(?:[0-9]+\.[0-9]*|\.?[0-9]+)(?:[eE][+-]?[0-9]+)?")


def bounded(number: Number) -> Number | None:
    if isinstance(number, int):
        return number if _LOW <= number <= _HIGH else float(number)
    return number if math.isfinite(number) else None


def number_of(text: str) -> Number | None:
    """The number that a property's text is: ``12``, ``-1.5``, ``+2e3``; nothing around it, also no blanks."""
    if len(text) > NUMBER_CHARACTERS_MAX:
        return None
    if text.isdigit() and text.isascii():  # most are; saves the half of the time
        return bounded(int(text))
    found = _NUMBER.fullmatch(text)
    if found is None:
        return None
    return bounded(int(text) if found[1] else float(text))


def as_number(value: Value) -> Number | None:
    if isinstance(value, str):
        return number_of(value)
    return None if value is True or value is False else value


def truth_of(text: str) -> bool:
    """What a property is where a condition is expected: all but ``true`` (in any case) is false, as RocketMQ has it."""
    return len(text) == 4 and text.lower() == "true"


def equal(left: Value, right: Value) -> bool | None:
    if left is None or right is None:
        return None
    if isinstance(left, str):
        if isinstance(right, str):
            return left == right
        left, right = right, left
    if isinstance(right, str):
        if isinstance(left, bool):
            return left is truth_of(right)
        number = number_of(right)
        return None if number is None else left == number
    return isinstance(left, bool) is isinstance(right, bool) and left == right


def add(left: Number, right: Number) -> Number | None:
    return bounded(left + right)


def subtract(left: Number, right: Number) -> Number | None:
    return bounded(left - right)


def multiply(left: Number, right: Number) -> Number | None:
    return bounded(left * right)


def divide(left: Number, right: Number) -> Number | None:
    """Of integers: an integer, cut towards zero."""
    if right == 0:
        return None
    if isinstance(left, int) and isinstance(right, int):
        return bounded(abs(left) // abs(right) * (1 if (left < 0) is (right < 0) else -1))
    return bounded(left / right)


def remainder(left: Number, right: Number) -> Number | None:
    """What division leaves; it has the sign of ``left``."""
    if right == 0:
        return None
    if isinstance(left, int) and isinstance(right, int):
        return abs(left) % abs(right) * (-1 if left < 0 else 1)
    return bounded(math.fmod(left, right))


OPERATIONS: Final[dict[str, Callable[[Number, Number], Number | None]]] = {
    "+": add,
    "-": subtract,
    "*": multiply,
    "/": divide,
    "%": remainder,
}
