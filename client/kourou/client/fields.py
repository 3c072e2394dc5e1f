"""What the property block of a message says: tag, keys, properties and the rest. Decoded when it is looked at."""

from __future__ import annotations

from struct import Struct

from kourou.core.records import Field, decode_property, iterate_fields

_I32 = Struct("<i")
_I64 = Struct("<q")


class MessageFields:
    """For messages that know their property block."""

    __slots__ = ("_fields",)

    _fields: list[tuple[int, bytes]] | None

    def _block(self) -> bytes:
        raise NotImplementedError

    def _decoded(self) -> list[tuple[int, bytes]]:
        if self._fields is None:
            self._fields = list(iterate_fields(self._block()))
        return self._fields

    def _raw(self, wanted: Field) -> bytes | None:
        for field, value in self._decoded():
            if field == wanted:
                return value
        return None

    def _first(self, wanted: Field) -> str | None:
        value = self._raw(wanted)
        return value.decode() if value is not None else None

    @property
    def tag(self) -> str | None:
        return self._first(Field.TAG)

    @property
    def keys(self) -> tuple[str, ...]:
        return tuple(value.decode() for field, value in self._decoded() if field == Field.KEY)

    @property
    def key(self) -> str | None:
        """The first key."""
        return self._first(Field.KEY)

    @property
    def message_group(self) -> str | None:
        return self._first(Field.MESSAGE_GROUP)

    @property
    def properties(self) -> dict[str, str]:
        return dict(decode_property(value) for field, value in self._decoded() if field == Field.PROPERTY)

    @property
    def priority(self) -> int | None:
        value = self._raw(Field.PRIORITY)
        return _I32.unpack(value)[0] if value is not None else None

    @property
    def deliver_at_ms(self) -> int | None:
        """When a delayed message was to be delivered, ms since 1970 UTC."""
        value = self._raw(Field.DELIVERY_MS)
        return _I64.unpack(value)[0] if value is not None else None
