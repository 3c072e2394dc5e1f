"""What the simulator raises when something that must hold does not."""

from __future__ import annotations


class Violation(AssertionError):
    """An invariant does not hold; the text begins with its number."""


class Ends(Exception):
    """The process ends by itself. ``wanted``: somebody asked for it; else it says why it can't go on."""

    def __init__(self, reason: str, *, wanted: bool) -> None:
        super().__init__(reason)
        self.wanted = wanted
