"""What each of an elector's transactions compares, and what it writes: the table of docs/failover.md.

None of them decides anything. Each is built from what the view shows, and is done only if that is so still.
"""

from __future__ import annotations

from collections.abc import Iterable

from kourou.broker.machines.coordination import Delete, Put, Txn
from kourou.broker.machines.election import Candidate
from kourou.broker.machines.electionstate import GroupState, Keys, Lease
from kourou.broker.machines.electorregistration import Registration
from kourou.broker.machines.electorterm import Term
from kourou.broker.machines.electorview import ElectorView

Basis = tuple[int, int]  # the revisions of state and lease that something was decided upon


class Transactions:
    """``incarnation``: the revision of this process's registration, 0 before it."""

    def __init__(self, me: Candidate, keys: Keys, view: ElectorView) -> None:
        self.incarnation = 0
        self._me = me
        self._keys = keys
        self._view = view

    @property
    def basis(self) -> Basis:
        return self._view.mod(self._keys.state), self._view.mod(self._keys.lease)

    def registered(self) -> None:
        self.incarnation = self._view.mod(self._keys.replica(self._me.replica))

    def register(self, found: Registration) -> Txn:
        """With the state that it leads to, where that is another one."""
        mine = self._keys.replica(self._me.replica)
        writes: tuple[Put | Delete, ...] = (Put(mine, found.record.encode()),)
        if found.state is not None:
            writes = (*writes, Put(self._keys.state, found.state.encode()))
        return Txn(self._same(self._keys.state, mine), writes, self._all())

    def take_over(self, basis: Basis, new: GroupState, *, seq: int) -> Txn:
        keys, me = self._keys, self._me
        lease = Lease(new.epoch, me.replica, seq, me.nonce)
        compare = ((keys.state, basis[0]), (keys.lease, basis[1]), (keys.replica(me.replica), self.incarnation))
        writes: tuple[Put | Delete, ...] = (Put(keys.state, new.encode()), Put(keys.lease, lease.encode()))
        op = self._view.op
        if op is not None and op.to == me.replica:
            writes = (*writes, Delete(keys.op))
        return Txn(compare, writes, self._all())

    def change(self, new: GroupState, *, added: Iterable[int]) -> Txn:
        """``added`` come in as the processes that they are now."""
        state = self._keys.state
        compare = self._same(state, *(self._keys.replica(replica) for replica in sorted(added)))
        return Txn(compare, (Put(state, new.encode()),), self._all())

    def renew(self, term: Term, *, seq: int) -> Txn:
        keys, me = self._keys, self._me
        lease = Lease(term.epoch, me.replica, seq, me.nonce)
        compare = ((keys.lease, term.lease_mod), (keys.replica(me.replica), self.incarnation))
        return Txn(compare, (Put(keys.lease, lease.encode()),), self._all())

    def release(self, term: Term, to: int | None, *, seq: int) -> Txn:
        keys, me = self._keys, self._me
        lease = Lease(term.epoch, me.replica, seq, me.nonce, True, to)
        writes: tuple[Put | Delete, ...] = (Put(keys.lease, lease.encode()),)
        op = self._view.op
        if op is not None and op.kind == "switchover":
            writes = (*writes, Delete(keys.op))
        return Txn(self._same(keys.state, keys.lease), writes, self._all())

    def forget_operation(self) -> Txn:
        key = self._keys.op
        return Txn(self._same(key), (Delete(key),), (key,))

    def _same(self, *keys: str) -> tuple[tuple[str, int], ...]:
        return tuple((key, self._view.mod(key)) for key in keys)

    def _all(self) -> tuple[str, ...]:
        """What is read when a comparison fails."""
        keys = self._keys
        replicas = sorted({*self._view.replicas, self._me.replica})
        return (keys.state, keys.lease, keys.op, *(keys.replica(replica) for replica in replicas))
