"""The official Python client (rocketmq-python-client): producers and simple consumers in a process of their own, because
its protobuf symbols clash with ours; each push consumer in one more process, with a file of its own.

    python -m tests.chaos.workers.official ENDPOINT DIRECTORY RUN RATE SEED KINDS

Prints "running" when each of its clients has had a success. A line on stdin: send no more; its end: stop.
The client repeats sends by itself, unseen, so a send that fails is of unknown outcome, and duplicates are no fault.
"""

# mypy: ignore-errors
from __future__ import annotations

import hashlib
import os
import random
import sys
import threading
import time
from pathlib import Path

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

from tests.chaos.journal import Journal, words
from tests.chaos.workers.plan import CHECKED, FATES, INVISIBLE_S, LANES, PUSHED, Plan, body_of, fate_of
from tests.chaos.workers.pushprocess import PushProcess, command_of

# The client raises what it likes; whatever it was, the outcome of that call is not known: hence `except Exception` below.
AWAIT_S = 1  # the client asks one queue at a time, at random
# Each of its threads whose ack can't be told to the very address that the message came from tries so for ever: a push
# consumer that read at a broker which does not come back stands still until somebody starts it anew. In a drain it is
# given longer, as what it held may come again only a minute later.
PUSH_STAY_S = (10.0, 25.0)
PUSH_DRAIN_STAY_S = 60.0
PUSH_FAILING = 0.02
RESOLUTION = {
    "commit": TransactionResolution.COMMIT,
    "rollback": TransactionResolution.ROLLBACK,
    "unknown": TransactionResolution.TRANSACTION_RESOLUTION_UNSPECIFIED,
}


