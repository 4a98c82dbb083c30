"""LSTM and GRU over a whole sequence: one layer, one direction, forward and backward.

Shapes: T steps, N sequences, I inputs, H hidden units. Weights and gate orders are PyTorch's. With
`reverse` the scan runs from the last step to the first; `output[t]` belongs to `x[t]` either way.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from scipy.special import expit as _sigmoid

__all__ = [
    "gru",
    "gru_grad",
    "lstm",
    "lstm_cell",
    "lstm_cell_grad",
    "lstm_grad",
    "scan",
    "states_before",
]


def lstm_cell(
    x: np.ndarray,
    h: np.ndarray,
    c: np.ndarray,
    weight_ih: np.ndarray,
    weight_hh: np.ndarray,
    bias: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """One step of an LSTM: returns (h', c', gates).

    (i, f, g, o) = (σ, σ, tanh, σ)(weight_ih x + weight_hh h + bias);
    c' = f c + i g;  h' = o tanh(c')                      (Hochreiter and Schmidhuber, 1997)

    x (N, I), h and c (N, H), weight_ih (4H, I), weight_hh (4H, H), bias (4H,). The gates
    (N, 4, H), after their activation, are for `lstm_cell_grad`.
    """
    z = _project(x, weight_ih, bias, 4) + _project(h, weight_hh, None, 4)
    i, f, o = _sigmoid(z[:, 0]), _sigmoid(z[:, 1]), _sigmoid(z[:, 3])
    g = np.tanh(z[:, 2])
    c = f * c + i * g
    return o * np.tanh(c), c, np.stack((i, f, g, o), axis=1)


def lstm_cell_grad(
    grad_h: np.ndarray,
    grad_c: np.ndarray,
    gates: np.ndarray,
    c_before: np.ndarray,
    c: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """From the gradients for h' and c' those for weight_ih x + weight_hh h + bias (N, 4H), and
    for the c before the step."""
    i, f, g, o = np.moveaxis(gates, 1, 0)
    tanh_c = np.tanh(c)
    grad_c = grad_c + grad_h * o * (1 - tanh_c**2)
    grad_z = np.stack(
        (
            grad_c * g * i * (1 - i),
            grad_c * c_before * f * (1 - f),
            grad_c * i * (1 - g**2),
            grad_h * tanh_c * o * (1 - o),
        ),
        axis=1,
    )
    return grad_z.reshape(len(c), 4 * c.shape[1]), grad_c * f


def lstm(
    x: np.ndarray,
    h0: np.ndarray,
    c0: np.ndarray,
    weight_ih: np.ndarray,
    weight_hh: np.ndarray,
    bias: np.ndarray | None = None,
    *,
    reverse: bool = False,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, tuple[np.ndarray, ...]]:
    """Scan `lstm_cell` over x: returns (output, h_n, c_n, saved).

    x (T, N, I), h0 and c0 (N, H), weight_ih (4H, I), weight_hh (4H, H), bias (4H,); output
    (T, N, H), h_n and c_n (N, H). `saved` is for `lstm_grad`: the gates (T, N, 4, H) after their
    activation and the cells (T, N, H).
    """
    steps, batch, _ = x.shape
    hidden = h0.shape[1]
    gates = np.empty((steps, batch, 4, hidden), x.dtype)
    cells = np.empty((steps, batch, hidden), x.dtype)
    output = np.empty_like(cells)
    h, c = h0, c0
    for t in scan(steps, reverse):
        h, c, gates[t] = lstm_cell(x[t], h, c, weight_ih, weight_hh, bias)
        cells[t] = c
        output[t] = h
    return output, h.copy(), c.copy(), (gates, cells)


def lstm_grad(
    grad_output: np.ndarray,
    grad_h_n: np.ndarray,
    grad_c_n: np.ndarray,
    x: np.ndarray,
    h0: np.ndarray,
    c0: np.ndarray,
    weight_ih: np.ndarray,
    weight_hh: np.ndarray,
    output: np.ndarray,
    saved: tuple[np.ndarray, ...],
    *,
    reverse: bool = False,
    need_grad_x: bool = True,
) -> tuple[np.ndarray | None, ...]:
    """Gradients of `lstm` for x (None without `need_grad_x`), h0, c0, both weights, bias."""
    gates, cells = saved
    h_before = states_before(output, h0, reverse)
    c_before = states_before(cells, c0, reverse)
    grad_z = np.empty_like(gates)
    grad_h, grad_c = grad_h_n, grad_c_n
    for t in scan(len(x), not reverse):
        grad_h = grad_h + grad_output[t]
        z, grad_c = lstm_cell_grad(grad_h, grad_c, gates[t], c_before[t], cells[t])
        grad_z[t] = z.reshape(gates[t].shape)
        grad_h = z @ weight_hh
    grad_x = _input_grad(grad_z, weight_ih) if need_grad_x else None
    grad_weight_ih, grad_bias = _weight_bias_grad(grad_z, x)
    grad_weight_hh, _ = _weight_bias_grad(grad_z, h_before)
    return grad_x, grad_h.copy(), grad_c.copy(), grad_weight_ih, grad_weight_hh, grad_bias


def gru(
    x: np.ndarray,
    h0: np.ndarray,
    weight_ih: np.ndarray,
    weight_hh: np.ndarray,
    bias_ih: np.ndarray | None = None,
    bias_hh: np.ndarray | None = None,
    *,
    reverse: bool = False,
) -> tuple[np.ndarray, np.ndarray, tuple[np.ndarray, ...]]:
    """Scan the GRU cell over x: returns (output, h_n, saved).

    With (a_r, a_z, a_n) = weight_ih x + bias_ih and (b_r, b_z, b_n) = weight_hh h + bias_hh:
    r = σ(a_r + b_r);  z = σ(a_z + b_z);  n = tanh(a_n + r b_n);  h' = (1 - z) n + z h
    (Cho et al., 2014, with the reset gate after the product, as in cuDNN and PyTorch)

    x (T, N, I), h0 (N, H), weight_ih (3H, I), weight_hh (3H, H), biases (3H,); output (T, N, H),
    h_n (N, H). `saved` is for `gru_grad`: the gates r, z, n (T, N, 3, H) and b_n (T, N, H).
    """
    steps, batch, _ = x.shape
    hidden = h0.shape[1]
    gates = np.empty((steps, batch, 3, hidden), x.dtype)
    b_n = np.empty((steps, batch, hidden), x.dtype)
    output = np.empty_like(b_n)
    h = h0
    for t in scan(steps, reverse):
        a = _project(x[t], weight_ih, bias_ih, 3)
        b = _project(h, weight_hh, bias_hh, 3)
        r = _sigmoid(a[:, 0] + b[:, 0])
        z = _sigmoid(a[:, 1] + b[:, 1])
        n = np.tanh(a[:, 2] + r * b[:, 2])
        h = (1 - z) * n + z * h
        gates[t] = np.stack((r, z, n), axis=1)
        b_n[t] = b[:, 2]
        output[t] = h
    return output, h.copy(), (gates, b_n)


def gru_grad(
    grad_output: np.ndarray,
    grad_h_n: np.ndarray,
    x: np.ndarray,
    h0: np.ndarray,
    weight_ih: np.ndarray,
    weight_hh: np.ndarray,
    output: np.ndarray,
    saved: tuple[np.ndarray, ...],
    *,
    reverse: bool = False,
    need_grad_x: bool = True,
) -> tuple[np.ndarray | None, ...]:
    """Gradients of `gru` for x (None without `need_grad_x`), h0, both weights, both biases."""
    gates, b_n = saved
    h_before = states_before(output, h0, reverse)
    grad_a = np.empty_like(gates)
    grad_b = np.empty_like(gates)
    grad_h = grad_h_n
    for t in scan(len(x), not reverse):
        r, z, n = np.moveaxis(gates[t], 1, 0)
        grad_h = grad_h + grad_output[t]
        grad_n = grad_h * (1 - z) * (1 - n**2)
        grad_r = grad_n * b_n[t] * r * (1 - r)
        grad_z = grad_h * (h_before[t] - n) * z * (1 - z)
        grad_a[t] = np.stack((grad_r, grad_z, grad_n), axis=1)
        grad_b[t] = np.stack((grad_r, grad_z, grad_n * r), axis=1)
        grad_h = grad_h * z + grad_b[t].reshape(len(grad_h), weight_hh.shape[0]) @ weight_hh
    grad_x = _input_grad(grad_a, weight_ih) if need_grad_x else None
    grad_weight_ih, grad_bias_ih = _weight_bias_grad(grad_a, x)
    grad_weight_hh, grad_bias_hh = _weight_bias_grad(grad_b, h_before)
    return grad_x, grad_h.copy(), grad_weight_ih, grad_weight_hh, grad_bias_ih, grad_bias_hh


def scan(steps: int, backwards: bool) -> Iterable[int]:
    """The steps in the order in which a recurrence visits them."""
    return reversed(range(steps)) if backwards else range(steps)


def states_before(states: np.ndarray, initial: np.ndarray, reverse: bool) -> np.ndarray:
    """The state that each step started from: `states` (T, N, H) moved on by one step."""
    if reverse:
        return np.concatenate((states, initial[None]))[1:]
    return np.concatenate((initial[None], states))[:-1]


def _project(x, weight, bias, gates):
    """weight x + bias as (N, gates, H)."""
    z = x @ weight.T if bias is None else x @ weight.T + bias
    return z.reshape(len(x), gates, len(weight) // gates)


def _input_grad(grad_z, weight):
    """Gradient of z = weight x + bias for x (T, N, I), from grad_z (T, N, gates, H)."""
    steps, batch, _, _ = grad_z.shape
    return grad_z.reshape(steps, batch, len(weight)) @ weight


def _weight_bias_grad(grad_z, x):
    """Gradients of z = weight x + bias for the weight and the bias, summed over T and N."""
    steps, batch, gates, hidden = grad_z.shape
    grad_z = grad_z.reshape(steps * batch, gates * hidden)
    return grad_z.T @ x.reshape(steps * batch, x.shape[2]), grad_z.sum(axis=0)
