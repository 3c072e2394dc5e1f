"""A broker whose group elects its master: a ``BrokerProcess`` whose roles are decided by an ``Election``.

It starts as a slave of nobody. Whatever is decided is done under ``_changing``, as every change of role; only a fence
does not wait: from that moment on nothing is confirmed or answered as master.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable
from typing import Any

from kourou.app.broker import BrokerProcess
from kourou.app.coldstart import boot_id, is_cold
from kourou.app.company import Company
from kourou.app.electednode import ElectedNode
from kourou.app.electionoptions import election_options, etcd_access
from kourou.app.options import BrokerOptions
from kourou.app.slowness import Slowness
from kourou.broker.edge.etcd import Etcd
from kourou.broker.edge.members import MemberHandlers, refusing, until
from kourou.broker.edge.pledges import PledgingMembers
from kourou.broker.edge.replication import dial, is_refused
from kourou.broker.machines.electedmaster import SetWanted
from kourou.broker.machines.election import Candidate
from kourou.broker.machines.electionstate import Keys
from kourou.broker.services.election.elected import ElectedReplication
from kourou.broker.services.election.election import Election
from kourou.broker.services.election.roles import Follow, Lead, Position
from kourou.broker.services.replication.master import has_ended
from kourou.broker.services.replication.slave import MasterLink
from kourou.broker.store.incarnation import Incarnations
from kourou.core import fields
from kourou.core.errors import BadRequest, DamagedLog, Fenced, KourouError, NotConnected, NotMaster, OutcomeUnknown
from kourou.core.route import Endpoint, parse_endpoint
from kourou.core.wire import Code, WireMessage
from kourou.gateway import calls
from kourou.http2.call import Service
from kourou.runtime.clock import BootClock
from kourou.runtime.cutoff import CutOff
from kourou.runtime.process import bound
from kourou.runtime.tasks import Periodic
from kourou.transport.connection import connect
from kourou.transport.server import Handler

LEAVE_S = 5.0
DRAIN_S = 2.0
DRAIN_PAUSE_S = 0.005
LINGER_S = 0.1  # connections of those who have sent something to a master that has handed over
PROMOTE_S = 20.0
PROMOTE_TRIES = 3  # that others were faster than; each time costs clients a change of the master
PROMOTE_PAUSE_S = 0.02
PLEDGE_S = 0.4
LACKING_MS = 10_000  # others lead if they can, for some time after each
HEALTH_S = 0.25


class FailoverProcess(BrokerProcess):
    """``Roles`` of services.election."""

    node: ElectedNode

    def __init__(self, options: BrokerOptions, *, log: Any) -> None:
        self._nonce = secrets.token_hex(8)
        self._election: Election | None = None
        self._target: Follow | None = None
        self._cutoff: CutOff | None = None
        self._slowness = Slowness()
        self._probing: set[tuple[int, int]] = set()  # masters, each in its epoch, whose hosts are being asked
        self._company = Company(lease_ms=int(options.lease_s * 1000))
        self._health = Periodic(log, on_bug=self.fail)
        self._looked_s = 0.0
        self._doubtful = False  # the log was found damaged, and has not been read as a whole since
        self._lacking_at_ms = 0  # when it is said again
        super().__init__(options, log=log)

    def make_node(self) -> ElectedNode:
        node = ElectedNode(self.options, log=self.log, on_failure=self.disk_failed)
        node.nonce = self._nonce
        node.leads = lambda: self._election is not None and self._election.leads()
        node.on_wanted = self._set_wanted
        node.on_damaged = self._log_damaged
        node.on_whole = self._log_whole if self._doubtful else None
        return node

    # ---- start and stop

    async def check(self) -> None:
        await super().check()
        election_options(self.options)
        etcd_access(self.options).check()

    async def start(self) -> dict[str, str]:
        urls = await super().start()
        options, clock = self.options, BootClock()
        self._cutoff = CutOff(
            lambda: frozenset({self.port, self.official_port} - {0}), now_ms=clock.monotonic_ms, told=self._was_cut_off
        )
        election = Election(
            Etcd(etcd_access(options)),
            self._candidate(urls["data plane"]),
            Keys(options.cluster, options.name),
            election_options(options),
            self,
            clock=clock,
            log=self.log,
            on_bug=self.fail,
            on_deadline=self._cutoff.allow,
        )
        self._election = election
        election.start()
        self._looked_s = time.perf_counter()
        self._health.every(HEALTH_S, "health", self._look_at_health)
        return urls

    def _look_at_health(self) -> None:
        """Is this process still fit for a master?"""
        slowness, election = self._slowness, self._election
        now_s, now_ms = time.perf_counter(), self.node.clock.monotonic_ms()
        late_ms = (now_s - self._looked_s - HEALTH_S) * 1000
        self._looked_s = now_s
        reasons = [slowness.loop_was_late(late_ms, now_ms=now_ms)]
        if self.options.flush == "sync":  # else nobody waits for it
            took_ms, running = self.node.journal.slowest_sync()
            reasons.append(slowness.sync_took(took_ms, running=running, now_ms=now_ms))
        for reason in reasons:
            if reason is not None and election is not None:
                self.log.warning("too_slow", reason=reason)
                election.slow(reason)
        if slowness.stuck and election is not None:
            election.slow("fdatasync does not come back")  # as long as it lasts: somebody who may do better may come yet
        if election is not None and now_ms >= self._lacking_at_ms and (self.node.lacks or self.node.damaged):
            self._lacking_at_ms = now_ms + LACKING_MS
            election.slow("its log is damaged")
        master = self.node.master
        if master is not None and election is not None:
            short, followed = master.machine.short, bool(master.machine.sessions())
            if self._company.is_missing(short=short, followed=followed, now_ms=now_ms) and election.alone():
                self._company.sought()

    async def unregister(self) -> None:
        self._stopping = True
        if self._election is not None:
            await self._election.leave(LEAVE_S)
            await self._election.close()
            self.node.on_close = self._closed
        await self._health.stop()
        if self._cutoff is not None:
            self._cutoff.close()
        await super().unregister()

    def _closed(self) -> None:
        if self.failure is None:
            self._incarnations.closed(self.node.store.files)

    def make_members(self, **answers: Any) -> MemberHandlers:
        return PledgingMembers(self._pledge, **answers)

    async def _leads(self) -> bool:
        return False  # nobody has decided yet

    def _candidate(self, data_plane: str) -> Candidate:
        """Who this process is to its group. Its nonce is durable before anybody hears of it."""
        node, options = self.node, self.options
        try:
            before = Incarnations.load(node.store.files)
        except DamagedLog as failure:
            self.log.error("incarnations_lost", reason=str(failure))
            before = Incarnations((), "", False)
        cold = is_cold(node, before, log=self.log)
        self._incarnations = before.begun(node.store.files, self._nonce, boot_id())
        return Candidate(
            options.broker_id,
            node.identity.storage_uuid,
            self._nonce,
            frozenset(before.nonces),
            options.advertised if options.advertised != "auto" else data_plane,
            cold,
            Position(node.store.epoch, node.store.end_offset, node.complete),
        )

    def node_handlers(self) -> dict[int, Handler]:
        """A loop that was held up for less than it takes to be cut off, or was frozen with the thread that cuts, may find
        requests before it finds that its lease is over."""
        assert self._cutoff is not None
        return until(self._cutoff.is_over, super().node_handlers(), self._not_master)

    def official_methods(self) -> Service:
        """The same for the official API, whichever engine serves it."""
        assert self._cutoff is not None
        return calls.until(self._cutoff.is_over, super().official_methods(), self._not_master)

    def _was_cut_off(self, sockets: int) -> None:
        """The loop was held up past the lease, and nobody could be served meanwhile: give up the role, listen again."""
        self.log.error("cut_off", reason="the event loop was held up until the lease was over", sockets=sockets)
        assert self._server is not None
        self._server.unlisten()
        if self._election is not None:
            self._election.held_up()
        self._spawn(self._listen_again())

    async def _listen_again(self) -> None:
        assert self._server is not None
        endpoint = Endpoint(self.options.host, self.port)
        await bound("data plane", endpoint, self._server.listen(endpoint.host, endpoint.port))
        self.log.info("listening_again", port=self.port)

    def _log_damaged(self, reason: str) -> None:
        """It goes on as a slave, and may lead again when all of its log has been mended and read."""
        self._doubtful = True
        if self._election is not None:
            self._election.damaged(reason)

    def _log_whole(self) -> None:
        self._doubtful = False
        self.log.info("log_whole_again")
        if self._election is not None:
            self._election.mended()

    def disk_failed(self, reason: str) -> None:
        if self._election is not None:
            self._election.faulty(reason)
        super().disk_failed(reason)

    # ---- Roles

    def fence(self, reason: str) -> None:
        node = self.node
        if node.master is None:
            return
        node.master.machine.over = True
        if isinstance(node.master, ElectedReplication) and node.master.drained:
            assert self._server is not None
            self._serve(refusing(self._members.table(), self._not_master))
            self._server.see_off("this broker has handed over", linger_s=LINGER_S)
        else:
            self._turn_away()
        if not self._stopping:
            self._spawn(self._reopen(node, turned_away=True))

    async def quiet(self) -> Position:
        while True:
            async with self._changing:
                node = self.node
                slave = node.slave
                if slave is None or not slave.machine.over or slave.machine.halted is not None:
                    if slave is not None:
                        await slave.stop()
                        node.note_standing()
                    return Position(node.store.epoch, node.store.end_offset, node.complete)
            await asyncio.sleep(0.01)  # its log is about to be cut

    async def lead(self, term: Lead) -> None:
        async with self._changing:
            election, node = self._election, self.node
            if election is None or election.elector.term is None or election.elector.term.epoch != term.epoch:
                return
            self._target = None
            node.term = term
            await self._lead(promoted=True)

    async def follow(self, master: Follow) -> None:
        async with self._changing:
            node = self.node
            self._target = master
            if node.master is not None:
                return  # it is about to be a slave; it will look at the target then
            await self._follow_anew(forget=any(epoch > node.store.epoch for epoch in master.lossy))

    async def wait(self, reason: str) -> None:
        async with self._changing:
            self._target = None
            self.log.info("without_master", reason=reason)
            if self.node.master is None:
                await self._follow_anew(forget=False)

    async def _follow_anew(self, *, forget: bool) -> None:
        node = self.node
        if node.slave is not None:
            await node.slave.stop()
            if node.slave.machine.over and node.slave.machine.halted is None:
                return  # its log is about to be cut or copied; it will look at the target then
            node.note_standing()
        if forget:
            node.forget_promises()
        await self.tasks.stop()
        self._follow()

    def decided(self, epoch: int, sss: tuple[int, ...], elr: tuple[int, ...]) -> None:
        master = self.node.master
        if isinstance(master, ElectedReplication) and master.machine.epoch == epoch:
            master.decided(sss, elr)

    def renewed(self) -> None:
        master = self.node.master
        if isinstance(master, ElectedReplication):
            master.renewed()

    async def drain(self, to: int | None) -> bool:
        master = self.node.master
        if not isinstance(master, ElectedReplication):
            return False
        master.draining = True
        for _ in range(round(DRAIN_S / DRAIN_PAUSE_S)):
            if master.has_everything(to):
                await asyncio.sleep(DRAIN_PAUSE_S)  # who waited for it is answered
                master.drained = True
                return True
            await asyncio.sleep(DRAIN_PAUSE_S)
        return False

    def resume(self) -> None:
        if isinstance(self.node.master, ElectedReplication):
            self.node.master.draining = self.node.master.drained = False

    async def ask_pledge(self, replica: int, address: str, epoch: int) -> bool:
        try:
            async with asyncio.timeout(PLEDGE_S):
                connection = await connect(parse_endpoint(address), client_id=f"pledge-{replica}", handlers={})
        except TimeoutError:
            raise NotConnected(f"member {replica} does not answer") from None
        try:
            answer = await connection.ask_json(Code.PLEDGE, {"epoch": epoch}, timeout_s=PLEDGE_S)
            return fields.flag(answer, "pledged", False)
        finally:
            connection.close()

    def position(self) -> Position:
        return Position(self.node.store.epoch, self.node.store.end_offset, self.node.complete)

    def load(self) -> dict[str, float]:
        connections = len(self._server.peers) if self._server is not None else 0
        return {"connections": connections, **self._slowness.facts()}

    def halt(self, reason: str) -> None:
        self.fail(reason)

    # ---- the rest of the broker

    def _set_wanted(self, epoch: int, wanted: SetWanted) -> None:
        if self._election is not None:
            self._election.set_wanted(epoch, wanted.members, wanted.incarnations)

    def _step_down(self, epoch: int, reason: str) -> None:
        if self._election is not None:
            self._election.outdated(epoch, reason)

    def _group_changed(self) -> None:
        pass  # etcd says who leads

    async def _dial(self, handlers: dict[int, Callable[[WireMessage], None]], lost: Callable[[str], None]) -> MasterLink:
        target = self._target
        if target is None or target.master == self.options.broker_id:
            raise NotConnected("the group has no master at present")

        def ended(reason: str) -> None:
            lost(reason)
            if self._election is not None:
                self._election.session_ended()
            self._look_for(target)

        try:
            return await dial(
                parse_endpoint(target.address),
                self.options.name,
                client_id=f"{self.options.name}-{self.options.broker_id}",
                handlers=handlers,
                lost=ended,
            )
        except KourouError:
            self._look_for(target)
            raise

    def _look_for(self, target: Follow) -> None:
        term = (target.master, target.epoch)
        if not self._stopping and term not in self._probing:
            self._probing.add(term)
            self._spawn(self._probe(target))

    async def _probe(self, target: Follow) -> None:
        """The master's connection has ended, or none was to be had: is its process gone?"""
        try:
            ended = await has_ended(target.address, is_refused)
        finally:
            self._probing.discard((target.master, target.epoch))
        if ended and self._election is not None and self._target is target:
            self._election.master_refuses(target.epoch)

    async def _promote(self, accept_loss: bool, above: int) -> dict[str, Any]:
        """Hand over to this member, as soon as it is in sync; or, where there is no master, make it one whatever it lacks.
        Where another member was faster it is asked for again."""
        election = self._election
        if election is None:
            raise NotConnected("this broker has just begun")
        if self.node.master is not None:
            raise BadRequest(f"this broker is the master of epoch {self.node.epoch} already")
        me, asked, unknown, tries = self.options.broker_id, -1, "", 0
        loop = asyncio.get_running_loop()
        deadline = loop.time() + PROMOTE_S
        while self.node.master is None and loop.time() < deadline:
            epoch, master, in_sync = election.group()
            due = asked < 0 if accept_loss else me in in_sync and epoch > asked and master != me
            if due and tries < PROMOTE_TRIES:
                if election.barred is not None:
                    raise Fenced(f"this member does not lead: {election.barred}")
                try:
                    await election.request("elect" if accept_loss else "switchover", me)
                    asked, unknown, tries = epoch, "", tries + 1
                except OutcomeUnknown as failure:
                    unknown = str(failure)
            await asyncio.sleep(PROMOTE_PAUSE_S)
        if self.node.master is None:
            if unknown:
                raise NotConnected(unknown)
            epoch, master, in_sync = election.group()
            found = f"member {master} leads epoch {epoch}, in sync are {sorted(in_sync)}"
            why = "it did not hand over" if me in in_sync else f"{me} can't lead before it is in sync"
            raise NotMaster(
                f"no switchover within {PROMOTE_S:g} s: {found}; {why}. Where there is no master, --accept-loss makes this "
                f"member the master when the last lease is over"
            )
        return {"epoch": self.node.epoch, "log_offset": self.node.store.end_offset}

    def _status(self) -> dict[str, Any]:
        election = {} if self._election is None else self._election.status()
        return {**super()._status(), "failover": election}

    def _pledge(self, epoch: int) -> bool:
        return self._election is not None and self._election.asked_to_pledge(epoch)
