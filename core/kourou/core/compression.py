"""Compressing the records of a frame, and inflating them without trusting what they claim.

zlib is always there; lz4 (package lz4) and zstd (package zstandard) when they are installed. Inflation stops at the size
that the frame states, which is bounded itself, and refuses ratios that only a bomb has.
"""

from __future__ import annotations

import importlib
import zlib
from functools import cache
from types import ModuleType

from kourou.core.errors import BadChecksum, FrameInvalid, NotSupported
from kourou.core.frame import Buffer, Compression
from kourou.core.limits import FRAME_BYTES_MAX, INFLATE_RATIO_MAX

SMALL_BYTES = 64 * 1024  # up to here any ratio is harmless
_MODULES = {Compression.LZ4: "lz4.frame", Compression.ZSTD: "zstandard"}


@cache
def _module(kind: Compression) -> ModuleType | None:
    try:
        return importlib.import_module(_MODULES[kind])
    except ImportError:
        return None


def available() -> tuple[str, ...]:
    """Names of the codecs that this process has."""
    found = ["zlib", *(kind.name.lower() for kind in _MODULES if _module(kind) is not None)]
    return tuple(found)


def parse(name: str | None) -> Compression:
    """The codec of a name; None is no compression. Raises NotSupported, saying what to install."""
    if name is None or name == "none":
        return Compression.NONE
    try:
        kind = Compression[str(name).upper()]
    except KeyError:
        raise NotSupported(f"compression {name!r} is unknown; there are zlib, lz4 and zstd") from None
    if kind in _MODULES and _module(kind) is None:
        raise NotSupported(f"compression {name} needs the package {_MODULES[kind].partition('.')[0]}; install it")
    return kind


def compress(kind: Compression, data: bytes) -> bytes:
    if kind is Compression.ZLIB:
        return zlib.compress(data, 1)
    module = _require(kind)
    if kind is Compression.LZ4:
        packed: bytes = module.compress(data)
    else:
        packed = module.ZstdCompressor(level=1).compress(data)
    return packed


def inflate(kind: int, data: Buffer, size: int) -> bytes:
    """The ``size`` bytes that ``data`` stands for. Raises FrameInvalid when it is anything else, or a bomb."""
    if size > FRAME_BYTES_MAX:
        raise FrameInvalid(f"compressed records say {size} bytes; the limit is {FRAME_BYTES_MAX}")
    if size > SMALL_BYTES and size > len(data) * INFLATE_RATIO_MAX:
        raise FrameInvalid(f"{len(data)} compressed bytes say {size}: more than {INFLATE_RATIO_MAX} times as many")
    codec = Compression(kind)
    if codec is Compression.ZLIB:
        raw = _inflate_zlib(data, size)
    elif codec is Compression.LZ4:
        raw = _inflate_lz4(data, size)
    else:
        raw = _inflate_zstd(data, size)
    if len(raw) != size:
        raise FrameInvalid(f"compressed records are {len(raw)} bytes or more, not {size}")
    return raw


def _require(kind: Compression) -> ModuleType:
    module = _module(kind)
    if module is None:
        name = _MODULES[kind].partition(".")[0]
        raise NotSupported(f"the records are compressed with {kind.name.lower()}; install the package {name} to read them")
    return module


def _inflate_zlib(data: Buffer, size: int) -> bytes:
    machine = zlib.decompressobj()
    try:
        return machine.decompress(data, size + 1)
    except zlib.error as failure:
        raise BadChecksum(f"compressed records can't be inflated: {failure}") from None


def _inflate_lz4(data: Buffer, size: int) -> bytes:
    machine = _require(Compression.LZ4).LZ4FrameDecompressor()
    try:
        raw: bytes = machine.decompress(bytes(data), max_length=size + 1)
    except RuntimeError as failure:
        raise BadChecksum(f"compressed records can't be inflated: {failure}") from None
    return raw


def _inflate_zstd(data: Buffer, size: int) -> bytes:
    module = _require(Compression.ZSTD)
    try:
        with module.ZstdDecompressor(max_window_size=FRAME_BYTES_MAX).stream_reader(bytes(data)) as reader:
            raw: bytes = reader.read(size + 1)
    except module.ZstdError as failure:
        raise BadChecksum(f"compressed records can't be inflated: {failure}") from None
    return raw
