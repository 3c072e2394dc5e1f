"""RECEIVE and what follows on the wire: encoded and read again, and refused where they do not add up."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kourou.core import deliveries, settling
from kourou.core.deliveries import Asked, Delivery
from kourou.core.errors import BadRequest, Busy, IllegalInvisibleTime, InvalidReceiptHandle, KourouError
from kourou.core.settling import Change

ASKED = Asked("g", "töpic", 32, 30_000, 20_000, 1 << 20, deliveries.SQL, "price > 10", 77)


def delivery(**fields: object) -> Delivery:
    return Delivery(1, 2, 3, 4, 5, 6, 7, 8, 9, b"handle", b"block", b"body")._replace(**fields)  # type: ignore[arg-type]


def test_a_request_is_read_as_it_was_written() -> None:
    assert deliveries.decode_asked(*deliveries.encode_asked(ASKED)) == ASKED


@pytest.mark.parametrize(
    ("fields", "failure"),
    [
        ({"invisible_ms": 999}, IllegalInvisibleTime),
        ({"invisible_ms": 12 * 3_600_000 + 1}, IllegalInvisibleTime),
        ({"wait_ms": 60_001}, BadRequest),
        ({"limit": 1_025}, BadRequest),
        ({"kind": 3}, BadRequest),
    ],
)
def test_requests_out_of_range(fields: dict[str, int], failure: type[KourouError]) -> None:
    with pytest.raises(failure):
        deliveries.decode_asked(*deliveries.encode_asked(ASKED._replace(**fields)))  # type: ignore[arg-type]


def test_requests_that_do_not_add_up() -> None:
    header, body = deliveries.encode_asked(ASKED)
    for bad in ((header[:-1], body), (header, body + b"x"), (header, b"\xff" * len(body))):
        with pytest.raises(BadRequest):
            deliveries.decode_asked(*bad)


def test_deliveries_are_read_as_they_were_written() -> None:
    given = [delivery(), delivery(body=b"", block=b"", handle=b""), delivery(body=bytes(100_000))]
    body = memoryview(b"".join(deliveries.encode_deliveries(given)))
    assert list(deliveries.decode_deliveries(body, 3)) == given
    for cut in (body[:-1], memoryview(bytes(body) + b"x"), body[:40]):
        with pytest.raises(BadRequest):
            list(deliveries.decode_deliveries(cut, 3))


def test_ids() -> None:
    assert delivery().native_id == "00000000000000060000000000070008"
    assert delivery(producer_id=0).native_id == "000000000000000700000008"


def test_checks() -> None:
    header, parts = deliveries.encode_check("töpic", 1 << 40, 3, delivery())
    assert deliveries.decode_check(header, memoryview(b"".join(parts))) == ("töpic", 1 << 40, 3, delivery())
    with pytest.raises(BadRequest):
        deliveries.decode_check(header[:-1], memoryview(b"".join(parts)))


def test_handles_and_changes() -> None:
    header, body = settling.encode_ack("g", [b"one", b"two"])
    assert settling.decode_ack(memoryview(header), memoryview(body)) == ("g", ["one", "two"])
    changes = [Change(b"one", 5, settling.KEEP), Change(b"two", settling.BY_POLICY)]
    header, body = settling.encode_change("g", changes)
    decoded = settling.decode_change(memoryview(header), memoryview(body))
    assert decoded == ("g", [("one", 5, settling.KEEP), ("two", settling.BY_POLICY, 0)])
    header, body = settling.encode_bury("g", b"handle", "because ö" * 500)
    group, handle, reason = settling.decode_bury(memoryview(header), memoryview(body))
    assert (group, handle, len(reason)) == ("g", "handle", settling.REASON_CHARACTERS_MAX)
    header, body = settling.encode_end("t", settling.COMMIT, [(1 << 40, 2), (3, 4)])
    assert settling.decode_end(memoryview(header), memoryview(body)) == ("t", settling.COMMIT, [(1 << 40, 2), (3, 4)])


@given(st.binary(max_size=64), st.binary(max_size=64))
def test_garbage_is_refused(header: bytes, body: bytes) -> None:
    """Whatever comes: what it holds, or BadRequest."""
    one, two = memoryview(header), memoryview(body)
    for read in (
        deliveries.decode_asked, settling.decode_ack, settling.decode_change, settling.decode_bury, settling.decode_end,
    ):  # fmt: skip
        try:
            read(one, two)
        except (BadRequest, IllegalInvisibleTime):
            continue


@given(st.integers(0, 65_535), st.integers(0, 65_535), st.binary(max_size=64))
def test_garbage_with_a_header_of_the_right_size(one: int, two: int, body: bytes) -> None:
    header = memoryview(settling.HEADER.pack(one, two))
    for read in (settling.decode_ack, settling.decode_change, settling.decode_bury):
        try:
            read(header, memoryview(body))
        except BadRequest:
            continue


def test_results() -> None:
    given: list[KourouError | str | None] = [None, "new", InvalidReceiptHandle("old"), Busy("later", retry_after_ms=5)]
    _, body = settling.encode_results(given)
    found = settling.decode_results(memoryview(body), 4)
    assert found[:2] == [b"", b"new"]
    assert isinstance(found[2], InvalidReceiptHandle)
    assert isinstance(found[3], Busy)
    assert (str(found[2]), found[3].retry_after_ms) == ("old", 5)
    with pytest.raises(BadRequest):
        settling.decode_results(memoryview(body[:3]), 4)
