"""LIKE: ``%`` stands for any text, ``_`` for one character, both plain after the escape character.

The pattern is cut at each ``%``. What lies between has a fixed length and needs no backtracking: the first piece stands at
the beginning, the last at the end, and the others are found from left to right, each at the first place where it fits;
if a pattern matches at all, it matches so. The cost is at most the length of the text times that of the pattern.
"""

from __future__ import annotations

import re
from collections.abc import Callable


def escapes_well(pattern: str, escape: str) -> bool:
    """Whether the escape character stands before ``%``, ``_`` or itself only."""
    characters = iter(pattern)
    return all(next(characters, "") in ("%", "_", escape) for character in characters if character == escape)


def matcher(pattern: str, escape: str | None) -> Callable[[str], bool]:
    """Whether a text is like the pattern. It ``escapes_well``."""
    pieces = _pieces(pattern, escape)
    head, *middle = [re.compile(source, re.DOTALL) for source, _ in pieces]
    if not middle:
        return lambda text: head.fullmatch(text) is not None
    tail = middle.pop()
    size_min = sum(size for _, size in pieces)
    head_size, tail_size = pieces[0][1], pieces[-1][1]

    def matches(text: str) -> bool:
        at, end = head_size, len(text) - tail_size
        if len(text) < size_min or head.match(text) is None or tail.match(text, end) is None:
            return False
        for piece in middle:
            found = piece.search(text, at, end)
            if found is None:
                return False
            at = found.end()
        return True

    return matches


def _pieces(pattern: str, escape: str | None) -> list[tuple[str, int]]:
    """(regular expression without repetition, number of characters it takes) of what lies between the ``%``."""
    pieces = [("", 0)]
    characters = iter(pattern)
    for character in characters:
        source, size = pieces[-1]
        if character == escape:
            pieces[-1] = source + re.escape(next(characters)), size + 1
        elif character == "%":
            pieces.append(("", 0))
        elif character == "_":
            pieces[-1] = source + ".", size + 1
        else:
            pieces[-1] = source + re.escape(character), size + 1
    return pieces
