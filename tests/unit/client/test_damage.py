"""Messages that can't be read: what is behind them is delivered, and what they were is said."""

from __future__ import annotations

import asyncio
import logging
import os
from array import array

import pytest

from kourou.client import Client, Consumer, Damage, DamagedMessages, ReceivedMessage
from kourou.client.delivered import DeliveredFrame
from kourou.client.reading import Gap, read_delivery
from kourou.core import frame
from kourou.core.frame import Column, Compression
from kourou.core.wire import Code
from tests.unit.client.fake_server import STORE_MS, FakeServer, logged, plain

GARBAGE = b"\xff" * 20


def spoiled(data: bytes, *places: int) -> bytes:
    """With a bit flipped at each place."""
    changed = bytearray(data)
    for place in places:
        changed[place] ^= 1
    return bytes(changed)


def poison(*, queue_offset: int) -> bytes:
    """A frame with the right checksum whose two records don't inflate."""
    sealed = frame.seal(
        topic="t", queue_id=0, records=[b"x" * 50] * 2, born_ms=1, compression=Compression.ZLIB, stored=os.urandom(30)
    )
    return logged(sealed, queue_offset=queue_offset)


def with_properties(block: bytes, *, queue_offset: int) -> bytes:
    columns = {Column.PROPERTY_SIZES: array("I", [len(block)])}
    sealed = frame.seal(topic="t", queue_id=0, records=[block + b"body"], born_ms=STORE_MS, columns=columns)
    return logged(sealed, queue_offset=queue_offset)


def shape(data: bytes, *, start: int = 0, next_offset: int) -> list[tuple[int, int, str]]:
    """(first, behind the last, what) of each piece."""
    found = []
    for piece in read_delivery(memoryview(data), start=start, next_offset=next_offset):
        if isinstance(piece, DeliveredFrame):
            found.append((piece.prefix.queue_offset, piece.end, "good"))
        else:
            found.append((piece.offset, piece.next_offset, "stored so" if piece.stored_so else "changed"))
    return found


def test_damage_is_bounded_by_what_is_good() -> None:
    """Whatever byte of a frame is changed: prefix, head, columns, records, checksum."""
    first, middle, last = plain(b"0", b"11"), plain(b"2", b"33", queue_offset=2), plain(b"4", queue_offset=4)
    good = [(0, 2, "good"), (2, 4, "changed"), (4, 5, "good")]
    for place in range(len(middle)):
        assert shape(first + spoiled(middle, place) + last, next_offset=5) == good, place
    assert shape(spoiled(first, 60) + middle, next_offset=4) == [(0, 2, "changed"), (2, 4, "good")]
    assert shape(first + spoiled(last, 2), next_offset=5) == [(0, 2, "good"), (2, 5, "changed")]
    assert shape(first + middle[:50], next_offset=4) == [(0, 2, "good"), (2, 4, "changed")]
    both = spoiled(first, 5) + spoiled(middle, 5) + last
    assert shape(both, next_offset=5)[-1] == (4, 5, "good")


def test_a_frame_inside_a_body_is_no_place_to_go_on_from() -> None:
    trap = plain(b"evil", queue_offset=900)
    outer = plain(b"x" + trap, b"y")
    assert shape(spoiled(outer, 9) + plain(b"2", queue_offset=2), next_offset=3) == [(0, 2, "changed"), (2, 3, "good")]
    assert shape(spoiled(outer, 9), next_offset=1_000) == [(0, 1_000, "changed")]


def test_records_that_do_not_inflate_are_a_gap() -> None:
    data = plain(b"0") + poison(queue_offset=1) + plain(b"3", queue_offset=3)
    assert shape(data, next_offset=4) == [(0, 1, "good"), (1, 3, "stored so"), (3, 4, "good")]
    assert shape(data, start=2, next_offset=4) == [(2, 3, "stored so"), (3, 4, "good")]
    pieces = read_delivery(memoryview(data), start=0, next_offset=4, verify=False)
    assert [isinstance(piece, Gap) for piece in pieces] == [False, True, False]


async def take(consumer: Consumer, count: int) -> list[ReceivedMessage]:
    found: list[ReceivedMessage] = []
    async with asyncio.timeout(20):
        async for message in consumer:
            found.append(message)
            if len(found) == count:
                break
    return found


