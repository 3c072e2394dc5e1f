"""Transactions without asyncio."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from types import TracebackType
from typing import Self

from kourou.client.blocking.portal import Portal
from kourou.client.message import Receipt
from kourou.client.transactions.checks import HalfMessage
from kourou.client.transactions.transaction import Transaction as AsyncTransaction


class Transaction:
    """See ``kourou.client.Transaction``."""

    def __init__(self, portal: Portal, inner: AsyncTransaction) -> None:
        self._portal = portal
        self._inner = inner

    @property
    def outcome(self) -> str | None:
        return self._inner.outcome

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self._portal.run(self._inner.__aexit__(kind, value, trace))

    def send(
        self,
        body: bytes | str,
        *,
        key: str | None = None,
        keys: Sequence[str] = (),
        tag: str | None = None,
        properties: Mapping[str, str] | None = None,
    ) -> Receipt:
        return self._portal.run(self._inner.send(body, key=key, keys=keys, tag=tag, properties=properties))

    def commit(self) -> None:
        self._portal.run(self._inner.commit())

    def rollback(self) -> None:
        self._portal.run(self._inner.rollback())


def threaded(checker: Callable[[HalfMessage], str]) -> Callable[[HalfMessage], Awaitable[str]]:
    """A checker that may take its time, and use the blocking client."""

    def called(message: HalfMessage) -> Awaitable[str]:
        return asyncio.get_running_loop().run_in_executor(None, checker, message)

    return called
