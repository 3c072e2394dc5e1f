"""Faults as planned by the settings, each within what the design promises to survive.

A fault that takes data away (a disk, or a page cache that counts) is left out when no other host has all that is confirmed.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from kourou.broker.machines.coordination import Put, Txn
from kourou.broker.machines.electionstate import Operation
from kourou.broker.store import fullcopy
from kourou.broker.store.epochs import NAME as EPOCHS
from tests.sim import settings
from tests.sim.electing import KEYS
from tests.sim.host import Host
from tests.sim.network import CLIENTS
from tests.sim.settings import Fault

BASE_BYTES = 2_000
TERM_MS = 3_000

if TYPE_CHECKING:
    from tests.sim.world import World


class Faults:
    def __init__(self, world: World, faults: tuple[Fault, ...]) -> None:
        self._world = world
        self._faults = faults
        self._undo: dict[int, Callable[[], None]] = {}
        self._number = 0
        self._healed = False
        self.done: list[Fault] = []

    def plan(self) -> None:
        for fault in self._faults:
            self._world.timeline.after_ms(fault.at_ms, partial(self._happen, fault))

    def heal(self) -> None:
        """No more faults; everything that lasts is over."""
        self._healed = True
        for number in list(self._undo):
            self._undo.pop(number)()
        for host in self._world.hosts:
            host.disk.steps_left = None
            if host.process is None:
                self._world.operator.restart(host, 0)

    def _happen(self, fault: Fault) -> None:
        host = self._target(fault.whom)
        if self._healed or host is None:
            return
        undo = self._do(fault, host)
        if undo is None:
            return
        self.done.append(fault)
        self._world.note(host.replica, f"FAULT {fault.kind} for {fault.lasts_ms} ms, {fault.amount}")
        self._number += 1
        self._undo[self._number] = undo
        self._world.timeline.after_ms(fault.lasts_ms, partial(self._over, self._number))

    def _over(self, number: int) -> None:
        undo = self._undo.pop(number, None)
        if undo is not None:
            undo()

    def _target(self, whom: int) -> Host | None:
        hosts = self._world.hosts
        if whom >= 0:
            return hosts[whom]
        leads = [host for host in hosts if host.process is not None and host.process.leading is not None]
        if not leads:
            return None
        master = max(leads, key=lambda host: host.process.epoch if host.process is not None else 0)
        return master if whom == settings.MASTER else hosts[(master.replica + 1 + self._world.random.randrange(2)) % 3]

    def _may_lose(self, host: Host) -> bool:
        world = self._world
        others = [h for h in world.hosts if h is not host and h.replica not in world.lost and world.truth.is_in(h)]
        if not world.settings.ack_all:  # the tail may go; not all of it
            others = [h for h in world.hosts if h is not host and h.replica not in world.lost and self._has_base(h)]
        if world.settings.failover:
            state = world.group_state()
            states = [] if state is None else [state, *world.etcd.states_under_way()]  # that one leaves may be under way
            return any(states and all(h.replica in (*s.sss, *s.elr) for s in states) for h in others)
        if host.replica == world.operator.named:  # and nobody else has met its epoch: static mode can't go on without it
            others = [other for other in others if world.operator.knows_epoch(other)]
        return bool(others)

    def _has_base(self, host: Host) -> bool:
        """Enough of a log that a group can go on with it."""
        synced = host.process.store.synced_offset if host.process is not None else host.synced
        whole = host.process.complete if host.process is not None else fullcopy.NAME not in host.disk.names
        return synced > BASE_BYTES and whole

    def _do(self, fault: Fault, host: Host) -> Callable[[], None] | None:
        """What ends it; None when it did not happen."""
        world = self._world
        network, operator = world.network, world.operator
        others = [other.replica for other in world.hosts if other is not host]
        match fault.kind:
            case settings.KILL if host.process is not None:
                host.stop(tell=True)
                operator.restart(host, fault.lasts_ms)
                return _nothing
            case settings.KILL_ALL:
                for one in world.hosts:
                    one.stop(tell=True)
                    operator.restart(one, fault.lasts_ms // (1 + one.replica))
                return _nothing
            case settings.POWER if host.powered:
                return self._power(fault, host)
            case settings.WIPE if self._may_lose(host):
                host.stop(tell=True)
                host.wipe()
                world.lost.add(host.replica)
                operator.restart(host, fault.lasts_ms)
                return _nothing
            case settings.RESET:
                for link in network.of(host.replica):
                    network.reset(link)
                return _nothing
            case settings.ISOLATE | settings.ONE_WAY | settings.CLIENTS_AWAY | settings.PAUSE if self._two_lead():
                return None  # nothing else tells the wrong one of two masters
            case settings.PAUSE if host.answers:
                host.pause()
                return partial(self._go_on, host, host.lives)
            case settings.ISOLATE:
                ways = [(host.replica, other) for other in (*others, CLIENTS)]
                return self._cut([*ways, *((b, a) for a, b in ways)])
            case settings.ONE_WAY:
                other = (host.replica + fault.amount) % 3
                return self._cut([(host.replica, other)])
            case settings.CLIENTS_AWAY:
                return self._cut([(host.replica, CLIENTS)])
            case settings.SLOW:
                network.slow_ms[host.replica] = fault.amount
                return partial(self._fast_again, host)
            case settings.DISK_FAILS if host.process is not None:
                if not world.settings.sync_flush:
                    if not self._may_lose(host):
                        return None
                    world.lost.add(host.replica)
                    host.cold = True
                host.disk.fail_syncs = True
                return partial(setattr, host.disk, "fail_syncs", False)
            case settings.DISK_FULL:
                host.disk.write_limit = world.random.choice((0, 100, 1000))
                return partial(setattr, host.disk, "write_limit", None)
            case settings.CRASH if host.process is not None:
                host.disk.steps_left = fault.amount
                operator.restart(host, fault.lasts_ms)
                return _nothing
            case settings.ETCD_AWAY:
                world.etcd.away += 1
                return self._etcd_back
            case settings.WIPE_ANY if any(self._may_go_on(h) for h in world.hosts if h is not host):
                host.stop(tell=True)
                host.wipe()
                world.lost.add(host.replica)
                operator.restart(host, fault.lasts_ms)
                return _nothing
            case settings.POWER_ALL if all(self._may_go_on(h) for h in world.hosts):
                for one in world.hosts:
                    if not world.settings.sync_flush:
                        world.lost.add(one.replica)
                        one.cold = True
                    one.lose_power()
                    operator.restart(one, fault.lasts_ms // (1 + one.replica))
                return _nothing
            case settings.TERM if host.answers:
                return self._terminate(fault, host)
            case settings.EPOCHS:
                host.stop(tell=True)
                host.disk.delete(EPOCHS)
                operator.restart(host, fault.lasts_ms)
                return _nothing
            case settings.BIT_ROT if host.process is not None and not world.any_rot():
                return self._rot(fault, host)
            case settings.FOREIGN if world.bad_inputs.stranger(host, fault.amount):
                return _nothing
            case settings.REPLAY if world.bad_inputs.replay(host, fault.amount):
                return _nothing
            case settings.SWITCHOVER if not world.etcd.away and not world.etcd_lost:
                wish = Operation("switchover", fault.amount % 3, f"{fault.at_ms}")
                world.etcd.write(Txn((), (Put(KEYS.op, wish.encode()),)))
                return _nothing
            case settings.ETCD_LOST if self._etcd_may_go():
                state = world.group_state()
                assert state is not None
                world.last_sets = (*state.sss, *state.elr)
                world.etcd_lost = True
                world.etcd.truth.lose()
                return _nothing
            case settings.TWIN if self._twin_may_be(host):
                operator.promote(host)
                return _nothing
            case settings.WALL:
                host.clock.jump_wall(fault.amount)
                world.truth.folded.clocks_jump = True
                return _nothing
        return None

    def _power(self, fault: Fault, host: Host) -> Callable[[], None] | None:
        world = self._world
        if not world.settings.sync_flush:
            if not self._may_lose(host):
                return None
            world.lost.add(host.replica)
            host.cold = True
        host.lose_power()
        world.operator.restart(host, fault.lasts_ms)
        return _nothing

    def _may_go_on(self, host: Host) -> bool:
        world = self._world
        if host.replica in world.lost or not self._has_base(host) or host.process is None:
            return False
        if world.settings.failover:
            return True
        return host.process.epoch >= world.latest_term()

    def _terminate(self, fault: Fault, host: Host) -> Callable[[], None] | None:
        process = host.process
        assert process is not None
        if process.electing is None:
            host.finish()
        else:
            host.run(process.electing.leave)
            host.later(TERM_MS, host.finish)
        self._world.operator.restart(host, fault.lasts_ms + (0 if process.electing is None else TERM_MS))
        return _nothing

    def _rot(self, fault: Fault, host: Host) -> Callable[[], None] | None:
        """Somewhere in a sealed segment, or in the index of one. Indexes are made anew, segments mend by themselves."""
        names = sorted(name for name in host.disk.names if name.startswith("log/") and name.endswith((".seg", ".idx")))
        last = max((name for name in names if name.endswith(".seg")), default="")
        wanted = ".idx" if fault.amount % 2 else ".seg"
        names = [name for name in names if name.endswith(wanted) and name != last and len(host.disk.names[name].written)]
        if not names:
            return None
        name = names[fault.amount // 2 % len(names)]
        node = host.disk.names[name]
        at = fault.amount * 7919 % len(node.written)
        self._world.saw(f"bit rot: in {'an index' if wanted == '.idx' else 'a segment'}")
        if wanted == ".idx":
            host.disk.flip(name, at)
            return _nothing
        host.decay(node, at)
        return host.make_whole

    def _etcd_may_go(self) -> bool:
        """Once a run, when there is a master, and nobody is away."""
        world = self._world
        state = world.group_state()
        well = state is not None and state.master is not None and not world.etcd_lost and not world.operator.repairs.founded
        return well and not world.lost and all(host.process is not None for host in world.hosts)

    def _twin_may_be(self, host: Host) -> bool:
        """A slave in sync with the master that leads now is promoted although that is there, and all hear of one another."""
        world, following = self._world, host.process.following if host.process is not None else None
        calm = not world.network.cut_anywhere and not world.network.slow_ms and all(h.answers for h in world.hosts)
        if not calm or following is None or not following.machine.in_sync or self._two_lead():
            return False
        leads = [h.process.leading for h in world.hosts if h.process is not None and h.process.leading is not None]
        # else it was in sync with another one, or is not any more, and may lack what is confirmed
        return bool(leads) and all(
            term.epoch == following.machine.epoch and host.replica in term.machine.members for term in leads
        )

    def _two_lead(self) -> bool:
        leads = [h for h in self._world.hosts if h.process is not None and h.process.leading is not None]
        return self._world.settings.full and not self._world.settings.failover and len(leads) > 1

    def _fast_again(self, host: Host) -> None:
        self._world.network.slow_ms.pop(host.replica, None)

    def _etcd_back(self) -> None:
        self._world.etcd.away -= 1

    def _go_on(self, host: Host, lives: int) -> None:
        if host.lives == lives:
            host.go_on()

    def _cut(self, ways: list[tuple[int, int]]) -> Callable[[], None]:
        network = self._world.network
        for source, target in ways:
            network.cut(source, target)

        def mend() -> None:
            for source, target in ways:
                network.mend(source, target)

        return mend


def _nothing() -> None:
    return None
