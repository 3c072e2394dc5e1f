"""Every error of ours has a code that official clients know, and answers are legal whatever an error says."""

from __future__ import annotations

import pytest

from kourou.core import errors
from kourou.core.errors import BY_CODE, KourouError
from kourou.gateway.status import MESSAGE_CHARACTERS_MAX, OK, Code, Refused, code_of, common, status_of
from kourou.proto.rocketmq.v2 import definition_pb2 as pb

# What it is for the caller: its own fault, a wrong place, a wrong moment, or ours.
CLASSES = {1: range(40000, 43200), 3: range(42900, 51000), 4: range(50000, 51000), 5: range(50000, 51000)}


@pytest.mark.parametrize("kind", [BY_CODE[code] for code in sorted(BY_CODE)], ids=lambda kind: kind.__name__)
def test_every_error_has_a_code(kind: type[KourouError]) -> None:
    status = status_of(kind("why"))
    assert status.code in Code.values()
    assert status.code not in (Code.OK, Code.CODE_UNSPECIFIED)
    assert status.message == "why"
    assert status.code == code_of(kind("why"))
    allowed = CLASSES.get(kind.code // 100)
    assert allowed is None or status.code in allowed or status.code in (Code.NOT_IMPLEMENTED,)


@pytest.mark.parametrize(
    ("failure", "code"),
    [
        (errors.IllegalName("x"), Code.ILLEGAL_TOPIC),
        (errors.BodyTooLarge("x"), Code.MESSAGE_BODY_TOO_LARGE),
        (errors.IllegalFilter("x", position=3), Code.ILLEGAL_FILTER_EXPRESSION),
        (errors.SubscriptionConflict("x"), Code.ILLEGAL_FILTER_EXPRESSION),
        (errors.InvalidReceiptHandle("x"), Code.INVALID_RECEIPT_HANDLE),
        (errors.InvalidTransaction("x"), Code.INVALID_TRANSACTION_ID),
        (errors.TopicNotFound("x"), Code.TOPIC_NOT_FOUND),
        (errors.GroupNotFound("x"), Code.CONSUMER_GROUP_NOT_FOUND),
        (errors.MessageNotFound("x"), Code.MESSAGE_NOT_FOUND),
        (errors.OffsetOutOfRange("x"), Code.ILLEGAL_OFFSET),
        (errors.TopicTypeMismatch("x"), Code.MESSAGE_PROPERTY_CONFLICT_WITH_TYPE),
        (errors.TooManyRequests("x"), Code.TOO_MANY_REQUESTS),
        (errors.DiskFull("x"), Code.TOO_MANY_REQUESTS),
        (errors.FlushFailed("x"), Code.MASTER_PERSISTENCE_TIMEOUT),
        (errors.DamagedLog("x"), Code.INTERNAL_SERVER_ERROR),
        (Refused(Code.MESSAGE_BODY_EMPTY, "x"), Code.MESSAGE_BODY_EMPTY),
        (ValueError("secret"), Code.INTERNAL_SERVER_ERROR),
    ],
)
def test_codes_that_clients_act_on(failure: Exception, code: int) -> None:
    status = status_of(failure)
    assert status.code == code
    assert "secret" not in status.message


def test_long_texts_are_cut() -> None:
    assert len(status_of(errors.BadRequest("x" * 100_000)).message) == MESSAGE_CHARACTERS_MAX


def test_the_status_of_several() -> None:
    bad = pb.Status(code=Code.ILLEGAL_TOPIC)
    assert common([OK, OK]).code == Code.OK
    assert common([bad, bad]).code == Code.ILLEGAL_TOPIC
    assert common([OK, bad]).code == Code.MULTIPLE_RESULTS
