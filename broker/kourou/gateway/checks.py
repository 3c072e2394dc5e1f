"""What a message of the official API must be like; each rule with the code that clients know it by."""

from __future__ import annotations

from kourou.core.limits import (
    BODY_BYTES_MAX,
    KEYS_COUNT_MAX,
    MESSAGE_GROUP_BYTES_MAX,
    PROPERTIES_BYTES_MAX,
    PROPERTIES_COUNT_MAX,
)
from kourou.core.names import has_control_characters
from kourou.core.route import TopicType
from kourou.gateway.status import Code, Refused
from kourou.proto.rocketmq.v2 import definition_pb2 as pb

RECOVERY_S_MAX = 3_600
MESSAGE_ID_CHARACTERS_MAX = 255
TRACE_BYTES_MAX = 1_024
PRIORITY_MAX = 2**31 - 1
LITE_TOPIC_BYTES_MAX = 64

# What RocketMQ keeps for itself; a user property of that name would not come through its clients.
RESERVED = frozenset(
    """
    TRACE_ON MSG_REGION KEYS TAGS WAIT DELAY RETRY_TOPIC REAL_TOPIC REAL_QID TRAN_MSG PGROUP MIN_OFFSET MAX_OFFSET
    BUYER_ID ORIGIN_MESSAGE_ID TRANSFER_FLAG CORRECTION_FLAG MQ2_FLAG RECONSUME_TIME UNIQ_KEY MAX_RECONSUME_TIMES
    CONSUME_START_TIME POP_CK POP_CK_OFFSET 1ST_POP_TIME TRAN_PREPARED_QUEUE_OFFSET DUP_INFO EXTEND_UNIQ_INFO INSTANCE_ID
    CORRELATION_ID REPLY_TO_CLIENT TTL ARRIVE_TIME PUSH_REPLY_TIME CLUSTER MSG_TYPE INNER_MULTI_QUEUE_OFFSET TIMER_DELAY_MS
    TIMER_DELAY_SEC TIMER_DELIVER_MS TIMER_ENQUEUE_MS TIMER_DEQUEUE_MS TIMER_ROLL_TIMES TIMER_OUT_MS TIMER_DEL_UNIQKEY
    TIMER_DELAY_LEVEL __BORNHOST BORN_TIMESTAMP DLQ_ORIGIN_TOPIC DLQ_ORIGIN_MESSAGE_ID __CRC32#
    """.split()  # noqa: SIM905
)


def kind_of(system: pb.SystemProperties) -> TopicType:
    """The type of a message as its properties say, in RocketMQ's order of precedence."""
    if system.message_type == pb.TRANSACTION:
        return TopicType.TRANSACTION
    if system.HasField("delivery_timestamp"):
        return TopicType.DELAY
    if system.HasField("message_group"):
        return TopicType.FIFO
    if system.HasField("priority"):
        return TopicType.PRIORITY
    if system.HasField("lite_topic"):
        return TopicType.LITE
    return TopicType.NORMAL


def check_message(message: pb.Message) -> None:
    """Raises Refused with the code of the first rule that is broken."""
    system = message.system_properties
    body = len(message.body)
    if not body:
        raise Refused(Code.MESSAGE_BODY_EMPTY, "message body is empty")
    if body > BODY_BYTES_MAX:
        raise Refused(Code.MESSAGE_BODY_TOO_LARGE, f"message body has {body} bytes; the limit is {BODY_BYTES_MAX}")
    if not system.message_id.strip():
        raise Refused(Code.ILLEGAL_MESSAGE_ID, "message id is blank")
    if len(system.message_id) > MESSAGE_ID_CHARACTERS_MAX or has_control_characters(system.message_id):
        raise Refused(
            Code.ILLEGAL_MESSAGE_ID,
            f"message id has control characters or more than {MESSAGE_ID_CHARACTERS_MAX} characters",
        )
    size = 0
    if system.HasField("tag"):
        size += _check_tag(system.tag)
    if system.keys:
        size += _check_keys(system)
    if message.user_properties:
        size += _check_properties(message)
    if size > PROPERTIES_BYTES_MAX:
        raise Refused(
            Code.MESSAGE_PROPERTIES_TOO_LARGE,
            f"tag, keys and properties have {size} bytes; the limit is {PROPERTIES_BYTES_MAX}",
        )
    _check_rare(system)


