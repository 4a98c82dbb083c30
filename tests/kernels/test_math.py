"""The vectorised scalar functions against SciPy in float64, over the whole float32 range."""

from __future__ import annotations

import numpy as np
import pytest
from numba import njit
from scipy import special
from tinygen_kernels.cpu import math

FUNCTIONS = {
    "exp": np.exp,
    "expm1": np.expm1,
    "log1p": np.log1p,
    "tanh": np.tanh,
    "sigmoid": special.expit,
    "softplus": lambda x: np.logaddexp(x, 0),
    "erf": special.erf,
}
SPECIAL = [0.0, -0.0, np.inf, -np.inf, np.nan, -1.0, 1.0, 88.7228, 88.7229, -87.34, -103.9, -110.0]
# Smaller results may be flushed to zero.
TINY = float(np.finfo(np.float32).tiny)


def apply(name: str, x: np.ndarray) -> np.ndarray:
    function = getattr(math, name)

    # The real kernels' fast-math flags, inside which the helpers must stay exact, but no disk
    # cache, which would hide a change of `math.py`.
    @njit(error_model="numpy", fastmath={"reassoc", "contract", "arcp", "nsz", "afn"})
    def loop(x, out):
        for i in range(x.size):
            out[i] = function(x[i])

    out = np.empty_like(x)
    loop(x, out)
    return out


@pytest.mark.parametrize("name", FUNCTIONS)
def test_float32_is_within_3_ulp_over_all_exponents(name):
    every = np.arange(0, 2**32, 4099, dtype=np.uint64).astype(np.uint32).view(np.float32)
    usual = np.linspace(-20, 20, 200_001, dtype=np.float32)
    x = np.concatenate([every, usual, np.array(SPECIAL, np.float32)])
    with np.errstate(all="ignore"):
        exact = FUNCTIONS[name](x.astype(np.float64))
        rounded = exact.astype(np.float32)
    got = apply(name, x)
    assert got.dtype == np.float32
    np.testing.assert_array_equal(np.isnan(got), np.isnan(exact))
    np.testing.assert_array_equal(np.isinf(got), np.isinf(rounded))
    known = ~np.isnan(exact)
    np.testing.assert_array_equal(np.signbit(got)[known], np.signbit(rounded)[known])
    normal = np.isfinite(rounded) & (np.abs(exact) > TINY)
    error = np.abs(got[normal] - exact[normal]) / np.spacing(np.abs(rounded[normal]))
    assert error.max() < 3
    tiny = np.abs(exact) <= TINY
    assert np.abs(got[tiny]).max() <= TINY * (1 + 1e-6)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_float64_is_libm(name):
    x = np.concatenate([np.linspace(-40, 40, 10_001), SPECIAL, [700.0, -800.0, 1e300, -1e-300]])
    with np.errstate(all="ignore"):
        np.testing.assert_allclose(apply(name, x), FUNCTIONS[name](x), rtol=1e-15, atol=0)


def test_outside_kernels_they_are_numpy():
    for name, expected in FUNCTIONS.items():
        assert getattr(math, name)(0.5) == expected(0.5)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_maximum_passes_nan_on(dtype):
    @njit
    def loop(x):
        result = x[0]
        for i in range(x.size):
            result = math.maximum(result, x[i])
        return result

    x = np.random.default_rng(0).normal(size=1003).astype(dtype)
    assert loop(x) == x.max()
    x[500] = np.inf
    assert loop(x) == np.inf
    x[700] = np.nan
    assert np.isnan(loop(x))
    assert np.isnan(math.maximum(x[0], x[700]))
