"""Waiting until several records of one decision are confirmed."""

from __future__ import annotations

from collections.abc import Callable

from kourou.core.errors import KourouError


class Copies:
    """Give ``one()`` to each record; ``then`` is called when all of them are confirmed, with an error if one was not."""

    def __init__(self) -> None:
        self._missing = 0
        self._failure: KourouError | None = None
        self._then: Callable[[KourouError | None], None] | None = None

    def one(self) -> Callable[[KourouError | None], None]:
        self._missing += 1
        return self._arrived

    def then(self, told: Callable[[KourouError | None], None]) -> None:
        self._then = told
        self._look()

    def _arrived(self, failure: KourouError | None) -> None:
        self._missing -= 1
        self._failure = self._failure or failure
        self._look()

    def _look(self) -> None:
        if self._missing == 0 and self._then is not None:
            told, self._then = self._then, None
            told(self._failure)
