"""Scalar functions that vectorise inside Numba loops: exp, tanh, sigmoid, erf and their like.

Without Intel's SVML, `math.exp` in a loop is a call into libm for each element (5 to 15 ns). The
float32 functions here are straight-line code (range reduction, a polynomial, a power of two put
together from its bits), so that LLVM computes 8 or 16 elements at a time; measured errors are at
most 3 ulp over the whole range, with IEEE results for ±0, ±inf and NaN. In float64, where only
correctness matters, they call libm.

Inside a kernel `exp(x)` picks the version by the dtype of x; outside compiled code the functions
are NumPy's own. Numba keys its disk cache on the caller's file only: clear it after an edit here.
"""

from __future__ import annotations

import math

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic, overload
from scipy import special

__all__ = ["erf", "exp", "expm1", "log1p", "maximum", "sigmoid", "softplus", "tanh"]

# Not the fast-math flags of `jit.py`: reassociation would cancel the compensated subtractions
# below. Whatever the caller asks for: each instruction keeps the ones it was compiled with.
_OPTIONS = {"fastmath": {"contract"}, "error_model": "numpy", "forceinline": True}
_exact = njit(nogil=True, cache=True, **_OPTIONS)

_QUARTER = np.float32(0.25)
_HALF = np.float32(0.5)
_ONE = np.float32(1)
_TWO = np.float32(2)
_ZERO = np.float32(0)
_INF = np.float32(np.inf)
_NAN = np.float32(np.nan)

# Adding 1.5 * 2**23 to a small float rounds it to an integer and leaves that integer in the low
# bits of the sum; subtracting it again gives the rounded float.
_ROUND = np.float32(12582912)
_ROUND_BITS = np.int32(0x4B400000)
_LOG2_E = np.float32(1.4426950408889634)
# ln 2 in two parts; the first has so few bits that n * _LN2_HIGH is exact for |n| < 2**15.
_LN2_HIGH = np.float32(0.693359375)
_LN2_LOW = np.float32(-2.12194440e-4)
_LN2 = np.float32(0.6931471805599453)
_SQRT_HALF_BITS = np.int32(0x3F3504F3)
_MANTISSA_BITS = np.int32(23)
_EXPONENT_BIAS = np.int32(127)

# Minimax polynomials of relative error (Lawson's iteration, then rounded to float32 one by one):
# (expm1(r) - r) / r**2 for |r| <= ln(2) / 2                                   error 1.4e-8
_EXPM1 = tuple(map(np.float32, (0.49999997, 0.16666546, 0.041667435, 0.008366262, 0.0013870657)))
# (log1p(f) - f + f**2 / 2) / f**3 for sqrt(1/2) <= 1 + f <= sqrt(2)             error 5.8e-9
_LOG1P = tuple(
    map(
        np.float32,
        (
            *(0.3333333, -0.2500082, 0.20001242, -0.16623409),
            *(0.1420158, -0.1315961, 0.12762217, -0.07636439),
        ),
    )
)
# erf(x) / x - 1 in powers of x**2, for |x| <= 1                                 error 1.4e-9
_ERF = tuple(
    map(
        np.float32,
        (
            *(0.12837917, -0.37612626, 0.11283579, -0.026853347),
            *(0.005187162, -7.997853e-04, 7.806904e-05),
        ),
    )
)
# -log(erfc(x)) / x for 1 <= x <= 4, error relative to erf(x)                    error 2.6e-9
_ERFC = tuple(
    map(
        np.float32,
        (1.1284906, 0.63579726, 0.105159596, -0.022825403, 0.0031950937, -2.116042e-04),
    )
)


@intrinsic
def _bits(typingctx, x):
    """The float32 x read as an int32."""

    def codegen(context, builder, signature, args):
        return builder.bitcast(args[0], ir.IntType(32))

    return types.int32(types.float32), codegen


@intrinsic
def _from_bits(typingctx, bits):
    """The int32 read as a float32; wider integers (Numba's sums) are cut to 32 bits first."""

    def codegen(context, builder, signature, args):
        low = context.cast(builder, args[0], signature.args[0], types.int32)
        return builder.bitcast(low, ir.FloatType())

    return types.float32(bits), codegen


@intrinsic
def _maximum(typingctx, a, b):
    """LLVM's IEEE maximum: a loop over it vectorises, one over Python's `max` does not."""

    def codegen(context, builder, signature, args):
        real = args[0].type
        kind = ir.FunctionType(real, [real, real])
        return builder.call(builder.module.declare_intrinsic("llvm.maximum", [real], kind), args)

    return a(a, a), codegen


@_exact
def _reduce(x):
    """(n, r) with x = n ln 2 + r and |r| <= ln(2) / 2; n as an integer. NaN gives r = NaN."""
    shifted = x * _LOG2_E + _ROUND
    n = shifted - _ROUND
    r = (x - n * _LN2_HIGH) - n * _LN2_LOW
    return np.int32(_bits(shifted) - _ROUND_BITS), r


@_exact
def _power_of_two(n):
    """2**n for -126 <= n <= 127."""
    return _from_bits((n + _EXPONENT_BIAS) << _MANTISSA_BITS)


