"""Outcomes: our errors as codes of the official API. One table; whatever is not in it is INTERNAL_SERVER_ERROR."""

from __future__ import annotations

from collections.abc import Iterable

from kourou.core import errors
from kourou.core.errors import KourouError
from kourou.proto.rocketmq.v2 import definition_pb2 as pb

Code = pb.Code
MESSAGE_CHARACTERS_MAX = 1_000


class Refused(Exception):
    """A request that is answered with a code of the official API."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code


_CODES: dict[type[KourouError], int] = {
    errors.BadRequest: Code.BAD_REQUEST,
    errors.IllegalName: Code.ILLEGAL_TOPIC,
    errors.BodyTooLarge: Code.MESSAGE_BODY_TOO_LARGE,
    errors.PropertiesTooLarge: Code.MESSAGE_PROPERTIES_TOO_LARGE,
    errors.FrameInvalid: Code.MESSAGE_CORRUPTED,
    errors.NotSupported: Code.NOT_IMPLEMENTED,
    errors.TopicTypeMismatch: Code.MESSAGE_PROPERTY_CONFLICT_WITH_TYPE,
    errors.GroupShapeMismatch: Code.ILLEGAL_CONSUMER_GROUP,
    errors.SubscriptionConflict: Code.ILLEGAL_FILTER_EXPRESSION,
    errors.IllegalFilter: Code.ILLEGAL_FILTER_EXPRESSION,
    errors.OffsetOutOfRange: Code.ILLEGAL_OFFSET,
    errors.LimitExceeded: Code.TOO_MANY_REQUESTS,
    errors.InvalidReceiptHandle: Code.INVALID_RECEIPT_HANDLE,
    errors.IllegalDeliveryTime: Code.ILLEGAL_DELIVERY_TIME,
    errors.InvalidTransaction: Code.INVALID_TRANSACTION_ID,
    errors.IllegalInvisibleTime: Code.ILLEGAL_INVISIBLE_TIME,
    errors.InvalidRecallHandle: Code.BAD_REQUEST,
    errors.TopicNotFound: Code.TOPIC_NOT_FOUND,
    errors.GroupNotFound: Code.CONSUMER_GROUP_NOT_FOUND,
    errors.QueueNotFound: Code.BAD_REQUEST,
    errors.MessageNotFound: Code.MESSAGE_NOT_FOUND,
    errors.NotMaster: Code.HA_NOT_AVAILABLE,
    errors.Busy: Code.TOO_MANY_REQUESTS,
    errors.TooManyRequests: Code.TOO_MANY_REQUESTS,
    errors.DiskFull: Code.TOO_MANY_REQUESTS,
    errors.ShuttingDown: Code.TOO_MANY_REQUESTS,
    errors.FlushFailed: Code.MASTER_PERSISTENCE_TIMEOUT,
    errors.NotConnected: Code.PROXY_TIMEOUT,
    errors.DeadlineExceeded: Code.PROXY_TIMEOUT,
    errors.OutcomeUnknown: Code.PROXY_TIMEOUT,
    errors.ClientFault: Code.BAD_REQUEST,
    errors.TryLater: Code.TOO_MANY_REQUESTS,
}


def code_of(failure: KourouError) -> int:
    for kind in type(failure).__mro__:
        code = _CODES.get(kind)
        if code is not None:
            return code
    return Code.INTERNAL_SERVER_ERROR


def status_of(failure: BaseException) -> pb.Status:
    """What a caller is told; the text of a bug of ours is not for it."""
    if isinstance(failure, Refused):
        return pb.Status(code=failure.code, message=str(failure)[:MESSAGE_CHARACTERS_MAX])  # type: ignore[arg-type]
    if isinstance(failure, KourouError):
        return pb.Status(code=code_of(failure), message=str(failure)[:MESSAGE_CHARACTERS_MAX])  # type: ignore[arg-type]
    return pb.Status(code=Code.INTERNAL_SERVER_ERROR, message="the broker failed to handle the request; its log says why")


def ok() -> pb.Status:
    return pb.Status(code=Code.OK, message="OK")


OK = ok()  # for copying from; not to be changed


def common(statuses: Iterable[pb.Status]) -> pb.Status:
    """The status of a request with several parts: what they share, else MULTIPLE_RESULTS."""
    found = list(statuses)
    if all(status.code == found[0].code for status in found):
        return found[0]
    return pb.Status(code=Code.MULTIPLE_RESULTS, message="some parts of the request failed; see the entries")
