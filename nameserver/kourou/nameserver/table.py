"""The route table of a nameserver: pure soft state, made of what brokers say about themselves.

A broker (group name, id) registers over a stream, repeats itself by heartbeats, and tells changes at once. What is known
of it ages:

    heard            -> its master claim and address are shown
    3 s of silence   -> the claim to be master is withdrawn: nobody is sent there to write
    10 s of silence  -> the address is withdrawn too
    stream closed    -> both at once

Queues stay listed when their broker is away (ordered topics hash over the declared list), with no master. Of two masters
of a group the higher epoch is shown; a lower epoch never replaces a higher one. Topic definitions come from the brokers;
where two differ, the later creation wins, and of the same creation the one with more queues.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from kourou.core.advertise import resolve
from kourou.core.route import BrokerRoute, Endpoint, Placement, TopicRoute, TopicType

CLAIM_MS = 3_000
ADDRESS_MS = 10_000
FORGET_MS = 3_600_000

BrokerKey = tuple[str, int]  # group name, broker id


@dataclass(frozen=True, slots=True)
class TopicDefinition:
    name: str
    type: TopicType
    placement: tuple[Placement, ...]
    created_ms: int


@dataclass(frozen=True, slots=True)
class BrokerReport:
    """What a broker says about itself."""

    broker: str
    broker_id: int
    epoch: int
    master: bool
    advertised: str
    port: int
    version: str
    topics: tuple[TopicDefinition, ...]


@dataclass(slots=True)
class _Known:
    report: BrokerReport
    source: str | None
    stream: int
    heard_ms: int
    present: bool = True
    claims: bool = True
    topics: dict[str, TopicDefinition] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class BrokerView:
    report: BrokerReport
    address: Endpoint
    master: bool
    heard_ms_ago: int


class RouteTable:
    """Facts in; ``take_changed`` says which topics, or brokers, look different since the last call."""

    def __init__(self, *, cluster: str, auto_create: bool) -> None:
        self.cluster = cluster
        self.auto_create = auto_create
        self.version = 1
        self._brokers: dict[BrokerKey, _Known] = {}
        self._definitions: dict[str, TopicDefinition] = {}
        self._changed: set[str] = set()
        self._brokers_changed = False

    # ---- facts

    def registered(self, report: BrokerReport, *, source: str | None, stream: int, now_ms: int) -> None:
        """A broker's full report, at the start of a stream and after every change. A newer stream replaces an older."""
        key = (report.broker, report.broker_id)
        old = self._brokers.get(key)
        if old is not None and old.stream > stream and old.present:
            return
        known = _Known(report, source, stream, now_ms, topics={topic.name: topic for topic in report.topics})
        self._brokers[key] = known
        before = old.topics if old is not None else {}
        changed = {name for name in before.keys() | known.topics.keys() if before.get(name) != known.topics.get(name)}
        if old is None or not (old.present and old.claims) or _identity(old.report) != _identity(report):
            self._touch_broker(report.broker)
        self._redefine(changed)

    def heard(self, broker: str, broker_id: int, *, stream: int, now_ms: int) -> None:
        known = self._brokers.get((broker, broker_id))
        if known is None or known.stream != stream:
            return
        known.heard_ms = now_ms
        if not (known.present and known.claims):
            known.present = known.claims = True
            self._touch_broker(broker)

    def closed(self, stream: int, *, now_ms: int) -> None:
        """The stream of a broker has ended."""
        for known in self._brokers.values():
            if known.stream == stream and (known.present or known.claims):
                known.present = known.claims = False
                self._touch_broker(known.report.broker)

    def tick(self, now_ms: int) -> None:
        for key, known in list(self._brokers.items()):
            silent_ms = now_ms - known.heard_ms
            if known.claims and silent_ms >= CLAIM_MS:
                known.claims = False
                self._touch_broker(known.report.broker)
            if known.present and silent_ms >= ADDRESS_MS:
                known.present = False
                self._touch_broker(known.report.broker)
            if silent_ms >= FORGET_MS:
                del self._brokers[key]
                self._redefine(set(known.topics))

    # ---- answers

    def take_changed(self) -> tuple[set[str], bool]:
        """(topics with a different route, whether the list of brokers is different)."""
        changed, self._changed = self._changed, set()
        brokers, self._brokers_changed = self._brokers_changed, False
        return changed, brokers

    def route(self, topic: str, *, dialled: str) -> TopicRoute | None:
        definition = self._definitions.get(topic)
        if definition is None:
            return None
        brokers = []
        for place in sorted(definition.placement, key=lambda p: p.broker):
            master = self._master(place.broker)
            replicas = tuple(
                (known.report.broker_id, self._address(known, dialled))
                for (name, _), known in sorted(self._brokers.items())
                if name == place.broker and known.present and known is not master
            )
            brokers.append(
                BrokerRoute(
                    place.broker,
                    place.queues,
                    master.report.epoch if master is not None else 0,
                    self._address(master, dialled) if master is not None else None,
                    replicas,
                )
            )
        return TopicRoute(topic, definition.type, self.version, tuple(brokers))

    def topics(self) -> list[TopicDefinition]:
        return sorted(self._definitions.values(), key=lambda topic: topic.name)

    def brokers(self, *, dialled: str, now_ms: int) -> list[BrokerView]:
        """All brokers that can be reached, by name and id."""
        return [
            BrokerView(
                known.report, self._address(known, dialled), known is self._master(name), max(0, now_ms - known.heard_ms)
            )
            for (name, _), known in sorted(self._brokers.items())
            if known.present
        ]

    # ---- rules

    def _master(self, broker: str) -> _Known | None:
        claimants = [
            known
            for (name, _), known in self._brokers.items()
            if name == broker and known.report.master and known.claims and known.present
        ]
        return max(claimants, key=lambda known: known.report.epoch, default=None)

    @staticmethod
    def _address(known: _Known, dialled: str) -> Endpoint:
        return resolve(known.report.advertised, port=known.report.port, source=known.source, dialled=dialled)

    def _touch_broker(self, broker: str) -> None:
        self.version += 1
        self._brokers_changed = True
        for definition in self._definitions.values():
            if any(place.broker == broker for place in definition.placement):
                self._changed.add(definition.name)

    def _redefine(self, names: Iterable[str]) -> None:
        for name in names:
            found = [known.topics[name] for known in self._brokers.values() if name in known.topics]
            best = max(found, key=_rank, default=None)
            if best != self._definitions.get(name):
                self.version += 1
                self._changed.add(name)
                if best is None:
                    del self._definitions[name]
                else:
                    self._definitions[name] = best


def _identity(report: BrokerReport) -> tuple[object, ...]:
    return (report.epoch, report.master, report.advertised, report.port)


def _rank(topic: TopicDefinition) -> tuple[int, int, str, tuple[tuple[str, int], ...]]:
    placement = tuple((place.broker, place.queues) for place in topic.placement)
    return topic.created_ms, sum(place.queues for place in topic.placement), topic.type.value, placement
