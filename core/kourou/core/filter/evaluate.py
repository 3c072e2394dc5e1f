"""Tree → closures: each node becomes one function of (tag, properties); what can be decided before a message comes, is.

A condition answers True, False or None: unknown. AND is False as soon as one operand is, OR is True as soon as one is,
NOT leaves unknown unknown. The frequent case, a property beside a constant, has functions of its own.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from typing import Final, TypeAlias

from kourou.core.filter import like
from kourou.core.filter.tree import (
    And,
    Arithmetic,
    Between,
    Compare,
    Comparison,
    Has,
    In,
    IsNull,
    Like,
    Literal,
    Negative,
    Node,
    Not,
    Number,
    Or,
    Part,
    Property,
    Value,
)
from kourou.core.filter.values import OPERATIONS, bounded, equal, number_of, truth_of

TAGS: Final = "TAGS"  # RocketMQ's name of the tag among the properties

Read: TypeAlias = Callable[[str | None, Mapping[str, str]], Value]
ReadText: TypeAlias = Callable[[str | None, Mapping[str, str]], str | None]
ReadNumber: TypeAlias = Callable[[str | None, Mapping[str, str]], Number | None]
Test: TypeAlias = Callable[[str | None, Mapping[str, str]], bool | None]

_ORDERS: Final[dict[Comparison, Callable[[Number, Number], bool]]] = {
    Comparison.LESS: operator.lt,
    Comparison.LESS_OR_EQUAL: operator.le,
    Comparison.GREATER: operator.gt,
    Comparison.GREATER_OR_EQUAL: operator.ge,
}
_PARTS: Final[dict[Part, Callable[[str, str], bool]]] = {
    Part.CONTAINS: operator.contains,
    Part.STARTSWITH: str.startswith,
    Part.ENDSWITH: str.endswith,
}


def condition(node: Node) -> Test:
    """What a message is asked: true, false or unknown."""
    match node:
        case Or(operands):
            return _any(tuple(map(condition, operands)))
        case And(operands):
            return _all(tuple(map(condition, operands)))
        case Not(operand):
            return _not(condition(operand))
        case Compare(comparison, left, right) if comparison in _ORDERS:
            return _ordered(_ORDERS[comparison], left, right)
        case Compare(comparison, left, right):
            test = _equal(left, right)
            return test if comparison is Comparison.EQUAL else _not(test)
        case Between(operand, low, high):
            return _between(number(operand), number(low), number(high))
        case IsNull(operand):
            read = value(operand)
            return lambda tag, properties: read(tag, properties) is None
        case In(name, texts, numbers):
            return _in(text(name), texts, numbers)
        case Has(name, part, piece):
            return _has(text(name), _PARTS[part], piece)
        case Like(name, pattern, escape):
            return _like(text(name), like.matcher(pattern, escape))
        case Property():
            return _true(text(node))
        case Literal(constant):
            assert constant is None or isinstance(constant, bool)
            return lambda tag, properties: constant
        case Negative() | Arithmetic():
            raise AssertionError("the parser lets no number in here")


def value(node: Node) -> Read:
    """What is compared: text, a number, true or false, or None."""
    match node:
        case Property():
            return text(node)
        case Literal(constant):
            return lambda tag, properties: constant
        case Negative() | Arithmetic():
            return number(node)
        case _:
            return condition(node)


def text(node: Property) -> ReadText:
    name = node.name
    if name == TAGS:
        return lambda tag, properties: tag
    return lambda tag, properties: properties.get(name)


def number(node: Node) -> ReadNumber:
    match node:
        case Literal(constant):
            assert isinstance(constant, int | float)
            return lambda tag, properties: constant
        case Negative(operand):
            return _negative(number(operand))
        case Arithmetic(first, rest):
            return _calculated(number(first), [(OPERATIONS[sign], number(operand)) for sign, operand in rest])
        case Property():
            return _converted(text(node))
        case _:
            raise AssertionError("the parser lets nothing else in here")


def _any(tests: tuple[Test, ...]) -> Test:
    def test(tag: str | None, properties: Mapping[str, str]) -> bool | None:
        answer: bool | None = False
        for each in tests:
            found = each(tag, properties)
            if found:
                return True
            if found is None:
                answer = None
        return answer

    return test


def _all(tests: tuple[Test, ...]) -> Test:
    def test(tag: str | None, properties: Mapping[str, str]) -> bool | None:
        answer: bool | None = True
        for each in tests:
            found = each(tag, properties)
            if found is None:
                answer = None
            elif not found:
                return False
        return answer

    return test


def _not(operand: Test) -> Test:
    def test(tag: str | None, properties: Mapping[str, str]) -> bool | None:
        found = operand(tag, properties)
        return None if found is None else not found

    return test


def _equal(left: Node, right: Node) -> Test:
    if isinstance(left, Literal):
        left, right = right, left
    read = value(left)
    if not isinstance(right, Literal):
        other = value(right)
        return lambda tag, properties: equal(read(tag, properties), other(tag, properties))
    constant = right.value

    def text_test(tag: str | None, properties: Mapping[str, str]) -> bool | None:
        found = read(tag, properties)
        return None if found is None else found == constant

    if isinstance(constant, str) and isinstance(left, Property):
        return text_test
    return lambda tag, properties: equal(read(tag, properties), constant)


def _ordered(order: Callable[[Number, Number], bool], left: Node, right: Node) -> Test:
    read, other = number(left), number(right)

    def test(tag: str | None, properties: Mapping[str, str]) -> bool | None:
        low = read(tag, properties)
        if low is None:
            return None
        high = other(tag, properties)
        return None if high is None else order(low, high)

    if not isinstance(right, Literal):
        return test
    constant = right.value
    assert isinstance(constant, int | float)

    def constant_test(tag: str | None, properties: Mapping[str, str]) -> bool | None:
        found = read(tag, properties)
        return None if found is None else order(found, constant)

    return constant_test


def _between(operand: ReadNumber, low: ReadNumber, high: ReadNumber) -> Test:
    """As two comparisons joined by AND: out of one bound is out, even if the other is unknown."""

    def test(tag: str | None, properties: Mapping[str, str]) -> bool | None:
        found = operand(tag, properties)
        if found is None:
            return None
        at_least, at_most = low(tag, properties), high(tag, properties)
        if (at_least is not None and found < at_least) or (at_most is not None and found > at_most):
            return False
        return None if at_least is None or at_most is None else True

    return test


def _in(read: ReadText, texts: frozenset[str], numbers: frozenset[Number]) -> Test:
    def text_test(tag: str | None, properties: Mapping[str, str]) -> bool | None:
        found = read(tag, properties)
        return None if found is None else found in texts

    def test(tag: str | None, properties: Mapping[str, str]) -> bool | None:
        found = read(tag, properties)
        if found is None:
            return None
        if found in texts:
            return True
        as_number = number_of(found)
        return None if as_number is None else as_number in numbers

    return test if numbers else text_test


def _has(read: ReadText, has: Callable[[str, str], bool], piece: str) -> Test:
    def test(tag: str | None, properties: Mapping[str, str]) -> bool | None:
        found = read(tag, properties)
        return None if found is None else has(found, piece)

    return test


def _like(read: ReadText, matches: Callable[[str], bool]) -> Test:
    def test(tag: str | None, properties: Mapping[str, str]) -> bool | None:
        found = read(tag, properties)
        return None if found is None else matches(found)

    return test


def _true(read: ReadText) -> Test:
    def test(tag: str | None, properties: Mapping[str, str]) -> bool | None:
        found = read(tag, properties)
        return None if found is None else truth_of(found)

    return test


def _converted(read: ReadText) -> ReadNumber:
    def convert(tag: str | None, properties: Mapping[str, str]) -> Number | None:
        found = read(tag, properties)
        return None if found is None else number_of(found)

    return convert


def _negative(operand: ReadNumber) -> ReadNumber:
    def negate(tag: str | None, properties: Mapping[str, str]) -> Number | None:
        found = operand(tag, properties)
        return None if found is None else bounded(-found)

    return negate


def _calculated(first: ReadNumber, rest: list[tuple[Callable[[Number, Number], Number | None], ReadNumber]]) -> ReadNumber:
    def calculate(tag: str | None, properties: Mapping[str, str]) -> Number | None:
        result = first(tag, properties)
        for operation, operand in rest:
            if result is None:
                return None
            found = operand(tag, properties)
            if found is None:
                return None
            result = operation(result, found)
        return result

    return calculate
