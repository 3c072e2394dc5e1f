"""Random SQL expressions: tree → text → filter says what walking the tree by SQL's rules says, for random messages.

The walker knows nothing of the real one: it works on nested tuples, with the plainest code. The text has just the
parentheses that precedence asks for, and some to spare.
"""

from __future__ import annotations

import math
import random
import re
from typing import Any, TypeAlias

from hypothesis import given, settings
from hypothesis import strategies as st

from kourou.core.filter import SqlFilter
from kourou.core.frame import tag_hash

Tree: TypeAlias = tuple[Any, ...]
Message: TypeAlias = dict[str, str]

NAMES = ("a", "b", "c.d", "TAGS")
TEXTS = (
    "",
    "x",
    "eu",
    "it's",
    "true",
    "False",
    "5",
    "-1",
    "2.5",
    "5.0",
    "1e2",
    "9223372036854775807",
    "a%b",
    "--",
    "/*",
    "A_b",
)
OR, AND, NOT, PREDICATE, SUM, PRODUCT, SIGN, ATOM = range(8)
STRENGTH = {"or": OR, "and": AND, "not": NOT, "+": SUM, "-": SUM, "*": PRODUCT, "/": PRODUCT, "%": PRODUCT, "neg": SIGN}
STRENGTH |= {"property": ATOM, "text": ATOM, "truth": ATOM}

# --- trees

literals = st.integers(-20, 20) | st.sampled_from([2**63 - 1, 2**62, 0.5, 2.5, -1.25, 1e300, 5e-324])
numbers = literals.map(lambda number: ("number", number))
named = st.sampled_from(NAMES).map(lambda name: ("property", name))
texts = st.sampled_from(TEXTS)
negations = st.booleans()


def calculations(inner: st.SearchStrategy[Tree]) -> st.SearchStrategy[Tree]:
    return st.tuples(st.sampled_from("+-*/%"), inner, inner) | st.tuples(st.just("neg"), inner)


values = st.recursive(numbers | named, calculations, max_leaves=5)
patterns = st.lists(st.sampled_from(["a", "x", "e", "%", "_", "!%", "!_", "!!", "'"]), max_size=5).map("".join)
bounds = st.tuples(literals, literals).map(sorted).map(lambda pair: (("number", pair[0]), ("number", pair[1])))
predicates = st.one_of(
    st.tuples(st.sampled_from(["<", "<=", ">", ">="]), values, values),
    st.tuples(st.sampled_from(["=", "<>"]), values, values | texts.map(lambda text: ("text", text))),
    st.tuples(st.sampled_from(["=", "<>"]), texts.map(lambda text: ("text", text)), named),
    st.tuples(st.just("between"), negations, values, bounds),
    st.tuples(st.just("between"), negations, values, st.tuples(named, values)),
    st.tuples(st.just("in"), negations, named, st.lists(texts | literals, min_size=1, max_size=6)),
    st.tuples(st.just("like"), negations, named, patterns),
    st.tuples(st.sampled_from(["contains", "startswith", "endswith"]), negations, named, texts.filter(bool)),
    st.tuples(st.just("null"), negations, values),
)
truths = st.sampled_from([True, False, None]).map(lambda truth: ("truth", truth))


def combinations(inner: st.SearchStrategy[Tree]) -> st.SearchStrategy[Tree]:
    return st.one_of(
        st.tuples(st.sampled_from(["and", "or"]), inner, inner),
        st.tuples(st.just("not"), inner),
        st.tuples(st.just("null"), negations, inner),
        st.tuples(
            st.sampled_from(["=", "<>"]),
            inner.filter(lambda tree: tree != ("truth", None)),
            st.sampled_from([("truth", True), ("truth", False)]),
        ),
    )


conditions = st.recursive(predicates | truths | named, combinations, max_leaves=8)
messages = st.dictionaries(st.sampled_from(NAMES), texts | st.integers(-20, 20).map(str), max_size=4)


# --- tree → text


