"""A member of a group that elects its master: what it begins a term with, and what it may forget, was decided in etcd."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial

from kourou.app.member import MIB, MemberNode
from kourou.broker.machines.electedmaster import ElectedMaster, SetWanted
from kourou.broker.machines.electionstate import Replica
from kourou.broker.machines.replication import Member
from kourou.broker.services.election.elected import ElectedReplication
from kourou.broker.services.election.roles import Lead
from kourou.broker.services.replication.master import MasterReplication
from kourou.broker.store.standing import SLAVE


class ElectedNode(MemberNode):
    """``term`` is what the next term begins with."""

    nonce = ""
    on_close: Callable[[], None] = staticmethod(lambda: None)
    term: Lead | None = None
    leads: Callable[[], bool]
    on_wanted: Callable[[int, SetWanted], None]

    def open_storage(self) -> None:
        super().open_storage()
        storage = Replica(self.identity.storage_uuid, self.nonce, "").incarnation
        self.me = Member(self.identity.cluster, self.identity.broker, self.identity.broker_id, storage)

    def begin_term(
        self, *, promoted: bool, on_step_down: Callable[[int, str], None], refused: Callable[[str], Awaitable[bool]]
    ) -> MasterReplication:
        options, store, term = self.options, self.store, self.term
        assert term is not None
        confirm = self.enter_term(term.epoch)
        self.slave = None
        machine = ElectedMaster(
            self.me,
            self._facts(),
            sss=term.sss,
            elr=term.elr,
            storages=term.storages,
            leads=self.leads,
            now_ms=self.clock.monotonic_ms(),
            epoch=term.epoch,
            confirm=confirm,
            ack_all=options.ack == "all",
            min_isr=options.min_isr,
            sync_flush=options.flush == "sync",
            lag_ms_max=int(options.lag_max_s * 1000),
        )
        self.journal = self.new_journal(confirmed=machine.confirm)
        self.master = ElectedReplication(
            store,
            machine,
            clock=self.clock,
            read_executor=self._read_pool,
            log=self._log,
            on_step_down=on_step_down,
            refused=refused,
            catchup_bytes_s=options.catchup_mib_s * MIB,
            on_wanted=partial(self.on_wanted, term.epoch),
        )
        self._tell(self.master)
        self._attach(self.journal, self.master)
        return self.master

    def forget_promises(self) -> None:
        """An operator, or the loss of all page caches, has decided that some of what was promised is gone."""
        self.standing.note(epoch=self.epoch, confirm=0, promised=0, role=SLAVE)

    def let_go(self) -> None:
        self.on_close()  # all is durable
        super().let_go()
