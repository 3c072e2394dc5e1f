"""Functions that work on messages: ``@client.on("orders", group="billing", concurrency=8)``, and running them.

A handler that returns has its message acknowledged; one that raises has it delivered again as the group's retry policy
says, and moved to the dead letters, with the error's text, at the last attempt. Messages of one message group are handled
one after the other; when one fails, those behind it wait for it.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kourou.client.shared.message import SharedMessage, State

if TYPE_CHECKING:
    from kourou.client.shared.consumer import SharedConsumer

Handler = Callable[[SharedMessage], Awaitable[None] | None]
log = logging.getLogger("kourou.client")


@dataclass(frozen=True, slots=True)
class Registered:
    """What ``Client.on`` was told."""

    topic: str
    handler: Handler
    options: dict[str, Any]  # of ``Client.shared_consumer``


async def work(consumer: SharedConsumer, handler: Handler) -> None:
    """Until the consumer is stopped: then what was begun is finished. When cancelled, handlers are cancelled too and
    their messages come back at once."""
    slots = asyncio.Semaphore(consumer.options.concurrency)
    begun: set[asyncio.Task[None]] = set()

    def ended(task: asyncio.Task[None]) -> None:
        begun.discard(task)
        slots.release()

    try:
        while True:
            await slots.acquire()
            message = await consumer.take()
            if message is None:
                break
            task = asyncio.get_running_loop().create_task(handle(consumer, handler, message))
            begun.add(task)
            task.add_done_callback(ended)
        if begun:
            await asyncio.wait(begun)
    finally:
        for task in begun:
            task.cancel()
        if begun:
            await asyncio.wait(begun)


async def handle(consumer: SharedConsumer, handler: Handler, message: SharedMessage) -> None:
    try:
        result = handler(message)
        if inspect.isawaitable(result):
            await result
    except Exception as failure:
        log.warning(
            "the handler of %s failed on message %s (attempt %d of %d)",
            message.topic, message.id, message.attempt, message.max_attempts, exc_info=failure,
        )  # fmt: skip
        if message.state is State.HELD:
            await consumer.fail(message, failure)
    except BaseException as interrupted:
        if message.state is State.HELD:
            consumer.fail(message, interrupted)
        raise
    else:
        consumer.done(message)
