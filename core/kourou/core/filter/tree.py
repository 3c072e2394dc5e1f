"""What a SQL expression says, as a tree. Chains (``a OR b OR c``, ``a + b - c``) are one node, so trees stay flat.

A node is a *condition* (true, false or unknown) or a *value* (text, number). Properties are both: text, and a condition
when the text is ``true``. The parser has checked that every operand is of the sort its operator takes.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TypeAlias

Number: TypeAlias = int | float
Value: TypeAlias = str | int | float | bool | None


class Comparison(Enum):
    EQUAL = "="
    NOT_EQUAL = "<>"
    LESS = "<"
    LESS_OR_EQUAL = "<="
    GREATER = ">"
    GREATER_OR_EQUAL = ">="


class Part(Enum):
    """Where in the text of a property a piece is looked for; RocketMQ's own words."""

    CONTAINS = "CONTAINS"
    STARTSWITH = "STARTSWITH"
    ENDSWITH = "ENDSWITH"


@dataclass(frozen=True, slots=True)
class Literal:
    value: Value


@dataclass(frozen=True, slots=True)
class Property:
    name: str


@dataclass(frozen=True, slots=True)
class Negative:
    operand: Node


@dataclass(frozen=True, slots=True)
class Arithmetic:
    """``first`` and then, from left to right, operators of one precedence: + and -, or * / and %."""

    first: Node
    rest: tuple[tuple[str, Node], ...]


@dataclass(frozen=True, slots=True)
class Compare:
    comparison: Comparison
    left: Node
    right: Node


@dataclass(frozen=True, slots=True)
class Between:
    operand: Node
    low: Node
    high: Node


@dataclass(frozen=True, slots=True)
class In:
    name: Property
    texts: frozenset[str]
    numbers: frozenset[Number]


@dataclass(frozen=True, slots=True)
class Like:
    name: Property
    pattern: str
    escape: str | None


@dataclass(frozen=True, slots=True)
class Has:
    name: Property
    part: Part
    piece: str


@dataclass(frozen=True, slots=True)
class IsNull:
    operand: Node


@dataclass(frozen=True, slots=True)
class Not:
    operand: Node


@dataclass(frozen=True, slots=True)
class And:
    operands: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Or:
    operands: tuple[Node, ...]


Node: TypeAlias = Literal | Property | Negative | Arithmetic | Compare | Between | In | Like | Has | IsNull | Not | And | Or
CONDITIONS = (Compare, Between, In, Like, Has, IsNull, Not, And, Or)


def is_condition(node: Node) -> bool:
    """Whether an AND may be put beside it. NULL counts: it is the condition that is unknown."""
    if isinstance(node, Literal):
        return node.value is None or isinstance(node.value, bool)
    return isinstance(node, (Property, *CONDITIONS))


def is_number(node: Node) -> bool:
    """Whether it may turn out to be a number: text of properties does, text that stands in the expression must not."""
    if isinstance(node, Literal):
        return isinstance(node.value, int | float) and not isinstance(node.value, bool)
    return isinstance(node, (Property, Negative, Arithmetic))


def sort_of(node: Node) -> str:
    """For people, in "found …"."""
    if isinstance(node, Property):
        return "a property"
    if isinstance(node, Literal) and isinstance(node.value, str):
        return "text"
    return "a condition" if is_condition(node) else "a number"
