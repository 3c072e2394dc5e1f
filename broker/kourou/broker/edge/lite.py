"""LITE_QUEUES, LITE_SUBSCRIBE and LITE_EVICTED on the data plane: lite topics for native clients."""

from __future__ import annotations

from kourou.broker.services.lite import LiteService
from kourou.broker.services.messaging import LocalMessaging
from kourou.broker.services.state import BrokerState
from kourou.core import fields, wire
from kourou.core.errors import BadRequest, TopicTypeMismatch
from kourou.core.names import check_group, check_lite_topic, check_topic
from kourou.core.route import TopicType
from kourou.core.wire import Code, WireMessage
from kourou.transport.server import Handler, Peer

NAMES_MAX = 10_000  # of one request
ACTIONS = ("add", "remove", "replace", "clear")
STARTS = ("min", "max", "offset", "tail", "time")


class LiteHandlers:
    def __init__(self, messaging: LocalMessaging, lite: LiteService, state: BrokerState) -> None:
        self._messaging = messaging
        self._lite = lite
        self._state = state
        self._peers: dict[str, Peer] = {}  # by client id, of those that have subscribed
        self._wanted: dict[str, dict[tuple[str, str], set[str]]] = {}  # by client id: names, by group and topic

    def table(self) -> dict[int, Handler]:
        return {Code.LITE_QUEUES: self.queues, Code.LITE_SUBSCRIBE: self.subscribe}

    def queues(self, peer: Peer, message: WireMessage) -> None:
        """In which queues the messages of lite topics lie; they are made if need be."""
        value = wire.decode_json(message.body, what="LITE_QUEUES")
        topic = self._state.topics.get(check_topic(value.get("topic")))
        if topic.type is not TopicType.LITE:
            raise TopicTypeMismatch(f"topic {topic.name} has type {topic.type.value}, not lite")
        names = [check_lite_topic(name) for name in fields.texts(value, "names", count_max=NAMES_MAX) or ()]
        peer.reply_json(message, {"queues": [self._lite.queue_for(topic, name) for name in names]})

    async def subscribe(self, peer: Peer, message: WireMessage) -> None:
        """Change which lite topics a client is handed messages of."""
        value = wire.decode_json(message.body, what="LITE_SUBSCRIBE")
        group, topic = check_group(value.get("group")), check_topic(value.get("topic"))
        action = fields.choice(value, "action", ACTIONS)
        names = [check_lite_topic(name) for name in fields.texts(value, "names", count_max=NAMES_MAX) or ()]
        start = _start_of(value.get("start"))
        client = peer.client_id
        await self._messaging.sync_lite(group, topic, client, names, action=action, start=start)
        if peer.closed:
            self._messaging.client_gone(client)
            return
        if self._peers.get(client) is not peer:
            self._peers[client] = peer
            peer.on_close(self._closed)
        known = self._wanted.setdefault(client, {})
        held = known.setdefault((group, topic), set())
        if action in ("replace", "clear"):
            held.clear()
        if action == "remove":
            held.difference_update(names)
        else:
            held.update(names)
        peer.reply_json(message, {})

    def evicted(self, client: str, name: str) -> None:
        """Another subscriber of an exclusive group has taken a lite topic over."""
        peer = self._peers.get(client)
        for (group, topic), names in self._wanted.get(client, {}).items():
            known = self._state.topics.find(topic)
            if name not in names or known is None or name in self._lite.subscriber(client, group, known).names:
                continue
            names.discard(name)
            if peer is not None and not peer.closed:
                peer.push_json(Code.LITE_EVICTED, {"group": group, "topic": topic, "lite_topic": name})

    def _closed(self, peer: Peer) -> None:
        if self._peers.get(peer.client_id) is peer:
            del self._peers[peer.client_id]
            self._wanted.pop(peer.client_id, None)
            self._messaging.client_gone(peer.client_id)


def _start_of(value: object) -> tuple[str, int] | None:
    """[kind, number], or nothing: where the group was."""
    if value is None:
        return None
    if (
        not isinstance(value, list)
        or len(value) != 2
        or value[0] not in STARTS
        or not isinstance(value[1], int)
        or not 0 <= value[1] < 1 << 63
    ):
        raise BadRequest(f"start must be [kind, number]; kinds are {', '.join(STARTS)}")
    return value[0], value[1]
