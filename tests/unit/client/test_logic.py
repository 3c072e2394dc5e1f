"""The client's pure parts: turns, faults, routes, receipts, properties."""

from __future__ import annotations

import random
from collections import Counter
from itertools import pairwise

import pytest

from kourou.client.client import parse_servers
from kourou.client.logic.chunks import chunks
from kourou.client.logic.faults import FAILED_MAX_S, FAILED_S, Faults
from kourou.client.logic.routes import RouteTable
from kourou.client.logic.selector import AVOIDED, GOOD, UNUSABLE, Selector
from kourou.client.message import Message, encode_properties
from kourou.core.errors import BadRequest, PropertiesTooLarge
from kourou.core.records import Field, decode_property, iterate_fields
from kourou.core.route import BrokerRoute, TopicRoute, TopicType, parse_endpoint


def route(**queues: int) -> TopicRoute:
    places = tuple(BrokerRoute(name, count, 1, parse_endpoint("h:1")) for name, count in sorted(queues.items()))
    return TopicRoute("t", TopicType.NORMAL, 1, places)


def test_queues_take_turns_in_proportion_and_interleaved() -> None:
    selector = Selector(random.Random(1))
    where = route(a=4, b=2, c=0)
    chosen = [selector.choose(where, lambda broker: GOOD) for _ in range(60)]
    assert Counter(chosen) == {("a", q): 10 for q in range(4)} | {("b", q): 10 for q in range(2)}
    assert max(len(run) for run in _runs([place[0] for place in chosen if place is not None])) == 2


def _runs(items: list[str]) -> list[list[str]]:
    runs = [[items[0]]]
    for before, item in pairwise(items):
        if item == before:
            runs[-1].append(item)
        else:
            runs.append([item])
    return runs


def test_avoided_brokers_are_the_second_choice() -> None:
    selector = Selector(random.Random(1))
    where = route(a=4, b=4)
    ranks = {"a": AVOIDED, "b": GOOD}
    assert {selector.choose(where, ranks.__getitem__) for _ in range(20)} == {("b", q) for q in range(4)}
    ranks["b"] = UNUSABLE
    assert {selector.choose(where, ranks.__getitem__) for _ in range(20)} == {("a", q) for q in range(4)}
    ranks["a"] = UNUSABLE
    assert selector.choose(where, ranks.__getitem__) is None


def test_a_new_route_goes_on_where_the_old_one_was() -> None:
    selector = Selector(random.Random(1))
    chosen = selector.choose(route(a=8), lambda broker: GOOD)
    assert chosen is not None
    after = selector.choose(route(a=8, b=0), lambda broker: GOOD)
    assert after == ("a", (chosen[1] + 1) % 8)
    assert selector.declared(route(a=2, b=1)) == (("a", 0), ("a", 1), ("b", 0))


def test_failing_brokers_are_avoided_longer_and_longer() -> None:
    faults = Faults(random.Random(1))
    assert not faults.avoided("a", 0)
    faults.failed("a", 0)
    assert faults.avoided("a", 0.7 * FAILED_S)
    assert not faults.avoided("a", 1.3 * FAILED_S)
    assert not faults.avoided("b", 0)
    for _ in range(10):
        faults.failed("a", 0)
    assert faults.avoided("a", 0.7 * FAILED_MAX_S)
    assert not faults.avoided("a", 1.3 * FAILED_MAX_S)
    faults.answered("a", 0.01, 1)
    assert not faults.avoided("a", 1)


def test_slow_brokers_are_avoided() -> None:
    faults = Faults(random.Random(1))
    faults.answered("a", 0.5, 0)
    assert not faults.avoided("a", 0)
    faults.answered("a", 4.0, 0)
    assert faults.avoided("a", 4.0)
    assert not faults.avoided("a", 8.0)


def answer(topics: dict[str, list[str]], missing: list[str], masters: dict[str, str | None]) -> dict[str, object]:
    routes = [
        {
            "topic": topic,
            "type": "normal",
            "version": 1,
            "brokers": [{"broker": b, "queues": 1, "epoch": 1, "master": masters.get(b), "replicas": []} for b in brokers],
        }
        for topic, brokers in topics.items()
    ]
    return {
        "routes": routes,
        "missing": missing,
        "brokers": [{"broker": b, "epoch": 1, "master": master} for b, master in masters.items()],
    }