@_exact
def _expm1_reduced(r):
    """exp(r) - 1 for |r| <= ln(2) / 2."""
    c = _EXPM1
    return r + r * r * ((((c[4] * r + c[3]) * r + c[2]) * r + c[1]) * r + c[0])


@_exact
def _exp32(x):
    # Comparisons written so that NaN passes; the bounds give 0 and inf.
    x = np.float32(-105) if x < np.float32(-105) else x
    x = np.float32(89) if x > np.float32(89) else x
    n, r = _reduce(x)
    # 2**n in two steps: alone it would overflow at n = 128 and underflow at n < -126.
    half = n >> np.int32(1)
    return (_ONE + _expm1_reduced(r)) * _power_of_two(half) * _power_of_two(n - half)


@_exact
def _expm132(x):
    x = np.float32(-20) if x < np.float32(-20) else x
    x = np.float32(89) if x > np.float32(89) else x
    n, r = _reduce(x)
    # 2 (2**(n-1) (expm1(r) + 1) - 1/2): exact where 2**n - 1 is, no overflow at n = 128.
    scale = _power_of_two(n - np.int32(1))
    return math.copysign(_TWO * (scale * _expm1_reduced(r) + (scale - _HALF)), x)


@_exact
def _log1p32(x):
    # 1 + x = 2**k m with sqrt(1/2) <= m < sqrt(2); m - 1 is taken from x itself, so that the
    # bits that 1 + x rounds away are not lost. The quarter keeps 2**-k in range at k = 128.
    k = np.int32(np.int32(_bits(_ONE + x) - _SQRT_HALF_BITS) >> _MANTISSA_BITS)
    scale = _power_of_two(np.int32(2) - k)
    f = (_QUARTER * x) * scale + (_QUARTER * scale - _ONE)
    c = _LOG1P
    high = ((c[7] * f + c[6]) * f + c[5]) * f + c[4]
    p = (((high * f + c[3]) * f + c[2]) * f + c[1]) * f + c[0]
    y = np.float32(k) * _LN2 + (f - f * f * (_HALF - f * p))
    y = x if x == _INF else y
    if x <= -_ONE:
        y = -_INF if x == -_ONE else _NAN
    return math.copysign(y, x)


@_exact
def _tanh32(x):
    # tanh |x| = E / (E + 2) with E = exp(2 |x|) - 1; beyond 20 the quotient is 1.
    double = _TWO * abs(x)
    e = _expm132(np.float32(20) if double > np.float32(20) else double)
    return math.copysign(e / (e + _TWO), x)


@_exact
def _sigmoid32(x):
    return _ONE / (_ONE + _exp32(-x))


@_exact
def _erf32(x):
    a = abs(x)
    a = np.float32(4) if a > np.float32(4) else a
    t = a * a
    c = _ERF
    p = (((((c[6] * t + c[5]) * t + c[4]) * t + c[3]) * t + c[2]) * t + c[1]) * t + c[0]
    d = _ERFC
    q = ((((d[5] * a + d[4]) * a + d[3]) * a + d[2]) * a + d[1]) * a + d[0]
    return math.copysign(a + a * p if a < _ONE else _ONE - _exp32(-a * q), x)


@_exact
def _softplus32(x):
    return (x if x > _ZERO else _ZERO) + _log1p32(_exp32(-abs(x)))


def _in_kernels(single, double):
    """In compiled code, call `single` for float32 and `double` for anything else."""

    def register(function):
        @overload(function, jit_options=_OPTIONS)
        def choose(x):
            return single.py_func if x == types.float32 else double

        return function

    return register


@_in_kernels(_exp32, lambda x: math.exp(x))
def exp(x: float) -> float:
    """e**x."""
    return np.exp(x)


@_in_kernels(_expm132, lambda x: math.expm1(x))
def expm1(x: float) -> float:
    """e**x - 1, accurate near 0."""
    return np.expm1(x)


@_in_kernels(_log1p32, lambda x: math.log1p(x))
def log1p(x: float) -> float:
    """log(1 + x), accurate near 0."""
    return np.log1p(x)


@_in_kernels(_tanh32, lambda x: math.tanh(x))
def tanh(x: float) -> float:
    """(e**x - e**-x) / (e**x + e**-x)."""
    return np.tanh(x)


@_in_kernels(_sigmoid32, lambda x: 1.0 / (1.0 + math.exp(-x)))
def sigmoid(x: float) -> float:
    """1 / (1 + e**-x)."""
    return special.expit(x)


@_in_kernels(_softplus32, lambda x: max(x, 0.0) + math.log1p(math.exp(-abs(x))))
def softplus(x: float) -> float:
    """log(1 + e**x)."""
    return np.logaddexp(x, 0)


@_in_kernels(_erf32, lambda x: math.erf(x))
def erf(x: float) -> float:
    """2 / sqrt(pi) times the integral of e**-t**2 from 0 to x."""
    return special.erf(x)


def maximum(a: float, b: float) -> float:
    """The larger of two numbers of one dtype, NaN if one of them is."""
    return np.maximum(a, b)


@overload(maximum, jit_options=_OPTIONS)
def _maximum_in_kernels(a, b):
    return lambda a, b: _maximum(a, b)
