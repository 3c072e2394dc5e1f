"""One run of the official Python client, in a process of its own: send or receive so many messages of 1 KiB."""

import json
import os
import sys
import time

os.environ.setdefault("ROCKETMQ_CLIENT_LOG_PATH", "/tmp")  # noqa: S108
from rocketmq import ClientConfiguration, Credentials, FilterExpression, Message, Producer, SimpleConsumer  # noqa: E402

kind, endpoint, topic, group, count = *sys.argv[1:5], int(sys.argv[5])
configuration = ClientConfiguration(endpoint, Credentials())
times: list[float] = []
if kind == "send":
    client = Producer(configuration, [topic])
    client.startup()
    body = bytes(1024).replace(b"\0", b"x")
    began = time.perf_counter()
    for _ in range(count):
        message = Message()
        message.topic, message.body = topic, body
        started = time.perf_counter()
        client.send(message)
        times.append(time.perf_counter() - started)
    took = time.perf_counter() - began
else:
    client = SimpleConsumer(configuration, group, {topic: FilterExpression()}, await_duration=5)
    client.startup()
    client._init_settings_event.wait(10)
    got = 0
    began = time.perf_counter()
    while got < count and time.perf_counter() - began < 120:
        started = time.perf_counter()
        messages = client.receive(32, 60) or []
        for message in messages:
            client.ack(message)
        if messages:
            times += [(time.perf_counter() - started) / len(messages)] * len(messages)
        got += len(messages)
    took = time.perf_counter() - began
    if got < count:
        sys.exit(f"only {got} of {count} came")
times.sort()
print(
    json.dumps(
        {
            "rate": count / took,
            "p50_us": times[len(times) // 2] * 1e6,
            "p99_us": times[int(len(times) * 0.99)] * 1e6,
            "messages": count,
        }
    )
)
client.shutdown()
