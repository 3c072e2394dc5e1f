"""HPACK (RFC 7541): the decoder of request headers, and an encoder that needs no table.

Text is Latin-1: every byte is a character, so nothing that a peer sends fails to decode. A header is a tuple of name and
value; a table entry is that same tuple, so an indexed header costs a list access.

``changes`` counts what altered the dynamic table. A block decodes to the same headers for as long as it stands still
and the block itself doesn't move it, which is what a memo of whole blocks rests on.
"""

from __future__ import annotations

from typing import Final

from kourou.http2 import huffman

Header = tuple[str, str]

TABLE_BYTES: Final = 4096  # the default of SETTINGS_HEADER_TABLE_SIZE, which we leave alone
_ENTRY_BYTES: Final = 32  # that an entry counts for, beside its texts
_TEXTS_MAX: Final = 1024  # decoded texts remembered by all connections together
_TEXT_BYTES_MAX: Final = 256  # the longest of them

_STATIC_TEXT: Final = """
    :authority :method :method :path :path :scheme :scheme :status :status :status :status :status :status :status
    accept-charset accept-encoding accept-language accept-ranges accept access-control-allow-origin age allow
    authorization cache-control content-disposition content-encoding content-language content-length content-location
    content-range content-type cookie date etag expect expires from host if-match if-modified-since if-none-match
    if-range if-unmodified-since last-modified link location max-forwards proxy-authenticate proxy-authorization range
    referer refresh retry-after server set-cookie strict-transport-security transfer-encoding user-agent vary via
    www-authenticate"""
_STATIC_NAMES: Final = _STATIC_TEXT.split()
_STATIC_VALUES: Final = {
    2: "GET", 3: "POST", 4: "/", 5: "/index.html", 6: "http", 7: "https", 8: "200", 9: "204", 10: "206", 11: "304",
    12: "400", 13: "404", 14: "500", 16: "gzip, deflate",
}  # fmt: skip
STATIC: Final[list[Header]] = [
    ("", ""),  # index 0 is nobody's
    *((name, _STATIC_VALUES.get(index, "")) for index, name in enumerate(_STATIC_NAMES, 1)),
]
assert len(STATIC) == 62
_INTEGER_LIMIT: Final = 1 << 24  # no length and no index that we accept comes near


class HpackError(ValueError):
    """The block can't be decoded: the peer's table and ours differ from here on."""


class Decoder:
    """One connection's decoder."""

    def __init__(self, *, table_bytes: int = TABLE_BYTES) -> None:
        self.changes = 0
        self._limit = table_bytes  # what we have told the peer
        self._max = table_bytes  # what the peer has chosen below it
        self._bytes = 0
        self._entries: list[Header] = []  # the newest last: index 62 is [-1]

    def decode(self, block: bytes) -> list[Header]:
        """The headers of a whole block. Raises HpackError; the decoder is then of no use any more."""
        try:
            return self._decode(block)
        except IndexError:
            raise HpackError("the block is cut off, or an index is in neither table") from None
        except huffman.HuffmanError as fault:
            raise HpackError(str(fault)) from None

    def _decode(self, block: bytes) -> list[Header]:
        headers: list[Header] = []
        entries = self._entries
        at, end = 0, len(block)
        while at < end:
            byte = block[at]
            at += 1
            if byte >= 0x80:  # indexed
                index = byte & 0x7F
                if index == 0x7F:
                    index, at = _integer(block, at, 0x7F)
                if index > 61:
                    headers.append(entries[61 - index])
                elif index:
                    headers.append(STATIC[index])
                else:
                    raise HpackError("index 0")
                continue
            if byte >= 0x40:  # literal, to be added to the table
                index = byte & 0x3F
                if index == 0x3F:
                    index, at = _integer(block, at, 0x3F)
            elif byte < 0x20:  # literal, not to be added
                index = byte & 0x0F
                if index == 0x0F:
                    index, at = _integer(block, at, 0x0F)
            else:
                if headers:
                    raise HpackError("a change of the table's size after a header")
                size = byte & 0x1F
                if size == 0x1F:
                    size, at = _integer(block, at, 0x1F)
                self._resize(size)
                continue
            if index > 61:
                name = entries[61 - index][0]
            elif index:
                name = STATIC[index][0]
            else:
                name, at = _text(block, at, end)
            value, at = _text(block, at, end)
            header = name, value
            headers.append(header)
            if byte >= 0x40:
                self._add(header)
        return headers

    def _add(self, header: Header) -> None:
        self.changes += 1
        self._bytes += len(header[0]) + len(header[1]) + _ENTRY_BYTES
        self._entries.append(header)
        if self._bytes > self._max:
            self._evict()

    def _resize(self, size: int) -> None:
        if size > self._limit:
            raise HpackError(f"a table of {size} bytes; the limit is {self._limit}")
        self.changes += 1
        self._max = size
        self._evict()

    def _evict(self) -> None:
        count = 0
        for name, value in self._entries:
            if self._bytes <= self._max:
                break
            self._bytes -= len(name) + len(value) + _ENTRY_BYTES
            count += 1
        del self._entries[:count]


_texts: dict[bytes, str] = {}


def _text(block: bytes, at: int, end: int) -> tuple[str, int]:
    byte = block[at]
    at += 1
    length = byte & 0x7F
    if length == 0x7F:
        length, at = _integer(block, at, 0x7F)
    after = at + length
    if after > end:
        raise HpackError("a text goes on after the end of its block")
    raw = block[at:after]
    if byte < 0x80:
        return raw.decode("latin-1"), after
    text = _texts.get(raw)
    if text is None:
        text = huffman.decode(raw)
        if length <= _TEXT_BYTES_MAX:
            if len(_texts) >= _TEXTS_MAX:
                _texts.clear()
            _texts[raw] = text
    return text, after


def _integer(block: bytes, at: int, value: int) -> tuple[int, int]:
    """What follows a prefix of all ones."""
    shift = 0
    while True:
        byte = block[at]
        at += 1
        value += (byte & 0x7F) << shift
        if value > _INTEGER_LIMIT or shift > 28:
            raise HpackError("a number beyond all reason")
        if byte < 0x80:
            return value, at
        shift += 7


def encode(headers: list[Header]) -> bytes:
    """A block of literals that no table remembers: the same bytes on every connection, so they can be constants."""
    block = bytearray()
    for name, value in headers:
        if (name, value) in STATIC:
            block.append(0x80 | STATIC.index((name, value)))
            continue
        index = _STATIC_NAMES.index(name) + 1 if name in _STATIC_NAMES else 0
        block += _prefixed(0x00, 4, index)
        if not index:
            block += _prefixed(0x00, 7, len(name)) + name.encode("latin-1")
        block += _prefixed(0x00, 7, len(value)) + value.encode("latin-1")
    return bytes(block)


def _prefixed(first: int, bits: int, value: int) -> bytes:
    limit = (1 << bits) - 1
    if value < limit:
        return bytes((first | value,))
    encoded = bytearray((first | limit,))
    value -= limit
    while value >= 0x80:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)
