"""``kourou send --delay``, ``receive --shared`` and ``message recall`` as processes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.command import Shell
from tests.integration.node import Node


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    directory: Path = tmp_path_factory.mktemp("cli")
    with Node(directory / "data") as node:
        yield Shell(node.address, directory)


def test_receive_shared_acknowledges(shell: Shell) -> None:
    shell.done("topic", "create", "shared", "--queues", "1")
    shell.done("send", "shared", "--file", "-", "--tag", "t", stdin=b"one\ntwo\nthree\n")
    receive = ("receive", "shared", "--shared", "--group", "g")
    (line,) = shell.done(*receive, "--count", "1").lines
    assert line.endswith("attempt 1  one")
    found = shell.done(*receive, "--timeout", "0.5", "-o", "json").lines
    assert len(found) == 2
    assert all('"attempt":1' in line.replace(" ", "") for line in found)
    assert "0 of 1" in shell.fails(*receive, "--count", "1", "--timeout", "0.3")
    assert shell.done("receive", "shared", "--shared", "--group", "sql", "--sql", "TAGS = 'x'", "--timeout", "0.3").out == ""


def test_delay_and_recall(shell: Shell) -> None:
    shell.done("topic", "create", "delays", "--type", "delay", "--queues", "1")
    gone = shell.json("send", "delays", "gone", "--delay", "1h")
    at = shell.done("send", "delays", "at", "--deliver-at", "2020-01-31T12:00")
    assert "recall handle" in at.out
    shell.done("send", "delays", "soon", "--delay", "300ms")
    waiting = shell.json("message", "scheduled", "delays", "--from", str(gone["store_ms"] + 60_000))
    assert all(each["recall_handle"] for each in waiting["messages"])
    assert waiting["count"] in (1, 2)
    assert "RECALL HANDLE" in shell.done("message", "scheduled", "delays").out
    assert gone["id"] in shell.done("message", "recall", "delays", waiting["messages"][0]["recall_handle"]).out
    assert "no longer waiting" in shell.fails("message", "recall", "delays", gone["recall_handle"])
    received = shell.done("receive", "delays", "--shared", "--group", "g", "--count", "2", "-o", "body")
    assert received.lines == ["at", "soon"]


def test_what_does_not_go_together(shell: Shell) -> None:
    shell.all_fail(
        [
            ("send t x --delay 1 --deliver-at 2030-01-01", "not both"),
            ("send t x --delay soon", "length of time"),
            ("receive t --group g --shared --broadcast", "--broadcast"),
            ("receive t --group g --sql 'a = 1'", "--shared"),
        ],
        status=2,
    )


def test_other_names_for_the_same(shell: Shell) -> None:
    shell.done("topic", "create", "steps", "--type", "fifo", "--queues", "4")
    for body in ("one", "two", "three"):
        shell.done("send", "steps", body, "--group-key", "order-7")
    received = shell.done("receive", "steps", "--shared", "--group", "walkers", "--count", "3", "-o", "body")
    assert received.lines == ["one", "two", "three"]
    shell.done("topic", "create", "times", "--type", "delay", "--queues", "1")
    assert "recall handle" in shell.done("send", "times", "past", "--at", "2020-01-31T12:00").out


def test_lite_topics(shell: Shell) -> None:
    shell.done("topic", "create", "rooms", "--type", "lite")
    for room in ("a", "b"):
        shell.done("send", "rooms", f"in {room}", "--lite-topic", room)
    receive = ("receive", "rooms", "--shared", "--group", "guests", "--lite-topic", "b", "--count", "1")
    (found,) = shell.done(*receive, "-o", "json").lines
    assert '"lite_topic":"b"' in found.replace(" ", "")
    assert "needs a lite_topic" in shell.fails("send", "rooms", "x")
    assert "go with --shared" in shell.fails("receive", "rooms", "--group", "g", "--lite-topic", "b", status=2)


def test_a_messages_life_and_its_dead_letter(shell: Shell) -> None:
    """Given up by hand, found, explained, sent back to its group alone, acknowledged; then another one thrown away."""
    shell.done("topic", "create", "parcels", "--queues", "1")
    for key in ("k1", "k2"):
        shell.done("send", "parcels", f"to {key}", "--key", key, "--tag", "t")
    shell.done("receive", "parcels", "--shared", "--group", "couriers", "--bury", "no such address", "--count", "2")
    letters = shell.json("dlq", "list", "couriers")
    assert letters["count"] == 2
    assert {letter["reason"] for letter in letters["messages"]} == {"no such address"}
    (first, second) = letters["messages"]
    life = shell.json("message", "explain", "parcels", "--key", "k1")
    assert "dead-lettered" in str(life)
    assert shell.json("dlq", "redrive", "couriers", "--id", first["id"], "--rate", "50")["redriven"] == 1
    again = shell.done("receive", "parcels", "--shared", "--group", "couriers", "--count", "1", "-o", "json").json
    assert again["id"] == first["id"]
    assert shell.json("dlq", "purge", "couriers", "--id", second["id"])["purged"] == 1
    assert shell.json("dlq", "list", "couriers")["count"] == 0
    assert "--id, --filter or --all" in shell.fails("dlq", "purge", "couriers", status=2)


def test_groups(shell: Shell) -> None:
    shell.done("topic", "create", "news", "--queues", "2")
    shell.done("send", "news", "one", "--tag", "eu")
    shell.done("send", "news", "two", "--tag", "us")
    shell.done("group", "create", "readers", "--shape", "shared", "--max-attempts", "3")
    assert shell.json("group", "set-subscription", "readers", "news", "--filter", "us")["changed"]
    received = shell.done("receive", "news", "--shared", "--group", "readers", "--count", "1", "-o", "body")
    assert received.lines == ["two"]
    assert shell.json("group", "update", "readers", "--retry", "1s,5s")["changed"]
    assert shell.json("group", "describe", "readers")["max_attempts"] == 3
    shell.done("receive", "news", "--group", "stream", "--count", "2")
    moved = shell.json("group", "reset", "stream", "news", "--to", "earliest", "--queue", "broker-a:1")
    assert [queue["queue"] for queue in moved] == [1]
    assert "no such queue" in shell.fails("group", "reset", "stream", "news", "--to", "earliest", "--queue", "7")
    assert "not a queue" in shell.fails("group", "reset", "stream", "news", "--to", "earliest", "--queue", "x", status=2)
