"""Three members of a broker group on a virtual network: the machines drive logs that are lists; one seed is one run.

A frame is ten bytes: (epoch, number). The network keeps the order of a link, delays it, and loses links. Members are
killed (their log stays), lose power (what was not flushed may go), and come back as slaves. A new master is named, as an
operator would, only when the old one is down, and only among those who are known to have everything.
"""

from __future__ import annotations

import random
from collections import deque
from dataclasses import dataclass, field

from kourou.broker.machines.history import next_epoch
from kourou.broker.machines.replication import (
    Ack,
    Append,
    Batch,
    Close,
    Confirmed,
    CopyNeeded,
    Halt,
    Hello,
    LogFacts,
    Member,
    Ping,
    Ready,
    Send,
    SendFrames,
    StepDown,
    Truncate,
    Welcome,
)
from kourou.broker.machines.replicationmaster import ReplicationMaster
from kourou.broker.machines.replicationslave import Phase, ReplicationSlave

SIZE = 10
LAG_MS = 1_000


@dataclass
class Node:
    replica: int
    frames: list[tuple[int, int]] = field(default_factory=list)
    flushed: int = 0
    epoch: int = 0  # the highest heard of; kept on disk
    confirm: int = 0
    promised: int = 0
    up: bool = True
    master: ReplicationMaster | None = None
    slave: ReplicationSlave | None = None
    link: int = -1  # to its master
    at_hand: Batch | None = None

    @property
    def end(self) -> int:
        return len(self.frames) * SIZE

    def facts(self) -> LogFacts:
        pairs: list[tuple[int, int]] = []
        for number, (epoch, _) in enumerate(self.frames):
            if not pairs or pairs[-1][0] != epoch:
                pairs.append((epoch, number * SIZE))
        return LogFacts(tuple(pairs), 0, self.end, self.flushed)


@dataclass
class Link:
    """Messages under way, each way in order."""

    slave: int
    master: int
    up: deque[object] = field(default_factory=deque)  # to the master
    down: deque[object] = field(default_factory=deque)


