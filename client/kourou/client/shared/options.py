"""How a member of a shared group was asked to work, checked once."""

from __future__ import annotations

from dataclasses import dataclass

from kourou.core import deliveries
from kourou.core.deliveries import DELIVERIES_MAX, INVISIBLE_MS_MAX, INVISIBLE_MS_MIN
from kourou.core.errors import BadRequest
from kourou.core.names import check_group

WAIT_S_MIN = 10.0


@dataclass(frozen=True, slots=True)
class Sql:
    """A filter in RocketMQ's subset of SQL-92: ``Sql("price > 10 AND region IN ('eu', 'us')")``."""

    expression: str


class SharedOptions:
    __slots__ = (
        "auto_ack",
        "bytes_max",
        "concurrency",
        "expression",
        "group",
        "invisible_ms",
        "kind",
        "prefetch",
        "renew_ms_max",
        "wait_ms_max",
    )

    def __init__(
        self,
        *,
        group: str,
        filter: str | Sql | None,
        invisible_s: float,
        prefetch: int,
        concurrency: int,
        auto_ack: bool,
        renew_max_s: float,
        prefetch_bytes: int,
    ) -> None:
        self.group = check_group(group)
        self.invisible_ms = round(invisible_s * 1000)
        if not INVISIBLE_MS_MIN <= self.invisible_ms <= INVISIBLE_MS_MAX:
            raise BadRequest(
                f"invisible_s is {invisible_s:g}; from {INVISIBLE_MS_MIN // 1000} to {INVISIBLE_MS_MAX // 1000} is allowed"
            )
        if not 1 <= prefetch <= DELIVERIES_MAX or not 1 <= concurrency <= DELIVERIES_MAX:
            raise BadRequest(f"prefetch and concurrency must be from 1 to {DELIVERIES_MAX}")
        if renew_max_s < 0 or prefetch_bytes < 1:
            raise BadRequest("renew_max_s must not be below 0, and prefetch_bytes must be above it")
        self.prefetch = prefetch
        self.concurrency = concurrency
        self.auto_ack = auto_ack
        self.renew_ms_max = round(renew_max_s * 1000)
        self.wait_ms_max = round(max(invisible_s, WAIT_S_MIN) * 1000)
        self.bytes_max = min(prefetch_bytes, deliveries.BYTES_MAX)
        if isinstance(filter, Sql):
            self.kind, self.expression = deliveries.SQL, filter.expression
        elif filter is None or isinstance(filter, str):
            self.kind, self.expression = (deliveries.TAG, filter) if filter else (deliveries.EVERYTHING, "")
        else:
            raise BadRequest('filter must be tags ("a || b"), Sql("price > 10"), or None')
