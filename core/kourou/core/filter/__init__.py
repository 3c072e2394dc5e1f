"""Which messages a consumer wants: tag expressions and RocketMQ's subset of SQL-92, parsed once, asked per message."""

from __future__ import annotations

from kourou.core.errors import IllegalFilter
from kourou.core.filter.expression import Filter, FilterKind, parse_filter
from kourou.core.filter.sql import SqlFilter
from kourou.core.filter.tags import TagFilter

__all__ = ["Filter", "FilterKind", "IllegalFilter", "SqlFilter", "TagFilter", "parse_filter"]
