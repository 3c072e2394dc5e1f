"""What waits at a simulated master: delayed messages and half messages; what ``services.timers``, ``transactions`` and
``moves`` do around the machines. Timers stay in memory here: buckets have a simulator of their own (``timers.py``)."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from kourou.broker.machines.timers import Timer
from kourou.broker.machines.transactions import COMMITTED, ROLLED_BACK, Half
from kourou.broker.services.moves import Move, seal_moves
from kourou.broker.services.records import DecodedFrame, StoredMessage
from kourou.core.errors import InvalidTransaction, KourouError
from kourou.core.frame import PREFIX_SIZE, check_frame
from kourou.core.sources import Reason, Source

if TYPE_CHECKING:
    from tests.sim.process import Process, Reply

LOOK_MS = 40
BATCH = 16
CHECK_MS = 300  # between two questions about a half message
CHECKS_MAX = 3
Place = tuple[int, int]
Ask = Callable[[int, str, Place], None]  # (who asks, name, place)


class Waiting:
    """One term's."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self._moving: set[Place] = set()
        process.later(LOOK_MS * process.random.random(), self._look)

    def _look(self) -> None:
        process = self._process
        process.later(LOOK_MS * (0.5 + process.random.random()), self._look)
        try:
            process.master()
            if not self._moving:
                self._fire()
            self._check()
        except KourouError:
            return  # not now

    # ---- timers

    def _fire(self) -> None:
        """Take what is due; the copies are stored now, or when the messages were read from the disk."""
        timers, now_ms = self._process.state.timers, self._process.clock.wall_ms()
        due_ms = timers.next_due_ms()
        if due_ms is None or due_ms > now_ms:
            return
        batch = timers.take_due(now_ms, BATCH)
        if self._process.random.random() < 0.3:
            self._moving = {timer.place for timer in batch}
            self._process.later(20 * self._process.random.random(), lambda: self._deliver(batch))
        else:
            self._deliver(batch)

    def _deliver(self, batch: list[Timer]) -> None:
        process = self._process
        timers = process.state.timers
        self._moving = set()
        try:
            process.master()
            for queue in sorted({timer.queue for timer in batch}):
                here = [timer for timer in batch if timer.queue == queue]
                moves = [Move(self._message(t.place), Source(Reason.TIMER, *t.place)) for t in here]
                process.append(seal_moves(process.topic(), queue, moves), _nobody)
                process.seen("timers delivered")
        except KourouError:
            process.seen("timers given back")
        finally:
            timers.give_back(timer for timer in batch if timers.find(timer.place) is not None)

    def _message(self, place: Place) -> StoredMessage:
        data = self._process.store.read_frame(place[0])
        prefix, header = check_frame(data)
        return StoredMessage(DecodedFrame(prefix, header, data, PREFIX_SIZE), place[1])

    # ---- transactions

    def end(self, place: Place, outcome: str, reply: Reply) -> None:
        process = self._process
        leading, transactions = process.master(), process.state.transactions
        half = transactions.find(place)
        if half is None:
            known = transactions.decision(place)
            if known != outcome:
                raise InvalidTransaction(f"it was decided already, or is not known: {known}")
            leading.wait(process.store.end_offset, reply, known)
            return
        process.seen(f"transactions: {outcome}")
        if outcome == COMMITTED:
            move = Move(self._message(place), Source(Reason.COMMIT, *place))
            process.append(seal_moves(process.topic(), half.queue, [move]), reply)
        else:
            process.record(lambda _: [{"t": "tx-", "e": [place], "w": ROLLED_BACK}], reply)

    def _check(self) -> None:
        """Ask producers about half messages that nobody has decided on."""
        process = self._process
        now_ms = process.clock.wall_ms()
        asked, given_up = [], []
        for place, half in list(process.state.transactions.pending()):
            if _due_ms(half) > now_ms:
                continue
            if half.checks >= CHECKS_MAX:
                given_up.append(place)
            else:
                body = self._message(place).body
                process.ask_producer(body.partition(b" ")[0].decode(), place)
                asked.append((*place, half.checks + 1, now_ms))
        if asked:
            process.seen("transactions: asked")
            process.record(lambda _: [{"t": "tx?", "e": asked}], _nobody)
        if given_up:
            process.seen("transactions: given up")
            process.record(lambda _: [{"t": "tx-", "e": given_up, "w": "unanswered"}], _nobody)


def _due_ms(half: Half) -> int:
    return (half.checked_ms if half.checks else half.stored_ms) + CHECK_MS


def _nobody(_: object) -> None:
    """No client waits for it."""
