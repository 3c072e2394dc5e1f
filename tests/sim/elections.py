"""Three brokers of a group with real electors and real replication machines, and an etcd that may do anything it can do.

One seed is one run; virtual time in milliseconds. Nodes are killed, lose power, are wiped, paused, cut off from each other
and from etcd; clocks drift. Requests to etcd are late, lost, done without an answer; reads are old, events late or double.
A log is a list of frames (epoch, number), ten bytes each.
"""

from __future__ import annotations

import heapq
import json
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from kourou.broker.machines.coordination import Put, Txn
from kourou.broker.machines.electedmaster import ElectedMaster, SetWanted
from kourou.broker.machines.election import (
    AskPledges,
    Candidate,
    Decided,
    Drain,
    ElectionOptions,
    Follow,
    Halt,
    Lead,
    Left,
    Look,
    Position,
    Resume,
    StepDown,
    StopFollowing,
    Transact,
    Wait,
)
from kourou.broker.machines.electionstate import GroupState, Keys, Lease, Replica, lease_of, state_of
from kourou.broker.machines.elector import Elector
from kourou.broker.machines.replication import (
    Ack,
    Append,
    Batch,
    Close,
    Confirmed,
    CopyNeeded,
    Hello,
    LogFacts,
    Member,
    Ping,
    Ready,
    Refused,
    Send,
    SendFrames,
    StaleMaster,
    Truncate,
    Welcome,
)
from kourou.broker.machines.replication import Halt as SlaveHalt
from kourou.broker.machines.replication import StepDown as Outdated
from kourou.broker.machines.replicationslave import Phase, ReplicationSlave
from tests.sim.coordination import Truth

SIZE = 10
KEYS = Keys("c", "g")
CALL_MS = 400


class Broken(AssertionError):
    """An invariant does not hold."""


@dataclass
class Node:
    replica: int
    disk: str
    rate: float  # of its clock
    frames: list[tuple[int, int]] = field(default_factory=list)
    flushed: int = 0
    epoch: int = 0
    confirm: int = 0
    promised: int = 0
    known: set[str] = field(default_factory=set)
    up: bool = False
    life: int = 0  # events of an earlier process are dropped
    paused_until: float = 0.0
    spoiled: bool = False  # it lacks what it had, and the group does not know yet
    elector: Elector | None = None
    master: ElectedMaster | None = None
    slave: ReplicationSlave | None = None
    role: Follow | None = None  # what the elector last said
    follows: Follow | None = None
    link: int = -1
    draining: bool = False
    stopping: bool = False  # it leaves in good order

    @property
    def end(self) -> int:
        return len(self.frames) * SIZE

    @property
    def place(self) -> Position:
        return Position(self.frames[-1][0] if self.frames else 0, self.end)

    def facts(self) -> LogFacts:
        pairs: list[tuple[int, int]] = []
        for number, (epoch, _) in enumerate(self.frames):
            if not pairs or pairs[-1][0] != epoch:
                pairs.append((epoch, number * SIZE))
        return LogFacts(tuple(pairs), 0, self.end, self.flushed)


