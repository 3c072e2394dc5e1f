"""One term of a master: until when it may lead, by its own clock and by what others have promised.

    renewed at t0, committed:   it may lead until t0 + D - margin
    a candidate saw that revision at t1 >= commit >= t0, and waits until t1 + D

No two clocks are compared; that they run at the same rate, within the margin, is all that is asked of them. And that is
for readers only: what is written is safe without any clock.

While etcd can't be reached, pledges take the lease's place: every replica that could take over has promised, at some
time after it was asked, not to campaign for D from then on. So until the time of asking + D - margin nobody does. That
holds also when etcd is back, and shows that of all tries to renew an old one has come through.
"""

from __future__ import annotations

from kourou.broker.machines.election import ElectionOptions

SILENT_MS = 1_000  # without a renewal: pledges are asked for


class Term:
    def __init__(self, epoch: int, *, seq: int, lease_mod: int, tries: dict[int, int], options: ElectionOptions) -> None:
        """``tries``: when each lease that may be the one in etcd was sent; ``seq`` is the one that is."""
        began_ms = tries[seq]
        self.epoch = epoch
        self.seq = max(tries)  # of the last lease that was written, or tried
        self.lease_mod = lease_mod
        self.renewing: int | None = None  # the number of the transaction
        self.sent_ms = began_ms  # when the last try was sent
        self.renewed_ms = began_ms  # when the last try that succeeded was sent
        self.asked_ms = began_ms  # when pledges were last asked for
        self._options = options
        self._tries = tries
        self._pledges: dict[int, int] = {}  # until when, by this replica's clock

    def sending(self, now_ms: int) -> int:
        """A renewal is on its way; its sequence."""
        self.seq += 1
        self.sent_ms = now_ms
        self._tries[self.seq] = now_ms
        return self.seq

    def committed(self, seq: int, mod: int) -> None:
        """The lease in etcd is the one of this try."""
        self.lease_mod = mod
        sent_ms = self._tries.get(seq)
        if sent_ms is not None and sent_ms > self.renewed_ms:
            self.renewed_ms = sent_ms
            self._tries = {s: ms for s, ms in self._tries.items() if s >= seq}

    @property
    def lease_deadline_ms(self) -> int:
        return self.renewed_ms + self._options.lease_ms - self._options.margin_ms

    def deadline_ms(self, eligible: frozenset[int]) -> int:
        """``eligible``: everybody else who could take over."""
        deadline = self.lease_deadline_ms
        if eligible and all(replica in self._pledges for replica in eligible):
            deadline = max(deadline, min(self._pledges[replica] for replica in eligible))
        return deadline

    def pledged(self, replica: int, *, asked_ms: int) -> None:
        until = asked_ms + self._options.lease_ms - self._options.margin_ms
        self._pledges[replica] = max(until, self._pledges.get(replica, 0))

    def silent(self, now_ms: int) -> bool:
        return now_ms - self.renewed_ms > SILENT_MS