class Official:
    def __init__(self, endpoint: str, directory: Path, plan: Plan, rate: float, seed: int) -> None:
        self.endpoint, self.directory, self.plan, self.rate, self.seed = endpoint, directory, plan, rate, seed
        self.journal = Journal(directory, "official", plan.run)
        self.no_more, self.over = threading.Event(), threading.Event()
        self.lock = threading.Lock()
        self.waited_for: set[str] = set()
        self.sending = len(plan.topics)

    # ---- what all have in common

    def succeeded(self, who: str) -> None:
        with self.lock:
            if who not in self.waited_for:
                return
            self.waited_for.discard(who)
            if not self.waited_for:
                self.journal.note("ready")
                print("running", flush=True)

    def complain(self, who: str, error: BaseException) -> None:
        print(f"{who}: {words(error)}", file=sys.stderr, flush=True)

    def started(self, who: str, make):
        """A client, however long the server is away; None when it is too late."""
        while not self.over.is_set():
            try:
                client = make(ClientConfiguration(self.endpoint, Credentials()))
                client.startup()
            except Exception as error:
                self.complain(who, error)
                self.over.wait(1)
            else:
                return client
        return None

    # ---- producers

    def produce(self, kind: str, topic: str) -> None:
        who = f"official-{kind}"
        rng = random.Random(f"{self.seed}-{who}")
        producer = self.started(who, lambda config: Producer(config, [topic], self.checker(who, topic)))
        number = 0
        while producer is not None and not self.no_more.wait(rng.expovariate(self.rate)):
            number += 1
            self.send(producer, rng, who, kind, topic, number)
        with self.lock:
            self.sending -= 1
            if self.sending == 0:
                self.journal.note("quiet")
        self.over.wait()  # meanwhile it answers check-backs
        if producer is not None:
            producer.shutdown()

    def send(self, producer, rng: random.Random, who: str, kind: str, topic: str, number: int) -> None:
        journal = self.journal
        fate = rng.choice(FATES) if kind == "transaction" else ""
        lane = rng.randrange(LANES)
        message = Message()
        message.topic = topic
        body = body_of(self.plan.run, who, lane, number, fate)
        message.body = body.encode()
        group, due = None, None
        if kind == "fifo":
            message.message_group = group = f"{who}.{lane}"
        if kind == "delay":
            message.delivery_timestamp = due = int(time.time()) + rng.randint(2, 6)
        facts = {"topic": topic, "body": body, "lane": group, "fate": fate, "delay_ms": None, "sequenced": False}
        operation = journal.invoke_due(who, "send", due, **facts)
        try:
            transaction = producer.begin_transaction() if fate else None
            producer.send(message, transaction)
        except Exception as error:
            journal.unknown(operation, error)
            self.no_more.wait(0.2)
            return
        journal.ok(operation)
        self.succeeded(who)
        if not fate or fate not in "cr":
            return
        operation = journal.invoke(who, "decide", topic=topic, body=body, outcome=CHECKED[fate])
        try:
            transaction.commit() if fate == "c" else transaction.rollback()
        except Exception as error:
            journal.unknown(operation, error)
        else:
            journal.ok(operation)

    def checker(self, who: str, topic: str) -> TransactionChecker:
        journal = self.journal

        class Checker(TransactionChecker):
            def check(self, message):
                body = message.body.decode()
                outcome = CHECKED[fate_of(body)]
                operation = journal.invoke(who, "check", topic=topic, body=body)
                journal.ok(operation, outcome=outcome)
                return RESOLUTION[outcome]

        return Checker()

    # ---- consumers

    def consume(self, kind: str, topic: str) -> None:
        who, group = f"official-simple-{kind}", self.plan.group(kind, "simple")
        rng = random.Random(f"{self.seed}-{who}")
        subscription = {topic: FilterExpression()}
        consumer = self.started(who, lambda config: SimpleConsumer(config, group, subscription, await_duration=AWAIT_S))
        while consumer is not None and not self.over.is_set():
            since = time.monotonic_ns()
            try:
                messages = consumer.receive(8, int(INVISIBLE_S)) or []
            except Exception as error:
                self.complain(who, error)
                self.over.wait(0.5)
                continue
            if not messages:
                continue
            left_ms = INVISIBLE_S * 1000 - (time.monotonic_ns() - since) / 1e6
            handles = [hashlib.blake2b(message.receipt_handle.encode(), digest_size=8).hexdigest() for message in messages]
            got = [
                {"body": m.body.decode(), "attempt": m.delivery_attempt, "handle": handle, "left_ms": left_ms}
                for m, handle in zip(messages, handles, strict=True)
            ]
            self.journal.done(who, "receive", since, group=group, topic=topic, result={"got": got})
            self.succeeded(who)
            for message, handle in zip(messages, handles, strict=True):
                self.settle(consumer, rng, who, group, message, handle)
        if consumer is not None:
            consumer.shutdown()

    def settle(self, consumer, rng: random.Random, who: str, group: str, message, handle: str) -> None:
        chance = 1.0 if self.no_more.is_set() else rng.random()
        if chance < 0.02:
            return
        facts = {"group": group, "body": message.body.decode(), "handle": handle}
        hide = chance < 0.04
        operation = self.journal.invoke(who, "hide" if hide else "ack", **facts, **({"hidden_ms": 0} if hide else {}))
        try:
            if hide:
                consumer.change_invisible_duration(message, 1)
            else:
                consumer.ack(message)
        except Exception as error:
            self.journal.unknown(operation, error)
        else:
            self.journal.ok(operation)

    def push(self, kind: str, topic: str) -> None:
        """One process after the other; the last ones, from the drain's begin on, accept everything."""
        who = f"official-push-{kind}"
        rng = random.Random(f"{self.seed}-{who}")
        number = 0
        while not self.over.is_set():
            number += 1
            draining = self.no_more.is_set()
            seed, failing = f"{self.seed}-{who}-{number}", 0.0 if draining else PUSH_FAILING
            command = command_of(self.endpoint, str(self.directory), self.plan.run, kind, seed, failing)
            process = PushProcess(command, received=lambda: self.succeeded(who))
            if draining:
                self.over.wait(PUSH_DRAIN_STAY_S)
            else:
                self.no_more.wait(rng.uniform(*PUSH_STAY_S))
            status = process.end()
            if status is not None:
                self.complain(who, RuntimeError(f"its process ended by itself, with status {status}"))

    def run(self) -> None:
        work = [(f"official-{kind}", self.produce, kind) for kind in self.plan.topics]
        work += [(f"official-simple-{kind}", self.consume, kind) for kind in self.plan.topics]
        work += [(f"official-push-{kind}", self.push, kind) for kind in self.plan.topics if kind in PUSHED]
        self.waited_for = {who for who, _, _ in work}
        threads = [threading.Thread(target=run, args=(kind, self.plan.topics[kind]), daemon=True) for _, run, kind in work]
        for thread in threads:
            thread.start()
        sys.stdin.readline()
        self.no_more.set()
        sys.stdin.read()
        self.over.set()
        for thread in threads:
            thread.join(8)


if __name__ == "__main__":
    _, endpoint, directory, run, rate, seed, kinds = sys.argv
    Official(endpoint, Path(directory), Plan(run, tuple(kinds.split(",")), True), float(rate), int(seed)).run()
    sys.stdout.flush()
    os._exit(0)  # whatever threads the client still has
