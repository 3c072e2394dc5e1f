"""What master and slave say to each other, and what their machines ask of their drivers. docs/replication.md is the theory.

``replicationmaster`` and ``replicationslave`` are the two ends. A *link* is a connection, named by a number that its
driver gives and never uses again. A *session* is what a slave's HELLO opens on a link; every message carries it.

Facts go in (a message came, the log grew, time passed), effects come out of ``take_effects`` in the order in which they
are to be done.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from kourou.broker.machines.history import History

PING_MS = 250
SILENCE_MS = 3_000
WINDOW_BYTES = 8 * 1024 * 1024  # sent to a slave and not acknowledged
BATCH_BYTES = 1024 * 1024
JOIN_GAP_BYTES = 1024 * 1024  # a slave that lacks less may join the sync state set


@dataclass(frozen=True, slots=True)
class Member:
    """Who somebody is in a broker group."""

    cluster: str
    group: str
    replica: int  # broker id
    storage: str  # of the data directory; another one under the same id is an empty disk


@dataclass(frozen=True, slots=True)
class LogFacts:
    """A log at one moment."""

    history: History
    start: int
    end: int
    flushed: int


# ---- messages


@dataclass(frozen=True, slots=True)
class Hello:
    member: Member
    session: int
    epoch: int  # the highest that the slave knows of
    log: LogFacts
    confirm: int
    learner: bool = False
    address: str | None = None  # of the slave's own data plane


@dataclass(frozen=True, slots=True)
class Welcome:
    epoch: int
    session: int
    truncate_to: int
    confirm: int
    start: int
    end: int
    ack_all: bool  # is C a promise?


@dataclass(frozen=True, slots=True)
class CopyNeeded:
    """The master no longer has what follows on the slave's log, which is the same up to ``common``."""

    epoch: int
    session: int
    common: int


@dataclass(frozen=True, slots=True)
class StaleMaster:
    """The slave knows a higher epoch than the one that it asked."""

    epoch: int


@dataclass(frozen=True, slots=True)
class Refused:
    reason: str


@dataclass(frozen=True, slots=True)
class Ready:
    session: int
    end: int
    flushed: int


@dataclass(slots=True)
class Batch:
    """Whole frames, contiguous; the bytes are the driver's business."""

    session: int
    epoch: int
    start: int
    end: int
    confirm: int


@dataclass(slots=True)
class Ack:
    session: int
    epoch: int
    appended: int
    flushed: int


@dataclass(frozen=True, slots=True)
class Ping:
    session: int
    epoch: int
    end: int
    confirm: int
    members: tuple[int, ...] = ()  # of the sync state set; the master's pings alone
    eligible: tuple[int, ...] = ()
    lease_ms: int | None = None  # the master's time of leases, set as it is sent


Message = Hello | Welcome | CopyNeeded | StaleMaster | Refused | Ready | Ack | Ping


# ---- effects


@dataclass(slots=True)
class Send:
    link: int
    message: Message


@dataclass(slots=True)
class SendFrames:
    """Read whole frames from the log and send them as a batch; then call ``sent``. Dropped when the session is over."""

    link: int
    session: int
    start: int
    bytes_max: int


@dataclass(slots=True)
class Confirmed:
    """C has moved: everything below may be answered and shown."""

    offset: int


@dataclass(slots=True)
class Close:
    """End a link; a slave dials again."""

    link: int
    reason: str


@dataclass(slots=True)
class SetChanged:
    """The sync state set is another one. For the log, and for whoever waits for members."""

    members: tuple[int, ...]
    reason: str


@dataclass(slots=True)
class StepDown:
    """Somebody has a higher epoch: this term is over."""

    epoch: int
    reason: str


@dataclass(slots=True)
class Append:
    """Check and append the batch at hand; then call ``appended``."""

    batch: Batch


@dataclass(slots=True)
class Truncate:
    """Cut the log here, durably, bring the state back to it, and dial again."""

    offset: int
    reason: str


@dataclass(slots=True)
class TakeCopy:
    """Throw the log away and take the master's snapshot and log; then dial again."""

    link: int
    session: int


@dataclass(slots=True)
class Halt:
    """Replicating on would break a promise: keep everything as it is until an operator decides."""

    reason: str


MasterEffect = Send | SendFrames | Confirmed | Close | SetChanged | StepDown
SlaveEffect = Send | Append | Confirmed | Close | Truncate | TakeCopy | Halt


@dataclass(slots=True)
class Standing:
    """Of a member of the sync state set, whether it is connected or not."""

    storage: str
    caught_up_ms: int  # it had everything that the master had then


@dataclass(slots=True)
class Session:
    """A slave as its master sees it."""

    link: int
    session: int
    member: Member
    learner: bool
    truncate_to: int
    heard_ms: int
    streaming: bool = False  # READY came; before, nothing that it has counts
    reading: bool = False  # frames for it are being read
    sent: int = 0
    appended: int = 0
    flushed: int = 0
    caught_up_ms: int = 0
    sample: tuple[int, int] | None = field(default=None)  # (when, where the log ended then)
