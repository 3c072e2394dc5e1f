"""Hands the pushes of a broker's connection to the subscriptions on it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kourou.core import wire
from kourou.core.wire import Code, WireMessage
from kourou.transport.connection import Connection

if TYPE_CHECKING:
    from kourou.client.subscription import Subscription


class Router:
    """What comes before a subscription's number is known is kept: the broker may deliver right behind its answer."""

    def __init__(self, connection: Connection) -> None:
        self._subscriptions: dict[int, Subscription] = {}
        self._expected: set[Subscription] = set()
        self._early: list[WireMessage] = []
        self._connection = connection
        for code in (Code.DELIVER, Code.ASSIGN, Code.REVOKE, Code.ELSEWHERE):
            connection.handlers[code] = self._take

    @staticmethod
    def of(connection: Connection) -> Router:
        handler = connection.handlers.get(Code.DELIVER)
        router = getattr(handler, "__self__", None)
        return router if isinstance(router, Router) else Router(connection)

    def expect(self, subscription: Subscription) -> Subscription:
        self._expected.add(subscription)
        return subscription

    def unexpect(self, subscription: Subscription) -> None:
        self._expected.discard(subscription)

    def add(self, number: int, subscription: Subscription) -> None:
        self._subscriptions[number] = subscription
        early, self._early = self._early, []
        for message in early:
            self._take(message)

    def remove(self, number: int) -> None:
        self._subscriptions.pop(number, None)

    def _take(self, message: WireMessage) -> None:
        if message.code == Code.DELIVER:
            number = int.from_bytes(message.header[:4])
            value = None
        else:
            value = wire.decode_json(message.body, what="a push")
            number = value["subscription"]
        subscription = self._subscriptions.get(number)
        if subscription is None:
            if self._expected:
                self._early.append(message)
            elif message.code == Code.REVOKE:
                self._connection.answer_json(message, {})
        elif value is None:
            subscription.delivered(message)
        elif message.code == Code.ASSIGN:
            subscription.assigned(value)
        elif message.code == Code.ELSEWHERE:
            subscription.elsewhere(value)
        else:
            subscription.revoked(message, value)
