"""The official Python client, in a process of its own: sends all the time, or receives; says on standard output how it went.

    official_worker.py send ENDPOINT TOPIC INTERVAL_S
    official_worker.py receive ENDPOINT TOPIC GROUP

Ends when its input does.
"""

import json
import os
import sys
import threading
import time

from rocketmq import (  # type: ignore[import-untyped]
    ClientConfiguration,
    Credentials,
    FilterExpression,
    Message,
    Producer,
    SimpleConsumer,
)

KIND, ENDPOINT, TOPIC, LAST = sys.argv[1:5]
stop = threading.Event()


def say(**what: object) -> None:
    print(json.dumps({"at": time.monotonic(), **what}), flush=True)


def send() -> None:
    producer = Producer(ClientConfiguration(ENDPOINT, Credentials()), [TOPIC])
    producer.startup()
    number = 0
    while not stop.wait(float(LAST)):
        message = Message()
        message.topic, message.body = TOPIC, b"%d" % number
        began = time.monotonic()
        try:
            producer.send(message)
        except Exception as error:
            say(failed=number, began=began, error=f"{type(error).__name__}: {error}")
        else:
            say(sent=number, began=began)
        number += 1
    producer.shutdown()


def receive() -> None:
    consumer = SimpleConsumer(
        ClientConfiguration(ENDPOINT, Credentials()), LAST, {TOPIC: FilterExpression()}, await_duration=5
    )
    consumer.startup()
    say(started=True)
    while not stop.is_set():
        try:
            for message in consumer.receive(8, 10) or []:
                say(got=int(message.body))
                consumer.ack(message)
        except Exception as error:
            say(error=f"{type(error).__name__}: {error}")
            stop.wait(0.1)
    consumer.shutdown()


thread = threading.Thread(target=send if KIND == "send" else receive, daemon=True)
thread.start()
sys.stdin.read()
stop.set()
thread.join(10)
sys.stdout.flush()
os._exit(0)
