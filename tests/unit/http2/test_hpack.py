"""The decoder against the hpack library's encoder, and what no encoder would send."""

from __future__ import annotations

import pytest
from hpack import Decoder as OtherDecoder
from hpack import Encoder
from hpack.huffman import HuffmanEncoder
from hpack.huffman_constants import REQUEST_CODES, REQUEST_CODES_LENGTH
from hypothesis import given
from hypothesis import strategies as st

from kourou.http2 import huffman
from kourou.http2.hpack import STATIC, Decoder, HpackError, encode

TEXTS = st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=60)
NAMES = st.sampled_from([name for name, _ in STATIC[1:]] + ["x-mq-client-id", "x-mq-language", "grpc-timeout"])
BLOCKS = st.lists(st.tuples(NAMES, TEXTS), max_size=20)
OTHER_HUFFMAN = HuffmanEncoder(REQUEST_CODES, REQUEST_CODES_LENGTH)


@given(st.lists(BLOCKS, max_size=12), st.booleans(), st.lists(st.integers(0, 4096), max_size=12))
def test_what_the_library_encodes_is_decoded(blocks: list[list[tuple[str, str]]], compress: bool, sizes: list[int]) -> None:
    """A run of blocks on one pair of tables, with the table's size changed between some of them."""
    encoder, decoder = Encoder(), Decoder()
    for number, block in enumerate(blocks):
        if number < len(sizes):
            encoder.header_table_size = sizes[number]
        assert decoder.decode(encoder.encode(block, huffman=compress)) == block


@given(BLOCKS)
def test_what_we_encode_the_library_decodes(block: list[tuple[str, str]]) -> None:
    assert [(str(name), str(value)) for name, value in OtherDecoder().decode(encode(block))] == block


@given(st.binary(max_size=200))
def test_huffman_text_of_any_bytes(raw: bytes) -> None:
    assert huffman.decode(OTHER_HUFFMAN.encode(raw)) == raw.decode("latin-1")


@given(st.lists(st.binary(max_size=80), max_size=4))
def test_hostile_blocks_fail_or_decode_and_the_table_keeps_its_bound(blocks: list[bytes]) -> None:
    decoder = Decoder()
    for block in blocks:
        try:
            decoder.decode(block)
        except HpackError:
            return
        assert sum(len(name) + len(value) + 32 for name, value in decoder._entries) == decoder._bytes <= 4096


@given(st.binary(max_size=60))
def test_hostile_huffman_text(raw: bytes) -> None:
    """What we accept is exactly what encodes to the same bits again."""
    try:
        text = huffman.decode(raw)
    except huffman.HuffmanError:
        return
    assert OTHER_HUFFMAN.encode(text.encode("latin-1")) == raw


@pytest.mark.parametrize(
    "block",
    [
        b"\x80",  # index 0
        b"\xbe",  # index 62 of an empty table
        b"\xff\xff\xff\xff\xff\xff\x0f",  # an index without end
        b"\x40\x05ab",  # a text that is cut off
        b"\x40",
        b"\x3f\xe2\x1f",  # a table of 4097 bytes
        b"\x82\x20",  # a change of size after a header
        b"\x00\x81\xff\x00",  # padding of eight bits
        b"\x00\x81\x00\x00",  # padding of zeros
    ],
)
def test_refused(block: bytes) -> None:
    with pytest.raises(HpackError):
        Decoder().decode(block)


def test_changes_tells_when_a_block_may_mean_something_else() -> None:
    decoder, encoder = Decoder(), Encoder()
    fields = [(":method", "POST"), ("x-mq-client-id", "1")]
    decoder.decode(encoder.encode(fields))
    assert decoder.changes == 1
    again = encoder.encode(fields)
    assert decoder.decode(again) == fields
    assert decoder.changes == 1
    decoder.decode(b"\x20")
    assert decoder.changes == 2
