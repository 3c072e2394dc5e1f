"""What the elector asks of the store that its group shares (etcd): a read of all its keys, and transactions.

Nothing is trusted but a transaction that was committed: a read may be old, a watch event may come late, twice, or never.
``mod`` is the revision at which a key was last written, 0 for one that is not there; it only grows.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Value:
    """A key at one moment. ``value`` is None when the key is not there; ``mod`` then says since when, as far as known."""

    key: str
    value: bytes | None
    mod: int


@dataclass(frozen=True, slots=True)
class Put:
    key: str
    value: bytes
    lease: int = 0  # the key goes when this etcd lease ends; only for hints


@dataclass(frozen=True, slots=True)
class Delete:
    key: str


@dataclass(frozen=True, slots=True)
class Txn:
    """If every key of ``compare`` was last written at that revision, do all of ``writes``; else read ``otherwise``."""

    compare: tuple[tuple[str, int], ...]
    writes: tuple[Put | Delete, ...]
    otherwise: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Outcome:
    """Of a transaction whose answer came. ``values`` has one for each key of ``otherwise`` when it did not succeed."""

    succeeded: bool
    revision: int
    values: tuple[Value, ...] = ()


@dataclass(frozen=True, slots=True)
class Picture:
    """Keys below a prefix, as they were at ``revision``; those that are not listed were not there."""

    revision: int
    values: tuple[Value, ...]
