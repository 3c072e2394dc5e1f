"""What every filter can do, and the one way to make one from what a client sent."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, Protocol

from kourou.core.errors import IllegalFilter
from kourou.core.filter.sql import SqlFilter
from kourou.core.filter.tags import TagFilter

FilterKind = Literal["tag", "sql"]


class Filter(Protocol):
    """Immutable and free of state: one filter may be asked by any number of consumers at once."""

    @property
    def kind(self) -> FilterKind: ...

    @property
    def expression(self) -> str:
        """Normalised: members of a group whose filters have equal kind and expression want the same messages."""

    @property
    def tag_hashes(self) -> frozenset[int] | None:
        """``frame.tag_hash`` of every tag that can match; a message without one of them is skipped unread. None: any."""

    def matches(self, tag: str | None, properties: Mapping[str, str]) -> bool:
        """Whether the message is wanted. Never raises, whatever the properties are."""


def parse_filter(kind: str, expression: str | None) -> Filter:
    """The filter that a client asks for; IllegalFilter names the column of what can't be read."""
    if kind == "tag":
        return TagFilter(expression)
    if kind == "sql":
        return SqlFilter(expression)
    raise IllegalFilter(f"filter kind is {kind[:40]!r}; allowed are tag, sql")