class World:
    def __init__(self, seed: int, *, sync_flush: bool, min_isr: int) -> None:
        self.rng = random.Random(seed)
        self.now_ms = 0
        self.sync_flush = sync_flush
        self.min_isr = min_isr
        self.nodes = [Node(replica) for replica in range(3)]
        self.links: dict[int, Link] = {}
        self.numbers = 0
        self.written = 0
        self.named = 0  # who is master by the operator's word
        self.confirmed: dict[int, tuple[int, int]] = {}  # place -> frame, once some C was above it
        self.confirm_of_term: dict[int, int] = {}
        self.eligible: set[int] = set()  # the last master's set, and who left it when it was at its least
        for node in self.nodes:
            self.start(node, promoted=False)

    @property
    def confirmed_count(self) -> int:
        return len(self.confirmed)

    # ---- members

    def me(self, node: Node) -> Member:
        return Member("c", "g", node.replica, f"disk-{node.replica}")

    def start(self, node: Node, *, promoted: bool) -> None:
        node.up, node.at_hand, node.link = True, None, -1
        node.master = node.slave = None
        if node.replica == self.named:
            self.lead(node, promoted=promoted)
        else:
            self.follow(node)

    def lead(self, node: Node, *, promoted: bool) -> None:
        latest = max(node.epoch, node.frames[-1][0] if node.frames else 0)
        epoch = next_epoch(latest, replica=node.replica, promoted=promoted)
        if node.slave is not None:
            node.slave.promoted(epoch)
            self.slave_effects(node)
            node.slave = None
        node.epoch = epoch
        node.frames.append((epoch, 0))
        node.flushed = max(node.flushed, SIZE)  # a disk that forgets its very first frame is another disk
        node.master = ReplicationMaster(
            self.me(node), node.facts(), epoch=epoch, confirm=node.confirm, ack_all=True, min_isr=self.min_isr,
            sync_flush=self.sync_flush, lag_ms_max=LAG_MS, window_bytes=100, batch_bytes=40, join_gap_bytes=50,
        )  # fmt: skip
        for place, frame in self.confirmed.items():
            assert node.frames[place] == frame, f"master {node.replica} of epoch {epoch} lacks a confirmed frame"
        self.master_effects(node)

    def follow(self, node: Node) -> None:
        node.slave = ReplicationSlave(
            self.me(node), rng=self.rng, end=node.end, flushed=node.flushed, epoch=node.epoch, confirm=node.confirm,
            promised=node.promised,
        )  # fmt: skip

    def down(self, node: Node, *, power: bool) -> None:
        for number in [n for n, link in self.links.items() if node.replica in (link.slave, link.master)]:
            self.cut(number)
        node.up = False
        node.master = node.slave = None
        if power and self.sync_flush:
            keep = self.rng.randint(node.flushed // SIZE, len(node.frames))
            del node.frames[keep:]

    def promote(self) -> None:
        """The named master is down: name another one that has everything that was ever confirmed."""
        old = self.nodes[self.named]
        assert not old.up
        able = [n for n in self.nodes if n.up and n.replica in self.eligible]
        if able:
            node = self.rng.choice(able)
            self.named = node.replica
            self.lead(node, promoted=True)

    # ---- one event

    def step(self) -> None:
        self.now_ms += self.rng.choice((0, 1, 1, 5, 20))
        roll = self.rng.random()
        if roll < 0.62:
            self.deliver()
        elif roll < 0.78:
            self.write()
        elif roll < 0.84:
            self.flush()
        elif roll < 0.92:
            self.dial()
        elif roll < 0.95:
            self.now_ms += self.rng.choice((50, 260, 1_200))
        elif roll < 0.97 and self.links:
            self.cut(self.rng.choice(list(self.links)))
        elif roll < 0.985:
            self.crash()
        else:
            self.restart()
        self.tick()

    def crash(self) -> None:
        up = [node for node in self.nodes if node.up]
        if len(up) > 1:
            node = self.rng.choice(up)
            self.down(node, power=self.rng.random() < 0.5)
            if self.rng.random() < 0.5:
                master = self.nodes[self.named].master
                if master is not None:
                    master.gone(node.replica)
                    self.master_effects(self.nodes[self.named])

    def restart(self) -> None:
        away = [node for node in self.nodes if not node.up]
        if not self.nodes[self.named].up and self.rng.random() < 0.6:
            self.promote()
        elif away:
            self.start(self.rng.choice(away), promoted=False)

    def write(self) -> None:
        node = self.nodes[self.named]
        if node.master is not None and node.master.serving and not node.master.short:
            for _ in range(self.rng.randint(1, 6)):
                self.written += 1
                node.frames.append((node.epoch, self.written))
            node.master.appended(node.end)
            self.master_effects(node)

    def flush(self) -> None:
        node = self.rng.choice(self.nodes)
        if node.up:
            node.flushed = node.end
            if node.master is not None:
                node.master.synced(node.end)
                self.master_effects(node)
            elif node.slave is not None and node.slave.end == node.end:
                node.slave.synced(node.end)
                self.slave_effects(node)

    def dial(self) -> None:
        for node in self.nodes:
            target = self.nodes[self.named]
            if node.up and node.slave is not None and node.slave.phase is Phase.IDLE and target.up:
                if node.link in self.links:
                    self.cut(node.link)
                self.numbers += 1
                node.link = self.numbers
                self.links[node.link] = Link(node.replica, target.replica)
                node.slave.dialled(node.link, node.facts(), now_ms=self.now_ms)
                self.slave_effects(node)

    def tick(self) -> None:
        for node in self.nodes:
            if node.master is not None:
                node.master.tick(now_ms=self.now_ms)
                self.master_effects(node)
            if node.slave is not None:
                node.slave.tick(now_ms=self.now_ms)
                self.slave_effects(node)

    def cut(self, number: int) -> None:
        link = self.links.pop(number, None)
        if link is None:
            return
        master, slave = self.nodes[link.master], self.nodes[link.slave]
        if master.master is not None:
            master.master.lost(number)
            self.master_effects(master)
        if slave.slave is not None:
            slave.slave.lost(number)
            self.slave_effects(slave)

    def deliver(self) -> None:
        ways = [(n, way) for n, link in self.links.items() for way in (link.up, link.down) if way]
        if not ways:
            return
        number, way = self.rng.choice(ways)
        link, message = self.links[number], way.popleft()
        if way is link.up:
            self.to_master(number, self.nodes[link.master], message)
        else:
            self.to_slave(number, self.nodes[link.slave], message)

    def to_master(self, number: int, node: Node, message: object) -> None:
        master = node.master
        if master is None:
            return
        match message:
            case Hello():
                master.hello(number, message, now_ms=self.now_ms)
            case Ready():
                master.ready(number, message, now_ms=self.now_ms)
            case Ack():
                master.acked(number, message, now_ms=self.now_ms)
            case Ping():
                master.pinged(number, message, now_ms=self.now_ms)
        self.master_effects(node)

    def to_slave(self, number: int, node: Node, message: object) -> None:
        slave = node.slave
        if slave is None:
            return
        match message:
            case Welcome():
                slave.welcomed(number, message, now_ms=self.now_ms)
            case CopyNeeded():
                raise AssertionError("nothing is ever deleted here")
            case Ping():
                slave.pinged(number, message, now_ms=self.now_ms)
            case (Batch() as batch, list() as frames):
                node.at_hand = batch
                slave.batch(number, batch, now_ms=self.now_ms)
                self.slave_effects(node, frames)
                return
        self.slave_effects(node)

    # ---- effects

    def master_effects(self, node: Node) -> None:
        while node.master is not None and (effects := node.master.take_effects()):
            for effect in effects:
                match effect:
                    case Send(link, message):
                        if link in self.links:
                            self.links[link].down.append(message)
                    case SendFrames(link, session, start, bytes_max):
                        if link in self.links and node.master.current(link, session):
                            frames = node.frames[start // SIZE : (start + max(SIZE, bytes_max)) // SIZE]
                            end = start + len(frames) * SIZE
                            batch = Batch(session, node.epoch, start, end, node.master.confirm)
                            self.links[link].down.append((batch, frames))
                            node.master.sent(link, session, end)
                    case Confirmed(offset):
                        self.note_confirmed(node, offset)
                    case Close(link, _):
                        self.cut(link)
                    case StepDown(epoch, _):
                        raise AssertionError(f"the named master was told of epoch {epoch}")
        if node.master is not None:
            self.eligible = {node.replica, *node.master.members, *node.master.eligible}

    def slave_effects(self, node: Node, frames: list[tuple[int, int]] | None = None) -> None:
        while node.slave is not None and (effects := node.slave.take_effects()):
            for effect in effects:
                match effect:
                    case Send(link, message):
                        if link in self.links:
                            self.links[link].up.append(message)
                    case Append(batch):
                        assert frames is not None
                        node.frames += frames
                        node.slave.appended(batch)
                    case Close(link, _):
                        self.cut(link)
                    case Truncate(offset, _):
                        assert offset >= node.promised
                        del node.frames[offset // SIZE :]
                        node.flushed = min(node.flushed, offset)
                        self.cut(node.link)
                        self.follow(node)
                        return
                    case Halt(reason):
                        raise AssertionError(reason)
            if node.slave is not None:
                node.epoch, node.confirm = node.slave.epoch, node.slave.confirm
                node.promised = node.slave.promised

    # ---- invariants

    def note_confirmed(self, node: Node, offset: int) -> None:
        assert node.master is not None
        assert offset >= self.confirm_of_term.get(node.epoch, 0)
        self.confirm_of_term[node.epoch] = offset
        node.confirm = offset
        holders = set()
        for other in self.nodes:
            durable = other.flushed if self.sync_flush else other.end
            if durable >= offset and other.frames[: offset // SIZE] == node.frames[: offset // SIZE]:
                holders.add(other.replica)
        assert holders >= {node.replica, *node.master.members}, f"C {offset} is beyond a member: {holders} have it"
        assert len(holders) >= self.min_isr
        for place in range(offset // SIZE):
            assert self.confirmed.setdefault(place, node.frames[place]) == node.frames[place]

    def check(self) -> None:
        for node in self.nodes:
            epochs = [epoch for epoch, _ in node.frames]
            assert epochs == sorted(epochs)
            assert node.slave is None or node.slave.promised <= node.end
            for other in self.nodes:
                low, high = sorted((node.frames, other.frames), key=len)
                same = max((n for n in range(len(low)) if low[n] == high[n]), default=-1)
                assert low[: same + 1] == high[: same + 1], "two logs share a frame and differ before it"

    def heal(self) -> None:
        """No more faults: within ten seconds all have the master's log, and it is confirmed."""
        if not self.nodes[self.named].up:
            self.start(self.nodes[self.named], promoted=False)
        for node in self.nodes:
            if not node.up:
                self.start(node, promoted=False)
        for _ in range(200):
            self.now_ms += 50
            self.dial()
            while any(link.up or link.down for link in self.links.values()):
                self.deliver()
            for _ in range(6):
                self.flush()
            self.tick()
        self.check()
        master = self.nodes[self.named]
        assert master.master is not None
        assert master.master.set_members() == (0, 1, 2)
        assert all(node.frames == master.frames for node in self.nodes)
        if not self.sync_flush:
            assert master.master.confirm == master.end
