"""Handlers without asyncio: plain functions in threads."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from kourou.client.blocking.portal import Portal
from kourou.client.blocking.shared import SharedMessage
from kourou.client.shared.handlers import Handler as AsyncHandler
from kourou.client.shared.handlers import Registered
from kourou.client.shared.message import SharedMessage as AsyncSharedMessage
from kourou.core.errors import BadRequest

if TYPE_CHECKING:
    from kourou.client.client import Client

Handler = Callable[[SharedMessage], None]


def run_handlers(portal: Portal, inner: Client, handlers: Sequence[tuple[str, Handler, dict[str, Any]]]) -> None:
    if not handlers:
        raise BadRequest("there is no handler; put @client.on(topic, group=…) above a function")
    threads = sum(options["concurrency"] for _, _, options in handlers)
    with ThreadPoolExecutor(threads, thread_name_prefix="kourou-handler") as pool:
        wrapped = [Registered(topic, _in_thread(portal, pool, handler), options) for topic, handler, options in handlers]

        def begin() -> asyncio.Task[None]:
            return asyncio.get_running_loop().create_task(inner.run_handlers(wrapped))

        running = portal.call(begin)
        try:
            portal.run(_ended(running))
        except BaseException:  # Ctrl-C: a thread can't be interrupted, so what was begun is finished
            portal.call(inner.stop)
            portal.run(_ended(running))
            raise


async def _ended(running: asyncio.Task[None]) -> None:
    await asyncio.shield(running)


def _in_thread(portal: Portal, pool: ThreadPoolExecutor, handler: Handler) -> AsyncHandler:
    async def called(message: AsyncSharedMessage) -> None:
        await asyncio.get_running_loop().run_in_executor(pool, handler, SharedMessage(portal, message))

    return called
