"""Shared groups at a simulated master: what ``services.shared`` does around ledger and picker, for one receive at a time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from kourou.broker.machines.ledger import QueueLedger
from kourou.broker.machines.shared import CHANGED, RENEWED
from kourou.broker.services.records import DecodedFrame
from kourou.broker.services.shared.picking import Picker
from kourou.broker.services.shared.request import ReceiveRequest
from kourou.core.errors import InvalidReceiptHandle
from kourou.core.frame import PREFIX_SIZE, check_frame

if TYPE_CHECKING:
    from tests.sim.process import Process, Reply

ATTEMPTS_MAX = 1_000  # nothing becomes a dead letter


@dataclass(frozen=True, slots=True)
class Receipt:
    epoch: int
    queue: int
    offset: int
    serial: int


@dataclass(frozen=True, slots=True)
class HandedOut:
    receipt: Receipt
    name: str
    attempt: int
    due_ms: int


class Sharing:
    """One term's."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self._recovered: dict[tuple[str, int, int], int] = {}  # serials at the start of this epoch
        for group, incarnation in process.state.shared.places():
            for queue, ledger in process.state.shared.of(group, incarnation).items():
                self._recovered[group, incarnation, queue] = ledger.serial

    def receive(self, group: str, client: str, limit: int, invisible_ms: int, reply: Reply) -> None:
        """What one queue has for it, the first that has anything."""
        process, topic = self._process, self._process.topic()
        leading = process.master()
        shared, incarnation = process.state.shared, topic.incarnation
        if not shared.of(group, incarnation):
            places = [(queue, 0) for queue in range(topic.queues)]
            process.record(lambda _: [{"t": "pos", "g": group, "i": incarnation, "e": places}], lambda _: None)
        request = ReceiveRequest(group, topic, client, limit, invisible_ms, attempts_max=ATTEMPTS_MAX)
        queues = list(range(topic.queues))
        process.random.shuffle(queues)
        for queue in queues:
            found = self._from_queue(request, queue, reply)
            if found:
                return
        leading.wait(process.store.end_offset, reply, [])

    def _from_queue(self, request: ReceiveRequest, queue: int, reply: Reply) -> bool:
        process, incarnation = self._process, request.topic.incarnation
        key = incarnation << 32 | queue
        low, high = process.store.queue_bounds(key)
        ledger = process.state.shared.find(request.group, incarnation, queue)
        assert ledger is not None
        gone = ledger.below(low)
        if gone:  # retention has taken messages that were not acknowledged yet
            process.seen("shared: taken by retention")
            self._record({"t": "ack", "g": request.group, "i": incarnation, "e": [(queue, gone)]}, lambda _: None)
        now_ms = process.clock.wall_ms()
        ledger.ripen(now_ms)
        start = max(ledger.next, low)
        picker = Picker(request, ledger, lambda o: self._find(key, o), start=start, end=high, below=process.confirmed)
        pick = picker.run(request.limit, 1 << 20)
        if not pick.chosen:
            return False
        if any(candidate.attempt > 1 for candidate, _ in pick.chosen):
            process.seen("shared: handed out again")
        due_ms = now_ms + request.invisible_ms
        names = [(c, message.body.partition(b" ")[0].decode()) for c, message in pick.chosen]
        found: list[HandedOut] = []

        def answer(outcome: object) -> None:
            """A lease that the next master does not know is none: told when it is confirmed."""
            reply(found if not isinstance(outcome, Exception) else outcome)

        self._record(pick.record(request, queue, due_ms), answer)
        for candidate, name in names:
            receipt = Receipt(process.store.epoch, queue, candidate.offset, ledger.serial_of(candidate.offset))
            found.append(HandedOut(receipt, name, candidate.attempt, due_ms))
        process.seen("shared: handed out")
        return True

    def _record(self, record: dict[str, object], reply: Reply) -> None:
        self._process.record(lambda _: [record], reply)

    def _find(self, key: int, offset: int) -> DecodedFrame | None:
        process = self._process
        plan = process.store.plan(key, offset, bytes_max=1, below=process.confirmed)
        data = process.store.read(plan, cached_only=False)
        if not data:
            return None
        prefix, header = check_frame(data)
        return DecodedFrame(prefix, header, data, PREFIX_SIZE)

    # ---- settling

    def _valid(self, group: str, ledger: QueueLedger, receipt: Receipt) -> bool:
        process = self._process
        lease = ledger.live(receipt.offset, receipt.serial)
        if lease is None or lease.due_ms <= process.clock.wall_ms():
            return False
        if receipt.epoch == process.store.epoch:
            return True
        last = self._recovered.get((group, process.topic().incarnation, receipt.queue), 0)
        return (last - receipt.serial) & 0xFFFFFFFF < 0x80000000

    def _ledger(self, group: str, receipt: Receipt) -> QueueLedger:
        self._process.master()
        ledger = self._process.state.shared.find(group, self._process.topic().incarnation, receipt.queue)
        if ledger is None or receipt.offset >= ledger.next:
            raise InvalidReceiptHandle("the delivery was lost in a restart; the message will come again")
        return ledger

    def ack(self, group: str, receipt: Receipt, reply: Reply) -> None:
        ledger = self._ledger(group, receipt)
        if not self._valid(group, ledger, receipt):
            if receipt.offset in ledger.open:
                self._process.seen("shared: late receipts")
                raise InvalidReceiptHandle("the time of the delivery is over, or the message was delivered again since")
            self._process.master().wait(self._process.store.end_offset, reply, "settled before")
            return
        self._process.seen("shared: acknowledged")
        entry = [(receipt.queue, [receipt.offset])]
        self._record({"t": "ack", "g": group, "i": self._process.topic().incarnation, "e": entry}, reply)

    def put_off(self, group: str, receipt: Receipt, invisible_ms: int, reply: Reply, *, renew: bool) -> None:
        """``renew``: the receipt stays good. Otherwise the message comes back then, and there is a new one.
        Answered with a list of one."""
        process = self._process
        ledger = self._ledger(group, receipt)
        if not self._valid(group, ledger, receipt):
            raise InvalidReceiptHandle("the time of the delivery is over, or the message was settled since")
        due_ms = process.clock.wall_ms() + invisible_ms
        entry = (receipt.queue, receipt.offset, due_ms, RENEWED if renew else CHANGED)
        process.seen("shared: renewed" if renew else "shared: put off")
        made: list[Receipt] = []
        self._record(
            {"t": "due", "g": group, "i": process.topic().incarnation, "e": [entry]},
            lambda outcome: reply(made if not isinstance(outcome, Exception) else outcome),
        )
        made.append(Receipt(process.store.epoch, receipt.queue, receipt.offset, ledger.serial_of(receipt.offset)))
