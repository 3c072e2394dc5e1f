"""What clients ask of a simulated process, each as one function of it: sends, reads, and what is shared or waits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from kourou.broker.store.checked import CheckedFrame
from kourou.broker.store.columns import FrameFacts
from kourou.core.errors import NotMaster
from kourou.core.frame import check_frame, iterate_frames, parse_sealed
from tests.sim.contents import Content, read_content
from tests.sim.sharing import Receipt

if TYPE_CHECKING:
    from tests.sim.process import Process, Reply

NO_FACTS = FrameFacts(0, None)


@dataclass(frozen=True, slots=True)
class Stored:
    """What a consumer gets: (queue offset, name) in order, and where to go on."""

    names: tuple[tuple[int, str], ...]
    next_offset: int


@dataclass(frozen=True, slots=True)
class Deleted:
    """By retention: what a queue holds begins there."""

    low: int


def produce(process: Process, sealed: bytes, incarnation: int, reply: Reply) -> None:
    """One frame, as ``Journal`` does it: refused before it is appended, or answered when it is confirmed."""
    leading = process.master()
    header = parse_sealed(sealed)
    frame = CheckedFrame(sealed, header, int.from_bytes(sealed[-4:], "little"), incarnation, NO_FACTS)
    if not process.state.topics.is_live(incarnation):
        raise NotMaster("the topic is not there")
    known = process.state.window(frame)
    if known is not None:
        leading.wait(known.end_offset, reply, known)
        return
    process.append(frame, reply)


def receive(process: Process, group: str, client: str, limit: int, invisible_ms: int, reply: Reply) -> None:
    process.master()
    assert process.sharing is not None
    process.sharing.receive(group, client, limit, invisible_ms, reply)


def settle(process: Process, group: str, receipt: Receipt, reply: Reply) -> None:
    process.master()
    assert process.sharing is not None
    process.sharing.ack(group, receipt, reply)


def put_off(process: Process, group: str, receipt: Receipt, invisible_ms: int, reply: Reply, *, renew: bool) -> None:
    process.master()
    assert process.sharing is not None
    process.sharing.put_off(group, receipt, invisible_ms, reply, renew=renew)


def end_transaction(process: Process, place: tuple[int, int], outcome: str, reply: Reply) -> None:
    process.master()
    assert process.waiting is not None
    process.waiting.end(place, outcome, reply)


def fetch(process: Process, key: int, queue_offset: int, reply: Reply) -> None:
    """Records of a queue below C, from master or slave."""
    if process.leading is not None and (not process.leading.machine.serving or process.leading.machine.over):
        raise NotMaster("not yet")
    low, _ = process.store.queue_bounds(key)
    if queue_offset < low:
        reply(Deleted(low))
        return
    plan = process.store.plan(key, queue_offset, bytes_max=4096, below=process.confirmed)
    data = process.store.read(plan, cached_only=False) or b""
    names: list[tuple[int, str]] = []
    for at, prefix in iterate_frames(data):
        assert prefix.log_offset + prefix.size <= process.confirmed, "a frame above C was read"
        piece = data[at : at + prefix.size]
        check_frame(piece)  # the client does
        content = read_content(piece)
        assert isinstance(content, Content), "metadata was read as messages"
        assert not content.waits, f"23: what waits beside queue {content.queue} was read"
        names += [(number, name) for number, name in enumerate(content.names, prefix.queue_offset) if number >= queue_offset]
    reply(Stored(tuple(names), plan.next_offset))
