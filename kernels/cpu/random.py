"""Counter-based random numbers: the words and the mapping of `reference.random`, in parallel.

A thread computes the words of a chunk into a buffer that stays in its cache and makes numbers of
them there. Logarithm, sine and cosine are short series in float32: calls to the C library would
keep the loop off the vector registers, and a normal number would take 9 ns in place of 2.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import DTypeLike

from ..reference.random import box_muller, wide
from .jit import CHUNK, inline, kernel, prange, serial_kernel

__all__ = ["bernoulli", "bits", "normal", "uniform"]

_BLOCKS = CHUNK // 4
"""Philox blocks per parallel task, each of four words."""


def bits(seed: int, offset: int, n: int, *, plane: int = 0) -> np.ndarray:
    """Random words, uint32 (n,)."""
    return _draw(_bits, _bits_parallel, seed, offset, (n,), np.uint32, np.uint64(plane))


def uniform(
    seed: int, offset: int, shape: tuple[int, ...], low: float, high: float, dtype: DTypeLike
) -> np.ndarray:
    """low + (high - low) u, with u on a grid of step 2⁻²⁴ (float64: 2⁻⁵³) in [0, 1)."""
    if np.dtype(dtype) == np.float32:
        scale = np.array([low, high - low], np.float32)
        return _draw(_uniform, _uniform_parallel, seed, offset, shape, np.float32, scale)
    n = math.prod(shape)
    u = wide(bits(seed, offset, n), bits(seed, offset, n, plane=1)) * 2.0**-53
    return (low + (high - low) * u).reshape(shape)


def normal(
    seed: int, offset: int, shape: tuple[int, ...], mean: float, std: float, dtype: DTypeLike
) -> np.ndarray:
    """mean + std z, with z of a standard normal distribution (Box and Muller 1958)."""
    if np.dtype(dtype) == np.float32:
        scale = np.array([mean, std], np.float32)
        return _draw(_normal, _normal_parallel, seed, offset, shape, np.float32, scale)
    n = math.prod(shape)
    m = n + n % 2
    words = wide(bits(seed, offset, m), bits(seed, offset, m, plane=1))
    z = box_muller((words[0::2] + 0.5) * 2.0**-53, words[1::2] * 2.0**-53)
    return (mean + std * z[:n]).reshape(shape)


def bernoulli(
    seed: int, offset: int, shape: tuple[int, ...], p: float | np.ndarray, dtype: DTypeLike
) -> np.ndarray:
    """1 with probability p, else 0: whether the float32 uniform number is below p."""
    return (uniform(seed, offset, shape, 0.0, 1.0, np.float32) < p).astype(dtype)


def _draw(
    one_thread: Callable,
    all_threads: Callable,
    seed: int,
    offset: int,
    shape: tuple[int, ...],
    dtype: DTypeLike,
    argument: np.ndarray | np.uint64,
) -> np.ndarray:
    n = math.prod(shape)
    blocks = -(-n // 4)
    out = np.empty(4 * blocks, dtype)  # kernels write whole blocks
    key = np.uint64(seed & 0xFFFFFFFF), np.uint64(seed >> 32)
    # Waking the threads takes 10 µs, in which one thread draws a chunk.
    if blocks <= _BLOCKS:
        one_thread(out, 0, blocks, np.uint64(offset), *key, argument)
    else:
        all_threads(out, np.uint64(offset), *key, argument)
    return out[:n].reshape(shape)


# Each kernel comes as blocks first, ..., last - 1 on one thread and, below it, all blocks on all
# threads, where no two tasks write to the same block.
#
# Numba makes float64 of uint64 with a Python int, and of float32 with a Python float: every
# constant has its type here.
_MULTIPLIER_0 = np.uint64(0xD2511F53)
_MULTIPLIER_1 = np.uint64(0xCD9E8D57)
_KEY_STEP_0 = np.uint64(0x9E3779B9)
_KEY_STEP_1 = np.uint64(0xBB67AE85)
_LOW_HALF = np.uint64(0xFFFFFFFF)
_32 = np.uint64(32)
_PLANE_0 = np.uint64(0)


@serial_kernel
def _bits(out, first, last, offset, key0, key1, plane):
    """Words of blocks offset + first, ..., offset + last - 1 to out[4 first : 4 last]."""
    # Loops start at zero: an index that may be negative to Numba's eyes costs the vector loop.
    part = out[4 * first : 4 * last]
    for block in range(part.size // 4):
        counter = offset + np.uint64(first + block)
        c0, c1, c2, c3 = counter & _LOW_HALF, counter >> _32, plane, np.uint64(0)
        k0, k1 = key0, key1
        for _ in range(10):
            product0 = _MULTIPLIER_0 * c0
            product1 = _MULTIPLIER_1 * c2
            c0, c1 = (product1 >> _32) ^ c1 ^ k0, product1 & _LOW_HALF
            c2, c3 = (product0 >> _32) ^ c3 ^ k1, product0 & _LOW_HALF
            k0 = (k0 + _KEY_STEP_0) & _LOW_HALF
            k1 = (k1 + _KEY_STEP_1) & _LOW_HALF
        part[4 * block] = c0
        part[4 * block + 1] = c1
        part[4 * block + 2] = c2
        part[4 * block + 3] = c3


@kernel
def _bits_parallel(out, offset, key0, key1, plane):
    blocks = out.size // 4
    for task in prange(-(-blocks // _BLOCKS)):
        first = task * _BLOCKS
        _bits(out, first, min(first + _BLOCKS, blocks), offset, key0, key1, plane)


@serial_kernel
def _uniform(out, first, last, offset, key0, key1, scale):
    low, span = scale[0], scale[1]
    part = out[4 * first : 4 * last]
    words = np.empty(part.size, np.uint32)
    _bits(words, 0, last - first, offset + np.uint64(first), key0, key1, _PLANE_0)
    for i in range(words.size):
        u = np.float32(words[i] >> np.uint32(8)) * _TWO_TO_MINUS_24
        part[i] = low + span * u


@kernel
def _uniform_parallel(out, offset, key0, key1, scale):
    blocks = out.size // 4
    for task in prange(-(-blocks // _BLOCKS)):
        first = task * _BLOCKS
        _uniform(out, first, min(first + _BLOCKS, blocks), offset, key0, key1, scale)


@serial_kernel
def _normal(out, first, last, offset, key0, key1, scale):
    mean, std = scale[0], scale[1]
    part = out[4 * first : 4 * last]
    words = np.empty(part.size, np.uint32)
    _bits(words, 0, last - first, offset + np.uint64(first), key0, key1, _PLANE_0)
    for pair in range(words.size // 2):
        u = np.float32(words[2 * pair]) * _TWO_TO_MINUS_32 + _TWO_TO_MINUS_33
        radius = np.sqrt(_MINUS_TWO * _log(u))
        cos, sin = _cos_sin_of_turn(words[2 * pair + 1])
        part[2 * pair] = mean + std * radius * cos
        part[2 * pair + 1] = mean + std * radius * sin


@kernel
def _normal_parallel(out, offset, key0, key1, scale):
    blocks = out.size // 4
    for task in prange(-(-blocks // _BLOCKS)):
        first = task * _BLOCKS
        _normal(out, first, min(first + _BLOCKS, blocks), offset, key0, key1, scale)


_ONE = np.float32(1)
_MINUS_TWO = np.float32(-2)
_TWO_TO_MINUS_24 = np.float32(2**-24)
_TWO_TO_MINUS_32 = np.float32(2**-32)
_TWO_TO_MINUS_33 = np.float32(2**-33)

_LOG_2 = np.float32(math.log(2))
_ATANH_1, _ATANH_3, _ATANH_5, _ATANH_7, _ATANH_9 = (np.float32(2 / k) for k in (1, 3, 5, 7, 9))
_SQRT_HALF_BITS = np.float32(math.sqrt(0.5)).view(np.int32)
_MANTISSA_BITS = np.int32(23)


@inline
def _log(u):
    """Logarithm of a positive normal float32: u = 2^e m, log u = e log 2 + 2 atanh((m-1)/(m+1)).

    With m in [√½, √2) the argument of atanh is below 0.172, and five terms reach float32.
    """
    pattern = np.float32(u).view(np.int32)
    e = (pattern - _SQRT_HALF_BITS) >> _MANTISSA_BITS
    m = np.int32(pattern - (e << _MANTISSA_BITS)).view(np.float32)
    s = (m - _ONE) / (m + _ONE)
    z = s * s
    series = _ATANH_1 + z * (_ATANH_3 + z * (_ATANH_5 + z * (_ATANH_7 + z * _ATANH_9)))
    return np.float32(np.int32(e)) * _LOG_2 + s * series


_ANGLE = np.float32(2 * math.pi / 2**32)
_EIGHTH_TURN = np.uint32(1 << 29)
_QUARTER_TURN = np.uint32(30)
_ODD = np.uint32(1)
_S3, _S5, _S7, _S9 = (np.float32((-1) ** (k // 2) / math.factorial(k)) for k in (3, 5, 7, 9))
_C2, _C4, _C6, _C8, _C10 = (
    np.float32((-1) ** (k // 2) / math.factorial(k)) for k in (2, 4, 6, 8, 10)
)


@inline
def _cos_sin_of_turn(word):
    """Cosine and sine of word / 2³² of a full turn, by Taylor series within π/4 of a quarter."""
    quarter = np.uint32(np.uint32(word + _EIGHTH_TURN) >> _QUARTER_TURN)
    x = np.float32(np.int32(word - np.uint32(quarter << _QUARTER_TURN))) * _ANGLE
    z = x * x
    s = x + x * z * (_S3 + z * (_S5 + z * (_S7 + z * _S9)))
    c = _ONE + z * (_C2 + z * (_C4 + z * (_C6 + z * (_C8 + z * _C10))))
    # A quarter turn takes (cos, sin) to (-sin, cos); choices, not branches, stay on vectors.
    odd = (quarter & _ODD) != 0
    cos = s if odd else c
    sin = c if odd else s
    cos = -cos if (quarter == 1) | (quarter == 2) else cos
    sin = -sin if quarter >= 2 else sin
    return cos, sin
