"""The numbers of replication."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from prometheus_client.core import Metric

from kourou.runtime.metrics import Family

if TYPE_CHECKING:
    from kourou.app.member import MemberNode


DAMAGED = "1 when the log was found damaged since the start"


def _family(node: MemberNode) -> Family:
    identity = node.identity
    return Family(cluster=identity.cluster, node_type="broker", node_id=f"{identity.broker}-{identity.broker_id}")


def master_metrics(node: MemberNode) -> Iterator[Metric]:
    if node.master is None:
        return
    family, machine = _family(node), node.master.machine
    yield family.gauge("kourou_master", "1 for the master of a broker group", 1)
    yield family.gauge("kourou_confirm_offset", "Log offset below which everything is confirmed", node.journal.confirmed)
    yield family.gauge("kourou_log_damaged", DAMAGED, node.damaged is not None)
    yield family.gauge("kourou_sync_state_set", "Members in sync, the master counted", len(machine.set_members()))
    yield family.gauge("kourou_sync_state_set_short", "1 while sends are refused for lack of members", machine.short)
    yield family.gauge("kourou_degraded", "1 while fewer members than min_isr acknowledge sends", machine.degraded)
    yield family.counter("kourou_replicated_out_bytes", "Bytes of the log sent to slaves", node.master.bytes_out)
    rows = [((str(s.member.replica),), float(machine.end - s.appended)) for s in machine.sessions() if s.streaming]
    yield family.gauges("kourou_slave_behind_bytes", "Bytes of the log that a slave lacks", ("broker_id",), rows)


def slave_metrics(node: MemberNode) -> Iterator[Metric]:
    if node.slave is None:
        return
    family, machine = _family(node), node.slave.machine
    yield family.gauge("kourou_master", "1 for the master of a broker group", 0)
    yield family.gauge("kourou_confirm_offset", "Log offset below which everything is confirmed", machine.confirm)
    yield family.gauge("kourou_log_damaged", DAMAGED, node.damaged is not None)
    yield family.gauge("kourou_in_sync", "1 while this slave is in the sync state set, as far as it knows", machine.in_sync)
    yield family.gauge("kourou_halted", "1 when replication stopped until an operator decides", machine.halted is not None)
    yield family.counter("kourou_replicated_in_bytes", "Bytes of the log that came from the master", node.slave.bytes_in)
    yield family.gauge("rocketmq_storage_size", "Bytes of the log", node.store.end_offset - node.store.min_offset)
