"""A member of a shared group: polls every broker of the topic, hands messages out, renews, settles, gives back.

A message is *held* from its delivery until it is settled or its time is over. ``logic/leases.py`` says what to renew and
what to give back, ``logic/inbox.py`` which message may be begun next, ``logic/prefetch.py`` how much to ask for.

Finished means, as for the stream consumer: the loop's body has ended for it, which shows when the loop asks for the next
one, or when the context is left without an exception. After ``break`` a new loop is handed the same message again; where an
exception leaves the context, the message it belongs to is put off as ``nack`` does.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from types import TracebackType
from typing import Self

from kourou.client import fork
from kourou.client.arguments import check_number, check_whole
from kourou.client.cluster import Cluster
from kourou.client.logic.inbox import Inbox
from kourou.client.logic.leases import Leases
from kourou.client.logic.prefetch import Prefetch
from kourou.client.shared.handlers import Handler, work
from kourou.client.shared.lite import LiteSubscriptions
from kourou.client.shared.lite import Start as LiteStart
from kourou.client.shared.message import SharedMessage, State
from kourou.client.shared.options import SharedOptions
from kourou.client.shared.poller import Poller
from kourou.client.shared.settler import Settler
from kourou.core.deliveries import DELIVERIES_MAX, INVISIBLE_MS_MAX, Delivery
from kourou.core.errors import (
    BadRequest,
    ClientFault,
    InvalidReceiptHandle,
    KourouError,
    NotConnected,
    TopicTypeMismatch,
    TryLater,
)
from kourou.core.names import check_topic
from kourou.core.route import TopicType
from kourou.core.settling import BY_POLICY, KEEP, UNCOUNTED, Change

DRAIN_S = 2.0
SETTLE_S = 10.0
RECEIVED_KEPT = 1_024  # then those that were settled are forgotten
log = logging.getLogger("kourou.client")


class SharedConsumer:
    """Made by ``Client.shared_consumer``; use it in ``async with``, and read it with one loop at a time."""

    def __init__(self, cluster: Cluster, topic: str, options: SharedOptions) -> None:
        self.topic = check_topic(topic)
        self.options = options
        self.closed = False
        self._cluster = cluster
        self._loop = asyncio.get_running_loop()
        self._pollers: dict[str, Poller] = {}  # by broker
        self._settlers: dict[str, Settler] = {}
        self._inbox: Inbox[SharedMessage] = Inbox()
        self._received: dict[str, SharedMessage] = {}  # by message group: what ``receive`` handed out last
        self._leases: Leases[SharedMessage] = Leases(
            invisible_ms=options.invisible_ms, renew_ms_max=options.renew_ms_max, wait_ms_max=options.wait_ms_max
        )
        self._prefetch = Prefetch()
        self._arrived = asyncio.Event()
        self._demand = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None
        self._failure: KourouError | None = None
        self._current: SharedMessage | None = None  # that the loop's body works on
        self._ordered = False
        self.lite: LiteSubscriptions | None = None  # where the topic is of that type
        self._opened = self._stopping = False
        fork.watch(self)

    # ---- opening and closing

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.leave_current(value)
        await self.close()

    async def open(self) -> None:
        """Ask every broker of the topic. Raises what they refuse (TopicNotFound, GroupShapeMismatch, IllegalFilter, …)."""
        if self._opened:
            return
        self._opened = True
        route = await self._cluster.route(self.topic)
        self._ordered = route.type in (TopicType.FIFO, TopicType.LITE)
        if route.type is TopicType.LITE:
            member = self.topic, self.options.group
            if member in self._cluster.lite_members:
                self._opened = False
                raise BadRequest(f"this client has a consumer of {self.topic} in group {self.options.group} already")
            self._cluster.lite_members.add(member)
            self.lite = LiteSubscriptions(self._cluster, self.topic, self.options.group, self.options.lite or ())
            self.lite.on_evicted = self._evicted
        elif self.options.lite is not None:
            raise TopicTypeMismatch(f"topic {self.topic} has type {route.type.value}: it has no lite topics")
        failures: list[KourouError] = []
        try:
            for place in route.brokers:
                if place.queues:
                    poller = self._pollers[place.broker] = Poller(self._cluster, self, place.broker)
                    try:
                        await poller.probe()
                    except (NotConnected, TryLater) as failure:
                        failures.append(failure)
            if failures and len(failures) == len(self._pollers):
                raise failures[0]
        except BaseException:
            self.closed = True
            self._cluster.lite_members.discard((self.topic, self.options.group))
            raise
        for poller in self._pollers.values():
            poller.start()
        self._cluster.on_change(self._route_changed)  # not before: one poller a broker
        self._route_changed()

    def _route_changed(self) -> None:
        """Brokers that are new in the topic's route."""
        route = self._cluster.routes.get(self.topic)
        for place in route.brokers if route is not None and not self.closed else ():
            if place.queues and place.broker not in self._pollers:
                poller = self._pollers[place.broker] = Poller(self._cluster, self, place.broker)
                poller.start()

    def forked(self) -> None:
        """What is held belongs to the parent."""
        fork.bury(self._pollers, self._settlers, self._inbox, self._leases, self._timer, self._current)
        self._pollers, self._settlers, self._inbox, self._timer, self._current = {}, {}, Inbox(), None, None
        self.closed = True
        self._failure = NotConnected("the consumer belongs to the process before the fork; make a new one in this process")

    async def close(self) -> None:
        """Stop polling, give back what nobody has begun with, wait until what was settled is stored."""
        if self.closed:
            return
        self.closed = True
        self._cluster.off_change(self._route_changed)
        self._arrived.set()
        self._demand.set()
        for poller in self._pollers.values():
            poller.cancel()
        polls = [poller.task for poller in self._pollers.values() if poller.task is not None]
        if polls:
            await asyncio.wait(polls, timeout=DRAIN_S)
            for task in polls:
                task.cancel()
        self._give_back(self._inbox.clear())
        if self.lite is not None:
            try:
                await self.lite.leave(self._pollers)
            except KourouError:
                pass  # the broker forgets it with the connection
            self._cluster.lite_members.discard((self.topic, self.options.group))
        if self._timer is not None:
            self._timer.cancel()
        for settler in self._settlers.values():
            await settler.drain(SETTLE_S)

    # ---- what pollers report

    def room(self, broker: str) -> int:
        """How many messages to ask a broker for; 0: none for now."""
        limit = self._prefetch.limit(broker, brokers=len(self._pollers), waiting=len(self._inbox))
        if limit:
            self._prefetch.asked(broker, limit)
        return limit

    async def wanted(self) -> None:
        """Wait until more may be asked for."""
        self._demand.clear()
        await self._demand.wait()

    def polled(self, broker: str) -> None:
        self._prefetch.answered(broker)
        self._demand.set()

    def delivered(self, broker: str, found: Sequence[Delivery], max_attempts: int) -> None:
        now_ms = self._now_ms()
        messages = [SharedMessage(self, broker, delivery, max_attempts, self._ordered) for delivery in found]
        for message in messages:
            self._received_is_over(message.lane)
        for message in messages:
            self._leases.taken(message, now_ms)
            self._inbox.add(message, message.lane)
        if self._timer is None:
            self._timer = self._loop.call_later(self._leases.look_every_ms / 1000, self._look)
        self._arrived.set()

    def failed(self, failure: KourouError) -> None:
        """Something that polling on can't mend: whoever takes messages is told."""
        self._failure = self._failure or failure
        self._arrived.set()

    # ---- handing out

    def want(self, size: int) -> None:
        """How many messages may wait to be begun."""
        if self._prefetch.size != size:
            self._prefetch.size = size
            if size:
                self._demand.set()

    async def take(self) -> SharedMessage | None:
        """The next message, to be worked on: it is renewed until it is settled. None when the consumer was closed."""
        self._check_opened()
        self.want(self.options.prefetch)
        while True:
            message = self.try_take()
            if message is not None:
                return message
            if self._failure is not None:
                raise self._failure
            if self.closed or self._stopping:
                return None
            self._arrived.clear()
            await self._arrived.wait()

    def _check_opened(self) -> None:
        if not self._opened:
            raise NotConnected("the consumer is not open; use it in 'async with', or await open() first")
        self._cluster.check_loop()

    def try_take(self) -> SharedMessage | None:
        """The next message, if there is one already."""
        inbox, now_ms = self._inbox, self._now_ms()
        while inbox.ready and not self.closed and not self._stopping:
            message = inbox.take()
            if 2 * len(inbox) <= self._prefetch.size:
                self._demand.set()
            if self._leases.holds(message, now_ms):
                self._leases.begun(message, now_ms)
                return message
            self._lost(message)
        return None

    async def __aiter__(self) -> AsyncIterator[SharedMessage]:
        """Messages as they come. With automatic acknowledgement a message is settled when the loop's body has ended."""
        self.resume_reading()
        while (message := await self.take()) is not None:
            self._current = message
            yield message
            if self._current is not message and not self.closed:
                raise BadRequest("two loops read one consumer; make a consumer for each")
            self._current = None
            if (settled := self.worked(message)) is not None:
                await asyncio.wait((settled,))

    def resume_reading(self) -> None:
        """A loop begins: what an earlier one did not finish comes first."""
        message, self._current = self._current, None
        if message is not None and message.state is State.HELD:
            self._inbox.put_back(message, message.lane)

    def worked(self, message: SharedMessage) -> asyncio.Future[None] | None:
        """The loop's body has ended for a message. What to wait for before the next one, where order matters."""
        if not self.options.auto_ack or message.state is not State.HELD:
            return None
        future = self._ack(message)
        return future if self._ordered else None

    def begin(self, message: SharedMessage) -> None:
        """The blocking client's loop works on it."""
        self._current = message

    def ended(self, message: SharedMessage) -> asyncio.Future[None] | None:
        """Its body has ended."""
        self._current = None
        return self.worked(message)

    def leave_current(self, failure: BaseException | None) -> None:
        """The context is left: what the loop was handed last counts as finished, unless by an exception."""
        message, self._current = self._current, None
        if message is None or message.state is not State.HELD or self.closed:
            return
        if failure is None:
            if self.options.auto_ack:
                self._ack(message)
        else:
            self.fail(message, failure)

    async def run(self, handler: Handler) -> None:
        """Have a function work on the messages, ``concurrency`` of them at a time, until ``stop`` is called."""
        await self.open()
        await work(self, handler)

    def stop(self) -> None:
        """Hand out no more messages; loops end, and ``run`` when the handlers that have begun are done."""
        self._stopping = True
        self.want(0)
        self._arrived.set()

    async def receive(self, max_messages: int = 16, *, wait_s: float = 20.0) -> list[SharedMessage]:
        """Up to so many messages, as soon as there are any; none when none has come within the time.

        They are the caller's to settle, and are not renewed: see ``extend``. Where order matters, one of each message
        group at a time.
        """
        check_whole("max_messages", max_messages, least=1, most=DELIVERIES_MAX)
        check_number("wait_s", wait_s, least=0)
        self._check_opened()
        if self.closed:
            raise self._failure or NotConnected("the consumer is closed")
        self.want(0)
        if not self._inbox.ready:
            await self._fill(max_messages, wait_s)
        found: list[SharedMessage] = []
        while len(found) < max_messages and (message := self.try_take()) is not None:
            self._leases.settled(message)
            found.append(message)
            if message.lane is not None:
                self._received[message.lane] = message
        if len(self._received) > RECEIVED_KEPT:
            self._received = {lane: m for lane, m in self._received.items() if m.state is State.HELD}
        return found

    def _received_is_over(self, lane: str | None) -> None:
        """A broker delivers more of a message group only when the time of what was left unsettled is over."""
        former = self._received.pop(lane, None) if lane is not None else None
        if former is not None and former.state is State.HELD:
            self._lost(former)

    async def _fill(self, count: int, wait_s: float) -> None:
        """One round of polls at all brokers; the first that has something ends those of the others."""
        brokers = list(self._pollers)
        share = -(-count // max(1, len(brokers)))
        made = [Poller(self._cluster, self, broker) for broker in brokers]
        pollers = {self._cluster.spawn(poller.once(share, wait_s)): poller for poller in made}
        polls = set(pollers)
        failures: list[BaseException] = []
        try:
            while polls and not self._inbox.ready:
                done, polls = await asyncio.wait(polls, return_when=asyncio.FIRST_COMPLETED)
                failures += filter(None, [task.exception() for task in done])
        finally:
            for task in polls:
                if pollers[task].is_parked:
                    pollers[task].cancel()
                else:
                    task.cancel()  # its broker can't be reached: it has nothing for us
                task.add_done_callback(_ended)
            if polls:
                await asyncio.wait(polls, timeout=DRAIN_S)
        if not self._inbox.ready:
            for failure in failures:  # of some brokers: they are away, and the others have nothing
                if isinstance(failure, ClientFault) or len(failures) == len(brokers):
                    raise failure

    # ---- lite topics

    @property
    def lite_topics(self) -> tuple[str, ...]:
        """Those that this consumer gets messages of."""
        return tuple(self.lite.names) if self.lite is not None else ()

    async def subscribe(self, *names: str, start: LiteStart | None = None) -> None:
        """Get messages of more lite topics. ``start``: where the group is to begin with them: "earliest", "latest",
        {"time": ms}, {"offset": n} or {"tail": n}; else where it was, or with what is there."""
        await self._need_lite().change("add", names, start, self._pollers)

    async def unsubscribe(self, *names: str) -> None:
        await self._need_lite().change("remove", names, None, self._pollers)

    def _need_lite(self) -> LiteSubscriptions:
        self._check_opened()
        if self.closed:
            raise self._failure or NotConnected("the consumer is closed")
        if self.lite is None:
            raise TopicTypeMismatch(f"topic {self.topic} has no lite topics")
        return self.lite

    def _evicted(self, name: str) -> None:
        log.warning("another member of group %s has taken over lite topic %s of %s", self.options.group, name, self.topic)

    # ---- settling

    def done(self, message: SharedMessage) -> None:
        """Acknowledge it, without waiting, unless it was settled otherwise."""
        if message.state is State.HELD:
            self._ack(message)

    async def ack(self, message: SharedMessage) -> None:
        self._check_held(message)
        await self._ack(message)

    def _ack(self, message: SharedMessage) -> asyncio.Future[None]:
        message.state = State.SETTLED
        self._leases.settled(message)
        future = self._settler(message.broker).ack(message.handle, timeout_s=SETTLE_S)
        future.add_done_callback(lambda done: self._acked(message, done))
        return future

    def _acked(self, message: SharedMessage, done: asyncio.Future[None]) -> None:
        failure = done.exception() if not done.cancelled() else None
        if failure is not None:
            log.warning("message %s of %s was not acknowledged and will come again: %s", message.id, self.topic, failure)
            message.state = State.LOST
            self._give_back(self._inbox.drop_group(message.lane))
        else:
            self._inbox.done(message.lane)
        self._wake()

    def _wake(self) -> None:
        if self._inbox.ready:
            self._arrived.set()

    async def nack(self, message: SharedMessage, delay_s: float | None, *, reason: str = "") -> None:
        self._check_held(message)
        if delay_s is None and message.attempt >= message.max_attempts:
            await self.bury(message, reason or f"not acknowledged at attempt {message.attempt}, the last one")
            return
        if delay_s is not None:
            check_number("delay_s", delay_s, least=0, most=INVISIBLE_MS_MAX / 1000)
        await self._put_off(message, BY_POLICY if delay_s is None else round(delay_s * 1000))

    def _put_off(self, message: SharedMessage, invisible_ms: int, flags: int = 0) -> asyncio.Future[None]:
        message.state = State.SETTLED
        self._leases.settled(message)
        change = Change(message.handle, invisible_ms, flags)
        future = self._settler(message.broker).change(change, timeout_s=SETTLE_S)
        self._give_back(self._inbox.drop_group(message.lane))
        return future

    def fail(self, message: SharedMessage, failure: BaseException) -> asyncio.Future[None]:
        """A loop's body or a handler raised: deliver it again later; the last attempt goes to the dead letters. A message
        whose work was only interrupted comes back at once, and this delivery does not count."""
        if isinstance(failure, Exception):
            reason = f"{type(failure).__name__}: {failure}"
            return self._cluster.spawn(self._nack_quietly(message, reason))
        return self._put_off(message, 0, UNCOUNTED)

    async def _nack_quietly(self, message: SharedMessage, reason: str) -> None:
        try:
            await self.nack(message, None, reason=reason)
        except KourouError as failure:
            log.warning("message %s of %s could not be put off: %s", message.id, self.topic, failure)

    async def extend(self, message: SharedMessage, seconds: float) -> None:
        self._check_held(message)
        check_number("seconds", seconds, least=0, most=INVISIBLE_MS_MAX / 1000)
        asked_ms, invisible_ms = self._now_ms(), round(seconds * 1000)
        await self._settler(message.broker).change(Change(message.handle, invisible_ms, KEEP), timeout_s=SETTLE_S)
        self._leases.extended(message, asked_ms, invisible_ms)

    async def bury(self, message: SharedMessage, reason: str) -> None:
        self._check_held(message)
        if not isinstance(reason, str):
            raise BadRequest(f"reason must be a string, not {type(reason).__name__}")
        message.state = State.SETTLED
        self._leases.settled(message)
        try:
            await self._settler(message.broker).bury(message.handle, reason, timeout_s=SETTLE_S)
        except KourouError:
            message.state = State.LOST
            self._give_back(self._inbox.drop_group(message.lane))
            raise
        self._inbox.done(message.lane)
        self._wake()

    def _check_held(self, message: SharedMessage) -> None:
        if message.state is State.SETTLED:
            raise BadRequest("the message was settled before")
        if message.state is State.LOST:
            raise InvalidReceiptHandle("the time of the delivery is over; the message is delivered again")

    def _give_back(self, messages: Sequence[SharedMessage]) -> None:
        """Nobody has begun with them: others get them at once, and this delivery does not count."""
        for message in messages:
            if message.state is State.HELD:
                message.state = State.SETTLED
                self._leases.settled(message)
                change = Change(message.handle, 0, UNCOUNTED)
                self._settler(message.broker).change(change, timeout_s=DRAIN_S)
        if messages:
            self._demand.set()  # there is room again

    def _settler(self, broker: str) -> Settler:
        settler = self._settlers.get(broker)
        if settler is None:
            settler = self._settlers[broker] = Settler(self._cluster, broker, self.options.group, self._loop)
        return settler

    # ---- leases

    def _now_ms(self) -> int:
        return int(self._loop.time() * 1000)

    def _look(self) -> None:
        """Renew, and give back what waits for too long."""
        self._timer = None
        asked_ms = self._now_ms()
        due = self._leases.look(asked_ms)
        for message in due.overdue:
            log.warning("message %s of %s is worked on for too long; it is not renewed any more", message.id, self.topic)
        for message in due.lost:
            self._lost(message)
        for message in due.give_back:
            self._give_back(self._inbox.remove(message, message.lane))
        if due.give_back:
            self.want(0)  # until somebody takes a message again
        invisible_ms = self.options.invisible_ms
        for message in due.renew:
            change = Change(message.handle, invisible_ms, KEEP)
            renewed = self._settler(message.broker).change(change, timeout_s=self._leases.look_every_ms / 500)
            renewed.add_done_callback(self._renewed(message, asked_ms))
        if len(self._leases):
            self._timer = self._loop.call_later(self._leases.look_every_ms / 1000, self._look)

    def _renewed(self, message: SharedMessage, asked_ms: int) -> Callable[[asyncio.Future[None]], None]:
        def done(future: asyncio.Future[None]) -> None:
            failure = future.exception() if not future.cancelled() else None
            if failure is None:
                self._leases.extended(message, asked_ms, self.options.invisible_ms)
            elif isinstance(failure, InvalidReceiptHandle) and message.state is State.HELD:
                self._lost(message)
            else:
                self._leases.not_renewed(message)

        return done

    def _lost(self, message: SharedMessage) -> None:
        """Its time is over: somebody else gets it. What waits behind it must not be begun here."""
        message.state = State.LOST
        self._leases.settled(message)
        waiting = self._inbox.remove(message, message.lane) or self._inbox.drop_group(message.lane)
        self._give_back(waiting)


def _ended(poll: asyncio.Task[None]) -> None:
    """Nobody waits for it any more, however it ended."""
    if not poll.cancelled():
        poll.exception()
