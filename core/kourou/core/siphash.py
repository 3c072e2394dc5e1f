"""SipHash-2-4 with the key bytes 00..0f: how every RocketMQ 5 client maps a message group to a queue.

Aumasson and Bernstein, "SipHash: a fast short-input PRF" (2012). Pure Python costs about 6 us for a short group, so
results are cached; the cache is bounded.
"""

from __future__ import annotations

from functools import lru_cache

_M = 0xFFFFFFFFFFFFFFFF
_K0 = 0x0706050403020100
_K1 = 0x0F0E0D0C0B0A0908


def siphash24(data: bytes, k0: int = _K0, k1: int = _K1) -> int:
    """The unsigned 64-bit hash of data."""
    v0 = k0 ^ 0x736F6D6570736575
    v1 = k1 ^ 0x646F72616E646F6D
    v2 = k0 ^ 0x6C7967656E657261
    v3 = k1 ^ 0x7465646279746573
    size = len(data)
    whole = size - size % 8
    words = [int.from_bytes(data[at : at + 8], "little") for at in range(0, whole, 8)]
    words.append(int.from_bytes(data[whole:], "little") | (size & 0xFF) << 56)
    for number, word in enumerate([*words, 0]):
        last = number == len(words)
        if last:
            v2 ^= 0xFF
        v3 ^= word
        for _ in range(4 if last else 2):
            v0 = (v0 + v1) & _M
            v1 = ((v1 << 13) | (v1 >> 51)) & _M ^ v0
            v0 = ((v0 << 32) | (v0 >> 32)) & _M
            v2 = (v2 + v3) & _M
            v3 = ((v3 << 16) | (v3 >> 48)) & _M ^ v2
            v0 = (v0 + v3) & _M
            v3 = ((v3 << 21) | (v3 >> 43)) & _M ^ v0
            v2 = (v2 + v1) & _M
            v1 = ((v1 << 17) | (v1 >> 47)) & _M ^ v2
            v2 = ((v2 << 32) | (v2 >> 32)) & _M
        v0 ^= word
    return v0 ^ v1 ^ v2 ^ v3


@lru_cache(maxsize=65_536)
def message_group_index(message_group: str, queue_count: int) -> int:
    """Which of a topic's declared queues (in their stable order) holds a message group.

    The Java client takes the hash as a signed long and the mathematical (never negative) remainder.
    """
    value = siphash24(message_group.encode())
    signed = value - (1 << 64) if value >> 63 else value
    return signed % queue_count
