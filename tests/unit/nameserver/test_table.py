"""The route table: facts in, what askers see out. Time is an argument."""

from __future__ import annotations

import random

import pytest

from kourou.core.clock import ManualClock
from kourou.core.errors import Fenced, LimitExceeded
from kourou.core.route import Endpoint, Placement, TopicType
from kourou.nameserver import table as table_module
from kourou.nameserver.table import ADDRESS_MS, CLAIM_MS, FORGET_MS, BrokerReport, RouteTable, TopicDefinition

DIALLED = "ns:9876"


def topic(
    name: str, *placement: tuple[str, int], created_ms: int = 1, kind: TopicType = TopicType.NORMAL
) -> TopicDefinition:
    return TopicDefinition(name, kind, tuple(Placement(broker, queues) for broker, queues in placement), created_ms)


class Cluster:
    """A table with a clock, and short words for facts."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.table = RouteTable(cluster="kourou", auto_create=False)
        self.said: dict[int, tuple[BrokerReport, str]] = {}  # by stream

    def register(
        self,
        broker: str,
        *topics: TopicDefinition,
        stream: int,
        broker_id: int = 0,
        epoch: int = 1,
        master: bool = True,
        source: str = "10.0.0.5",
        advertised: str = "auto",
    ) -> None:
        report = BrokerReport(broker, broker_id, epoch, master, advertised, 10911, "1", topics)
        self.said[stream] = report, source
        self.table.registered(report, source=source, stream=stream, now_ms=self.now)

    def heard(self, stream: int) -> None:
        report, source = self.said[stream]
        self.table.heard(report, source=source, stream=stream, now_ms=self.now)

    def closed(self, stream: int) -> None:
        self.table.closed(stream, now_ms=self.now)

    def advance(self, ms: int) -> None:
        self.clock.advance(ms)
        self.table.tick(self.now)

    @property
    def now(self) -> int:
        return self.clock.monotonic_ms()

    def masters(self, name: str = "orders") -> dict[str, str | None]:
        route = self.table.route(name, dialled=DIALLED)
        assert route is not None
        return {b.broker: str(b.master) if b.master else None for b in route.brokers}

    def present(self) -> list[tuple[str, int]]:
        views = self.table.brokers(dialled=DIALLED, now_ms=self.now)
        return [(view.report.broker, view.report.broker_id) for view in views]


@pytest.fixture
def cluster() -> Cluster:
    return Cluster()


def test_a_registered_broker_is_in_the_route(cluster: Cluster) -> None:
    cluster.register("b1", topic("orders", ("b1", 4)), stream=1)
    assert cluster.masters() == {"b1": "10.0.0.5:10911"}
    assert cluster.table.take_changed() == ({"orders"}, True)
    assert cluster.table.take_changed() == (set(), False)
    assert cluster.table.route("other", dialled=DIALLED) is None


def test_heartbeats_change_nothing(cluster: Cluster) -> None:
    cluster.register("b1", topic("orders", ("b1", 4)), stream=1)
    cluster.table.take_changed()
    version = cluster.table.version
    for _ in range(100):
        cluster.advance(1_000)
        cluster.heard(stream=1)
    assert cluster.table.take_changed() == (set(), False)
    assert cluster.table.version == version


def test_silence_withdraws_the_claim_and_then_the_address(cluster: Cluster) -> None:
    """At 3 s nobody is sent there to write; it is still listed as a replica until 10 s."""
    cluster.register("b1", topic("orders", ("b1", 4)), stream=1)
    cluster.table.take_changed()
    cluster.advance(CLAIM_MS - 1)
    assert cluster.table.take_changed() == (set(), False)
    cluster.advance(1)
    assert cluster.masters() == {"b1": None}
    assert cluster.table.take_changed() == ({"orders"}, True)
    route = cluster.table.route("orders", dialled=DIALLED)
    assert route is not None
    assert route.brokers[0].replicas == ((0, Endpoint("10.0.0.5", 10911)),)
    cluster.advance(ADDRESS_MS - CLAIM_MS)
    assert cluster.present() == []
    assert cluster.table.take_changed() == ({"orders"}, True)
    cluster.heard(stream=1)
    assert cluster.masters() == {"b1": "10.0.0.5:10911"}
    assert cluster.table.take_changed() == ({"orders"}, True)


def test_a_closed_stream_withdraws_at_once_and_keeps_the_queues(cluster: Cluster) -> None:
    cluster.register("b1", topic("orders", ("b1", 4), ("b2", 4)), stream=1)
    cluster.register("b2", topic("orders", ("b1", 4), ("b2", 4)), stream=2, source="10.0.0.6")
    cluster.table.take_changed()
    cluster.closed(1)
    assert cluster.masters() == {"b1": None, "b2": "10.0.0.6:10911"}
    assert cluster.table.take_changed() == ({"orders"}, True)
    route = cluster.table.route("orders", dialled=DIALLED)
    assert route is not None
    assert len(route.queues) == 8
    with pytest.raises(Fenced):
        cluster.heard(stream=1)  # too late: the stream has ended
    assert cluster.masters()["b1"] is None
    cluster.closed(1)
    cluster.closed(99)
    assert cluster.table.take_changed() == (set(), False)


def test_queues_of_a_group_that_was_never_seen_are_listed(cluster: Cluster) -> None:
    cluster.register("b1", topic("orders", ("b2", 2), ("b1", 2)), stream=1)
    assert cluster.masters() == {"b1": "10.0.0.5:10911", "b2": None}
    cluster.table.take_changed()
    cluster.register("b2", stream=2, source="10.0.0.6")
    assert cluster.table.take_changed() == ({"orders"}, True)
    assert cluster.masters() == {"b1": "10.0.0.5:10911", "b2": "10.0.0.6:10911"}


def test_the_end_of_an_old_stream_does_not_hurt_a_new_one(cluster: Cluster) -> None:
    """A broker reconnects before the nameserver notices that its first connection is dead."""
    cluster.register("b1", topic("orders", ("b1", 4)), stream=1)
    cluster.register("b1", topic("orders", ("b1", 4)), stream=2)
    cluster.table.take_changed()
    cluster.closed(1)
    cluster.heard(stream=1)
    assert cluster.masters() == {"b1": "10.0.0.5:10911"}
    assert cluster.table.take_changed() == (set(), False)
    cluster.register("b1", stream=1)  # what was still in the old stream's pipe
    assert cluster.masters() == {"b1": "10.0.0.5:10911"}


def test_a_broker_that_moves_is_told_of(cluster: Cluster) -> None:
    """Another source address changes what `auto` means, although the report is the same."""
    cluster.register("b1", topic("orders", ("b1", 4)), stream=1)
    cluster.closed(1)
    cluster.table.take_changed()
    cluster.register("b1", topic("orders", ("b1", 4)), stream=2, source="10.0.0.9")
    assert cluster.table.take_changed() == ({"orders"}, True)
    assert cluster.masters() == {"b1": "10.0.0.9:10911"}


def test_the_highest_epoch_is_the_master(cluster: Cluster) -> None:
    cluster.register("b1", topic("orders", ("b1", 4)), stream=1, broker_id=0, epoch=5)
    cluster.register("b1", stream=2, broker_id=1, epoch=6, source="10.0.0.6")
    assert cluster.masters() == {"b1": "10.0.0.6:10911"}
    route = cluster.table.route("orders", dialled=DIALLED)
    assert route is not None
    assert (route.brokers[0].epoch, route.brokers[0].replicas) == (6, ((0, Endpoint("10.0.0.5", 10911)),))


def test_a_lower_epoch_never_replaces_a_higher_one(cluster: Cluster) -> None:
    """The master of epoch 6 dies; the one of epoch 5 comes back first and still believes in itself."""
    cluster.register("b1", topic("orders", ("b1", 4)), stream=1, broker_id=0, epoch=5)
    cluster.closed(1)
    cluster.register("b1", stream=2, broker_id=1, epoch=6, source="10.0.0.6")
    cluster.closed(2)
    cluster.register("b1", topic("orders", ("b1", 4)), stream=3, broker_id=0, epoch=5)
    assert cluster.masters() == {"b1": None}
    cluster.advance(CLAIM_MS - 1)
    cluster.heard(stream=3)
    assert cluster.masters() == {"b1": None}
    cluster.register("b1", stream=4, broker_id=1, epoch=6, master=False, source="10.0.0.6")  # it came back as a slave
    assert cluster.masters() == {"b1": "10.0.0.5:10911"}


def test_a_claim_to_be_master_is_told_of_while_its_broker_is_away(cluster: Cluster) -> None:
    """Who is promoted meanwhile has to begin a higher epoch."""
    cluster.register("b1", stream=1, broker_id=1, epoch=6)
    cluster.closed(1)
    cluster.register("b1", stream=2, broker_id=0, epoch=5)
    cluster.register("b2", stream=3, epoch=9)
    views = cluster.table.brokers(dialled=DIALLED, now_ms=0)
    assert [(view.report.broker, view.report.epoch, view.group_epoch) for view in views] == [("b1", 5, 6), ("b2", 9, 9)]


def test_a_remembered_epoch_is_forgotten_with_its_broker(cluster: Cluster) -> None:
    cluster.register("b1", stream=1, broker_id=1, epoch=6)
    cluster.closed(1)
    cluster.register("b1", topic("orders", ("b1", 4)), stream=2, broker_id=0, epoch=5)
    for _ in range(FORGET_MS // 1_000 - 1):
        cluster.advance(1_000)
        cluster.heard(stream=2)
    assert cluster.masters() == {"b1": None}
    cluster.table.take_changed()
    cluster.advance(1_000)
    assert cluster.masters() == {"b1": "10.0.0.5:10911"}
    assert cluster.table.take_changed() == ({"orders"}, True)


def test_a_broker_with_an_empty_disk_may_start_anew(cluster: Cluster) -> None:
    """Its epochs begin again. Refused while the old process is here; let in when it is gone."""
    cluster.register("b1", topic("orders", ("b1", 4)), stream=1, epoch=7)
    with pytest.raises(Fenced, match="epoch 7"):
        cluster.register("b1", stream=2, epoch=1, source="10.0.0.9")
    assert cluster.masters() == {"b1": "10.0.0.5:10911"}
    cluster.closed(2)  # the refused stream was never one of ours
    assert cluster.masters() == {"b1": "10.0.0.5:10911"}
    cluster.closed(1)
    cluster.register("b1", topic("orders", ("b1", 4)), stream=3, epoch=1, source="10.0.0.9")
    assert cluster.masters() == {"b1": "10.0.0.9:10911"}


@pytest.mark.parametrize("epoch", [7, 8])
def test_two_processes_of_one_id(cluster: Cluster, epoch: int) -> None:
    """The one that is heard of stays; the other one gets in when that has been silent for as long as its claim holds."""
    cluster.register("b1", topic("orders", ("b1", 4)), stream=1, epoch=7)
    with pytest.raises(Fenced, match=r"another address, 10\.0\.0\.5"):
        cluster.register("b1", stream=2, epoch=epoch, source="10.0.0.9")
    assert cluster.masters() == {"b1": "10.0.0.5:10911"}
    cluster.register("b1", topic("orders", ("b1", 4)), stream=3, epoch=7)  # the first one's next stream
    cluster.advance(CLAIM_MS)
    cluster.register("b1", topic("orders", ("b1", 4)), stream=4, epoch=epoch, source="10.0.0.9")
    assert cluster.masters() == {"b1": "10.0.0.9:10911"}
    with pytest.raises(Fenced, match=r"another address, 10\.0\.0\.9"):  # the first one was only frozen
        cluster.heard(stream=3)
    assert cluster.masters() == {"b1": "10.0.0.9:10911"}
    cluster.advance(CLAIM_MS)  # now the second one is silent
    with pytest.raises(Fenced, match="has to register anew"):
        cluster.heard(stream=3)
    cluster.closed(4)
    with pytest.raises(Fenced, match="has to register anew"):
        cluster.heard(stream=3)
    assert cluster.masters() == {"b1": None}
    cluster.register("b1", topic("orders", ("b1", 4)), stream=5, epoch=epoch)
    assert cluster.masters() == {"b1": "10.0.0.5:10911"}


def test_one_that_was_forgotten_is_told_when_it_is_heard_of(cluster: Cluster) -> None:
    cluster.register("b1", topic("orders", ("b1", 4)), stream=1)
    cluster.advance(FORGET_MS)
    with pytest.raises(Fenced, match="was forgotten"):
        cluster.heard(stream=1)


def test_the_stream_that_was_opened_first_reports_second(cluster: Cluster) -> None:
    """Of another process it is refused, of the same one it is old news."""
    cluster.register("b1", topic("orders", ("b1", 4)), stream=5, epoch=1)
    with pytest.raises(Fenced, match=r"another address, 10\.0\.0\.5"):
        cluster.register("b1", stream=4, epoch=1, source="10.0.0.9")
    cluster.register("b1", stream=3, epoch=1)
    cluster.heard(stream=3)
    assert cluster.masters() == {"b1": "10.0.0.5:10911"}


def test_two_masters_of_one_epoch_are_shown_alike_by_all(cluster: Cluster) -> None:
    other = Cluster()
    for who, order in ((cluster, (0, 1)), (other, (1, 0))):
        for stream, number in enumerate(order, 1):
            who.register("b1", topic("orders", ("b1", 1)), stream=stream, broker_id=number, source=f"10.0.0.{number}")
    assert cluster.masters() == other.masters() == {"b1": "10.0.0.0:10911"}


def test_a_slave_is_no_master(cluster: Cluster) -> None:
    cluster.register("b1", topic("orders", ("b1", 4)), stream=1, broker_id=1, master=False, epoch=9)
    assert cluster.masters() == {"b1": None}
    assert cluster.present() == [("b1", 1)]


def test_topics_come_and_go_with_reports(cluster: Cluster) -> None:
    cluster.register("b1", topic("orders", ("b1", 4)), stream=1)
    cluster.table.take_changed()
    cluster.register("b1", topic("orders", ("b1", 4)), topic("bills", ("b1", 1)), stream=1)
    assert cluster.table.take_changed() == ({"bills"}, False)
    cluster.register("b1", topic("bills", ("b1", 1)), stream=1)
    assert cluster.table.take_changed() == ({"orders"}, False)
    assert [t.name for t in cluster.table.topics()] == ["bills"]
    assert cluster.table.topic_count == 1


def test_conflicting_definitions_have_one_winner_whatever_the_order() -> None:
    """The later creation wins; then more queues; nameservers that hear brokers in another order agree."""
    rng = random.Random(7)
    kinds = (TopicType.NORMAL, TopicType.FIFO)
    for _ in range(200):
        definitions = [
            topic("orders", (f"b{n}", rng.randint(1, 3)), created_ms=rng.randint(1, 2), kind=rng.choice(kinds))
            for n in range(4)
        ]
        seen = set()
        for _ in range(4):
            cluster = Cluster()
            order = list(range(4))
            rng.shuffle(order)
            for stream, n in enumerate(order, 1):
                cluster.register(f"b{n}", definitions[n], stream=stream)
            seen.add(cluster.table.topics()[0])
            assert cluster.table.conflicts == {"orders"}
        (winner,) = seen
        assert winner.created_ms == max(d.created_ms for d in definitions)


def test_conflicts_are_reported_until_settled(cluster: Cluster) -> None:
    same = (("b1", 2), ("b2", 2))
    cluster.register("b1", topic("orders", *same, created_ms=10), stream=1)
    cluster.register("b2", topic("orders", *same, created_ms=11), stream=2)
    assert cluster.table.conflicts == frozenset()  # each broker has its own clock
    cluster.register("b2", topic("orders", ("b1", 2), ("b2", 3), created_ms=12), stream=2)
    assert cluster.table.conflicts == {"orders"}
    route = cluster.table.route("orders", dialled=DIALLED)
    assert route is not None
    assert len(route.queues) == 5
    cluster.register("b1", topic("orders", ("b1", 2), ("b2", 3), created_ms=13), stream=1)
    assert cluster.table.conflicts == frozenset()


def test_an_absent_broker_is_forgotten_with_its_topics(cluster: Cluster) -> None:
    cluster.register("b1", topic("orders", ("b1", 4)), stream=1)
    cluster.closed(1)
    cluster.advance(FORGET_MS - 1)
    assert cluster.masters() == {"b1": None}
    cluster.advance(1)
    assert cluster.table.route("orders", dialled=DIALLED) is None
    assert cluster.table.conflicts == frozenset()
    assert not any((cluster.table._brokers, cluster.table._groups, cluster.table._streams, cluster.table._holders))
    assert not cluster.table._placed


def test_versions_rise_with_every_change(cluster: Cluster) -> None:
    versions = [cluster.table.version]

    def rose() -> bool:
        versions.append(cluster.table.version)
        return versions[-1] > versions[-2]

    cluster.register("b1", topic("orders", ("b1", 4)), stream=1)
    assert rose()
    cluster.register("b1", topic("orders", ("b1", 5)), stream=1)
    assert rose()
    cluster.advance(CLAIM_MS)
    assert rose()
    cluster.heard(stream=1)
    assert rose()
    cluster.closed(1)
    assert rose()


def test_too_many_brokers_are_refused(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table_module, "BROKERS_MAX", 2)
    cluster.register("b1", stream=1)
    cluster.register("b2", stream=2)
    with pytest.raises(LimitExceeded, match="the limit is 2"):
        cluster.register("b3", stream=3)
    cluster.register("b2", topic("orders", ("b2", 1)), stream=2)
    assert cluster.present() == [("b1", 0), ("b2", 0)]


def test_the_table_agrees_with_a_plain_model() -> None:
    """Random facts; the indexes inside must say what a search through everything would."""
    rng = random.Random(11)
    cluster = Cluster()
    stream = 0
    streams: dict[tuple[str, int], int] = {}
    epochs: dict[tuple[str, int], int] = {}
    for _ in range(3_000):
        key = (f"b{rng.randint(0, 3)}", rng.randint(0, 1))
        action = rng.random()
        if action < 0.35:
            if key not in streams:
                stream += 1
                streams[key] = stream
                epochs[key] = rng.randint(1, 5)
            names = rng.sample(["t0", "t1", "t2"], rng.randint(0, 3))
            held = [topic(n, (f"b{rng.randint(0, 3)}", rng.randint(1, 2)), created_ms=rng.randint(1, 3)) for n in names]
            cluster.register(key[0], *held, stream=streams[key], broker_id=key[1], epoch=epochs[key])
        elif action < 0.6:
            if key in streams:
                cluster.heard(streams[key])
        elif action < 0.75:
            if key in streams:
                cluster.closed(streams.pop(key))
        else:
            cluster.advance(rng.choice((100, 1_000, 2_500, 9_000)))
        table = cluster.table
        said: dict[str, list[TopicDefinition]] = {}
        for known in table._brokers.values():
            for definition in known.topics.values():
                said.setdefault(definition.name, []).append(definition)
        assert {t.name: t for t in table.topics()} == {n: max(f, key=table_module._rank) for n, f in said.items()}
        placed = {(p.broker, t.name) for t in table.topics() for p in t.placement}
        assert {(broker, name) for broker, names in table._placed.items() for name in names} == placed
        for view in table.brokers(dialled=DIALLED, now_ms=cluster.now):
            if view.master:
                rivals = [k.report.epoch for (b, _), k in table._brokers.items() if b == view.report.broker]
                assert view.report.epoch == max(rivals)
