"""What the elector asks of its driver, and what it can be told. docs/failover.md is the theory, ``elector`` the machine."""

from __future__ import annotations

from dataclasses import dataclass

from kourou.broker.machines.coordination import Txn
from kourou.core.errors import BadRequest

TOLERANCE_MS = 400  # deadline of a call to etcd


@dataclass(frozen=True, slots=True)
class ElectionOptions:
    """Times in milliseconds."""

    lease_ms: int = 3_000  # D: unchanged for so long, the lease is free
    renew_ms: int = 500
    margin_ms: int = 500  # the master stops so much before D; clocks may run apart by that much in D
    leader_change_ms: int = 1_400  # how long etcd is away when its leader dies: measured with its default time-outs
    rank_ms: int = 20  # between candidates of equal right
    successor_ms: int = 200  # how long the one that a master named is given before others try
    min_isr: int = 1
    ack_all: bool = True
    refusals: bool = True  # take over when the master's host refuses connections; off behind proxies that do so for others
    unclean: bool = False  # anybody may take over after ten times D
    learner: bool = False  # never becomes master
    found: bool = False  # create the group's keys although this log is not empty

    def __post_init__(self) -> None:
        needed = self.leader_change_ms + self.renew_ms + TOLERANCE_MS
        if needed >= self.lease_ms - self.margin_ms:
            raise BadRequest(
                f"a lease of {self.lease_ms} ms is too short: a change of etcd's leader ({self.leader_change_ms} ms), an "
                f"interval ({self.renew_ms}) and a call ({TOLERANCE_MS}) must fit into it, less {self.margin_ms} of margin"
            )


@dataclass(frozen=True, slots=True)
class Candidate:
    """Who this replica is, and in what condition it was found at start."""

    replica: int
    storage: str
    nonce: str  # of this process; durable before it is used
    known: frozenset[str]  # nonces that this disk remembers
    address: str
    cold: bool  # it may lack what it had when it stopped
    log: Position


@dataclass(frozen=True, slots=True, order=True)
class Position:
    """A log's latest epoch and its end. ``whole``: it reaches up to the state that was copied with it, if one was."""

    epoch: int
    end: int
    whole: bool = True


# ---- effects, in the order in which they are to be done


@dataclass(slots=True)
class Transact:
    """Do it, once, and call ``done`` with the outcome, or with None when the answer did not come in time."""

    number: int
    txn: Txn


@dataclass(slots=True)
class Look:
    """Read all keys of the group and call ``looked`` with the picture, or with None."""

    number: int


@dataclass(slots=True)
class StopFollowing:
    """End the session with the master and let nothing more be acknowledged in it; then call ``quiet``."""

    reason: str


@dataclass(slots=True)
class Lead:
    """This replica is the master of an epoch. Its sets are as given, whoever is there."""

    epoch: int
    sss: tuple[int, ...]
    elr: tuple[int, ...]
    storages: dict[int, str]  # of the members, as far as known
    lossy: bool
    reason: str


@dataclass(slots=True)
class StepDown:
    """At once: confirm nothing, answer nothing; who waits gets no answer. A role comes with a later effect."""

    reason: str


@dataclass(slots=True)
class Follow:
    """``lossy``: epochs that began without something that was acknowledged; what was promised before them is void."""

    epoch: int
    master: int
    address: str
    lossy: tuple[int, ...]


@dataclass(slots=True)
class Wait:
    """There is no master; serve what a slave serves."""

    reason: str


@dataclass(slots=True)
class Decided:
    """The master's sets in etcd are known to be these, and nothing else is under way."""

    epoch: int
    sss: tuple[int, ...]
    elr: tuple[int, ...]


@dataclass(slots=True)
class Drain:
    """Let no more be appended, wait until the successor has everything; then call ``drained``."""

    to: int | None


@dataclass(slots=True)
class Resume:
    """It did not: go on as master."""

    reason: str


@dataclass(slots=True)
class AskPledges:
    """Ask each of them, now, for a pledge not to campaign; call ``pledged`` with the time at which it was asked."""

    epoch: int
    replicas: tuple[int, ...]


@dataclass(slots=True)
class Left:
    """The lease is released, or is known to be somebody else's: the process may end."""


@dataclass(slots=True)
class Halt:
    """Nothing more is done until an operator decides."""

    reason: str


@dataclass(slots=True)
class Note:
    """For the log."""

    event: str
    fields: dict[str, object]


ElectionEffect = (
    Transact
    | Look
    | StopFollowing
    | Lead
    | StepDown
    | Follow
    | Wait
    | Decided
    | Drain
    | Resume
    | AskPledges
    | Left
    | Halt
    | Note
)
