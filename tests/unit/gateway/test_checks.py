"""What a message may be, rule by rule, with the code that clients know the rule by."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from kourou.core.limits import BODY_BYTES_MAX, KEYS_COUNT_MAX, PROPERTIES_BYTES_MAX
from kourou.core.route import TopicType
from kourou.gateway.checks import RESERVED, check_message, kind_of
from kourou.gateway.status import Code, Refused
from kourou.proto.rocketmq.v2 import definition_pb2 as pb


def message() -> pb.Message:
    made = pb.Message(body=b"x")
    made.system_properties.message_id = "01ABC"
    return made


def changed(change: Callable[[pb.Message], object]) -> pb.Message:
    made = message()
    change(made)
    return made


def system(name: str, value: object) -> Callable[[pb.Message], None]:
    return lambda made: setattr(made.system_properties, name, value)


def properties(**values: str) -> Callable[[pb.Message], None]:
    return lambda made: made.user_properties.update(values)


@pytest.mark.parametrize(
    "change",
    [
        lambda made: None,
        lambda made: setattr(made, "body", bytes(BODY_BYTES_MAX)),
        system("tag", "täg"),
        system("message_group", "g" * 63),
        system("message_id", "any non-blank text will do"),
        system("priority", 0),
        system("trace_context", "00-abc"),
        system("lite_topic", "l" * 64),
        lambda made: made.system_properties.keys.extend(["k"] * KEYS_COUNT_MAX),
        lambda made: made.user_properties.update({str(number): "" for number in range(128)}),
        properties(a="v" * (PROPERTIES_BYTES_MAX - 1)),
        lambda made: made.user_properties.update({"a b": "\n", "é": "\0"}),
        lambda made: made.system_properties.orphaned_transaction_recovery_duration.FromSeconds(3_600),
    ],
)
def test_legal(change: Callable[[pb.Message], object]) -> None:
    check_message(changed(change))


@pytest.mark.parametrize(
    ("code", "change"),
    [
        (Code.MESSAGE_BODY_EMPTY, lambda made: made.ClearField("body")),
        (Code.MESSAGE_BODY_TOO_LARGE, lambda made: setattr(made, "body", bytes(BODY_BYTES_MAX + 1))),
        (Code.ILLEGAL_MESSAGE_ID, system("message_id", "")),
        (Code.ILLEGAL_MESSAGE_ID, system("message_id", " \t")),
        (Code.ILLEGAL_MESSAGE_ID, system("message_id", "x" * 256)),
        (Code.ILLEGAL_MESSAGE_ID, system("message_id", "x\0")),
        (Code.ILLEGAL_MESSAGE_TAG, system("tag", "")),
        (Code.ILLEGAL_MESSAGE_TAG, system("tag", "  ")),
        (Code.ILLEGAL_MESSAGE_TAG, system("tag", "a|b")),
        (Code.ILLEGAL_MESSAGE_TAG, system("tag", "a\x7f")),
        (Code.ILLEGAL_MESSAGE_KEY, lambda made: made.system_properties.keys.append("")),
        (Code.ILLEGAL_MESSAGE_KEY, lambda made: made.system_properties.keys.extend(["ok", "\r"])),
        (Code.ILLEGAL_MESSAGE_KEY, lambda made: made.system_properties.keys.extend(["k"] * (KEYS_COUNT_MAX + 1))),
        (Code.MESSAGE_PROPERTIES_TOO_LARGE, lambda made: made.user_properties.update({str(n): "" for n in range(129)})),
        (Code.MESSAGE_PROPERTIES_TOO_LARGE, properties(a="v" * PROPERTIES_BYTES_MAX)),
        (Code.MESSAGE_PROPERTIES_TOO_LARGE, system("tag", "t" * (PROPERTIES_BYTES_MAX + 1))),
        (
            Code.MESSAGE_PROPERTIES_TOO_LARGE,
            lambda made: made.system_properties.keys.append("k" * PROPERTIES_BYTES_MAX + "é"),
        ),
        (Code.MESSAGE_PROPERTIES_TOO_LARGE, system("trace_context", "x" * 1_025)),
        (Code.ILLEGAL_MESSAGE_PROPERTY_KEY, lambda made: made.user_properties.update({"": "v"})),
        (Code.ILLEGAL_MESSAGE_PROPERTY_KEY, lambda made: made.user_properties.update({"a\x01": "v"})),
        *((Code.ILLEGAL_MESSAGE_PROPERTY_KEY, properties(**{name: "v"})) for name in sorted(RESERVED)),
        (Code.ILLEGAL_MESSAGE_GROUP, system("message_group", "")),
        (Code.ILLEGAL_MESSAGE_GROUP, system("message_group", " ")),
        (Code.ILLEGAL_MESSAGE_GROUP, system("message_group", "g" * 64)),
        (Code.ILLEGAL_MESSAGE_GROUP, system("message_group", "é" * 32)),
        (Code.ILLEGAL_MESSAGE_GROUP, system("message_group", "a\n")),
        (Code.BAD_REQUEST, system("priority", -1)),
        (Code.BAD_REQUEST, system("born_host", "h" * 256)),
        (Code.BAD_REQUEST, lambda made: made.system_properties.orphaned_transaction_recovery_duration.FromSeconds(3_601)),
        (Code.BAD_REQUEST, lambda made: made.system_properties.orphaned_transaction_recovery_duration.FromSeconds(-1)),
        (Code.ILLEGAL_LITE_TOPIC, system("lite_topic", "")),
        (Code.ILLEGAL_LITE_TOPIC, system("lite_topic", "a b")),
        (Code.ILLEGAL_LITE_TOPIC, system("lite_topic", "é")),
        (Code.ILLEGAL_LITE_TOPIC, system("lite_topic", "l" * 65)),
    ],
)
def test_illegal(code: int, change: Callable[[pb.Message], object]) -> None:
    with pytest.raises(Refused) as refused:
        check_message(changed(change))
    assert refused.value.code == code


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        (TopicType.NORMAL, {}),
        (TopicType.NORMAL, {"message_type": pb.FIFO}),  # what a client believes does not count
        (TopicType.LITE, {"lite_topic": "l"}),
        (TopicType.PRIORITY, {"lite_topic": "l", "priority": 0}),
        (TopicType.FIFO, {"lite_topic": "l", "priority": 0, "message_group": "g"}),
        (TopicType.DELAY, {"priority": 0, "message_group": "g", "delivery_timestamp": {"seconds": 0}}),
        (TopicType.TRANSACTION, {"message_group": "g", "delivery_timestamp": {}, "message_type": pb.TRANSACTION}),
    ],
)
def test_the_type_of_a_message(kind: TopicType, fields: dict[str, object]) -> None:
    assert kind_of(pb.SystemProperties(**fields)) is kind  # type: ignore[arg-type]
