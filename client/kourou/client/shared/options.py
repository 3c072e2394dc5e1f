"""How a member of a shared group was asked to work, checked once."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from kourou.client.arguments import check_number, check_positive, check_whole
from kourou.core import deliveries
from kourou.core.deliveries import DELIVERIES_MAX, INVISIBLE_MS_MAX, INVISIBLE_MS_MIN
from kourou.core.errors import BadRequest
from kourou.core.names import check_group, check_lite_topic

PREFETCH_DEFAULT = 32  # or as many as are worked on
WAIT_S_MIN = 10.0
RENEW_S_MAX = 365 * 86_400


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
        "lite",
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
        prefetch: int | None,
        concurrency: int,
        auto_ack: bool,
        renew_max_s: float,
        prefetch_bytes: int,
        lite: Iterable[str] | None = None,
    ) -> None:
        self.group = check_group(group)
        least_s, most_s = INVISIBLE_MS_MIN / 1000, INVISIBLE_MS_MAX / 1000
        self.invisible_ms = round(check_number("invisible_s", invisible_s, least=least_s, most=most_s) * 1000)
        self.lite = dict.fromkeys(map(check_lite_topic, lite)) if lite is not None else None
        self.concurrency = check_whole("concurrency", concurrency, least=1, most=DELIVERIES_MAX)
        ahead = max(PREFETCH_DEFAULT, concurrency) if prefetch is None else prefetch
        self.prefetch = check_whole("prefetch", ahead, least=1, most=DELIVERIES_MAX)
        self.auto_ack = auto_ack
        self.renew_ms_max = round(check_number("renew_max_s", renew_max_s, least=0, most=RENEW_S_MAX) * 1000)
        self.wait_ms_max = round(max(invisible_s, WAIT_S_MIN) * 1000)
        self.bytes_max = round(min(check_positive("prefetch_bytes", prefetch_bytes), deliveries.BYTES_MAX))
        if isinstance(filter, Sql):
            self.kind, self.expression = deliveries.SQL, filter.expression
        elif filter is None or isinstance(filter, str):
            self.kind, self.expression = (deliveries.TAG, filter) if filter else (deliveries.EVERYTHING, "")
        else:
            raise BadRequest('filter must be tags ("a || b"), Sql("price > 10"), or None')
