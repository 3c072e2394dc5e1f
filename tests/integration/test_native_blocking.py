"""Shared groups, delays and transactions through the blocking client, against a real node."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator

import pytest

from kourou.client import HalfMessage
from kourou.client.blocking import Client, Message, SharedMessage, Sql
from kourou.core.errors import BadRequest, GroupShapeMismatch, InvalidRecallHandle, NotConnected
from tests.integration.node import Node


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    env = {
        "KOUROU_TRANSACTION_CHECK_AFTER_S": "0.3",
        "KOUROU_TRANSACTION_CHECK_EVERY_S": "0.3",
        "KOUROU_LOG_LEVEL": "warning",
    }
    with Node(tmp_path_factory.mktemp("node"), env=env) as running:
        yield running


def test_a_loop_acknowledges(node: Node) -> None:
    with Client(node.address) as client:
        client.create_topic("loop", queues=2)
        client.producer().send_many("loop", [Message(b"%d" % i, tag="t", key=str(i)) for i in range(50)])
        seen: list[bytes] = []
        with client.shared_consumer("loop", group="loop", filter=Sql("TAGS = 't'")) as consumer:
            for message in consumer:
                assert (message.tag, message.attempt, message.topic) == ("t", 1, "loop")
                seen.append(message.body)
                if len(seen) == 50:
                    break
        assert sorted(seen, key=int) == [b"%d" % i for i in range(50)]
        with client.shared_consumer("loop", group="loop", filter=Sql("TAGS = 't'")) as consumer:
            assert consumer.receive(10, wait_s=0.3) == []


def test_a_slow_body_keeps_its_message(node: Node) -> None:
    """The main thread works and does not run the loop meanwhile; the lease of a second is renewed all the same."""
    with Client(node.address) as client, Client(node.address) as other:
        client.create_topic("slow", queues=1)
        client.producer().send("slow", b"x")
        rival = other.shared_consumer("slow", group="slow", invisible_s=1)
        with client.shared_consumer("slow", group="slow", invisible_s=1) as consumer, rival:
            for message in consumer:
                assert rival.receive(1, wait_s=2.5) == []
                assert not message.lost
                break
            assert rival.receive(1, wait_s=0) == []


def test_settling_by_hand(node: Node) -> None:
    with Client(node.address) as client:
        client.create_topic("hand", queues=1)
        client.create_group("hand", shape="shared", max_attempts=3, retry_s=[0.02])
        client.producer().send("hand", b"x")
        with client.shared_consumer("hand", group="hand") as consumer:
            (message,) = consumer.receive(1)
            message.extend(60)
            message.nack()
            (message,) = consumer.receive(1)
            assert message.attempt == 2
            message.bury("enough")
            with pytest.raises(BadRequest, match="settled before"):
                message.ack()
        with client.shared_consumer("%DLQ%hand", group="undertaker") as graves:
            (dead,) = graves.receive(1)
            assert dead.properties["DLQ_REASON"] == "enough"
            dead.ack()
        with pytest.raises(ZeroDivisionError):
            client.producer().send("hand", b"y")
            with client.shared_consumer("hand", group="hand") as consumer:
                for _ in consumer:
                    raise ZeroDivisionError
        with client.shared_consumer("hand", group="hand") as consumer:
            (message,) = consumer.receive(1)
            assert (message.body, message.attempt) == (b"y", 2)
            message.ack()
        with pytest.raises(GroupShapeMismatch), client.consumer("hand", group="hand"):
            pass


def test_handlers_run_in_threads(node: Node) -> None:
    """Four at a time, each with a blocking call of its own, of a producer of the same client."""
    with Client(node.address) as client:
        client.create_topic("work", queues=2)
        client.create_topic("results", queues=1)
        client.create_group("work", shape="shared", retry_s=[0.02])
        producer = client.producer()
        together = threading.Barrier(4)
        failed: set[bytes] = set()

        @client.on("work", group="work", concurrency=4)
        def handle(message: SharedMessage) -> None:
            if message.attempt == 1:
                together.wait(30)
                if message.body in (b"1", b"2"):
                    failed.add(message.body)
                    raise RuntimeError("the first attempt fails")
            producer.send("results", message.body)

        thread = threading.Thread(target=client.run)
        thread.start()
        producer.send_many("work", [b"%d" % i for i in range(4)])
        seen: list[bytes] = []
        with client.shared_consumer("results", group="results") as consumer:
            for message in consumer:
                seen.append(message.body)
                if len(seen) == 4:
                    break
        client.stop()
        thread.join(30)
        assert not thread.is_alive()
        assert sorted(seen) == [b"0", b"1", b"2", b"3"]
        assert failed == {b"1", b"2"}


def test_delay_and_recall(node: Node) -> None:
    with Client(node.address) as client:
        client.create_topic("delays", type="delay", queues=1)
        producer = client.producer()
        gone = producer.send("delays", b"gone", delay=30)
        kept = producer.send("delays", b"kept", deliver_at=time.time() + 0.3)
        assert producer.recall(gone) == gone.id
        assert gone.recall_handle is not None
        with pytest.raises(InvalidRecallHandle):
            client.recall("delays", gone.recall_handle)
        with client.shared_consumer("delays", group="delays") as consumer:
            (message,) = consumer.receive(1)
            assert message.id == kept.id
            message.ack()


def test_transactions(node: Node) -> None:
    with Client(node.address) as client:
        client.create_topic("orders", type="transaction", queues=1)
        producer = client.producer()
        with producer.transaction("orders") as tx:
            receipt = tx.send(b"one")
        with pytest.raises(ZeroDivisionError), producer.transaction("orders") as tx:
            tx.send(b"two")
            raise ZeroDivisionError
        with client.shared_consumer("orders", group="orders") as consumer:
            (message,) = consumer.receive(1)
            assert message.id == receipt.id
            message.ack()
            with Client(node.address) as dead:
                dead.producer().transaction("orders").send(b"three")
            ledger = client.producer()

            def check(message: HalfMessage) -> str:
                ledger.id  # noqa: B018  # it may use the client
                return "commit"

            client.producer(transaction_checker=check, transaction_topics=["orders"])
            (message,) = consumer.receive(1)
            assert message.body == b"three"
            message.ack()


def test_a_consumer_does_not_survive_a_fork(node: Node) -> None:
    with Client(node.address) as client:
        client.create_topic("forked", queues=1)
        client.producer().send_many("forked", [b"x", b"y"])
        with client.shared_consumer("forked", group="forked") as consumer:
            for message in consumer:
                assert message.body == b"x"
                break
            child = os.fork()
            if child == 0:
                try:
                    consumer.receive(1, wait_s=0)
                except NotConnected:
                    os._exit(7)
                os._exit(1)
            _, status = os.waitpid(child, 0)
            assert os.waitstatus_to_exitcode(status) == 7
            bodies = []
            for message in consumer:
                bodies.append(message.body)
                if len(bodies) == 2:
                    break
            assert bodies == [b"x", b"y"]
