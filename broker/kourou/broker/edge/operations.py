"""What operators ask on the data plane: a message's life, dead letters, what waits for its time, changes of groups."""

from __future__ import annotations

from typing import Any

from kourou.broker.services.admin import AdminService
from kourou.broker.services.explain import ExplainService
from kourou.broker.services.gravekeeping import A_REQUEST, LIST_MAX, RATE_MAX, Gravekeeper
from kourou.broker.services.timers import SCHEDULED_MAX, TimerService
from kourou.core import fields, wire
from kourou.core.errors import BadRequest
from kourou.core.filter import Filter, parse_filter
from kourou.core.handles import Handles, Recall
from kourou.core.names import check_group, check_topic
from kourou.core.retry import RetryPolicy
from kourou.core.wire import Code, WireMessage
from kourou.transport.server import Handler, Peer

ATTEMPTS_MAX = 1_000
IDS_MAX = 1_000
EXPRESSION_CHARACTERS_MAX = 8_192


class OperationHandlers:
    def __init__(
        self,
        admin: AdminService,
        explain: ExplainService,
        graves: Gravekeeper,
        timers: TimerService,
        handles: Handles,
    ) -> None:
        self._admin = admin
        self._explain = explain
        self._graves = graves
        self._timers = timers
        self._handles = handles

    def table(self) -> dict[int, Handler]:
        return {
            Code.EXPLAIN: self.explain,
            Code.SCHEDULED: self.scheduled,
            Code.DEAD_LETTERS: self.dead_letters,
            Code.DEAD_LETTERS_REDRIVE: self.redrive,
            Code.DEAD_LETTERS_PURGE: self.purge,
            Code.GROUP_UPDATE: self.group_update,
            Code.GROUP_FILTER: self.group_filter,
        }

    async def explain(self, peer: Peer, message: WireMessage) -> None:
        value = wire.decode_json(message.body, what="EXPLAIN")
        message_id, key = fields.optional_text(value, "id"), fields.optional_text(value, "key")
        if (message_id is None) == (key is None):
            raise BadRequest("EXPLAIN needs one of the fields 'id' and 'key'")
        lives = await self._explain.explain(check_topic(value.get("topic")), message_id=message_id, key=key)
        peer.reply_json(message, {"messages": [life.to_json() for life in lives]})

    async def scheduled(self, peer: Peer, message: WireMessage) -> None:
        value = wire.decode_json(message.body, what="SCHEDULED")
        topic = check_topic(value.get("topic"))
        limit = fields.number(value, "limit", 100, low=1, high=SCHEDULED_MAX)
        count, found = await self._timers.scheduled(topic, limit=limit, from_ms=fields.number(value, "from", 0))
        messages = [
            {
                "due_ms": timer.due_ms,
                "queue": timer.queue,
                "recall_handle": self._handles.recall(Recall(timer.log_offset, timer.record, timer.due_ms)),
            }
            for timer in found
        ]
        peer.reply_json(message, {"count": count, "messages": messages})

    async def dead_letters(self, peer: Peer, message: WireMessage) -> None:
        value = wire.decode_json(message.body, what="DEAD_LETTERS")
        group = check_group(value.get("group"))
        after = fields.numbers(value, "after", count_max=2, high=(1 << 62))
        if after is not None and len(after) != 2:
            raise BadRequest("field 'after' must be a pair [queue, offset]")
        found = await self._graves.listed(
            group,
            limit=fields.number(value, "limit", 32, low=1, high=LIST_MAX),
            after=(after[0], after[1]) if after is not None else None,
            wanted=_filter(value),
        )
        peer.reply_json(message, {"count": self._graves.count(group), "messages": [letter.to_json() for letter in found]})

    async def redrive(self, peer: Peer, message: WireMessage) -> None:
        value = wire.decode_json(message.body, what="DEAD_LETTERS_REDRIVE")
        rate = value.get("rate", 100.0)
        if isinstance(rate, bool) or not isinstance(rate, int | float) or not 0 < rate <= RATE_MAX:
            raise BadRequest(f"field 'rate' must be a number above 0 up to {RATE_MAX:g} messages a second")
        sent, stuck = await self._graves.redrive(
            check_group(value.get("group")),
            limit=fields.number(value, "limit", A_REQUEST, low=1, high=A_REQUEST),
            rate=float(rate),
            wanted=_filter(value),
            ids=_ids(value),
        )
        peer.reply_json(message, {"redriven": sent, "without_topic": stuck})

    async def purge(self, peer: Peer, message: WireMessage) -> None:
        value = wire.decode_json(message.body, what="DEAD_LETTERS_PURGE")
        purged = await self._graves.purge(
            check_group(value.get("group")),
            limit=fields.number(value, "limit", A_REQUEST, low=1, high=A_REQUEST),
            wanted=_filter(value),
            ids=_ids(value),
        )
        peer.reply_json(message, {"purged": purged})

    async def group_update(self, peer: Peer, message: WireMessage) -> None:
        value = wire.decode_json(message.body, what="GROUP_UPDATE")
        changed = await self._admin.update_group(
            check_group(value.get("group")),
            fifo=fields.flag(value, "fifo", False) if "fifo" in value else None,
            max_attempts=fields.optional_number(value, "max_attempts", low=1, high=ATTEMPTS_MAX),
            retry=RetryPolicy.from_json(value["retry"]) if value.get("retry") is not None else None,
            exclusive=fields.flag(value, "exclusive", False) if "exclusive" in value else None,
        )
        peer.reply_json(message, {"changed": changed})

    async def group_filter(self, peer: Peer, message: WireMessage) -> None:
        value = wire.decode_json(message.body, what="GROUP_FILTER")
        wanted = _filter(value)
        changed = await self._admin.set_filter(
            check_group(value.get("group")),
            check_topic(value.get("topic")),
            (wanted.kind, wanted.expression) if wanted is not None else None,
        )
        peer.reply_json(message, {"changed": changed})


def _filter(value: dict[str, Any]) -> Filter | None:
    """Fields 'filter' and 'filter_kind' (tag, the default, or sql); None where there is none."""
    expression = value.get("filter")
    if expression is None:
        return None
    text = fields.text(value, "filter", characters_max=EXPRESSION_CHARACTERS_MAX)
    return parse_filter(fields.choice(value, "filter_kind", ("tag", "sql"), "tag"), text)


def _ids(value: dict[str, Any]) -> frozenset[str] | None:
    found = fields.texts(value, "ids", count_max=IDS_MAX)
    return frozenset(found) if found is not None else None
