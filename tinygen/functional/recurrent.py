"""LSTM and GRU: whole sequences, layers and both directions as one primitive each."""

from __future__ import annotations

from collections.abc import Sequence

from ..autograd import Op
from ..device import array_module, kernels
from ..tensor import Tensor
from . import reduce as R
from .activation import dropout as drop
from .activation import sigmoid, tanh
from .checks import check_floats
from .index import getitem
from .linear import linear, matmul, weight_grad
from .shape import cat, chunk, stack, transpose, unsqueeze

__all__ = ["gru", "gru_cell", "lstm", "lstm_cell"]


class _Recurrent(Op):
    """Layers of a cell scanned over time, forwards and, if bidirectional, backwards.

    Inputs: x (T, N, I), the states (layers · directions, N, H) each, then the parameters of every
    (layer, direction) in that order. Outputs: (T, N, directions · H) and the last states.
    """

    n_states: int

    def __init__(self, directions: int):
        self.directions = directions

    def forward(self, x, *rest):
        xp = array_module(x)
        states, params = rest[: self.n_states], rest[self.n_states :]
        cells = len(states[0])
        self.n_params = len(params) // cells
        last = [xp.empty_like(s) for s in states]
        kept = []  # for each cell: its input, its output, and what its kernel saved
        layer = x
        for first in range(0, cells, self.directions):
            outputs = []
            for cell in range(first, first + self.directions):
                output, ends, saved = self._scan(
                    kernels("recurrent", x), layer, [s[cell] for s in states],
                    params[cell * self.n_params : (cell + 1) * self.n_params],
                    cell - first == 1,
                )  # fmt: skip
                for end, value in zip(last, ends, strict=True):
                    end[cell] = value
                kept += [layer, output, *saved]
                outputs.append(output)
            layer = outputs[0] if len(outputs) == 1 else xp.concatenate(outputs, -1)
        self.n_kept = len(kept) // cells
        self.save(x, *rest, *kept)
        return layer, *last

    def backward(self, grad, *grad_last):
        inputs = self.saved[: len(self.parents)]
        kept = self.saved[len(self.parents) :]
        xp = array_module(inputs[0])
        states, params = inputs[1 : 1 + self.n_states], inputs[1 + self.n_states :]
        cells, hidden = len(states[0]), states[0].shape[-1]
        steps, batch = inputs[0].shape[:2]
        if grad is None:
            grad = xp.zeros((steps, batch, self.directions * hidden), inputs[0].dtype)
        grad_last = [
            xp.zeros_like(s) if g is None else g for s, g in zip(states, grad_last, strict=True)
        ]
        grad_states = [xp.empty_like(s) for s in states]
        grad_params: list = [None] * len(params)
        for first in reversed(range(0, cells, self.directions)):
            grad_layer = None
            for d in range(self.directions):
                cell = first + d
                layer, output, *saved = kept[cell * self.n_kept : (cell + 1) * self.n_kept]
                own = slice(cell * self.n_params, (cell + 1) * self.n_params)
                grad_x, ends, found = self._scan_grad(
                    kernels("recurrent", layer),
                    grad[:, :, d * hidden : (d + 1) * hidden], [g[cell] for g in grad_last],
                    layer, [s[cell] for s in states], params[own], output, tuple(saved), d == 1,
                    first > 0 or self.needs_grad(0),
                )  # fmt: skip
                for target, value in zip(grad_states, ends, strict=True):
                    target[cell] = value
                grad_params[own] = found
                if grad_x is not None:
                    grad_layer = grad_x if grad_layer is None else grad_layer + grad_x
            grad = grad_layer
        return grad, *grad_states, *grad_params

    def composite(self, x, *rest):
        """The same from differentiable ops, a step at a time."""
        states, params = rest[: self.n_states], rest[self.n_states :]
        cells = states[0].shape[0]
        ends: list[list] = [[] for _ in states]
        layer = x
        for first in range(0, cells, self.directions):
            outputs = []
            for cell in range(first, first + self.directions):
                own = params[cell * self.n_params : (cell + 1) * self.n_params]
                state = [s[cell] for s in states]
                reverse = cell > first
                sequence = []
                for t in reversed(range(x.shape[0])) if reverse else range(x.shape[0]):
                    state = self._cell(layer[t], state, own)
                    sequence.append(state[0])
                outputs.append(stack(sequence[::-1] if reverse else sequence))
                for end, value in zip(ends, state, strict=True):
                    end.append(value)
            layer = outputs[0] if len(outputs) == 1 else cat(outputs, -1)
        return layer, *(stack(end) for end in ends)


