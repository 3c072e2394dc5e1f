"""Topics and groups of the official API: a namespace and a name make one of ours; who asks says so in the metadata."""

from __future__ import annotations

from kourou.core import names
from kourou.core.errors import KourouError
from kourou.gateway.status import Code, Refused
from kourou.http2.call import Call
from kourou.proto.rocketmq.v2 import definition_pb2 as pb

CLIENT_ID_CHARACTERS_MAX = 255
NAMESPACE_SEPARATOR = "%"
DEAD_LETTER_PREFIX = "%DLQ%"


def client_id(call: Call) -> str:
    """Raises Refused with CLIENT_ID_REQUIRED."""
    found = call.metadata.get("x-mq-client-id", "").strip()
    if not found:
        raise Refused(Code.CLIENT_ID_REQUIRED, "metadata x-mq-client-id is missing or blank")
    if len(found) > CLIENT_ID_CHARACTERS_MAX:
        raise Refused(
            Code.CLIENT_ID_REQUIRED,
            f"metadata x-mq-client-id has {len(found)} characters; {CLIENT_ID_CHARACTERS_MAX} may be",
        )
    return found


def _joined(resource: pb.Resource, call: Call) -> str:
    namespace = resource.resource_namespace or call.metadata.get("x-mq-namespace", "")
    name = resource.name
    if not namespace or not name:
        return name
    if name.startswith(DEAD_LETTER_PREFIX):  # of a group, which is in the namespace
        return f"{DEAD_LETTER_PREFIX}{namespace}{NAMESPACE_SEPARATOR}{name.removeprefix(DEAD_LETTER_PREFIX)}"
    return f"{namespace}{NAMESPACE_SEPARATOR}{name}"


def topic_name(resource: pb.Resource, call: Call) -> str:
    """Our name of a topic. Raises Refused with ILLEGAL_TOPIC."""
    try:
        return names.check_topic(_joined(resource, call))
    except KourouError as failure:
        raise Refused(Code.ILLEGAL_TOPIC, str(failure)) from None


def group_name(resource: pb.Resource, call: Call) -> str:
    """Our name of a group. Raises Refused with ILLEGAL_CONSUMER_GROUP."""
    try:
        return names.check_group(_joined(resource, call))
    except KourouError as failure:
        raise Refused(Code.ILLEGAL_CONSUMER_GROUP, str(failure)) from None
