"""Handles that the broker gives out and takes back: receipts, recalls, transactions.

A handle is base64url text of a fixed struct and eight bytes of a keyed hash, so that a forged or damaged one is found out
before anything is looked up. Kinds and versions differ in the first byte. The key belongs to the broker group and is part
of its log.

Receipt      kind 1 | u32 epoch | u32 group (crc32) | u32 incarnation | u32 queue | u64 queue offset | u32 serial |
             u16 attempt
Recall       kind 2 | u64 log offset | u32 record | i64 due, ms
Transaction  kind 3 | u64 log offset | u32 record
followed by the broker's name, UTF-8, and the hash. Little-endian.
"""

from __future__ import annotations

import zlib
from base64 import urlsafe_b64decode, urlsafe_b64encode
from hashlib import blake2b
from hmac import compare_digest
from struct import Struct, error
from typing import NamedTuple

from kourou.core.errors import InvalidRecallHandle, InvalidReceiptHandle, InvalidTransaction, KourouError

KEY_SIZE = 16
HASH_SIZE = 8
HANDLE_CHARACTERS_MAX = 400
_RECEIPT = Struct("<BIIIIQIH")
_RECALL = Struct("<BQIq")
_TRANSACTION = Struct("<BQI")


class Receipt(NamedTuple):
    """One delivery of one message to one group."""

    epoch: int
    group_hash: int
    incarnation: int
    queue: int
    queue_offset: int
    serial: int
    attempt: int


class Recall(NamedTuple):
    """A timer that may be taken back."""

    log_offset: int
    record: int
    due_ms: int


class Transaction(NamedTuple):
    """A half message."""

    log_offset: int
    record: int


def group_hash(group: str) -> int:
    return zlib.crc32(group.encode())


class Handles:
    """Makes and reads the handles of one broker group."""

    def __init__(self, broker: str, key: bytes) -> None:
        assert len(key) == KEY_SIZE
        self._broker = broker.encode()
        self._key = key

    def _sign(self, packed: bytes) -> str:
        body = packed + self._broker
        return urlsafe_b64encode(body + blake2b(body, digest_size=HASH_SIZE, key=self._key).digest()).decode()

    def _open(self, text: str, kind: int, form: Struct, wrong: type[KourouError]) -> tuple[int, ...]:
        body, name, mac = _split(text, kind, form, wrong)
        right = blake2b(body, digest_size=HASH_SIZE, key=self._key).digest()
        if not compare_digest(mac, right) or name != self._broker:
            raise wrong("the handle was not made by this broker group")
        return form.unpack_from(body)

    def receipt(self, receipt: Receipt) -> str:
        return self._sign(_RECEIPT.pack(1, *receipt))

    def open_receipt(self, text: str) -> Receipt:
        """Raises InvalidReceiptHandle."""
        return Receipt(*self._open(text, 1, _RECEIPT, InvalidReceiptHandle)[1:])

    def recall(self, recall: Recall) -> str:
        return self._sign(_RECALL.pack(2, *recall))

    def open_recall(self, text: str) -> Recall:
        """Raises InvalidRecallHandle."""
        return Recall(*self._open(text, 2, _RECALL, InvalidRecallHandle)[1:])

    def transaction(self, transaction: Transaction) -> str:
        return self._sign(_TRANSACTION.pack(3, *transaction))

    def open_transaction(self, text: str) -> Transaction:
        """Raises InvalidTransaction."""
        return Transaction(*self._open(text, 3, _TRANSACTION, InvalidTransaction)[1:])


def _split(text: str, kind: int, form: Struct, wrong: type[KourouError]) -> tuple[bytes, bytes, bytes]:
    """(what is signed, name of the broker, hash)."""
    try:
        if len(text) > HANDLE_CHARACTERS_MAX:
            raise ValueError
        raw = urlsafe_b64decode(text.encode("ascii"))
        if len(raw) < form.size + HASH_SIZE or raw[0] != kind or urlsafe_b64encode(raw).decode() != text:
            raise ValueError
    except (ValueError, error):
        raise wrong("the handle is not one that this cluster makes") from None
    return raw[:-HASH_SIZE], raw[form.size : -HASH_SIZE], raw[-HASH_SIZE:]


_FORMS: dict[int, tuple[Struct, type[KourouError]]] = {
    1: (_RECEIPT, InvalidReceiptHandle),
    2: (_RECALL, InvalidRecallHandle),
    3: (_TRANSACTION, InvalidTransaction),
}


def broker_of(text: str, kind: int) -> str:
    """Which broker group a handle belongs to, for whoever passes it on; the hash is not looked at. Raises as the kind's
    ``open`` does."""
    form, wrong = _FORMS[kind]
    try:
        return _split(text, kind, form, wrong)[1].decode()
    except UnicodeDecodeError:
        raise wrong("the handle is not one that this cluster makes") from None
