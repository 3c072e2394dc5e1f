"""SQL expression → tree, by precedence climbing: each operator has a strength, each operand ends at a weaker one.

    OR  <  AND  <  NOT  <  = <> < <= > >= BETWEEN IN LIKE CONTAINS … IS  <  + -  <  * / %  <  sign

The operators of the middle don't chain: ``a < b < c`` is refused, ``(a < b) = TRUE`` is not. Depth counts the recursion of
this parser. A level of it makes at most four levels of tree (a comparison, NOT, AND, OR), so that whoever walks the tree
has stack enough too.
"""

from __future__ import annotations

from typing import Final, NoReturn

from kourou.core.filter.like import escapes_well
from kourou.core.filter.text import check_text, fail
from kourou.core.filter.tokens import Kind, Token, tokens_of
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
    is_condition,
    is_number,
    sort_of,
)

DEPTH_MAX: Final = 50  # at six Python frames each in the worst case, of the thousand that there are
IN_COUNT_MAX: Final = 1_000
LIKE_CHARACTERS_MAX: Final = 1_024  # of all patterns together: what one costs is this times the length of the property

_OR, _AND, _NOT, _PREDICATE, _SUM, _PRODUCT, _SIGN = range(1, 8)
_STRENGTHS: Final = (
    {"OR": _OR, "AND": _AND}
    | dict.fromkeys(("IS", "NOT", "BETWEEN", "IN", "LIKE", *(part.value for part in Part)), _PREDICATE)
    | dict.fromkeys((comparison.value for comparison in Comparison), _PREDICATE)
    | {"+": _SUM, "-": _SUM, "*": _PRODUCT, "/": _PRODUCT, "%": _PRODUCT}
)
_ORDERS: Final = (Comparison.LESS, Comparison.LESS_OR_EQUAL, Comparison.GREATER, Comparison.GREATER_OR_EQUAL)
_AFTER_NOT: Final = "IN, BETWEEN, LIKE, CONTAINS, STARTSWITH or ENDSWITH"


def parse(expression: str) -> tuple[Node, frozenset[str], str]:
    """The tree, the names of its properties, and the expression as normalised: plainest tokens with one blank between."""
    check_text(expression)
    tokens = list(tokens_of(expression))
    parser = _Parser(tokens)
    node = parser.condition(0)
    parser.expect_end()
    return node, frozenset(parser.names), " ".join(token.text for token in tokens[:-1])


