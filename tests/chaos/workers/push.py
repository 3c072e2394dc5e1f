"""One push consumer of the official Python client, with a history file of its own.

    python -m tests.chaos.workers.push ENDPOINT DIRECTORY RUN KIND SEED FAILING

Prints "received" at its first message. When its stdin ends it does: in good order, if that does not take long.
"""

# mypy: ignore-errors
from __future__ import annotations

import os
import random
import sys
import threading
import time
from pathlib import Path

from rocketmq import ClientConfiguration, ConsumeResult, Credentials, FilterExpression, MessageListener, PushConsumer

from tests.chaos.journal import Journal, words
from tests.chaos.workers.plan import Plan
from tests.chaos.workers.pushprocess import GRACE_S

THREADS = 4


class Push:
    def __init__(self, endpoint: str, directory: Path, run: str, kind: str, seed: str, failing: float) -> None:
        self.endpoint, self.failing, self.rng = endpoint, failing, random.Random(seed)
        self.who = f"official-push-{kind}"
        plan = Plan(run, (), True)
        self.group, self.topic = plan.group(kind, "push"), plan.topic(kind)
        self.journal = Journal(directory, self.who, run)
        self.lock = threading.Lock()
        self.said = False
        self.consumer = None

    def came(self, message) -> ConsumeResult:
        now = time.monotonic_ns()
        got = {"body": message.body.decode(), "attempt": message.delivery_attempt}
        self.journal.done(self.who, "receive", now, group=self.group, topic=self.topic, result={"got": [got]})
        with self.lock:
            if not self.said:
                self.said = True
                print("received", flush=True)
            return ConsumeResult.FAILURE if self.rng.random() < self.failing else ConsumeResult.SUCCESS

    def start(self) -> None:
        """However long the server is away."""
        push = self

        class Listener(MessageListener):
            def consume(self, message):
                return push.came(message)

        while self.consumer is None:
            try:
                consumer = PushConsumer(
                    ClientConfiguration(self.endpoint, Credentials()),
                    self.group,
                    Listener(),
                    {self.topic: FilterExpression()},
                    consumption_thread_count=THREADS,
                )
                consumer.startup()
            except Exception as error:  # the client raises what it likes
                print(f"{self.who}: {words(error)}", file=sys.stderr, flush=True)
                time.sleep(1)
            else:
                self.consumer = consumer

    def stop(self) -> None:
        if self.consumer is not None:
            self.consumer.shutdown()

    def run(self) -> None:
        threading.Thread(target=self.start, daemon=True).start()
        sys.stdin.read()
        stopping = threading.Thread(target=self.stop, daemon=True)
        stopping.start()
        stopping.join(2 * GRACE_S)  # whoever started it does not wait so long; but it may be gone itself


if __name__ == "__main__":
    _, endpoint, directory, run, kind, seed, failing = sys.argv
    Push(endpoint, Path(directory), run, kind, seed, float(failing)).run()
    os._exit(0)  # whatever threads the client still has
