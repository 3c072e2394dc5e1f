"""UpdateOffset, GetOffset, QueryOffset: for consumers that pull."""

from __future__ import annotations

from kourou.gateway.convert import milliseconds
from kourou.gateway.messaging import Messaging
from kourou.gateway.names import client_id, group_name, topic_name
from kourou.gateway.status import OK, Code, Refused
from kourou.http2.call import Call
from kourou.proto.rocketmq.v2 import definition_pb2 as pb
from kourou.proto.rocketmq.v2 import service_pb2 as service


class OffsetHandlers:
    def __init__(self, messaging: Messaging) -> None:
        self._messaging = messaging

    async def update(self, data: bytes, call: Call) -> bytes:
        request = service.UpdateOffsetRequest.FromString(data)
        client_id(call)
        topic, group = topic_name(request.message_queue.topic, call), group_name(request.group, call)
        if request.offset < 0:
            raise Refused(Code.ILLEGAL_OFFSET, f"offset is {request.offset}; from 0 on is allowed")
        await self._messaging.commit_offset(group, topic, _queue(request.message_queue), request.offset)
        return service.UpdateOffsetResponse(status=OK).SerializeToString()

    def get(self, data: bytes, call: Call) -> bytes:
        request = service.GetOffsetRequest.FromString(data)
        client_id(call)
        topic, group = topic_name(request.message_queue.topic, call), group_name(request.group, call)
        offset = self._messaging.committed_offset(group, topic, _queue(request.message_queue))
        if offset is None:
            raise Refused(Code.OFFSET_NOT_FOUND, f"group {group} has committed nothing for this queue")
        return service.GetOffsetResponse(status=OK, offset=offset).SerializeToString()

    def query(self, data: bytes, call: Call) -> bytes:
        request = service.QueryOffsetRequest.FromString(data)
        client_id(call)
        topic, queue = topic_name(request.message_queue.topic, call), _queue(request.message_queue)
        policy = request.query_offset_policy
        time_ms: int | None = None
        if policy == pb.TIMESTAMP:
            if not request.HasField("timestamp"):
                raise Refused(Code.BAD_REQUEST, "policy TIMESTAMP needs a timestamp")
            time_ms = max(0, milliseconds(request.timestamp))
        elif policy not in (pb.BEGINNING, pb.END):
            raise Refused(Code.BAD_REQUEST, f"offset policy {policy} is unknown")
        offset = self._messaging.offset_at(topic, queue, time_ms=time_ms, end=policy == pb.END)
        return service.QueryOffsetResponse(status=OK, offset=offset).SerializeToString()


def _queue(queue: pb.MessageQueue) -> int:
    if queue.id < 0:
        raise Refused(Code.BAD_REQUEST, "the request needs the id of a queue")
    return queue.id
