"""admin_kafka.py WHERE create TOPIC…: with 3 copies, 2 of them needed. WHERE serve: "ask TOPIC…" by line in, JSON by line out:
{"leaders": [each partition's leader], "isr": [each partition's number of members in sync]}."""

from __future__ import annotations

import json
import sys

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient, NewTopic

PARTITIONS = 1


def main(where: str, what: str, *topics: str) -> None:
    admin = AdminClient({"bootstrap.servers": where, "log_level": 0, "topic.metadata.refresh.interval.ms": -1})
    if what == "create":
        wanted = [NewTopic(name, PARTITIONS, 3, config={"min.insync.replicas": "2"}) for name in topics]
        for done in admin.create_topics(wanted, request_timeout=20).values():
            done.result()
        return
    for line in sys.stdin:
        leaders: list[int] = []
        isr: list[int] = []
        try:
            for name in line.split():
                for partition in admin.list_topics(name, timeout=2).topics[name].partitions.values():
                    leaders.append(partition.leader)
                    isr.append(len(partition.isrs))
        except KafkaException:
            leaders, isr = [], []
        print(json.dumps({"leaders": leaders, "isr": isr}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