class LSTM(_Recurrent):
    n_states = 2  # h, c

    def _scan(self, kernel, x, states, params, reverse):
        w_ih, w_hh, *biases = params
        bias = biases[0] + biases[1] if biases else None
        output, h, c, saved = kernel.lstm(x, *states, w_ih, w_hh, bias, reverse=reverse)
        return output, (h, c), saved

    def _scan_grad(self, kernel, grad, grad_last, x, states, params, output, saved, reverse, need):
        grad_x, grad_h, grad_c, *found = kernel.lstm_grad(
            grad, *grad_last, x, *states, *params[:2], output, saved,
            reverse=reverse, need_grad_x=need,
        )  # fmt: skip
        # The two biases only ever appear as a sum.
        grads = [*found[:2], found[2], found[2]] if len(params) == 4 else found[:2]
        return grad_x, (grad_h, grad_c), grads

    def _cell(self, x, state, params):
        h, c = state
        w_ih, w_hh, *biases = params
        b_ih, b_hh = biases or (None, None)
        i, f, g, o = chunk(linear(x, w_ih, b_ih) + linear(h, w_hh, b_hh), 4, -1)
        c = sigmoid(f) * c + sigmoid(i) * tanh(g)
        return [sigmoid(o) * tanh(c), c]


class LSTMCell(Op):
    """One step: x (N, I), h and c (N, H), parameters -> (h', c')."""

    def forward(self, x, h, c, weight_ih, weight_hh, *biases):
        bias = biases[0] + biases[1] if biases else None
        cell = kernels("recurrent", x).lstm_cell
        h_after, c_after, gates = cell(x, h, c, weight_ih, weight_hh, bias)
        self.save(x, h, c, weight_ih, weight_hh, c_after, gates)
        return h_after, c_after

    def backward(self, grad_h, grad_c):
        x, h, c, weight_ih, weight_hh, c_after, gates = self.saved
        zeros = array_module(x).zeros_like
        grad_h, grad_c = (zeros(c_after) if g is None else g for g in (grad_h, grad_c))
        back = kernels("recurrent", x).lstm_cell_grad
        grad_z, grad_c = back(grad_h, grad_c, gates, c, c_after)
        biases = range(5, len(self.parents))
        bias = R.sum(grad_z, 0) if any(self.needs_grad(i) for i in biases) else None
        return (
            matmul(grad_z, weight_ih) if self.needs_grad(0) else None,
            matmul(grad_z, weight_hh) if self.needs_grad(1) else None,
            grad_c,
            weight_grad(self, 3, grad_z, x),
            weight_grad(self, 4, grad_z, h),
            *(bias for _ in biases),
        )

    def composite(self, x, h, c, *params):
        return tuple(LSTM(1)._cell(x, (h, c), params))


class GRU(_Recurrent):
    n_states = 1  # h

    def _scan(self, kernel, x, states, params, reverse):
        output, h, saved = kernel.gru(x, *states, *params, reverse=reverse)
        return output, (h,), saved

    def _scan_grad(self, kernel, grad, grad_last, x, states, params, output, saved, reverse, need):
        grad_x, grad_h, *found = kernel.gru_grad(
            grad, *grad_last, x, *states, *params[:2], output, saved,
            reverse=reverse, need_grad_x=need,
        )  # fmt: skip
        return grad_x, (grad_h,), found[: len(params)]

    def _cell(self, x, state, params):
        (h,) = state
        w_ih, w_hh, *biases = params
        b_ih, b_hh = biases or (None, None)
        a_r, a_z, a_n = chunk(linear(x, w_ih, b_ih), 3, -1)
        b_r, b_z, b_n = chunk(linear(h, w_hh, b_hh), 3, -1)
        z = sigmoid(a_z + b_z)
        n = tanh(a_n + sigmoid(a_r + b_r) * b_n)
        return [(1 - z) * n + z * h]


def _check(name: str, gates: int, input, states, params, cells: int, directions: int) -> None:
    if len(params) not in (2 * cells, 4 * cells):
        raise ValueError(
            f"{name}: {len(params)} parameters for {cells} (layer, direction) cells: each needs "
            "weight_ih, weight_hh and, with biases, bias_ih, bias_hh"
        )
    check_floats(name, input=input)
    for kind, arrays in (("state", states), ("parameter", params)):
        for i, array in enumerate(arrays):
            if array.dtype != input.dtype:
                check_floats(name, input=input, **{f"{kind} {i}": array})
    hidden = params[1].shape[-1]
    per_cell = len(params) // cells
    batch = input.shape[1]
    for cell in range(cells):
        width = input.shape[2] if cell < directions else directions * hidden
        shapes = [(gates * hidden, width), (gates * hidden, hidden)] + [(gates * hidden,)] * 2
        for i, shape in zip(range(cell * per_cell, (cell + 1) * per_cell), shapes, strict=False):
            if tuple(params[i].shape) != shape:
                raise ValueError(
                    f"{name}: input {input.shape}, hidden size {hidden}: parameter {i} must have "
                    f"shape {shape}, got {tuple(params[i].shape)}"
                )
    for state in states:
        if tuple(state.shape) != (cells, batch, hidden):
            raise ValueError(
                f"{name}: a state has shape {tuple(state.shape)}, expected (layers · directions, "
                f"N, hidden) = {(cells, batch, hidden)}"
            )