class Writer:
    """Spells a tree; what is free (case, blanks, comments, needless parentheses) is left to chance."""

    def __init__(self, chance: random.Random) -> None:
        self.chance = chance

    def word(self, text: str) -> str:
        return self.chance.choice([text.upper(), text.lower(), text.title()])

    def blank(self) -> str:
        return self.chance.choice([" ", "  ", "\n", " /* = */ ", " -- OR\n"])

    def join(self, *parts: str) -> str:
        return self.blank().join(parts)

    def put(self, tree: Tree, weakest: int) -> str:
        text, strength = self.spell(tree)
        if strength < weakest or self.chance.random() < 0.1:
            return f"({text})"
        return text

    def spell(self, tree: Tree) -> tuple[str, int]:
        kind = tree[0]
        strength = STRENGTH.get(kind, PREDICATE)
        match tree:
            case ("number", number):
                return self.number(number), SIGN if number < 0 else ATOM
            case ("property", name):
                return name, ATOM
            case ("text", text):
                return self.text(text), ATOM
            case ("truth", truth):
                return self.word({True: "true", False: "false", None: "null"}[truth]), ATOM
            case ("neg" | "not", operand):
                return self.join("-" if kind == "neg" else self.word("not"), self.put(operand, strength)), strength
            case ("and" | "or", left, right):
                return self.join(self.put(left, strength), self.word(kind), self.put(right, strength)), strength
            case ("+" | "-" | "*" | "/" | "%", left, right):
                return self.join(self.put(left, strength), kind, self.put(right, strength + 1)), strength
            case ("null", negated, operand):
                middle = [self.word("not")] if negated else []
                return self.join(self.put(operand, SUM), self.word("is"), *middle, self.word("null")), strength
            case (_, bool(negated), operand, rest):
                left = [self.put(operand, SUM), *([self.word("not")] if negated else []), self.word(kind)]
                return self.join(*left, *self.rest(kind, rest)), strength
            case (_, left, right):
                sign = self.chance.choice(["<>", "!="]) if kind == "<>" else kind
                return self.join(self.put(left, SUM), sign, self.put(right, SUM)), strength
        raise AssertionError(tree)

    def rest(self, kind: str, rest: Any) -> list[str]:
        if kind == "between":
            return [self.put(rest[0], SUM), self.word("and"), self.put(rest[1], SUM)]
        if kind == "in":
            return ["(", ",".join(self.text(each) if isinstance(each, str) else self.number(each) for each in rest), ")"]
        if kind == "like":
            return [self.text(rest), self.word("escape"), "'!'"]
        return [self.text(rest)]

    def number(self, number: int | float) -> str:
        spelled = repr(abs(number)) + (self.chance.choice(["", "L"]) if isinstance(number, int) else "")
        return self.join("-", spelled) if number < 0 else spelled

    def text(self, text: str) -> str:
        return "'" + text.replace("'", "''") + "'"


# --- what it must say


def as_number(value: Any) -> Any:
    if isinstance(value, str):
        if not re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", value, re.ASCII | re.IGNORECASE):
            return None
        return int(value) if value.lstrip("+-").isdigit() else float(value)
    return None if isinstance(value, bool) else value


def calculate(sign: str, left: Any, right: Any) -> Any:
    if left is None or right is None or (sign in "/%" and right == 0):
        return None
    whole = isinstance(left, int) and isinstance(right, int)
    match sign:
        case "+":
            result = left + right
        case "-":
            result = left - right
        case "*":
            result = left * right
        case "/":
            exact = abs(left) // abs(right) if whole else abs(left) / abs(right)
            result = exact if (left < 0) == (right < 0) else -exact
        case _:
            result = int(math.copysign(abs(left) % abs(right), left)) if whole and abs(right) < 2**50 else None
            if result is None:
                result = left - right * calculate("/", left, right) if whole else math.fmod(left, right)
    return fit(result)


def fit(number: Any) -> Any:
    if isinstance(number, int) and not -(2**63) <= number < 2**63:
        return float(number)
    return None if isinstance(number, float) and not math.isfinite(number) else number


def alike(left: Any, right: Any) -> bool | None:
    if left is None or right is None:
        return None
    kinds = {type(left), type(right)}
    if kinds == {str, bool}:
        return (str(left).lower() == "true") == (str(right).lower() == "true")
    if str in kinds and kinds != {str}:
        left, right = as_number(left), as_number(right)
        return None if left is None or right is None else bool(left == right)
    return (bool in kinds) <= (kinds == {bool}) and bool(left == right)