async def test_poison_is_left_out_and_said(caplog: pytest.LogCaptureFixture) -> None:
    async with FakeServer() as server:
        server.add_topic("t")
        async with Client(server.address) as client, client.consumer("t", group="g") as consumer:
            server.assign(to := await server.subscribed(), 0)
            server.deliver(to, 0, poison(queue_offset=0), 2)
            server.deliver(to, 0, plain(b"2", queue_offset=2) + poison(queue_offset=3), 5)
            server.deliver(to, 0, plain(b"5", queue_offset=5), 6)
            with caplog.at_level(logging.WARNING, "kourou.client"):
                assert [message.body for message in await take(consumer, 2)] == [b"2", b"5"]
            assert consumer.damaged_count == 4
            await consumer.commit()
        assert to.commits[-1] == (0, 6)
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 2
    assert "left out: 2 messages of topic t can't be read: queue 0 of broker a, offsets 0 to 1" in said[0]
    assert "offsets 3 to 4" in said[1]


async def test_a_wrong_checksum_stops_behind_what_is_good() -> None:
    """The good ones come first; then it is raised, again and again, until somebody says where to go on."""
    data = plain(b"0", b"1") + spoiled(plain(b"2", b"3", queue_offset=2), -6) + plain(b"4", queue_offset=4)
    async with FakeServer() as server:
        server.add_topic("t")
        async with Client(server.address) as client, client.consumer("t", group="g") as consumer:
            server.assign(to := await server.subscribed(), 0)
            server.deliver(to, 0, data, 5)
            seen: list[bytes] = []
            with pytest.raises(DamagedMessages) as raised:
                async for message in consumer:
                    seen.append(message.body)
            assert seen == [b"0", b"1"]
            for _ in range(2):
                with pytest.raises(DamagedMessages, match="offsets 2 to 3"):
                    await consumer.receive(timeout_s=20)
            damage = raised.value.damage
            assert (damage.broker, damage.queue, damage.offset, damage.next_offset) == ("a", 0, 2, 4)
            assert "consumer.seek(0, 4, broker='a')" in str(raised.value)
            assert "kourou group reset g t --queue a:0 --to offset:4" in str(raised.value)
            await consumer.seek(damage.queue, damage.next_offset, broker=damage.broker)
            assert server.asked(Code.SEEK)[0]["to"] == {"offset": 4}
            server.deliver(to, 0, plain(b"4", queue_offset=4), 5, session=99)
            assert [message.body for message in await take(consumer, 1)] == [b"4"]
        assert to.commits[-1] == (0, 5)
        assert to.credit <= 8 << 20


async def test_on_damaged_is_told_of_both() -> None:
    data = spoiled(plain(b"0", b"1"), -6) + poison(queue_offset=2) + plain(b"4", b"5", queue_offset=4)
    found: list[Damage] = []
    async with FakeServer() as server:
        server.add_topic("t")
        async with (
            Client(server.address) as client,
            client.consumer("t", group="g", on_damaged=found.append) as consumer,
        ):
            server.assign(to := await server.subscribed(), 0)
            server.deliver(to, 0, data, 6)
            assert [message.body for message in await take(consumer, 1)] == [b"4"]
            assert [message.body for message in await take(consumer, 2)] == [b"4", b"5"]  # again, and not told again
    assert [(damage.offset, damage.count, damage.stored_so) for damage in found] == [(0, 2, False), (2, 2, True)]


@pytest.mark.parametrize(
    "block",
    [GARBAGE, b"\x01\xff\xffabc", b"\x01\x02\x00\xff\xfe", b"\x03\x01\x00\x05", b"\x0f\x01\x00\x05\x0a\x01\x00\x05"],
    ids=["garbage", "cut off", "tag not UTF-8", "property without name", "numbers of other sizes"],
)
async def test_garbage_properties_cost_the_properties_alone(block: bytes, caplog: pytest.LogCaptureFixture) -> None:
    data = with_properties(block, queue_offset=0) + plain(b"1", queue_offset=1)
    async with FakeServer() as server:
        server.add_topic("t")
        async with Client(server.address) as client, client.consumer("t", group="g") as consumer:
            server.assign(to := await server.subscribed(), 0)
            server.deliver(to, 0, data, 2)
            message, behind = await take(consumer, 2)
            assert (message.body, behind.body) == (b"body", b"1")
            assert message.key is None
            assert message.tag in (None, "��")
            assert isinstance(message.properties, dict)
            assert (message.priority, message.deliver_at_ms, message.message_group) == (None, None, None)
            assert message.id
    if block[:2] in (b"\xff\xff", b"\x01\xff"):
        (said,) = [record.getMessage() for record in caplog.records if record.name == "kourou.client"]
        assert "topic='t', queue=0, offset=0" in said
        assert "properties that can't be read" in said
