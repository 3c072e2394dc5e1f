"""Messages that can't be read, and what a stream consumer does about them. Two kinds, told apart by the checksum:

    wrong checksum       the broker's disk (or the way from it) changed what was acknowledged. The consumer raises
                         DamagedMessages, which says where it is and how to go on behind it: nothing is left out unasked
    right checksum       a producer stored what nobody can read (records that don't inflate, say). It is left out, with a
                         warning in the log and counted, so that one bad producer does not hold up a queue

Whoever passes ``on_damaged`` is called for both, and the consumer goes on behind them. A property block that is garbage
costs its properties only: the message is delivered, ``fields`` logs it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

from kourou.core.errors import BadChecksum

log = logging.getLogger("kourou.client")


@dataclass(frozen=True, slots=True)
class Damage:
    """Messages of one frame that can't be read."""

    topic: str
    broker: str
    queue: int
    offset: int  # queue offset of the first
    next_offset: int  # behind the last
    log_offset: int
    stored_so: bool  # a producer stored it that way; else the bytes were changed later
    reason: str

    @property
    def count(self) -> int:
        return self.next_offset - self.offset

    def __str__(self) -> str:
        return (
            f"{self.count} messages of topic {self.topic} can't be read: queue {self.queue} of broker {self.broker}, "
            f"offsets {self.offset} to {self.next_offset - 1} (log offset {self.log_offset}): {self.reason}"
        )


OnDamaged = Callable[[Damage], None]


class DamagedMessages(BadChecksum):
    """What a consumer came upon; ``damage`` says where."""

    def __init__(self, damage: Damage, group: str) -> None:
        place = f"--queue {damage.broker}:{damage.queue} --to offset:{damage.next_offset}"
        seek = f"consumer.seek({damage.queue}, {damage.next_offset}, broker={damage.broker!r})"
        super().__init__(
            f"{damage}. To go on behind them: {seek}, or kourou group reset {group} {damage.topic} {place}, "
            "or a consumer with on_damaged"
        )
        self.damage = damage


class DamageReport:
    """One of a consumer."""

    def __init__(self, group: str, on_damaged: OnDamaged | None) -> None:
        self._group = group
        self._on_damaged = on_damaged
        self.count = 0  # messages that were left out

    @property
    def leaves_all_out(self) -> bool:
        return self._on_damaged is not None

    def found(self, damage: Damage) -> None:
        """Leave it out, or raise DamagedMessages."""
        if self._on_damaged is not None:
            self._on_damaged(damage)
        elif damage.stored_so:
            log.warning("left out: %s", damage)
        else:
            raise DamagedMessages(damage, self._group)
        self.count += damage.count
