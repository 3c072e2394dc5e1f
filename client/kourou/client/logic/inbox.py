"""Messages that were delivered and that nobody has begun with, in the order in which they may be begun. Pure.

Where order matters a message group has one message at a time that may be begun or is worked on; the later ones of the
group wait behind it. When one fails, those behind it must not be handed out: ``drop_group`` takes them away.
"""

from __future__ import annotations

from collections import deque
from typing import Generic, TypeVar

Item = TypeVar("Item")


class Inbox(Generic[Item]):
    def __init__(self) -> None:
        self._ready: deque[tuple[Item, str | None]] = deque()
        self._behind: dict[str, deque[Item]] = {}  # of each group that has a message ready or worked on
        self._count = 0

    def __len__(self) -> int:
        """Messages that wait, ready or behind others."""
        return self._count

    @property
    def ready(self) -> bool:
        return bool(self._ready)

    def add(self, item: Item, group: str | None = None) -> None:
        """``group``: None where order does not matter."""
        self._count += 1
        if group is None:
            self._ready.append((item, None))
        elif group in self._behind:
            self._behind[group].append(item)
        else:
            self._behind[group] = deque()
            self._ready.append((item, group))

    def take(self) -> Item:
        """The next one; its group is busy until ``done``."""
        self._count -= 1
        return self._ready.popleft()[0]

    def put_back(self, item: Item, group: str | None = None) -> None:
        """One that was taken and not begun after all: it comes first."""
        self._count += 1
        self._ready.appendleft((item, group))

    def done(self, group: str | None) -> None:
        """Work on a message of a group has ended well: the next one may be begun."""
        if group is None:
            return
        behind = self._behind.get(group)
        if behind:
            self._ready.append((behind.popleft(), group))
        elif behind is not None:
            del self._behind[group]

    def drop_group(self, group: str | None) -> list[Item]:
        """What waits behind the message of a group that is worked on; the group is free then."""
        if group is None:
            return []
        dropped = list(self._behind.pop(group, ()))
        self._count -= len(dropped)
        return dropped

    def remove(self, item: Item, group: str | None = None) -> list[Item]:
        """Take away one that waits, and what waits behind it; nothing when it does not wait."""
        if (item, group) in self._ready:
            self._ready.remove((item, group))
            self._count -= 1
            return [item, *self.drop_group(group)]
        behind = self._behind.get(group) if group is not None else None
        if not behind or item not in behind:
            return []
        kept: deque[Item] = deque()
        while behind[0] != item:
            kept.append(behind.popleft())
        dropped = list(behind)
        assert group is not None
        self._behind[group] = kept
        self._count -= len(dropped)
        return dropped

    def clear(self) -> list[Item]:
        """Everything that waits, oldest first as far as that is known."""
        found = [item for item, _ in self._ready]
        found += [item for behind in self._behind.values() for item in behind]
        for _, group in self._ready:
            if group is not None:
                del self._behind[group]
        self._ready.clear()
        for behind in self._behind.values():
            behind.clear()
        self._count = 0
        return found
