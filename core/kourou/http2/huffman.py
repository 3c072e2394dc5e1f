"""HPACK's Huffman code (RFC 7541, appendix B), decoded a byte at a time.

The code is canonical, so the lengths say it all. A decoder's state is what is left of the bits read so far: a prefix of
some code. A state maps a byte to the next state and the text that it completes; both are worked out when they are first
met (all 65,536 at import would cost half a second).
"""

from __future__ import annotations

from typing import Any, Final

_LENGTHS_TEXT: Final = """
    13 23 28 28 28 28 28 28 28 24 30 28 28 30 28 28 28 28 28 28 28 28 30 28 28 28 28 28 28 28 28 28
    6 10 10 12 13 6 8 11 10 10 8 11 8 6 6 6 5 5 5 6 6 6 6 6 6 6 7 8 15 6 12 10
    13 6 7 7 7 7 7 7 7 7 7 7 7 7 7 7 7 7 7 7 7 7 7 7 8 7 8 13 19 13 14 6
    15 5 6 5 6 5 6 6 6 5 7 7 6 6 6 5 6 7 6 5 5 6 7 7 7 7 7 15 11 14 13 28
    20 22 20 20 22 22 22 23 22 23 23 23 23 23 24 23 24 24 22 23 24 23 23 23 23 21 22 23 22 23 23 24
    22 21 20 22 22 23 23 21 23 22 22 24 21 22 23 23 21 21 22 21 23 22 23 23 20 22 22 22 23 22 22 23
    26 26 20 19 22 23 22 25 26 26 26 27 27 26 24 25 19 21 26 27 27 26 27 24 21 21 26 26 28 27 27 27
    20 24 20 21 22 21 21 23 22 22 25 25 24 24 26 23 26 27 26 26 27 27 27 27 27 28 27 27 27 27 27 26
    30"""
_LENGTHS: Final = bytes(map(int, _LENGTHS_TEXT.split()))
_END: Final = 256
assert len(_LENGTHS) == _END + 1


class HuffmanError(ValueError):
    """The bits are not text: the end symbol inside, or padding that is too long or not of ones."""


def _codes() -> dict[tuple[int, int], int]:
    """(length, bits) -> symbol."""
    codes: dict[tuple[int, int], int] = {}
    code = length_before = 0
    for length, symbol in sorted((length, symbol) for symbol, length in enumerate(_LENGTHS)):
        code <<= length - length_before
        codes[length, code] = symbol
        code += 1
        length_before = length
    return codes


_CODES: Final = _codes()


# A state is a plain list, the quickest thing to look something up in: for each byte the next state and the text, None until
# they are worked out; then the number and the value of the bits that are left over from the bytes before.
_State = list[Any]
_LENGTH: Final = 256
_PENDING: Final = 257
_states: dict[tuple[int, int], _State] = {}


def _state(length: int, pending: int) -> _State:
    found = _states.get((length, pending))
    if found is None:
        found = _states[length, pending] = [*[None] * 256, length, pending]
    return found


_ROOT: Final = _state(0, 0)


def _work_out(state: _State, byte: int) -> tuple[_State, str]:
    length, pending, text = state[_LENGTH], state[_PENDING], ""
    for shift in range(7, -1, -1):
        length += 1
        pending = pending << 1 | byte >> shift & 1
        symbol = _CODES.get((length, pending))
        if symbol is not None:
            if symbol == _END:
                raise HuffmanError("the end symbol is inside the text")
            text += chr(symbol)
            length = pending = 0
    step = state[byte] = _state(length, pending), text
    return step


def decode(data: bytes) -> str:
    """The text, a character for each byte that was encoded."""
    state = _ROOT
    text = ""
    for byte in data:
        step = state[byte]
        if step is None:
            step = _work_out(state, byte)
        state, piece = step
        text += piece
    length = state[_LENGTH]
    if length > 7 or state[_PENDING] != (1 << length) - 1:
        raise HuffmanError("the padding is not the beginning of the end symbol")
    return text
