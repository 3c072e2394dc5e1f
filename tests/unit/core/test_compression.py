"""Compression: what goes in comes out; bombs, lies and garbage are refused without allocating what they claim."""

from __future__ import annotations

import tracemalloc
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kourou.core import compression
from kourou.core.errors import BadChecksum, FrameInvalid, KourouError, NotSupported
from kourou.core.frame import Compression
from kourou.core.limits import FRAME_BYTES_MAX

CODECS = [Compression[name.upper()] for name in compression.available()]


@pytest.mark.parametrize("kind", CODECS)
@given(data=st.binary(min_size=1, max_size=5_000))
def test_round_trip(kind: Compression, data: bytes) -> None:
    assert compression.inflate(kind, compression.compress(kind, data), len(data)) == data


@pytest.mark.parametrize("kind", CODECS)
@given(data=st.binary(max_size=500), size=st.integers(1, 100_000))
def test_garbage_is_refused(kind: Compression, data: bytes, size: int) -> None:
    with pytest.raises(KourouError):
        compression.inflate(kind, data, size)


@pytest.mark.parametrize("kind", CODECS)
def test_sizes_that_are_not_true(kind: Compression) -> None:
    packed = compression.compress(kind, b"x" * 1_000)
    for size in (999, 1_001):
        with pytest.raises(FrameInvalid, match=f"not {size}"):
            compression.inflate(kind, packed, size)
    with pytest.raises(KourouError):
        compression.inflate(kind, packed[:-10], 1_000)


@pytest.mark.parametrize("kind", CODECS)
def test_a_bomb_is_not_unpacked(kind: Compression) -> None:
    """It says little and holds much: no more is unpacked than it says. It says much: refused before."""
    bomb = compression.compress(kind, bytes(64 * 1024 * 1024))
    tracemalloc.start()
    try:
        with pytest.raises(FrameInvalid):
            compression.inflate(kind, bomb, 50_000)
        assert tracemalloc.get_traced_memory()[1] < 12 * 1024 * 1024
    finally:
        tracemalloc.stop()
    with pytest.raises(FrameInvalid, match="the limit is"):
        compression.inflate(kind, bomb, FRAME_BYTES_MAX + 1)
    small = compression.compress(kind, bytes(8 * 1024 * 1024))
    if len(small) * 100 < 8 * 1024 * 1024:
        with pytest.raises(FrameInvalid, match="more than 100 times"):
            compression.inflate(kind, small, 8 * 1024 * 1024)


def test_small_frames_may_have_any_ratio() -> None:
    assert compression.inflate(Compression.ZLIB, zlib.compress(bytes(60_000)), 60_000) == bytes(60_000)


def test_names() -> None:
    assert compression.parse(None) is Compression.NONE
    assert compression.parse("zlib") is Compression.ZLIB
    assert "zlib" in compression.available()
    with pytest.raises(NotSupported, match="there are zlib, lz4 and zstd"):
        compression.parse("rar")


@pytest.mark.parametrize("name", ["lz4", "zstd"])
def test_codecs_that_are_not_installed_say_what_to_install(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compression, "_module", lambda kind: None)
    with pytest.raises(NotSupported, match="install it"):
        compression.parse(name)
    with pytest.raises(NotSupported, match="install the package"):
        compression.inflate(Compression[name.upper()], b"x", 1)


def test_a_checksum_inside_is_checked() -> None:
    packed = bytearray(zlib.compress(b"hello" * 100))
    packed[-1] ^= 1
    with pytest.raises(BadChecksum):
        compression.inflate(Compression.ZLIB, bytes(packed), 500)
