"""How a consumer was asked to read, checked once."""

from __future__ import annotations

from kourou.client.arguments import check_whole
from kourou.client.damage import OnDamaged
from kourou.core.errors import BadRequest
from kourou.core.names import check_group

Start = str | dict[str, int]


class ConsumerOptions:
    __slots__ = ("auto_commit", "credit", "group", "mode", "on_damaged", "start", "tags", "verify")

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
        on_damaged: OnDamaged | None = None,
    ) -> None:
        self.group = check_group(group)
        if mode not in ("stream", "broadcast"):
            raise BadRequest(f'mode is {mode!r}; it must be "stream" or "broadcast"')
        if start not in ("earliest", "latest") and not isinstance(start, dict):
            raise BadRequest('start must be "earliest", "latest", {"time": ms} or {"offset": n}')
        check_whole("prefetch_bytes", credit, least=1024, most=256 << 20)
        self.start = start
        self.tags = tags
        self.auto_commit = auto_commit
        self.mode = mode
        self.credit = credit
        self.verify = verify
        if on_damaged is not None and not callable(on_damaged):
            raise BadRequest("on_damaged must be a function of a Damage")
        self.on_damaged = on_damaged
