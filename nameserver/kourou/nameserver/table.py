"""The route table of a nameserver: pure soft state, made of what brokers say about themselves.

A broker (group name, id) registers over a stream, repeats itself by heartbeats, and tells changes at once. What is known
of it ages:

    heard            -> its master claim and address are shown
    3 s of silence   -> the claim to be master is withdrawn: nobody is sent there to write
    10 s of silence  -> the address is withdrawn too
    stream closed    -> both at once

Queues stay listed when their broker is away (ordered topics hash over the declared list), with no master.

Of a group's claims to be master only the highest epoch is believed, and it is remembered while its broker is away: a
former master that comes back first is not shown. It is let go of when the broker that made it says something else (it
came back as a slave, or with an empty disk), or when it is forgotten. Brokers are forgotten after an hour of absence.

Topic definitions come from the brokers; where two differ, the later creation wins, and of the same creation the one with
more queues. Differences other than the time of creation (each broker has its own clock) are reported by ``conflicts``.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from kourou.core.advertise import resolve
from kourou.core.errors import Fenced, LimitExceeded
from kourou.core.route import BrokerRoute, Endpoint, Placement, TopicRoute, TopicType, parse_endpoint

CLAIM_MS = 3_000
ADDRESS_MS = 10_000
FORGET_MS = 3_600_000
DEAD_LETTERS = "%DLQ%"
BROKERS_MAX = 4_096  # remembered at a time

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
    official_port: int = 0  # of the official API; 0: not served
    official_advertised: str = "auto"


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
    group_epoch: int  # the highest that a member of its group claims to lead, by what each said last, here or not


class RouteTable:
    """Facts in; ``take_changed`` says which topics, or brokers, look different since the last call."""

    def __init__(self, *, cluster: str, auto_create: bool) -> None:
        self.cluster = cluster
        self.auto_create = auto_create
        self.version = 1
        self._brokers: dict[BrokerKey, _Known] = {}
        self._groups: dict[str, dict[int, _Known]] = {}  # the same by group, so that a route costs what its groups do
        self._streams: dict[int, _Known] = {}
        self._definitions: dict[str, TopicDefinition] = {}
        self._holders: dict[str, dict[BrokerKey, TopicDefinition]] = {}  # by topic: who says what
        self._placed: dict[str, set[str]] = {}  # by group: topics of ``_definitions`` that have queues there
        self._conflicts: set[str] = set()
        self._changed: set[str] = set()
        self._brokers_changed = False

    # ---- facts

    def registered(self, report: BrokerReport, *, source: str | None, stream: int, now_ms: int) -> None:
        """A broker's full report, at the start of a stream and after every change. A newer stream of a process replaces an
        older one.

        Raises Fenced when the same broker is here with a higher epoch, or was heard of a moment ago at another address (two
        processes claim one identity), LimitExceeded when there are too many brokers. Both change nothing.
        """
        key = (report.broker, report.broker_id)
        old = self._brokers.get(key)
        elsewhere = old is not None and _place(old) != _place_of(report, source)
        if old is not None and old.stream > stream and old.present and not elsewhere:
            return
        if old is not None and old.stream != stream and old.present and old.report.epoch > report.epoch:
            raise Fenced(
                f"broker {report.broker} {report.broker_id} is registered with epoch {old.report.epoch}; "
                f"this one has epoch {report.epoch}"
            )
        if old is not None and old.stream != stream and old.claims and elsewhere:
            raise _taken(old, now_ms)
        if old is None and len(self._brokers) >= BROKERS_MAX:
            raise LimitExceeded(f"{len(self._brokers)} brokers are known; the limit is {BROKERS_MAX}")
        known = _Known(report, source, stream, now_ms, topics={topic.name: topic for topic in report.topics})
        if old is not None and self._streams.get(old.stream) is old:
            del self._streams[old.stream]
        self._streams[stream] = known
        self._brokers[key] = known
        self._groups.setdefault(report.broker, {})[report.broker_id] = known
        if old is None or not (old.present and old.claims) or _identity(old) != _identity(known):
            self._touch_broker(report.broker)
        self._hold(key, old.topics if old is not None else {}, known.topics)

    def heard(self, report: BrokerReport, *, source: str | None, stream: int, now_ms: int) -> None:
        """A sign of life of who has reported this. Raises Fenced when another process has taken its place since, or had."""
        broker = report.broker
        known = self._brokers.get((broker, report.broker_id))
        if known is None:
            raise Fenced(f"broker {broker} {report.broker_id} was forgotten; it has to register anew")
        if self._streams.get(stream) is not known:
            elsewhere = _place(known) != _place_of(report, source)
            if elsewhere and known.claims:
                raise _taken(known, now_ms)
            if elsewhere or not known.present:
                raise Fenced(f"broker {broker} {report.broker_id} was another process; it has to register anew")
            return  # it has a newer stream
        known.heard_ms = now_ms
        if not (known.present and known.claims):
            known.present = known.claims = True
            self._touch_broker(broker)

    def closed(self, stream: int, *, now_ms: int) -> None:
        """The stream of a broker has ended."""
        known = self._streams.pop(stream, None)
        if known is None:
            return
        known.heard_ms = max(known.heard_ms, now_ms)  # an hour from now it is forgotten
        if known.present or known.claims:
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
                self._forget(key, known)

    def _forget(self, key: BrokerKey, known: _Known) -> None:
        broker, broker_id = key
        del self._brokers[key]
        self._streams.pop(known.stream, None)
        del self._groups[broker][broker_id]
        if not self._groups[broker]:
            del self._groups[broker]
        self._touch_broker(broker)  # a master of a lower epoch may be believed now
        self._hold(key, known.topics, {})

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
                (broker_id, self._address(known, dialled))
                for broker_id, known in sorted(self._groups.get(place.broker, {}).items())
                if known.present and known is not master
            )
            brokers.append(
                BrokerRoute(
                    place.broker,
                    place.queues,
                    master.report.epoch if master is not None else 0,
                    self._address(master, dialled) if master is not None else None,
                    replicas,
                    self._official(master, dialled) if master is not None else None,
                )
            )
        return TopicRoute(topic, definition.type, self.version, tuple(brokers))

    @property
    def conflicts(self) -> frozenset[str]:
        """Topics that brokers define differently, by type or placement. Brief ones are normal while a topic is defined
        broker by broker; a lasting one is for an administrator."""
        return frozenset(self._conflicts)

    @property
    def topic_count(self) -> int:
        return len(self._definitions)

    def topics(self) -> list[TopicDefinition]:
        return sorted(self._definitions.values(), key=lambda topic: topic.name)

    def brokers(self, *, dialled: str, now_ms: int) -> list[BrokerView]:
        """All brokers that can be reached, by name and id."""
        return [
            BrokerView(
                known.report,
                self._address(known, dialled),
                known is self._master(name),
                max(0, now_ms - known.heard_ms),
                max((claim.report.epoch for claim in self._claims(name)), default=0),
            )
            for (name, _), known in sorted(self._brokers.items())
            if known.present
        ]

    # ---- rules

    def _master(self, broker: str) -> _Known | None:
        """Who may be written to: the claim of the highest epoch, if its broker is here. Of one epoch there is one master;
        should two claim it all the same, the lower id is shown by every nameserver."""
        best = max(self._claims(broker), key=lambda known: (known.report.epoch, -known.report.broker_id), default=None)
        return best if best is not None and best.claims and best.present else None

    def _claims(self, broker: str) -> list[_Known]:
        return [known for known in self._groups.get(broker, {}).values() if known.report.master]

    @staticmethod
    def _address(known: _Known, dialled: str) -> Endpoint:
        return resolve(known.report.advertised, port=known.report.port, source=known.source, dialled=dialled)

    @staticmethod
    def _official(known: _Known, dialled: str) -> Endpoint | None:
        """Where the official API of a broker is reached: where its data plane is, unless it says otherwise."""
        report = known.report
        if not report.official_port:
            return None
        if report.official_advertised == "auto" and report.advertised != "auto":
            return Endpoint(parse_endpoint(report.advertised, default_port=report.port).host, report.official_port)
        return resolve(report.official_advertised, port=report.official_port, source=known.source, dialled=dialled)

    def _touch_broker(self, broker: str) -> None:
        self.version += 1
        self._brokers_changed = True
        self._changed |= self._placed.get(broker, set())

    def _hold(self, key: BrokerKey, before: dict[str, TopicDefinition], after: dict[str, TopicDefinition]) -> None:
        """One broker's definitions have become others."""
        for name in before.keys() | after.keys():
            definition = after.get(name)
            if before.get(name) == definition:
                continue
            holders = self._holders.setdefault(name, {})
            if definition is None:
                holders.pop(key, None)
            else:
                holders[key] = definition
            if not holders:
                del self._holders[name]
            self._redefine(name, holders.values())

    def _redefine(self, name: str, found: Iterable[TopicDefinition]) -> None:
        found = list(found)
        best = max(found, key=_rank, default=None)
        if best is not None and name.startswith(DEAD_LETTERS) and len(found) > 1:
            best = _united(best, found)  # each broker makes it when it has a dead letter, for itself alone
        elif any((other.type, other.placement) != (best.type, best.placement) for other in found if best is not None):
            self._conflicts.add(name)
        else:
            self._conflicts.discard(name)
        old = self._definitions.get(name)
        if best == old:
            return
        self.version += 1
        self._changed.add(name)
        for place in old.placement if old is not None else ():
            self._placed[place.broker].discard(name)
            if not self._placed[place.broker]:
                del self._placed[place.broker]
        if best is None:
            del self._definitions[name]
            return
        self._definitions[name] = best
        for place in best.placement:
            self._placed.setdefault(place.broker, set()).add(name)


