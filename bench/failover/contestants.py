"""All contestants, and which of them can run here."""

from __future__ import annotations

import sys

from bench.failover.contestant import Cluster, say
from bench.failover.kafka_cluster import KafkaCluster
from bench.failover.kourou_group import KourouGroup, KourouShort
from bench.failover.nats_cluster import NatsCluster
from bench.failover.rocketmq_group import RocketmqGroup

KNOWN: tuple[type[Cluster], ...] = (KourouGroup, KourouShort, NatsCluster, RocketmqGroup, KafkaCluster)


def choose(wanted: str) -> list[type[Cluster]]:
    """``all``: what is installed, and loudly what is not; named ones have to be."""
    by_name = {kind.name: kind for kind in KNOWN}
    names = [kind.name for kind in KNOWN if kind.by_default] if wanted == "all" else wanted.split(",")
    found: list[type[Cluster]] = []
    for name in names:
        if name not in by_name:
            sys.exit(f"error: no contestant {name!r}; there are {', '.join(by_name)}")
        reason = by_name[name].missing()
        if reason is None:
            found.append(by_name[name])
        elif wanted == "all":
            say(f"SKIPPED {name}: {reason}")
        else:
            sys.exit(f"error: {name} can't run here: {reason}")
    return found
