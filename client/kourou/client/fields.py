"""What the property block of a message says: tag, keys, properties and the rest. Decoded when it is looked at.

Brokers don't look into the blocks of native producers: what is garbage in one is left out, with a warning, and the rest of
the message is there all the same.
"""

from __future__ import annotations

import logging
from struct import Struct

from kourou.core.errors import FrameInvalid
from kourou.core.records import Field, iterate_fields, readable_fields, readable_property, readable_text

_I32 = Struct("<i")
_I64 = Struct("<q")
log = logging.getLogger("kourou.client")


class MessageFields:
    """For messages that know their property block."""

    __slots__ = ("_fields",)

    _fields: list[tuple[int, bytes]] | None

    def _block(self) -> bytes:
        raise NotImplementedError

    def _decoded(self) -> list[tuple[int, bytes]]:
        if self._fields is None:
            block = self._block()
            try:
                self._fields = list(iterate_fields(block))
            except FrameInvalid as failure:
                self._fields = list(readable_fields(block))
                log.warning("%r has properties that can't be read: %s", self, failure)
        return self._fields

    def _raw(self, wanted: Field) -> bytes | None:
        for field, value in self._decoded():
            if field == wanted:
                return value
        return None

    def _first(self, wanted: Field) -> str | None:
        value = self._raw(wanted)
        return readable_text(value) if value is not None else None

    @property
    def tag(self) -> str | None:
        return self._first(Field.TAG)

    @property
    def keys(self) -> tuple[str, ...]:
        return tuple(readable_text(value) for field, value in self._decoded() if field == Field.KEY)

    @property
    def key(self) -> str | None:
        """The first key."""
        return self._first(Field.KEY)

    @property
    def message_group(self) -> str | None:
        return self._first(Field.MESSAGE_GROUP)

    @property
    def lite_topic(self) -> str | None:
        return self._first(Field.LITE_TOPIC)

    @property
    def properties(self) -> dict[str, str]:
        return dict(readable_property(value) for field, value in self._decoded() if field == Field.PROPERTY)

    @property
    def priority(self) -> int | None:
        value = self._raw(Field.PRIORITY)
        return _I32.unpack(value)[0] if value is not None and len(value) == _I32.size else None

    @property
    def deliver_at_ms(self) -> int | None:
        """When a delayed message was to be delivered, ms since 1970 UTC."""
        value = self._raw(Field.DELIVERY_MS)
        return _I64.unpack(value)[0] if value is not None and len(value) == _I64.size else None
