"""What ``kourou status`` says of members that elect their master."""

from __future__ import annotations

from typing import Any

from kourou.cli.members import troubles


def member(broker_id: int, role: str, **failover: Any) -> dict[str, Any]:
    return {"broker": "a", "broker_id": broker_id, "role": role, "replication": {}, "failover": failover}


def test_an_election_in_good_order() -> None:
    live = [{"broker_id": 0, "address": "h:1", "live": True}, {"broker_id": 1, "address": "h:2", "live": True}]
    assert troubles([member(0, "master", members=live, etcd_silent_ms=400), member(1, "slave", etcd_silent_ms=None)]) == []
    assert troubles([{"broker": "a", "broker_id": 0, "role": "master", "failover": None}]) == []


def test_what_is_wrong_is_named() -> None:
    gone = [{"broker_id": 0, "address": "h:1", "live": False}, {"broker_id": 2, "address": "h:3", "live": False}]
    found = troubles([member(0, "master", members=gone, etcd_silent_ms=4_400), member(1, "slave", halted="etcd is empty")])
    assert found == [
        "broker a 0 has not reached etcd for 4 s",
        "broker a 2 (h:3) is not there, as etcd shows",
        "broker a 1 takes no part in elections: etcd is empty",
    ]


def test_a_slave_that_is_not_in_sync() -> None:
    """Said of one that should be; not of a learner, nor where no master tells who is in its set."""
    master = {"broker": "a", "broker_id": 0, "role": "master", "epoch": 3, "replication": {"set": [0, 1]}}
    slaves: list[dict[str, Any]] = [
        {"broker": "a", "broker_id": n, "role": "slave", "epoch": 3, "replication": {}} for n in (1, 2)
    ]
    learner = {"broker": "a", "broker_id": 3, "role": "slave", "epoch": 3, "replication": {"learner": True}}
    assert troubles([master, *slaves, learner]) == ["broker a 2 is not in sync"]
    assert troubles(slaves) == []
