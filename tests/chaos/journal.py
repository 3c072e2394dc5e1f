"""What clients did, written as it happens: one JSON line a fact, one file a process, one write a line.

A worker that is killed leaves a file that can be read; an operation without an end has the outcome unknown.

    {"e": "begin", "t", "name", "run", "pid"}                   the first line
    {"e": "topic", "topic", "kind"}                             normal, fifo, delay or transaction
    {"e": "group", "group", "topic", "shape", "fifo"}           shape: stream, shared or push
    {"e": "invoke", "t", "n", "who", "f", …}                    operation n of this file begins
    {"e": "ok" | "refused" | "unknown", "t", "n", …}            refused: without effect; unknown: it may have one, even later
    {"e": "ready", "t"}                                         every worker of this process has had a success
    {"e": "quiet", "t"}                                         its producers have ended
    {"e": "broken", "t", "who", "error"}                        a worker met what it should not
    {"e": "end", "t", "drained"}                                the last line, of the process that decides about the drain

``t`` is CLOCK_MONOTONIC in nanoseconds, which is the same in all namespaces and containers of a machine. ``f`` and what
it carries:

    send      topic, body, lane, fate, delay_ms, sequenced      ok: place
    decide    topic, body, outcome (commit or rollback)         the producer tells how a transaction ended
    check     topic, body                                       the broker asks; ok: outcome (also unknown)
    receive   group, topic                                      written when it has ended
                                                                ok: got, a list of body, place, attempt, handle, left_ms
    ack       group, body, handle
    hide      group, body, handle, hidden_ms                    another invisible time; 0 and more
    commit    group, topic                                      ok: places, [[broker, queue, next offset], …], committed now
    look      group, topic                                      ok: places, what is committed as the broker says
    create    key, value        delete  key        get  key     ok of get: value, None when there is none

A place is [broker, queue, queue offset]. ``fate`` of a transaction: c commit, r rollback, u and n left to the check-back
which commits or rolls back, x for ever unknown; "" for other messages.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


class Journal:
    """One process's file. Safe to use from several threads."""

    def __init__(
        self, directory: Path, name: str, run: str, *, told: Callable[[dict[str, Any]], None] | None = None
    ) -> None:
        """``told`` is called with each line, too."""
        directory.mkdir(parents=True, exist_ok=True)
        self.file = directory / f"{name}-{run}-{os.getpid()}.jsonl"
        self._fd = os.open(self.file, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        self._lock = threading.Lock()
        self._count = 0
        self._told = told
        self.note("begin", name=name, run=run, pid=os.getpid())

    def _write(self, line: dict[str, Any]) -> None:
        os.write(self._fd, json.dumps(line, separators=(",", ":")).encode() + b"\n")
        if self._told is not None:
            self._told(line)

    def note(self, event: str, **facts: Any) -> None:
        with self._lock:
            self._write({"e": event, "t": time.monotonic_ns(), **facts})

    def invoke(self, who: str, what: str, **facts: Any) -> int:
        """An operation begins; its number."""
        return self.invoke_due(who, what, None, **facts)

    def invoke_due(self, who: str, what: str, due_s: float | None, **facts: Any) -> int:
        """``due_s``: wall time of a delivery, written as ``delay_ms`` from ``t`` on.

        The two clocks are read here, one after the other: a thread that is held up between them makes the delay shorter,
        never longer, and so nothing looks early that was not.
        """
        with self._lock:
            self._count += 1
            line = {"e": "invoke", "t": time.monotonic_ns(), "n": self._count, "who": who, "f": what, **facts}
            if due_s is not None:
                line["delay_ms"] = (due_s - time.time()) * 1000
            self._write(line)
            return self._count

    def ok(self, number: int, **facts: Any) -> None:
        self.note("ok", n=number, **facts)

    def refused(self, number: int, error: BaseException) -> None:
        self.note("refused", n=number, error=words(error))

    def unknown(self, number: int, error: BaseException) -> None:
        self.note("unknown", n=number, error=words(error))

    def done(self, who: str, what: str, since: int, *, result: dict[str, Any], **facts: Any) -> None:
        """An operation that is told only when it has ended well."""
        with self._lock:
            self._count += 1
            self._write({"e": "invoke", "t": since, "n": self._count, "who": who, "f": what, **facts})
            self._write({"e": "ok", "t": time.monotonic_ns(), "n": self._count, **result})


def words(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"[:300]
