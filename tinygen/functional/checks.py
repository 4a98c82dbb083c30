"""Checks of arguments that several families of functions share."""

from __future__ import annotations

import numpy as np

Size = int | tuple[int, ...]

_FLOATS = {np.dtype(np.float32), np.dtype(np.float64)}


def sizes(op: str, name: str, value: Size, axes: int, *, least: int) -> tuple[int, ...]:
    """An option for every spatial axis, given as one number or as one per axis."""
    values = tuple(value) if isinstance(value, (tuple, list)) else (value,) * axes
    if len(values) != axes or not all(
        isinstance(v, (int, np.integer)) and v >= least for v in values
    ):
        either = "an integer" if axes == 1 else f"an integer, or {axes} of them,"
        raise ValueError(f"{op}: {name}={value!r} must be {either} of at least {least}")
    return tuple(map(int, values))


def check_floats(op: str, **arrays) -> None:
    """Raise TypeError unless all arrays (None is passed over) are float32, or all float64.

    For kernels that hand raw memory to BLAS: there a mixture would be read as garbage.
    """
    dtypes = {name: x.dtype for name, x in arrays.items() if x is not None}
    first = next(iter(dtypes.values()))
    if first not in _FLOATS or any(dtype != first for dtype in dtypes.values()):
        given = ", ".join(f"{name} {dtype}" for name, dtype in dtypes.items())
        raise TypeError(
            f"{op}: {given}: expected float32 for all or float64 for all; "
            "convert with x.astype(...)"
        )
