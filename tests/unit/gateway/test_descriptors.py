"""Our protocol is the official one: whatever the descriptors of the official Python client have, ours have the same.

Both register the same protobuf symbols, so each is dumped in a process of its own. The client's are older: what ours have
more is listed here, by the release that brought it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[3]

DUMP = """
import importlib, json, sys

def message(found):
    fields = {}
    for field in found.fields:
        repeated = getattr(field, "is_repeated", None)
        fields[field.name] = {
            "number": field.number,
            "type": field.type,
            "repeated": field.label == field.LABEL_REPEATED if repeated is None else repeated,
            "presence": field.has_presence,
            "of": (field.message_type or field.enum_type).full_name if field.message_type or field.enum_type else None,
            "oneof": field.containing_oneof.name if field.containing_oneof else None,
            "json": field.json_name,
        }
    messages[found.full_name] = fields
    for nested in found.nested_types:
        message(nested)
    for nested in found.enum_types:
        enum(nested)

def enum(found):
    enums[found.full_name] = {value.name: value.number for value in found.values}

messages, enums, calls = {}, {}, {}
for name in sys.argv[1:]:
    file = importlib.import_module(name).DESCRIPTOR
    for found in file.message_types_by_name.values():
        message(found)
    for found in file.enum_types_by_name.values():
        enum(found)
    for found in file.services_by_name.values():
        for method in found.methods:
            calls[found.full_name + "/" + method.name] = [
                method.input_type.full_name, method.output_type.full_name,
                method.client_streaming, method.server_streaming,
            ]
print(json.dumps({"messages": messages, "enums": enums, "calls": calls}))
"""

PACKAGE = "apache.rocketmq.v2."
# What came after the release that the client was made with (v2-messages.md, protocol growth).
GROWN_MESSAGES = {
    # 2.0.4
    "RecallMessageRequest", "RecallMessageResponse",
    # 2.1.0
    "SyncLiteSubscriptionRequest", "SyncLiteSubscriptionResponse", "ReconnectEndpointsCommand",
    "NotifyUnsubscribeLiteCommand",
    # 2.1.1
    "OffsetOption",
}  # fmt: skip
GROWN_FIELDS = {
    "SendResultEntry.recall_handle",
    "SystemProperties.lite_topic", "AckMessageEntry.lite_topic", "ForwardMessageToDeadLetterQueueRequest.lite_topic",
    "Subscription.lite_subscription_quota", "Subscription.max_lite_topic_size",
    "TelemetryCommand.reconnect_endpoints_command", "TelemetryCommand.notify_unsubscribe_lite_command",
    "SystemProperties.priority", "SyncLiteSubscriptionRequest.offset_option",
    "ChangeInvisibleDurationRequest.lite_topic", "ChangeInvisibleDurationRequest.suspend",
    "Settings.client_properties",
    "ReceiveMessageRequest.attempt_id",
}  # fmt: skip
GROWN_VALUES = {
    "Code.MESSAGE_BODY_EMPTY", "Code.ILLEGAL_LITE_TOPIC", "Code.LITE_TOPIC_QUOTA_EXCEEDED",
    "Code.LITE_SUBSCRIPTION_QUOTA_EXCEEDED", "Code.INVALID_CLIENT_PROPERTIES",
    "MessageType.LITE", "MessageType.PRIORITY", "ClientType.LITE_PUSH_CONSUMER", "ClientType.LITE_SIMPLE_CONSUMER",
}  # fmt: skip
GROWN_ENUMS = {"LiteSubscriptionAction", "OffsetOption.Policy"}
GROWN_CALLS = {"MessagingService/RecallMessage", "MessagingService/SyncLiteSubscription"}


def dump(*modules: str, path: tuple[str, ...] = ()) -> dict[str, Any]:
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(path)}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", DUMP, *modules],
        env=env,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.fixture(scope="module")
def ours() -> dict[str, Any]:
    modules = [f"kourou.proto.rocketmq.v2.{name}_pb2" for name in ("definition", "service", "admin")]
    return dump(*modules, path=(str(ROOT / "proto"),))


@pytest.fixture(scope="module")
def theirs() -> dict[str, Any]:
    pytest.importorskip("importlib.metadata").version("rocketmq-python-client")
    # its modules import one another by their bare names, or by the package's, as releases differ
    return dump(*(f"rocketmq.grpc_protocol.{name}_pb2" for name in ("definition", "service", "admin")))


def test_all_of_theirs_is_in_ours(ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    assert len(theirs["messages"]) > 50
    for name, fields in theirs["messages"].items():
        known = ours["messages"].get(name)
        assert known is not None, name
        for field, shape in fields.items():
            assert known.get(field) == shape, f"{name}.{field}"
    for name, values in theirs["enums"].items():
        assert values.items() <= ours["enums"][name].items(), name
    for name, shape in theirs["calls"].items():
        assert ours["calls"][name] == shape, name


def test_what_ours_has_more_is_known(ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    def short(names: set[str]) -> set[str]:
        found = {name.removeprefix(PACKAGE) for name in names}
        return {name for name in found if not in_admin(name)}

    admin = {
        shape.removeprefix(PACKAGE)
        for name, (request, reply, _, _) in ours["calls"].items()
        if name.startswith(f"{PACKAGE}Admin/")
        for shape in (request, reply)
    }

    def in_admin(name: str) -> bool:
        """The Admin service grew from one call to sixteen after 2.1.2; none of it is used by messaging clients."""
        return name.startswith("Admin/") or name.split(".")[0] in admin_messages

    messaging = {
        shape.removeprefix(PACKAGE)
        for name, (request, reply, _, _) in ours["calls"].items()
        if name.startswith(f"{PACKAGE}MessagingService/")
        for shape in (request, reply)
    }
    admin_messages = admin | (_reached(ours, admin) - _reached(ours, messaging))
    assert short(set(ours["messages"]) - set(theirs["messages"])) <= GROWN_MESSAGES | {"Settings.ClientPropertiesEntry"}
    assert short(set(ours["enums"]) - set(theirs["enums"])) <= GROWN_ENUMS
    assert short(set(ours["calls"]) - set(theirs["calls"])) <= GROWN_CALLS
    fields = {
        f"{name}.{field}" for name, known in theirs["messages"].items() for field in set(ours["messages"][name]) - set(known)
    }
    assert short(fields) <= GROWN_FIELDS
    values = {
        f"{name}.{value}" for name, known in theirs["enums"].items() for value in set(ours["enums"][name]) - set(known)
    }
    assert short(values) <= GROWN_VALUES


def _reached(dumped: dict[str, Any], roots: set[str]) -> set[str]:
    """The messages and enums that these messages are made of."""
    found: set[str] = set()
    waiting = list(roots)
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        found.add(name)
        for shape in dumped["messages"].get(PACKAGE + name, {}).values():
            if shape["of"] and shape["of"].startswith(PACKAGE):
                waiting.append(shape["of"].removeprefix(PACKAGE))
    return found
