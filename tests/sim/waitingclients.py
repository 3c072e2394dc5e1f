"""Producers of messages that wait: for a time, or for their own decision."""

from __future__ import annotations

from array import array
from functools import partial
from typing import TYPE_CHECKING, Any

from kourou.broker.machines.transactions import COMMITTED, ROLLED_BACK
from kourou.broker.store.store import Appended
from kourou.core.errors import InvalidTransaction, KourouError
from kourou.core.frame import HALF as HALF_ATTRIBUTE
from kourou.core.frame import Column
from tests.sim import requests
from tests.sim.checkers import DELAYED, HALF, Sent
from tests.sim.clients import REFUSED, UNKNOWN, Producer
from tests.sim.timeline import START_MS

if TYPE_CHECKING:
    from tests.sim.clients import Clients
    from tests.sim.world import World

Place = tuple[int, int]
SILENT = "silent"  # it never decides


class DelayedProducer(Producer):
    kind = DELAYED

    def _seal(self, queue: int, records: list[bytes], **more: Any) -> bytes:
        now_ms, random = START_MS + self._world.timeline.now_ms, self._world.random
        due = array("q", [now_ms + random.choice((-1_000, 0, 100, 500, 2_000, 5_000)) for _ in records])
        return super()._seal(queue, records, columns={Column.DUE_TIMES: due})


class HalfProducer(Producer):
    """Sends a half message, then commits or rolls back; sometimes only when it is asked, sometimes never."""

    kind = HALF
    counts = (1,)

    def __init__(self, clients: Clients, world: World, number: int) -> None:
        super().__init__(clients, world, number)
        self._by_name: dict[str, Sent] = {}

    def _seal(self, queue: int, records: list[bytes], **more: Any) -> bytes:
        return super()._seal(queue, records, attributes=HALF_ATTRIBUTE)

    def _settled(self, sent: Sent, answer: object) -> None:
        random = self._world.random
        sent.ending = random.choices((COMMITTED, ROLLED_BACK, SILENT), (6, 3, 1))[0]
        self._by_name[sent.names[0]] = sent
        if isinstance(answer, Appended) and sent.ending != SILENT and random.random() < 0.8:
            self._end(sent, (answer.log_offset, 0))
        else:
            self._rest()

    def _end(self, sent: Sent, place: Place) -> None:
        ask = partial(self._ask, sent, place, lambda: self._end(sent, place))
        self._world.timeline.after_ms(100 * self._world.random.random(), ask)

    def _ask(self, sent: Sent, place: Place, again: Any) -> None:
        def done(answer: object) -> None:
            if isinstance(answer, InvalidTransaction):
                sent.ended = "refused"
            elif answer is UNKNOWN or answer is REFUSED or isinstance(answer, KourouError):
                if again is not None:
                    again()
                return
            else:
                sent.ended = "ok"
            if again is not None:
                self._rest()

        self._clients.call(
            self._world.directory.master(),
            lambda process, reply: requests.end_transaction(process, place, sent.ending, reply),
            done,
        )

    def asked(self, name: str, place: Place) -> None:
        sent = self._by_name.get(name)
        if sent is not None and sent.ending not in ("", SILENT):
            self._ask(sent, place, None)
