"""A promotion counts once another member has confirmed its first frame; until then nothing is served.

A slave that is promoted notes ``PROMOTED`` and the epoch that it begins, but as *known* the epoch from before. When it ends
before anybody has confirmed the new one, its next process is what the member was: a slave. Else it could come back with an
epoch that is higher than the one of whoever was promoted in its place and has served since, and win against it. The number
stays noted, so that none of its later promotions begins it again: somebody may have the frame without our knowing.
"""

from __future__ import annotations

from kourou.broker.store.copying import cut_back
from kourou.broker.store.standing import MASTER, PROMOTED, SLAVE, StandingFile
from kourou.broker.store.store import Store, epoch_frame_size


def withdraw(store: Store, standing: StandingFile) -> bool:
    """*Blocking*. Take back a promotion that was not confirmed, if there is one. True: the log was cut, and the store is to
    be opened anew."""
    if standing.role != PROMOTED:
        return False
    epoch, offset = store.epochs.entries[-1] if store.epochs.entries else (0, 0)
    began = epoch == standing.begun
    if began and store.end_offset > offset + epoch_frame_size(epoch):
        role, known = MASTER, epoch  # it has served: a newer slot of the file was lost
    else:
        role, known = SLAVE, standing.epoch
        if began:
            cut_back(store, offset)
    standing.note(epoch=known, confirm=standing.confirm, promised=standing.promised, role=role)
    return began and role == SLAVE
