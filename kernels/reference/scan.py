"""The two-dimensional LSTMs of PixelRNN: Row LSTM and one direction of the Diagonal BiLSTM.

Shapes: N images of H × W pixels, h hidden units, gates in PyTorch's order i, f, g, o. The
input-to-state product z is made for the whole map beforehand (a masked convolution, bias
included); the scan adds the state-to-state product, which reads finished pixels only. Learned
initial states are one line of states outside of the map, the same for all images; everything else
outside is zero.

The formulas in map coordinates and a frame around the map, so that no case is special.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.special import expit as _sigmoid

__all__ = ["diagonal_lstm", "diagonal_lstm_grad", "row_lstm", "row_lstm_grad"]

Index = int | slice | np.ndarray


def row_lstm(
    z: np.ndarray,
    weight: np.ndarray,
    h0: np.ndarray | None = None,
    c0: np.ndarray | None = None,
) -> tuple[np.ndarray, tuple[np.ndarray, ...]]:
    """Scan the map from the top row to the bottom row: returns (output, saved).

    a[i,j] = z[i,j] + Σ_l K_l h[i-1, j+l-k//2];  (i, f, g, o) = (σ, σ, tanh, σ)(a);
    c[i,j] = f c[i-1,j] + i g;  h[i,j] = o tanh(c[i,j])       (van den Oord et al., 2016, 3.1)

    z (N, 4h, H, W); weight (4h, h, k) with K_l = weight[:, :, l], k odd; h0, c0 (h, W), the row
    above the first, or None for zeros. output (N, h, H, W); `saved` is for `row_lstm_grad`: the
    gates (N, H, W, 4, h) after their activation and the cells (N, H, W, h).
    """
    return _scan(z, weight, h0, c0, _by_rows(*z.shape[2:], weight.shape[2]))


def row_lstm_grad(
    grad_output: np.ndarray,
    weight: np.ndarray,
    h0: np.ndarray | None,
    c0: np.ndarray | None,
    output: np.ndarray,
    saved: tuple[np.ndarray, ...],
) -> tuple[np.ndarray | None, ...]:
    """Gradients of `row_lstm` for z, weight, h0 and c0 (None where the state was None)."""
    path = _by_rows(*output.shape[2:], weight.shape[2])
    return _scan_grad(grad_output, weight, h0, c0, output, saved, path)


def diagonal_lstm(
    z: np.ndarray,
    weight: np.ndarray,
    h0: np.ndarray | None = None,
    c0: np.ndarray | None = None,
    *,
    reverse: bool = False,
) -> tuple[np.ndarray, tuple[np.ndarray, ...]]:
    """Scan the map from its top left corner, diagonal by diagonal: returns (output, saved).

    a[i,j] = z[i,j] + K_0 h[i-1,j] + K_1 h[i,j-1];  (i, f, g, o) = (σ, σ, tanh, σ)(a);
    c[i,j] = f c[i,j-1] + i g;  h[i,j] = o tanh(c[i,j])       (van den Oord et al., 2016, 3.2)

    With `reverse` from the top right corner: j+1 in the place of j-1, as if the map were mirrored.

    z (N, 4h, H, W); weight (4h, h, 2) with K_l = weight[:, :, l]; h0, c0 (h, H), the column left
    of the first (right of the last, in reverse), or None for zeros. output (N, h, H, W); `saved`
    is for `diagonal_lstm_grad`: the gates (N, H, W, 4, h) after their activation and the cells
    (N, H, W, h).
    """
    return _scan(z, weight, h0, c0, _by_diagonals(*z.shape[2:], reverse))


def diagonal_lstm_grad(
    grad_output: np.ndarray,
    weight: np.ndarray,
    h0: np.ndarray | None,
    c0: np.ndarray | None,
    output: np.ndarray,
    saved: tuple[np.ndarray, ...],
    *,
    reverse: bool = False,
) -> tuple[np.ndarray | None, ...]:
    """Gradients of `diagonal_lstm` for z, weight, h0 and c0 (None where the state was None)."""
    path = _by_diagonals(*output.shape[2:], reverse)
    return _scan_grad(grad_output, weight, h0, c0, output, saved, path)


class _Path(NamedTuple):
    """How a scan crosses the map, which lies `margin` from the corner of its frame."""

    frame: tuple[int, int]
    margin: tuple[int, int]
    initial: tuple[Index, Index]  # where in the frame the initial states lie
    steps: list[tuple[Index, Index]]  # the pixels of each step, which don't depend on each other
    taps: Sequence[tuple[int, int]]  # the distances at which a pixel reads h
    carry: tuple[int, int]  # the distance at which it reads c


def _by_rows(height: int, width: int, k: int) -> _Path:
    reach = k // 2
    columns = np.arange(width)
    return _Path(
        frame=(1 + height, reach + width + reach),
        margin=(1, reach),
        initial=(0, reach + columns),
        steps=[(i, columns) for i in range(height)],
        taps=[(-1, d) for d in range(-reach, reach + 1)],
        carry=(-1, 0),
    )


def _by_diagonals(height: int, width: int, reverse: bool) -> _Path:
    steps = []
    for t in range(height + width - 1):
        rows = np.arange(max(0, t - width + 1), min(height, t + 1))
        steps.append((rows, width - 1 - (t - rows) if reverse else t - rows))
    behind = 1 if reverse else -1
    return _Path(
        frame=(1 + height, 1 + width),
        margin=(1, 0 if reverse else 1),
        initial=(1 + np.arange(height), width if reverse else 0),
        steps=steps,
        taps=[(-1, 0), (0, behind)],
        carry=(0, behind),
    )


def _scan(z, weight, h0, c0, path):
    n, _, height, width = z.shape
    hidden = weight.shape[1]
    kernels = weight.transpose(2, 1, 0)
    z = z.transpose(0, 2, 3, 1)
    gates = np.empty((n, height, width, 4, hidden), z.dtype)
    h, c = (_framed(n, hidden, initial, z.dtype, path) for initial in (h0, c0))
    for i, j in path.steps:
        a = z[:, i, j]
        for tap, kernel in zip(path.taps, kernels, strict=True):
            a = a + h[_at(path, i, j, tap)] @ kernel
        a = np.moveaxis(a.reshape(*a.shape[:-1], 4, hidden), -2, 0)
        in_, forget, out = _sigmoid(a[0]), _sigmoid(a[1]), _sigmoid(a[3])
        new = np.tanh(a[2])
        state = forget * c[_at(path, i, j, path.carry)] + in_ * new
        h[_at(path, i, j)] = out * np.tanh(state)
        c[_at(path, i, j)] = state
        gates[:, i, j] = np.stack((in_, forget, new, out), axis=-2)
    output, cells = (_inside(x, path, height, width).copy() for x in (h, c))
    return output.transpose(0, 3, 1, 2), (gates, cells)


def _scan_grad(grad_output, weight, h0, c0, output, saved, path):
    gates, cells = saved
    n, height, width, _, hidden = gates.shape
    kernels = weight.transpose(2, 1, 0)
    h, c = (_framed(n, hidden, initial, gates.dtype, path) for initial in (h0, c0))
    _inside(h, path, height, width)[...] = output.transpose(0, 2, 3, 1)
    _inside(c, path, height, width)[...] = cells
    grad_h, grad_c = np.zeros_like(h), np.zeros_like(c)
    _inside(grad_h, path, height, width)[...] = grad_output.transpose(0, 2, 3, 1)
    grad_z = np.empty((n, height, width, 4 * hidden), gates.dtype)
    for i, j in reversed(path.steps):
        in_, forget, new, out = np.moveaxis(gates[:, i, j], -2, 0)
        here, behind = _at(path, i, j), _at(path, i, j, path.carry)
        tanh_c = np.tanh(c[here])
        grad = grad_c[here] + grad_h[here] * out * (1 - tanh_c**2)
        grad_a = [
            grad * new * in_ * (1 - in_),
            grad * c[behind] * forget * (1 - forget),
            grad * in_ * (1 - new**2),
            grad_h[here] * tanh_c * out * (1 - out),
        ]
        grad_z[:, i, j] = np.concatenate(grad_a, axis=-1)
        grad_c[behind] += grad * forget
        for tap, kernel in zip(path.taps, kernels, strict=True):
            grad_h[_at(path, i, j, tap)] += grad_z[:, i, j] @ kernel.T
    grad_weight = np.empty_like(weight)
    for k, tap in enumerate(path.taps):
        neighbour = _inside(h, path, height, width, tap)
        grad_weight[:, :, k] = np.einsum("nija,nijb->ab", grad_z, neighbour, optimize=True)
    at_start = (slice(None), *path.initial)
    grad_h0 = None if h0 is None else grad_h[at_start].sum(axis=0).T
    grad_c0 = None if c0 is None else grad_c[at_start].sum(axis=0).T
    return grad_z.transpose(0, 3, 1, 2), grad_weight, grad_h0, grad_c0


def _framed(n, hidden, initial, dtype, path):
    """A map of zeros in its frame, with the initial states in their place."""
    states = np.zeros((n, *path.frame, hidden), dtype)
    if initial is not None:
        states[:, path.initial[0], path.initial[1]] = initial.T
    return states


def _at(path, i, j, tap=(0, 0)):
    """The index of the pixels (i, j) + tap in a framed map."""
    return slice(None), i + path.margin[0] + tap[0], j + path.margin[1] + tap[1]


def _inside(framed, path, height, width, tap=(0, 0)):
    """The view of a framed map that begins `tap` from the map's own corner."""
    top, left = path.margin[0] + tap[0], path.margin[1] + tap[1]
    return framed[:, top : top + height, left : left + width]