def _united(best: TopicDefinition, found: list[TopicDefinition]) -> TopicDefinition:
    """A topic that each broker defines for itself: the queues of all of them."""
    queues: dict[str, int] = {}
    for definition in found:
        for place in definition.placement:
            queues[place.broker] = max(queues.get(place.broker, 0), place.queues)
    return replace(best, placement=tuple(Placement(broker, count) for broker, count in sorted(queues.items())))


def _place(known: _Known) -> tuple[str | None, str, int]:
    return _place_of(known.report, known.source)


def _place_of(report: BrokerReport, source: str | None) -> tuple[str | None, str, int]:
    return source, report.advertised, report.port


def _taken(known: _Known, now_ms: int) -> Fenced:
    return Fenced(
        f"broker {known.report.broker} {known.report.broker_id} is registered from another address, {known.source}, and was "
        f"heard of {max(0, now_ms - known.heard_ms)} ms ago; it must be silent for {CLAIM_MS} ms before another may be it"
    )


def _identity(known: _Known) -> tuple[object, ...]:
    """What routes are made of: when it differs, watchers are told."""
    report = known.report
    official = (report.official_port, report.official_advertised)
    return (report.epoch, report.master, report.advertised, report.port, report.version, known.source, official)


def _rank(topic: TopicDefinition) -> tuple[int, int, str, tuple[tuple[str, int], ...]]:
    placement = tuple((place.broker, place.queues) for place in topic.placement)
    return topic.created_ms, sum(place.queues for place in topic.placement), topic.type.value, placement