def _run(op_type, name, gates, input, states, params, layers, bidirectional, dropout, training,
         batch_first):  # fmt: skip
    if input.ndim != 3:
        order = "(N, T, features)" if batch_first else "(T, N, features)"
        raise ValueError(f"{name}: input {input.shape} must be {order}")
    directions = 2 if bidirectional else 1
    if batch_first:
        input = transpose(input, 0, 1)
    if not input.shape[0]:
        raise ValueError(f"{name}: input {input.shape}, (T, N, features), has no time steps")
    _check(name, gates, input, states, params, layers * directions, directions)
    if dropout and training and layers > 1:
        # Between layers something is drawn: then every layer is a primitive of its own.
        per_layer = len(params) // layers
        ends = []
        for layer in range(layers):
            own = slice(layer * directions, (layer + 1) * directions)
            input, *end = op_type(directions)(
                input if layer == 0 else drop(input, dropout),
                *(getitem(s, own) for s in states),
                *params[layer * per_layer : (layer + 1) * per_layer],
            )
            ends.append(end)
        output, last = input, [cat(parts) for parts in zip(*ends, strict=True)]
    else:
        output, *last = op_type(directions)(input, *states, *params)
    return (transpose(output, 0, 1) if batch_first else output), *last


def lstm(
    input,
    hx: tuple,
    params: Sequence[Tensor],
    *,
    num_layers: int = 1,
    bidirectional: bool = False,
    dropout: float = 0.0,
    training: bool = True,
    batch_first: bool = False,
):
    """Scan long short-term memory cells over sequences (Hochreiter & Schmidhuber 1997).

    i, f, g, o = σ, σ, tanh, σ of (W_ih x + b_ih + W_hh h + b_hh); c' = f c + i g; h' = o tanh(c')

    input (T, N, I), or (N, T, I) with `batch_first`; hx = (h0, c0), each
    (num_layers · directions, N, H); params: weight_ih (4H, I), weight_hh (4H, H) and, unless
    without biases, bias_ih, bias_hh (4H,) for every layer and direction in turn. `dropout` acts on
    the outputs of all layers but the last. Returns (output (T, N, directions · H), h_n, c_n).
    """
    return _run(
        LSTM, "lstm", 4, input, hx, params, num_layers, bidirectional, dropout, training,
        batch_first,
    )  # fmt: skip


def gru(
    input,
    h0,
    params: Sequence[Tensor],
    *,
    num_layers: int = 1,
    bidirectional: bool = False,
    dropout: float = 0.0,
    training: bool = True,
    batch_first: bool = False,
):
    """Scan gated recurrent units over sequences (Cho et al. 2014, in PyTorch's form).

    r, z = σ(a_r + b_r), σ(a_z + b_z);  n = tanh(a_n + r b_n);  h' = (1 - z) n + z h
    with a = W_ih x + b_ih and b = W_hh h + b_hh.

    Shapes as for `lstm`, with three gates instead of four; returns (output, h_n).
    """
    return _run(
        GRU, "gru", 3, input, (h0,), params, num_layers, bidirectional, dropout, training,
        batch_first,
    )  # fmt: skip


def lstm_cell(input, hx: tuple, weight_ih, weight_hh, bias_ih=None, bias_hh=None):
    """One step of `lstm`: input (N, I), hx = (h, c) (N, H) each -> (h', c')."""
    params = [p for p in (weight_ih, weight_hh, bias_ih, bias_hh) if p is not None]
    if input.ndim != 2:
        raise ValueError(f"lstm_cell: input {input.shape} must be (N, features)")
    x, *states = ((a.data if isinstance(a, Tensor) else a)[None] for a in (input, *hx))
    _check("lstm_cell", 4, x, states, params, 1, 1)
    return LSTMCell()(input, *hx, *params)


def gru_cell(input, hx, weight_ih, weight_hh, bias_ih=None, bias_hh=None):
    """One step of `gru`: input (N, I), hx (N, H) -> h'."""
    params = [p for p in (weight_ih, weight_hh, bias_ih, bias_hh) if p is not None]
    _, h = gru(unsqueeze(input, 0), unsqueeze(hx, 0), params)
    return getitem(h, 0)
