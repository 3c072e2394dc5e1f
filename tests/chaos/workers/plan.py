"""What a run of the workload has: its topics, its consumer groups, how messages are called. Imports no client."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tests.chaos.history import Group

KINDS = ("plain", "idempotent", "fifo", "delay", "transaction", "official", "topics")
TOPIC_KIND = {"plain": "normal", "idempotent": "normal", "fifo": "fifo", "delay": "delay", "transaction": "transaction"}
TOPIC_KINDS = ("normal", "fifo", "delay", "transaction")
STREAMED = ("normal", "fifo", "transaction")
PUSHED = ("normal", "fifo")
INVISIBLE_S = 10.0
LANES = 4  # sends that each producer has under way
# how a transaction ends: committed, rolled back, left to the check-back which commits or rolls back, left and never known
FATES = "cccccccrruunx"
CHECKED = {"c": "commit", "r": "rollback", "u": "commit", "n": "rollback", "x": "unknown"}


def body_of(run: str, who: str, lane: int, number: int, fate: str = "") -> str:
    return f"{run}.{who}.{lane}:{number}:{fate}"


def fate_of(body: str) -> str:
    return body.rsplit(":", 1)[1]


@dataclass(frozen=True, slots=True)
class Plan:
    run: str
    kinds: tuple[str, ...]
    official: bool

    @property
    def topics(self) -> dict[str, str]:
        """Kind of topic -> its name."""
        wanted = {TOPIC_KIND[kind] for kind in self.kinds if kind in TOPIC_KIND}
        if self.official and not wanted:
            wanted = set(TOPIC_KINDS)
        return {kind: self.topic(kind) for kind in TOPIC_KINDS if kind in wanted}

    def topic(self, kind: str) -> str:
        return f"chaos-{self.run}-{kind}"

    def group(self, kind: str, reader: str) -> str:
        return f"chaos-{self.run}-{kind}-{reader}"

    @property
    def groups(self) -> Sequence[Group]:
        shapes = {"stream": "stream", "shared": "shared", "simple": "shared", "push": "push"}
        return [
            Group(self.group(kind, reader), topic, shapes[reader], fifo=kind == "fifo")
            for kind, topic in self.topics.items()
            for reader in self.readers(kind)
        ]

    def readers(self, kind: str) -> Sequence[str]:
        native = ["stream"] if kind in STREAMED else []
        official = (["simple", "push"] if kind in PUSHED else ["simple"]) if self.official else []
        return [*native, "shared", *official]
