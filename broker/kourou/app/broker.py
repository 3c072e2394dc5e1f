"""A broker of a cluster: a member of its group, master or slave, registered with every nameserver.

Which role: the one it had last, at first ``broker_id`` 0 is the master. A would-be master becomes a slave when the
nameservers know a member of its group with a higher epoch. Roles change while it runs: a slave is promoted, a master that
hears of a higher epoch steps down. One change at a time, under ``_changing``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from kourou.app.coldstart import ColdStart
from kourou.app.groupwatch import GroupMember, GroupWatch
from kourou.app.member import MemberNode
from kourou.app.options import BrokerOptions
from kourou.app.server import BrokerServer
from kourou.app.tunnel import ClusterTunnel
from kourou.app.twins import Twins
from kourou.broker.edge.members import MemberHandlers, refusing
from kourou.broker.edge.registration import Registrar
from kourou.broker.edge.replication import dial, is_refused
from kourou.broker.machines.history import implausible
from kourou.broker.services.replication.messages import CopyFacts
from kourou.broker.services.replication.slave import MasterLink
from kourou.broker.store.standing import MASTER, NONE
from kourou.core.errors import AlreadyExists, BadRequest, Fenced, KourouError, NotEnoughReplicas, NotMaster
from kourou.core.route import Endpoint, parse_endpoint
from kourou.core.version import VERSION
from kourou.core.views import RouteView
from kourou.core.wire import WireMessage
from kourou.gateway.tunnel import CallInfo
from kourou.proto.v1 import nameserver_pb2
from kourou.runtime import gc_tame
from kourou.transport.server import Handler

SOON_MS, LATER_MS = 20, 200  # when clients that came before the slaves ask again
SOON_FOR_MS = 1_000  # of a term: slaves mostly come within a few milliseconds
ASK_S = 2.0  # for what the nameservers know, before a master begins


class BrokerProcess(BrokerServer):
    node: MemberNode

    def __init__(self, options: BrokerOptions, *, log: Any) -> None:
        if not options.nameservers:
            raise BadRequest("a broker needs the address of at least one nameserver")
        super().__init__(options, log=log)
        self._registrar = Registrar(
            options.nameservers, report=self._report, log=log, on_bug=self.fail, on_refused=self._refused,
            on_named=lambda: self._watch.servers_known(),
        )  # fmt: skip
        self._watch = GroupWatch(options.name, servers=self._registrar.data_planes, on_change=self._group_changed)
        self._twins = Twins(options.name, options.broker_id, self._watch, log=log)
        self._changing = asyncio.Lock()
        self._works: set[asyncio.Task[None]] = set()
        self._looking = False  # asking the nameservers for other masters
        self._stopping = False
        self._led_ms = 0  # when the last term began

    def make_node(self) -> MemberNode:
        return MemberNode(self.options, log=self.log, on_failure=self.disk_failed)

    def make_members(self, **answers: Any) -> MemberHandlers:
        return MemberHandlers(**answers)

    # ---- start and stop

    async def start(self) -> dict[str, str]:
        await self.check()
        self.node.open_storage()
        self._members = self.make_members(status=self._status, digest=lambda: self.node.digest(), promote=self._promote)
        data = await self.listen(refusing({}, self._not_master))
        http = await self.listen_http()
        self._registrar.start()
        async with self._changing:
            if await self._leads():
                await self._recover_tail()
                await self._lead(promoted=False)
            else:
                self._follow()
                if self.options.failover == "static":
                    ColdStart(self.node, self._watch, log=self.log).begun()
        self._serving = True
        urls = {"data plane": str(data)}
        if self._official is not None:
            urls["official gRPC"] = f"{self.options.host}:{self.official_port}"
        return {**urls, "http": f"http://{http}"}

    async def _recover_tail(self) -> None:
        """Of a log whose end may have been lost since the last process ran."""
        start = ColdStart(self.node, self._watch, log=self.log)
        if start.is_cold():
            await start.recover()
        start.begun()

    def _closed(self) -> None:
        if self.failure is None and self.options.failover == "static":
            ColdStart(self.node, self._watch, log=self.log).closed()

    async def unregister(self) -> None:
        self._stopping = True
        if self._serving:
            self.node.on_let_go = self._closed
        for task in self._works:
            task.cancel()
        await asyncio.gather(*self._works, return_exceptions=True)
        await self._registrar.close()
        await self._watch.close()

    async def _leads(self) -> bool:
        """Is this broker to be the master?"""
        standing, node = self.node.standing, self.node
        if standing.role != MASTER and not (standing.role == NONE and self.options.broker_id == 0):
            return False
        if node.lacks and self.options.needs_others and not self.options.accept_loss:
            self.log.error(
                "does_not_lead", reason="its log is damaged, and slaves have it whole: promote one that is in sync"
            )
            return False
        members = await self._watch.members_within(ASK_S) or []
        twin = await self._twins.other(members)
        if twin is not None:
            raise AlreadyExists(twin)
        higher = self._higher(members)
        if higher is not None:
            self.log.warning("does_not_lead", epoch=node.epoch, higher=higher.epoch, member=higher.broker_id)
        return higher is None

    def _higher(self, members: list[GroupMember]) -> GroupMember | None:
        """A member of a higher epoch."""
        found = [m for m in members if m.broker_id != self.options.broker_id and m.epoch > self.node.epoch]
        return max(found, key=lambda member: member.epoch, default=None)

    # ---- roles

    async def _lead(self, *, promoted: bool) -> None:
        """Begin a term; clients are served once its first frame is confirmed."""
        node = self.node
        self._led_ms = node.clock.monotonic_ms()
        term = node.begin_term(promoted=promoted, on_step_down=self._step_down, refused=is_refused)
        self.log.info("leading", epoch=node.epoch, set=list(term.machine.set_members()))
        await self.tasks.stop()
        node.keep_member(self.tasks)
        self._serve(refusing(self._slaves_and_members(), self._too_early))
        self._registrar.changed()
        await asyncio.sleep(0)
        if term.serving.is_set():
            await self._serve_clients()
        else:
            self.log.warning("waiting_for_slaves", min_isr=self.options.min_isr)
            self._spawn(self._serve_when_confirmed(node))

    async def _serve_when_confirmed(self, node: MemberNode) -> None:
        assert node.master is not None
        await node.master.serving.wait()
        async with self._changing:
            if self.node is node and not node.master.machine.over:
                await self._serve_clients()

    async def _serve_clients(self) -> None:
        node = self.node
        await self.tasks.stop()
        node.build()
        self.keep_house()
        node.keep_member(self.tasks)
        node.messaging.routes_from(self._route)
        node.gateway.passing.by(self._pass_on)
        node.admin.on_topics_changed(self._registrar.changed)
        self._serve({**self.node_handlers(), **self._slaves_and_members()})
        await self.listen_official()
        self._registrar.changed()
        self.log.info("serving", epoch=node.epoch)

    def _follow(self) -> None:
        node = self.node
        address = self.options.advertised if self.options.advertised != "auto" else f":{self.port}"
        slave = node.follow(
            self._dial,
            address=address,
            on_truncate=lambda offset: self._spawn(self._reopen(node, cut_to=offset)),
            on_copy=lambda facts, data: self._spawn(self._reopen(node, anew=(facts, data))),
            on_changed=self._registrar.changed,
        )
        node.on_mended = lambda: self._spawn(self._reopen(node, mended=True))
        node.keep_member(self.tasks)
        self.tasks.every(10.0, "collect", gc_tame.collect)
        self._serve(refusing({**node.slave_handlers(), **self._members.table()}, self._not_master))
        self._registrar.changed()
        self.log.info("slave", epoch=node.epoch, log_end=node.store.end_offset)
        slave.start()

    def _step_down(self, epoch: int, reason: str) -> None:
        node = self.node
        self._spawn(self._reopen(node, epoch=epoch))

    async def _reopen(
        self,
        node: MemberNode,
        *,
        epoch: int = 0,
        cut_to: int | None = None,
        anew: tuple[CopyFacts, bytes] | None = None,
        turned_away: bool = False,
        mended: bool = False,
    ) -> None:
        """Give up the role, and follow. ``turned_away``: whoever was connected is not served any more already. ``mended``: a
        slave does it to make its state anew, unless it leads by now."""
        async with self._changing:
            if self.node is not node or self._stopping or (mended and node.slave is None):
                return
            if not turned_away:
                self._turn_away()
            if self._official is not None:
                await self._official.close(grace_s=0.0)
                self._official = None
            await self.tasks.stop()
            await node.leave(epoch=epoch, cut_to=cut_to, anew=anew)
            self.node = self.make_node()
            self.node.emptied = node.emptied
            assert self._server is not None
            self.node.watch(self._server)
            self.node.open_storage()
            self._follow()

    async def _promote(self, accept_loss: bool, above: int) -> dict[str, Any]:
        """The new epoch is higher than ``above``, too, which other members know of."""
        async with self._changing:
            slave = self.node.slave
            if slave is None:
                raise BadRequest(f"this broker is the master of epoch {self.node.epoch} already")
            if not self.node.complete:
                raise Fenced("this slave is still taking a copy of its master: its log does not reach its state yet")
            if self.node.lacks and not accept_loss:
                raise Fenced("the log of this slave is damaged, and its state lacks what was there: promote another member")
            in_sync = slave.machine.in_sync or (self.node.was_in_sync and not slave.followed)
            if not in_sync and not accept_loss:
                raise Fenced(
                    "this slave is not known to have everything that was acknowledged: it was not in the sync state set "
                    "when its master last said. Promote another member, or accept the loss"
                )
            reason = implausible(above, self.node.epoch)
            if reason is not None:
                raise BadRequest(reason)
            self.node.heard_of(above)
            await self._lead(promoted=True)
            await slave.stop()
            return {"epoch": self.node.epoch, "log_offset": self.node.store.end_offset}

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._works.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._works.discard(task)
        if not task.cancelled() and (failure := task.exception()) is not None:
            self.log.error("role_change_failed", exc_info=failure)
            self.fail(f"the role could not be changed: {failure!r}")

    # ---- the group

    def _refused(self, reason: str) -> None:
        """A nameserver does not take this broker's registration."""
        if self._serving and not self._looking and self.options.failover == "static":
            self._looking = True
            self._spawn(self._look_for_a_twin())

    async def _look_for_a_twin(self) -> None:
        try:
            twin = await self._twins.other()
        finally:
            self._looking = False
        if twin is not None:
            self.fail(twin)

    def _group_changed(self) -> None:
        """The nameservers' picture of the cluster is another one."""
        if self.node.slave is not None:
            self.node.slave.look_again()
        elif self.node.master is not None and not self._looking:
            self._looking = True
            self._spawn(self._look_for_others())

    async def _look_for_others(self) -> None:
        try:
            higher = self._higher(await self._watch.members())
        except KourouError:
            return
        finally:
            self._looking = False
        if higher is not None and higher.master and self.node.master is not None:
            self.node.master.heard_of(higher.epoch, "a nameserver")

    async def _dial(self, handlers: dict[int, Callable[[WireMessage], None]], lost: Callable[[str], None]) -> MasterLink:
        if self.options.master != "auto":
            endpoint = parse_endpoint(self.options.master)
        else:
            master = await self._watch.master()
            if master.broker_id == self.options.broker_id:
                raise NotMaster("the nameservers take this broker for the master")
            endpoint = master.address
        client_id = f"{self.options.name}-{self.options.broker_id}"
        return await dial(endpoint, self.options.name, client_id=client_id, handlers=handlers, lost=lost)

    # ---- answers

    def _serve(self, handlers: dict[int, Handler]) -> None:
        assert self._server is not None
        self._server.serve(handlers)

    def _turn_away(self) -> None:
        """Whoever is connected to what was the master."""
        assert self._server is not None
        self._serve(refusing(self._members.table(), self._not_master))
        self._server.drop_peers("this broker is not the master any more")

    def _slaves_and_members(self) -> dict[int, Handler]:
        return {**self.node.master_handlers(), **self._members.table()}

    def _not_master(self) -> KourouError:
        return NotMaster(f"broker {self.options.name} {self.options.broker_id} is a slave; ask a nameserver for the master")

    def _too_early(self) -> KourouError:
        return NotEnoughReplicas(
            f"broker {self.options.name} waits for slaves: min_isr is {self.options.min_isr}",
            retry_after_ms=SOON_MS if self.node.clock.monotonic_ms() - self._led_ms < SOON_FOR_MS else LATER_MS,
        )

    def status_line(self) -> str:
        return f"{self.options.name} {self.options.broker_id}: {self.node.role}, epoch {self.node.epoch}"

    def is_ready(self) -> bool:
        return self._serving and self.node.role != "starting"

    def _status(self) -> dict[str, Any]:
        return {**self.node.status(), "process": self._twins.process}

    async def _route(self, topic: str) -> RouteView:
        """A topic's route over the whole cluster, as a nameserver knows it."""
        cluster = await self._watch.cluster()
        route = await cluster.route(topic)
        endpoints: dict[str, Endpoint | None] = {}
        for broker in route.brokers:
            if broker.broker == self.options.name:
                endpoints[broker.broker] = None  # where the asker has reached us
            elif broker.official is not None:
                endpoints[broker.broker] = broker.official
        return RouteView(route, endpoints)

    async def _pass_on(self, broker: str, method: str, data: bytes, info: CallInfo) -> list[bytes]:
        """To another broker of the cluster."""
        return await ClusterTunnel(await self._watch.cluster(), routes="broker").call(broker, method, data, info)

    def _report(self) -> Any:
        node = self.node
        return nameserver_pb2.BrokerReport(
            cluster=self.options.cluster,
            broker=self.options.name,
            broker_id=self.options.broker_id,
            epoch=node.epoch,
            master=node.master is not None,
            advertised=self.options.advertised,
            port=self.port,
            version=VERSION,
            official_port=self.official_port if node.built else 0,
            official_advertised=self.options.official_advertised,
            topics=[
                nameserver_pb2.TopicDefinition(
                    name=topic.name,
                    type=topic.type.value,
                    placement=[
                        nameserver_pb2.Placement(broker=place.broker, queues=place.queues) for place in topic.placement
                    ],
                    created_ms=topic.created_ms,
                )
                for topic in node.state.topics.all()
            ],
        )
