"""The driver of an elected master: its set is wanted here, and decided in etcd."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from kourou.broker.machines.electedmaster import ElectedMaster, SetWanted
from kourou.broker.machines.replication import MasterEffect
from kourou.broker.services.replication.master import MasterReplication
from kourou.core.errors import Busy, KourouError


class ElectedReplication(MasterReplication):
    machine: ElectedMaster

    def __init__(self, *arguments: Any, on_wanted: Callable[[SetWanted], None], **options: Any) -> None:
        self.draining = False
        self.drained = False  # nothing is under way for clients any more
        self._on_wanted = on_wanted
        super().__init__(*arguments, **options)

    def refusal(self, *, unconfirmed_bytes: int, waiting: int) -> KourouError | None:
        if self.draining:
            return Busy("the master of this broker group is handing over", retry_after_ms=20)
        return super().refusal(unconfirmed_bytes=unconfirmed_bytes, waiting=waiting)

    def decided(self, sss: tuple[int, ...], elr: tuple[int, ...]) -> None:
        self.machine.decided(sss, elr, now_ms=self._clock.monotonic_ms())
        self._perform()

    def renewed(self) -> None:
        self.machine.leads_again()
        self._perform()

    def has_everything(self, replica: int | None) -> bool:
        """Is all that is in the log confirmed, and at this slave?"""
        machine = self.machine
        if machine.confirm < self._store.end_offset:
            return False
        return replica is None or any(
            session.member.replica == replica and session.appended >= self._store.end_offset
            for session in machine.sessions()
        )

    def _do(self, effect: MasterEffect) -> None:
        if isinstance(effect, SetWanted):
            self._log.info("sync_state_set_wanted", members=sorted(effect.members), reason=effect.reason)
            self._on_wanted(effect)
        else:
            super()._do(effect)
