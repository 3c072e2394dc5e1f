"""Logging: events with fields. For people on a terminal, one JSON object a line otherwise; always on standard error."""

from __future__ import annotations

import importlib
import logging
import sys
from types import ModuleType
from typing import Any


def _import_structlog() -> ModuleType:
    """structlog imports rich where it finds it, for tracebacks in colour: 80 ms, a fifth of a node's start. Unless it is
    there already it is kept out of sight meanwhile; structlog then prints plain tracebacks."""
    if "rich" in sys.modules:
        return importlib.import_module("structlog")
    sys.modules["rich"] = None  # type: ignore[assignment]  # the documented way to make an import fail
    try:
        return importlib.import_module("structlog")
    finally:
        del sys.modules["rich"]


structlog = _import_structlog()


_threshold = [logging.INFO]


def set_level(level: str) -> None:
    """From now on nothing below this is logged."""
    _threshold[0] = getattr(logging, level.upper())


def _only_loud_enough(logger: Any, method: str, event: Any) -> Any:
    if _LEVELS.get(method, logging.ERROR) < _threshold[0]:
        raise structlog.DropEvent
    return event


_LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "warn": logging.WARNING}


def configure(level: str = "info", *, pretty: bool | None = None) -> None:
    """Set the process up; once, at start."""
    if pretty is None:
        pretty = sys.stderr.isatty()
    renderer: Any = structlog.dev.ConsoleRenderer(colors=pretty) if pretty else structlog.processors.JSONRenderer()
    set_level(level)
    processors: list[Any] = [
        _only_loud_enough,
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    if not pretty:
        processors.append(structlog.processors.format_exc_info)
    structlog.configure(
        processors=[*processors, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(logging.DEBUG),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    root = logging.getLogger()
    root.handlers = [_FromLibraries()]
    root.setLevel(max(logging.WARNING, getattr(logging, level.upper())))


class _FromLibraries(logging.Handler):
    """What asyncio, grpc and others log by the standard library comes out in the same form, as ``library_logged``."""

    def emit(self, record: logging.LogRecord) -> None:
        level = min(max(record.levelno // 10 * 10, logging.DEBUG), logging.ERROR)
        extra: dict[str, Any] = {"exc_info": record.exc_info} if record.exc_info else {}
        structlog.get_logger().log(level, "library_logged", library=record.name, message=record.getMessage(), **extra)


def logger(**fields: object) -> Any:
    """A logger with fields that every event of it carries."""
    return structlog.get_logger().bind(**fields)
