"""Which names are legal for topics, groups, brokers and clients (RocketMQ's TopicValidator rules, own wording)."""

from __future__ import annotations

import re

from kourou.core.errors import BadRequest, IllegalName
from kourou.core.limits import (
    CLIENT_ID_CHARACTERS_MAX,
    GROUP_CHARACTERS_MAX,
    LITE_TOPIC_CHARACTERS_MAX,
    TOPIC_CHARACTERS_MAX,
)

_LEGAL = re.compile(r"[%|a-zA-Z0-9_-]+", re.ASCII)
_LITE = re.compile(r"[a-zA-Z0-9_-]+", re.ASCII)
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")

SYSTEM_TOPICS = frozenset(
    {
        "TBW102",
        "SCHEDULE_TOPIC_XXXX",
        "BenchmarkTest",
        "RMQ_SYS_TRANS_HALF_TOPIC",
        "RMQ_SYS_TRANS_OP_HALF_TOPIC",
        "RMQ_SYS_TRACE_TOPIC",
        "TRANS_CHECK_MAX_TIME_TOPIC",
        "SELF_TEST_TOPIC",
        "OFFSET_MOVED_EVENT",
        "CHECKPOINT_TOPIC",
    }
)


def _check(kind: str, name: object, characters_max: int) -> str:
    if not isinstance(name, str):
        raise BadRequest(f"{kind} name must be a string, not {type(name).__name__}")
    if not name:
        raise IllegalName(f"{kind} name is empty")
    if len(name) > characters_max:
        raise IllegalName(f"{kind} name has {len(name)} characters; the limit is {characters_max}")
    if not _LEGAL.fullmatch(name):
        raise IllegalName(f"{kind} name {name[:60]!r} has characters other than letters, digits, '_', '-', '%' and '|'")
    return name


def check_topic(name: object) -> str:
    """The name, if a client may create or write a topic of that name; IllegalName says why not."""
    topic = _check("topic", name, TOPIC_CHARACTERS_MAX)
    if topic in SYSTEM_TOPICS or topic.startswith("rmq_sys_"):
        raise IllegalName(f"topic name {topic!r} is reserved for the system")
    return topic


def check_group(name: object) -> str:
    group = _check("group", name, GROUP_CHARACTERS_MAX)
    if group.startswith("CID_RMQ_SYS_"):
        raise IllegalName(f"group name {group!r} is reserved for the system")
    return group


def check_lite_topic(name: object) -> str:
    """The name of a lite topic: 1 to 64 letters, digits, '_' or '-'."""
    if not isinstance(name, str):
        raise BadRequest(f"lite topic must be a string, not {type(name).__name__}")
    if not _LITE.fullmatch(name) or len(name) > LITE_TOPIC_CHARACTERS_MAX:
        raise IllegalName(f"lite topic {name[:70]!r} must have 1 to {LITE_TOPIC_CHARACTERS_MAX} letters, digits, '_' or '-'")
    return name


def check_broker(name: object) -> str:
    return _check("broker", name, TOPIC_CHARACTERS_MAX)


def check_client_id(name: object) -> str:
    if not isinstance(name, str) or not name:
        raise BadRequest("client id must be a non-empty string")
    if len(name) > CLIENT_ID_CHARACTERS_MAX:
        raise IllegalName(f"client id has {len(name)} characters; the limit is {CLIENT_ID_CHARACTERS_MAX}")
    if _CONTROL.search(name) or not _is_unicode(name):
        raise IllegalName("client id has control characters or half of a surrogate pair")
    return name


def _is_unicode(text: str) -> bool:
    """JSON can carry lone surrogates, which can't be encoded again."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def has_control_characters(text: str) -> bool:
    return _CONTROL.search(text) is not None
