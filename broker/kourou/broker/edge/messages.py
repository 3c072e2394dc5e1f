"""PRODUCE and FETCH on the data plane."""

from __future__ import annotations

from kourou.broker.services.fetch import FetchService, Waits
from kourou.broker.services.produce import FrameResult, ProduceService
from kourou.core import wire
from kourou.core.errors import BadRequest
from kourou.core.names import check_topic
from kourou.core.wire import Code, WireMessage
from kourou.transport.server import Handler, Peer


class MessageHandlers:
    def __init__(self, produce: ProduceService | None, fetch: FetchService) -> None:
        """``produce``: None where only ``fetch`` is served."""
        self._produce = produce
        self._fetch = fetch

    def table(self) -> dict[int, Handler]:
        return {Code.PRODUCE: self.produce, Code.FETCH: self.fetch}

    def produce(self, peer: Peer, message: WireMessage) -> None:
        if len(message.header) != wire.PRODUCE_REQUEST.size:
            raise BadRequest(f"PRODUCE has a header of {len(message.header)} bytes, not {wire.PRODUCE_REQUEST.size}")
        _, count, _ = wire.PRODUCE_REQUEST.unpack(message.header)

        def done(results: list[FrameResult]) -> None:
            peer.reply(message, header=wire.PRODUCE_ANSWER.pack(len(results), 0), parts=(encode_results(results),))

        assert self._produce is not None
        self._produce.produce(message.body, count, done)

    async def fetch(self, peer: Peer, message: WireMessage) -> None:
        if len(message.header) != wire.FETCH_REQUEST.size:
            raise BadRequest(f"FETCH has a header of {len(message.header)} bytes, not {wire.FETCH_REQUEST.size}")
        offset, queue_id, bytes_max, wait_ms, _, _ = wire.FETCH_REQUEST.unpack(message.header)
        try:
            topic = check_topic(str(message.body, "utf-8"))
        except UnicodeDecodeError:
            raise BadRequest("topic in FETCH is not UTF-8") from None
        fetched = await self._fetch.fetch(
            topic, queue_id, offset, bytes_max=bytes_max, wait_ms=wait_ms, waits=waits_of(peer)
        )
        header = wire.FETCH_ANSWER.pack(fetched.next_offset, fetched.min_offset, fetched.max_offset)
        peer.reply(message, header=header, parts=(fetched.data,))


def waits_of(peer: Peer) -> Waits:
    """Of the connection's reads; they end with it."""
    waits: Waits | None = peer.attachments.get("waits")
    if waits is None:
        waits = peer.attachments["waits"] = Waits()
        ended = waits
        peer.on_close(lambda _: ended.end())
    return waits


def encode_results(results: list[FrameResult]) -> bytes:
    pack = wire.PRODUCE_RESULT.pack
    body = b"".join(
        pack(
            r.error.code if r.error is not None else 0, r.duplicate, r.queue_id, r.queue_offset, r.log_offset, r.store_ms
        )
        for r in results
    )  # fmt: skip
    errors: dict[str, dict[str, object]] = {}
    for number, result in enumerate(results):
        if result.error is not None:
            errors[str(number)] = {"message": str(result.error)}
            if result.error.retry_after_ms is not None:
                errors[str(number)]["retry_after_ms"] = result.error.retry_after_ms
    return body + wire.encode_json({"errors": errors}) if errors else body
