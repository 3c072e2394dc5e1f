"""Consumers of a shared group: they take messages for a time, and acknowledge them, or don't."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from kourou.core.errors import KourouError
from tests.sim import requests
from tests.sim.clients import REFUSED, UNKNOWN
from tests.sim.sharedcheckers import Acknowledged, Got
from tests.sim.sharing import HandedOut, Receipt

if TYPE_CHECKING:
    from tests.sim.clients import Clients
    from tests.sim.world import World

GROUP = "shared"
FAR_MS = 20_000  # a lease that a clock made which was wrong


@dataclass(slots=True)
class Held:
    receipt: Receipt
    tries: int = 0


class SharedConsumer:
    def __init__(self, clients: Clients, world: World, number: int) -> None:
        self.name = f"shared consumer {number}"
        self._clients = clients
        self._world = world

    @property
    def finished(self) -> bool:
        """Everything is settled, as far as the master knows."""
        world = self._world
        if not self._clients.all_sent:
            return False
        for host in world.hosts:
            process = host.process
            if process is None or process.leading is None or process.sharing is None:
                continue
            ledgers = process.state.shared.of(GROUP, self._clients.incarnation)
            for queue, ledger in ledgers.items():
                low, high = process.store.queue_bounds(self._clients.incarnation << 32 | queue)
                far_ms = host.clock.wall_ms() + FAR_MS
                held = [o for o in ledger.open if world.settings.true_clocks or ledger.lease(o).due_ms < far_ms]
                if max(ledger.next, low) < high or held or ledger.parked:  # what retention took before is nobody's any more
                    return False
            return bool(ledgers)
        return False

    def next(self) -> None:
        world, random = self._world, self._world.random
        if self.finished:
            world.timeline.after_ms(200, self.next)
            return
        limit, invisible_ms = random.choice((1, 2, 4, 8)), random.choice((300, 600, 1_200))
        asked_us = world.timeline.now_us
        self._clients.call(
            world.directory.master(),
            lambda process, reply: requests.receive(process, GROUP, self.name, limit, invisible_ms, reply),
            partial(self._received, asked_us),
        )

    def _received(self, asked_us: int, answer: object) -> None:
        world, random = self._world, self._world.random
        found: list[HandedOut] = answer if isinstance(answer, list) else []
        for handed in found:
            world.clients.shared.append(Got(self.name, handed.receipt, handed.name, asked_us, world.timeline.now_us))
            delay_ms = random.choice((1, 20, 200, 900))
            world.timeline.after_ms(delay_ms, partial(self._settle, Held(handed.receipt)))
        pause_ms = world.settings.think_ms if found else 60
        world.timeline.after_ms(pause_ms * (0.5 + random.random()), self.next)

    def _settle(self, held: Held) -> None:
        roll = self._world.random.random()
        if roll < 0.08 and not self._clients.finishing:
            return  # it forgets it
        if roll < 0.2:
            self._put_off(held, renew=roll < 0.14)
        else:
            self._ack(held)

    def _ack(self, held: Held) -> None:
        world, receipt, sent_us = self._world, held.receipt, self._world.timeline.now_us

        def done(answer: object) -> None:
            if answer is UNKNOWN or answer is REFUSED:
                held.tries += 1
                if held.tries < 3:
                    world.timeline.after_ms(50, partial(self._ack, held))
            elif not isinstance(answer, KourouError) and answer != "settled before":
                world.clients.shared.append(Acknowledged(self.name, receipt, sent_us, world.timeline.now_us))

        self._clients.call(
            world.directory.master(), lambda process, reply: requests.settle(process, GROUP, receipt, reply), done
        )

    def _put_off(self, held: Held, *, renew: bool) -> None:
        world, receipt = self._world, held.receipt

        def done(answer: object) -> None:
            if isinstance(answer, list):
                world.timeline.after_ms(100, partial(self._ack, Held(answer[0])))

        self._clients.call(
            world.directory.master(),
            lambda process, reply: requests.put_off(process, GROUP, receipt, 400, reply, renew=renew),
            done,
        )
