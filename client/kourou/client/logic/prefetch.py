"""How many messages to ask which broker for, so that what is fetched ahead stays bounded. Pure.

Each broker may be asked for its share of the size. It is asked again when at most half of the size waits, so that
messages come in groups rather than one by one.
"""

from __future__ import annotations


class Prefetch:
    def __init__(self) -> None:
        self.size = 0  # messages that may wait; 0: nobody wants any
        self._asked: dict[str, int] = {}  # by broker, receives that are under way

    def limit(self, broker: str, *, brokers: int, waiting: int) -> int:
        """How many messages to ask a broker for; 0: none for now."""
        size = self.size
        if size <= 0 or waiting > size // 2:
            return 0
        free = size - waiting - sum(self._asked.values()) + self._asked.get(broker, 0)
        share = max(1, size // max(1, brokers))
        if free <= 0:
            return 1 if waiting == 0 and broker not in self._asked else 0
        return min(free, share)

    def asked(self, broker: str, limit: int) -> None:
        self._asked[broker] = limit

    def answered(self, broker: str) -> None:
        self._asked.pop(broker, None)
