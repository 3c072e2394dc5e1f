"""Registry: contestant name -> module:class. A new contestant is one line here (or an entry in
$BENCH_EXTRA='name=path/to/file.py:Class,...') and one file."""

import importlib
import importlib.util
import os

ALL = {
    "kourou": "kourou_adapter:Kourou",
    "kourou-send": "kourou_adapter:KourouSend",
    "kourou-post": "kourou_adapter:KourouPost",
    "kourou-nosink": "kourou_adapter:KourouNoSink",
    "kourou-blocking": "kourou_adapter:KourouBlocking",
    "kourou-asyncio": "kourou_adapter:KourouAsyncio",
    "kafka-confluent": "adapters.kafka:KafkaConfluent",
    "kafka-aiokafka": "adapters.kafka:KafkaAio",
    "nats": "adapters.nats_js:Nats",
    "rabbit-quorum": "adapters.rabbit:RabbitQuorum",
    "rabbit-classic": "adapters.rabbit:RabbitClassic",
    "rabbit-pika": "adapters.rabbit:RabbitPika",
    "redis": "adapters.redis_streams:Redis",
    "rocketmq-py": "adapters.rocketmq_grpc:RocketPy",
    "rocketmq-java-sync": "adapters.rocketmq_grpc:RocketJavaSync",
    "rocketmq-java-async": "adapters.rocketmq_grpc:RocketJavaAsync",
    "rocketmq-java-batch": "adapters.rocketmq_grpc:RocketJavaBatch",
}
EXTRA = dict(entry.split("=", 1) for entry in os.environ.get("BENCH_EXTRA", "").split(",") if entry)


def names():
    return [*ALL, *EXTRA]


def get(name):
    if name in EXTRA:
        path, cls = EXTRA[name].rsplit(":", 1)
        spec = importlib.util.spec_from_file_location("bench_extra_" + cls, path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    else:
        where, cls = ALL[name].split(":")
        module = importlib.import_module(where)
    return getattr(module, cls)
