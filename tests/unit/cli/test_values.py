"""What people write on the command line."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from kourou.cli.values import (
    BadValue,
    Start,
    format_size,
    format_time,
    parse_property,
    parse_size,
    parse_start,
    parse_time,
)

NOW_MS = 1_700_000_000_000


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0), ("1048576", 1 << 20), ("64MiB", 64 << 20), ("64 mib", 64 << 20), ("1.5k", 1_536), ("256m", 256 << 20),
        ("2GB", 2_000_000_000), ("2gib", 2 << 30), ("1TiB", 1 << 40), ("7B", 7), (" 7 ", 7),
    ],
)  # fmt: skip
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "x", "-1", "1PiB", "1 2", "MiB", "0x10", "1e3", "\u0661"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(BadValue, match="is not a size"):
        parse_size(text)


@pytest.mark.parametrize(
    ("text", "ms"),
    [
        ("0", 0), ("1700000000000", NOW_MS), ("-15m", NOW_MS - 900_000), ("-1.5h", NOW_MS - 5_400_000),
        ("-250ms", NOW_MS - 250), ("-2d", NOW_MS - 172_800_000), ("-99999999d", 0),
        ("2026-01-31T12:00Z", 1_769_860_800_000), ("2026-01-31T13:00+01:00", 1_769_860_800_000),
    ],
)  # fmt: skip
def test_times(text: str, ms: int) -> None:
    assert parse_time(text, now_ms=NOW_MS) == ms


def test_a_time_without_a_zone_is_local() -> None:
    assert parse_time("2026-01-31T12:00", now_ms=NOW_MS) == datetime(2026, 1, 31, 12).astimezone(UTC).timestamp() * 1_000
    assert parse_time(format_time(NOW_MS), now_ms=0) == NOW_MS
    assert format_time(None) == ""


@pytest.mark.parametrize("text", ["", "bad", "-15", "15m", "--15m", "2026-13-01", "-15 m", "99999-01-01"])
def test_what_is_no_time(text: str) -> None:
    with pytest.raises(BadValue, match="is not a time"):
        parse_time(text, now_ms=NOW_MS)


@pytest.mark.parametrize(
    ("text", "start"),
    [
        ("earliest", "earliest"), ("latest", "latest"), ("offset:7", {"offset": 7}), ("time:5", {"time": 5}),
        ("-15m", {"time": NOW_MS - 900_000}), ("time:-15m", {"time": NOW_MS - 900_000}), ("5", {"time": 5}),
        ("2026-01-31T12:00Z", {"time": 1_769_860_800_000}),
    ],
)  # fmt: skip
def test_starts(text: str, start: Start) -> None:
    assert parse_start(text, now_ms=NOW_MS) == start


@pytest.mark.parametrize("text", ["", "first", "offset:", "offset:-1", "offset:x", "time:", "time:x", "offset:²"])
def test_what_is_no_start(text: str) -> None:
    with pytest.raises(BadValue, match="is not an offset|is not a place to start"):
        parse_start(text, now_ms=NOW_MS)


def test_properties() -> None:
    assert parse_property("a=b=c") == ("a", "b=c")
    assert parse_property("a=") == ("a", "")
    for text in ("", "a", "=b"):
        with pytest.raises(BadValue, match="NAME=VALUE"):
            parse_property(text)


def test_sizes_are_shown_short() -> None:
    assert [format_size(n) for n in (0, 1_023, 1_024, 1 << 30, 1 << 50)] == [
        "0 B",
        "1,023 B",
        "1.0 KiB",
        "1.0 GiB",
        "1,024.0 TiB",
    ]
