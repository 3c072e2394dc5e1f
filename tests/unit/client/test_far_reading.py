"""Queues that a master sends off to a slave, and takes back."""

from __future__ import annotations

from kourou.client import Client
from kourou.core import wire
from kourou.core.wire import Code, WireMessage
from tests.unit.client.fake_server import FakePeer, FakeServer, plain
from tests.unit.client.test_consumer import take


class Forgetful(FakeServer):
    """A broker that does not answer the first SEEK before it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.unanswered: list[tuple[FakePeer, WireMessage]] = []

    def on_seek(self, peer: FakePeer, message: WireMessage) -> None:
        if not self.unanswered:
            self.unanswered.append((peer, message))
        else:
            super().on_seek(peer, message)


async def test_a_queue_that_is_not_taken_back_holds_up_no_other() -> None:
    """There is no slave, so both queues go back at once. The answer that comes late counts nevertheless."""
    async with Forgetful() as server:
        server.add_topic("t", queues=2)
        async with Client(server.address, timeout_s=0.3) as client, client.consumer("t", group="g") as consumer:
            server.assign(to := await server.subscribed(), 0, 1)
            for queue in (0, 1):
                sent_off = {"queue": queue, "epoch": 1, "n": 1, "session": 1, "offset": 0, "replicas": [1]}
                to.peer.push_json(Code.ELSEWHERE, {"subscription": to.number, **sent_off})
            await server.until(lambda: len(server.asked(Code.SEEK)) == 2)
            server.deliver(to, 1, plain(b"1", queue=1), 1, session=99)
            ((peer, message),) = server.unanswered
            assert wire.decode_json(message.body)["queue"] == 0
            peer.answer_json(message, {"session": 7, "offset": 0})
            server.deliver(to, 0, plain(b"0"), 1, session=7)
            assert [message.body for message in await take(consumer, 2)] == [b"1", b"0"]
