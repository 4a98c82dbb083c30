"""Counter-based random numbers, Philox4x32-10: the definition.

There is no state to carry along: block b of a seed is four 32-bit words, a pure function of (seed,
b), so that threads and devices compute their parts of a draw alone and agree on the whole. Word i
of a draw that starts at `offset` is word i mod 4 of

    philox(counter = (b mod 2³², ⌊b / 2³²⌋, plane, 0), key = (seed mod 2³², ⌊seed / 2³²⌋))
    with b = offset + ⌊i / 4⌋ modulo 2⁶⁴ and 0 ≤ seed, offset < 2⁶⁴

Element i of a draw needs word i, and its pair's other word for a normal. So a draw of n elements
advances the offset by ⌈n / 4⌉, whatever its distribution and dtype. In float64 each element has 32
bits more, from plane 1: it is the float32 element with more digits, and a run in double precision
sees the same noise.

Source: Salmon, Moraes, Dror and Shaw 2011, "Parallel random numbers: as easy as 1, 2, 3".
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import DTypeLike

__all__ = ["bernoulli", "bits", "box_muller", "normal", "philox", "uniform", "wide"]

_MULTIPLIERS = np.array([0xD2511F53, 0xCD9E8D57], np.uint64)
_KEY_STEPS = np.array([0x9E3779B9, 0xBB67AE85], np.uint64)  # of the golden ratio and √3
_LOW_HALF = np.uint64(0xFFFFFFFF)
_32 = np.uint64(32)


def philox(counter: np.ndarray, key: np.ndarray) -> np.ndarray:
    """Philox4x32 with ten rounds: counters (4, n) and key (2,), uint32, to words (4, n) uint32."""
    c0, c1, c2, c3 = counter.astype(np.uint64)
    k0, k1 = key.astype(np.uint64)
    for _ in range(10):
        product0 = _MULTIPLIERS[0] * c0
        product1 = _MULTIPLIERS[1] * c2
        c0, c1 = (product1 >> _32) ^ c1 ^ k0, product1 & _LOW_HALF
        c2, c3 = (product0 >> _32) ^ c3 ^ k1, product0 & _LOW_HALF
        k0 = (k0 + _KEY_STEPS[0]) & _LOW_HALF
        k1 = (k1 + _KEY_STEPS[1]) & _LOW_HALF
    return np.stack([c0, c1, c2, c3]).astype(np.uint32)


def bits(seed: int, offset: int, n: int, *, plane: int = 0) -> np.ndarray:
    """Random words, uint32 (n,)."""
    block = np.uint64(offset) + np.arange(-(-n // 4), dtype=np.uint64)
    counter = np.zeros((4, len(block)), np.uint32)
    counter[0] = block & _LOW_HALF
    counter[1] = block >> _32
    counter[2] = plane
    key = np.array([seed & 0xFFFFFFFF, seed >> 32], np.uint32)
    return philox(counter, key).T.reshape(-1)[:n]


def uniform(
    seed: int, offset: int, shape: tuple[int, ...], low: float, high: float, dtype: DTypeLike
) -> np.ndarray:
    """low + (high - low) u, with u on a grid of step 2⁻²⁴ (float64: 2⁻⁵³) in [0, 1).

    The result is below `high` up to the rounding of the sum.
    """
    n = math.prod(shape)
    if np.dtype(dtype) == np.float32:
        u = (bits(seed, offset, n) >> 8).astype(np.float32) * np.float32(2**-24)
    else:
        u = wide(bits(seed, offset, n), bits(seed, offset, n, plane=1)) * 2.0**-53
    return (low + (high - low) * u).astype(dtype).reshape(shape)


def normal(
    seed: int, offset: int, shape: tuple[int, ...], mean: float, std: float, dtype: DTypeLike
) -> np.ndarray:
    """mean + std z, with z of a standard normal distribution (Box and Muller 1958).

    Words 2j and 2j + 1 make elements 2j and 2j + 1. In float32 the first is rounded to float32
    before it becomes u, which reaches down to 2⁻³³, so that |z| ends at 6.8 (float64: 8.7) and is
    never infinite. Back ends may differ in the last digits of the logarithm, sine and cosine.
    """
    n = math.prod(shape)
    m = n + n % 2
    if np.dtype(dtype) == np.float32:
        words = bits(seed, offset, m)
        u = words[0::2].astype(np.float32) * np.float32(2**-32) + np.float32(2**-33)
        turn = words[1::2] * 2.0**-32
    else:
        words = wide(bits(seed, offset, m), bits(seed, offset, m, plane=1))
        u = (words[0::2] + 0.5) * 2.0**-53
        turn = words[1::2] * 2.0**-53
    return (mean + std * box_muller(u, turn)[:n]).astype(dtype).reshape(shape)


def bernoulli(
    seed: int, offset: int, shape: tuple[int, ...], p: float | np.ndarray, dtype: DTypeLike
) -> np.ndarray:
    """1 with probability p, else 0: whether the float32 uniform number is below p."""
    return (uniform(seed, offset, shape, 0.0, 1.0, np.float32) < p).astype(dtype)


def wide(words: np.ndarray, more: np.ndarray) -> np.ndarray:
    """The 53-bit integers, uint64, that lead with the bits of `words` and go on with `more`."""
    return (words.astype(np.uint64) << np.uint64(21)) | (more >> np.uint32(11))


def box_muller(u: np.ndarray, turn: np.ndarray) -> np.ndarray:
    """Pairs √(-2 log u) (cos, sin)(2π turn), interleaved; u in (0, 1], turn in [0, 1)."""
    radius = np.sqrt(-2 * np.log(u.astype(np.float64)))
    angle = 2 * np.pi * turn
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=-1).reshape(-1)
