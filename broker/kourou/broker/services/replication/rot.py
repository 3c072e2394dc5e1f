"""Is it our own log that a slave can't take? Sessions that end again and again at one place say so; then the log is read
from the disk once more, past what is in memory.
"""

from __future__ import annotations

from kourou.broker.machines.replication import Session
from kourou.broker.store.copying import verify_frames
from kourou.broker.store.store import Store
from kourou.core.errors import DamagedLog

TIMES = 2  # sessions that ended at one place, one after the other: no chance
LOOK_BYTES = 4 * 1024 * 1024  # as much as has been sent at once, and more


class Stuck:
    """Which slaves get no further."""

    def __init__(self) -> None:
        self._places: dict[int, tuple[int, int]] = {}  # by broker id: where the last session ended, how many did

    def ended(self, session: Session) -> bool:
        """A session has ended; is it time to look at what follows on what the slave has?"""
        replica, appended = session.member.replica, session.appended
        if session.sent <= appended:
            self._places.pop(replica, None)
            return False
        place, times = self._places.get(replica, (-1, 0))
        times = times + 1 if place == appended else 1
        self._places[replica] = (appended, times)
        return times >= TIMES


def damage_at(store: Store, offset: int, end: int) -> str | None:
    """*Blocking*. What is wrong with the log on the disk from an offset on; None: nothing. What was wrong in memory alone is
    right afterwards."""
    try:
        file, at = store.log.locate(offset)
        file.forget(at, LOOK_BYTES)
        verify_frames(store, offset, end=end, bytes_max=LOOK_BYTES)
    except DamagedLog as failure:
        return str(failure)
    return None
