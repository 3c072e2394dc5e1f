"""What people write on the command line, and what it means: sizes, points in a queue, times, properties."""

from __future__ import annotations

import re
from datetime import datetime

from kourou.core.errors import BadRequest

Start = str | dict[str, int]


class BadValue(BadRequest):
    """What was given on the command line, in the environment or in a file can't be meant."""


_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgt]?)(i?b?)", re.IGNORECASE | re.ASCII)
_AGO = re.compile(r"-(\d+(?:\.\d+)?)(ms|s|m|h|d)", re.ASCII)
_LENGTH = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)?", re.ASCII)
_UNIT_MS = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_POWER = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}


def parse_size(text: str) -> int:
    """Bytes: ``1048576``, ``64MiB``, ``2GB`` (powers of 1024, powers of 1000 without the i), ``256m`` (1024)."""
    found = _SIZE.fullmatch(text.strip())
    if found is None:
        raise BadValue(f"{text!r} is not a size; expected bytes, or for example 256MiB")
    number, unit, suffix = found.groups()
    base = 1000 if suffix.lower() == "b" and unit else 1024
    return int(float(number) * base ** _POWER[unit.lower()])


def parse_time(text: str, *, now_ms: int) -> int:
    """Milliseconds since 1970 UTC: ``1700000000000``, ``2026-01-31T12:00``, with or without a zone, or ``-15m`` (ago)."""
    text = text.strip()
    if text.isascii() and text.isdigit():
        return int(text)
    ago = _AGO.fullmatch(text)
    if ago is not None:
        return max(0, now_ms - int(float(ago[1]) * _UNIT_MS[ago[2]]))
    try:
        return int(datetime.fromisoformat(text).timestamp() * 1000)
    except (ValueError, OverflowError, OSError):
        raise BadValue(
            f"{text!r} is not a time; expected 2026-01-31T12:00, milliseconds since 1970, or for example -15m"
        ) from None


def parse_length(text: str) -> float:
    """Seconds: ``10``, ``10s``, ``500ms``, ``1.5h``, ``40d``."""
    found = _LENGTH.fullmatch(text.strip())
    if found is None:
        raise BadValue(f"{text!r} is not a length of time; expected seconds, or for example 10m")
    return float(found[1]) * _UNIT_MS[found[2] or "s"] / 1000


def parse_start(text: str, *, now_ms: int) -> Start:
    """``earliest``, ``latest``, ``offset:N``, ``time:T`` or a bare time."""
    if text in ("earliest", "latest"):
        return text
    kind, separator, rest = text.partition(":")
    if separator and kind == "offset":
        if not (rest.isascii() and rest.isdigit()):
            raise BadValue(f"{rest!r} is not an offset")
        return {"offset": int(rest)}
    try:
        return {"time": parse_time(rest if separator and kind == "time" else text, now_ms=now_ms)}
    except BadValue:
        raise BadValue(
            f"{text!r} is not a place to start; expected earliest, latest, offset:N or a time such as -15m"
        ) from None


def parse_property(text: str) -> tuple[str, str]:
    name, separator, value = text.partition("=")
    if not separator or not name:
        raise BadValue(f"property {text!r} is not NAME=VALUE")
    return name, value


def parse_queue(text: str) -> tuple[str | None, int]:
    """``3`` or ``broker:3``: (broker, number)."""
    broker, _, number = text.rpartition(":")
    if not (number.isascii() and number.isdigit()):
        raise BadValue(f"{text!r} is not a queue; expected its number, or BROKER:NUMBER")
    return broker or None, int(number)


def format_time(ms: int | None) -> str:
    """Local time to the millisecond; nothing for no time."""
    if ms is None:
        return ""
    return datetime.fromtimestamp(ms / 1000).astimezone().isoformat(sep=" ", timespec="milliseconds")[:23]


def format_size(count: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:,.0f} {unit}" if unit == "B" else f"{count:,.1f} {unit}"
        count /= 1024
    return f"{count:,.1f} TiB"
