"""What must hold after every event: one function for each invariant of docs/simulation.md, with its number.

They are asked about one host, after something happened in its process. ``Truth`` is everything that was ever confirmed.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

from tests.sim.host import Host
from tests.sim.process import TOPIC
from tests.sim.violation import Violation

if TYPE_CHECKING:
    from tests.sim.world import World


def one_master(world: World, host: Host) -> None:
    """1. At most one replica ever begins an epoch."""
    assert host.process is not None
    leading = host.process.leading
    if leading is not None and world.masters.setdefault(leading.epoch, leading) is not leading:
        raise Violation(f"1: epoch {leading.epoch} was begun twice, lastly by {host.replica}")


def epochs_rise(world: World, host: Host) -> None:
    """2. The highest epoch that a replica knows of never decreases while it runs."""
    process = host.process
    assert process is not None
    epoch = process.following.machine.epoch if process.following is not None else process.epoch
    if epoch < host.seen_epoch:
        raise Violation(f"2: {host.replica} knew of epoch {host.seen_epoch}, now of {epoch}")
    host.seen_epoch = epoch


def confirmed_is_final(world: World, host: Host) -> None:
    """4. Once any node had C > x, frame x is the same on every later master; and whoever has a C there has that frame."""
    process, truth = host.process, world.truth
    assert process is not None
    if world.is_deposed(host):
        return
    confirm = process.confirmed
    if confirm > truth.end:
        if confirm not in host.ends:
            raise Violation(f"4: C {confirm} of {host.replica} is no frame's end in its log, which ends at {host.known_end}")
        if not truth.is_in(host):
            raise Violation(f"4: {host.replica} confirms {confirm} without what was confirmed up to {truth.end}")
        truth.grow(host, confirm, world.frames)
    elif confirm > process.store.min_offset and host.ends.get(confirm) != truth.sums.get(confirm):
        raise Violation(f"4: below C {confirm} {host.replica} has another log than what was confirmed")


def new_master_has_all(world: World, host: Host) -> None:
    """4, 5. A master's log begins with everything that was ever confirmed."""
    assert host.process is not None
    leading = host.process.leading
    if leading is not None and leading.epoch not in world.terms:
        last = world.terms.get(world.latest_term())
        world.terms[leading.epoch] = host.replica
        if leading.epoch == world.latest_term() and not world.truth.is_in(host):
            end = world.truth.end
            if world.may_lose_truth(host, leading, last):
                lost = world.truth.rewind(host, world.frames)
                world.note(host.replica, f"begins without {lost} bytes of what was confirmed")
                if world.clients.incarnation and host.process.state.topics.find(TOPIC) is None:
                    world.clients.topic_lost()
                return
            raise Violation(f"4: {host.replica} leads epoch {leading.epoch} without all that is confirmed up to {end}")


def members_have_it(world: World, host: Host) -> None:
    """6, 7. C moves only to what every member of the set has, by page cache or disk as flush says, while the set is large
    enough, and not to below the EPOCH frame."""
    process = host.process
    assert process is not None
    leading = process.leading
    if leading is None:
        return
    moves, leading.moves = leading.moves, []
    if moves and leading.electing is not None and not leading.electing.leads():
        raise Violation(f"14: C of {host.replica} moved to {moves[-1][0]} when its lease was over")
    for offset, members in moves:
        if world.is_deposed(host):
            world.give_up(host, offset)
        if world.settings.ack_all and len(members) < world.settings.min_isr:
            raise Violation(f"7: C moved to {offset} with {members} in the set; min_isr is {world.settings.min_isr}")
        if offset < leading.machine.term_end:
            raise Violation(f"7: C moved to {offset}, which is before the term's EPOCH frame ends")
        for member in members if world.settings.ack_all else ():
            other = world.hosts[member]
            if member in world.lost:
                continue  # it lost it after it said so
            if not other.has(offset, host.ends[offset]):
                raise Violation(f"6: C moved to {offset}, but member {member} ends at {other.known_end}")
            durable = other.process.store.synced_offset if other.process is not None else other.synced
            if world.settings.sync_flush and durable < offset:
                raise Violation(f"6: C moved to {offset}, but only {durable} is durable at member {member}")


