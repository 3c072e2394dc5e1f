"""SQL filters: an expression parsed and compiled once, its tags found out, asked for every message."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal

from kourou.core.filter import evaluate, tree
from kourou.core.filter.evaluate import TAGS
from kourou.core.filter.parser import parse
from kourou.core.frame import tag_hash


class SqlFilter:
    """Wants the messages for which its condition is true; false and unknown (NULL) are both no."""

    __slots__ = ("_test", "expression", "names", "tag_hashes")

    kind: Final[Literal["sql"]] = "sql"

    def __init__(self, expression: str | None) -> None:
        node, names, self.expression = parse(expression or "")
        self.names = names  # of the properties it asks for: no other has to be decoded
        tags = _tags(node)
        self.tag_hashes = None if tags is None else frozenset(map(tag_hash, tags))
        self._test = evaluate.condition(node)

    def matches(self, tag: str | None, properties: Mapping[str, str]) -> bool:
        """``TAGS`` is the tag. Every other name is looked up in ``properties``, to which the caller adds the system's own
        (``KEYS`` with a blank between them, as RocketMQ stores them); ``names`` says whether they are asked for.
        """
        return self._test(tag, properties) is True

    def __repr__(self) -> str:
        return f"SqlFilter({self.expression!r})"


def _tags(node: tree.Node) -> frozenset[str] | None:
    """The tags that messages for which ``node`` is true can have; None: can't say, or there are too many."""
    match node:
        case tree.Compare(tree.Comparison.EQUAL, tree.Property(name), tree.Literal(str(tag))) if name == TAGS:
            return frozenset((tag,))
        case tree.Compare(tree.Comparison.EQUAL, tree.Literal(str(tag)), tree.Property(name)) if name == TAGS:
            return frozenset((tag,))
        case tree.In(tree.Property(name), texts, numbers) if name == TAGS and not numbers:
            return texts
        case tree.And(operands):
            found = [tags for tags in map(_tags, operands) if tags is not None]
            return frozenset.intersection(*found) if found else None
        case tree.Or(operands):
            each = [_tags(operand) for operand in operands]
            known = [tags for tags in each if tags is not None]
            return frozenset.union(*known) if len(known) == len(each) else None
        case _:
            return None
