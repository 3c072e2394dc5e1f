"""The error tree: every failure a user can meet, split first by whose fault it is.

    KourouError
      ClientFault     the request is wrong; sending it again will not help
        BadRequest, IllegalName, BodyTooLarge, PropertiesTooLarge, FrameInvalid, UnsupportedVersion, NotSupported,
        TopicTypeMismatch, GroupShapeMismatch, AlreadyExists, Fenced, SequenceExpired, OffsetOutOfRange, LimitExceeded,
        IllegalFilter, InvalidReceiptHandle, IllegalDeliveryTime, InvalidTransaction, IllegalInvisibleTime,
        SubscriptionConflict, InvalidRecallHandle, ReplicaRefused
      NotHere         right request, wrong place: refresh the route and try again
        TopicNotFound, GroupNotFound, QueueNotFound, NotMaster, SubscriptionNotFound, MessageNotFound
      TryLater        right request, wrong moment: back off and try again
        Busy, DiskFull, TooManyRequests, ShuttingDown, FlushFailed, PredecessorRefused, NotEnoughReplicas
      Corrupted       stored or received bytes are damaged: stop and repair, never guess
        BadChecksum, TornFrame, DamagedLog, NewerFormat
      Unreachable     nothing was sent, or nothing answers (raised by the client alone)
        NotConnected, DeadlineExceeded
      OutcomeUnknown  sent, but the answer was lost: the message may or may not be stored (raised by the client alone)
      InternalError   our bug

``code`` is stable and travels on the wire; ``retry`` says whether the same request can succeed later.
Numbers are never reused. The table in docs/protocol.md is generated from ``BY_CODE``.
"""

from __future__ import annotations

from typing import ClassVar


class KourouError(Exception):
    """Base of everything Kourou raises. ``str(error)`` is one line for a person: what was wrong, the limit, what to do.

    ``retry_after_ms`` is set by busy servers and is a hint, not a promise.
    """

    code: ClassVar[int] = 500
    retry: ClassVar[bool] = False

    def __init__(self, message: str, *, retry_after_ms: int | None = None) -> None:
        super().__init__(message)
        self.retry_after_ms = retry_after_ms


class ClientFault(KourouError):
    code = 100


class BadRequest(ClientFault):
    """A field is missing, of the wrong type, or out of range; the text names it."""

    code = 101


class IllegalName(ClientFault):
    code = 102


class BodyTooLarge(ClientFault):
    code = 103


class PropertiesTooLarge(ClientFault):
    code = 104


class FrameInvalid(ClientFault):
    """A sealed frame does not add up: sizes, counts, columns, topic or queue."""

    code = 105


class UnsupportedVersion(ClientFault):
    code = 106


class NotSupported(ClientFault):
    """Understood, but there is no engine for it in this version."""

    code = 107


class TopicTypeMismatch(ClientFault):
    code = 108


class GroupShapeMismatch(ClientFault):
    code = 109


class AlreadyExists(ClientFault):
    """The name is taken by something defined differently."""

    code = 110


class Fenced(ClientFault):
    """The queue has a newer owner; what the caller knows about it is out of date."""

    code = 111


class SequenceExpired(ClientFault):
    """A producer's sequence is older than the window of results that the broker keeps."""

    code = 112


class OffsetOutOfRange(ClientFault):
    code = 113


class LimitExceeded(ClientFault):
    code = 114


class IllegalFilter(ClientFault):
    """A filter expression can't be read; the text names the column and what was expected there."""

    code = 115

    def __init__(self, message: str, *, position: int | None = None, retry_after_ms: int | None = None) -> None:
        super().__init__(message, retry_after_ms=retry_after_ms)
        self.position = position  # counted in characters from 1; does not travel, the text has it


class InvalidReceiptHandle(ClientFault):
    """The handle is not one of ours, belongs elsewhere, or its message has been delivered again or settled since."""

    code = 116


class IllegalDeliveryTime(ClientFault):
    code = 117


class InvalidTransaction(ClientFault):
    """No half message has this transaction id here."""

    code = 118


class IllegalInvisibleTime(ClientFault):
    code = 119


class SubscriptionConflict(ClientFault):
    """Members of one group must agree on what they want of a topic."""

    code = 120


class InvalidRecallHandle(ClientFault):
    """The handle is not one of ours, or its message is no longer waiting."""

    code = 121


class ReplicaRefused(ClientFault):
    """The two can't replicate: other cluster, group or history, or an id that is taken."""

    code = 122


class NotHere(KourouError):
    code = 200
    retry = True


class TopicNotFound(NotHere):
    code = 201


class GroupNotFound(NotHere):
    code = 202


class QueueNotFound(NotHere):
    code = 203


class NotMaster(NotHere):
    """``owner`` is the broker to go to, where that is known."""

    code = 204
    owner: str = ""


class SubscriptionNotFound(NotHere):
    code = 205


class MessageNotFound(NotHere):
    code = 206


class TryLater(KourouError):
    code = 300
    retry = True


class Busy(TryLater):
    code = 301


class DiskFull(TryLater):
    code = 302


class TooManyRequests(TryLater):
    code = 303


class ShuttingDown(TryLater):
    code = 304


class FlushFailed(TryLater):
    """The disk refused to make data durable. It may be stored all the same."""

    code = 305


class PredecessorRefused(TryLater):
    """An earlier frame of the same producer and queue was refused; this one would overtake it."""

    code = 306


class NotEnoughReplicas(TryLater):
    """Too few members of the broker group are in sync to promise what `ack = all` promises; nothing was stored."""

    code = 307


class Corrupted(KourouError):
    code = 400


class BadChecksum(Corrupted):
    code = 401


class TornFrame(Corrupted):
    code = 402


class DamagedLog(Corrupted):
    code = 403


class NewerFormat(Corrupted):
    """Written by a newer version of Kourou; nothing was changed."""

    code = 404


class InternalError(KourouError):
    code = 500


class Unreachable(KourouError):
    code = 600
    retry = True


class NotConnected(Unreachable):
    """Nothing listens at the address, or the connection ended before the request was written."""

    code = 601


class DeadlineExceeded(Unreachable):
    """The caller's deadline passed before the request was written: it had no effect."""

    code = 602


class OutcomeUnknown(KourouError):
    """The request was written but its answer never came. It may have taken effect.

    A send that ends so must not be treated as failed: repeat it only with the same producer (which removes duplicates)
    or where duplicates do no harm.
    """

    code = 603
    retry = False


def _leaves(root: type[KourouError]) -> dict[int, type[KourouError]]:
    table = {root.code: root}
    for child in root.__subclasses__():
        table.update(_leaves(child))
    return table


BY_CODE: dict[int, type[KourouError]] = _leaves(KourouError) | {500: InternalError}


def from_code(code: int, message: str, *, retry_after_ms: int | None = None) -> KourouError:
    """The error that a wire code stands for. An unknown code (a newer peer's) becomes the class of its hundred."""
    kind = BY_CODE.get(code) or BY_CODE.get(code - code % 100) or InternalError
    return kind(message, retry_after_ms=retry_after_ms)
