"""Arrays to draw, and the checks that every operation has to pass."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tinygen import Tensor, grad, tensor
from tinygen.autograd import op_hook
from tinygen.gradcheck import gradcheck

LAYOUTS = ("C", "F", "transposed", "strided", "reversed", "channels_last", "offset")


def in_layout(array: np.ndarray, layout: str) -> np.ndarray:
    """The same values and shape in another order of memory; what lies between is NaN."""
    n = array.ndim
    if layout == "F":
        return array.copy(order="F")
    if layout == "transposed" and n > 1:
        return array.swapaxes(0, -1).copy().swapaxes(0, -1)
    if layout == "strided" and n:
        buffer = np.full((*array.shape[:-1], 2 * array.shape[-1]), np.nan, array.dtype)
        buffer[..., ::2] = array
        return buffer[..., ::2]
    if layout == "reversed" and n:
        return array[::-1].copy()[::-1]
    if layout == "channels_last" and n > 2:
        return np.moveaxis(np.moveaxis(array, 1, -1).copy(), -1, 1)
    if layout == "offset":  # not aligned to a cache line or a vector
        buffer = np.full(array.size + 2, np.nan, array.dtype)
        buffer[1:-1] = array.ravel()
        return buffer[1:-1].reshape(array.shape)
    return array.copy(order="C")


def values(
    shape: Sequence[int],
    seed: int,
    *,
    low: float = -2.0,
    high: float = 2.0,
    kinks: Sequence[float] = (),
    margin: float = 0.01,
    dtype=np.float64,
) -> np.ndarray:
    """Random numbers, no two of them (nearly) equal and none within `margin` of a kink.

    Equally spaced, shaken a little and shuffled, then pushed away from the kinks in order.
    """
    rng = np.random.default_rng(seed)
    n = int(np.prod(shape))
    x = low + (high - low) / max(n, 1) * (np.arange(n) + rng.uniform(0.25, 0.75, n))
    for kink in kinks:
        side, distance = np.where(x < kink, -1, 1), np.abs(x - kink)
        x = np.where(distance < 2 * margin, kink + side * (margin + distance / 2), x)
    return rng.permutation(x).reshape(shape).astype(dtype)


def leaf(*numbers: float) -> Tensor:
    """A vector in float64 that requires a gradient."""
    return tensor(np.array(numbers), requires_grad=True)


def shapes(
    *, min_dims: int = 0, max_dims: int = 3, min_side: int = 0, max_side: int = 5
) -> st.SearchStrategy[tuple[int, ...]]:
    """Shapes with odd sizes, 0-d and empty ones among them."""
    return hnp.array_shapes(
        min_dims=min_dims, max_dims=max_dims, min_side=min_side, max_side=max_side
    )


def seeds() -> st.SearchStrategy[int]:
    """For what is drawn by NumPy's generator."""
    return st.integers(0, 2**20)


@st.composite
def arrays(draw, shape=None, *, layouts: Sequence[str] = LAYOUTS, **options) -> np.ndarray:
    """An array of a shape (a tuple or a strategy) in any layout; `options` as in `values`."""
    shape = shapes() if shape is None else shape
    shape = draw(shape) if isinstance(shape, st.SearchStrategy) else shape
    return in_layout(values(shape, draw(seeds()), **options), draw(st.sampled_from(layouts)))


@st.composite
def broadcast_arrays(draw, n: int = 2, *, max_dims: int = 3, max_side: int = 4, **options):
    """Arrays whose shapes broadcast against each other, no two numbers in them equal."""
    drawn = draw(
        hnp.mutually_broadcastable_shapes(
            num_shapes=n, max_dims=max_dims, max_side=max_side, min_side=0
        )
    ).input_shapes
    ends = np.cumsum([int(np.prod(shape)) for shape in drawn])
    flat = np.split(values((ends[-1],), draw(seeds()), **options), ends[:-1])
    return [
        in_layout(x.reshape(shape), draw(st.sampled_from(LAYOUTS)))
        for x, shape in zip(flat, drawn, strict=True)
    ]


def axis_of(ndim: int) -> st.SearchStrategy[int]:
    """One axis, counted from the front or from the back."""
    return st.integers(-ndim, ndim - 1)


def axes_of(ndim: int) -> st.SearchStrategy:
    """What a reduction accepts: None, one axis or several different ones."""
    return st.one_of(st.none(), axis_tuples(ndim), *([axis_of(ndim)] if ndim else []))


def axis_tuples(ndim: int) -> st.SearchStrategy[tuple[int, ...]]:
    """Some different axes, in any order."""
    return st.permutations(range(ndim)).flatmap(
        lambda axes: st.integers(0, ndim).map(lambda n: tuple(axes[:n]))
    )


def check_op(
    function: Callable, inputs: Sequence[np.ndarray], reference: Callable, *, order: int = 2
) -> None:
    """Values and dtype in float64 and float32, arrays in for arrays out, and gradients.

    `function` and the plain NumPy `reference` take the arrays; both return one result or several.
    """
    expected = _several(reference(*inputs))
    for dtype, rtol in ((np.float64, 1e-12), (np.float32, 2e-5)):
        cast = [x.astype(dtype) for x in inputs]
        for got in (function(*map(Tensor, cast)), function(*cast)):
            got = _several(got)
            assert len(got) == len(expected)
            for result, value in zip(got, expected, strict=True):
                assert result.dtype == dtype
                assert result.shape == np.shape(value)
                scale = np.max(np.abs(value), initial=1.0)
                np.testing.assert_allclose(np.asarray(result), value, rtol, atol=rtol * scale)
        assert not any(isinstance(result, Tensor) for result in got)
    _check_float32_gradients(function, [x.astype(np.float32) for x in inputs])
    gradcheck(function, inputs, order=order)


class _float32_backward(op_hook):
    """Inside, no step of a backward pass may widen to float64."""

    def after(self, op, phase, arrays):
        if phase == "backward":
            assert {a.dtype for a in arrays if a is not None} <= {np.dtype(np.float32)}, op.name


def _check_float32_gradients(function: Callable, inputs: Sequence[np.ndarray]) -> None:
    leaves = [Tensor(x, requires_grad=True) for x in inputs]
    outputs = [out for out in _several(function(*leaves)) if out.requires_grad]
    with _float32_backward():
        grad(outputs, leaves, [np.ones(out.shape, np.float32) for out in outputs])


def _several(result) -> Sequence:
    return result if isinstance(result, (tuple, list)) else [result]


def check_torch(function: Callable, torch_function: Callable, inputs: Sequence[np.ndarray]):
    """The same values and gradients as PyTorch, special values and kinks included."""
    import torch

    ours = [Tensor(x.copy(), requires_grad=True) for x in inputs]
    theirs = [torch.tensor(x, requires_grad=True) for x in inputs]
    out, torch_out = function(*ours), torch_function(*theirs)
    np.testing.assert_allclose(out.detach().numpy(), torch_out.detach().numpy(), 1e-12, 1e-12)
    weights = values(out.shape, 0, low=0.5, high=1.5)
    ours = grad(out, ours, Tensor(weights))
    theirs = torch.autograd.grad(torch_out, theirs, torch.tensor(weights))
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a.numpy(), b.numpy(), 1e-12, 1e-12)
