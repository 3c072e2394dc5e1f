"""SyncLiteSubscription: which parts of a lite topic a client wants."""

from __future__ import annotations

from kourou.core.errors import LimitExceeded, TopicTypeMismatch
from kourou.gateway.checks import LITE_TOPIC_BYTES_MAX
from kourou.gateway.messaging import Messaging
from kourou.gateway.names import client_id, group_name, topic_name
from kourou.gateway.status import OK, Code, Refused
from kourou.http2.call import Call
from kourou.proto.rocketmq.v2 import definition_pb2 as pb
from kourou.proto.rocketmq.v2 import service_pb2 as service

NAMES_MAX = 10_000  # of one request
ACTIONS: dict[int, str] = {
    pb.PARTIAL_ADD: "add",
    pb.PARTIAL_REMOVE: "remove",
    pb.COMPLETE_ADD: "replace",
    pb.COMPLETE_REMOVE: "clear",
}


class LiteHandlers:
    def __init__(self, messaging: Messaging) -> None:
        self._messaging = messaging

    async def sync(self, data: bytes, call: Call) -> bytes:
        request = service.SyncLiteSubscriptionRequest.FromString(data)
        client = client_id(call)
        topic, group = topic_name(request.topic, call), group_name(request.group, call)
        action = ACTIONS.get(request.action)
        if action is None:
            raise Refused(Code.BAD_REQUEST, f"lite subscription action {request.action} is unknown")
        if len(request.lite_topic_set) > NAMES_MAX:
            raise Refused(Code.BAD_REQUEST, f"request has {len(request.lite_topic_set)} lite topics; {NAMES_MAX} may be")
        for name in request.lite_topic_set:
            check_lite_topic(name)
        start = start_of(request.offset_option) if request.HasField("offset_option") else None
        try:
            await self._messaging.sync_lite(group, topic, client, request.lite_topic_set, action=action, start=start)
        except LimitExceeded as failure:
            raise Refused(Code.LITE_SUBSCRIPTION_QUOTA_EXCEEDED, str(failure)) from None
        except TopicTypeMismatch as failure:
            raise Refused(Code.ILLEGAL_TOPIC, str(failure)) from None
        return service.SyncLiteSubscriptionResponse(status=OK).SerializeToString()


def check_lite_topic(name: str) -> None:
    """Raises Refused with ILLEGAL_LITE_TOPIC."""
    legal = all(c.isascii() and (c.isalnum() or c in "_-") for c in name)
    if not name or not legal or len(name) > LITE_TOPIC_BYTES_MAX:
        raise Refused(
            Code.ILLEGAL_LITE_TOPIC, f"lite topic must have 1 to {LITE_TOPIC_BYTES_MAX} letters, digits, '_' or '-'"
        )


def start_of(option: pb.OffsetOption) -> tuple[str, int] | None:
    kind = option.WhichOneof("offset_type")
    if kind is None or (kind == "policy" and option.policy == pb.OffsetOption.LAST):
        return None
    if kind == "policy":
        return ("min", 0) if option.policy == pb.OffsetOption.MIN else ("max", 0)
    number = {"offset": option.offset, "tail_n": option.tail_n, "timestamp": option.timestamp}[kind]
    if number < 0:
        raise Refused(Code.ILLEGAL_OFFSET, f"{kind} is {number}; from 0 on is allowed")
    return {"offset": "offset", "tail_n": "tail", "timestamp": "time"}[kind], number
