"""The soak's worker of the official Python client; runs in its environment. See run.py for the protocol."""

import json
import os
import random
import sys
import threading
import time

from rocketmq import (
    ClientConfiguration,
    Credentials,
    FilterExpression,
    Message,
    Producer,
    SimpleConsumer,
    TransactionChecker,
    TransactionResolution,
)

ENDPOINT, NAME, RATE, SEED = sys.argv[1], sys.argv[2], float(sys.argv[3]), int(sys.argv[4])
TOPICS = json.loads(sys.argv[5])  # kind -> [topic, group]
stop_sending, stop = threading.Event(), threading.Event()
lock = threading.Lock()


def say(op, body, **more):
    line = json.dumps({"op": op, "body": body, "at": time.time_ns(), **more})
    with lock:
        print(line, flush=True)


def complain(what, error):
    print(f"{NAME} {what}: {type(error).__name__}: {error}", file=sys.stderr, flush=True)


def persist(make):
    """Start a client, however long the server is away."""
    while not stop.is_set():
        client = make()
        try:
            client.startup()
            return client
        except Exception as error:
            complain("start", error)
            stop.wait(1)
    return None


class Checker(TransactionChecker):
    def check(self, message):
        fate = message.body.decode().rsplit(":", 1)[1]
        return TransactionResolution.ROLLBACK if fate == "r" else TransactionResolution.COMMIT


def produce(kind, topic):
    rng = random.Random(f"{SEED}-{kind}")
    producer = persist(lambda: Producer(ClientConfiguration(ENDPOINT, Credentials()), [topic], Checker()))
    number = 0
    while not stop_sending.wait(rng.expovariate(RATE / len(TOPICS))):
        number += 1
        fate = rng.choice("cccccccuur") if kind == "transaction" else "c"
        lane = rng.randrange(5)
        body = f"{NAME}:{kind}:{lane}:{number}:{fate}"
        message = Message()
        message.topic, message.body = topic, body.encode()
        if kind == "fifo":
            message.message_group = f"{NAME}-{lane}"
        if kind == "delay":
            message.delivery_timestamp = int(time.time()) + rng.randint(2, 8)
        since = time.time_ns()
        try:
            transaction = producer.begin_transaction() if kind == "transaction" else None
            producer.send(message, transaction)
        except Exception as error:
            say("unsent", body, since=since)
            complain("send", error)
            stop_sending.wait(0.2)
            continue
        say("sent", body, since=since)
        if kind == "transaction" and fate != "u":
            try:
                transaction.commit() if fate == "c" else transaction.rollback()
            except Exception as error:  # then the check-back decides
                complain("end", error)
    stop.wait()  # meanwhile it answers check-backs
    if producer is not None:
        producer.shutdown()


def consume(kind, topic, group):
    rng = random.Random(f"{SEED}-{kind}-{group}")
    consumer = persist(
        lambda: SimpleConsumer(
            ClientConfiguration(ENDPOINT, Credentials()), group, {topic: FilterExpression()}, await_duration=5
        )
    )
    while not stop.is_set():
        try:
            messages = consumer.receive(8, 10) or []
        except Exception as error:
            complain("receive", error)
            stop.wait(0.5)
            continue
        for message in messages:
            body = message.body.decode()
            due = message.delivery_timestamp if kind == "delay" else None
            say("got", body, group=group, attempt=message.delivery_attempt, due=due)
            fate = rng.random()
            try:
                if fate < 0.03:
                    continue  # its time runs out
                if fate < 0.06:
                    consumer.change_invisible_duration(message, 1)
                    continue
                consumer.ack(message)
            except Exception as error:
                say("settled", body, group=group)
                complain("ack", error)
            else:
                say("acked", body, group=group)
    if consumer is not None:
        consumer.shutdown()


threads = [threading.Thread(target=produce, args=(kind, topic)) for kind, (topic, _) in TOPICS.items()]
threads += [threading.Thread(target=consume, args=(kind, topic, group)) for kind, (topic, group) in TOPICS.items()]
for thread in threads:
    thread.daemon = True
    thread.start()
sys.stdin.readline()
stop_sending.set()
sys.stdin.read()
stop.set()
for thread in threads:
    thread.join(8)
sys.stdout.flush()
os._exit(0)
