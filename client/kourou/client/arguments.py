"""What callers pass, checked where it comes in: BadRequest names the argument and what it may be."""

from __future__ import annotations

import math
from collections.abc import Iterable

from kourou.core.errors import BadRequest
from kourou.core.limits import QUEUES_PER_TOPIC_MAX


def check_number(name: str, value: object, *, least: float, most: float = math.inf) -> float:
    """A number from ``least`` to ``most``."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise BadRequest(f"{name} must be a number, not {type(value).__name__}")
    if not least <= value <= most:
        above = f"from {least:g} to {most:g}" if most < math.inf else f"from {least:g} on"
        raise BadRequest(f"{name} is {value:g}; {above} is allowed")
    return value


def check_positive(name: str, value: object) -> float:
    """A number above 0."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise BadRequest(f"{name} must be a number, not {type(value).__name__}")
    if not value > 0:
        raise BadRequest(f"{name} is {value:g}; it must be above 0")
    return value


def check_whole(name: str, value: object, *, least: int, most: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise BadRequest(f"{name} must be a whole number, not {type(value).__name__}")
    if not least <= value <= most:
        raise BadRequest(f"{name} is {value}; from {least} to {most} is allowed")
    return value


def check_queues(value: object) -> int:
    """How many queues a topic is to have."""
    return check_whole("queues", value, least=1, most=QUEUES_PER_TOPIC_MAX)


def check_tags(tags: object) -> frozenset[str] | None:
    """What a stream consumer wants: one tag, several as "a || b" or as a list, or None for everything."""
    if tags is None:
        return None
    if isinstance(tags, str):
        tags = [part.strip() for part in tags.split("||")]
    elif not isinstance(tags, Iterable):
        raise BadRequest(f"tags must be a list of strings, not {type(tags).__name__}")
    found = list(tags)
    if not found:
        raise BadRequest("tags is empty; leave it out to get every message")
    for tag in found:
        if not isinstance(tag, str):
            raise BadRequest(f"tags must be strings; there is a {type(tag).__name__} among them")
        if not tag or tag.isspace() or "|" in tag:
            raise BadRequest(f"tags has {tag[:40]!r}, which no message can have: it is blank or has a '|'")
    return frozenset(found)
