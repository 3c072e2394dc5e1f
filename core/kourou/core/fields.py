"""Reading fields out of self-describing bodies: each error names the field, what it was, and what is allowed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kourou.core.errors import BadRequest

_MISSING = object()


def text(value: Mapping[str, Any], name: str, default: Any = _MISSING, *, characters_max: int = 1024) -> str:
    found = value.get(name, default)
    if found is _MISSING:
        raise BadRequest(f"field {name!r} is missing")
    if not isinstance(found, str):
        raise BadRequest(f"field {name!r} must be a string, not {_kind(found)}")
    if len(found) > characters_max:
        raise BadRequest(f"field {name!r} has {len(found)} characters; the limit is {characters_max}")
    return found


def optional_text(value: Mapping[str, Any], name: str) -> str | None:
    return None if value.get(name) is None else text(value, name)


def number(value: Mapping[str, Any], name: str, default: Any = _MISSING, *, low: int = 0, high: int = (1 << 63) - 1) -> int:
    found = value.get(name, default)
    if found is _MISSING:
        raise BadRequest(f"field {name!r} is missing")
    if not isinstance(found, int) or isinstance(found, bool):
        raise BadRequest(f"field {name!r} must be a whole number, not {_kind(found)}")
    if not low <= found <= high:
        raise BadRequest(f"field {name!r} is {found}; from {low} to {high} is allowed")
    return found


def optional_number(value: Mapping[str, Any], name: str, *, low: int = 0, high: int = (1 << 63) - 1) -> int | None:
    return None if value.get(name) is None else number(value, name, low=low, high=high)


def flag(value: Mapping[str, Any], name: str, default: bool) -> bool:
    found = value.get(name, default)
    if not isinstance(found, bool):
        raise BadRequest(f"field {name!r} must be true or false, not {_kind(found)}")
    return found


def texts(value: Mapping[str, Any], name: str, *, count_max: int) -> list[str] | None:
    """A list of strings; None when absent or null."""
    found = value.get(name)
    if found is None:
        return None
    if not isinstance(found, list) or not all(isinstance(item, str) for item in found):
        raise BadRequest(f"field {name!r} must be a list of strings")
    if len(found) > count_max:
        raise BadRequest(f"field {name!r} has {len(found)} entries; the limit is {count_max}")
    return found


def numbers(
    value: Mapping[str, Any], name: str, *, count_max: int, low: int = 0, high: int = (1 << 32) - 1
) -> list[int] | None:
    """A list of whole numbers; None when absent or null."""
    found = value.get(name)
    if found is None:
        return None
    if not isinstance(found, list) or len(found) > count_max:
        raise BadRequest(f"field {name!r} must be a list of at most {count_max} whole numbers")
    if set(map(type, found)) <= {int} and (not found or (low <= min(found) and max(found) <= high)):
        return found
    for item in found:
        if not isinstance(item, int) or isinstance(item, bool) or not low <= item <= high:
            raise BadRequest(f"field {name!r} holds {str(item)[:40]!r}; whole numbers from {low} to {high} are allowed")
    return found


def choice(value: Mapping[str, Any], name: str, allowed: tuple[str, ...], default: Any = _MISSING) -> str:
    found = text(value, name, default)
    if found not in allowed:
        raise BadRequest(f"field {name!r} is {found[:40]!r}; allowed are {', '.join(allowed)}")
    return found


def _kind(value: object) -> str:
    names = {
        bool: "a boolean",
        int: "a number",
        float: "a fraction",
        list: "a list",
        dict: "an object",
        type(None): "null",
    }
    return names.get(type(value), type(value).__name__)
