"""Threefry-2x32-20: the generator behind every draw.

Salmon, Moraes, Dror, Shaw: Parallel random numbers: as easy as 1, 2, 3 (SC 2011). The rounds are written once, here.
Words are added and rotated according to their type: int32 arrays of a framework, uint32 arrays of NumPy, Python ints.
"""

from collections.abc import Callable
from typing import Any

__all__ = ["MASK", "Pair", "int_rounds", "rounds", "uint32_rounds"]

Pair = tuple[Any, Any]
MASK = 0xFFFFFFFF
_PARITY = 0x1BD11BDA
_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))


def rounds(key: Pair, counter: Pair, rotate_left: Callable[[Any, int], Any]) -> Pair:
    """The 20 rounds: two words of 32 bits from a key and a counter of two words each.

    Checked against the known-answer vectors of Random123 (kat_vectors, threefry2x32 with 20 rounds).

    Args:
        key: two words, or arrays of words that broadcast against the counter's. The operator + adds them modulo 2**32,
            or leaves bits above the 32nd, which `rotate_left` drops.
        counter: two words.
        rotate_left: rotates words left by a number of bits between 1 and 31.
    """
    schedule = (key[0], key[1], key[0] ^ key[1] ^ _PARITY)
    x0, x1 = counter[0] + schedule[0], counter[1] + schedule[1]
    for group in range(5):
        for bits in _ROTATIONS[group % 2]:
            x0 = x0 + x1
            x1 = rotate_left(x1, bits) ^ x0
        x0 = x0 + schedule[(group + 1) % 3]
        x1 = x1 + schedule[(group + 2) % 3] + (group + 1)
    return x0, x1


def uint32_rounds(key: Pair, counter: Pair) -> Pair:
    """The rounds for uint32 arrays of NumPy."""
    return _host_rounds(key, counter, False)


def int_rounds(key: Pair, counter: Pair) -> Pair:
    """The rounds for Python ints in [0, 2**32): an array of one element takes ten times as long."""
    x0, x1 = _host_rounds(key, counter, True)
    return x0 & MASK, x1 & MASK


def _host_rounds(key: Pair, counter: Pair, grow: bool) -> Pair:
    """`rounds` without a call for each rotation; `grow`: words have no fixed width and are cut before rotation."""
    schedule = (key[0], key[1], key[0] ^ key[1] ^ _PARITY)
    x0, x1 = counter[0] + schedule[0], counter[1] + schedule[1]
    for group in range(5):
        for bits in _ROTATIONS[group % 2]:
            x0 = x0 + x1
            if grow:
                x1 = x1 & MASK
            x1 = ((x1 << bits) | (x1 >> (32 - bits))) ^ x0
        x0 = x0 + schedule[(group + 1) % 3]
        x1 = x1 + schedule[(group + 2) % 3] + (group + 1)
    return x0, x1
