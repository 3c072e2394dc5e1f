"""Which member of a group gets which queues: a bounded rendezvous hash.

Every member scores every queue by a hash; a queue goes to the member with the highest score that still has room. Room is
floor or ceil of queues/members, so the shares are even also for small topics; scores don't depend on who else is there,
so a member that comes or goes moves little more than its own share. The result depends on the set of members and queues
alone: brokers that see the same members agree without talking.

Thaler and Ravishankar, "A Name-Based Mapping Scheme for Rendezvous" (1996); bounded loads after Mirrokni, Thorup and
Zadimoghaddam (2018).
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from functools import lru_cache

Queue = tuple[str, int]  # broker, queue id


@lru_cache(maxsize=200_000)
def _score(member: str, queue: Queue) -> int:
    """A well mixed 32-bit score (crc32 alone is linear, so it is finished with murmur3's mixer)."""
    h = zlib.crc32(f"{queue[0]}\0{queue[1]}".encode(), zlib.crc32(member.encode()))
    h ^= h >> 16
    h = h * 0x85EBCA6B & 0xFFFFFFFF
    h ^= h >> 13
    h = h * 0xC2B2AE35 & 0xFFFFFFFF
    return h ^ h >> 16


def assign(queues: Iterable[Queue], members: Iterable[str]) -> dict[str, list[Queue]]:
    """The queues of each member, sorted; every member has floor or ceil of an even share."""
    all_queues = sorted(set(queues))
    names = sorted(set(members))
    shares: dict[str, list[Queue]] = {name: [] for name in names}
    if not names:
        return shares
    small, extra = divmod(len(all_queues), len(names))
    pairs = sorted(((_score(name, queue), name, queue) for queue in all_queues for name in names), reverse=True)
    taken: set[Queue] = set()
    full_shares = 0  # members that have one more than the small share
    for _, name, queue in pairs:
        if queue in taken:
            continue
        share = shares[name]
        if len(share) < small or (len(share) == small and full_shares < extra):
            if len(share) == small:
                full_shares += 1
            share.append(queue)
            taken.add(queue)
            if len(taken) == len(all_queues):
                break
    for share in shares.values():
        share.sort()
    return shares
