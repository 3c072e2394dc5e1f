"""Where two logs part: histories are pairs (epoch, log offset of its first frame), ascending in both. Pure.

Every term begins with an EPOCH frame, and of one epoch there is one master. So two logs that share a pair are the same up
to that point and as long as both go on within that epoch.
"""

from __future__ import annotations

import itertools
from bisect import bisect_left
from collections.abc import Sequence

History = Sequence[tuple[int, int]]

PROMOTION_STEP = 1_000
REPLICA_STEP = 100
EPOCH_LEAP_MAX = 1_000 * PROMOTION_STEP  # nobody misses that many promotions


def meeting_point(follower: History, follower_end: int, master: History, master_end: int) -> int | None:
    """The log offset up to which the follower's log is also the master's; None when they share no epoch."""
    for number in range(len(follower) - 1, -1, -1):
        pair = follower[number]
        place = bisect_left(master, pair)
        if place < len(master) and master[place] == pair:
            return min(_end(follower, number, follower_end), _end(master, place, master_end))
    return None


def _end(history: History, number: int, log_end: int) -> int:
    """Where an epoch ends."""
    return history[number + 1][1] if number + 1 < len(history) else log_end


def is_history(history: History) -> bool:
    """Do both parts rise strictly?"""
    return all(a[0] < b[0] and a[1] < b[1] for a, b in itertools.pairwise(history))


def implausible(epoch: int, known: int) -> str | None:
    """Why nobody can truly know of such an epoch where ``known`` is the highest so far. Epochs are u32: one that was made up
    and believed would leave no room for those that follow."""
    if epoch - known <= EPOCH_LEAP_MAX:
        return None
    return f"epoch {epoch} can't be: {known} is known here, and none leaps by more than {EPOCH_LEAP_MAX}"


def next_epoch(latest: int, *, replica: int, promoted: bool) -> int:
    """The epoch to begin. A promotion leaps: a former master that restarts alone, adding one each time, stays below.

    And it leaps to where no other replica does: one that was promoted and died before anybody heard of it, and the next
    one that is promoted, must not begin the same epoch, or two histories would seem to be one.
    """
    if not promoted:
        return latest + 1
    return (latest // PROMOTION_STEP + 1) * PROMOTION_STEP + replica % (PROMOTION_STEP // REPLICA_STEP) * REPLICA_STEP