def negation(value: bool | None) -> bool | None:
    return None if value is None else not value


def both(left: bool | None, right: bool | None) -> bool | None:
    return False if left is False or right is False else None if left is None or right is None else True


def order(sign: str, left: Any, right: Any) -> bool | None:
    if left is None or right is None:
        return None
    return bool({"<": left < right, "<=": left <= right, ">": left > right, ">=": left >= right}[sign])


def number(tree: Tree, message: Message) -> Any:
    match tree:
        case ("neg", operand):
            value = number(operand, message)
            return None if value is None else fit(-value)
        case ("+" | "-" | "*" | "/" | "%" as sign, left, right):
            return calculate(sign, number(left, message), number(right, message))
    return as_number(value_of(tree, message))


def value_of(tree: Tree, message: Message) -> Any:
    match tree:
        case ("property", name):
            return message.get(name)
        case ("number" | "text" | "truth", value):
            return value
    return number(tree, message) if tree[0] in ("neg", *"+-*/%") else truth(tree, message)


def truth(tree: Tree, message: Message) -> bool | None:
    match tree:
        case ("truth", value):
            return None if value is None else bool(value)
        case ("property", name):
            return message[name].lower() == "true" if name in message else None
        case ("not", operand):
            return negation(truth(operand, message))
        case ("and", left, right):
            return both(truth(left, message), truth(right, message))
        case ("or", left, right):
            return negation(both(negation(truth(left, message)), negation(truth(right, message))))
        case ("null", negated, operand):
            return (value_of(operand, message) is None) is not bool(negated)
        case ("=", left, right):
            return alike(value_of(left, message), value_of(right, message))
        case ("<>", left, right):
            return negation(alike(value_of(left, message), value_of(right, message)))
        case ("<" | "<=" | ">" | ">=" as sign, left, right):
            return order(sign, number(left, message), number(right, message))
        case (kind, negated, operand, rest):
            answer = predicate(kind, operand, rest, message)
            return negation(answer) if negated else answer
    raise AssertionError(tree)


def predicate(kind: str, operand: Tree, rest: Any, message: Message) -> bool | None:
    if kind == "between":
        value, low, high = (number(each, message) for each in (operand, *rest))
        return both(order(">=", value, low), order("<=", value, high))
    found = message.get(operand[1])
    if found is None:
        return None
    if kind == "in":
        each = [alike(found, entry) for entry in rest]
        return True if True in each else None if None in each else False
    if kind == "like":
        pieces = re.findall(r"!.|.", rest)
        return bool(
            re.fullmatch("".join({"%": ".*", "_": "."}.get(each, re.escape(each[-1])) for each in pieces), found, re.S)
        )
    return {"contains": rest in found, "startswith": found.startswith(rest), "endswith": found.endswith(rest)}[kind]


# --- together


@settings(max_examples=400, deadline=None)
@given(conditions, messages, st.integers(0, 2**32))
def test_says_what_the_tree_says(tree: Tree, message: Message, seed: int) -> None:
    expression = Writer(random.Random(seed)).put(tree, OR)
    tag = message.get("TAGS")
    properties = {name: text for name, text in message.items() if name != "TAGS"}
    wanted, unwanted = SqlFilter(expression), SqlFilter(f"NOT ({expression})")
    expected = truth(tree, message)
    assert wanted.matches(tag, properties) is (expected is True), expression
    assert unwanted.matches(tag, properties) is (expected is False), expression
    assert SqlFilter(wanted.expression).matches(tag, properties) is (expected is True), wanted.expression
    if wanted.tag_hashes is not None and expected:
        assert tag is not None
        assert tag_hash(tag) in wanted.tag_hashes


@settings(max_examples=200, deadline=None)
@given(values, messages, st.integers(0, 2**32))
def test_calculates_what_the_tree_says(tree: Tree, message: Message, seed: int) -> None:
    expression = f"0 + {Writer(random.Random(seed)).put(tree, PRODUCT)}"
    tag = message.get("TAGS")
    result = number(tree, message)
    expected = "IS NULL" if result is None else "= result"
    assert SqlFilter(f"{expression} {expected}").matches(tag, message | {"result": repr(result)}), (expression, result)
