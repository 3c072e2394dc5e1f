"""What is around a broker group in static mode: nameservers that forget, and an operator who restarts and promotes.

The operator keeps to the rules of ``kourou admin promote``: only when the master is gone, only a slave that says it is in
sync, and of those that answer the one whose log goes furthest. A master that lost its page cache, or its disk, is started
again only when another one leads. The operator does nothing while more hosts are away than the promise allows for.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from kourou.broker.store.standing import MASTER, NONE
from tests.sim.electing import Electing
from tests.sim.host import Host
from tests.sim.network import CLIENTS
from tests.sim.repairs import Repairs, place

if TYPE_CHECKING:
    from tests.sim.process import Process
    from tests.sim.world import World

BEAT_MS = 250
EXPIRE_MS = 3_000
WATCH_MS = 150


@dataclass(slots=True)
class Claim:
    epoch: int
    leads: bool
    heard_ms: int


class Directory:
    """The nameservers, as one."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._claims: dict[int, Claim] = {}

    def beat(self) -> None:
        for host in self._world.hosts:
            self.register(host)
        self._world.timeline.after_ms(BEAT_MS, self.beat)

    def register(self, host: Host) -> None:
        if not host.answers or host.process is None:
            return
        epoch, leads = host.process.epoch, host.process.leading is not None
        self._world.network.carry(host.replica, CLIENTS, partial(self._heard, host.replica, epoch, leads))

    def _heard(self, replica: int, epoch: int, leads: bool) -> None:
        now_ms = self._world.timeline.now_ms
        self._claims[replica] = Claim(epoch, leads, now_ms)
        if leads:
            for host in self._world.hosts:
                if host.replica != replica:
                    self._world.network.carry(CLIENTS, host.replica, partial(self._tell, host, epoch))

    def _tell(self, host: Host, epoch: int) -> None:
        def told() -> None:
            if host.process is not None and host.process.leading is not None:
                host.process.leading.heard_of(epoch)

        host.run(told)

    def alive(self) -> dict[int, Claim]:
        now_ms = self._world.timeline.now_ms
        return {replica: claim for replica, claim in self._claims.items() if now_ms - claim.heard_ms < EXPIRE_MS}

    def master(self) -> int | None:
        leads = [(claim.epoch, replica) for replica, claim in self.alive().items() if claim.leads]
        return max(leads)[1] if leads else None

    def higher(self, replica: int, epoch: int) -> bool:
        return any(claim.epoch > epoch for other, claim in self.alive().items() if other != replica)


class Operator:
    def __init__(self, world: World) -> None:
        self._world = world
        self.named = 0  # the master, by the operator's word
        self.careful = False  # nothing is started or promoted that is not needed
        self._start_at: dict[int, int] = {}
        self._gone_since_ms: int | None = None
        self._patience_ms = 500
        self.repairs = Repairs(world)
        self._led_ms = 0

    # ---- processes

    def ended(self, host: Host) -> None:
        self._start_at.setdefault(host.replica, self._world.timeline.now_ms + 200)

    def restart(self, host: Host, after_ms: int) -> None:
        self._start_at[host.replica] = self._world.timeline.now_ms + after_ms

    def start(self, host: Host) -> None:
        host.powered = True
        self._start_at.pop(host.replica, None)
        if not host.start():
            self.restart(host, 300)
            return
        host.run(partial(self._take_role, host))

    def _take_role(self, host: Host) -> None:
        process = host.process
        assert process is not None
        if self._world.settings.failover:
            process.follow()
            found = self.repairs.founder == host.replica
            process.electing = Electing(process, self._world.etcd, found=found)
        elif process.wants_to_lead() and not self._world.directory.higher(host.replica, process.epoch):
            process.lead(promoted=False)
            self.named = host.replica
        else:
            process.follow()
        self._world.directory.register(host)

    def _may_start(self, host: Host) -> bool:
        """A former master only beside the one that was named since, a master that lost something never."""
        if self._world.settings.failover:
            return self.repairs.may_start(host)
        role = host.noted_role()
        leads = role == MASTER or (role == NONE and host.replica == 0)
        if not leads or (host.replica == self.named and host.replica not in self._world.lost):
            return True
        return self._world.directory.master() == self.named != host.replica

    # ---- the group

    def watch(self) -> None:
        world = self._world
        now_ms = world.timeline.now_ms
        for host in world.hosts:
            if host.process is None and self._start_at.get(host.replica, now_ms) <= now_ms and self._may_start(host):
                self.start(host)
        leads = [h for h in world.hosts if h.process is not None and h.process.leading is not None]
        if world.settings.full:
            self._repair(bool(leads))
        if leads or world.settings.failover:
            self._gone_since_ms = None
            self._patience_ms = world.random.choice((100, 500, 2_000))
        elif self._gone_since_ms is None:
            self._gone_since_ms = now_ms
        elif now_ms - self._gone_since_ms > self._patience_ms:
            self._promote(forced=now_ms - self._gone_since_ms > self._patience_ms + 3_000)
        world.timeline.after_ms(WATCH_MS, self.watch)

    def _repair(self, led: bool) -> None:
        now_ms = self._world.timeline.now_ms
        self._led_ms = now_ms if led else self._led_ms
        self.repairs.watch(now_ms - self._led_ms)

    def knows_epoch(self, host: Host) -> bool:
        """Has it a frame of the last term? One that has not would be promoted to an epoch that may be lower."""
        return bool(host.epochs) and host.epochs[-1][0] >= self._world.latest_term()

    def above(self) -> int:
        """The highest epoch that a member which answers knows of."""
        return max(
            (host.process.epoch for host in self._world.hosts if host.answers and host.process is not None), default=0
        )

    def _promote(self, *, forced: bool) -> None:
        world = self._world
        answering = [host for host in world.hosts if host.answers and host.process is not None]
        if world.settings.ack_all and not any(world.truth.is_in(host) for host in answering):
            return  # more are away than the promise allows for
        sound = [host for host in answering if not host.disk.fail_syncs]  # nobody promotes a broker that reports a bad disk
        able = [host for host in sound if _promotable(host.process, forced)]
        if not able or self.above() < world.latest_term():
            return  # it might begin an epoch that is lower than one that somebody knows
        chosen = max(able, key=place)
        if any(place(host) > place(chosen) for host in answering):
            return  # "member … has more of the log; promote it"
        if forced and world.settings.ack_all and not world.truth.is_in(chosen):
            return  # the operator looked at what would be lost
        world.note(chosen.replica, "is promoted")
        self.promote(chosen)

    def promote(self, chosen: Host) -> None:
        chosen.run(partial(self._lead, chosen))

    def _lead(self, host: Host) -> None:
        assert host.process is not None
        self.named = host.replica  # also when it fails half-way: nobody can tell then whether it will lead
        host.process.lead(promoted=True, above=self.above())
        self._world.directory.register(host)


def _promotable(process: Process | None, forced: bool) -> bool:
    if process is None or process.following is None or not process.complete:
        return False
    machine = process.following.machine
    return machine.in_sync or forced