class _Parser:
    def __init__(self, tokens: list[Token]) -> None:
        self.names: set[str] = set()
        self._tokens = tokens
        self._at = 0
        self._depth = 0
        self._like_characters = 0

    # --- tokens

    @property
    def _next(self) -> Token:
        return self._tokens[self._at]

    def _take(self) -> Token:
        token = self._tokens[self._at]
        self._at += 1
        return token

    def _skip(self, text: str) -> bool:
        """Takes the next token if it is this keyword or sign."""
        token = self._next
        if token.text != text or token.kind not in (Kind.KEYWORD, Kind.SIGN):
            return False
        self._at += 1
        return True

    def _expect(self, text: str) -> None:
        if not self._skip(text):
            self._expected(text)

    def _expected(self, what: str) -> NoReturn:
        fail(f"expected {what}, found {self._next}", self._next.start)

    def expect_end(self) -> None:
        if self._next.kind is not Kind.END:
            self._expected("AND, OR or the end")

    # --- operands of each sort

    def condition(self, floor: int) -> Node:
        start = self._next.start
        return self._as_condition(self._expression(floor), start)

    def _as_condition(self, node: Node, start: int) -> Node:
        if not is_condition(node):
            fail("expected a condition (a comparison, TRUE, FALSE or a property), found a value", start)
        return node

    def _number(self, floor: int) -> Node:
        start = self._next.start
        return self._as_number(self._expression(floor), start)

    def _as_number(self, node: Node, start: int) -> Node:
        if not is_number(node):
            fail(f"expected a number or a property, found {sort_of(node)}; only numbers can be ordered or calculated", start)
        return node

    def _comparable(self, node: Node, start: int) -> Node:
        if node == Literal(None):
            fail("nothing is equal to NULL; write IS NULL or IS NOT NULL", start)
        return node

    def _text(self) -> str:
        token = self._next
        if not isinstance(token.value, str):
            self._expected("text in single quotes")
        self._at += 1
        return token.value

    # --- expressions

    def _expression(self, floor: int) -> Node:
        """Operands and operators stronger than ``floor``."""
        self._depth += 1
        if self._depth > DEPTH_MAX:
            fail(f"nested deeper than {DEPTH_MAX} operators", self._next.start)
        start = self._next.start
        left = self._operand(floor)
        compared = False
        while (strength := self._strength()) > floor:
            if strength == _PREDICATE and compared:
                self._expected("AND, OR or the end (comparisons don't chain: use parentheses)")
            compared = compared or strength == _PREDICATE
            left = self._operator(left, start, strength)
        self._depth -= 1
        return left

    def _strength(self) -> int:
        token = self._next
        return _STRENGTHS.get(token.text, 0) if token.kind in (Kind.KEYWORD, Kind.SIGN) else 0

    def _operand(self, floor: int) -> Node:
        token = self._next
        if token.kind is Kind.NAME:
            self._at += 1
            self.names.add(token.text)
            return Property(token.text)
        if token.kind is Kind.LITERAL:
            self._at += 1
            return Literal(token.value)
        if self._skip("("):
            node = self._expression(0)
            if not self._skip(")"):
                self._expected("an operator or )")
            return node
        if self._skip("-"):
            return _negative(self._number(_SIGN))
        if self._skip("+"):
            return self._number(_SIGN)
        if floor < _PREDICATE and self._skip("NOT"):
            return Not(self.condition(_NOT))
        if token.kind is Kind.KEYWORD and token.text in _CONSTANTS:
            self._at += 1
            return _CONSTANTS[token.text]
        self._expected("a property, a number, text, NOT or (" if floor < _PREDICATE else "a property, a number, text or (")

    def _operator(self, left: Node, start: int, strength: int) -> Node:
        if strength == _PREDICATE:
            return self._predicate(left, start)
        if strength in (_SUM, _PRODUCT):
            return self._arithmetic(self._as_number(left, start), strength)
        keyword = self._next.text
        operands = [self._as_condition(left, start)]
        while self._skip(keyword):
            operands.append(self.condition(strength))
        return _flat(Or if keyword == "OR" else And, operands)

    def _arithmetic(self, first: Node, strength: int) -> Node:
        rest: list[tuple[str, Node]] = []
        while self._strength() == strength:
            sign = self._take().text
            rest.append((sign, self._number(strength)))
        return Arithmetic(first, tuple(rest))

    # --- predicates

    def _predicate(self, left: Node, start: int) -> Node:
        if self._skip("IS"):
            negated = self._skip("NOT")
            self._expect("NULL")
            return Not(IsNull(left)) if negated else IsNull(left)
        negated = self._skip("NOT")
        token = self._next
        if self._skip("BETWEEN"):
            node = self._between(self._as_number(left, start), negated)
        elif self._skip("IN"):
            node = self._in(_property(left, start, "IN"))
        elif self._skip("LIKE"):
            node = self._like(_property(left, start, "LIKE"))
        elif token.text in Part.__members__ and token.kind is Kind.KEYWORD:
            self._at += 1
            node = self._has(_property(left, start, token.text), Part(token.text))
        elif negated:
            self._expected(_AFTER_NOT)
        else:
            return self._compare(left, start)
        return Not(node) if negated else node

    def _compare(self, left: Node, start: int) -> Node:
        comparison = Comparison(self._take().text)
        right_start = self._next.start
        right = self._expression(_PREDICATE)
        if comparison in _ORDERS:
            return Compare(comparison, self._as_number(left, start), self._as_number(right, right_start))
        return Compare(comparison, self._comparable(left, start), self._comparable(right, right_start))

    def _between(self, operand: Node, negated: bool) -> Node:
        start = self._next.start
        low = self._number(_PREDICATE)
        self._expect("AND")
        high = self._number(_PREDICATE)
        if not negated and isinstance(low, Literal) and isinstance(high, Literal):
            at_least, at_most = low.value, high.value
            assert isinstance(at_least, int | float)
            assert isinstance(at_most, int | float)
            if at_least > at_most:
                fail(f"nothing is between {at_least} and {at_most}: the smaller number comes first", start)
        return Between(operand, low, high)

    def _in(self, name: Property) -> Node:
        self._expect("(")
        texts: set[str] = set()
        numbers: set[Number] = set()
        for count in range(1, IN_COUNT_MAX + 2):
            if count > IN_COUNT_MAX:
                fail(f"more than {IN_COUNT_MAX} entries after IN", self._next.start)
            negative = self._skip("-")
            token = self._next
            if isinstance(token.value, str) and not negative:
                texts.add(token.value)
            elif isinstance(token.value, int | float):
                numbers.add(-token.value if negative else token.value)
            else:
                self._expected("a number" if negative else "text in single quotes or a number")
            self._at += 1
            if not self._skip(","):
                break
        if not self._skip(")"):
            self._expected(", or )")
        return In(name, frozenset(texts), frozenset(numbers))

    def _like(self, name: Property) -> Node:
        start = self._next.start
        pattern = self._text()
        self._like_characters += len(pattern)
        if self._like_characters > LIKE_CHARACTERS_MAX:
            fail(f"patterns after LIKE have more than {LIKE_CHARACTERS_MAX} characters", start)
        if not self._skip("ESCAPE"):
            return Like(name, pattern, None)
        escape_start = self._next.start
        escape = self._text()
        if len(escape) != 1:
            fail(f"expected one character to escape with, found {len(escape)}", escape_start)
        if not escapes_well(pattern, escape):
            fail(f"in a pattern {escape} must stand before %, _ or itself", start)
        return Like(name, pattern, escape)

    def _has(self, name: Property, part: Part) -> Node:
        start = self._next.start
        piece = self._text()
        if not piece:
            fail(f"expected text for {part.value} to look for, found none", start)
        return Has(name, part, piece)


_CONSTANTS: Final = {"TRUE": Literal(True), "FALSE": Literal(False), "NULL": Literal(None)}


def _property(node: Node, start: int, operator: str) -> Property:
    if not isinstance(node, Property):
        fail(f"expected the name of a property before {operator}, found {sort_of(node)}", start)
    return node


def _negative(node: Node) -> Node:
    if isinstance(node, Literal):
        assert isinstance(node.value, int | float)
        return Literal(-node.value)
    return Negative(node)


def _flat(kind: type[And] | type[Or], operands: list[Node]) -> Node:
    """``(a OR b) OR c`` is ``a OR b OR c``."""
    flat: list[Node] = []
    for node in operands:
        flat.extend(node.operands if isinstance(node, kind) else (node,))
    return kind(tuple(flat))
