"""Tag expressions: ``a || b`` wants the messages that have one of these tags; nothing, blank or ``*`` wants them all."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal

from kourou.core.filter.text import BLANKS, check_text, fail
from kourou.core.frame import tag_hash

TAGS_COUNT_MAX: Final = 256
EVERYTHING: Final = "*"
_SEPARATOR: Final = "||"


class TagFilter:
    """The exact set of tags. Hashes are for skipping; they may collide, so ``matches`` compares the tag itself."""

    __slots__ = ("expression", "tag_hashes", "tags")

    kind: Final[Literal["tag"]] = "tag"

    def __init__(self, expression: str | None) -> None:
        tags = _read(expression or "")
        self.tags = tags  # None: everything, also messages without a tag
        self.expression = EVERYTHING if tags is None else f" {_SEPARATOR} ".join(sorted(tags))
        self.tag_hashes = None if tags is None else frozenset(map(tag_hash, tags))

    def matches(self, tag: str | None, properties: Mapping[str, str]) -> bool:
        return self.tags is None or tag in self.tags

    def __repr__(self) -> str:
        return f"TagFilter({self.expression!r})"


def _read(expression: str) -> frozenset[str] | None:
    check_text(expression)
    if not expression.strip(BLANKS):
        return None
    tags: set[str] = set()
    at = 0
    for piece in expression.split(_SEPARATOR):
        tag = piece.strip(BLANKS)
        if "|" in tag:
            fail("tags are separated by '||', a single '|' is neither that nor part of a tag", at + piece.index("|"))
        if tag:
            tags.add(tag)
        if len(tags) > TAGS_COUNT_MAX:
            fail(f"more than {TAGS_COUNT_MAX} tags", at + piece.index(tag))
        at += len(piece) + len(_SEPARATOR)
    if not tags:
        fail("expected a tag, found separators only", 0)
    return None if tags == {EVERYTHING} else frozenset(tags)