def _check_tag(tag: str) -> int:
    if not tag.strip() or "|" in tag or has_control_characters(tag):
        raise Refused(Code.ILLEGAL_MESSAGE_TAG, "message tag is blank or has '|' or control characters")
    return len(tag.encode())


def _check_keys(system: pb.SystemProperties) -> int:
    if len(system.keys) > KEYS_COUNT_MAX:
        raise Refused(Code.ILLEGAL_MESSAGE_KEY, f"message has {len(system.keys)} keys; the limit is {KEYS_COUNT_MAX}")
    size = 0
    for key in system.keys:
        if not key.strip() or has_control_characters(key):
            raise Refused(Code.ILLEGAL_MESSAGE_KEY, "a message key is blank or has control characters")
        size += len(key.encode())
    return size


def _check_properties(message: pb.Message) -> int:
    properties = message.user_properties
    if len(properties) > PROPERTIES_COUNT_MAX:
        raise Refused(
            Code.MESSAGE_PROPERTIES_TOO_LARGE,
            f"message has {len(properties)} properties; the limit is {PROPERTIES_COUNT_MAX}",
        )
    size = 0
    for name, value in properties.items():
        if name in RESERVED:
            raise Refused(Code.ILLEGAL_MESSAGE_PROPERTY_KEY, f"property {name!r} is reserved for the system")
        if not name or has_control_characters(name):
            raise Refused(Code.ILLEGAL_MESSAGE_PROPERTY_KEY, "a property's name is empty or has control characters")
        size += len(name.encode()) + len(value.encode())
    return size


def _check_rare(system: pb.SystemProperties) -> None:
    if system.HasField("message_group"):
        group = system.message_group
        if not group.strip() or has_control_characters(group) or len(group.encode()) > MESSAGE_GROUP_BYTES_MAX:
            raise Refused(
                Code.ILLEGAL_MESSAGE_GROUP,
                f"message group is blank, has control characters or more than {MESSAGE_GROUP_BYTES_MAX} bytes",
            )
    if system.HasField("orphaned_transaction_recovery_duration"):
        seconds = system.orphaned_transaction_recovery_duration.seconds
        if not 0 <= seconds <= RECOVERY_S_MAX:
            raise Refused(
                Code.BAD_REQUEST, f"orphaned_transaction_recovery_duration is {seconds} s; up to {RECOVERY_S_MAX} may be"
            )
    if system.HasField("priority") and not 0 <= system.priority <= PRIORITY_MAX:
        raise Refused(Code.BAD_REQUEST, f"priority is {system.priority}; from 0 on is allowed")
    if system.HasField("trace_context") and len(system.trace_context.encode()) > TRACE_BYTES_MAX:
        raise Refused(Code.MESSAGE_PROPERTIES_TOO_LARGE, f"trace_context has more than {TRACE_BYTES_MAX} bytes")
    if len(system.born_host.encode()) > 255:
        raise Refused(Code.BAD_REQUEST, "born_host has more than 255 bytes")
    if system.HasField("lite_topic"):
        lite = system.lite_topic
        if (
            not lite
            or len(lite.encode()) > LITE_TOPIC_BYTES_MAX
            or not all(c.isascii() and (c.isalnum() or c in "_-") for c in lite)
        ):
            raise Refused(
                Code.ILLEGAL_LITE_TOPIC,
                f"lite topic must have 1 to {LITE_TOPIC_BYTES_MAX} letters, digits, '_' or '-'",
            )
