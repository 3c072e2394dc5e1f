"""What an operator does about more than the promise covers: accepts a loss, empties a directory that halts, brings the
group back when etcd has lost its data. Full runs only."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kourou.broker.machines.coordination import Put, Txn
from kourou.broker.machines.electionstate import Operation
from tests.sim.electing import KEYS
from tests.sim.host import Host

if TYPE_CHECKING:
    from tests.sim.world import World

PATIENCE_MS = 4_000


class Repairs:
    def __init__(self, world: World) -> None:
        self._world = world
        self._asked_ms = 0
        self._halts_ms: int | None = None
        self.accepted: set[int] = set()  # epochs that began with a loss which the operator knew of
        self.accepting = False  # now
        self.founder: int | None = None  # who brings the group back into etcd, while that is under way
        self.founded = 0

    @property
    def rebuilding(self) -> bool:
        return self.founder is not None

    def watch(self, without_master_ms: int) -> None:
        world = self._world
        self._empty_halted()
        if world.etcd_lost:
            self._refound()
        elif world.settings.accepts_loss and without_master_ms > PATIENCE_MS + 2_000:
            self._accept_loss()

    # ---- a loss is accepted

    def best(self) -> Host | None:
        """Of those that answer, who goes furthest."""
        world = self._world
        answering = [h for h in world.hosts if h.answers and h.process is not None and h.process.complete]
        sound = [host for host in answering if not host.disk.fail_syncs and host.known_end > 0]
        return max(sound, key=place, default=None)

    def _accept_loss(self) -> None:
        world, now_ms = self._world, self._world.timeline.now_ms
        chosen = self.best()
        if chosen is None or now_ms - self._asked_ms < PATIENCE_MS:
            return
        self._asked_ms = now_ms
        assert chosen.process is not None
        if world.settings.failover:
            wish = Operation("elect", chosen.replica, f"{now_ms}")
            world.etcd.write(Txn((), (Put(KEYS.op, wish.encode()),)))
            world.saw("operator: elects, accepting a loss")
        elif chosen.process.following is not None and world.operator.above() >= world.latest_term():
            world.saw("operator: promotes, accepting a loss")
            world.note(chosen.replica, "is promoted, whatever it lacks")
            self.accepting = True
            world.operator.promote(chosen)
            self.accepting = False
            if chosen.process is not None and chosen.process.leading is not None:
                self.accepted.add(chosen.process.leading.epoch)

    def _empty_halted(self) -> None:
        """A slave that would have to cut what it was promised, beside a master that began with a loss."""
        world = self._world
        for host in world.hosts:
            following = host.process.following if host.process is not None else None
            if following is not None and following.halted is not None and world.truth.rewinds:
                world.saw("operator: empties a directory")
                world.note(host.replica, "is emptied by the operator")
                host.wipe()
                world.lost.add(host.replica)
                world.operator.restart(host, 100)

    # ---- etcd has lost its data

    def may_start(self, host: Host) -> bool:
        """While the group is brought back: the one that has most first, the others when it leads."""
        return not self._world.etcd_lost or (self.rebuilding and host.replica in (self.founder, *self._led()))

    def _led(self) -> tuple[int, ...]:
        state = self._world.group_state()
        return (0, 1, 2) if state is not None and state.master is not None else ()

    def _refound(self) -> None:
        world, now_ms = self._world, self._world.timeline.now_ms
        if self.rebuilding:
            if self._led():
                world.etcd_lost, self.founder, self._halts_ms = False, None, None
                world.saw("operator: the group is back in etcd")
            return
        if self._halts_ms is None:
            self._halts_ms = now_ms
        if now_ms - self._halts_ms < 3_000:
            return
        if world.etcd.away:
            return
        for host in world.hosts:  # whoever has not stopped by itself
            if host.process is not None:
                world.saw("operator: stops a member that goes on without etcd")
                host.finish()
        members = [host for host in world.hosts if host.replica in world.last_sets and host.replica not in world.lost]
        chosen = max(members or world.hosts, key=lambda host: (host.epochs[-1][0] if host.epochs else 0, host.known_end))
        self.founder = chosen.replica
        self.founded += 1
        world.operator.restart(chosen, 0)
        for host in world.hosts:
            if host is not chosen:
                world.operator.restart(host, 300)


def place(host: Host) -> tuple[int, int]:
    """What ``kourou admin promote`` compares: the log, not what was heard of."""
    assert host.process is not None
    return host.process.store.epoch, host.process.store.end_offset