class World:
    def __init__(self, seed: int, *, options: ElectionOptions, drift: float = 0.01) -> None:
        self.rng = random.Random(seed)
        self.options = options
        self.now = 0.0
        self.truth = Truth()
        self.events = 0
        self.trace: list[str] = []
        self.nodes = [Node(r, f"disk-{r}", 1 + self.rng.uniform(-drift, drift)) for r in range(3)]
        self.cut: set[tuple[int, int]] = set()  # (from, to): nothing gets through
        self.etcd_cut: set[int] = set()
        self.etcd_down = False
        self.loss = 0.0
        self.slow = 0.0
        self.links: dict[int, tuple[int, int]] = {}
        self.links_made = 0
        self.disks = 3
        self.written = 0
        self.masters: dict[int, int] = {}
        self.confirmed: dict[int, tuple[int, int]] = {}
        self.takeovers = 0
        self.by_time = 0
        self.lossy = 0
        self.highest = 0
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0
        self._streams: dict[tuple[int, int], deque[object]] = {}
        self._last_arrival: dict[tuple[int, int], float] = {}
        for node in self.nodes:
            self.start(node)

    # ---- time

    def at(self, delay: float, action: Callable[[], None]) -> None:
        self._count += 1
        heapq.heappush(self._heap, (self.now + delay, self._count, action))

    def on(self, node: Node, delay: float, action: Callable[[], None]) -> None:
        """At a node's process: later while it is paused, never when it has died."""
        life = node.life

        def run() -> None:
            if node.life != life or not node.up:
                return
            if node.paused_until > self.now:
                self.at(node.paused_until - self.now + self.rng.random(), run)
                return
            action()
            self.perform(node)

        self.at(delay, run)

    def run(self, until: float) -> None:
        while self._heap and self._heap[0][0] <= until:
            self.now, _, action = heapq.heappop(self._heap)
            self.events += 1
            action()
            self.check()
        self.now = until

    def clock(self, node: Node) -> int:
        return int(1_000_000 * (node.replica + 1) + self.now * node.rate)

    def say(self, node: Node | None, text: str) -> None:
        self.trace.append(f"{self.now:9.1f} {'-' if node is None else node.replica} {text}")

    # ---- processes

    def start(self, node: Node, *, cold: bool = False) -> None:
        node.up, node.life = True, node.life + 1
        node.paused_until = 0.0
        nonce = f"n{node.replica}-{node.life}"
        log = node.place
        me = Candidate(node.replica, node.disk, nonce, frozenset(node.known), f"h{node.replica}:1", cold, log)
        node.known.add(nonce)
        node.master = node.slave = node.follows = node.role = None
        node.draining = node.stopping = False
        node.elector = Elector(me, KEYS, self.options, rng=self.rng)
        self.say(node, f"starts, cold {cold}, log {log}")
        self.on(node, 0, lambda: None)
        self.on(node, 1, lambda: self.beat(node))

    def die(self, node: Node, how: str) -> None:
        self.say(node, how)
        node.up, node.life = False, node.life + 1
        node.master = node.slave = node.elector = node.follows = None
        for number, (slave, master) in list(self.links.items()):
            if node.replica in (slave, master):
                self.unlink(number, refused=how in ("kill", "stop"))

    def kill(self, node: Node) -> None:
        self.die(node, "kill")

    def power(self, node: Node) -> None:
        self.die(node, "power")
        keep = self.rng.randint(node.flushed // SIZE, len(node.frames))
        if keep < len(node.frames):
            node.spoiled = True
        del node.frames[keep:]

    def wipe(self, node: Node) -> None:
        self.die(node, "wipe")
        node.frames, node.flushed, node.confirm, node.promised, node.epoch, node.known = [], 0, 0, 0, 0, set()
        node.disk, self.disks, node.spoiled = f"disk-{self.disks}", self.disks + 1, True

    def beat(self, node: Node) -> None:
        """A tick of everything in a process; and what its clients and its disk do."""
        elector, now = node.elector, self.clock(node)
        assert elector is not None
        elector.tick(now_ms=now)
        self.perform(node)
        if not node.up:
            return
        if node.master is not None:
            node.master.tick(now_ms=now)
            master = node.master
            room = master.end - master.confirm < 60 * SIZE and not master.short and not node.draining
            if room and elector.leads(self.clock(node)) and master.serving and self.rng.random() < 0.5:
                self.written += 1
                node.frames.append((master.epoch, self.written))
                master.appended(node.end)
            master.leads_again()
        if node.slave is not None:
            node.slave.tick(now_ms=now)
            self.dial(node)
        if self.rng.random() < 0.1:
            node.flushed = node.end
        self.perform(node)
        self.on(node, 20 + self.rng.random() * 5, lambda: self.beat(node))

    # ---- replication links

    def hears(self, a: int, b: int) -> bool:
        return (a, b) not in self.cut and (b, a) not in self.cut

    def dial(self, node: Node) -> None:
        follows, slave = node.follows, node.slave
        if follows is None or slave is None or slave.phase is not Phase.IDLE:
            return
        target = self.nodes[follows.master]
        if not target.up or not self.hears(node.replica, target.replica) or target.paused_until > self.now:
            refused = not target.up and self.hears(node.replica, target.replica) and not target.spoiled
            if refused and node.elector is not None and self.rng.random() < 0.2:
                node.elector.master_refuses(follows.epoch, now_ms=self.clock(node))
            return
        self.links_made += 1
        node.link = self.links_made
        self.links[node.link] = (node.replica, target.replica)
        slave.dialled(node.link, node.facts(), now_ms=self.clock(node))

    def unlink(self, number: int, *, refused: bool = False) -> None:
        found = self.links.pop(number, None)
        if found is None:
            return
        slave, master = self.nodes[found[0]], self.nodes[found[1]]
        epoch = slave.follows.epoch if slave.follows is not None else 0

        def slave_lost() -> None:
            if slave.slave is not None:
                slave.slave.lost(number)
                if refused and slave.elector is not None and self.hears(*found):
                    slave.elector.master_refuses(epoch, now_ms=self.clock(slave))

        def master_lost() -> None:
            if master.master is not None:
                master.master.lost(number)
                if refused and self.hears(*found):
                    master.master.gone(slave.replica)

        self.on(slave, 1 + self.rng.random() * 40, slave_lost)
        self.on(master, 1 + self.rng.random() * 40, master_lost)

    def post(self, number: int, sender: Node, message: object) -> None:
        """In order, on a link."""
        found = self.links.get(number)
        if found is None:
            return
        target = self.nodes[found[1] if sender.replica == found[0] else found[0]]
        key = (number, sender.replica)
        waiting = self._streams.setdefault(key, deque())
        waiting.append(message)
        arrival = max(self.now + 0.3 + self.rng.random() * 2, self._last_arrival.get(key, 0.0) + 0.001)
        self._last_arrival[key] = arrival

        def deliver() -> None:
            if self.links.get(number) != found:
                self._streams.pop(key, None)
            elif (sender.replica, target.replica) in self.cut:
                self.on(target, 50, deliver)  # held up; the link dies of silence if that lasts
            else:
                self.arrive(number, target, waiting.popleft())

        self.on(target, arrival - self.now, deliver)

    def arrive(self, number: int, node: Node, message: object) -> None:
        now, master, slave = self.clock(node), node.master, node.slave
        is_master = self.links[number][1] == node.replica
        if is_master and master is None:
            if isinstance(message, Hello):
                self.unlink(number)
            return
        match message:
            case Hello() if master is not None:
                master.hello(number, message, now_ms=now)
            case Ready() if master is not None:
                master.ready(number, message, now_ms=now)
            case Ack() if master is not None:
                master.acked(number, message, now_ms=now)
            case Ping() if is_master and master is not None:
                master.pinged(number, message, now_ms=now)
            case Ping() if slave is not None:
                slave.pinged(number, message, now_ms=now)
            case Welcome() if slave is not None:
                slave.welcomed(number, message, now_ms=now)
            case CopyNeeded() | StaleMaster() | Refused():
                self.unlink(number)
            case (Batch() as batch, list() as frames) if slave is not None:
                slave.batch(number, batch, now_ms=now)
                self.slave_effects(node, frames)

    # ---- etcd

    def reaches_etcd(self, node: Node) -> bool:
        return not self.etcd_down and node.replica not in self.etcd_cut and self.rng.random() >= self.loss

    def call(self, node: Node, work: Callable[[], Any], answer: Callable[[Any], None]) -> None:
        """One request: done or not, answered or not, in time or not."""
        finished = False

        def finish(result: Any) -> None:
            nonlocal finished
            if not finished:
                finished = True
                answer(result)

        def arrive() -> None:
            result = work() if self.reaches_etcd(node) else None
            if result is not None and self.reaches_etcd(node):
                self.on(node, self.latency(), lambda: finish(result))

        self.at(self.latency(), arrive)
        self.on(node, CALL_MS / node.rate, lambda: finish(None))

    def latency(self) -> float:
        return self.rng.choice((300.0, 700.0, 2_000.0)) if self.rng.random() < self.slow else 0.5 + self.rng.random() * 4

    def transact(self, node: Node, effect: Transact) -> None:
        elector = node.elector
        assert elector is not None
        seen_ms, pledged_ms = elector.view.lease_seen_ms, elector.readiness.pledged_ms
        reason = elector.campaign.reason if elector.campaign is not None else ""

        def work() -> Any:
            before = self.group()
            at = len(self.truth.written)
            outcome = self.truth.transact(effect.txn)
            if outcome.succeeded:
                self.committed(node, effect.txn, before, (seen_ms, pledged_ms, reason))
            for value in self.truth.written[at:]:
                self.tell(value)
            return outcome

        def done(outcome: Any) -> None:
            elector.done(effect.number, outcome, now_ms=self.clock(node))

        self.call(node, work, done)

    def tell(self, value: Any) -> None:
        for node in self.nodes:
            if node.up and self.reaches_etcd(node) and self.rng.random() > 0.01:
                for _ in range(2 if self.rng.random() < 0.05 else 1):
                    self.on(node, self.latency(), lambda node=node: self.event(node, value))  # type: ignore[misc]

    def event(self, node: Node, value: Any) -> None:
        if node.elector is not None:
            node.elector.changed((value,), now_ms=self.clock(node))

    def look(self, node: Node, number: int) -> None:
        elector = node.elector
        assert elector is not None
        back = self.rng.randint(1, 20) if self.rng.random() < 0.1 else 0
        self.call(
            node,
            lambda: self.truth.read(KEYS.prefix, back=back),
            lambda p: elector.looked(number, p, now_ms=self.clock(node)),
        )

    def group(self) -> GroupState | None:
        value = self.truth.values.get(KEYS.state)
        return None if value is None or value.value is None else state_of(value.value)

    def lease(self) -> Lease | None:
        value = self.truth.values.get(KEYS.lease)
        return None if value is None or value.value is None else lease_of(value.value)

    def committed(self, node: Node, txn: Txn, before: GroupState | None, seen: tuple[int, int, str]) -> None:
        """A transaction was done: what must hold for it?"""
        after = self.group()
        if after is None:
            return
        for write in txn.writes:
            if isinstance(write, Put) and write.key == KEYS.replica(node.replica):
                node.spoiled = False
        if before is not None and after.epoch < before.epoch:
            raise Broken("the epoch fell")
        if before is not None and after.epoch > before.epoch:
            self.takeovers += 1
            seen_ms, pledged_ms, reason = seen
            self.say(node, f"takes over epoch {after.epoch}: {reason}; sss {after.sss} elr {after.elr}")
            if after.epoch != before.epoch + 1 or after.master != node.replica:
                raise Broken("a takeover is not by one")
            lossy = after.epoch in after.lossy
            if not lossy and node.replica not in (*before.sss, *before.elr):
                raise Broken(f"{node.replica} was neither in {before.sss} nor in {before.elr}")
            if reason.startswith("the lease was not renewed"):
                self.by_time += 1
                if self.clock(node) - seen_ms < self.options.lease_ms:
                    raise Broken(f"took over {self.clock(node) - seen_ms} ms after it saw the lease")
                if self.clock(node) < pledged_ms:
                    raise Broken("it had pledged not to")
            if lossy:
                self.lossy += 1
                self.confirmed = {p: f for p, f in self.confirmed.items() if p < len(node.frames) and node.frames[p] == f}
                whole = 0
                while whole in self.confirmed:
                    whole += 1
                self.confirmed = {p: f for p, f in self.confirmed.items() if p < whole}

    # ---- effects

    def perform(self, node: Node) -> None:
        busy = True
        while busy and node.up:
            busy = self.elector_effects(node) | self.master_effects(node) | self.slave_effects(node)

    def elector_effects(self, node: Node) -> bool:
        elector = node.elector
        effects = elector.take_effects() if elector is not None else []
        for effect in effects:
            self.elector_effect(node, effect)
        return bool(effects)

    def elector_effect(self, node: Node, effect: Any) -> None:
        elector, now = node.elector, self.clock(node)
        assert elector is not None
        match effect:
            case Transact():
                self.transact(node, effect)
            case Look(number):
                self.look(node, number)
            case StopFollowing():
                node.role = node.follows = None
                if node.slave is not None:
                    self.note_slave(node)
                    if node.link in self.links:
                        self.unlink(node.link)
                    node.slave = None
                self.on(node, self.rng.random() * 10, lambda: elector.quiet(node.place, now_ms=self.clock(node)))
            case Lead():
                self.lead(node, effect)
            case StepDown(reason):
                self.say(node, f"steps down: {reason}")
                if node.master is not None:
                    node.confirm = max(node.confirm, node.master.confirm)
                    node.promised = max(node.promised, node.master.confirm)
                for number, (_, master) in list(self.links.items()):
                    if master == node.replica:
                        self.unlink(number)
                node.master, node.draining = None, False
            case Follow():
                self.say(node, f"follows {effect.master} of {effect.epoch}")
                node.role = effect
                self.on(node, self.rng.random() * 30, lambda: self.follow(node, effect))
            case Wait():
                node.role = node.follows = None
            case Decided(epoch, sss, elr):
                if node.master is not None and node.master.epoch == epoch:
                    node.master.decided(sss, elr, now_ms=now)
            case Drain(to):
                node.draining = True
                self.on(node, 10, lambda: self.drained(node, to, self.now + 1_000))
            case Resume():
                node.draining = False
            case AskPledges(epoch, replicas):
                for replica in replicas:
                    self.ask(node, self.nodes[replica], epoch, now)
            case Left():
                if node.stopping:
                    self.on(node, 0, lambda: self.die(node, "stop"))
            case Halt(reason):
                raise Broken(f"{node.replica} halts: {reason}")

    def ask(self, node: Node, other: Node, epoch: int, asked_ms: int) -> None:
        if not self.hears(node.replica, other.replica):
            return

        def there() -> None:
            if other.elector is not None and other.elector.asked_to_pledge(epoch, now_ms=self.clock(other)):
                self.on(node, 1, answered)

        def answered() -> None:
            if node.elector is not None and self.hears(node.replica, other.replica):
                node.elector.pledged(epoch, other.replica, asked_ms=asked_ms)

        self.on(other, 1, there)

    def drained(self, node: Node, to: int | None, limit: float) -> None:
        master, elector = node.master, node.elector
        if master is None or elector is None or not node.draining:
            return
        has = {s.member.replica: s.appended for s in master.sessions() if s.streaming}
        done = master.confirm == master.end and (to is None or has.get(to) == master.end)
        if done or self.now > limit:
            elector.drained(done, now_ms=self.clock(node))
        else:
            self.on(node, 10, lambda: self.drained(node, to, limit))

    def lead(self, node: Node, effect: Lead) -> None:
        elector = node.elector
        assert elector is not None
        if self.masters.setdefault(effect.epoch, node.replica) != node.replica:
            raise Broken(f"epoch {effect.epoch} has two masters")
        if not effect.lossy:
            for place, frame in self.confirmed.items():
                if place >= len(node.frames) or node.frames[place] != frame:
                    raise Broken(f"master {node.replica} of epoch {effect.epoch} lacks the confirmed frame at {place}")
        node.frames.append((effect.epoch, 0))
        node.flushed = max(node.flushed, SIZE)
        node.slave = node.follows = node.role = None
        node.draining = False
        node.master = ElectedMaster(
            self.member(node), node.facts(), sss=effect.sss, elr=effect.elr, storages=effect.storages,
            leads=lambda: elector.leads(self.clock(node)), now_ms=self.clock(node), epoch=effect.epoch,
            confirm=min(node.confirm, node.end), ack_all=True, min_isr=self.options.min_isr, sync_flush=False,
            lag_ms_max=1_000, window_bytes=200, batch_bytes=60, join_gap_bytes=80,
        )  # fmt: skip

    def member(self, node: Node) -> Member:
        assert node.elector is not None
        me = node.elector.me
        return Member("c", "g", node.replica, Replica(me.storage, me.nonce, me.address).incarnation)

    def follow(self, node: Node, effect: Follow) -> None:
        if node.role is not effect or node.master is not None or node.elector is None:
            return
        if any(epoch > (node.frames[-1][0] if node.frames else 0) for epoch in effect.lossy):
            node.promised = node.confirm = 0
        if node.slave is not None and node.link in self.links:
            self.note_slave(node)
            self.unlink(node.link)
        node.follows = effect
        node.slave = ReplicationSlave(
            self.member(node), rng=self.rng, end=node.end, flushed=min(node.flushed, node.end), epoch=max(node.epoch, 0),
            confirm=min(node.confirm, node.end), promised=min(node.promised, node.end),
        )  # fmt: skip

    def note_slave(self, node: Node) -> None:
        if node.slave is not None:
            node.epoch, node.confirm, node.promised = node.slave.epoch, node.slave.confirm, node.slave.promised

    def master_effects(self, node: Node) -> bool:
        effects: list[Any] = list(node.master.take_effects()) if node.master is not None else []
        for effect in effects:
            master, elector = node.master, node.elector
            if master is None or elector is None:
                break
            match effect:
                case Send(link, message):
                    self.post(link, node, message)
                case SendFrames(link, session, start, bytes_max):
                    if link in self.links and master.current(link, session):
                        frames = node.frames[start // SIZE : (start + max(SIZE, bytes_max)) // SIZE]
                        end = start + len(frames) * SIZE
                        self.post(link, node, (Batch(session, master.epoch, start, end, master.confirm), frames))
                        master.sent(link, session, end)
                case Confirmed(offset):
                    self.note_confirmed(node, master, offset)
                case Close(link, _):
                    self.unlink(link)
                case SetWanted(members, incarnations, _):
                    elector.set_wanted(master.epoch, members, incarnations, now_ms=self.clock(node))
                case Outdated(epoch, reason):
                    elector.outdated(epoch, reason, now_ms=self.clock(node))
        return bool(effects)

    def slave_effects(self, node: Node, frames: list[tuple[int, int]] | None = None) -> bool:
        effects = node.slave.take_effects() if node.slave is not None else []
        for effect in effects:
            slave = node.slave
            if slave is None:
                break
            match effect:
                case Send(link, message):
                    self.post(link, node, message)
                case Append(batch):
                    assert frames is not None
                    node.frames += frames
                    slave.appended(batch)
                    self.slave_effects(node)
                case Close(link, _):
                    self.unlink(link)
                case Truncate(offset, _):
                    if offset < node.promised and not node.spoiled:
                        raise Broken("a promise is cut")
                    self.note_slave(node)
                    del node.frames[offset // SIZE :]
                    node.flushed, node.confirm = min(node.flushed, offset), min(node.confirm, offset)
                    self.unlink(node.link)
                    if node.follows is not None:
                        self.follow(node, node.follows)
                    break
                case SlaveHalt(reason):
                    raise Broken(f"{node.replica}: {reason}")
        self.note_slave(node)
        return bool(effects)

    # ---- invariants

    def note_confirmed(self, node: Node, master: ElectedMaster, offset: int) -> None:
        """Confirmed: every replica that may become master has it, unless it lost something and has not said so yet."""
        if node.elector is None or not node.elector.leads(self.clock(node)):
            raise Broken("C moved without a lease")
        node.confirm = offset
        state = self.group()
        assert state is not None
        prefix = node.frames[: offset // SIZE]
        if state.epoch == master.epoch:
            if not set(state.sss) <= {node.replica, *master.members}:
                raise Broken(f"etcd has {state.sss}, in effect are {sorted(master.members)}")
            for replica in (*state.sss, *state.elr):
                other = self.nodes[replica]
                if not other.spoiled and other.frames[: offset // SIZE] != prefix:
                    raise Broken(f"C is {offset}; {replica} is in {state.sss} or {state.elr} and lacks something")
        for place in range(len(self.confirmed), len(prefix)):
            self.confirmed[place] = prefix[place]
        for place, frame in enumerate(prefix):
            if self.confirmed.get(place, frame) != frame:
                raise Broken(f"frame {place} was confirmed twice")

    def check(self) -> None:
        leading = [n for n in self.nodes if n.up and n.elector is not None and n.elector.leads(self.clock(n))]
        if len(leading) > 1:
            raise Broken(f"{[n.replica for n in leading]} lead at once")

    # ---- the end

    def heal(self) -> None:
        """No more faults: soon there is one master, everybody is in sync, and writing goes on."""
        self.cut.clear()
        self.etcd_cut.clear()
        self.etcd_down, self.loss, self.slow = False, 0.0, 0.0
        for node in self.nodes:
            node.paused_until = min(node.paused_until, self.now)
            if not node.up:
                self.start(node, cold=node.spoiled)
        self.run(self.now + 15_000)
        state = self.group()
        if state is not None and not state.sss and not state.elr and not state.cold:
            return  # every disk that had the data was wiped: an operator's business
        before = len(self.confirmed)
        self.run(self.now + 3_000)
        leading = [n for n in self.nodes if n.elector is not None and n.elector.leads(self.clock(n))]
        state = self.group()
        if len(leading) != 1 or state is None or state.sss != (0, 1, 2):
            phases = [None if n.elector is None else n.elector.phase.value for n in self.nodes]
            raise Broken(f"not healed: {phases}, {state}, {self.lease()}")
        if len(self.confirmed) <= before:
            raise Broken("nothing is confirmed any more")

    def describe(self) -> str:
        values = {k: json.loads(v.value) for k, v in self.truth.values.items() if v.value is not None}
        return "\n".join([*self.trace[-60:], json.dumps(values, indent=1)])
