"""How a consumer was asked to read, checked once."""

from __future__ import annotations

from kourou.core.errors import BadRequest
from kourou.core.names import check_group

Start = str | dict[str, int]


class ConsumerOptions:
    __slots__ = ("auto_commit", "credit", "group", "mode", "start", "tags", "verify")

    def __init__(
        self,
        *,
        group: str,
        start: Start,
        tags: frozenset[str] | None,
        auto_commit: bool,
        mode: str,
        credit: int,
        verify: bool,
    ) -> None:
        self.group = check_group(group)
        if mode not in ("stream", "broadcast"):
            raise BadRequest(f'mode is {mode!r}; it must be "stream" or "broadcast"')
        if start not in ("earliest", "latest") and not isinstance(start, dict):
            raise BadRequest('start must be "earliest", "latest", {"time": ms} or {"offset": n}')
        if tags is not None and not tags:
            raise BadRequest("tags is empty; leave it out to get every message")
        if not 1024 <= credit <= 256 << 20:
            raise BadRequest(f"prefetch_bytes is {credit}; from 1024 to {256 << 20} is allowed")
        self.start = start
        self.tags = tags
        self.auto_commit = auto_commit
        self.mode = mode
        self.credit = credit
        self.verify = verify
