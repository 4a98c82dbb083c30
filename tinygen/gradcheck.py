"""Checks gradients of any order against finite differences."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .autograd import enable_grad, grad
from .tensor import Tensor

__all__ = ["gradcheck"]


def gradcheck(
    function: Callable,
    inputs: Sequence[Any],
    *,
    order: int = 1,
    eps: float = 1e-5,
    rtol: float = 1e-6,
    atol: float = 1e-8,
    seed: int = 0,
) -> None:
    """Compare the gradients of `function(*inputs)` with central differences, in float64.

    For random weights w of the outputs and a random unit vector u in the space of one input x,

        <d<w, f>/dx, u>  =  (<w, f(x + εu)> - <w, f(x - εu)>) / 2ε,   ε = `eps`,

    so an input costs two evaluations, whatever its size. `order` 2 checks in the same way the
    gradients themselves, as functions of the inputs and of w, and so on; on the way, gradients
    made with and without `create_graph` are compared too.

    Every floating-point array or Tensor among `inputs` is checked, as a leaf of its own and in
    float64 (one that is float64 already keeps its memory layout); all else is passed as it is.
    `function` returns one Tensor or several; for the same inputs the same, so seed any randomness.

    The differences are off by about ε²|f‴|/6 + 1e-16 |<w, f>|/ε, some 1e-11 for values of order 1.
    Allowed is `atol` + `rtol` times the size of the gradient: enough to find one wrong value among
    thousands. Keep the inputs more than ε away from kinks.

    Raises AssertionError naming function, order, input and both values.

    >>> import numpy as np
    >>> from tinygen.gradcheck import gradcheck
    >>> gradcheck(lambda x: (x**3).sum(), [np.array([1.0, -2.0])], order=2)
    """
    rng = np.random.default_rng(seed)
    if isinstance(inputs, (Tensor, np.ndarray)):
        inputs = [inputs]
    leaves = [_leaf(x) for x in inputs]
    name = f"gradcheck of {getattr(function, '__qualname__', repr(function))}"
    for n in range(1, order + 1):
        shapes = [out.shape for out in _outputs(function, leaves)]
        weights = [Tensor(_signs(rng, shape), requires_grad=True) for shape in shapes]
        gradients = _gradient_function(function, len(leaves), create_graph=False)
        analytic = gradients(*leaves, *weights)
        for i, x in enumerate(leaves):
            if not _is_checked(x) or not x.size:
                continue
            what = f"{name}, order {n}, {_describe(i, leaves, inputs)}"
            _compare(function, leaves, i, weights, analytic[i], rng, what, eps, rtol, atol)
        if n < order:
            function = _gradient_function(function, len(leaves), create_graph=True)
            again = function(*leaves, *weights)
            _check_same(analytic, again, f"{name}, order {n}", rtol, atol)
            leaves = [*leaves, *weights]


def _leaf(x: Any) -> Any:
    data = x.data if isinstance(x, Tensor) else x
    if not isinstance(data, np.ndarray) or data.dtype.kind != "f":
        return x
    return Tensor(np.asarray(data, np.float64), requires_grad=True)


def _is_checked(x: Any) -> bool:
    return isinstance(x, Tensor) and x.requires_grad


def _signs(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Random numbers in ±[0.5, 1]: none so small that it would hide an error."""
    return rng.uniform(0.5, 1, shape) * rng.choice([-1.0, 1.0], shape)


def _outputs(function: Callable, args: Sequence[Any]) -> list[Tensor]:
    """The floating-point outputs; None stands for a gradient that is zero."""
    result = function(*args)
    result = result if isinstance(result, (tuple, list)) else [result]
    return [out for out in result if out is not None and out.dtype.kind == "f"]


def _gradient_function(function: Callable, n_inputs: int, *, create_graph: bool) -> Callable:
    """(x_1, ..., w_1, ...) -> d Σ_k <w_k, f_k(x)> / dx_i for every i, None where it is zero."""

    def gradients(*args):
        xs, weights = args[:n_inputs], args[n_inputs:]
        with enable_grad():
            pairs = zip(_outputs(function, xs), weights, strict=True)
            pairs = [(out, w) for out, w in pairs if out.requires_grad]
        checked = [i for i, x in enumerate(xs) if _is_checked(x)]
        result: list[Tensor | None] = [None] * n_inputs
        if not pairs:
            return tuple(result)
        found = grad(
            [out for out, _ in pairs],
            [xs[i] for i in checked],
            [w for _, w in pairs],
            create_graph=create_graph,
            allow_unused=True,
        )
        for i, g in zip(checked, found, strict=True):
            result[i] = g
        return tuple(result)

    return gradients


def _compare(function, leaves, index, weights, analytic, rng, what, eps, rtol, atol) -> None:
    """One input's gradient along one random direction."""
    x = leaves[index]
    direction = _signs(rng, x.shape)
    direction /= np.linalg.norm(direction)

    def along(step: float) -> float:
        moved = Tensor(np.asarray(x.data + step * direction), requires_grad=True)
        outputs = _outputs(function, [*leaves[:index], moved, *leaves[index + 1 :]])
        return sum(np.vdot(w.data, out.data) for w, out in zip(weights, outputs, strict=True))

    after, before = along(eps), along(-eps)
    numeric = (after - before) / (2 * eps)
    gradient = np.zeros(x.shape) if analytic is None else analytic.data
    expected = np.vdot(gradient, direction)
    size = max(abs(numeric), abs(expected), np.linalg.norm(gradient) / x.size**0.5)
    allowed = atol + rtol * size
    if not abs(expected - numeric) <= allowed:
        here = along(0.0)
        raise AssertionError(
            f"{what}: along a random direction the gradient is {expected:.10g}, the central "
            f"difference {numeric:.10g}; allowed difference {allowed:.1e}\n"
            f"(one-sided differences: {(here - before) / eps:.6g} before, "
            f"{(after - here) / eps:.6g} after; if they differ, this is a kink)"
        )


def _check_same(first, second, what, rtol, atol) -> None:
    for i, (a, b) in enumerate(zip(first, second, strict=True)):
        a, b = (0.0 if g is None else g.data for g in (a, b))
        difference = np.abs(a - b)
        if not np.all(difference <= atol + rtol * np.abs(a)):
            raise AssertionError(
                f"{what}, input {i}: the gradients without and with create_graph differ by up to "
                f"{np.max(difference):.3g}"
            )


def _describe(index: int, leaves: Sequence[Any], inputs: Sequence[Any]) -> str:
    shape = leaves[index].shape
    if index < len(inputs):
        return f"input {index} of shape {shape}"
    return f"gradient of shape {shape} coming into the backward (number {index - len(inputs)})"
