"""The two-dimensional LSTMs of PixelRNN: whole maps scanned by one primitive each."""

from __future__ import annotations

from ..autograd import Op
from ..device import array_module, kernels
from ..tensor import Tensor
from .activation import sigmoid, tanh
from .checks import check_floats
from .conv import conv1d
from .shape import chunk, flip, pad, reshape, stack

__all__ = ["diagonal_lstm", "row_lstm"]


class RowLSTM(Op):
    """h from z (N, 4h, H, W), weight (4h, h, k) and the states (h, W) above the first row."""

    def forward(self, z, weight, h0, c0):
        output, saved = kernels("scan", z).row_lstm(z, weight, h0, c0)
        self.save(weight, h0, c0, output, *saved)
        return output

    def backward(self, grad):
        weight, h0, c0, output, *saved = self.saved
        return kernels("scan", grad).row_lstm_grad(grad, weight, h0, c0, output, tuple(saved))

    def composite(self, z, weight, h0, c0):
        """The same from differentiable ops, a row at a time."""
        n, channels, height, width = z.shape
        h, c = (_start(s, (n, channels // 4, width), z) for s in (h0, c0))
        rows = []
        for i in range(height):
            a = z[:, :, i] + conv1d(h, weight, padding=weight.shape[2] // 2)
            h, c = _cell(a, c)
            rows.append(h)
        return stack(rows, 2)


class DiagonalLSTM(Op):
    """h from z (N, 4h, H, W), weight (4h, h, 2) and the states (h, H) beside the first column."""

    def __init__(self, reverse: bool):
        self.reverse = reverse

    def forward(self, z, weight, h0, c0):
        kernel = kernels("scan", z)
        output, saved = kernel.diagonal_lstm(z, weight, h0, c0, reverse=self.reverse)
        self.save(weight, h0, c0, output, *saved)
        return output

    def backward(self, grad):
        weight, h0, c0, output, *saved = self.saved
        return kernels("scan", grad).diagonal_lstm_grad(
            grad, weight, h0, c0, output, tuple(saved), reverse=self.reverse
        )

    def composite(self, z, weight, h0, c0):
        """The same from differentiable ops, a diagonal at a time.

        In the skewed map S[r, r + c] = X[r, c] a diagonal is a column, and what a pixel reads lies
        in the column before. A row holds its initial states until the scan reaches it.
        """
        n, channels, height, width = z.shape
        z = _skew(flip(z, 3) if self.reverse else z)
        h, c = h0, c0 = [_start(s, (n, channels // 4, height), z) for s in (h0, c0)]
        row = array_module(z.data).arange(height)
        columns = []
        for t in range(z.shape[3]):
            # Padded on top: a row reads itself and the row above, nothing below.
            a = z[:, :, :, t] + conv1d(pad(h, (1, 0)), weight)
            reached = (row <= t).astype(z.dtype)
            h, c = (
                reached * new + (1 - reached) * start
                for new, start in zip(_cell(a, c), (h0, c0), strict=True)
            )
            columns.append(h)
        output = _unskew(stack(columns, 3), width)
        return flip(output, 3) if self.reverse else output


def _cell(a, c):
    i, f, g, o = chunk(a, 4, 1)
    c = sigmoid(f) * c + sigmoid(i) * tanh(g)
    return sigmoid(o) * tanh(c), c


def _start(state, shape, like):
    """Initial states for every image."""
    if state is None:
        return Tensor(array_module(like.data).zeros(shape, like.dtype))
    return state.expand(*shape)


def _skew(x):
    """Row r moved r to the right: zeros after each row, and one row's length less for the next."""
    n, channels, height, width = x.shape
    rows = reshape(pad(x, (0, height)), n, channels, height * (width + height))
    skewed = rows[:, :, : height * (width + height - 1)]
    return reshape(skewed, n, channels, height, width + height - 1)


def _unskew(x, width: int):
    n, channels, height, _ = x.shape
    rows = pad(reshape(x, n, channels, height * (width + height - 1)), (0, height))
    return reshape(rows, n, channels, height, width + height)[:, :, :, :width]


def _check(op: str, z, weight, states, side: int, taps: str) -> None:
    if z.ndim != 4 or 0 in z.shape[1:]:
        raise ValueError(f"{op}: z {tuple(z.shape)} must be (N, 4h, H, W), and not without pixels")
    hidden = z.shape[1] // 4
    if tuple(weight.shape[:2]) != (z.shape[1], hidden) or weight.ndim != 3:
        raise ValueError(
            f"{op}: z {tuple(z.shape)} is (N, 4h, H, W), so the weight must be (4h, h, {taps}), "
            f"got {tuple(weight.shape)}"
        )
    for name, state in states.items():
        if state is not None and tuple(state.shape) != (hidden, side):
            raise ValueError(
                f"{op}: z {tuple(z.shape)}: {name} must have shape {(hidden, side)}, "
                f"got {tuple(state.shape)}"
            )
    check_floats(op, z=z, weight=weight, **states)


def row_lstm(z, weight, h0=None, c0=None):
    """An LSTM that scans a map from the top row to the bottom row.

    a[i,j] = z[i,j] + Σ_l K_l h[i-1, j+l-k//2];  (i, f, g, o) = (σ, σ, tanh, σ)(a);
    c[i,j] = f c[i-1,j] + i g;  h[i,j] = o tanh(c[i,j])       (van den Oord et al., 2016, 3.1)

    z (N, 4h, H, W), the input-to-state product with its bias; weight (4h, h, k) with
    K_l = weight[:, :, l], k odd; h0, c0 (h, W), the row above the first, or None for zeros.
    Returns h (N, h, H, W). Left and right of the map there are zeros.
    """
    _check("row_lstm", z, weight, {"h0": h0, "c0": c0}, z.shape[-1], "k")
    if weight.shape[2] % 2 == 0:
        raise ValueError(f"row_lstm: the weight's {weight.shape[2]} taps must be odd in number")
    return RowLSTM()(z, weight, h0, c0)


def diagonal_lstm(z, weight, h0=None, c0=None, *, reverse: bool = False):
    """An LSTM that scans a map from its top left corner, diagonal by diagonal.

    a[i,j] = z[i,j] + K_0 h[i-1,j] + K_1 h[i,j-1];  (i, f, g, o) = (σ, σ, tanh, σ)(a);
    c[i,j] = f c[i,j-1] + i g;  h[i,j] = o tanh(c[i,j])       (van den Oord et al., 2016, 3.2)

    With `reverse` from the top right corner, j+1 in the place of j-1. z (N, 4h, H, W), the
    input-to-state product with its bias; weight (4h, h, 2) with K_l = weight[:, :, l]; h0, c0
    (h, H), the column left of the first (right of the last, in reverse), or None for zeros.
    Returns h (N, h, H, W). Above the map there are zeros.
    """
    _check("diagonal_lstm", z, weight, {"h0": h0, "c0": c0}, z.shape[-2], "2")
    if weight.shape[2] != 2:
        raise ValueError(f"diagonal_lstm: the weight has {weight.shape[2]} taps, expected 2")
    return DiagonalLSTM(reverse)(z, weight, h0, c0)