def set_has_all(world: World, host: Host) -> None:
    """8, 10. Every member of the set, and who is eligible, holds all frames below C, and on this disk."""
    process = host.process
    assert process is not None
    leading = process.leading
    if leading is None or leading.machine.over or not world.settings.ack_all or world.is_deposed(host):
        return
    machine = leading.machine
    confirm = machine.confirm
    if confirm < process.store.min_offset:
        return  # what it knows to be confirmed was deleted by retention since
    counted = (*machine.members, *machine.eligible)
    if leading.electing is not None:  # what counts is what etcd has; a master may wait for more
        state = world.group_state()
        if state is None or state.epoch != leading.epoch:
            return
        counted = (*state.sss, *state.elr)
    for member in counted:
        other = world.hosts[member]
        if member in world.lost and not world.has_session(leading, other):
            continue  # the master can't know yet
        deleted = confirm < (other.process.store.min_offset if other.process is not None else other.known_start)
        if not deleted and not other.has(confirm, world.truth.sums.get(confirm, -1)):
            raise Violation(f"8: {member} counts as in sync with {host.replica}, but lacks what is below C {confirm}")


def set_covers_etcd(world: World, host: Host) -> None:
    """9. The set in effect on a master is at least the one that etcd has for its epoch."""
    assert host.process is not None
    leading = host.process.leading
    if leading is None or leading.electing is None or leading.machine.over:
        return
    state = world.group_state()
    if state is not None and state.epoch == leading.epoch:
        missing = set(state.sss) - {host.replica, *leading.machine.members}
        if missing:
            raise Violation(f"9: {host.replica} does not wait for {missing}, who are in the set in etcd")


def no_cut_below_promise(world: World, host: Host) -> None:
    """11. No follower cuts below what it was promised; and nobody is asked to, so nobody halts."""
    process = host.process
    assert process is not None
    if process.anew:  # it had fallen behind the start of its master's log, which has all that was promised
        process.anew, host.promised = False, 0
    if not host.cold and host.known_end < host.promised:
        raise Violation(f"11: {host.replica} was promised {host.promised} and has cut its log at {host.known_end}")
    kept = process.store.synced_offset if world.settings.sync_flush else host.known_end  # what counts as had
    host.promised = min(process.promised, kept)
    if process.following is not None and process.following.halted is not None and not world.truth.rewinds:
        raise Violation(f"11: {host.replica} halts: {process.following.halted}")


def told_c_is_true(world: World, host: Host) -> None:
    """13. The C that a follower was told is not above the master's."""
    assert host.process is not None
    if host.process.confirmed > world.truth.end and not world.is_deposed(host):
        raise Violation(f"13: {host.replica} believes in C {host.process.confirmed}; confirmed is {world.truth.end}")


def history_is_log(world: World, host: Host) -> None:
    """18. History pairs strictly rise in both parts, and are the EPOCH frames in the log."""
    process = host.process
    assert process is not None
    pairs = process.store.epochs.entries
    if pairs == host.epochs:
        return
    start = process.store.min_offset
    kept = [pair for pair in pairs if pair[1] >= start]
    found = [pair for pair in host.epochs if pair[1] >= start]
    if found and found[0] not in kept and found[0][1] == start:
        found = found[1:]  # the log starts in the middle of an epoch
    if kept != found or any(a[0] >= b[0] or a[1] >= b[1] for a, b in pairwise(pairs)):
        raise Violation(f"18: the history of {host.replica} is {pairs}, its log says {host.epochs}")


def retention_keeps(world: World, host: Host) -> None:
    """19. Retention never removes a frame at or above C, nor what comes behind the newest snapshot."""
    process = host.process
    assert process is not None
    store = process.store
    if store.min_offset == 0 or process.copy is not None:
        return
    if store.min_offset > store.snapshot_offset:
        raise Violation(
            f"19: the log of {host.replica} starts at {store.min_offset}, its snapshot is of {store.snapshot_offset}"
        )
    if store.min_offset > world.truth.end and not world.is_deposed(host):
        raise Violation(f"19: the log of {host.replica} starts at {store.min_offset}, above C {world.truth.end}")


ALL = (
    one_master,
    epochs_rise,
    new_master_has_all,
    confirmed_is_final,
    members_have_it,
    set_has_all,
    set_covers_etcd,
    no_cut_below_promise,
    told_c_is_true,
    history_is_log,
    retention_keeps,
)


def check(world: World, host: Host) -> None:
    """All of them, for a host in whose process something has happened."""
    if host.process is None:
        return
    host.read_log(world.frames)
    for invariant in ALL:
        invariant(world, host)


def same_state(world: World) -> None:
    """17. state = fold(log): replicas at equal log offset have queues of equal ends, and state of equal hash."""
    seen: dict[int, tuple[int, dict[str, str]]] = {}
    for host in world.hosts:
        process = host.process
        if process is None or not process.complete:
            continue
        digest = {**process.state.digest(), "queues": process.store.index.digest()}
        end = host.known_end
        other = seen.setdefault(end, (host.replica, digest))
        if host.ends.get(end) == world.hosts[other[0]].ends.get(end) and digest != other[1]:
            parts = [name for name in digest if digest[name] != other[1].get(name)]
            raise Violation(f"17: at {end} the {parts} of {host.replica} are not those of {other[0]}")
