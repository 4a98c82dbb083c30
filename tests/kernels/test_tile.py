"""Products by register tiles: against NumPy, with every remainder of rows and columns."""

from __future__ import annotations

import numpy as np
import pytest
from tinygen_kernels.cpu.tile import COLUMNS, panels, product

TOLERANCE = {np.float32: 1e-5, np.float64: 1e-14}


def test_panels_are_the_columns_in_order_and_zeros():
    matrix = np.arange(3 * 19.0).reshape(3, 19)
    packed = panels(matrix)
    assert packed.shape == (2, 3, COLUMNS)
    together = packed.swapaxes(0, 1).reshape(3, 2 * COLUMNS)
    np.testing.assert_array_equal(together[:, :19], matrix)
    np.testing.assert_array_equal(together[:, 19:], 0)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("count", [0, 1, 2, 3, 4, 5, 7, 11])
@pytest.mark.parametrize("columns", [1, 15, 16])
def test_product_of_scattered_rows_and_runs(dtype, count, columns):
    """Rows and runs begin anywhere, k goes in steps of 2, and nothing beside `out` is written."""
    rng = np.random.default_rng(count)
    a, start = (rng.standard_normal(size).astype(dtype) for size in (60, 400))
    rows = rng.integers(0, 20, count)
    runs = np.array([[4, 3], [0, 1], [9, 5], [0, 100]])  # the last one does not count
    b = rng.standard_normal((9, COLUMNS)).astype(dtype)
    out = np.full(300, 7, dtype)
    product(
        a, 5, rows, count, runs, 3, 2, b.reshape(-1), 0, COLUMNS,
        start, 3, 20, out, 11, 21, columns,
    )  # fmt: skip
    k = np.concatenate([first + 2 * np.arange(size) for first, size in runs[:3]])
    expected = np.full(300, 7, dtype)
    for i, row in enumerate(rows):
        value = a[5 + row + k] @ b + start[3 + 20 * i : 3 + 20 * i + COLUMNS]
        expected[11 + 21 * i : 11 + 21 * i + columns] = value[:columns]
    np.testing.assert_allclose(out, expected, 0, 10 * TOLERANCE[dtype])


def test_a_product_may_add_to_its_output():
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((6, 5)), rng.standard_normal((5, COLUMNS))
    out = np.ones((6, COLUMNS))
    flat, rows, runs = out.reshape(-1), np.arange(6) * 5, np.array([[0, 5]])
    product(
        a.reshape(-1), 0, rows, 6, runs, 1, 1, b.reshape(-1), 0, COLUMNS,
        flat, 0, COLUMNS, flat, 0, COLUMNS, COLUMNS,
    )  # fmt: skip
    np.testing.assert_allclose(out, a @ b + 1, 1e-13)
