"""confluent-kafka (librdkafka) with its default settings; acks=all is one of them. The deliveries are reported by poll()."""

from __future__ import annotations

import array
import sys
import time
from typing import Any

from confluent_kafka import Consumer, Producer, TopicPartition
from pace import DRAIN_S, FAILED, IDLE_S, LOAD_SIZE, OK, STEP_S, Pace, body, number_of, save


def send(where: str, topic: str, pace: Pace) -> None:
    producer = Producer({"bootstrap.servers": where, "log_level": 0})
    producer.list_topics(topic, timeout=30)
    failures: dict[str, int] = {}

    def one(number: int) -> None:
        called = time.monotonic_ns()

        def ended(failure: Any, _: Any) -> None:
            pace.end(number, called, FAILED if failure else OK)
            if failure:
                failures[str(failure)] = failures.get(str(failure), 0) + 1

        try:
            producer.produce(topic, body(number), on_delivery=ended)
        except BufferError as failure:
            ended(failure, None)

    pace.begin()
    while not pace.stopped:
        for number in pace.due():
            one(number)
        producer.poll(STEP_S)
        pace.flush()
    producer.flush(DRAIN_S)
    pace.finish()
    for name, count in sorted(failures.items()):
        print("failed", count, name, flush=True)


def read(where: str, topic: str, path: str) -> None:
    consumer = Consumer({"bootstrap.servers": where, "group.id": "reader", "enable.auto.commit": False, "log_level": 0})
    partitions = consumer.list_topics(topic, timeout=30).topics[topic].partitions
    consumer.assign([TopicPartition(topic, number, 0) for number in partitions])
    found = array.array("q")
    last = time.monotonic()
    while time.monotonic() - last < IDLE_S:
        for message in consumer.consume(1_000, 0.5):
            if message.error() is None:
                found.append(number_of(message.value()))
                last = time.monotonic()
    save(path, found)


def load(where: str, topic: str, mib: int) -> None:
    producer = Producer({"bootstrap.servers": where, "log_level": 0})
    for _ in range(mib * 1024 * 1024 // LOAD_SIZE):
        while True:
            try:
                producer.produce(topic, bytes(LOAD_SIZE))
                break
            except BufferError:
                producer.poll(0.1)
        producer.poll(0)
    producer.flush()


if __name__ == "__main__":
    what, where, topic, *rest = sys.argv[1:]
    if what == "send":
        send(where, topic, Pace(int(rest[0]), rest[1]))
    elif what == "read":
        read(where, topic, rest[0])
    else:
        load(where, topic, int(rest[0]))
