"""What operators ask: a message's life, dead letters, changes of groups. Mixed into ``Client``."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from kourou.client.arguments import check_whole
from kourou.client.cluster import Cluster
from kourou.core.errors import BadRequest, KourouError, MessageNotFound, NotConnected, NotHere, TopicNotFound
from kourou.core.names import check_group, check_topic
from kourou.core.wire import Code

REDRIVE_TIMEOUT_S = 3_600.0
A_REQUEST = 500  # messages redriven or purged by one request: it ends in time at any rate


class Operations:
    @property
    def _cluster(self) -> Cluster:
        raise NotImplementedError

    async def _brokers(self) -> list[str]:
        await self._cluster.refresh_brokers()
        names = sorted(name for name, master in self._cluster.masters.items() if master is not None)
        if not names:
            raise NotConnected("no broker can be reached; start one, or wait until it is")
        return names

    async def explain(self, topic: str, *, id: str | None = None, key: str | None = None) -> list[dict[str, Any]]:
        """One message's whole life, or that of all with a key: facts, the state of each group, and events in order of time.

        Raises MessageNotFound, TopicNotFound.
        """
        found: list[dict[str, Any]] = []
        last: KourouError = MessageNotFound(f"topic {topic} holds no such message")
        for broker in await self._brokers():
            try:
                value = {"topic": check_topic(topic), "id": id, "key": key}
                answer = await self._cluster.ask_broker(broker, Code.EXPLAIN, value)
            except NotHere as failure:
                if not isinstance(last, MessageNotFound) or isinstance(failure, MessageNotFound):
                    last = failure
                continue
            found += [{"broker": broker, **message} for message in answer["messages"]]
        if not found:
            raise last
        return found

    async def scheduled(self, topic: str, *, limit: int = 100, from_ms: int = 0) -> tuple[int, list[dict[str, Any]]]:
        """(how many messages of a topic wait for their time, the ``limit`` soonest of those due at or after a time). Each
        has ``due_ms``, ``broker``, ``queue`` and a ``recall_handle``. Raises TopicNotFound."""
        count, found, missing = 0, [], 0
        brokers = await self._brokers()
        value = {"topic": check_topic(topic), "limit": limit, "from": from_ms}
        for broker in brokers:
            try:
                answer = await self._cluster.ask_broker(broker, Code.SCHEDULED, value)
            except TopicNotFound:
                missing += 1
                continue
            count += answer["count"]
            found += [{"broker": broker, **message} for message in answer["messages"]]
        if missing == len(brokers):
            raise TopicNotFound(f"topic {topic} does not exist")
        return count, sorted(found, key=lambda message: message["due_ms"])[:limit]

    # ---- dead letters

    async def dead_letters(
        self, group: str, *, limit: int = 32, filter: str | None = None, filter_kind: str = "tag"
    ) -> tuple[int, list[dict[str, Any]]]:
        """(how many a group has in all, the oldest ``limit`` that match). Raises TopicNotFound when it never had any."""
        count, found, missing = 0, [], 0
        brokers = await self._brokers()
        value = {"group": check_group(group), "limit": limit, "filter": filter, "filter_kind": filter_kind}
        for broker in brokers:
            try:
                answer = await self._cluster.ask_broker(broker, Code.DEAD_LETTERS, value)
            except TopicNotFound:
                missing += 1
                continue
            count += answer["count"]
            found += [{"broker": broker, **letter} for letter in answer["messages"]]
        if missing == len(brokers):
            raise TopicNotFound(f"group {group} has no dead letters")
        return count, sorted(found, key=lambda letter: letter["dead_ms"])[:limit]

    async def redrive(
        self,
        group: str,
        *,
        ids: Iterable[str] | None = None,
        filter: str | None = None,
        filter_kind: str = "tag",
        limit: int | None = None,
        rate: float = 100.0,
    ) -> int:
        """Send dead letters back to where they came from, for this group alone, ``rate`` a second; how many."""
        value = {"filter": filter, "filter_kind": filter_kind, "rate": rate}
        return await self._in_portions(Code.DEAD_LETTERS_REDRIVE, "redriven", group, ids, limit, value)

    async def purge_dead_letters(
        self,
        group: str,
        *,
        ids: Iterable[str] | None = None,
        filter: str | None = None,
        filter_kind: str = "tag",
        limit: int | None = None,
    ) -> int:
        """Throw dead letters away; how many."""
        value = {"filter": filter, "filter_kind": filter_kind}
        return await self._in_portions(Code.DEAD_LETTERS_PURGE, "purged", group, ids, limit, value)

    async def _in_portions(
        self, code: int, name: str, group: str, ids: Iterable[str] | None, limit: int | None, value: dict[str, Any]
    ) -> int:
        done = 0
        if isinstance(ids, str):
            raise BadRequest("ids must be several message ids, not one string")
        wanted = list(ids) if ids is not None else None
        if limit is not None:
            check_whole("limit", limit, least=1, most=1 << 62)
        for broker in await self._brokers():
            while limit is None or done < limit:
                portion = A_REQUEST if limit is None else min(A_REQUEST, limit - done)
                request = {"group": check_group(group), "ids": wanted, "limit": portion, **value}
                try:
                    connection = await self._cluster.broker(broker)
                    answer = await connection.ask_json(code, request, timeout_s=REDRIVE_TIMEOUT_S)
                except TopicNotFound:
                    break
                done += answer[name]
                if answer[name] < portion:
                    break
        return done

    # ---- groups

    async def update_group(
        self,
        name: str,
        *,
        max_attempts: int | None = None,
        retry: object = None,
        fifo: bool | None = None,
        exclusive: bool | None = None,
    ) -> bool:
        """Change what is given of a group, on every broker; whether anything was different. ``retry`` is a list of delays in
        ms, or {"initial_ms", "max_ms", "multiplier"}."""
        value: dict[str, Any] = {"group": check_group(name), "max_attempts": max_attempts, "retry": retry}
        if fifo is not None:
            value["fifo"] = fifo
        if exclusive is not None:
            value["exclusive"] = exclusive
        return await self._changed(Code.GROUP_UPDATE, value)

    async def set_subscription(self, group: str, topic: str, *, filter: str | None, filter_kind: str = "tag") -> bool:
        """What all members of a shared group get of a topic from now on, whatever they ask for; None: what they agree on."""
        value = {"group": check_group(group), "topic": check_topic(topic), "filter": filter, "filter_kind": filter_kind}
        return await self._changed(Code.GROUP_FILTER, value)

    async def _changed(self, code: int, value: dict[str, Any]) -> bool:
        changed = False
        for broker in await self._brokers():
            changed |= bool((await self._cluster.ask_broker(broker, code, value))["changed"])
        return changed
