"""kill -9 under load, many times: what was acknowledged is there exactly once, in order, and nothing else."""

from __future__ import annotations

import random
import struct
import threading
from pathlib import Path

import pytest

from kourou.core import wire
from kourou.core.errors import KourouError
from kourou.core.wire import Code
from tests.integration.node import Node
from tests.integration.raw import Raw, sealed

KILLS = 50
QUEUES = 4
NUMBER = struct.Struct("<QQ")  # frame's sequence, number of the record in its queue


class Producer:
    """An idempotent producer by hand: numbers its records per queue, resends what was not acknowledged."""

    def __init__(self, producer: int, rng: random.Random) -> None:
        self.producer = producer
        self.rng = rng
        self.sequence = 0
        self.numbers = [0] * QUEUES
        self.unacknowledged: list[tuple[int, bytes]] = []  # (sequence, sealed), oldest first
        self.acknowledged = [0] * QUEUES  # records acknowledged of each queue
        self.counts: dict[int, tuple[int, int]] = {}  # sequence -> (queue, records)

    def next_frame(self) -> bytes:
        self.sequence += 1
        queue = self.rng.randrange(QUEUES)
        count = self.rng.randrange(1, 30)
        size = self.rng.randrange(0, 400)
        bodies = [
            NUMBER.pack(self.sequence, self.numbers[queue] + i) + bytes(self.rng.randrange(size + 1)) for i in range(count)
        ]
        self.numbers[queue] += count
        data = sealed("kills", *bodies, queue=queue, producer=self.producer, sequence=self.sequence)
        self.counts[self.sequence] = (queue, count)
        self.unacknowledged.append((self.sequence, data))
        return data

    def run(self, address: str, stop: threading.Event) -> None:
        """Send until told to stop or the node dies; at most 32 frames under way."""
        try:
            with Raw(address, client=f"producer-{self.producer}") as raw:
                waiting: dict[int, int] = {}
                for sequence, data in self.unacknowledged:
                    waiting[self._send(raw, data)] = sequence
                while not stop.is_set() or waiting:
                    while len(self.unacknowledged) < 32 and not stop.is_set():
                        data = self.next_frame()
                        waiting[self._send(raw, data)] = self.sequence
                    self._take(raw, waiting)
        except (OSError, EOFError):
            return  # killed; what is unacknowledged is sent again to the next one

    @staticmethod
    def _send(raw: Raw, data: bytes) -> int:
        return raw.send(Code.PRODUCE, header=wire.PRODUCE_REQUEST.pack(0, 1, 0), body=data)

    def _take(self, raw: Raw, waiting: dict[int, int]) -> None:
        message = raw.receive()
        if message.is_one_way:
            raise EOFError("the node is going away")
        sequence = waiting.pop(message.opaque)
        if message.is_error:
            raise wire.decode_error(message)
        ((code, *_),) = wire.PRODUCE_RESULT.iter_unpack(message.body[: wire.PRODUCE_RESULT.size])
        assert code == 0, bytes(message.body)
        queue, count = self.counts.pop(sequence)
        self.acknowledged[queue] += count
        self.unacknowledged = [entry for entry in self.unacknowledged if entry[0] != sequence]


def check(raw: Raw, producers: list[Producer]) -> int:
    """Every queue holds each producer's records once and in order; returns how many there are."""
    total = 0
    for queue in range(QUEUES):
        found: dict[int, list[int]] = {p.producer: [] for p in producers}
        for body in raw.bodies("kills", queue=queue):
            sequence, number = NUMBER.unpack_from(body)
            found[sequence >> 40].append(number)
            total += 1
        for producer in producers:
            numbers = found[producer.producer]
            assert numbers == list(range(len(numbers))), f"queue {queue}, producer {producer.producer}: gap or duplicate"
            assert len(numbers) >= producer.acknowledged[queue], "acknowledged records are missing"
    return total


@pytest.mark.slow
@pytest.mark.parametrize("flush", ["async", "sync"])
def test_kill_at_random_moments(tmp_path: Path, flush: str) -> None:
    """Two idempotent producers over many kills; small segments, so that rolling and sealing are hit too."""
    rng = random.Random(11)
    producers = [Producer(number, rng) for number in (1, 2)]
    for producer in producers:
        producer.sequence = producer.producer << 40  # tells them apart in the bodies
    kills = KILLS // 2
    options = ("--flush", flush, "--segment-bytes", str(256 * 1024), "--snapshot-bytes", str(512 * 1024))
    for life in range(kills):
        node = Node(tmp_path / "data", *options)
        try:
            with Raw(node.address) as raw:
                if life == 0:
                    raw.create_topic("kills", queues=QUEUES)
                check(raw, producers)
            stop = threading.Event()
            threads = [threading.Thread(target=p.run, args=(node.address, stop)) for p in producers]
            for thread in threads:
                thread.start()
            _let_it_write(node, rng)
            node.kill()
            for thread in threads:
                thread.join(30)
                assert not thread.is_alive()
        finally:
            if node.process.poll() is None:
                node.kill()
    with Node(tmp_path / "data", *options) as node:
        stop = threading.Event()
        stop.set()  # send what is left, nothing new
        for producer in producers:
            producer.run(node.address, stop)
            assert not producer.unacknowledged
        with Raw(node.address) as raw:
            total = check(raw, producers)
        assert total == sum(sum(producer.numbers) for producer in producers)
        assert total > 0


def _let_it_write(node: Node, rng: random.Random) -> None:
    """Wait until a random amount has been written since the start, so that the kill falls at a random place."""
    wanted = rng.randrange(1, 400_000)
    try:
        with Raw(node.address) as raw:
            start = raw.ask_json(Code.STATUS, {})["log"]["end"]
            while raw.ask_json(Code.STATUS, {})["log"]["end"] - start < wanted:
                pass
    except KourouError as failure:  # pragma: no cover
        raise AssertionError(str(failure)) from failure
