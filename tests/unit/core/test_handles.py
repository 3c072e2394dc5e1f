"""Handles: what was given out comes back the same; anything else is found out."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kourou.core.errors import InvalidRecallHandle, InvalidReceiptHandle, InvalidTransaction, KourouError
from kourou.core.handles import HANDLE_CHARACTERS_MAX, Handles, Recall, Receipt, Transaction, broker_of

U32 = st.integers(0, 2**32 - 1)
U64 = st.integers(0, 2**64 - 1)
RECEIPTS = st.builds(Receipt, U32, U32, U32, U32, U64, U32, st.integers(0, 2**16 - 1))
HANDLES = Handles("broker-a", bytes(16))
RECEIPT = Receipt(1, 2, 3, 4, 5, 6, 7)


@given(RECEIPTS, U64, U32, st.integers(-(2**63), 2**63 - 1))
def test_there_and_back(receipt: Receipt, log_offset: int, record: int, due_ms: int) -> None:
    assert HANDLES.open_receipt(HANDLES.receipt(receipt)) == receipt
    recall = Recall(log_offset, record, due_ms)
    assert HANDLES.open_recall(HANDLES.recall(recall)) == recall
    transaction = Transaction(log_offset, record)
    assert HANDLES.open_transaction(HANDLES.transaction(transaction)) == transaction
    assert broker_of(HANDLES.receipt(receipt), 1) == "broker-a"


@pytest.mark.parametrize("at", range(len(HANDLES.receipt(RECEIPT))))
@pytest.mark.parametrize("bit", [0, 1, 3, 5])
def test_every_byte_counts(at: int, bit: int) -> None:
    text = HANDLES.receipt(RECEIPT)
    forged = text[:at] + chr(ord(text[at]) ^ 1 << bit) + text[at + 1 :]
    with pytest.raises(InvalidReceiptHandle):
        HANDLES.open_receipt(forged)


@pytest.mark.parametrize("broker", ["a", "ab", "abc"])
def test_the_last_character_counts_whatever_the_length(broker: str) -> None:
    """The bits that base64 does not use included."""
    handles = Handles(broker, bytes(16))
    text = handles.receipt(RECEIPT)
    body = text.rstrip("=")
    for other in "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_":
        if other != body[-1]:
            with pytest.raises(InvalidReceiptHandle):
                handles.open_receipt(body[:-1] + other + text[len(body) :])


@pytest.mark.parametrize("extra", [" ", "\n", "!", "=", "AAAA", "é"])
def test_nothing_may_be_added(extra: str) -> None:
    text = HANDLES.receipt(RECEIPT)
    for forged in (text + extra, extra + text, text[:20] + extra + text[20:]):
        with pytest.raises(InvalidReceiptHandle):
            HANDLES.open_receipt(forged)


def test_other_keys_brokers_and_kinds_are_refused() -> None:
    text = HANDLES.receipt(RECEIPT)
    for other in (Handles("broker-a", b"x" * 16), Handles("broker-b", bytes(16))):
        with pytest.raises(InvalidReceiptHandle):
            other.open_receipt(text)
    with pytest.raises(InvalidRecallHandle):
        HANDLES.open_recall(text)
    with pytest.raises(InvalidTransaction):
        HANDLES.open_transaction(text)


@settings(max_examples=200)
@given(st.text(max_size=HANDLE_CHARACTERS_MAX + 50) | st.text("ABCDEFabcdef0123456789-_=", max_size=120))
def test_whatever_text_comes(text: str) -> None:
    for call in (
        HANDLES.open_receipt,
        HANDLES.open_recall,
        HANDLES.open_transaction,
        lambda text: broker_of(text, 1),
        lambda text: broker_of(text, 3),
    ):
        try:
            call(text)
        except KourouError:
            continue
        assert call(text), "only broker_of lets unsigned handles through"
