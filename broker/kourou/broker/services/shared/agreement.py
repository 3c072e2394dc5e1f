"""Members of a shared group must want the same of a topic, else messages would be lost on whoever asks first.

The first member's filter counts while it is there; one that differs is refused, and told who wants what. An operator can
set a group's filter: it holds for all members then, whatever they ask for, which makes a rolling change possible.
"""

from __future__ import annotations

from functools import lru_cache

from kourou.broker.machines.groups import Group
from kourou.broker.machines.topics import Topic
from kourou.core.clock import Clock
from kourou.core.errors import SubscriptionConflict
from kourou.core.filter import Filter, parse_filter

HEARD_MS = 90_000  # a member counts so long after its last receive; longer than the longest poll
MEMBERS_MAX = 10_000  # remembered of one group and topic
Wanted = tuple[str, str]  # kind, expression
EVERYTHING: Wanted = ("tag", "*")


class Agreement:
    def __init__(self, *, clock: Clock) -> None:
        self._clock = clock
        self._members: dict[tuple[str, int], dict[str, tuple[Wanted, int]]] = {}

    def settle(self, group: Group, topic: Topic, client: str, wanted: Filter | None) -> Filter | None:
        """The filter that holds for a receive; None is everything. Raises SubscriptionConflict."""
        for name, kind, expression in group.filters:
            if name == topic.name:
                return _parsed(kind, expression)
        mine = (wanted.kind, wanted.expression) if wanted is not None else EVERYTHING
        now_ms = self._clock.monotonic_ms()
        members = self._members.setdefault((group.name, topic.incarnation), {})
        known = members.get(client)
        if known is None or known[0] != mine:
            self._compare(group.name, topic.name, client, mine, members, now_ms)
        members[client] = (mine, now_ms)
        return wanted

    @staticmethod
    def _compare(
        group: str, topic: str, client: str, mine: Wanted, members: dict[str, tuple[Wanted, int]], now_ms: int
    ) -> None:
        for other, (theirs, heard_ms) in list(members.items()):
            if now_ms - heard_ms > HEARD_MS:
                del members[other]
            elif other != client and theirs != mine:
                raise SubscriptionConflict(
                    f"client {client[:80]!r} wants {mine[1][:80]!r} of topic {topic}, but client {other[:80]!r} of the same "
                    f"group {group} wants {theirs[1][:80]!r}; members of a group must agree "
                    "('kourou group set-subscription' makes a rolling change possible)"
                )
        if len(members) >= MEMBERS_MAX:
            members.clear()

    def left(self, client: str) -> None:
        """A client has gone."""
        for members in self._members.values():
            members.pop(client, None)

    def forget(self, group: str | None = None, incarnation: int | None = None) -> None:
        """A group or topic is gone."""
        for place in list(self._members):
            if place[0] == group or place[1] == incarnation:
                del self._members[place]

    def members(self, group: str) -> dict[tuple[str, int], Wanted]:
        """(client, incarnation of the topic) -> what it wants; of those that count now."""
        now_ms = self._clock.monotonic_ms()
        return {
            (client, incarnation): wanted
            for (name, incarnation), members in self._members.items()
            if name == group
            for client, (wanted, heard_ms) in members.items()
            if now_ms - heard_ms <= HEARD_MS
        }


@lru_cache(maxsize=1_024)
def _parsed(kind: str, expression: str) -> Filter | None:
    found = parse_filter(kind, expression)
    return None if (found.kind, found.expression) == EVERYTHING else found
