"""Recurrent layers."""

from __future__ import annotations

import math

import numpy as np

from .. import functional as F
from ..device import array_module
from ..tensor import Tensor
from . import init
from .module import Module, Parameter

__all__ = ["GRU", "LSTM", "GRUCell", "LSTMCell"]


def _zeros_beside(input, *shape: int) -> Tensor:
    """On the input's device and in its dtype."""
    data = input.data if isinstance(input, Tensor) else input
    return Tensor(array_module(data).zeros(shape, data.dtype))


class _Layers(Module):
    """Parameters of all cells under PyTorch's names: weight_ih_l0, ..., bias_hh_l1_reverse."""

    gates: int

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
    ):
        super().__init__()
        self.input_size, self.hidden_size, self.num_layers = input_size, hidden_size, num_layers
        self.bias, self.batch_first, self.dropout = bias, batch_first, dropout
        self.bidirectional = bidirectional
        self._names: list[str] = []
        rows = self.gates * hidden_size
        for layer in range(num_layers):
            width = input_size if layer == 0 else hidden_size * (1 + bidirectional)
            for suffix in ("", "_reverse") if bidirectional else ("",):
                shapes = {"weight_ih": (rows, width), "weight_hh": (rows, hidden_size)}
                if bias:
                    shapes |= {"bias_ih": (rows,), "bias_hh": (rows,)}
                for name, shape in shapes.items():
                    self._names.append(f"{name}_l{layer}{suffix}")
                    setattr(self, self._names[-1], Parameter(np.empty(shape, np.float32)))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw new starting values: all uniform in ±1/√hidden_size."""
        bound = 1 / math.sqrt(max(self.hidden_size, 1))
        for parameter in self.parameters():
            init.uniform_(parameter, -bound, bound)

    def _zero_state(self, input):
        batch = input.shape[0 if self.batch_first else 1]
        cells = self.num_layers * (1 + self.bidirectional)
        return _zeros_beside(input, cells, batch, self.hidden_size)

    def _options(self) -> dict:
        return {
            "num_layers": self.num_layers, "bidirectional": self.bidirectional,
            "dropout": self.dropout, "training": self.training, "batch_first": self.batch_first,
        }  # fmt: skip

    def _params(self) -> list[Parameter]:
        return [getattr(self, name) for name in self._names]

    def extra_repr(self) -> str:
        return (
            f"{self.input_size}, {self.hidden_size}, num_layers={self.num_layers}, "
            f"bidirectional={self.bidirectional}"
        )


class LSTM(_Layers):
    """Long short-term memory over sequences; see `F.lstm` for shapes.

    Called with (input) or (input, (h0, c0)), returns (output, (h_n, c_n)); states start at 0.
    """

    gates = 4

    def forward(self, input, hx: tuple | None = None):
        if hx is None:
            hx = (self._zero_state(input), self._zero_state(input))
        output, h, c = F.lstm(input, hx, self._params(), **self._options())
        return output, (h, c)


class GRU(_Layers):
    """Gated recurrent units over sequences; see `F.gru` for shapes.

    Called with (input) or (input, h0), returns (output, h_n); the state starts at 0.
    """

    gates = 3

    def forward(self, input, hx=None):
        hx = self._zero_state(input) if hx is None else hx
        return F.gru(input, hx, self._params(), **self._options())


class _Cell(Module):
    """Parameters of one cell: weight_ih, weight_hh, bias_ih, bias_hh."""

    gates: int

    def __init__(self, input_size: int, hidden_size: int, bias: bool = True):
        super().__init__()
        self.input_size, self.hidden_size = input_size, hidden_size
        rows = self.gates * hidden_size
        self.weight_ih = Parameter(np.empty((rows, input_size), np.float32))
        self.weight_hh = Parameter(np.empty((rows, hidden_size), np.float32))
        for name in ("bias_ih", "bias_hh"):
            value = Parameter(np.empty(rows, np.float32)) if bias else None
            self.register_parameter(name, value)
        bound = 1 / math.sqrt(max(hidden_size, 1))
        for parameter in self.parameters():
            init.uniform_(parameter, -bound, bound)

    def _zero_state(self, input):
        return _zeros_beside(input, input.shape[0], self.hidden_size)

    def _params(self) -> tuple:
        return self.weight_ih, self.weight_hh, self.bias_ih, self.bias_hh


class LSTMCell(_Cell):
    """One step: (input (N, I), (h, c)) -> (h', c')."""

    gates = 4

    def forward(self, input, hx: tuple | None = None):
        hx = (self._zero_state(input), self._zero_state(input)) if hx is None else hx
        return F.lstm_cell(input, hx, *self._params())


class GRUCell(_Cell):
    """One step: (input (N, I), h) -> h'."""

    gates = 3

    def forward(self, input, hx=None):
        return F.gru_cell(input, self._zero_state(input) if hx is None else hx, *self._params())
