"""The members of broker groups in ``kourou status``."""

from __future__ import annotations

from typing import Any

from kourou.cli import members


def master(**fields: Any) -> dict[str, Any]:
    replication = {"set": [0, 1], "min_isr": 2}
    log = {"end": 5_000, "confirmed": 4_000}
    return {"broker": "a", "broker_id": 0, "role": "master", "epoch": 7, "log": log, "replication": replication, **fields}


def slave(broker_id: int, **fields: Any) -> dict[str, Any]:
    replication = {"phase": "streaming", "in_sync": True, "master_end": 4_500, "halted": None, "last_error": None}
    replication |= fields.pop("replication", {})
    log = {"end": 3_976, "confirmed": 3_000}
    return {
        "broker": "a", "broker_id": broker_id, "role": "slave", "epoch": 7, "log": log, "replication": replication, **fields
    }  # fmt: skip


def column(rows: list[tuple[object, ...]], name: str) -> list[object]:
    return [row[members.HEADER.index(name)] for row in rows]


def test_the_master_says_who_is_in_sync() -> None:
    rows = members.rows([master(), slave(1), slave(2)])
    assert column(rows, "IN SYNC") == [True, True, False]
    assert column(rows, "LAG") == [None, "1.0 KiB", "1.0 KiB"]
    assert column(rows, "STATE") == ["serving", "streaming", "streaming"]


def test_without_a_master_it_is_what_slaves_were_told() -> None:
    rows = members.rows([slave(1, replication={"phase": "idle", "last_error": "refused"})])
    assert column(rows, "IN SYNC") == [True]
    assert column(rows, "STATE") == ["idle: refused"]


def test_troubles() -> None:
    halted = slave(1, replication={"halted": "it lacks acknowledged messages"})
    silent = {"broker": "a", "broker_id": 2, "epoch": 7, "error": "refused"}
    found = members.troubles([master(role="starting"), halted, silent])
    assert found == [
        "broker a 0 waits for slaves: min_isr is 2",
        "broker a 1 has stopped replicating: it lacks acknowledged messages",
        "broker a 2 does not answer: refused",
    ]
    assert column(members.rows([silent]), "STATE") == ["does not answer"]


def test_who_takes_no_part_in_elections() -> None:
    halted = slave(1, failover={"halted": "etcd is another one", "barred": "fsync failed"})
    assert members.troubles([master(), halted]) == ["broker a 1 takes no part in elections: etcd is another one"]
    barred = slave(1, failover={"halted": None, "barred": "its log is damaged"})
    assert members.troubles([master(), barred]) == ["broker a 1 does not lead: its log is damaged"]