def test_a_topic_is_dropped_only_by_a_nameserver_that_knows_its_broker() -> None:
    table = RouteTable()
    table.take(answer({"t": ["a"]}, [], {"a": "h:1"}))
    table.take(answer({}, ["t"], {}))
    assert "t" in table.routes
    assert table.masters == {"a": parse_endpoint("h:1")}
    table.take(answer({}, ["t"], {"b": "h:2"}))
    assert "t" in table.routes
    table.take(answer({}, ["t", "never"], {"a": None}))
    assert table.routes == {}
    assert table.masters == {"a": None}


@pytest.mark.parametrize(
    "bad", [{"routes": [{}]}, {"brokers": [{}]}, {"routes": 5}, {"brokers": [{"broker": "a", "master": "x"}]}]
)
def test_bad_answers_about_routes(bad: dict[str, object]) -> None:
    with pytest.raises(BadRequest):
        RouteTable().take(bad)


def test_server_lists(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KOUROU_SERVER", raising=False)
    assert [str(e) for e in parse_servers(None)] == ["127.0.0.1:10911"]
    monkeypatch.setenv("KOUROU_SERVER", "one:1, [::1]:2,three")
    assert [str(e) for e in parse_servers(None)] == ["one:1", "[::1]:2", "three:10911"]
    with pytest.raises(BadRequest, match="port"):
        parse_servers("host:notaport")


def test_chunks_cover_everything_within_the_size() -> None:
    rng = random.Random(2)
    for sizes in ([100] * 1000, [rng.randrange(400) for _ in range(1000)], [5_000] * 3, [0] * 70_000, [0, 1]):
        found = list(chunks(sizes, max(sizes), 1_000))
        assert [start for start, _, _ in found] == [0, *(end for _, end, _ in found)][:-1]
        assert found[-1][1] == len(sizes)
        for start, end, size in found:
            assert size == sum(sizes[start:end])
            assert size <= 1_000 or end == start + 1
            assert 0 < end - start <= 65_536


def test_properties_are_written_field_by_field() -> None:
    message = Message(b"", key="k", tag="t", keys=["l", "m"], properties={"a": "ä", "b": ""}, message_group="g")
    fields = list(iterate_fields(encode_properties(message)))
    assert fields[:4] == [(Field.TAG, b"t"), (Field.KEY, b"k"), (Field.KEY, b"l"), (Field.KEY, b"m")]
    assert [decode_property(value) for field, value in fields if field == Field.PROPERTY] == [("a", "ä"), ("b", "")]
    assert fields[-1] == (Field.MESSAGE_GROUP, b"g")
    assert encode_properties(Message(b"")) == b""


@pytest.mark.parametrize(
    ("message", "error", "text"),
    [
        (Message(b"", tag=""), BadRequest, "a tag must not be blank"),
        (Message(b"", tag="a|b"), BadRequest, "has a '|'"),
        (Message(b"", key="a\nb"), BadRequest, "control characters"),
        (Message(b"", key=5), BadRequest, "a key must be a string, not int"),  # type: ignore[arg-type]
        (Message(b"", keys="abc"), BadRequest, "keys must be a list"),
        (Message(b"", key="\ud800"), BadRequest, "UTF-8"),
        (Message(b"", keys=["k"] * 65), PropertiesTooLarge, "65 keys; the limit is 64"),
        (Message(b"", properties={"a": "x" * 16_384}), PropertiesTooLarge, "the limit is 16384"),
        (Message(b"", properties={"a": "x" * 70_000}), PropertiesTooLarge, "alone"),
        (Message(b"", properties={str(i): "" for i in range(129)}), PropertiesTooLarge, "129 properties"),
        (Message(b"", properties={"a": 5}), BadRequest, "must be a string"),  # type: ignore[dict-item]
        (Message(b"", message_group="g" * 64), BadRequest, "64 bytes; the limit is 63"),
    ],
)
def test_what_is_wrong_with_a_message_is_said(message: Message, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text.replace("|", r"\|")):
        encode_properties(message)
